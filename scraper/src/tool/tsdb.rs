//! `tool tsdb`: what lies in Prometheus's data folders, and how it gets into a running server.
//!
//! Commands and flags are promtool's. What promtool does to a folder's blocks is done online here: samples go to the
//! admin API of a running server, which takes them whatever their age. `import` has no counterpart.

mod analyze;
mod dump;
mod head;
mod import;
mod online;
mod openmetrics;
mod send;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use narthex_config::ByteSize;
use narthex_model::Matcher;

use super::ask::Server;
use super::blocks::{Block, DataFolder};
use super::{client, many, option, switch, text, texts};

/// Nothing, or what to print to the error output.
type Outcome = anyhow::Result<()>;

fn folder() -> Arg {
    Arg::new("db-path").default_value("data/").help("Prometheus's data folder")
}

fn url(help: &'static str) -> Arg {
    option("url", help).value_name("URL")
}

/// Where samples are sent to.
fn receiver(command: Command) -> Command {
    command
        .arg(
            url("The server that takes the samples; it has to run with --web.enable-admin-api")
                .default_value("http://localhost:9090"),
        )
        .arg(client())
        .arg(many("header", "Extra header, name=value; can be repeated"))
}

fn range(command: Command) -> Command {
    let time = |name, help| option(name, help).allow_hyphen_values(true);
    command
        .arg(time("min-time", "Nothing earlier, in milliseconds since 1970 or RFC 3339"))
        .arg(time("max-time", "Nothing later, in milliseconds since 1970 or RFC 3339"))
        .arg(many("match", "Series selector; can be repeated"))
}

fn dumping(name: &'static str, about: &'static str) -> Command {
    range(Command::new(name).about(about))
        .arg(url("Dumps what a running server has, by remote read, instead of a folder"))
        .arg(client())
        .arg(many("header", "Extra header, name=value; can be repeated"))
        .arg(option("sandbox-dir-root", "Taken for compatibility: nothing is written here").hide(true))
        .arg(folder())
}

pub fn command() -> Command {
    let import = receiver(range(Command::new("import").about("Sends what a Prometheus has to a running server")))
        .long_about(
            "Sends the blocks and the write-ahead log of a Prometheus to a running server, so that a switch keeps history.\n\n\
             The server needs --web.enable-admin-api. It takes samples of any age that its retention allows, beside what it \
             scrapes. Samples that it has are not stored again: an import that was cut short is begun anew, or from \
             where it was with --min-time. Of a Prometheus that still runs, what it got in the last minute may be missing; its \
             snapshot API (POST /api/v1/admin/tsdb/snapshot) makes a folder that does not change.",
        )
        .arg(switch("quiet", "Say nothing of what was done, only of errors").short('q'))
        .arg(switch("no-wal", "Leave out the write-ahead log: what is newer than the last block"))
        .arg(folder());
    let openmetrics = receiver(Command::new("openmetrics"))
        .about("Sends the samples of an OpenMetrics file to a running server")
        .arg(many("label", "Label that all get, name=value; can be repeated"))
        .arg(Arg::new("file").required(true).help("OpenMetrics file; every sample has a timestamp"))
        .arg(Arg::new("output").hide(true));
    let create = Command::new("create-blocks-from")
        .about("Backfills")
        .subcommand_required(true)
        .arg(switch("human-readable", "Taken for compatibility").short('r').hide(true).global(true))
        .arg(switch("quiet", "Say nothing of what was done, only of errors").short('q').global(true))
        .arg(option("max-block-duration", "Taken for compatibility").hide(true).global(true))
        .subcommand(openmetrics);
    let dump = dumping("dump", "Prints the samples of a data folder, or of a running server")
        .arg(option("format", "prom or seriesjson").default_value("prom").value_parser(["prom", "seriesjson"]));
    let list = Command::new("list")
        .about("Lists the blocks of a data folder")
        .arg(switch("human-readable", "Times and sizes as people read them").short('r'))
        .arg(folder());
    let analyze = Command::new("analyze")
        .about("Which labels make most series, of a block or a running server")
        .arg(option("limit", "How long lists are").default_value("20").value_parser(clap::value_parser!(usize)))
        .arg(switch("extended", "Look at the chunks, too"))
        .arg(option("match", "Series selector"))
        .arg(url("Analyzes what a running server has in memory, by its API, instead of a folder"))
        .arg(client())
        .arg(folder())
        .arg(Arg::new("block").help("Block; the last by default"));
    Command::new("tsdb")
        .about("Reads Prometheus's data folders, and sends them to a running server")
        .subcommand_required(true)
        .subcommand(import)
        .subcommand(create)
        .subcommand(dump)
        .subcommand(dumping("dump-openmetrics", "Prints float samples as OpenMetrics text"))
        .subcommand(list)
        .subcommand(analyze)
}

/// Runs one of the subcommands; `path` are their names with what was given to them.
pub fn run(path: &[(&str, &ArgMatches)]) -> ExitCode {
    let done = match path {
        [("import", m)] => import::run(m),
        [("create-blocks-from", _), (_, m)] => openmetrics::run(m),
        [("dump", m)] if text(m, "format") == Some("seriesjson") => dump::run(m, dump::Form::Json),
        [("dump", m)] => dump::run(m, dump::Form::Prom),
        [("dump-openmetrics", m)] => dump::run(m, dump::Form::OpenMetrics),
        [("list", m)] => list(m),
        [("analyze", m)] => analyze::run(m),
        _ => return ExitCode::FAILURE,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn data_folder(m: &ArgMatches) -> anyhow::Result<DataFolder> {
    DataFolder::open(Path::new(text(m, "db-path").unwrap_or("data/")))
}

fn server(m: &ArgMatches) -> anyhow::Result<Server> {
    let url = text(m, "url").unwrap_or_default();
    // A batch waits for the ones before it, and for the disk.
    Server::new(url, text(m, "http.config.file"), &texts(m, "header"), Duration::from_secs(600))
}

/// The range that was asked for.
fn times(m: &ArgMatches) -> anyhow::Result<(i64, i64)> {
    let time = |name: &str| -> anyhow::Result<Option<i64>> {
        let Some(text) = text(m, name) else { return Ok(None) };
        if let Ok(ms) = text.parse::<i64>() {
            return Ok(Some(ms));
        }
        let time = narthex_server::params::parse_time(text);
        Ok(Some(time.map_err(|e| anyhow::anyhow!("--{name}: {e}"))?.ms()))
    };
    Ok((time("min-time")?.unwrap_or(i64::MIN), time("max-time")?.unwrap_or(i64::MAX)))
}

/// The selectors that were given; one that selects everything where there are none.
fn selectors(m: &ArgMatches) -> anyhow::Result<Vec<Vec<Matcher>>> {
    let given = texts(m, "match");
    if given.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    given.into_iter().map(|text| narthex_promql::parse_selector(text).map_err(|e| anyhow::anyhow!("{e}"))).collect()
}

fn list(m: &ArgMatches) -> Outcome {
    let readable = m.get_flag("human-readable");
    let mut rows = vec![
        ["BLOCK ULID", "MIN TIME", "MAX TIME", "DURATION", "NUM SAMPLES", "NUM CHUNKS", "NUM SERIES", "SIZE"]
            .map(str::to_owned),
    ];
    for (folder, meta) in data_folder(m)?.blocks {
        let time = |ms: i64| if readable { go_time(ms) } else { ms.to_string() };
        let size = Block::size(&folder);
        rows.push([
            meta.ulid.clone(),
            time(meta.min_time),
            time(meta.max_time),
            narthex_model::duration::format_go(meta.max_time.saturating_sub(meta.min_time)),
            meta.samples.to_string(),
            meta.chunks.to_string(),
            meta.series.to_string(),
            if readable { ByteSize(size as i64).to_string() } else { size.to_string() },
        ]);
    }
    // Columns as Go's tabwriter makes them: 13 wide at least, two blanks between, the last as it is.
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = (0..8).map(|c| width(c).max(13)).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).take(7).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}{}", cells.concat(), row[7]);
    }
    Ok(())
}

/// A time as Go prints it, to the second.
fn go_time(ms: i64) -> String {
    let time = jiff::Timestamp::from_second(ms.div_euclid(1000)).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// The block that was asked for.
fn block(folder: &DataFolder, name: Option<&str>) -> anyhow::Result<(PathBuf, super::blocks::Meta)> {
    let found = match name {
        Some(name) => folder.blocks.iter().find(|b| b.1.ulid == name),
        None => folder.blocks.last(),
    };
    match (found, name) {
        (Some(block), _) => Ok(block.clone()),
        (None, Some(name)) => anyhow::bail!("invalid block ID {name:?}"),
        (None, None) => anyhow::bail!("no blocks found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_prints_them() {
        assert_eq!(go_time(1_600_000_000_123), "2020-09-13 12:26:40 +0000 UTC");
    }
}
