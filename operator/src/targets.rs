//! From a job and its groups to targets: the border between jobs as they travel (JSON) and as they run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use narthex_config::{Config, ScrapeConfig};
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
