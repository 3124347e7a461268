//! `narthex tool`: checks files, asks servers, pushes metrics and reads data folders, as promtool does; by the same names
//! of commands and flags, with the same output and exit codes. Rules come with rules.

mod analyze;
mod ask;
mod blocks;
mod check;
mod families;
mod metrics;
mod push;
mod query;
mod tsdb;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use narthex_model::{MatchType, Matcher};
use narthex_promql::ParserOptions;
use narthex_promql::ast::{Expr, VectorSelector};

/// How promtool ends when only style is bad.
const LINT_FAILED: u8 = 3;

/// Nothing, or what to print to the error output.
type Outcome = Result<(), String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Promql,
    Json,
}

fn option(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    option(name, help).action(ArgAction::SetTrue)
}

fn many(name: &'static str, help: &'static str) -> Arg {
    option(name, help).action(ArgAction::Append)
}

fn client() -> Arg {
    option("http.config.file", "HTTP client configuration file, as promtool takes it")
}

fn files() -> Arg {
    Arg::new("files").required(true).action(ArgAction::Append)
}

fn check_command() -> Command {
    let url = || option("url", "URL of the server").default_value("http://localhost:9090");
    let lookback = || option("query.lookback-delta", "The server's lookback").default_value("5m");
    let config = Command::new("config")
        .about("Checks configuration files")
        .arg(switch("syntax-only", "Only check the syntax, not the files that are named in it"))
        .arg(switch("expand-env", "Follow references to environment variables, %{NAME}, and to files, %{file:PATH}"))
        .arg(
            option("lint", "Checks of style: all, duplicate-rules, none, too-long-scrape-interval")
                .default_value("duplicate-rules"),
        )
        .arg(switch("lint-fatal", "Exit with 3 when the style is bad"))
        .arg(switch("ignore-unknown-fields", "For rule files, which are not read yet").hide(true))
        .arg(lookback())
        .arg(files());
    let discovery = Command::new("service-discovery")
        .about("Lists what a job's discovery finds, before and after relabelling")
        .arg(option("timeout", "How long to wait for what is found").default_value("30s"))
        .arg(lookback())
        .arg(Arg::new("config-file").required(true).help("Configuration file"))
        .arg(Arg::new("job").required(true).help("Name of the job"));
    let metrics = Command::new("metrics")
        .about("Checks a page of metrics, read from standard input, for bad style")
        .arg(switch("extended", "Print how many series each metric has"))
        .arg(option("lint", "Checks of style: all, none").default_value("all").value_parser(["all", "none"]));
    Command::new("check")
        .about("Checks files and servers")
        .subcommand_required(true)
        .subcommand(config)
        .subcommand(discovery)
        .subcommand(metrics)
        .subcommand(Command::new("web-config").about("Checks files for --web.config.file").arg(files()))
        .subcommand(Command::new("healthy").about("Whether a server is healthy").arg(client()).arg(url()))
        .subcommand(Command::new("ready").about("Whether a server is ready").arg(client()).arg(url()))
}

fn query_command() -> Command {
    let server = || Arg::new("server").required(true).help("URL of a server, such as http://localhost:9090");
    let expr = || Arg::new("expr").required(true).help("PromQL expression");
    let format = || {
        let format = option("format", "How the result is printed").short('o');
        format.default_value("promql").value_parser(["promql", "json"])
    };
    let header = || many("header", "Extra header, name=value; can be repeated");
    let matches = || many("match", "Series selector; can be repeated");
    let start = || option("start", "Start time (RFC 3339 or Unix)");
    let end = || option("end", "End time (RFC 3339 or Unix)");
    let sub = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(format()).arg(client());
    Command::new("query")
        .about("Runs queries against a server")
        .subcommand_required(true)
        .subcommand(
            sub("instant", "Evaluates an expression at one time")
                .arg(header())
                .arg(option("time", "Evaluation time (RFC 3339 or Unix); now by default"))
                .arg(server())
                .arg(expr()),
        )
        .subcommand(
            sub("range", "Evaluates an expression over time")
                .arg(header())
                .arg(start().help("Start time (RFC 3339 or Unix); five minutes before the end by default"))
                .arg(end().help("End time (RFC 3339 or Unix); now by default"))
                .arg(option("step", "Step (a duration); the range by 250 by default"))
                .arg(server())
                .arg(expr()),
        )
        .subcommand(sub("series", "Lists series").arg(matches().required(true)).arg(start()).arg(end()).arg(server()))
        .subcommand(
            sub("labels", "Lists the values of a label")
                .arg(matches())
                .arg(start())
                .arg(end())
                .arg(server())
                .arg(Arg::new("name").required(true).help("Name of the label")),
        )
        .subcommand(
            Command::new("analyze")
                .about("How many buckets of histograms are populated")
                .arg(client())
                .arg(option("server", "URL of a server, such as http://localhost:9090").required(true))
                .arg(option("type", "Type of metric: histogram").required(true))
                .arg(option("duration", "Time frame to analyze").default_value("1h"))
                .arg(option("time", "Query time (RFC 3339 or Unix); now by default"))
                .arg(matches().required(true)),
        )
}

fn push_command() -> Command {
    let metrics = Command::new("metrics")
        .about("Pushes pages of metrics by remote write, for tests")
        .arg(client())
        .arg(many("label", "Label that all get, name=value; can be repeated").default_value("job=promtool"))
        .arg(option("timeout", "How long to wait").default_value("30s"))
        .arg(many("header", "Extra header, name=value; can be repeated"))
        .arg(
            option("protobuf_message", "prometheus.WriteRequest or io.prometheus.write.v2.Request")
                .default_value(narthex_server::write::V1),
        )
        .arg(option("remote-write.path", "Path of remote write").default_value("/api/v1/write"))
        .arg(Arg::new("url").required(true).help("URL of a server, such as http://localhost:9090"))
        .arg(Arg::new("files").action(ArgAction::Append).help("Files; standard input where there is none"));
    Command::new("push").about("Pushes to a server").subcommand_required(true).subcommand(metrics)
}

pub fn command() -> Command {
    let query = || Arg::new("query").required(true).help("PromQL expression");
    let name = || Arg::new("name").required(true).help("Name of the label");
    let set = Command::new("set")
        .about("Sets a matcher in all selectors")
        .arg(
            option("type", "=, !=, =~ or !~")
                .short('t')
                .default_value("=")
                .value_parser(["=", "!=", "=~", "!~"])
                .allow_hyphen_values(true),
        )
        .arg(query())
        .arg(name())
        .arg(Arg::new("value").required(true).help("Value of the label"));
    let delete =
        Command::new("delete").about("Deletes the matchers of a label in all selectors").arg(query()).arg(name());
    let promql = Command::new("promql")
        .about("Works on expressions")
        .subcommand_required(true)
        .subcommand(Command::new("format").about("Formats an expression, for people to read").arg(query()))
        .subcommand(
            Command::new("label-matchers")
                .about("Edits the matchers of selectors")
                .subcommand_required(true)
                .subcommand(set)
                .subcommand(delete),
        );
    Command::new("tool")
        .about("Checks files, asks servers, pushes metrics and reads Prometheus's data, as promtool does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(switch("experimental", "Taken for compatibility: nothing here needs it").global(true).hide(true))
        .arg(many("enable-feature", "Comma separated features of PromQL to enable").global(true))
        .subcommand(check_command())
        .subcommand(query_command())
        .subcommand(push_command())
        .subcommand(tsdb::command())
        .subcommand(promql)
}

fn text<'a>(m: &'a ArgMatches, name: &str) -> Option<&'a str> {
    m.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

fn texts<'a>(m: &'a ArgMatches, name: &str) -> Vec<&'a str> {
    m.try_get_many::<String>(name).ok().flatten().into_iter().flatten().map(String::as_str).collect()
}

pub fn run(matches: &ArgMatches) -> ExitCode {
    let done = match path(matches).as_slice() {
        [("check", _), ("config", m)] => return check::config(m),
        [("check", _), ("web-config", m)] => return check::web_config(m),
        [("check", _), ("metrics", m)] => return metrics::check(m),
        [("check", _), ("service-discovery", m)] => check::service_discovery(m),
        [("check", _), (probe, m)] => check::probe(probe, m),
        [("query", _), ("analyze", m)] => analyze::run(m),
        [("query", _), (kind, m)] => query::run(kind, m),
        [("push", _), (_, m)] => return push::run(m),
        [("tsdb", _), rest @ ..] => return tsdb::run(rest),
        [("promql", _), .., (what, m)] => promql(what, m),
        _ => return ExitCode::FAILURE,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// The subcommands with what was given to them.
fn path(matches: &ArgMatches) -> Vec<(&str, &ArgMatches)> {
    let mut path = Vec::new();
    let mut next = matches.subcommand();
    while let Some((name, m)) = next {
        path.push((name, m));
        next = m.subcommand();
    }
    path
}

/// Formats an expression, or edits its selectors first.
fn promql(what: &str, m: &ArgMatches) -> Outcome {
    let mut options = ParserOptions::default();
    for feature in texts(m, "enable-feature").iter().flat_map(|f| f.split(',')) {
        match feature {
            "promql-experimental-functions" => options.experimental_functions = true,
            "promql-extended-range-selectors" => options.extended_range_selectors = true,
            "promql-binop-fill-modifiers" => options.fill_modifiers = true,
            "" | "promql-delayed-name-removal" | "promql-duration-expr" => {}
            other => print!("  WARNING: Unknown feature passed to --enable-feature: {other}"),
        }
    }
    let query = text(m, "query").unwrap_or_default();
    let mut expr = narthex_promql::parse(query, &options).map_err(|e| e.to_string())?;
    let name = text(m, "name").unwrap_or_default();
    match what {
        "set" => {
            let kind = match text(m, "type") {
                Some("!=") => MatchType::NotEqual,
                Some("=~") => MatchType::Regexp,
                Some("!~") => MatchType::NotRegexp,
                _ => MatchType::Equal,
            };
            let matcher = Matcher::new(kind, name, text(m, "value").unwrap_or_default());
            let matcher = matcher.map_err(|e| e.to_string())?;
            each_selector(&mut expr, &mut |selector| set_matcher(selector, &matcher));
        }
        "delete" => each_selector(&mut expr, &mut |selector| {
            selector.exact_values.clear();
            selector.matchers.retain(|matcher| *matcher.name != *name);
        }),
        _ => {}
    }
    println!("{}", narthex_promql::printer::pretty(&expr));
    Ok(())
}

/// Calls `f` for every selector. Expressions are no deeper than the parser allows.
fn each_selector(expr: &mut Expr, f: &mut impl FnMut(&mut VectorSelector)) {
    match expr {
        Expr::Vector(v) => f(v),
        Expr::Matrix(m) => f(&mut m.selector),
        other => other.for_each_child_mut(|child| each_selector(child, f)),
    }
}

/// Replaces the matchers of the same label, or adds one.
fn set_matcher(selector: &mut VectorSelector, matcher: &Matcher) {
    selector.exact_values.clear();
    let mut found = false;
    for own in selector.matchers.iter_mut().filter(|own| own.name == matcher.name) {
        *own = matcher.clone();
        found = true;
    }
    if !found {
        selector.matchers.push(matcher.clone());
    }
}
