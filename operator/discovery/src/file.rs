//! `file_sd_configs`: groups in files, read when their folder changes and now and then in any case.
//!
//! A file that cannot be read keeps what it last gave.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use narthex_config::{FileSdConfig, TargetGroup, glob, parse_target_groups};
use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::SdMetrics;
use crate::{Discoverer, Updates};

/// Larger files are refused.
const MAX_FILE: u64 = 256 << 20;

/// Changes within this time are read together: most writers touch a file several times.
const SETTLE: Duration = Duration::from_millis(20);

pub(crate) struct FileDiscovery {
    patterns: Vec<PathBuf>,
    interval: Duration,
    metrics: Arc<SdMetrics>,
    /// How many groups each file had.
    last: BTreeMap<PathBuf, usize>,
    watched: BTreeSet<PathBuf>,
}

impl FileDiscovery {
    pub fn new(config: &FileSdConfig, metrics: Arc<SdMetrics>) -> FileDiscovery {
        FileDiscovery {
            patterns: config.files.clone(),
            interval: config.refresh_interval.max(Duration::from_millis(1)),
            metrics,
            last: BTreeMap::new(),
            watched: BTreeSet::new(),
        }
    }

    /// Reads all files; `None` when nobody listens any more.
    async fn refresh(&mut self, updates: &Updates) -> Option<()> {
        let started = Instant::now();
        let mut found = BTreeMap::new();
        for path in self.patterns.iter().flat_map(|p| glob(p)) {
            let read = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read(&path)).await.unwrap_or_else(|e| Err(e.to_string()))
            };
            match read {
                Ok((groups, mtime)) => {
                    self.metrics.file_mtimes.lock().insert(path.clone(), mtime);
                    found.insert(path, groups.len());
                    updates.send(groups).await.ok()?;
                }
                Err(error) => {
                    self.metrics.file_read_errors.inc();
                    tracing::error!(path = %path.display(), error, "error reading file");
                    let groups = self.last.get(&path).copied().unwrap_or(0);
                    found.insert(path, groups);
                }
            }
        }
        for (path, before) in &self.last {
            let now = found.get(path).copied();
            if now.is_none() {
                self.metrics.file_mtimes.lock().remove(path);
            }
            let gone = now.unwrap_or(0)..*before;
            let empty: Vec<_> =
                gone.map(|i| TargetGroup { source: source(path, i), ..TargetGroup::default() }).collect();
            if !empty.is_empty() {
                updates.send(empty).await.ok()?;
            }
        }
        self.last = found;
        self.metrics.file_scan_duration.observe(started.elapsed().as_secs_f64());
        Some(())
    }

    fn watch(&mut self, watcher: &mut RecommendedWatcher) {
        for pattern in &self.patterns {
            let dir = match pattern.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
                _ => PathBuf::from("."),
            };
            if self.watched.contains(&dir) {
                continue;
            }
            match watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(dir)),
                Err(error) => tracing::error!(path = %dir.display(), %error, "error adding file watch"),
            }
        }
    }
}

impl Drop for FileDiscovery {
    fn drop(&mut self) {
        let mut mtimes = self.metrics.file_mtimes.lock();
        for path in self.last.keys() {
            mtimes.remove(path);
        }
    }
}

/// Whether a change may be one of content.
fn matters(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)))
}

impl Discoverer for FileDiscovery {
    fn run(mut self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let changed = Arc::new(Notify::new());
            let wake = changed.clone();
            let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
                Ok(event) if matters(&event.kind) => wake.notify_one(),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "error watching file"),
            });
            let mut watcher = match watcher {
                Ok(watcher) => Some(watcher),
                Err(error) => {
                    // The slow re-read goes on.
                    tracing::error!(%error, "error adding file watcher");
                    self.metrics.file_watcher_errors.inc();
                    None
                }
            };
            let mut ticks = interval(self.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => self.watched.clear(),
                    _ = changed.notified() => tokio::time::sleep(SETTLE).await,
                }
                // Before reading, so that no change falls between.
                if let Some(watcher) = &mut watcher {
                    self.watch(watcher);
                }
                if self.refresh(&updates).await.is_none() {
                    return;
                }
            }
        })
    }
}

fn source(path: &Path, index: usize) -> String {
    format!("{}:{index}", path.display())
}

/// The groups of a file, and when it was changed.
fn read(path: &Path) -> Result<(Vec<TargetGroup>, f64), String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mtime = file.metadata().and_then(|m| m.modified()).map_err(|e| e.to_string())?;
    let mtime = mtime.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let mut bytes = Vec::new();
    let len = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if len as u64 > MAX_FILE {
        return Err(format!("file is larger than {MAX_FILE} bytes"));
    }
    let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let mut groups = if is_json {
        crate::http::parse_json(&String::from_utf8_lossy(&bytes))?
    } else {
        parse_target_groups(std::str::from_utf8(&bytes).map_err(|e| e.to_string())?)?
    };
    for (i, group) in groups.iter_mut().enumerate() {
        group.source = source(path, i);
        let mut labels = group.labels.to_builder();
        labels.set("__meta_filepath", path.to_string_lossy());
        group.labels = labels.build();
    }
    Ok((groups, mtime))
}
