//! One task per target: wait for the target's phase, fetch, store, report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use narthex_config::{ScrapeConfig, Target};
use narthex_storage::GroupKey;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, error, warn};

use super::{Health, Shared, TargetStatus};
use crate::failure_log::FailureLog;
use crate::session::{Fetched, Outcome, SampleRules, Session, TargetMetadata};
use narthex_http::{Client, Connections, FetchError, Page};

/// A page in the shape of last time up to this size is read where the task runs; a larger one on the CPU pool.
const INLINE_KNOWN: usize = 128 << 10;
/// The same for a page whose shape is not known yet.
const INLINE_NEW: usize = 16 << 10;

/// A scrape that starts this late at most still gets the timestamp of its phase.
const MAX_TOLERANCE_MS: i64 = 10;

/// What a loop is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    /// The target is gone: write staleness markers after two intervals, unless it comes back.
    End,
    /// Stop at once and in silence: another shard has the target, or the process ends.
    Stop,
}

/// What a loop scrapes, and how; replaced as a whole.
#[derive(Clone)]
pub(super) struct Plan {
    pub target: Arc<Target>,
    pub config: Arc<ScrapeConfig>,
    pub rules: Arc<SampleRules>,
    /// Or why there is none.
    pub client: Result<Arc<Client>, Arc<str>>,
    pub failure_log: Option<Arc<FailureLog>>,
    /// Every scrape fails with this.
    pub forced_error: Option<Arc<str>>,
    pub order: Order,
}

/// A loop as the manager sees it.
pub(super) struct TargetLoop {
    pub identity: u64,
    plan: Mutex<Plan>,
    wake: Notify,
    report: Mutex<Report>,
}

/// What is known of the last scrape.
#[derive(Clone, Default)]
struct Report {
    health: Health,
    last_scrape: i64,
    last_duration: Duration,
    last_error: String,
    samples: u64,
    series: usize,
    cache_bytes: usize,
    metadata: TargetMetadata,
}

/// What the task keeps from scrape to scrape.
#[derive(Default)]
struct Kept {
    session: Option<Arc<Mutex<Session>>>,
    connections: Connections,
    rules: Option<Arc<SampleRules>>,
    client: Option<Arc<Client>>,
    lines: usize,
    body_size: usize,
    last_start: Option<Instant>,
}

/// The next time after `after` (or at it) at which the target is due; all in ms.
pub(super) fn next_tick(after: i64, interval: i64, offset: i64) -> i64 {
    let phase = (after - offset).rem_euclid(interval);
    if phase == 0 { after } else { after + interval - phase }
}

/// Where in its interval a target is scraped: from its identity alone, on the grid.
pub(super) fn offset(identity: u64, interval: i64, grid: i64) -> i64 {
    let grid = grid.clamp(1, (interval / 10).max(1));
    let steps = (interval / grid).max(1) as u64;
    (identity % steps) as i64 * grid
}

impl TargetLoop {
    pub fn new(identity: u64, plan: Plan) -> TargetLoop {
        TargetLoop { identity, plan: Mutex::new(plan), wake: Notify::new(), report: Mutex::default() }
    }

    pub fn plan(&self) -> Plan {
        self.plan.lock().clone()
    }

    /// Replaces the plan; the loop looks at it at once. False when the loop has ended, or is about to.
    pub fn set_plan(&self, plan: Plan) -> bool {
        let mut current = self.plan.lock();
        if current.order == Order::Stop {
            return false;
        }
        *current = plan;
        drop(current);
        self.wake.notify_one();
        true
    }

    /// Ends the loop for good, unless its target came back. Whether it ended.
    fn retire(&self) -> bool {
        let mut plan = self.plan.lock();
        if plan.order == Order::Run {
            return false;
        }
        plan.order = Order::Stop;
        true
    }

    pub fn order(&self, order: Order) {
        self.plan.lock().order = order;
        self.wake.notify_one();
    }

    pub fn current_order(&self) -> Order {
        self.plan.lock().order
    }

    pub fn metadata(&self) -> TargetMetadata {
        self.report.lock().metadata.clone()
    }

    pub fn cache_bytes(&self) -> usize {
        self.report.lock().cache_bytes
    }

    pub fn status(&self) -> TargetStatus {
        let report = self.report.lock().clone();
        let target = self.plan.lock().target.clone();
        TargetStatus {
            identity: self.identity,
            scrape_url: target.url(),
            target,
            health: report.health,
            last_scrape: report.last_scrape,
            last_duration: report.last_duration,
            last_error: report.last_error,
            samples: report.samples,
            series: report.series,
        }
    }

    /// Waits until `tick` by the wall clock. False when the plan changed meanwhile.
    async fn wait(&self, shared: &Shared, tick: i64) -> bool {
        loop {
            let left = tick - shared.now();
            if left <= 0 {
                return true;
            }
            // At most a minute at a time, so that a clock that was set is noticed.
            let left = Duration::from_millis(left.min(60_000) as u64);
            tokio::select! {
                _ = tokio::time::sleep(left) => {}
                _ = self.wake.notified() => return false,
            }
        }
    }

    /// Scrapes until told otherwise.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut kept = Kept::default();
        let mut last_tick: Option<i64> = None;
        loop {
            let plan = self.plan();
            match plan.order {
                Order::Run => {}
                Order::Stop => return,
                Order::End => {
                    self.end(&shared, &mut kept, &plan).await;
                    if self.retire() {
                        return;
                    }
                    continue;
                }
            }
            let interval = (plan.target.interval.as_millis() as i64).max(1);
            let offset = offset(self.identity, interval, shared.grid);
            let now = shared.now();
            let after = match last_tick {
                Some(last) if (now - interval..=now + interval).contains(&last) => (last + 1).max(now),
                _ => now,
            };
            let tick = next_tick(after, interval, offset);
            if !self.wait(&shared, tick).await {
                continue;
            }
            last_tick = Some(tick);
            let tolerance = (interval / 100).min(MAX_TOLERANCE_MS);
            let now = shared.now();
            let timestamp = if now - tick <= tolerance { tick } else { now };
            let plan = self.plan();
            if plan.order == Order::Run {
                tokio::select! {
                    () = self.scrape(&shared, &mut kept, &plan, timestamp) => {}
                    () = shared.stopping.requested() => return,
                }
            }
        }
    }

    /// Waits as Prometheus does, then marks all series stale; does nothing when the target comes back meanwhile.
    async fn end(&self, shared: &Arc<Shared>, kept: &mut Kept, plan: &Plan) {
        let Some(session) = kept.session.clone() else { return };
        let interval = (plan.target.interval.as_millis() as i64).max(1);
        let first = next_tick(shared.now() + 1, interval, offset(self.identity, interval, shared.grid));
        for tick in [first, first + interval + interval / 10] {
            while !self.wait(shared, tick).await {
                if self.current_order() != Order::End {
                    return;
                }
            }
        }
        let ended = session.lock().end(first);
        let written = match ended.map(|o| o.durable) {
            Ok(Some(durable)) => durable.await,
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = written {
            shared.store_log.failed(&plan.target.url(), &e, Instant::now());
        }
    }

    /// One scrape, from the request to the log.
    async fn scrape(&self, shared: &Arc<Shared>, kept: &mut Kept, plan: &Plan, timestamp: i64) {
        let started = Instant::now();
        let metrics = &shared.metrics;
        if let Some(last) = kept.last_start.replace(started) {
            let interval = plan.target.interval.as_millis();
            let interval = narthex_model::duration::format_go(i64::try_from(interval).unwrap_or(i64::MAX));
            let seconds = started.duration_since(last).as_secs_f64();
            metrics.interval_length.with(&[&interval]).observe(seconds);
            metrics.interval_length_histogram.with(&[&interval]).observe(seconds);
        }
        let session = match self.session(shared, kept, plan) {
            Ok(session) => session,
            Err(e) => {
                shared.store_log.failed(&plan.target.url(), &e, Instant::now());
                self.report_failure(timestamp, started.elapsed(), &e.to_string());
                return;
            }
        };
        let mut body = Vec::new();
        let fetched = self.fetch(shared, kept, plan, &mut body).await;
        if let Err(e) = &fetched {
            debug!(target = %plan.target.url(), error = %e, "scrape failed");
            if let Some(log) = &plan.failure_log {
                log.write(&plan.target.pool, &plan.target.url(), &e.to_string());
            }
            if *e == FetchError::BodyLimit {
                metrics.body_limit.inc();
            }
        } else {
            kept.body_size = body.len();
        }
        let size = body.len();
        let work = {
            let (shared, session) = (shared.clone(), session.clone());
            move || store(&shared, &session, timestamp, started, fetched, body)
        };
        let inline = if kept.lines > 0 { INLINE_KNOWN } else { INLINE_NEW };
        let done = if size <= inline {
            Ok(work())
        } else {
            match shared.permits.acquire().await {
                Ok(_permit) => shared.cpu.run(work).await,
                Err(_) => return,
            }
        };
        match done {
            Ok((outcome, lines, cache_bytes)) => {
                kept.lines = lines;
                self.finish(shared, plan, timestamp, started, outcome, lines, cache_bytes).await;
            }
            Err(e) => {
                // The session may be in any state: the next scrape starts a new one.
                kept.session = None;
                kept.lines = 0;
                error!(target = %plan.target.url(), error = %e, "scrape could not be read");
                self.report_failure(timestamp, started.elapsed(), &e.to_string());
            }
        }
    }

    async fn fetch(
        &self,
        shared: &Shared,
        kept: &mut Kept,
        plan: &Plan,
        body: &mut Vec<u8>,
    ) -> Result<String, FetchError> {
        if let Some(e) = &plan.forced_error {
            return Err(FetchError::Failed(e.to_string()));
        }
        let client = plan.client.clone().map_err(|e| FetchError::Failed(e.to_string()))?;
        if kept.client.as_ref().is_none_or(|c| !Arc::ptr_eq(c, &client)) {
            kept.connections.clear();
            kept.client = Some(client.clone());
        }
        let target = &plan.target;
        let page = Page {
            url: target.url(),
            host: target.address.clone(),
            timeout: target.timeout,
            unix_socket: target.discovered.get("__unix_socket__").map(str::to_owned),
        };
        let mut buffer = shared.buffers.take(kept.body_size);
        let result = client.fetch(&page, &mut kept.connections, &mut buffer).await;
        match &result {
            Ok(_) => *body = buffer,
            Err(_) => shared.buffers.give(buffer),
        }
        result
    }

    fn session(
        &self,
        shared: &Shared,
        kept: &mut Kept,
        plan: &Plan,
    ) -> Result<Arc<Mutex<Session>>, narthex_storage::StorageError> {
        let changed = kept.rules.as_ref().is_none_or(|r| !Arc::ptr_eq(r, &plan.rules));
        if let Some(session) = &kept.session {
            if changed {
                session.lock().set_rules(plan.rules.clone());
                kept.rules = Some(plan.rules.clone());
                kept.lines = 0;
            }
            return Ok(session.clone());
        }
        let key = GroupKey(format!("{}/{:016x}", plan.target.pool, self.identity).into());
        let appender = shared.store.group(&key)?;
        let mut session = Session::new(shared.store.clone(), appender, plan.rules.clone(), shared.table.clone());
        session.give_up_when(shared.stop.clone());
        self.report.lock().metadata = session.metadata();
        let session = Arc::new(Mutex::new(session));
        kept.session = Some(session.clone());
        kept.rules = Some(plan.rules.clone());
        Ok(session)
    }

    fn report_failure(&self, timestamp: i64, duration: Duration, error: &str) {
        let mut report = self.report.lock();
        report.health = Health::Down;
        report.last_scrape = timestamp;
        report.last_duration = duration;
        report.last_error = error.to_owned();
    }

    /// Counts, reports, and waits until the scrape is in the log.
    #[allow(clippy::too_many_arguments)]
    async fn finish(
        &self,
        shared: &Shared,
        plan: &Plan,
        timestamp: i64,
        started: Instant,
        outcome: Outcome,
        lines: usize,
        cache_bytes: usize,
    ) {
        let url = || plan.target.url();
        let m = &shared.metrics;
        let appended = outcome.appended;
        for (counter, n) in [
            (&m.label_limits, outcome.label_limit as u64),
            (&m.sample_limit, outcome.sample_limit as u64),
            (&m.bucket_limit, outcome.bucket_limit as u64),
            (&m.duplicates, outcome.duplicates + appended.duplicate),
            (&m.out_of_order, appended.out_of_order),
            (&m.out_of_bounds, outcome.out_of_bounds + appended.too_old + appended.too_new),
            (&m.exemplars_out_of_order, appended.exemplars_refused),
            (&m.refused, outcome.refused),
        ] {
            if n > 0 {
                counter.add(n as f64);
            }
        }
        for (n, text) in [
            (appended.out_of_order, "error on ingesting out-of-order samples"),
            (
                outcome.duplicates + appended.duplicate,
                "error on ingesting samples with different value but same timestamp",
            ),
            (
                outcome.out_of_bounds + appended.too_old + appended.too_new,
                "error on ingesting samples that are too old or are too far into the future",
            ),
        ] {
            if n > 0 {
                warn!(target = %url(), num_dropped = n, "{text}");
            }
        }
        {
            let mut report = self.report.lock();
            report.health = if outcome.error.is_none() { Health::Up } else { Health::Down };
            report.last_scrape = timestamp;
            report.last_duration = outcome.duration;
            // A target that is up may have series that are left out: the page says so.
            let left_out = || outcome.refusal.map(|why| format!("{} series refused: {why}", outcome.refused));
            report.last_error = outcome.error.or_else(left_out).unwrap_or_default();
            report.samples = outcome.samples;
            report.series = lines;
            report.cache_bytes = cache_bytes;
        }
        let written = match (outcome.store_error, appended.durable) {
            (Some(e), _) => Err(e),
            (None, Some(durable)) => durable.await,
            (None, None) => Ok(()),
        };
        match written {
            Ok(()) => shared.store_log.stored(Instant::now()),
            Err(e) => shared.store_log.failed(&url(), &e, Instant::now()),
        }
        if plan.rules.extra_metrics {
            m.scrape_duration.observe(started.elapsed().as_secs_f64());
        }
    }
}

/// Reads what was fetched into the session. Returns the outcome, the number of lines, and the cache's size.
fn store(
    shared: &Shared,
    session: &Mutex<Session>,
    timestamp: i64,
    started: Instant,
    fetched: Result<String, FetchError>,
    body: Vec<u8>,
) -> (Outcome, usize, usize) {
    let mut session = session.lock();
    let mut scratch = shared.scratches.take();
    let error = fetched.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let input = match &fetched {
        Ok(content_type) => Fetched::Page { body: &body, content_type },
        Err(e) => Fetched::Failed { error: &error, over_size_limit: *e == FetchError::BodyLimit },
    };
    let outcome = session.scrape(&mut scratch, timestamp, started, input);
    shared.scratches.give(scratch);
    shared.buffers.give(body);
    (outcome, session.lines(), session.cache_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_phase() {
        for (after, interval, offset, expected) in
            [(0, 1000, 0, 0), (1, 1000, 0, 1000), (1, 1000, 250, 250), (250, 1000, 250, 250), (251, 1000, 250, 1250)]
        {
            assert_eq!(next_tick(after, interval, offset), expected);
        }
        let now = 1_700_000_000_123;
        let tick = next_tick(now, 15_000, 7_350);
        assert_eq!(tick % 15_000, 7_350);
        assert!((now..now + 15_000).contains(&tick));
    }

    #[test]
    fn offsets_are_on_the_grid_and_spread() {
        let offsets: std::collections::HashSet<i64> =
            (0..10_000u64).map(|i| offset(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), 2000, 50)).collect();
        assert_eq!(offsets.len(), 40);
        assert!(offsets.iter().all(|o| (0..2000).contains(o) && o % 50 == 0));
        assert_eq!(offset(u64::MAX, 1, 50), 0);
        assert!((0..100).contains(&offset(12345, 100, 50)));
    }
}
