//! `narthex tool`: checks files and asks servers, as promtool does.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http_body_util::BodyExt;

pub fn command() -> Command {
    let server = || Arg::new("server").required(true).help("URL of a server, such as http://localhost:9090");
    let expr = || Arg::new("expr").required(true).help("PromQL expression");
    let option = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Command::new("tool")
        .about("Checks files and asks servers")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("check").about("Checks files").subcommand_required(true).subcommand(
                Command::new("config")
                    .about("Checks configuration files")
                    .arg(Arg::new("files").required(true).action(ArgAction::Append)),
            ),
        )
        .subcommand(
            Command::new("query")
                .about("Runs queries against a server")
                .subcommand_required(true)
                .subcommand(
                    Command::new("instant")
                        .about("Evaluates an expression at one time")
                        .arg(server())
                        .arg(expr())
                        .arg(option("time", "Evaluation time (RFC 3339 or Unix); now by default")),
                )
                .subcommand(
                    Command::new("range")
                        .about("Evaluates an expression over time")
                        .arg(server())
                        .arg(expr())
                        .arg(option("start", "Start time (RFC 3339 or Unix); an hour before the end by default"))
                        .arg(option("end", "End time (RFC 3339 or Unix); now by default"))
                        .arg(option("step", "Step (a duration); the range by 250 by default")),
                ),
        )
}

pub fn run(matches: &ArgMatches) -> ExitCode {
    let done = match matches.subcommand() {
        Some(("check", m)) => match m.subcommand() {
            Some(("config", m)) => {
                let files: Vec<&String> = m.get_many("files").map(Iterator::collect).unwrap_or_default();
                return check_config(&files);
            }
            _ => return ExitCode::FAILURE,
        },
        Some(("query", m)) => match m.subcommand() {
            Some((kind, m)) => query(kind, m),
            None => return ExitCode::FAILURE,
        },
        _ => return ExitCode::FAILURE,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("narthex tool: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_config(files: &[&String]) -> ExitCode {
    let mut failed = false;
    for file in files {
        println!("Checking {file}");
        match narthex_config::Config::load_file(Path::new(file)).and_then(|c| c.jobs()) {
            Ok(jobs) => println!("  SUCCESS: {file} is valid, with {} scrape jobs\n", jobs.len()),
            Err(e) => {
                println!("  FAILED: {}\n", crate::start::with_sources(&e));
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn query(kind: &str, m: &ArgMatches) -> anyhow::Result<()> {
    use narthex_server::params::{Time, parse_time};
    let text = |name: &str| m.try_get_one::<String>(name).ok().flatten().map(String::as_str);
    let time = |name: &str| text(name).map(parse_time).transpose().map_err(|e| anyhow::anyhow!("--{name}: {e}"));
    let server = text("server").unwrap_or_default().trim_end_matches('/');
    let seconds = |t: Time| format!("{}.{:03}", t.secs, t.nanos / 1_000_000);
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("query", text("expr").unwrap_or_default());
    let path = if kind == "instant" {
        if let Some(time) = time("time")? {
            form.append_pair("time", &seconds(time));
        }
        "query"
    } else {
        let end = time("end")?.unwrap_or_else(Time::now);
        let start = time("start")?.unwrap_or(Time { secs: end.secs - 3600, ..end });
        let step = match text("step") {
            Some(step) => step.to_owned(),
            None => format!("{}", (end.since(start) as f64 / 1e9 / 250.0).ceil().max(1.0)),
        };
        form.append_pair("start", &seconds(start)).append_pair("end", &seconds(end)).append_pair("step", &step);
        "query_range"
    };
    let uri: http::Uri = format!("{server}/api/v1/{path}?{}", form.finish()).parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(get(uri))?;
    let answer: serde_json::Value = serde_json::from_slice(&body)?;
    if answer["status"] != "success" {
        anyhow::bail!(
            "{}: {}",
            answer["errorType"].as_str().unwrap_or("error"),
            answer["error"].as_str().unwrap_or("")
        );
    }
    for note in ["warnings", "infos"] {
        for text in answer[note].as_array().into_iter().flatten() {
            eprintln!("{}: {}", note.trim_end_matches('s'), text.as_str().unwrap_or_default());
        }
    }
    print_result(&answer["data"]);
    Ok(())
}

async fn get(uri: http::Uri) -> anyhow::Result<bytes::Bytes> {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let response = client.get(uri).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

fn print_result(data: &serde_json::Value) {
    let name = |metric: &serde_json::Value| {
        let labels = metric.as_object().into_iter().flatten();
        let labels =
            narthex_model::Labels::from_pairs(labels.map(|(n, v)| (n.clone(), v.as_str().unwrap_or_default())));
        let rest = labels.drop_metric_name();
        if rest.is_empty() { labels.metric_name().to_owned() } else { format!("{}{rest}", labels.metric_name()) }
    };
    let point = |p: &serde_json::Value| match &p[1] {
        serde_json::Value::String(v) => format!("{v} @[{}]", p[0]),
        other => format!("{other} @[{}]", p[0]),
    };
    match data["resultType"].as_str() {
        Some("vector") => {
            for s in data["result"].as_array().into_iter().flatten() {
                let value = if s["value"].is_null() { &s["histogram"] } else { &s["value"] };
                println!("{} => {}", name(&s["metric"]), point(value));
            }
        }
        Some("matrix") => {
            for s in data["result"].as_array().into_iter().flatten() {
                println!("{} =>", name(&s["metric"]));
                for list in ["values", "histograms"] {
                    s[list].as_array().into_iter().flatten().for_each(|p| println!("{}", point(p)));
                }
            }
        }
        _ => println!("{}", point(&data["result"])),
    }
}
