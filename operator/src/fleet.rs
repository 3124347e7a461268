//! A fleet while it runs: who scrapes what, who is to take over, what each shard is told. Time is an argument.
//!
//! A target that moves is made before it is broken: its new shard gets it first, and the old one keeps it until the
//! new one has reported a scrape (a good one, unless the target is down for the old one, too). The old one then learns
//! that the target *moved*, so it writes no staleness markers. A new owner that does not come round in time loses the
//! target again.
//!
//! A shard that is not connected keeps its targets for a while: it goes on scraping by itself. Only when it has been
//! away for longer than [`Policy::failover`] (and its pod, if there is one, is not ready) do the others take over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narthex_config::wire::{Message, Peer, Report, Snapshot, TargetReport, WireTarget};
use narthex_crds::fleet::MAX_SHARDS;
use narthex_plan::assign::{self, Item, Options, Placement, Shard};
use tokio::sync::watch;

use crate::compile::Compiled;

/// Times and limits.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a shard may be away before others take its targets over.
    pub failover: Duration,
    /// How long after the first sign of life placement waits for the other shards.
    pub settle: Duration,
    /// How often loads are evened out while shards stay the same.
    pub rebalance: Duration,
    /// How long a target that moved stays where it is.
    pub cooldown: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            failover: Duration::from_secs(15),
            settle: Duration::from_secs(5),
            rebalance: Duration::from_secs(60),
            cooldown: Duration::from_secs(600),
        }
    }
}

/// The weight of a target of which nothing is known: 300 samples per 30 s.
const UNKNOWN_WEIGHT: f64 = 300.0;

/// A message as it goes to a shard, one line without its end. Empty before the first.
pub type Line = Arc<str>;

#[derive(Debug)]
struct ShardState {
    /// Streams that are open now.
    streams: usize,
    /// When it was heard of last; `None`: never.
    seen: Option<Instant>,
    url: String,
    generation: u64,
    reports: BTreeMap<u64, TargetReport>,
    /// Jobs or monitors of which it refuses new series, with the reason.
    over_budget: BTreeMap<String, String>,
    line: watch::Sender<Line>,
    /// The generation that it was told last.
    sent: u64,
    /// The last snapshot without generation and moves, to see whether a new one says anything new.
    last: Snapshot,
    /// Its pod is ready, as far as the cluster says.
    pod_ready: bool,
}

impl ShardState {
    fn new() -> ShardState {
        ShardState {
            streams: 0,
            seen: None,
            url: String::new(),
            generation: 0,
            reports: BTreeMap::new(),
            over_budget: BTreeMap::new(),
            line: watch::Sender::new(Arc::from("")),
            sent: 0,
            last: Snapshot::default(),
            pod_ready: false,
        }
    }
}

/// A move that is under way.
#[derive(Clone, Debug)]
struct Handoff {
    to: String,
    since: Instant,
}

/// The state of one fleet.
#[derive(Debug)]
pub struct FleetState {
    /// `NAMESPACE/NAME`.
    pub id: String,
    name: String,
    policy: Policy,
    shard_count: usize,
    replication: usize,
    compiled: Arc<Compiled>,
    shards: BTreeMap<String, ShardState>,
    /// Where targets are to be.
    owners: BTreeMap<u64, Vec<String>>,
    /// Who scrapes them: the owners, and those that wait to be relieved.
    serving: BTreeMap<u64, BTreeSet<String>>,
    handoffs: BTreeMap<u64, Vec<Handoff>>,
    weights: BTreeMap<u64, f64>,
    /// When a target moved last.
    moved: BTreeMap<u64, Instant>,
    generation: u64,
    placement: Placement,
    first_seen: Option<Instant>,
    started: Instant,
    balanced: Option<Instant>,
    last_members: Vec<Shard>,
    /// Voluntary moves so far.
    pub moves: u64,
}

/// What a fleet's status says of its shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub ready: usize,
    pub targets: usize,
    pub up: usize,
    pub series: u64,
    pub imbalance: f64,
    pub generation: u64,
    /// Shards that must run: those asked for, and those that still have targets to give away.
    pub running: usize,
    /// Moves that are under way.
    pub handoffs: usize,
}

impl FleetState {
    pub fn new(id: &str, policy: Policy, now: Instant) -> FleetState {
        FleetState {
            id: id.to_owned(),
            name: id.rsplit('/').next().unwrap_or(id).to_owned(),
            policy,
            shard_count: 0,
            replication: 1,
            compiled: Arc::default(),
            shards: BTreeMap::new(),
            owners: BTreeMap::new(),
            serving: BTreeMap::new(),
            handoffs: BTreeMap::new(),
            weights: BTreeMap::new(),
            moved: BTreeMap::new(),
            generation: 0,
            placement: Placement::default(),
            first_seen: None,
            started: now,
            balanced: None,
            last_members: Vec::new(),
            moves: 0,
        }
    }

    /// The name of a shard, which is its pod's.
    fn shard_name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// `None` for a name that no shard of this fleet can have.
    fn ordinal(&self, shard: &str) -> Option<usize> {
        let ordinal = shard.strip_prefix(&self.name)?.strip_prefix('-')?.parse().ok()?;
        (ordinal < MAX_SHARDS as usize && self.shard_name(ordinal) == shard).then_some(ordinal)
    }

    /// How many shards there should be, and on how many each target.
    pub fn set_spec(&mut self, shards: usize, replication: usize) {
        self.shard_count = shards.max(1);
        self.replication = replication.max(1);
        for i in 0..self.shard_count {
            self.shards.entry(self.shard_name(i)).or_insert_with(ShardState::new);
        }
    }

    pub fn set_compiled(&mut self, compiled: Arc<Compiled>) {
        self.compiled = compiled;
        let known = &self.compiled.targets;
        self.weights.retain(|id, _| known.contains_key(id));
        self.moved.retain(|id, _| known.contains_key(id));
        self.handoffs.retain(|id, _| known.contains_key(id));
    }

    /// Whether pods are ready, by shard.
    pub fn set_pods(&mut self, ready: &BTreeSet<String>) {
        for (name, shard) in &mut self.shards {
            shard.pod_ready = ready.contains(name);
        }
    }

    /// A shard listens. `None` for a name that no shard of this fleet has.
    pub fn connect(&mut self, shard: &str, now: Instant) -> Option<watch::Receiver<Line>> {
        self.ordinal(shard)?;
        self.first_seen.get_or_insert(now);
        let state = self.shards.entry(shard.to_owned()).or_insert_with(ShardState::new);
        state.streams += 1;
        state.seen = Some(now);
        Some(state.line.subscribe())
    }

    pub fn disconnect(&mut self, shard: &str, now: Instant) {
        if let Some(state) = self.shards.get_mut(shard) {
            state.streams = state.streams.saturating_sub(1);
            state.seen = Some(now);
        }
    }

    /// Takes a shard's report in. False for a name that no shard of this fleet has.
    pub fn report(&mut self, report: Report, now: Instant) -> bool {
        if self.ordinal(&report.shard).is_none() {
            return false;
        }
        self.first_seen.get_or_insert(now);
        // Whoever was told more than we know was told so by a leader before us.
        self.generation = self.generation.max(report.generation);
        for r in report.targets.iter().filter(|r| r.up) {
            let interval = self.compiled.targets.get(&r.id).map_or(30.0, |t| t.interval.as_secs_f64());
            let weight = r.samples as f64 * 30.0 / interval.max(0.001);
            let smooth = self.weights.get(&r.id).map_or(weight, |old| old * 0.8 + weight * 0.2);
            self.weights.insert(r.id, smooth);
        }
        // What a shard has when no owner is known (a new leader) it keeps.
        for r in &report.targets {
            let owners = self.owners.entry(r.id).or_default();
            if owners.len() < self.replication && !owners.contains(&report.shard) {
                owners.push(report.shard.clone());
                self.serving.entry(r.id).or_default().insert(report.shard.clone());
            }
        }
        let state = self.shards.entry(report.shard).or_insert_with(ShardState::new);
        state.seen = Some(now);
        state.generation = report.generation;
        state.url = report.url;
        state.over_budget = report.over_budget;
        state.reports = report.targets.into_iter().map(|r| (r.id, r)).collect();
        true
    }

    /// Whether a shard can be counted on.
    fn alive(&self, shard: &str, now: Instant) -> bool {
        self.shards.get(shard).is_some_and(|s| {
            let since = s.seen.unwrap_or(self.started);
            s.streams > 0 || s.pod_ready && s.seen.is_some() || now.duration_since(since) < self.policy.failover
        })
    }

    fn connected(&self, shard: &str) -> bool {
        self.shards.get(shard).is_some_and(|s| s.streams > 0)
    }

    /// Shards that take part in placement: those asked for that live, and those that drain.
    fn members(&self, now: Instant) -> Vec<Shard> {
        let mut members = Vec::new();
        for (name, state) in &self.shards {
            let draining = self.ordinal(name).is_none_or(|o| o >= self.shard_count);
            // A shard that was never heard of can't take anything over yet.
            let here = self.alive(name, now) && (state.seen.is_some() || self.first_seen.is_none());
            if here && (!draining || self.holds(name)) {
                members.push(Shard { name: name.clone(), draining });
            }
        }
        if members.iter().all(|m| m.draining) {
            // Nobody there: the assignment waits for whoever comes.
            members.extend((0..self.shard_count).map(|i| Shard { name: self.shard_name(i), draining: false }));
        }
        members
    }

    fn holds(&self, shard: &str) -> bool {
        self.serving.values().any(|s| s.contains(shard))
    }

    /// Whether placement may begin: every shard is there, or those that are have waited long enough.
    fn settled(&self, now: Instant) -> bool {
        let all = (0..self.shard_count).all(|i| self.connected(&self.shard_name(i)));
        all || self.first_seen.is_some_and(|f| now.duration_since(f) >= self.policy.settle)
    }

    /// Places targets, carries hand-offs on, and tells shards what is new. Call it after every change and now and
    /// then.
    pub fn step(&mut self, now: Instant) {
        if !self.settled(now) {
            return;
        }
        self.place(now);
        self.hand_over(now);
        self.publish();
    }

    fn place(&mut self, now: Instant) {
        let members = self.members(now);
        let changed = members != self.last_members;
        let due = self.balanced.is_none_or(|b| now.duration_since(b) >= self.policy.rebalance);
        let compiled = self.compiled.clone();
        let mut of_pool: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (id, target) in &compiled.targets {
            if let Some(w) = self.weights.get(id) {
                of_pool.entry(&target.pool).or_default().push(*w);
            }
        }
        let medians: BTreeMap<&str, f64> = of_pool
            .into_iter()
            .map(|(pool, mut w)| {
                w.sort_by(f64::total_cmp);
                (pool, w.get(w.len() / 2).copied().unwrap_or(UNKNOWN_WEIGHT))
            })
            .collect();
        let items: Vec<Item> = compiled
            .targets
            .iter()
            .map(|(id, target)| {
                let weight = self.weights.get(id).or_else(|| medians.get(&*target.pool)).copied();
                let resting = self.moved.get(id).is_some_and(|m| now.duration_since(*m) < self.policy.cooldown);
                Item {
                    id: *id,
                    weight: assign::quantise(weight.unwrap_or(UNKNOWN_WEIGHT)),
                    owners: self.owners.get(id).cloned().unwrap_or_default(),
                    // Shards that come or go weigh more than the rest of a single target.
                    pinned: (resting && !changed) || self.handoffs.contains_key(id),
                }
            })
            .collect();
        let max_moves = if changed || due { items.len() } else { 0 };
        let options = Options { replication: self.replication, max_moves, ..Options::default() };
        let placement = assign::place(&items, &members, &options);
        if changed || due {
            self.balanced = Some(now);
        }
        self.moves += placement.voluntary_moves as u64;
        self.last_members = members;
        self.owners.clone_from(&placement.owners);
        self.placement = placement;
    }

    /// Whether `to` does for a target what `from` did.
    fn confirmed(&self, id: u64, to: &str, from: &str) -> bool {
        let report = |shard: &str| self.shards.get(shard).and_then(|s| s.reports.get(&id)).copied();
        match report(to) {
            Some(r) if r.scraped => r.up || report(from).is_none_or(|f| !f.up),
            _ => false,
        }
    }

    fn hand_over(&mut self, now: Instant) {
        let compiled = self.compiled.clone();
        self.serving.retain(|id, _| compiled.targets.contains_key(id));
        self.owners.retain(|id, _| compiled.targets.contains_key(id));
        for (id, target) in &compiled.targets {
            let owners = self.owners.get(id).cloned().unwrap_or_default();
            let serving = self.serving.get(id).cloned().unwrap_or_default();
            let leaving: Vec<String> = serving.iter().filter(|s| !owners.contains(s)).cloned().collect();
            let coming: Vec<String> = owners.iter().filter(|s| !serving.contains(*s)).cloned().collect();
            let mut serves = serving;
            if !coming.is_empty() {
                serves.extend(coming.iter().cloned());
                if !leaving.is_empty() {
                    let to = coming.into_iter().map(|to| Handoff { to, since: now });
                    self.handoffs.entry(*id).or_default().extend(to);
                }
            }
            if leaving.is_empty() {
                self.handoffs.remove(id);
                self.serving.insert(*id, serves);
                continue;
            }
            // Those that are away can't be waited for, and need no relief: they are told when they come back.
            let here: Vec<&String> = leaving.iter().filter(|s| self.alive(s, now)).collect();
            let patience = target.interval * 3 + Duration::from_secs(15);
            let open = self.handoffs.get(id).cloned().unwrap_or_default();
            let done = |h: &Handoff| here.first().is_none_or(|from| self.confirmed(*id, &h.to, from));
            if open.iter().all(done) {
                leaving.iter().for_each(|s| {
                    serves.remove(s);
                });
                self.handoffs.remove(id);
                self.moved.insert(*id, now);
            } else if let Some(late) = open.iter().find(|h| !done(h) && now.duration_since(h.since) > patience)
                && let Some(back) = here.first()
            {
                // The newcomer can't do it: the old owner stays, and the target rests there.
                serves.remove(&late.to);
                if let Some(owner) = self.owners.get_mut(id).and_then(|o| o.iter_mut().find(|o| **o == late.to)) {
                    *owner = (*back).clone();
                }
                self.handoffs.remove(id);
                self.moved.insert(*id, now);
            }
            self.serving.insert(*id, serves);
        }
    }

    /// Makes each shard's snapshot anew, and sends those that say something new.
    fn publish(&mut self) {
        let mut by_shard: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (id, shards) in &self.serving {
            shards.iter().for_each(|s| by_shard.entry(s).or_default().push(*id));
        }
        let peers: Vec<Peer> = self
            .shards
            .iter()
            .filter(|(_, s)| !s.url.is_empty())
            .map(|(name, s)| Peer { name: name.clone(), url: s.url.clone() })
            .collect();
        let compiled = &self.compiled;
        let mut next = Vec::new();
        for (name, state) in &self.shards {
            let mut snapshot = Snapshot {
                fleet: self.id.clone(),
                shard: name.clone(),
                global: compiled.global.clone(),
                peers: peers.clone(),
                ..Snapshot::default()
            };
            let mut pools = BTreeSet::new();
            for id in by_shard.get(name.as_str()).into_iter().flatten() {
                if let Some(target) = compiled.targets.get(id) {
                    pools.insert(&*target.pool);
                    snapshot.targets.push(WireTarget::from(&**target));
                }
            }
            snapshot.jobs = pools.iter().filter_map(|p| compiled.jobs.get(*p).cloned()).collect();
            if !compiled.secrets.is_empty() {
                let text = serde_json::to_string(&snapshot.jobs).unwrap_or_default();
                let used = compiled.secrets.iter().filter(|(k, _)| text.contains(k.as_str()));
                snapshot.secrets = used.map(|(k, v)| (k.clone(), v.clone())).collect();
            }
            // A shard that was told by another leader needs a newer word, even if it says the same.
            if snapshot != state.last || state.line.borrow().is_empty() || state.generation > state.sent {
                next.push((name.clone(), snapshot));
            }
        }
        if next.is_empty() {
            return;
        }
        self.generation += 1;
        for (name, snapshot) in next {
            let Some(state) = self.shards.get_mut(&name) else { continue };
            let mine = |id: &u64| self.serving.get(id).is_some_and(|s| s.contains(&name));
            let mut sent = snapshot.clone();
            sent.generation = self.generation;
            // Told at every change for as long as the shard has them: it may have missed an earlier word.
            let elsewhere = state.reports.keys().filter(|id| compiled.targets.contains_key(id) && !mine(id));
            sent.moved = elsewhere.copied().collect();
            match serde_json::to_string(&Message::Snapshot(Box::new(sent))) {
                Ok(line) => {
                    state.line.send_replace(Arc::from(line));
                    state.last = snapshot;
                    state.sent = self.generation;
                }
                Err(error) => tracing::error!(fleet = self.id, shard = name, %error, "a snapshot can't be written"),
            }
        }
    }

    /// Monitors of which new series are refused, by the beginning of their jobs' names, with what a shard says of it.
    pub fn over_budget(&self) -> BTreeMap<&str, String> {
        let mut all = BTreeMap::new();
        for (shard, state) in &self.shards {
            for (owner, message) in &state.over_budget {
                all.entry(owner.as_str()).or_insert_with(|| format!("{shard}: {message}"));
            }
        }
        all
    }

    pub fn summary(&self) -> Summary {
        let (mut up, mut series) = (0, 0);
        for id in self.compiled.targets.keys() {
            let reports = self.shards.values().filter_map(|s| s.reports.get(id));
            let best = reports.max_by_key(|r| (r.up, r.samples));
            up += usize::from(best.is_some_and(|r| r.up));
            series += best.map_or(0, |r| r.samples);
        }
        let draining = self.shards.keys().filter(|s| self.holds(s)).filter_map(|s| self.ordinal(s)).max();
        Summary {
            ready: (0..self.shard_count).filter(|i| self.connected(&self.shard_name(*i))).count(),
            targets: self.compiled.targets.len(),
            up,
            series,
            imbalance: self.placement.imbalance(),
            generation: self.generation,
            running: self.shard_count.max(draining.map_or(0, |d| d + 1)),
            handoffs: self.handoffs.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use narthex_config::Target;
    use narthex_model::Labels;

    use super::*;

    /// A fleet and its shards as they would be, without network.
    struct Play {
        state: FleetState,
        now: Instant,
        /// What each shard has, as it was told.
        has: BTreeMap<String, Snapshot>,
        ears: BTreeMap<String, watch::Receiver<Line>>,
        /// Shards that scrape nothing.
        broken: BTreeSet<String>,
    }

    fn target(n: usize) -> Target {
        Target {
            pool: "p".into(),
            labels: Labels::from_pairs([("instance".to_owned(), format!("h{n}:1"))]),
            discovered: Labels::empty(),
            scheme: "http".into(),
            address: format!("h{n}:1"),
            path: "/metrics".into(),
            params: vec![],
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            histograms: Default::default(),
        }
    }

    /// What a shard reports that has been told a snapshot.
    fn report(shard: &str, held: &Snapshot, works: bool) -> Report {
        let one = |t: &WireTarget| TargetReport {
            id: Target::from(t.clone()).identity(),
            scraped: works,
            up: works,
            samples: 100,
            duration_ms: 1,
        };
        Report {
            fleet: "ns/f".into(),
            shard: shard.into(),
            generation: held.generation,
            url: format!("http://{shard}"),
            targets: held.targets.iter().map(one).collect(),
            over_budget: BTreeMap::from([("serviceMonitor/ns/m".to_owned(), "much".to_owned())]),
        }
    }

    fn compiled(n: usize) -> Arc<Compiled> {
        let targets = (0..n).map(|i| Arc::new(target(i))).map(|t| (t.identity(), t)).collect();
        let jobs = BTreeMap::from([("p".to_owned(), serde_json::json!({"job_name": "p"}))]);
        Arc::new(Compiled { targets, jobs, ..Compiled::default() })
    }

    impl Play {
        fn new(targets: usize, shards: usize) -> Play {
            let now = Instant::now();
            let mut state = FleetState::new("ns/f", Policy::default(), now);
            state.set_spec(shards, 1);
            state.set_compiled(compiled(targets));
            let mut play = Play { state, now, has: BTreeMap::new(), ears: BTreeMap::new(), broken: BTreeSet::new() };
            (0..shards).for_each(|i| play.join(&format!("f-{i}")));
            play
        }

        fn join(&mut self, shard: &str) {
            let ear = self.state.connect(shard, self.now).unwrap();
            self.ears.insert(shard.to_owned(), ear);
        }

        fn leave(&mut self, shard: &str) {
            self.ears.remove(shard);
            self.state.disconnect(shard, self.now);
        }

        /// A second passes: the state steps, shards hear and report.
        fn second(&mut self) {
            self.now += Duration::from_secs(1);
            self.state.step(self.now);
            for (shard, ear) in &mut self.ears {
                let line = ear.borrow_and_update().clone();
                if let Ok(Message::Snapshot(s)) = serde_json::from_str(&line) {
                    self.has.insert(shard.clone(), *s);
                }
                let held = self.has.get(shard).cloned().unwrap_or_default();
                let report = report(shard, &held, !self.broken.contains(shard));
                self.state.report(report, self.now);
            }
        }

        fn seconds(&mut self, n: usize) {
            (0..n).for_each(|_| self.second());
        }

        fn counts(&self) -> Vec<usize> {
            self.has.values().map(|s| s.targets.len()).collect()
        }

        /// How many of the listening shards scrape each target.
        fn coverage(&self) -> BTreeMap<String, usize> {
            let mut out = BTreeMap::new();
            for (_, s) in self.has.iter().filter(|(n, _)| self.ears.contains_key(*n)) {
                s.targets.iter().for_each(|t| *out.entry(t.address.clone()).or_default() += 1);
            }
            out
        }
    }

    #[test]
    fn targets_are_shared_out_and_all_shards_know_each_other() {
        let mut play = Play::new(10, 2);
        play.seconds(3);
        assert_eq!(play.counts(), [5, 5]);
        assert!(play.coverage().values().all(|n| *n == 1));
        assert_eq!(play.has["f-0"].peers.len(), 2);
        assert_eq!(play.has["f-0"].jobs.len(), 1);
        let generation = play.state.summary().generation;
        play.seconds(100);
        assert_eq!(play.state.summary().generation, generation, "nothing new, nothing said");
        let summary = play.state.summary();
        assert_eq!((summary.ready, summary.targets, summary.up, summary.series), (2, 10, 10, 1000));
    }

    #[test]
    fn a_third_shard_takes_a_third_and_nobody_is_unscraped_meanwhile() {
        let mut play = Play::new(12, 2);
        play.seconds(3);
        play.state.set_spec(3, 1);
        play.seconds(2);
        assert_eq!(play.counts(), [6, 6], "a shard that was never seen gets nothing");
        play.join("f-2");
        let mut doubly = 0;
        for _ in 0..10 {
            play.second();
            let coverage = play.coverage();
            assert_eq!(coverage.len(), 12);
            assert!(coverage.values().all(|n| (1..=2).contains(n)), "{coverage:?}");
            doubly = doubly.max(coverage.values().filter(|n| **n == 2).count());
        }
        assert_eq!((play.counts(), doubly), (vec![4, 4, 4], 4));
        assert!(play.coverage().values().all(|n| *n == 1));
        assert_eq!(play.has["f-0"].moved.len(), 2, "it is told that its targets moved");
    }

    #[test]
    fn a_newcomer_that_cannot_scrape_gives_back() {
        let mut play = Play::new(12, 2);
        play.seconds(3);
        play.state.set_spec(3, 1);
        play.broken.insert("f-2".to_owned());
        play.join("f-2");
        play.seconds(60);
        assert_eq!(play.counts(), [6, 6, 0]);
    }

    #[test]
    fn a_shard_that_is_away_keeps_its_targets_for_a_while() {
        let mut play = Play::new(10, 2);
        play.seconds(3);
        play.leave("f-1");
        play.seconds(10);
        assert_eq!(play.has["f-0"].targets.len(), 5);
        play.seconds(10);
        assert_eq!(play.has["f-0"].targets.len(), 10, "then the other takes over");
        play.join("f-1");
        play.seconds(10);
        assert_eq!(play.counts(), [5, 5], "and gives back when it returns");
    }

    #[test]
    fn a_shard_whose_pod_is_ready_is_not_replaced() {
        let mut play = Play::new(10, 2);
        play.seconds(3);
        play.state.set_pods(&BTreeSet::from(["f-1".to_owned()]));
        play.leave("f-1");
        play.seconds(60);
        assert_eq!(play.has["f-0"].targets.len(), 5);
    }

    #[test]
    fn scaling_down_drains() {
        let mut play = Play::new(12, 3);
        play.seconds(3);
        assert_eq!(play.counts(), [4, 4, 4]);
        play.state.set_spec(2, 1);
        assert_eq!(play.state.summary().running, 3, "it runs until it is empty");
        for _ in 0..10 {
            play.second();
            assert_eq!(play.coverage().len(), 12);
        }
        assert_eq!(play.counts(), [6, 6, 0]);
        assert_eq!(play.state.summary().running, 2);
    }

    #[test]
    fn a_new_leader_changes_nothing() {
        let mut play = Play::new(10, 2);
        play.seconds(3);
        let before = play.has.clone();
        let old = play.state.summary().generation;
        play.state = FleetState::new("ns/f", Policy::default(), play.now);
        play.state.set_spec(2, 1);
        play.state.set_compiled(compiled(10));
        // Shards report before they listen.
        for shard in ["f-0", "f-1"] {
            play.state.report(report(shard, &before[shard], true), play.now);
            play.join(shard);
        }
        play.seconds(5);
        for shard in ["f-0", "f-1"] {
            assert_eq!(play.has[shard].targets, before[shard].targets);
            assert!(play.has[shard].generation > old);
        }
    }

    #[test]
    fn what_shards_refuse_is_known() {
        let mut play = Play::new(10, 2);
        assert!(play.state.over_budget().is_empty());
        play.seconds(3);
        assert_eq!(play.state.over_budget(), BTreeMap::from([("serviceMonitor/ns/m", "f-0: much".to_owned())]));
    }

    #[test]
    fn strangers_are_turned_away() {
        let mut play = Play::new(1, 1);
        for name in ["g-0", "f", "f-", "f-x", "f-00", "f-+0", "f-1000", "f-18446744073709551615"] {
            assert!(play.state.connect(name, play.now).is_none(), "{name}");
            assert!(!play.state.report(Report { shard: name.into(), ..Report::default() }, play.now));
        }
    }
}
