//! Flags, resolved: what the parts of a server are set up with.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use narthex_config::storage::TracingConfig;
use narthex_config::{ByteSize, Config, RetentionConfig, ScrapeConfig};
use narthex_promql::ParserOptions;
use narthex_runtime::log::{Format, parse_level};
use narthex_server::Options;
use narthex_server::class::{Limits, QueryOptions};
use narthex_server::push::PushOptions;
use narthex_tsdb::StoreOptions;
use url::Url;

use crate::flags::Flags;
use crate::version;

/// How long samples are kept when nothing says otherwise.
const DEFAULT_RETENTION: Duration = Duration::from_secs(15 * 86_400);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Samples are sent on, and nothing is asked.
    pub agent: bool,
    /// Counters that do not say when they started do so when they are first scraped.
    pub start_synthesis: bool,
    pub config_file: Option<PathBuf>,
    /// What stands in for a file where there is none.
    pub default_config: String,
    /// How often the files are looked at; none: not at all.
    pub auto_reload: Option<Duration>,
    pub listen: Vec<String>,
    pub web_config: Option<PathBuf>,
    pub read_timeout: Duration,
    pub max_connections: usize,
    pub max_concurrency: usize,
    pub log_level: tracing::Level,
    pub log_format: Format,
    /// How long the end waits for what is to be sent by remote write.
    pub flush_deadline: Duration,
    /// What is to be said of features.
    pub notes: Vec<String>,
    retention: Option<Duration>,
    retention_size: Option<ByteSize>,
    path: PathBuf,
    max_series: usize,
    max_series_per_job: usize,
    max_series_per_target: usize,
    /// In bytes; 0 for none.
    memory_budget: u64,
    web: Options,
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.to_owned() }
}

/// The URL under which the server is reachable, and the prefix of its routes.
fn urls(external: &str, prefix: &str, listen: &str) -> Result<(Url, String), String> {
    let port = listen.rsplit(':').next().unwrap_or("9090");
    let text = match external {
        "" => format!("http://{}:{port}/", hostname()),
        // As Prometheus does: without a scheme and a host it is a path.
        path if path.starts_with('/') => format!("http://{}:{port}{path}", hostname()),
        url => url.to_owned(),
    };
    let mut url = Url::parse(&text).map_err(|e| format!("--web.external-url: {e}"))?;
    if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") {
        return Err(format!("--web.external-url: {text:?} is no http or https URL"));
    }
    let path = format!("/{}", url.path().trim_matches('/'));
    url.set_path(&path);
    let prefix = if prefix.is_empty() { path } else { format!("/{}", prefix.trim_matches('/')) };
    Ok((url, prefix))
}

/// A size in bytes.
fn bytes(flags: &Flags, name: &str) -> Result<u64, String> {
    let size = ByteSize::parse(flags.text(name)).map_err(|e| format!("--{name}: {e}"))?;
    u64::try_from(size.0).map_err(|_| format!("--{name}: less than nothing"))
}

/// What pushes are taken.
fn push_options(flags: &Flags) -> Result<Option<PushOptions>, String> {
    let options = PushOptions {
        max_groups: flags.number("push.max-groups")?,
        max_series: flags.number("push.max-series")?,
        ttl: Some(flags.duration("push.ttl")?).filter(|t| !t.is_zero()),
    };
    Ok(flags.switch("web.enable-push").then_some(options))
}

/// Limits of queries; `budget` is the memory of the process, 0 if it is not known.
fn query_options(flags: &Flags, budget: u64) -> Result<QueryOptions, String> {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let total = match flags.text("query.max-total-bytes") {
        "" => budget / 2,
        _ => bytes(flags, "query.max-total-bytes")?,
    };
    let all = Limits {
        max_series: flags.number("query.max-series")?,
        max_samples: flags.number("query.max-samples")?,
        max_bytes: size(bytes(flags, "query.max-bytes")?),
        max_total_bytes: size(total),
        timeout: flags.duration("query.timeout")?,
        max_concurrency: flags.number("query.max-concurrency")?,
    };
    let (trust, each_alone) = (flags.switch("query.trust-class"), flags.switch("query.each-alone"));
    let mut options = QueryOptions { all, trust, each_alone, ..QueryOptions::default() };
    let parse = |text: &str| {
        let size = ByteSize::parse(text)?;
        usize::try_from(size.0).map_err(|_| format!("{text:?} is less than nothing"))
    };
    for class in flags.each("query.class") {
        options.class(class, parse).map_err(|e| format!("--query.class: {e}"))?;
    }
    Ok(options)
}

impl Settings {
    /// # Errors
    /// In words, naming the flag.
    pub fn of(flags: &Flags) -> Result<Settings, String> {
        if let Some(refusal) = flags.refusal() {
            return Err(refusal);
        }
        let optional_path = |name: &str| Some(flags.text(name)).filter(|t| !t.is_empty()).map(PathBuf::from);
        let (features, notes) = flags.features();
        let on = |name: &str| features.iter().any(|f| f == name);
        if flags.switch("config.expand-env") {
            narthex_config::references::allow();
        }
        if on("extra-scrape-metrics") {
            narthex_config::features::extra_scrape_metrics_by_default();
        }
        if on("exemplar-storage") {
            narthex_config::features::exemplars_by_default();
        }
        if on("created-timestamp-zero-ingestion") || on("st-storage") {
            narthex_config::features::proto_first_by_default();
        }
        if on("otlp-deltatocumulative") && on("otlp-native-delta-ingestion") {
            return Err(
                "cannot enable otlp-deltatocumulative and otlp-native-delta-ingestion features at the same time".into(),
            );
        }
        let listen = flags.list("web.listen-address");
        let first = listen.first().cloned().ok_or("--web.listen-address: at least one address is needed")?;
        let (external_url, route_prefix) =
            urls(flags.text("web.external-url"), flags.text("web.route-prefix"), &first)?;
        let accepted = flags.list("web.remote-write-receiver.accepted-protobuf-messages");
        for message in &accepted {
            if ![narthex_server::write::V1, narthex_server::write::V2].contains(&message.as_str()) {
                return Err(format!(
                    "unknown remote write protobuf message {message}, supported: prometheus.WriteRequest, io.prometheus.write.v2.Request"
                ));
            }
        }
        let retention = match flags.text("storage.tsdb.retention.time") {
            "" => None,
            _ => Some(flags.duration("storage.tsdb.retention.time")?),
        };
        let retention_size = match flags.text("storage.tsdb.retention.size") {
            "" => None,
            text => Some(ByteSize::parse(text).map_err(|e| format!("--storage.tsdb.retention.size: {e}"))?),
        };
        let auto_reload = flags.switch("config.auto-reload") || on("auto-reload-config");
        let interval = flags.duration("config.auto-reload-interval")?;
        if auto_reload && interval < Duration::from_secs(1) {
            return Err("--config.auto-reload-interval: must be at least 1s".into());
        }
        let max_concurrency = flags.number("query.max-concurrency")?;
        let parser = ParserOptions {
            experimental_functions: on("promql-experimental-functions"),
            extended_range_selectors: on("promql-extended-range-selectors"),
            fill_modifiers: on("promql-binop-fill-modifiers"),
            ..ParserOptions::default()
        };
        let memory_budget = match flags.text("storage.memory-budget") {
            "" => crate::memory::limit().map_or(0, |limit| limit / 10 * 9),
            _ => bytes(flags, "storage.memory-budget")?,
        };
        let cors = flags.text("web.cors.origin");
        let web = Options {
            external_url,
            route_prefix: route_prefix.clone(),
            listen_address: first,
            agent: flags.switch("agent"),
            enable_lifecycle: flags.switch("web.enable-lifecycle"),
            enable_admin: flags.switch("web.enable-admin-api"),
            enable_remote_write: flags.switch("web.enable-remote-write-receiver"),
            enable_otlp: flags.switch("web.enable-otlp-receiver"),
            push: push_options(flags)?,
            otlp_native_delta: on("otlp-native-delta-ingestion"),
            otlp_delta_to_cumulative: on("otlp-deltatocumulative"),
            remote_read: narthex_server::read::ReadOptions {
                sample_limit: flags.number("storage.remote.read-sample-limit")?,
                concurrent_limit: flags.number("storage.remote.read-concurrent-limit")?,
                max_bytes_in_frame: flags.number("storage.remote.read-max-bytes-in-frame")?,
            },
            accepted_messages: accepted,
            cors_origin: regex::Regex::new(&format!("^(?:{cors})$")).map_err(|e| format!("--web.cors.origin: {e}"))?,
            page_title: flags.text("web.page-title").to_owned(),
            lookback_delta: flags.duration("query.lookback-delta")?,
            query: query_options(flags, memory_budget)?,
            slow_query: flags.duration("query.slow-log-threshold")?,
            flags: shown_flags(flags, &route_prefix),
            parser,
            per_step_stats: on("promql-per-step-stats"),
            delayed_name_removal: on("promql-delayed-name-removal"),
            type_and_unit_labels: on("type-and-unit-labels"),
            start_timestamps: on("use-start-timestamps"),
            start_storage: on("st-storage"),
            enable_search: on("search-api"),
            start_zeros: on("created-timestamp-zero-ingestion"),
            features: feature_map(flags, &features, &parser),
            build: version::build_info(),
            max_notification_listeners: flags.number("web.max-notifications-subscribers")?,
        };
        let agent = flags.switch("agent");
        let agent_retention = flags.duration("storage.agent.retention.max-time")?;
        Ok(Settings {
            agent,
            start_synthesis: on("st-synthesis"),
            config_file: optional_path("config.file"),
            default_config: String::new(),
            auto_reload: auto_reload.then_some(interval),
            listen,
            web_config: optional_path("web.config.file"),
            read_timeout: flags.duration("web.read-timeout")?,
            max_connections: flags.number("web.max-connections")?,
            max_concurrency,
            log_level: parse_level(flags.text("log.level"))?,
            log_format: flags.text("log.format").parse()?,
            flush_deadline: flags.duration("storage.remote.flush-deadline")?,
            notes,
            // What is sent needs not be kept, and what cannot be, no longer.
            retention: if agent { Some(agent_retention) } else { retention },
            retention_size,
            path: flags.text(if agent { "storage.agent.path" } else { "storage.tsdb.path" }).into(),
            max_series: flags.number("storage.max-series")?,
            max_series_per_job: flags.number("storage.max-series-per-job")?,
            max_series_per_target: flags.number("storage.max-series-per-target")?,
            memory_budget,
            web,
        })
    }

    pub fn web_options(&self) -> Options {
        self.web.clone()
    }

    /// Without `--config.file`: `prometheus.yml` here if there is one, else this server and, where it answers, a
    /// node_exporter.
    pub fn find_default_config(&mut self) {
        if Path::new("prometheus.yml").is_file() {
            self.config_file = Some("prometheus.yml".into());
            return;
        }
        let port = self.web.listen_address.rsplit(':').next().unwrap_or("9090");
        let metrics = format!("{}/metrics", self.web.route_prefix.trim_end_matches('/'));
        let mut yaml = format!(
            "global:\n  scrape_interval: 15s\nscrape_configs:\n- job_name: prometheus\n  metrics_path: {metrics}\n  static_configs:\n  - targets: [\"localhost:{port}\"]\n"
        );
        if answers("localhost:9100") {
            yaml.push_str("- job_name: node\n  static_configs:\n  - targets: [\"localhost:9100\"]\n");
        }
        self.default_config = yaml;
    }

    pub fn store_options(&self, config: &Config) -> StoreOptions {
        let mut options = StoreOptions::new(&self.path);
        let (time, size) = self.retention(config);
        options.retention = time.unwrap_or_default();
        options.retention_size = size.and_then(ByteSize::limit).unwrap_or(0);
        if let Some(tsdb) = &config.storage.tsdb {
            options.retention_percentage = tsdb.retention.as_ref().map_or(0.0, |r| r.percentage);
            options.out_of_order_time_window = tsdb.out_of_order_time_window;
        }
        if let Some(exemplars) = &config.storage.exemplars {
            options.max_exemplars = usize::try_from(exemplars.max_exemplars).unwrap_or(0);
        }
        options.max_series = self.max_series;
        options.max_series_per_pool = self.max_series_per_job;
        options.max_series_per_group = self.max_series_per_target;
        options.fit_memory(self.memory_budget);
        options
    }

    /// The file's limits where it sets any, else the flags', else 15 days.
    fn retention(&self, config: &Config) -> (Option<Duration>, Option<ByteSize>) {
        let file = config.storage.tsdb.as_ref().and_then(|t| t.retention.as_ref());
        let time = file.map(|r| r.time).filter(|t| !t.is_zero()).or(self.retention);
        let size = file.map(|r| r.size).filter(|s| s.0 > 0).or(self.retention_size);
        if time.is_none() && size.is_none() { (Some(DEFAULT_RETENTION), None) } else { (time, size) }
    }

    /// What the flags say, for files that say nothing.
    pub fn default_retention(&self) -> RetentionConfig {
        let (time, size) = self.retention(&Config::default());
        RetentionConfig { time: time.unwrap_or_default(), size: size.unwrap_or_default(), ..RetentionConfig::default() }
    }

    /// As `/status/runtimeinfo` shows it.
    pub fn retention_text(&self, config: &Config) -> String {
        let (time, size) = self.retention(config);
        let time = time.filter(|t| !t.is_zero()).map(narthex_model::duration::format);
        let size = size.filter(|s| s.0 > 0).map(|s| s.to_string());
        let percentage = config.storage.tsdb.as_ref().and_then(|t| t.retention.as_ref()).map_or(0.0, |r| r.percentage);
        let percentage = (percentage > 0.0).then(|| format!("{}%", narthex_model::number::format_g(percentage)));
        time.into_iter().chain(size).chain(percentage).collect::<Vec<_>>().join(" or ")
    }
}

/// Flags with their values; those that were left out with what stands in for them.
fn shown_flags(flags: &Flags, route_prefix: &str) -> BTreeMap<String, String> {
    let mut all = flags.all();
    let sized = !flags.text("storage.tsdb.retention.size").is_empty();
    let retention = narthex_model::duration::format(if sized { Duration::ZERO } else { DEFAULT_RETENTION });
    for (name, value) in [
        ("storage.tsdb.retention.time", retention.as_str()),
        ("storage.tsdb.retention.size", "0B"),
        ("web.route-prefix", route_prefix),
    ] {
        let shown = all.entry(name.to_owned()).or_default();
        if shown.is_empty() || name == "web.route-prefix" {
            *shown = value.to_owned();
        }
    }
    all
}

/// Whether somebody listens there.
fn answers(address: &str) -> bool {
    let Ok(addresses) = address.to_socket_addrs() else { return false };
    let mut addresses = addresses;
    addresses.any(|a| std::net::TcpStream::connect_timeout(&a, Duration::from_millis(300)).is_ok())
}

fn feature_map(flags: &Flags, features: &[String], parser: &ParserOptions) -> BTreeMap<String, BTreeMap<String, bool>> {
    let on = |name: &str| features.iter().any(|f| f == name);
    let mut all: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    let mut set = |category: &str, names: &[(&str, bool)]| {
        let entries = names.iter().map(|(name, on)| ((*name).to_owned(), *on));
        all.entry(category.to_owned()).or_default().extend(entries);
    };
    set(
        "api",
        &[
            ("admin", flags.switch("web.enable-admin-api")),
            ("exclude_alerts", true),
            ("label_values_match", true),
            ("lifecycle", flags.switch("web.enable-lifecycle")),
            ("openapi_3.1", true),
            ("openapi_3.2", true),
            ("otlp_write_receiver", flags.switch("web.enable-otlp-receiver")),
            ("query_stats", true),
            ("query_warnings", true),
            ("remote_write_receiver", flags.switch("web.enable-remote-write-receiver")),
            ("search", on("search-api")),
            ("search_fuzz_alg_jarowinkler", on("search-api")),
            ("search_fuzz_alg_subsequence", on("search-api")),
            ("time_range_labels", true),
            ("time_range_series", true),
        ],
    );
    set(
        "otlp_receiver",
        &[
            ("delta_conversion", on("otlp-deltatocumulative")),
            ("native_delta_ingestion", on("otlp-native-delta-ingestion")),
        ],
    );
    let reload = flags.switch("config.auto-reload") || on("auto-reload-config");
    let agent = flags.switch("agent");
    set("prometheus", &[("agent_mode", agent), ("auto_reload_config", reload), ("server_mode", !agent)]);
    for name in [
        "at_modifier",
        "bool",
        "by",
        "duration_expr",
        "group_left",
        "group_right",
        "ignoring",
        "negative_offset",
        "offset",
        "on",
        "per_query_lookback_delta",
        "subqueries",
        "without",
    ] {
        set("promql", &[(name, true)]);
    }
    set(
        "promql",
        &[
            ("anchored", parser.extended_range_selectors),
            ("smoothed", parser.extended_range_selectors),
            ("delayed_name_removal", on("promql-delayed-name-removal")),
            ("fill", parser.fill_modifiers),
            ("fill_left", parser.fill_modifiers),
            ("fill_right", parser.fill_modifiers),
            ("per_step_stats", on("promql-per-step-stats")),
            ("type_and_unit_labels", on("type-and-unit-labels")),
        ],
    );
    for f in narthex_promql::functions_table::FUNCTIONS {
        set("promql_functions", &[(f.name, !f.experimental || parser.experimental_functions)]);
    }
    for name in [
        "!=",
        "!~",
        "%",
        "*",
        "+",
        "-",
        "/",
        "<",
        "</",
        "<=",
        "==",
        "=~",
        ">",
        ">/",
        ">=",
        "@",
        "^",
        "and",
        "atan2",
        "avg",
        "bottomk",
        "count",
        "count_values",
        "group",
        "max",
        "min",
        "or",
        "quantile",
        "stddev",
        "stdvar",
        "sum",
        "topk",
        "unless",
    ] {
        set("promql_operators", &[(name, true)]);
    }
    let experimental = parser.experimental_functions;
    set("promql_operators", &[("limitk", experimental), ("limit_ratio", experimental)]);
    set("rules", &[("concurrent_rule_eval", false), ("keep_firing_for", false), ("query_offset", false)]);
    set(
        "scrape",
        &[
            ("extra_scrape_metrics", true),
            ("start_timestamp_zero_ingestion", on("created-timestamp-zero-ingestion")),
            ("type_and_unit_labels", on("type-and-unit-labels")),
        ],
    );
    for name in narthex_config::sd::KINDS {
        set("service_discovery_providers", &[(name, true)]);
    }
    set("tsdb", &[("exemplar_storage", true), ("isolation", true), ("native_histograms", true)]);
    set("ui", &[("ui_v2", false), ("ui_v3", true)]);
    all
}

/// The OTLP endpoint of a `tracing` section; it may be a URL or `host:port`.
pub fn trace_endpoint(t: &TracingConfig) -> String {
    if t.endpoint.contains("://") {
        return t.endpoint.clone();
    }
    let scheme = if t.insecure { "http" } else { "https" };
    format!("{scheme}://{}/v1/traces", t.endpoint)
}

/// A scrape job as the whole file's printer writes it, secrets hidden.
pub fn job_yaml(job: &ScrapeConfig) -> String {
    let only = Config { scrape_configs: vec![job.clone()], ..Config::default() };
    let yaml = only.to_yaml();
    match yaml.find("scrape_configs:") {
        Some(at) => yaml[at..].to_owned(),
        None => yaml,
    }
}

/// What a configuration asks for and this server does not do yet.
pub fn unsupported(config: &Config) -> Vec<&'static str> {
    [
        (!config.rule_files.is_empty(), "rule_files are read by nothing yet: rules are not evaluated"),
        (!config.alerting.alertmanagers.is_empty(), "alerting is not supported yet"),
        (!config.remote_read.is_empty(), "remote_read is not supported yet"),
    ]
    .into_iter()
    .filter_map(|(set, note)| set.then_some(note))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_urls_and_prefixes() {
        for (external, prefix, url, route) in [
            ("http://a:1/x/", "", "http://a:1/x", "/x"),
            ("http://a", "", "http://a/", "/"),
            ("http://a/x", "/", "http://a/x", "/"),
            ("http://a/x", "y/", "http://a/x", "/y"),
        ] {
            let (got, got_route) = urls(external, prefix, ":9090").unwrap();
            assert_eq!((got.as_str(), got_route.as_str()), (url, route));
        }
        assert!(urls("ftp://a", "", ":9090").is_err());
        assert!(urls("", "", "0.0.0.0:1234").unwrap().0.as_str().ends_with(":1234/"));
    }
}
