//! `tool check …`: files and servers, with promtool's words and exit codes.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use narthex_config::{Config, DiscoveryConfig, HttpClientConfig, ScrapeConfig, TargetGroup};
use narthex_discovery::{DiscoveryManager, SdMetrics};
use narthex_model::Labels;
use serde_json::{Value, json};

use super::ask::Server;
use super::{LINT_FAILED, Outcome, text, texts};
use crate::start::with_sources;

/// `check config`.
pub fn config(m: &clap::ArgMatches) -> ExitCode {
    let syntax_only = m.get_flag("syntax-only");
    if m.get_flag("expand-env") {
        narthex_config::references::allow();
    }
    let lint = text(m, "lint").unwrap_or_default();
    let too_long = lint.split(',').any(|o| matches!(o, "all" | "too-long-scrape-interval"));
    let none = lint.split(',').any(|o| o == "none");
    let lookback = match narthex_model::duration::parse(text(m, "query.lookback-delta").unwrap_or("5m")) {
        Ok(lookback) if too_long && !none => lookback,
        Ok(_) => Duration::ZERO,
        Err(e) => {
            eprintln!("--query.lookback-delta: {e}");
            return ExitCode::FAILURE;
        }
    };
    let (mut errors, mut lints) = (false, false);
    for file in texts(m, "files") {
        println!("Checking {file}");
        let jobs = match one(Path::new(file), syntax_only) {
            Ok((rule_files, jobs)) => {
                if rule_files > 0 {
                    println!("  SUCCESS: {rule_files} rule files found");
                }
                println!(" SUCCESS: {file} is valid prometheus config file syntax");
                jobs
            }
            Err(e) => {
                eprintln!("  FAILED: {e}");
                errors = true;
                Vec::new()
            }
        };
        println!();
        let long = jobs.iter().find(|j| !syntax_only && !lookback.is_zero() && j.scrape_interval >= lookback);
        if let Some(job) = long {
            eprintln!(
                "  FAILED: too long scrape interval found, data point will be marked as stale - job: {}, interval: {}",
                job.job_name,
                narthex_model::duration::format(job.scrape_interval)
            );
            lints = true;
        }
    }
    match (errors, lints && m.get_flag("lint-fatal")) {
        (true, _) => ExitCode::FAILURE,
        (_, true) => ExitCode::from(LINT_FAILED),
        _ => ExitCode::SUCCESS,
    }
}

/// Checks a file: how many rule files it names, and its jobs.
fn one(file: &Path, syntax_only: bool) -> Result<(usize, Vec<Arc<ScrapeConfig>>), String> {
    let config = Config::load_file(file).map_err(|e| with_sources(&e))?;
    let mut rule_files = 0;
    for pattern in config.rule_files.iter().filter(|_| !syntax_only) {
        let found = narthex_config::glob(pattern).len();
        if found == 0 && !pattern.to_string_lossy().contains('*') {
            return Err(format!("{:?} does not point to an existing file", pattern.display().to_string()));
        }
        rule_files += found;
    }
    let jobs = if syntax_only {
        config.scrape_configs.iter().cloned().map(Arc::new).collect()
    } else {
        config.jobs().map_err(|e| with_sources(&e))?
    };
    for job in &jobs {
        client(&job.http, syntax_only)?;
        for discovery in job.service_discovery.iter() {
            match discovery {
                DiscoveryConfig::Kubernetes(c) => client(&c.http, syntax_only)?,
                DiscoveryConfig::Static(groups) => targets(job, groups)?,
                DiscoveryConfig::File(c) if !syntax_only => {
                    for pattern in &c.files {
                        let found = narthex_config::glob(Path::new(pattern));
                        if found.is_empty() {
                            println!(
                                "  WARNING: file {pattern:?} for file_sd in scrape job {:?} does not exist",
                                job.job_name
                            );
                        }
                        for file in found {
                            let groups = sd_file(&file).map_err(|e| format!("checking SD file {pattern:?}: {e}"))?;
                            targets(job, &groups)?;
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok((rule_files, jobs))
}

/// Files that a client's settings name.
fn client(http: &HttpClientConfig, syntax_only: bool) -> Result<(), String> {
    let exists = |what: &str, path: &Path| {
        if syntax_only || path.as_os_str().is_empty() {
            return Ok(());
        }
        let found = std::fs::metadata(path);
        found.map(|_| ()).map_err(|e| {
            let path = path.display().to_string();
            format!("error checking {what} {path:?}: stat {path}: {}", reason(&e))
        })
    };
    if let Some(authorization) = &http.authorization {
        exists("authorization credentials or bearer token file", &authorization.credentials_file)?;
    }
    exists("client cert file", &http.tls_config.cert_file)?;
    exists("client key file", &http.tls_config.key_file)
}

/// As Go says it.
fn reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}

fn targets(job: &ScrapeConfig, groups: &[TargetGroup]) -> Result<(), String> {
    let made = narthex_plan::targets::build_all(job, groups);
    made.errors.into_iter().next().map_or(Ok(()), Err)
}

fn sd_file(file: &Path) -> Result<Vec<TargetGroup>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("open {}: {}", file.display(), reason(&e)))?;
    match file.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("json" | "yml" | "yaml") => narthex_config::parse_target_groups(&text),
        other => Err(format!("invalid file extension: {:?}", other.map_or(String::new(), |o| format!(".{o}")))),
    }
}

/// `check web-config`.
pub fn web_config(m: &clap::ArgMatches) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in texts(m, "files") {
        match narthex_server::web_config::WebConfig::validate(Path::new(file)) {
            Ok(()) => eprintln!("{file} SUCCESS"),
            Err(e) => {
                eprintln!("{file} FAILED: {e}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// `check healthy` and `check ready`.
pub fn probe(probe: &str, m: &clap::ArgMatches) -> Outcome {
    let url = text(m, "url").unwrap_or_default();
    let server =
        Server::new(url, text(m, "http.config.file"), &[], Duration::from_secs(10)).map_err(|e| format!("{e:#}"))?;
    let answer = server.get(&server.url(&format!("/-/{probe}"))).map_err(|e| format!("{e:#}"))?;
    if answer.status != http::StatusCode::OK {
        return Err(format!("check failed: URL={url}, status={}", answer.status.as_u16()));
    }
    eprintln!("  SUCCESS:  {}", String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// `check service-discovery`: what a job finds within the time given, before and after relabelling.
pub fn service_discovery(m: &clap::ArgMatches) -> Outcome {
    let (file, name) = (text(m, "config-file").unwrap_or_default(), text(m, "job").unwrap_or_default());
    let timeout =
        narthex_model::duration::parse(text(m, "timeout").unwrap_or("30s")).map_err(|e| format!("--timeout: {e}"))?;
    let config = Config::load_file(Path::new(file)).map_err(|e| format!("Cannot load config {}", with_sources(&e)))?;
    let jobs = config.jobs().map_err(|e| format!("Cannot load scrape configs {}", with_sources(&e)))?;
    let Some(job) = jobs.iter().find(|j| j.job_name == name) else {
        let names: String = jobs.iter().map(|j| format!("\n\t{}", j.job_name)).collect();
        return Err(format!("Job {name} not found. Select one of:{names}"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let groups = runtime.block_on(async {
        let manager = DiscoveryManager::new("tool", SdMetrics::register(&narthex_runtime::Registry::new()));
        if let Some(fault) = manager.apply(std::slice::from_ref(job)).into_iter().next() {
            return Err(format!("Could not create new discoverer {fault}"));
        }
        tokio::time::sleep(timeout).await;
        let snapshot = manager.subscribe().borrow().clone();
        Ok(snapshot.get(&job.job_name).cloned().unwrap_or_default())
    })?;
    let labels = |labels: &Labels| -> Value { labels.iter().map(|(n, v)| (n.to_owned(), Value::from(v))).collect() };
    let mut results: Vec<Value> = Vec::new();
    for group in groups {
        for own in &group.targets {
            let discovered = narthex_plan::targets::discovered_labels(job, own, &group.labels).build();
            let (kept, error) = match narthex_plan::targets::relabelled(job, own, &group.labels) {
                Ok(kept) => (kept.unwrap_or_default(), None),
                Err(e) => (Labels::empty(), Some(e)),
            };
            let mut result = json!({"discoveredLabels": labels(&discovered), "labels": labels(&kept)});
            if let Some(error) = error {
                result["error"] = Value::from(error);
            }
            if !results.contains(&result) {
                results.push(result);
            }
        }
    }
    print!("{}", serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?);
    Ok(())
}
