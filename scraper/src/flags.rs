//! Prometheus's flags, by the same names: one table that makes the command line, `--help` and `/status/flags`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `--name` or `--no-name`.
    Switch,
    Value,
    /// May be given several times; values may be joined by commas.
    List,
}

/// Whether a flag does anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Works,
    /// Taken so that command lines of Prometheus go on to work; the log says that it has no effect.
    Ignored,
    /// Refused, with the reason: it would change what the server is.
    Refused(&'static str),
}

struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    used: Use,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help, used: Use::Works }
}

const fn ignored(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, help: "Accepted for compatibility; has no effect.", used: Use::Ignored }
}

const fn refused(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    let default = if matches!(kind, Kind::Switch) { "false" } else { "" };
    Flag { name, kind, default, help: why, used: Use::Refused(why) }
}

const DOCUMENTATION: &str = "there is no documentation to write: see --help";

use Kind::{List, Switch, Value};

const FLAGS: &[Flag] = &[
    flag(
        "config.file",
        Value,
        "",
        "Configuration file. Without it prometheus.yml in this folder; without that the server scrapes itself, and a node_exporter on localhost:9100 if one answers.",
    ),
    flag("config.auto-reload", Switch, "false", "Reload the configuration file when it changes."),
    flag(
        "config.expand-env",
        Switch,
        "false",
        "Follow references in the configuration file: %{NAME} to environment variables, %{file:PATH} to files.",
    ),
    flag("config.auto-reload-interval", Value, "30s", "How often to look for changes of the configuration file."),
    flag(
        "web.listen-address",
        List,
        "0.0.0.0:9090",
        "Address to listen on for page, API and telemetry. Can be repeated.",
    ),
    flag("web.config.file", Value, "", "File that can enable TLS or authentication."),
    flag(
        "web.read-timeout",
        Value,
        "5m",
        "Longest time to wait for a request, and before idle connections are closed.",
    ),
    flag("web.max-connections", Value, "512", "Most simultaneous connections."),
    flag("web.max-notifications-subscribers", Value, "16", "Most subscribers of live notifications."),
    flag(
        "web.external-url",
        Value,
        "",
        "URL under which the server is reachable from outside, for links back to it. Its path prefixes all endpoints.",
    ),
    flag("web.route-prefix", Value, "", "Prefix of the internal routes. Defaults to the path of --web.external-url."),
    flag("web.enable-lifecycle", Switch, "false", "Enable shutdown and reload by HTTP request."),
    flag("web.enable-admin-api", Switch, "false", "Enable API endpoints for administration."),
    flag("web.enable-remote-write-receiver", Switch, "false", "Enable the API endpoint that accepts remote write."),
    flag(
        "web.remote-write-receiver.accepted-protobuf-messages",
        List,
        "prometheus.WriteRequest,io.prometheus.write.v2.Request",
        "Remote write messages to accept: prometheus.WriteRequest, io.prometheus.write.v2.Request.",
    ),
    flag(
        "web.enable-otlp-receiver",
        Switch,
        "false",
        "Enable the API endpoint that accepts OTLP metrics, /api/v1/otlp/v1/metrics.",
    ),
    flag(
        "web.enable-push",
        Switch,
        "false",
        "Take pushes as a Pushgateway does: PUT, POST and DELETE of /metrics/job/NAME. Their groups are shown at /metrics/pushed.",
    ),
    flag("push.max-groups", Value, "10000", "Most groups of pushed metrics; more are refused."),
    flag(
        "push.max-series",
        Value,
        "200000",
        "Most series of all pushed groups together; a push that brings more is refused.",
    ),
    flag(
        "push.ttl",
        Value,
        "0s",
        "How long a group stays without another push, where the push has no Narthex-Push-TTL header. 0s: until it is deleted.",
    ),
    flag("web.page-title", Value, "Prometheus Time Series Collection and Processing Server", "Title of the page."),
    flag(
        "web.cors.origin",
        Value,
        ".*",
        "Regular expression for CORS origins, fully anchored, such as 'https?://(domain1|domain2)\\.com'.",
    ),
    flag("storage.tsdb.path", Value, "data/", "Folder of the store."),
    flag(
        "storage.tsdb.retention.time",
        Value,
        "",
        "How long samples are kept; 15d if neither this nor a size is set. Units: y, w, d, h, m, s, ms.",
    ),
    flag(
        "storage.tsdb.retention.size",
        Value,
        "",
        "Most bytes that may be stored. Units, powers of two: B, KB, MB, GB, TB, PB, EB.",
    ),
    flag(
        "storage.max-series",
        Value,
        "0",
        "Most series in memory; only new series are refused above it. 0 means no limit.",
    ),
    flag("storage.max-series-per-job", Value, "0", "The same for the targets of one scrape job or monitor together."),
    flag("storage.max-series-per-target", Value, "0", "The same for one target."),
    flag(
        "storage.memory-budget",
        Value,
        "",
        "Memory that the process may take, such as 2GB: sizes caches, and new series are refused before it is used up. Without it 90% of the limit of the control group, if there is one; 0B means no limit.",
    ),
    flag(
        "storage.remote.read-sample-limit",
        Value,
        "50000000",
        "Most samples of an answer to a remote read; 0 means no limit.",
    ),
    flag("storage.remote.read-concurrent-limit", Value, "10", "Most remote reads answered at once."),
    flag(
        "storage.remote.read-max-bytes-in-frame",
        Value,
        "1048576",
        "Most bytes of a frame of a streamed remote read, more or less.",
    ),
    flag(
        "storage.remote.flush-deadline",
        Value,
        "1m",
        "How long the end waits, and a queue that a reload changes, for samples to be sent by remote write.",
    ),
    flag("query.lookback-delta", Value, "5m", "How long a sample stands for its series in queries and federation."),
    flag("query.timeout", Value, "2m", "Longest time of a query."),
    flag("query.max-concurrency", Value, "20", "Most queries evaluated at once."),
    flag("query.max-samples", Value, "50000000", "Most samples that a query may hold in memory."),
    flag("query.max-series", Value, "0", "Most series that a query may read; 0 means no limit."),
    flag("query.max-bytes", Value, "4GB", "Memory that a query may take, about; 0B means no limit."),
    flag(
        "query.max-total-bytes",
        Value,
        "",
        "Memory that all queries together may take, about. Without it half of --storage.memory-budget, if there is one; 0B means no limit.",
    ),
    flag(
        "query.class",
        List,
        "",
        "Stricter limits for the queries of a class (rules, dashboard, adhoc): CLASS:LIMIT=VALUE,… with the limits max-series, max-samples, max-bytes, max-total-bytes, max-concurrency and timeout. Can be repeated.",
    ),
    flag(
        "query.trust-class",
        Switch,
        "false",
        "Believe what requests say of their class. Without it they get the stricter limits of that class and of adhoc.",
    ),
    flag(
        "query.each-alone",
        Switch,
        "false",
        "Evaluate each query by itself, also those that wait for a slot together and ask for the same.",
    ),
    flag("query.slow-log-threshold", Value, "10s", "Queries that take longer are logged; 0s logs none."),
    flag("enable-feature", List, "", "Comma separated names of features to enable, those of Prometheus."),
    flag("log.level", Value, "info", "Only log messages of this severity or above: debug, info, warn, error."),
    flag("log.format", Value, "logfmt", "Format of log messages: logfmt, json."),
    ignored("auto-gomaxprocs", Switch, "true"),
    ignored("auto-gomemlimit", Switch, "true"),
    ignored("auto-gomemlimit.ratio", Value, "0.9"),
    ignored("web.user-assets", Value, ""),
    ignored("web.console.templates", Value, "consoles"),
    ignored("web.console.libraries", Value, "console_libraries"),
    ignored("web.search.max-limit", Value, "10000"),
    ignored("storage.tsdb.no-lockfile", Switch, "false"),
    ignored("storage.tsdb.wal-compression", Switch, "true"),
    ignored("storage.tsdb.min-block-duration", Value, "2h"),
    ignored("storage.tsdb.max-block-duration", Value, ""),
    ignored("storage.tsdb.wal-segment-size", Value, ""),
    ignored("storage.tsdb.head-chunks-write-queue-size", Value, "0"),
    ignored("storage.tsdb.delay-compact-file.path", Value, ""),
    ignored("storage.tsdb.wal-compression-type", Value, "snappy"),
    ignored("storage.tsdb.allow-overlapping-compaction", Switch, "true"),
    ignored("storage.tsdb.block-reload-interval", Value, "1m"),
    ignored("storage.tsdb.delayed-compaction.max-percent", Value, "10"),
    ignored("storage.tsdb.max-block-chunk-segment-size", Value, "0B"),
    ignored("storage.tsdb.samples-per-chunk", Value, "120"),
    ignored("scrape.adjust-timestamps", Switch, "true"),
    ignored("scrape.timestamp-tolerance", Value, "2ms"),
    ignored("scrape.discovery-reload-interval", Value, "5s"),
    ignored("rules.alert.for-outage-tolerance", Value, "1h"),
    ignored("rules.alert.for-grace-period", Value, "10m"),
    ignored("rules.alert.resend-delay", Value, "1m"),
    ignored("rules.max-concurrent-evals", Value, "4"),
    ignored("alertmanager.notification-queue-capacity", Value, "10000"),
    ignored("alertmanager.notification-batch-size", Value, "256"),
    ignored("alertmanager.drain-notification-queue-on-shutdown", Switch, "true"),
    flag("agent", Switch, "false", "Agent mode: scrape and send on by remote write, without queries."),
    flag("storage.agent.path", Value, "data-agent/", "Folder of the store, in agent mode."),
    flag(
        "storage.agent.retention.max-time",
        Value,
        "4h",
        "How long samples are kept that cannot be sent, in agent mode. Units: y, w, d, h, m, s, ms.",
    ),
    ignored("storage.agent.retention.min-time", Value, "5m"),
    ignored("storage.agent.wal-compression", Switch, "true"),
    ignored("storage.agent.wal-compression-type", Value, "snappy"),
    ignored("storage.agent.wal-segment-size", Value, ""),
    ignored("storage.agent.wal-truncate-frequency", Value, "2h"),
    ignored("storage.agent.checkpoint-from-in-memory-series", Switch, "false"),
    ignored("storage.agent.checkpoint-batch-size", Value, "1000"),
    ignored("storage.agent.no-lockfile", Switch, "false"),
    refused("write-documentation", Switch, DOCUMENTATION),
];

/// Beginnings of the names of flags that a server has and an agent has not.
const ONLY_SERVER: [&str; 6] =
    ["storage.tsdb.", "storage.remote.read-", "query.", "rules.", "alertmanager.", "web.search."];

/// Beginning of the names of flags that only an agent has.
const ONLY_AGENT: &str = "storage.agent.";

/// Features that Prometheus 3.14 knows, and whether they do anything here.
const FEATURES: &[(&str, bool)] = &[
    ("auto-reload-config", true),
    ("concurrent-rule-eval", false),
    ("created-timestamp-zero-ingestion", true),
    ("delayed-compaction", false),
    ("exemplar-storage", true),
    ("extra-scrape-metrics", true),
    ("fast-startup", false),
    ("histograms-st-encoding", false),
    ("memory-snapshot-on-shutdown", false),
    ("metadata-wal-records", true),
    ("native-histograms", false),
    ("old-ui", false),
    ("otlp-deltatocumulative", true),
    ("otlp-native-delta-ingestion", true),
    ("promql-binop-fill-modifiers", true),
    ("promql-delayed-name-removal", true),
    ("promql-duration-expr", true),
    ("promql-experimental-functions", true),
    ("promql-extended-range-selectors", true),
    ("promql-per-step-stats", true),
    ("search-api", true),
    ("st-storage", true),
    ("st-synthesis", true),
    ("type-and-unit-labels", true),
    ("use-start-timestamps", true),
    ("use-uncached-io", false),
    ("xor2-encoding", false),
];

/// Adds all flags to a command.
pub fn add(mut command: Command) -> Command {
    for f in FLAGS {
        let arg = Arg::new(f.name).long(f.name).help(f.help).hide(f.used != Use::Works);
        command = match f.kind {
            Switch => {
                let negative: &'static str = Box::leak(format!("no-{}", f.name).into_boxed_str());
                command
                    .arg(
                        arg.action(ArgAction::Set)
                            .num_args(0..=1)
                            .require_equals(true)
                            .default_missing_value("true")
                            .default_value(f.default)
                            .hide_default_value(f.default == "false")
                            .value_parser(["true", "false"])
                            .hide_possible_values(true)
                            .value_name("true|false")
                            .overrides_with(negative),
                    )
                    .arg(Arg::new(negative).long(negative).action(ArgAction::SetTrue).hide(true))
            }
            Value => command.arg(
                arg.value_name("VALUE")
                    .action(ArgAction::Set)
                    .default_value(f.default)
                    .hide_default_value(f.default.is_empty()),
            ),
            List => command.arg(
                arg.value_name("VALUE")
                    .action(ArgAction::Append)
                    .default_value(f.default)
                    .hide_default_value(f.default.is_empty()),
            ),
        };
    }
    command
}

/// Flags as they were given.
#[derive(Clone, Debug)]
pub struct Flags {
    values: BTreeMap<&'static str, Vec<String>>,
    given: Vec<&'static str>,
}

impl Flags {
    pub fn of(matches: &ArgMatches) -> Flags {
        let mut values = BTreeMap::new();
        let mut given = Vec::new();
        for f in FLAGS {
            let mut list: Vec<String> =
                matches.get_many::<String>(f.name).map(|v| v.cloned().collect()).unwrap_or_default();
            let mut explicit = matches.value_source(f.name) == Some(clap::parser::ValueSource::CommandLine);
            if f.kind == Switch && matches.get_flag(&format!("no-{}", f.name)) {
                list = vec!["false".into()];
                explicit = true;
            }
            if explicit {
                given.push(f.name);
            }
            values.insert(f.name, list);
        }
        Flags { values, given }
    }

    /// The value of a flag that takes one; empty where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).and_then(|v| v.last()).map_or("", String::as_str)
    }

    pub fn switch(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// The values of a list, split at commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let all = self.values.get(name).into_iter().flatten();
        all.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect()
    }

    /// The values of a list as they were given.
    pub fn each<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values.get(name).into_iter().flatten().map(String::as_str).filter(|v| !v.is_empty())
    }

    pub fn was_given(&self, name: &str) -> bool {
        self.given.contains(&name)
    }

    /// # Errors
    /// In words, for a value that is no duration.
    pub fn duration(&self, name: &str) -> Result<Duration, String> {
        let text = self.text(name);
        narthex_model::duration::parse(text).map_err(|e| format!("--{name}: {e}"))
    }

    /// # Errors
    /// In words, for a value that is no number.
    pub fn number(&self, name: &str) -> Result<usize, String> {
        let text = self.text(name);
        text.parse().map_err(|_| format!("--{name}: {text:?} is not a number"))
    }

    /// Which flags do not go with agent mode, or with the lack of it, in Prometheus's words.
    pub fn mode_conflict(&self) -> Option<String> {
        let agent = self.switch("agent");
        let wrong = |name: &&&str| match agent {
            true => ONLY_SERVER.iter().any(|begin| name.starts_with(begin)),
            false => name.starts_with(ONLY_AGENT),
        };
        let wrong: Vec<String> = self.given.iter().filter(wrong).map(|name| format!("\"--{name}\"")).collect();
        let only = if agent { "can not be used in agent mode" } else { "can only be used in agent mode" };
        (!wrong.is_empty()).then(|| format!("The following flag(s) {only}: [{}]", wrong.join(" ")))
    }

    /// The first flag that was given and can't be followed, and why not.
    pub fn refusal(&self) -> Option<String> {
        FLAGS.iter().find_map(|f| match f.used {
            Use::Refused(why) if self.was_given(f.name) && self.text(f.name) != "false" => {
                Some(format!("--{}: {why}", f.name))
            }
            _ => None,
        })
    }

    /// All flags with their values, for `/status/flags`.
    pub fn all(&self) -> BTreeMap<String, String> {
        FLAGS
            .iter()
            .filter(|f| !matches!(f.used, Use::Refused(_)))
            .map(|f| {
                let values = self.values.get(f.name).map(|v| v.join(",")).unwrap_or_default();
                (f.name.to_owned(), values)
            })
            .collect()
    }

    /// Flags that were given and do nothing here.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let ignored = FLAGS.iter().filter(|f| f.used == Use::Ignored);
        ignored.map(|f| f.name).filter(|n| self.was_given(n)).collect()
    }

    /// The features asked for, and what is to be said of those that do nothing or are unknown.
    pub fn features(&self) -> (Vec<String>, Vec<String>) {
        let (mut on, mut notes) = (Vec::new(), Vec::new());
        for name in self.list("enable-feature") {
            match FEATURES.iter().find(|(n, _)| *n == name) {
                Some((_, true)) => on.push(name),
                Some((_, false)) => notes.push(format!("feature {name} has no effect yet")),
                None => notes.push(format!("unknown feature {name}")),
            }
        }
        (on, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Result<Flags, String> {
        let command = add(Command::new("t"));
        let all = std::iter::once("t").chain(args.iter().copied());
        command.try_get_matches_from(all).map(|m| Flags::of(&m)).map_err(|e| e.to_string())
    }

    #[test]
    fn as_prometheus_takes_them() {
        let f = flags(&[
            "--config.file=a.yml",
            "--web.enable-lifecycle",
            "--no-auto-gomaxprocs",
            "--web.listen-address=:1",
            "--web.listen-address",
            ":2",
            "--enable-feature=promql-experimental-functions,nonsense",
        ])
        .unwrap();
        assert_eq!((f.text("config.file"), f.text("query.timeout")), ("a.yml", "2m"));
        assert!(f.switch("web.enable-lifecycle") && !f.switch("web.enable-admin-api") && !f.switch("auto-gomaxprocs"));
        assert_eq!(f.list("web.listen-address"), [":1", ":2"]);
        assert_eq!(f.features().0, ["promql-experimental-functions"]);
        assert_eq!(f.features().1, ["unknown feature nonsense"]);
        assert_eq!(f.all()["web.enable-lifecycle"], "true");
        assert_eq!(f.without_effect(), ["auto-gomaxprocs"]);
        assert_eq!(f.refusal(), None);
        for (given, said) in [
            (&["--no-agent"][..], None),
            (&["--agent", "--storage.agent.path=x", "--web.enable-lifecycle"], None),
            (&["--storage.agent.path=x"], Some("can only be used in agent mode: [\"--storage.agent.path\"]")),
            (&["--agent", "--query.timeout=1m"], Some("can not be used in agent mode: [\"--query.timeout\"]")),
        ] {
            let conflict = flags(given).unwrap().mode_conflict();
            assert_eq!(conflict, said.map(|s| format!("The following flag(s) {s}")));
        }
        let unknown = flags(&["--storage.tsdb.pth=x"]).unwrap_err();
        assert!(unknown.contains("storage.tsdb.path"), "{unknown}");
    }
}
