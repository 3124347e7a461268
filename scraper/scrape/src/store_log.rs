//! What the log says of scrapes that the store does not take: each cause once, and once that it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info};

/// A cause is over when nothing failed for so long: a disk that is nearly full takes some scrapes and not others.
const QUIET: Duration = Duration::from_secs(30);
/// So many causes are told apart; what comes beyond them is counted with the last one.
const CAUSES: usize = 16;

#[derive(Debug, Default)]
struct Failing {
    /// What was logged, digits left out: causes name files and counts that change.
    causes: Vec<String>,
    scrapes: u64,
    last: Option<Instant>,
}

/// What fails at present.
#[derive(Debug, Default)]
pub(crate) struct StoreLog {
    any: AtomicBool,
    failing: Mutex<Failing>,
}

impl StoreLog {
    /// Notes, and logs where that cause is new, that a scrape of `target` was not stored.
    pub fn failed(&self, target: &str, error: &dyn std::fmt::Display, now: Instant) {
        let error = error.to_string();
        let mut failing = self.failing.lock();
        failing.scrapes += 1;
        failing.last = Some(now);
        self.any.store(true, Ordering::Relaxed);
        let cause: String = error.chars().filter(|c| !c.is_ascii_digit()).collect();
        if failing.causes.len() < CAUSES && !failing.causes.contains(&cause) {
            failing.causes.push(cause);
            error!(target, error, "scrape commit failed; further ones for the same reason are only counted");
        }
    }

    /// Notes that a scrape was stored, and logs where that ends a failure.
    pub fn stored(&self, now: Instant) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut failing = self.failing.lock();
        if failing.last.is_some_and(|last| now.duration_since(last) >= QUIET) {
            info!(scrapes_lost = failing.scrapes, "scrapes are stored again");
            *failing = Failing::default();
            self.any.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// Keeps the messages of events.
    #[derive(Clone, Default)]
    pub struct Events(pub Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Events {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            struct Text(String);
            impl tracing::field::Visit for Text {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                    self.0 += &format!("{}={value:?} ", field.name());
                }
            }
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().push(text.0);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn each_cause_is_logged_once_until_it_is_over() {
        let events = Events::default();
        let _guard = tracing::subscriber::set_default(events.clone());
        let log = StoreLog::default();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let check = |s: u64, error: &str, expected: &[&str]| {
            match error {
                "" => log.stored(at(s)),
                error => log.failed(&format!("http://target-{s}"), &error, at(s)),
            }
            let new = std::mem::take(&mut *events.0.lock());
            assert_eq!(new.len(), expected.len(), "{s} s: {new:?}");
            assert!(new.iter().zip(expected).all(|(n, e)| n.contains(e)), "{s} s: {new:?}");
        };
        check(0, "", &[]);
        check(1, "no space left: 000012.log", &["000012.log"]);
        check(2, "no space left: 000013.log", &[]);
        check(3, "", &[]);
        check(4, "no space left: 000014.log", &[]);
        check(5, "read-only file system", &["http://target-5"]);
        check(34, "", &[]);
        check(35, "", &["scrapes_lost=4"]);
        check(36, "", &[]);
        check(37, "no space left: 000015.log", &["000015.log"]);
        for i in 0..100 {
            let name = "x".repeat(i + 1);
            log.failed("t", &name, at(38));
        }
        assert_eq!(events.0.lock().len(), CAUSES - 1, "bounded");
    }
}
