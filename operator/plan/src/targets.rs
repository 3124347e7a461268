//! Targets of a job: from what was discovered to what is scraped, as Prometheus 3.14 makes them (`scrape/target.go`).
//!
//! Pure: the same job and groups give the same targets in the same order.

use std::collections::HashMap;
use std::sync::Arc;

use narthex_config::assignment::{HistogramOverrides, Target, TargetGroup};
use narthex_config::{ScrapeConfig, sd};
use narthex_model::labels::quote;
use narthex_model::{Labels, LabelsBuilder, duration, relabel};

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const METRICS_PATH: &str = "__metrics_path__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PARAM: &str = "__param_";
const META: &str = "__meta_";
const CONVERT_TO_NHCB: &str = "__convert_classic_histograms_to_nhcb__";
const CLASSIC: &str = "__always_scrape_classic_histograms__";
const NATIVE: &str = "__scrape_native_histograms__";

/// What becomes of target groups.
#[derive(Clone, Debug, Default)]
pub struct TargetsOutcome {
    /// In the order of the groups; no two with the same labels and URL.
    pub targets: Vec<Target>,
    /// The discovered labels of what relabelling dropped; all of them, whatever `keep_dropped_targets` says.
    pub dropped: Vec<Labels>,
    /// One line per target that cannot be scraped.
    pub errors: Vec<String>,
}

/// The targets of one group.
pub fn build(job: &ScrapeConfig, group: &TargetGroup) -> TargetsOutcome {
    build_all(job, std::iter::once(group))
}

/// The targets of a job's groups; of one that occurs again, the last one's discovered labels are kept.
pub fn build_all<'a>(job: &ScrapeConfig, groups: impl IntoIterator<Item = &'a TargetGroup>) -> TargetsOutcome {
    let pool: Arc<str> = job.job_name.as_str().into();
    let mut outcome = TargetsOutcome::default();
    let mut seen: HashMap<_, usize> = HashMap::new();
    for group in groups {
        for (i, own) in group.targets.iter().enumerate() {
            let mut labels = discovered_labels(job, own, &group.labels);
            let discovered = labels.build();
            if !relabel::process(&job.relabel_configs, &mut labels) {
                outcome.dropped.push(discovered);
                continue;
            }
            match finish(job, &pool, labels, discovered) {
                // Labels that start with `__` are not the target's, but tell it from others.
                Ok((all, target)) => {
                    let next = outcome.targets.len();
                    let at = *seen.entry((all, target.url())).or_insert(next);
                    match outcome.targets.get_mut(at) {
                        Some(same) => *same = target,
                        None => outcome.targets.push(target),
                    }
                }
                Err(message) => outcome.errors.push(format!("instance {i} in group {}: {message}", group.source)),
            }
        }
    }
    outcome
}

/// The labels of a target before relabelling: its own, its group's, and what the job says in their form.
pub fn discovered_labels(job: &ScrapeConfig, own: &Labels, group: &Labels) -> LabelsBuilder {
    let mut labels = group.to_builder();
    for (name, value) in own.iter() {
        labels.set(name, value);
    }
    let mut default = |name: &str, value: &str| {
        if labels.get(name).is_none() {
            labels.set(name, value);
        }
    };
    default("job", &job.job_name);
    default(INTERVAL, &duration::format(job.scrape_interval));
    default(TIMEOUT, &duration::format(job.scrape_timeout));
    default(METRICS_PATH, &job.metrics_path);
    default(SCHEME, &job.scheme);
    default(CONVERT_TO_NHCB, &job.convert_to_nhcb().to_string());
    default(CLASSIC, &job.classic_histograms().to_string());
    default(NATIVE, &job.native_histograms().to_string());
    for (name, values) in &job.params {
        if let Some(first) = values.first() {
            default(&format!("{PARAM}{name}"), first);
        }
    }
    labels
}

/// All labels of one discovered target after relabelling, those that start with `__` included, but for meta labels; none
/// where relabelling drops it.
///
/// # Errors
/// Why it cannot be scraped.
pub fn relabelled(job: &ScrapeConfig, own: &Labels, group: &Labels) -> Result<Option<Labels>, String> {
    let mut labels = discovered_labels(job, own, group);
    let discovered = labels.build();
    if !relabel::process(&job.relabel_configs, &mut labels) {
        return Ok(None);
    }
    finish(job, &job.job_name.as_str().into(), labels, discovered).map(|(all, _)| Some(all))
}

/// Checks relabelled labels and makes the target of them; returned with all labels but the meta labels.
fn finish(
    job: &ScrapeConfig,
    pool: &Arc<str>,
    mut labels: LabelsBuilder,
    discovered: Labels,
) -> Result<(Labels, Target), String> {
    let get = |name: &str| labels.get(name).unwrap_or("").to_owned();
    let address = get(ADDRESS);
    if address.is_empty() {
        return Err("no address".into());
    }
    sd::check_address(&address)?;
    let time = |label: &str, what: &str| {
        let text = get(label);
        let time = duration::parse(&text).map_err(|e| format!("error parsing scrape {what}: {e}"))?;
        if time.is_zero() {
            return Err(format!("scrape {what} cannot be 0"));
        }
        Ok((time, text))
    };
    let (interval, interval_text) = time(INTERVAL, "interval")?;
    let (timeout, timeout_text) = time(TIMEOUT, "timeout")?;
    if timeout > interval {
        return Err(format!(
            "scrape timeout cannot be greater than scrape interval ({} > {})",
            quote(&timeout_text),
            quote(&interval_text)
        ));
    }
    let switch = |label: &str, what: &str, job: bool| {
        let text = get(label);
        match text.as_str() {
            "" => Ok(None),
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(true).filter(|v| *v != job)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(false).filter(|v| *v != job)),
            _ => Err(format!("error parsing {what}: strconv.ParseBool: parsing {}: invalid syntax", quote(&text))),
        }
    };
    let histograms = HistogramOverrides {
        convert_to_nhcb: switch(CONVERT_TO_NHCB, "convert classic histograms to nhcb", job.convert_to_nhcb())?,
        classic: switch(CLASSIC, "always scrape classic histograms", job.classic_histograms())?,
        native: switch(NATIVE, "scrape native histograms", job.native_histograms())?,
    };
    let (scheme, path) = (get(SCHEME), get(METRICS_PATH));
    labels.retain(|name, _| !name.starts_with(META));
    if labels.get("instance").is_none() {
        labels.set("instance", address.as_str());
    }
    let all = labels.build();
    let params = params(job, &all);
    labels.retain(|name, _| !name.starts_with("__"));
    let target = Target {
        pool: pool.clone(),
        labels: labels.build(),
        discovered,
        scheme,
        address,
        path,
        params,
        interval,
        timeout,
        histograms,
    };
    Ok((all, target))
}

/// The job's parameters, the first value of each replaced by its label; sorted by name.
fn params(job: &ScrapeConfig, labels: &Labels) -> Vec<(String, String)> {
    let mut params = job.params.clone();
    for (name, value) in labels.iter() {
        if let Some(name) = name.strip_prefix(PARAM) {
            let values = params.entry(name.to_owned()).or_default();
            match values.first_mut() {
                Some(first) => *first = value.to_owned(),
                None => values.push(value.to_owned()),
            }
        }
    }
    params.into_iter().flat_map(|(name, values)| values.into_iter().map(move |v| (name.clone(), v))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use narthex_config::GlobalConfig;

    use super::*;

    fn job(yaml: &str) -> ScrapeConfig {
        let mut job = ScrapeConfig::parse(yaml).unwrap();
        job.validate(&GlobalConfig::default()).unwrap();
        job
    }

    fn group(targets: &[&[(&str, &str)]], labels: &[(&str, &str)]) -> TargetGroup {
        TargetGroup {
            source: "g".into(),
            targets: targets.iter().map(|t| Labels::from_pairs(t.iter().copied())).collect(),
            labels: Labels::from_pairs(labels.iter().copied()),
        }
    }

    #[test]
    fn plain_target() {
        let outcome = build(
            &job("{job_name: j, params: {m: [a, b], q: [c]}, metrics_path: /p}"),
            &group(
                &[&[(ADDRESS, "h:1"), ("own", "1"), ("__meta_x", "y"), ("__param_q", "d")]],
                &[("own", "0"), ("g", "2")],
            ),
        );
        assert!(outcome.errors.is_empty() && outcome.dropped.is_empty());
        let target = &outcome.targets[0];
        assert_eq!(target.labels.to_string(), r#"{g="2", instance="h:1", job="j", own="1"}"#);
        assert_eq!(target.url(), "http://h:1/p?m=a&m=b&q=d");
        assert_eq!((target.interval, target.timeout), (Duration::from_secs(60), Duration::from_secs(10)));
        assert_eq!(target.discovered.value("__meta_x"), "y");
        assert_eq!(target.discovered.value(NATIVE), "false");
        assert_eq!(target.histograms, HistogramOverrides::default());
    }

    #[test]
    fn labels_override_the_job() {
        let outcome = build(
            &job("{job_name: j}"),
            &group(
                &[&[
                    (ADDRESS, "h:1"),
                    ("job", "other"),
                    ("instance", "i"),
                    (INTERVAL, "5s"),
                    (TIMEOUT, "2s"),
                    (SCHEME, "https"),
                    (NATIVE, "true"),
                    (CLASSIC, "false"),
                ]],
                &[],
            ),
        );
        let target = &outcome.targets[0];
        assert_eq!((&*target.pool, target.url().as_str()), ("j", "https://h:1/metrics"));
        assert_eq!(target.labels.to_string(), r#"{instance="i", job="other"}"#);
        assert_eq!((target.interval, target.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
        assert_eq!(target.histograms, HistogramOverrides { native: Some(true), ..Default::default() });
    }

    #[test]
    fn faults() {
        for (labels, expected) in [
            (&[("a", "b")][..], "no address"),
            (&[(ADDRESS, "http://h")], "\"http://h\" is not a valid hostname"),
            (&[(ADDRESS, "h"), (INTERVAL, "x")], "error parsing scrape interval: not a valid duration string: \"x\""),
            (&[(ADDRESS, "h"), (INTERVAL, "0")], "scrape interval cannot be 0"),
            (&[(ADDRESS, "h"), (TIMEOUT, "0s")], "scrape timeout cannot be 0"),
            (
                &[(ADDRESS, "h"), (TIMEOUT, "2m")],
                "scrape timeout cannot be greater than scrape interval (\"2m\" > \"1m\")",
            ),
            (
                &[(ADDRESS, "h"), (NATIVE, "yes")],
                "error parsing scrape native histograms: strconv.ParseBool: parsing \"yes\": invalid syntax",
            ),
        ] {
            let outcome = build(&job("{job_name: j}"), &group(&[labels], &[]));
            assert_eq!(outcome.errors, [format!("instance 0 in group g: {expected}")]);
            assert!(outcome.targets.is_empty());
        }
    }

    #[test]
    fn duplicates_by_labels_and_url() {
        let job = job("{job_name: j}");
        let same = group(&[&[(ADDRESS, "h:1"), ("__meta_a", "1")], &[(ADDRESS, "h:1"), ("__meta_a", "2")]], &[]);
        let other = group(&[&[(ADDRESS, "h:1"), ("__other", "1")], &[(ADDRESS, "h:1")]], &[]);
        let targets = build_all(&job, [&same, &other]).targets;
        assert_eq!(targets.len(), 2);
        let metas: Vec<_> = targets.iter().map(|t| t.discovered.value("__meta_a")).collect();
        assert_eq!(metas, ["", ""], "the last one of each");
    }
}
