//! Which queries cost the most: what the last ones took, put together by text and span of time.
//!
//! Kept are the last 20,000 queries, and no more than some megabytes of their texts; the oldest go first. Nothing is
//! stored: a restart begins anew. Parameters and answer are those of VictoriaMetrics's `top_queries`, with more figures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::answer::{Answer, ApiError, ApiResult};
use crate::api::Req;
use crate::class::Class;
use crate::params;
use crate::state::App;

/// Most queries that are remembered, and most bytes of their texts.
const MAX_QUERIES: usize = 20_000;
const MAX_TEXTS: usize = 4 << 20;
/// Most bytes of one text and of one error; what is longer is cut, and such queries count by how they begin.
const MAX_TEXT: usize = 4 << 10;
const MAX_ERROR: usize = 300;

const DEFAULT_TOP: usize = 20;
const MOST_TOP: usize = 1000;
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// What a query was and what it took.
#[derive(Clone, Debug)]
pub struct Ran<'a> {
    pub query: &'a str,
    /// Seconds from start to end; 0 for an instant query.
    pub range: u64,
    pub class: Class,
    pub client: &'a str,
    /// Without waiting for a slot.
    pub took: Duration,
    /// As Prometheus counts them (`totalQueryableSamples`).
    pub samples: u64,
    /// The most bytes that it held.
    pub bytes: usize,
    pub error: Option<&'a str>,
}

/// Text and span.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    query: Box<str>,
    range: u64,
}

/// What is looked for, without being made.
#[derive(Hash)]
struct Wanted<'a> {
    query: &'a str,
    range: u64,
}

impl hashbrown::Equivalent<Arc<Key>> for Wanted<'_> {
    fn equivalent(&self, key: &Arc<Key>) -> bool {
        (&*key.query, key.range) == (self.query, self.range)
    }
}

struct Record {
    key: Arc<Key>,
    at: Instant,
    at_ms: i64,
    class: Class,
    took: Duration,
    samples: u64,
    bytes: usize,
    client: Box<str>,
    error: Option<Box<str>>,
}

impl Record {
    /// Of its own texts.
    fn text(&self) -> usize {
        self.client.len() + self.error.as_ref().map_or(0, |e| e.len())
    }
}

/// The queries of late.
#[derive(Default)]
pub struct TopQueries(Mutex<State>);

#[derive(Default)]
struct State {
    last: VecDeque<Record>,
    /// With how many records there are of each.
    keys: HashMap<Arc<Key>, usize>,
    texts: usize,
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl State {
    fn forget_oldest(&mut self) {
        let Some(record) = self.last.pop_front() else { return };
        self.texts -= record.text();
        if let Some(count) = self.keys.get_mut(&record.key) {
            *count -= 1;
            if *count == 0 {
                self.texts -= record.key.query.len();
                self.keys.remove(&record.key);
            }
        }
    }
}

impl TopQueries {
    pub fn add(&self, ran: &Ran<'_>) {
        let query = cut(ran.query, MAX_TEXT);
        let mut state = self.0.lock();
        let known = state.keys.get_key_value(&Wanted { query, range: ran.range }).map(|(key, _)| key.clone());
        let key = known.unwrap_or_else(|| {
            state.texts += query.len();
            Arc::new(Key { query: query.into(), range: ran.range })
        });
        *state.keys.entry(key.clone()).or_default() += 1;
        let record = Record {
            key,
            at: Instant::now(),
            at_ms: params::Time::now().ms(),
            class: ran.class,
            took: ran.took,
            samples: ran.samples,
            bytes: ran.bytes,
            client: ran.client.into(),
            error: ran.error.map(|e| cut(e, MAX_ERROR).into()),
        };
        state.texts += record.text();
        state.last.push_back(record);
        while state.last.len() > MAX_QUERIES || state.texts > MAX_TEXTS {
            state.forget_oldest();
        }
    }

    /// What ran in the last so long, by text and span, in no order.
    fn together(&self, lifetime: Duration) -> Vec<TopQuery> {
        let mut all: HashMap<*const Key, TopQuery> = HashMap::new();
        let state = self.0.lock();
        for r in state.last.iter().rev().take_while(|r| r.at.elapsed() <= lifetime) {
            let top = all.entry(Arc::as_ptr(&r.key)).or_insert_with(|| TopQuery {
                query: r.key.query.to_string(),
                time_range_seconds: r.key.range,
                // Newest first: these are the last one's.
                class: r.class.as_str(),
                client: r.client.to_string(),
                last_time: r.at_ms as f64 / 1000.0,
                ..TopQuery::default()
            });
            let seconds = r.took.as_secs_f64();
            top.count += 1;
            top.sum_duration_seconds += seconds;
            top.max_duration_seconds = top.max_duration_seconds.max(seconds);
            top.samples += r.samples;
            top.sum_bytes += r.bytes as f64;
            top.max_memory_bytes = top.max_memory_bytes.max(r.bytes);
            if let Some(error) = &r.error {
                top.errors += 1;
                top.last_error.get_or_insert_with(|| error.to_string());
            }
        }
        drop(state);
        let mut all: Vec<TopQuery> = all.into_values().collect();
        for top in &mut all {
            top.avg_duration_seconds = top.sum_duration_seconds / top.count as f64;
            top.avg_memory_bytes = (top.sum_bytes / top.count as f64) as u64;
        }
        all
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopQuery {
    query: String,
    time_range_seconds: u64,
    count: u64,
    sum_duration_seconds: f64,
    avg_duration_seconds: f64,
    max_duration_seconds: f64,
    samples: u64,
    avg_memory_bytes: u64,
    max_memory_bytes: usize,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Seconds since the epoch.
    last_time: f64,
    class: &'static str,
    client: String,
    #[serde(skip)]
    sum_bytes: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Top {
    #[serde(rename = "topN")]
    top_n: String,
    max_lifetime: String,
    #[serde(rename = "search.queryStats.lastQueriesCount")]
    last_queries_count: usize,
    top_by_count: Vec<TopQuery>,
    top_by_avg_duration: Vec<TopQuery>,
    top_by_sum_duration: Vec<TopQuery>,
    top_by_avg_memory_usage: Vec<TopQuery>,
}

/// Not in Prometheus: the costliest queries. `topN` says how many each list has, `maxLifetime` how long ago they ran.
pub async fn top_queries(app: Arc<App>, req: Req) -> ApiResult {
    let n = match [req.get("topN"), req.get("topNumber")].into_iter().find(|t| !t.is_empty()) {
        None => DEFAULT_TOP,
        Some(text) => match params::parse_limit(text).map_err(|e| ApiError::parameter("topN", e))? {
            n @ 1..=MOST_TOP => n,
            n => return Err(ApiError::parameter("topN", format!("{n} is not between 1 and {MOST_TOP}"))),
        },
    };
    let lifetime = match req.get("maxLifetime") {
        "" => DEFAULT_LIFETIME,
        text => {
            let nanos = params::parse_duration(text).map_err(|e| ApiError::parameter("maxLifetime", e))?;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
        }
    };
    let all = app.top.together(lifetime);
    let by = |key: fn(&TopQuery) -> f64| {
        let mut order: Vec<&TopQuery> = all.iter().collect();
        order.sort_by(|a, b| key(b).total_cmp(&key(a)).then_with(|| a.query.cmp(&b.query)));
        order.into_iter().take(n).cloned().collect::<Vec<_>>()
    };
    Answer::json(&Top {
        top_n: n.to_string(),
        max_lifetime: narthex_model::duration::format_go(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)),
        last_queries_count: MAX_QUERIES,
        top_by_count: by(|t| t.count as f64),
        top_by_avg_duration: by(|t| t.avg_duration_seconds),
        top_by_sum_duration: by(|t| t.sum_duration_seconds),
        top_by_avg_memory_usage: by(|t| t.avg_memory_bytes as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran<'a>(query: &'a str, millis: u64, error: Option<&'a str>) -> Ran<'a> {
        Ran {
            query,
            range: 60,
            class: Class::Adhoc,
            client: "a",
            took: Duration::from_millis(millis),
            samples: 10,
            bytes: 100 * millis as usize,
            error,
        }
    }

    #[test]
    fn the_same_is_put_together() {
        let top = TopQueries::default();
        top.add(&ran("x", 1000, None));
        top.add(&ran("y", 500, Some("first")));
        top.add(&ran("y", 1500, None));
        top.add(&Ran { client: "b", error: Some("last"), ..ran("y", 4000, None) });
        top.add(&Ran { range: 0, ..ran("y", 7, None) });
        let mut all = top.together(Duration::from_secs(3600));
        all.sort_by(|a, b| (&a.query, a.time_range_seconds).cmp(&(&b.query, b.time_range_seconds)));
        let figures: Vec<_> = all.iter().map(|t| (t.query.as_str(), t.time_range_seconds, t.count)).collect();
        assert_eq!(figures, [("x", 60, 1), ("y", 0, 1), ("y", 60, 3)]);
        let y = &all[2];
        assert_eq!((y.sum_duration_seconds, y.avg_duration_seconds, y.max_duration_seconds), (6.0, 2.0, 4.0));
        assert_eq!((y.samples, y.avg_memory_bytes, y.max_memory_bytes), (30, 200_000, 400_000));
        assert_eq!((y.errors, y.last_error.as_deref(), y.client.as_str()), (2, Some("last"), "b"));
        assert!(top.together(Duration::ZERO).is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let top = TopQueries::default();
        for i in 0..MAX_QUERIES + 5 {
            top.add(&ran(if i < 5 { "old" } else { "new" }, 1, None));
        }
        let all = top.together(Duration::from_secs(3600));
        assert_eq!((all.len(), all[0].count), (1, MAX_QUERIES as u64));
        for i in 0..5000 {
            top.add(&ran(&format!("{i}{}", "ü".repeat(MAX_TEXT)), 1, Some(&"e".repeat(10_000))));
        }
        let state = top.0.lock();
        assert!(state.texts <= MAX_TEXTS && state.last.len() > 900, "{} {}", state.texts, state.last.len());
        assert_eq!(state.keys.len(), state.last.len());
        let texts: usize = state.last.iter().map(|r| r.text() + r.key.query.len()).sum();
        assert_eq!(texts, state.texts);
    }
}
