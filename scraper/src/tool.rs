//! `narthex tool`: checks files and asks servers, as promtool does.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http_body_util::BodyExt;

pub fn command() -> Command {
    let server = || Arg::new("server").required(true).help("URL of a server, such as http://localhost:9090");
    let expr = || Arg::new("expr").required(true).help("PromQL expression");
    let option = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let url = || option("url", "URL of the server").default_value("http://localhost:9090");
    let matches = || option("match", "Series selector; can be repeated").action(ArgAction::Append);
    let start = || option("start", "Start time (RFC 3339 or Unix)");
    let end = || option("end", "End time (RFC 3339 or Unix)");
    Command::new("tool")
        .about("Checks files and asks servers")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("check")
                .about("Checks files and servers")
                .subcommand_required(true)
                .subcommand(
                    Command::new("config")
                        .about("Checks configuration files")
                        .arg(Arg::new("files").required(true).action(ArgAction::Append)),
                )
                .subcommand(
                    Command::new("web-config")
                        .about("Checks files for --web.config.file")
                        .arg(Arg::new("files").required(true).action(ArgAction::Append)),
                )
                .subcommand(Command::new("healthy").about("Whether a server is healthy").arg(url()))
                .subcommand(Command::new("ready").about("Whether a server is ready").arg(url())),
        )
        .subcommand(
            Command::new("promql")
                .about("Works on expressions")
                .subcommand_required(true)
                .subcommand(Command::new("format").about("Formats an expression, for people to read").arg(expr())),
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
                )
                .subcommand(
                    Command::new("series")
                        .about("Lists series")
                        .arg(server())
                        .arg(matches().required(true))
                        .arg(start())
                        .arg(end()),
                )
                .subcommand(
                    Command::new("labels")
                        .about("Lists the values of a label")
                        .arg(server())
                        .arg(Arg::new("name").required(true).help("Name of the label"))
                        .arg(matches())
                        .arg(start())
                        .arg(end()),
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
            Some(("web-config", m)) => {
                let files: Vec<&String> = m.get_many("files").map(Iterator::collect).unwrap_or_default();
                return check_web_config(&files);
            }
            Some((probe @ ("healthy" | "ready"), m)) => check_server(probe, m),
            _ => return ExitCode::FAILURE,
        },
        Some(("promql", m)) => match m.subcommand() {
            Some(("format", m)) => format(m),
            _ => return ExitCode::FAILURE,
        },
        Some(("query", m)) => match m.subcommand() {
            Some((kind @ ("series" | "labels"), m)) => list(kind, m),
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

fn check_web_config(files: &[&String]) -> ExitCode {
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut failed = false;
    for file in files {
        match narthex_server::web_config::WebConfig::validate(Path::new(file)) {
            Ok(()) => eprintln!("{file} SUCCESS"),
            Err(e) => {
                eprintln!("{file} FAILED: {e}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn text<'a>(m: &'a ArgMatches, name: &str) -> Option<&'a str> {
    m.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

fn check_server(probe: &str, m: &ArgMatches) -> anyhow::Result<()> {
    let url = text(m, "url").unwrap_or_default().trim_end_matches('/');
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(get(format!("{url}/-/{probe}").parse()?))?;
    if status != 200 {
        anyhow::bail!("check failed: URL={url}/-/{probe}, status={status}");
    }
    println!("  SUCCESS: {}", String::from_utf8_lossy(&body).trim_end());
    Ok(())
}

fn format(m: &ArgMatches) -> anyhow::Result<()> {
    let expr = narthex_promql::parse(text(m, "expr").unwrap_or_default(), &narthex_promql::ParserOptions::default());
    println!("{}", narthex_promql::printer::pretty(&expr.map_err(|e| anyhow::anyhow!("{e}"))?));
    Ok(())
}

/// Series, or the values of a label, one a line.
fn list(kind: &str, m: &ArgMatches) -> anyhow::Result<()> {
    let server = text(m, "server").unwrap_or_default().trim_end_matches('/');
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for selector in m.get_many::<String>("match").into_iter().flatten() {
        form.append_pair("match[]", selector);
    }
    for name in ["start", "end"] {
        if let Some(time) = text(m, name) {
            form.append_pair(name, time);
        }
    }
    let path = match kind {
        "series" => "series".to_owned(),
        _ => format!("label/{}/values", text(m, "name").unwrap_or_default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (_, body) = runtime.block_on(get(format!("{server}/api/v1/{path}?{}", form.finish()).parse()?))?;
    let answer = success(&body)?;
    for entry in answer["data"].as_array().into_iter().flatten() {
        match entry {
            serde_json::Value::String(value) => println!("{value}"),
            labels => println!("{}", series_name(labels)),
        }
    }
    Ok(())
}

/// The answer of an API call; its warnings go to the error output.
fn success(body: &[u8]) -> anyhow::Result<serde_json::Value> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    if answer["status"] != "success" {
        let part = |name: &str| answer[name].as_str().unwrap_or("error").to_owned();
        anyhow::bail!("{}: {}", part("errorType"), part("error"));
    }
    for note in ["warnings", "infos"] {
        for text in answer[note].as_array().into_iter().flatten() {
            eprintln!("{}: {}", note.trim_end_matches('s'), text.as_str().unwrap_or_default());
        }
    }
    Ok(answer)
}

fn series_name(metric: &serde_json::Value) -> String {
    let labels = metric.as_object().into_iter().flatten();
    let labels = narthex_model::Labels::from_pairs(labels.map(|(n, v)| (n.clone(), v.as_str().unwrap_or_default())));
    let rest = labels.drop_metric_name();
    if rest.is_empty() { labels.metric_name().to_owned() } else { format!("{}{rest}", labels.metric_name()) }
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
    let (_, body) = runtime.block_on(get(uri))?;
    let answer = success(&body)?;
    print_result(&answer["data"]);
    Ok(())
}

/// Status and body of a GET.
async fn get(uri: http::Uri) -> anyhow::Result<(u16, bytes::Bytes)> {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let response = client.get(uri).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

fn print_result(data: &serde_json::Value) {
    let point = |p: &serde_json::Value| match &p[1] {
        serde_json::Value::String(v) => format!("{v} @[{}]", p[0]),
        other => format!("{other} @[{}]", p[0]),
    };
    match data["resultType"].as_str() {
        Some("vector") => {
            for s in data["result"].as_array().into_iter().flatten() {
                let value = if s["value"].is_null() { &s["histogram"] } else { &s["value"] };
                println!("{} => {}", series_name(&s["metric"]), point(value));
            }
        }
        Some("matrix") => {
            for s in data["result"].as_array().into_iter().flatten() {
                println!("{} =>", series_name(&s["metric"]));
                for list in ["values", "histograms"] {
                    s[list].as_array().into_iter().flatten().for_each(|p| println!("{}", point(p)));
                }
            }
        }
        _ => println!("{}", point(&data["result"])),
    }
}
