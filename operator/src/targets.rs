//! From a job and its groups to targets: the border between jobs as they travel (JSON) and as they run.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use narthex_config::{Config, ScrapeConfig, Target, TargetGroup};
use narthex_model::{Labels, RelabelConfig, relabel};
use serde_json::{Value, json};

/// Jobs that were parsed, by their text. Those that were not asked for since the last [`JobCache::sweep`] go.
#[derive(Default)]
pub struct JobCache(HashMap<String, (Arc<ScrapeConfig>, bool)>);

impl JobCache {
    /// A job as it runs, defaults from `global` filled in.
    ///
    /// # Errors
    /// When it is not valid, in words.
    pub fn parse(&mut self, job: &Value, global: &Value) -> Result<Arc<ScrapeConfig>, String> {
        let text = json!({"global": global, "scrape_configs": [job]}).to_string();
        if let Some((parsed, used)) = self.0.get_mut(&text) {
            *used = true;
            return Ok(parsed.clone());
        }
        let config = Config::parse(&text, Path::new("monitor"), &|_| None).map_err(|e| e.to_string())?;
        let parsed = config.scrape_configs.into_iter().next().ok_or("it has no job")?;
        let parsed = Arc::new(parsed);
        self.0.insert(text, (parsed.clone(), true));
        Ok(parsed)
    }

    pub fn sweep(&mut self) {
        self.0.retain(|_, (_, used)| std::mem::take(used));
    }
}

/// Whether rules on the labels of a whole group keep it.
pub fn keeps(rules: &[RelabelConfig], labels: &Labels) -> bool {
    relabel::process(rules, &mut labels.to_builder())
}

/// The targets of a job, without duplicates. What relabelling drops and what has no valid address is left out.
pub fn of_job(job: &ScrapeConfig, groups: &[Arc<TargetGroup>]) -> Vec<Target> {
    let pool: Arc<str> = Arc::from(job.job_name.as_str());
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for group in groups {
        for target in &group.targets {
            if let Some(target) = of_labels(job, &pool, &group.labels, target)
                && seen.insert(target.identity())
            {
                out.push(target);
            }
        }
    }
    out
}

fn of_labels(job: &ScrapeConfig, pool: &Arc<str>, group: &Labels, target: &Labels) -> Option<Target> {
    let mut builder = group.to_builder();
    for (name, value) in target.iter() {
        builder.set(name, value);
    }
    let text = |d: Duration| format!("{}ms", d.as_millis());
    let defaults = [
        ("job", pool.to_string()),
        ("__scrape_interval__", text(job.scrape_interval)),
        ("__scrape_timeout__", text(job.scrape_timeout)),
        ("__metrics_path__", job.metrics_path.clone()),
        ("__scheme__", job.scheme.clone()),
    ];
    for (name, value) in defaults {
        if builder.get(name).is_none() {
            builder.set(name, value);
        }
    }
    for (name, values) in &job.params {
        let name = format!("__param_{name}");
        if let Some(first) = values.first()
            && builder.get(&name).is_none()
        {
            builder.set(name, first.as_str());
        }
    }
    let discovered = builder.build();
    if !relabel::process(&job.relabel_configs, &mut builder) {
        return None;
    }
    let take = |name: &str| builder.get(name).unwrap_or_default().to_owned();
    let ms = |name: &str| narthex_plan::check::duration_ms(&take(name)).filter(|ms| *ms > 0);
    let (interval, timeout) = (ms("__scrape_interval__")?, ms("__scrape_timeout__")?);
    let (address, scheme, path) = (take("__address__"), take("__scheme__"), take("__metrics_path__"));
    if address.is_empty() || address.contains('/') || timeout > interval {
        return None;
    }
    let mut params = Vec::new();
    for (name, value) in builder.iter().filter_map(|(n, v)| Some((n.strip_prefix("__param_")?, v))) {
        params.push((name.to_owned(), value.to_owned()));
        let more = job.params.get(name).into_iter().flatten().skip(1);
        params.extend(more.map(|v| (name.to_owned(), v.clone())));
    }
    builder.retain(|name, _| !name.starts_with("__"));
    if builder.get("instance").is_none() {
        builder.set("instance", address.as_str());
    }
    Some(Target {
        pool: pool.clone(),
        labels: builder.build(),
        discovered,
        scheme,
        address,
        path,
        params,
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        histograms: Default::default(),
    })
}
