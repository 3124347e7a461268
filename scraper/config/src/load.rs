//! The whole file: loading, checking, printing.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use narthex_model::ValidationScheme;

use crate::alerting::AlertingConfig;
use crate::assignment::TargetGroup;
use crate::references::{self, References};
use crate::remote::{RemoteReadConfig, RemoteWriteConfig};
use crate::scrape::{GlobalConfig, ScrapeConfig};
use crate::storage::{
    OtlpConfig, RetentionConfig, RuntimeConfig, StorageConfig, TracingConfig, TranslationStrategy, TsdbConfig,
};
use crate::yaml::decode::{self, Fault};
use crate::yaml::{Check, Context, Invalid, Node, Yaml, emit, node, section};

section! {
    /// A configuration file.
    checked pub struct Config = "config.Config" {
        keep "global" global: GlobalConfig,
        omit "runtime" runtime: RuntimeConfig,
        omit "alerting" alerting: AlertingConfig,
        /// Patterns.
        omit "rule_files" rule_files: Vec<PathBuf>,
        /// Patterns of files with further jobs: see [`Config::jobs`].
        omit "scrape_config_files" scrape_config_files: Vec<PathBuf>,
        /// The jobs of the main file, validated.
        omit "scrape_configs" scrape_configs: Vec<ScrapeConfig>,
        omit "storage" storage: StorageConfig,
        /// Without an endpoint where the section is missing.
        omit "tracing" tracing: Option<TracingConfig>,
        omit "remote_write" remote_write: Vec<RemoteWriteConfig>,
        omit "remote_read" remote_read: Vec<RemoteReadConfig>,
        omit "otlp" otlp: OtlpConfig,
    }
}

section! {
    /// A file of `scrape_config_files`.
    plain pub struct ScrapeConfigs = "config.ScrapeConfigs" {
        omit "scrape_configs" scrape_configs: Vec<ScrapeConfig>,
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("parsing YAML file {}: {}", file.display(), List(faults))]
    Parse { file: PathBuf, faults: Vec<Fault> },
    /// A faulty file of `scrape_config_files`.
    #[error("error loading scrape configs: {:?}: {}", file.display().to_string(), List(faults))]
    Jobs { file: PathBuf, faults: Vec<Fault> },
    /// A section that agent mode does not have.
    #[error("field {field} is not allowed in agent mode")]
    Agent { field: &'static str },
}

impl ConfigError {
    /// What is wrong, where it is known.
    pub fn faults(&self) -> &[Fault] {
        match self {
            ConfigError::Read { .. } | ConfigError::Agent { .. } => &[],
            ConfigError::Parse { faults, .. } | ConfigError::Jobs { faults, .. } => faults,
        }
    }
}

struct List<'a>(&'a [Fault]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&references::shown(&self.message))?;
        if !self.path.is_empty() {
            write!(f, " (at {})", self.path)?;
        }
        Ok(())
    }
}

/// Up to the last `*`-less part: `^[^*]*(\*[^/]*)?$`.
fn is_pattern(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.find('*').is_none_or(|star| !text[star..].contains('/'))
}

impl Check for Config {
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        // A section that is there but empty counts as missing.
        if self.global.is_zero() {
            self.global = GlobalConfig::default();
        }
        if self.runtime.is_zero() {
            self.runtime = RuntimeConfig::default();
        }
        self.fill_storage();
        for (key, files, what) in [
            ("rule_files", &self.rule_files, "rule"),
            ("scrape_config_files", &self.scrape_config_files, "scrape config"),
        ] {
            for (i, file) in files.iter().enumerate() {
                if !is_pattern(file) {
                    let shown = narthex_model::labels::quote(&file.to_string_lossy());
                    return Err(Invalid::at(format!("{key}[{i}]"), format!("invalid {what} file path {shown}")));
                }
            }
        }
        for (key, message) in [
            ("scrape_configs", "empty or null scrape config section"),
            ("remote_write", "empty or null remote write config section"),
            ("remote_read", "empty or null remote read config section"),
        ] {
            if let Some(i) = node.null_item(key) {
                return Err(Invalid::at(format!("{key}[{i}]"), message));
            }
        }
        let mut names = HashMap::new();
        for (i, job) in self.scrape_configs.iter_mut().enumerate() {
            let at = format!("scrape_configs[{i}]");
            job.validate(&self.global).map_err(|e| e.below(&at))?;
            if names.insert(job.job_name.clone(), ()).is_some() {
                let name = narthex_model::labels::quote(&job.job_name);
                return Err(Invalid::at(at, format!("found multiple scrape configs with job name {name}")));
            }
        }
        let scheme = self.global.metric_name_validation_scheme;
        self.alerting.validate(scheme).map_err(|e| e.below("alerting"))?;
        let mut names = HashMap::new();
        for (i, write) in self.remote_write.iter_mut().enumerate() {
            let at = format!("remote_write[{i}]");
            if !write.name.is_empty() && names.insert(write.name.clone(), ()).is_some() {
                let name = narthex_model::labels::quote(&write.name);
                return Err(Invalid::at(at, format!("found multiple remote write configs with job name {name}")));
            }
            write.validate(scheme).map_err(|e| e.below(&at))?;
        }
        let mut names = HashMap::new();
        for (i, read) in self.remote_read.iter().enumerate() {
            if !read.name.is_empty() && names.insert(read.name.clone(), ()).is_some() {
                let name = narthex_model::labels::quote(&read.name);
                return Err(Invalid::at(
                    format!("remote_read[{i}]"),
                    format!("found multiple remote read configs with job name {name}"),
                ));
            }
        }
        let strategy = self.otlp.translation_strategy;
        if matches!(strategy, TranslationStrategy::NoTranslation | TranslationStrategy::NoUtf8EscapingWithSuffixes)
            && scheme == ValidationScheme::Legacy
        {
            let shown = narthex_model::labels::quote(strategy.as_str());
            return Err(Invalid::at(
                "otlp.translation_strategy",
                format!("OTLP translation strategy {shown} is not allowed when UTF8 is disabled"),
            ));
        }
        Ok(())
    }
}

/// Reads one document as a section; `None` when it is empty.
fn read<T: decode::Section>(text: &str) -> Result<Option<T>, Vec<Fault>> {
    read_with(text, None)
}

/// The same, with what the references in its texts stand for.
fn read_with<T: decode::Section>(text: &str, references: Option<References>) -> Result<Option<T>, Vec<Fault>> {
    let root = node::parse_with(text, references.as_ref())
        .map_err(|e| vec![Fault { line: e.line, path: String::new(), message: e.message }])?
        .filter(|root| !root.is_null());
    let Some(root) = root else { return Ok(None) };
    let mut cx = Context::default();
    let value = T::decode(&root, &mut cx).map_err(|fault| vec![fault])?;
    if cx.faults.is_empty() { Ok(Some(value)) } else { Err(cx.faults) }
}

impl crate::HttpClientConfig {
    /// Reads the settings of a client from a file of their own, as promtool takes it; `file` is where `text` comes from.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, file: &Path) -> Result<crate::HttpClientConfig, ConfigError> {
        let fail = |faults| ConfigError::Parse { file: file.to_owned(), faults };
        let mut config = read::<crate::HttpClientConfig>(text).map_err(fail)?.unwrap_or_default();
        let invalid = |e: Invalid| fail(vec![Fault { line: 0, path: e.at, message: e.message }]);
        config.validate().map_err(invalid)?;
        config.relocate(file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }
}

impl ScrapeConfig {
    /// Reads one job from YAML or JSON; what it leaves out is filled by [`ScrapeConfig::validate`].
    ///
    /// # Errors
    /// All faults of form, or the first fault of meaning.
    pub fn parse(text: &str) -> Result<ScrapeConfig, Vec<Fault>> {
        read(text)?.ok_or_else(|| {
            vec![Fault { line: 0, path: String::new(), message: "empty or null scrape config section".into() }]
        })
    }

    /// The job as [`ScrapeConfig::parse`] reads it, but for its secrets, which are hidden.
    pub fn to_yaml(&self) -> String {
        emit::document(&self.print())
    }
}

/// Reads target groups from YAML or JSON as `file_sd_configs` takes them: a list of `targets` and `labels`. The groups
/// have no source yet.
///
/// # Errors
/// When the text is no such list, or has other keys.
pub fn parse_target_groups(text: &str) -> Result<Vec<TargetGroup>, String> {
    let root = match node::parse(text) {
        Ok(Some(root)) if !root.is_null() => root,
        Ok(_) => return Ok(Vec::new()),
        Err(e) => return Err(format!("line {}: {}", e.line, e.message)),
    };
    if root.items().iter().any(|item| item.is_null()) {
        return Err("nil target group item found".into());
    }
    let mut cx = Context::default();
    let groups = Vec::<TargetGroup>::decode(&root, &mut cx).map_err(|fault| fault.to_string())?;
    if cx.faults.is_empty() { Ok(groups) } else { Err(List(&cx.faults).to_string()) }
}

impl GlobalConfig {
    /// Reads the section from YAML or JSON.
    ///
    /// # Errors
    /// All faults of form, or the first fault of meaning.
    pub fn parse(text: &str) -> Result<GlobalConfig, Vec<Fault>> {
        Ok(read(text)?.unwrap_or_default())
    }
}

impl Config {
    fn fill_storage(&mut self) {
        let tsdb = self.storage.tsdb.get_or_insert_with(TsdbConfig::default);
        tsdb.retention.get_or_insert_default();
        self.storage.exemplars = self.storage.exemplars.take().or_else(crate::features::exemplars);
    }

    /// Reads and checks a configuration; `file` is for messages, `environment` gives the variables that external
    /// labels may name. Relative paths stay as they are. References are followed where they are allowed.
    ///
    /// # Errors
    /// All faults of form, or the first fault of meaning.
    pub fn parse(text: &str, file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let mut config = read_with::<Config>(text, References::of(file))
            .map_err(|faults| ConfigError::Parse { file: file.to_owned(), faults })?
            .unwrap_or_default();
        config.fill_storage();
        config.global.external_labels.0.values_mut().for_each(|v| *v = expand(v, environment));
        Ok(config)
    }

    /// Loads a file; relative paths in it become relative to its folder. The files of `scrape_config_files` are not
    /// read: see [`Config::jobs`].
    ///
    /// # Errors
    /// When the file cannot be read, or is no valid configuration.
    pub fn load_file(file: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        let mut config = Config::parse(&text, file, &|name| std::env::var(name).ok())?;
        config.set_directory(file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Whether agent mode takes it.
    ///
    /// # Errors
    /// What it has no use for.
    pub fn check_agent(&self) -> Result<(), ConfigError> {
        let alerting = !self.alerting.alertmanagers.is_empty() || !self.alerting.alert_relabel_configs.is_empty();
        for (set, field) in [
            (alerting, "alerting"),
            (!self.rule_files.is_empty(), "rule_files"),
            (!self.remote_read.is_empty(), "remote_read"),
        ] {
            if set {
                return Err(ConfigError::Agent { field });
            }
        }
        Ok(())
    }

    /// Makes relative paths relative to `dir`.
    pub fn set_directory(&mut self, dir: &Path) {
        self.relocate(dir);
    }

    /// All jobs: those of the main file, then those of `scrape_config_files`, which are read now.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid, or a job's name occurs twice.
    pub fn jobs(&self) -> Result<Vec<Arc<ScrapeConfig>>, ConfigError> {
        let mut jobs: Vec<Arc<ScrapeConfig>> = self.scrape_configs.iter().cloned().map(Arc::new).collect();
        let mut seen: HashMap<String, String> =
            jobs.iter().map(|j| (j.job_name.clone(), "main config file".to_owned())).collect();
        for pattern in &self.scrape_config_files {
            for file in glob(pattern) {
                let text = std::fs::read_to_string(&file)
                    .map_err(|source| ConfigError::Read { file: file.clone(), source })?;
                let fail = |faults| ConfigError::Jobs { file: file.clone(), faults };
                let configs = read_with::<ScrapeConfigs>(&text, References::of(&file)).map_err(fail)?;
                let configs = configs.unwrap_or_default().scrape_configs;
                for (i, mut job) in configs.into_iter().enumerate() {
                    let at = format!("scrape_configs[{i}]");
                    let fault = |e: Invalid| {
                        let Invalid { at, message } = e.below(&at);
                        let line = node::parse(&text).ok().flatten().map_or(0, |root| root.line_at(&at));
                        fail(vec![Fault { line, path: at, message }])
                    };
                    if job.job_name.is_empty() {
                        return Err(fault("empty or null scrape config section".into()));
                    }
                    job.validate(&self.global).map_err(fault)?;
                    if let Some(first) = seen.get(&job.job_name) {
                        let name = narthex_model::labels::quote(&job.job_name);
                        return Err(fault(
                            format!("found multiple scrape configs with job name {name}, first found in {first}")
                                .into(),
                        ));
                    }
                    seen.insert(job.job_name.clone(), format!("{:?}", file.display().to_string()));
                    job.relocate(file.parent().unwrap_or(Path::new("")));
                    jobs.push(Arc::new(job));
                }
            }
        }
        Ok(jobs)
    }

    /// The configuration as Prometheus shows its own: defaults that it leaves out left out, secrets hidden.
    pub fn to_yaml(&self) -> String {
        emit::document(&self.print())
    }

    /// Sets what the storage keeps (from flags, or 15 days) where the file does not say.
    pub fn set_default_retention(&mut self, retention: RetentionConfig) {
        self.fill_storage();
        if let Some(tsdb) = &mut self.storage.tsdb
            && tsdb.retention.as_ref().is_none_or(Yaml::is_zero)
        {
            tsdb.retention = Some(retention);
        }
    }
}

/// How many paths a pattern may lead through.
const GLOB_LIMIT: usize = 100_000;

/// The files that a pattern names, sorted; `*`, `?` and `[` may stand in each of its parts, and match within a part.
/// The path itself where it has none of them.
pub fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        let plain = !matches!(part, std::path::Component::Normal(_)) || !text.contains(['*', '?', '[']);
        let mut next = Vec::new();
        for path in &found {
            if plain {
                next.push(path.join(part));
                continue;
            }
            let folder = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let names = entries.filter_map(Result::ok).map(|e| e.file_name());
            next.extend(names.filter(|n| glob_matches(&text, &n.to_string_lossy())).map(|n| path.join(n)));
            next.truncate(GLOB_LIMIT);
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

/// Go's `filepath.Match` for one part of a path: `*`, `?`, `[a-z]` and `\`.
fn glob_matches(pattern: &str, name: &str) -> bool {
    // One place to return to is enough: the last `*` can take all that an earlier one could.
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            star = Some((p, n));
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        match name.get(n).and_then(|c| match_one(&pattern, p, *c)) {
            Some(next) => {
                p = next;
                n += 1;
            }
            None => match &mut star {
                Some((after, from)) if *from < name.len() => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                _ => return false,
            },
        }
    }
}

/// Where the pattern goes on after its element at `p` matched `c`.
fn match_one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '\\' => (pattern.get(p + 1) == Some(&c)).then_some(p + 2),
        '[' => {
            let mut at = p + 1;
            let negated = pattern.get(at) == Some(&'^');
            at += usize::from(negated);
            let mut found = false;
            let mut first = true;
            while first || pattern.get(at) != Some(&']') {
                first = false;
                let low = *pattern.get(at)?;
                let mut high = low;
                at += 1;
                if pattern.get(at) == Some(&'-') && pattern.get(at + 1).is_some_and(|h| *h != ']') {
                    high = *pattern.get(at + 1)?;
                    at += 2;
                }
                found |= (low..=high).contains(&c);
            }
            (found != negated).then_some(at + 1)
        }
        literal => (*literal == c).then_some(p + 1),
    }
}

/// Go's `os.Expand`: `$name`, `${name}`; `$$` is a dollar; unknown names give nothing.
fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> String {
    let special = |c: char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9');
    let value = |name: &str| if name == "$" { "$".to_owned() } else { environment(name).unwrap_or_default() };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(first) = rest.chars().next() else {
            out.push('$');
            break;
        };
        if first == '{' {
            match rest.find('}') {
                // `${}` and `${` without an end are eaten.
                Some(1) => rest = &rest[2..],
                Some(end) => {
                    out.push_str(&value(&rest[1..end]));
                    rest = &rest[end + 1..];
                }
                None => rest = &rest[1..],
            }
        } else if special(first) {
            out.push_str(&value(&rest[..1]));
            rest = &rest[1..];
        } else {
            let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            if len == 0 {
                out.push('$');
            } else {
                out.push_str(&value(&rest[..len]));
                rest = &rest[len..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_files() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["a1/x.yml", "a2/x.yml", "a2/y.yml", "b/x.yml", "top.yml"] {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        for (pattern, expected) in [
            ("top.yml", &["top.yml"][..]),
            ("none.yml", &[]),
            ("*.yml", &["top.yml"]),
            ("a?/x.yml", &["a1/x.yml", "a2/x.yml"]),
            ("*/[x-z].yml", &["a1/x.yml", "a2/x.yml", "a2/y.yml", "b/x.yml"]),
            ("a2/../b/*", &["a2/../b/x.yml"]),
            ("top.yml/*", &[]),
            ("*/*/*", &[]),
        ] {
            let found = glob(&folder.path().join(pattern));
            let found: Vec<_> =
                found.iter().map(|p| p.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
            assert_eq!(found, expected, "{pattern}");
        }
    }

    #[test]
    fn external_labels_without_values_are_only_shown() {
        let text = "global: {external_labels: {c: $SET, b: '', a: $NONE, d: }, sample_limit: 3, query_log_file: q}\n";
        let set = |name: &str| (name == "SET").then(|| "x".to_owned());
        let config = Config::parse(text, Path::new("f"), &set).unwrap();
        assert_eq!(config.global.external_labels.labels().to_string(), r#"{c="x"}"#);
        let shown = config.to_yaml();
        let expected = "  query_log_file: q\n  external_labels:\n    a: \"\"\n    b: \"\"\n    c: x\n    d: \"\"\n  sample_limit: 3\n";
        assert!(shown.contains(expected), "{shown}");
        let text = "global: {external_labels: {a: ''}}\n";
        let shown = Config::parse(text, Path::new("f"), &|_| None).unwrap().to_yaml();
        assert!(shown.contains("  external_labels:\n    a: \"\"\n"), "{shown}");
    }

    #[test]
    fn variables() {
        let environment = |name: &str| (name == "TEST").then(|| "Value".to_owned());
        for (text, expected) in [
            ("bar$TEST", "barValue"),
            ("${TEST}x", "Valuex"),
            ("foo${TEST}bar", "fooValuebar"),
            ("foo$${TEST}", "foo${TEST}"),
            ("$$", "$"),
            ("$", "$"),
            ("a$.b", "a$.b"),
            ("${}x", "x"),
            ("${TEST", "TEST"),
            ("$NONE-", "-"),
        ] {
            assert_eq!(expand(text, &environment), expected, "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*.yml", "a.yml", true),
            ("*.yml", "a.yaml", false),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("*", "", true),
            ("a*", "b", false),
        ] {
            assert_eq!(glob_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
