//! Which requests were answered quickly the last time.
//!
//! An answer that takes less than a millisecond costs a good part of that again when it changes threads. So what was
//! quick is answered on the thread that it came in on, unless others wait for that thread; what was not, and what
//! nobody knows yet, on the threads for queries. Requests are the same here when they differ only in when: dashboards
//! and rules ask for the same all the time.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

use narthex_model::generations::Generations;
use parking_lot::Mutex;

use crate::api::Req;

/// Probes, pages and other requests may have to wait so long.
const QUICK: Duration = Duration::from_millis(2);

/// What is no longer quick is begun anew on the threads for queries when it has taken so long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// What comes in so soon after an answer waited while that was made: others may be waiting behind it.
const PAUSE: Duration = Duration::from_micros(150);

/// Most requests that are known.
const KNOWN: usize = 16 << 10;

thread_local! {
    /// When this thread made its last answer.
    static ANSWERED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The requests that were quick.
pub(crate) struct Quick {
    hasher: RandomState,
    lately: Mutex<Generations<u64, ()>>,
}

/// A request but for its times.
#[derive(Clone, Copy)]
pub(crate) struct Key(u64);

impl Default for Quick {
    fn default() -> Self {
        Quick { hasher: RandomState::new(), lately: Mutex::new(Generations::new(KNOWN)) }
    }
}

impl Quick {
    pub fn key(&self, req: &Req) -> Key {
        let mut hash = self.hasher.build_hasher();
        (&req.path, &req.name).hash(&mut hash);
        let seconds = |name| req.get(name).parse::<f64>().ok();
        let range = seconds("start").zip(seconds("end")).map(|(start, end)| (end - start) as i64);
        range.hash(&mut hash);
        for (name, value) in req.form.pairs() {
            if name != "time" && (range.is_none() || (name != "start" && name != "end")) {
                (name, value).hash(&mut hash);
            }
        }
        Key(hash.finish())
    }

    /// Whether to answer at once, on this thread.
    pub fn is_quick(&self, key: Key) -> bool {
        ANSWERED.get().is_none_or(|at| at.elapsed() > PAUSE) && self.lately.lock().get(&key.0).is_some()
    }

    /// Remembers how long the answer took that was `begun` then.
    pub fn answered(&self, key: Key, begun: Instant) {
        let now = Instant::now();
        ANSWERED.set(Some(now));
        let mut lately = self.lately.lock();
        if now - begun < QUICK {
            lately.insert(key.0, (), 1);
        } else {
            lately.remove(&key.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Form;

    #[test]
    fn requests_differ_in_all_but_when() {
        let quick = Quick::default();
        let key = |path: &str, form: &str| {
            let form = Form::parse(form);
            quick.key(&Req { path: path.into(), form, ..Req::default() }).0
        };
        let range = key("/query_range", "query=up&start=1000&end=4600&step=15");
        for (same, path, form) in [
            (true, "/query_range", "query=up&start=1015&end=4615.0&step=15"),
            (false, "/query_range", "query=up&start=1000&end=8200&step=15"),
            (false, "/query_range", "query=up&start=1000&end=4600&step=1"),
            (false, "/query_range", "query=down&start=1000&end=4600&step=15"),
            (false, "/query_range", "query=up&start=1000&end=4600"),
            (false, "/series", "query=up&start=1000&end=4600&step=15"),
        ] {
            assert_eq!(key(path, form) == range, same, "{path} {form}");
        }
        assert_eq!(key("/query", "query=up&time=1"), key("/query", "query=up&time=2"));
        let written = key("/query_range", "query=up&start=2020-01-01T00:00:00Z&end=2020-01-01T01:00:00Z&step=15");
        let other = key("/query_range", "query=up&start=2010-01-01T00:00:00Z&end=2020-01-01T01:00:00Z&step=15");
        assert_ne!(written, other);
    }

    #[test]
    fn only_what_was_quick_is_done_at_once_and_not_where_others_wait() {
        let quick = Quick::default();
        let key = quick.key(&Req { path: "/query".into(), ..Req::default() });
        // Each on a thread that made no answer yet.
        let is_quick = || std::thread::scope(|s| s.spawn(|| quick.is_quick(key)).join().unwrap());
        assert!(!is_quick());
        quick.answered(key, Instant::now());
        assert!(is_quick());
        quick.answered(key, Instant::now() - QUICK);
        assert!(!is_quick());
    }
}
