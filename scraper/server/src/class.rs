//! Classes of questions: what each may read and hold, and how many of its queries run at once.
//!
//! Rules are evaluated by the server itself. A request is ad hoc unless it says that it comes from a dashboard
//! ([`Classes::of`]). What a request says of itself is believed only with `--query.trust-class`: else it gets the stricter
//! one of each limit, of the class that it names and of the ad-hoc class, so that nobody gains by a name.
//!
//! Slots are shared by need: one class alone may have all of `--query.max-concurrency`. A class with less than a tenth
//! of those (at least one) gets a slot even when others have them all, so that none keeps another one out; there are that
//! many more queries at most. A free slot goes to the class that has the fewest, and there to who waits longest.

mod slots;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use http::HeaderMap;
use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Family, Gauge, Kind, Labelled};
use narthex_storage::{Bound, MemoryPool, Meter, MeterOptions};

pub use self::slots::Slot;
use self::slots::Slots;
use crate::answer::ApiError;

/// Whose question it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Recording and alerting rules.
    Rules,
    /// Panels and what else asks for the same again and again.
    Dashboard,
    /// Everybody else.
    #[default]
    Adhoc,
}

const COUNT: usize = 3;

impl Class {
    pub const ALL: [Class; COUNT] = [Class::Rules, Class::Dashboard, Class::Adhoc];

    pub fn as_str(self) -> &'static str {
        match self {
            Class::Rules => "rules",
            Class::Dashboard => "dashboard",
            Class::Adhoc => "adhoc",
        }
    }

    fn named(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|c| c.as_str() == name)
    }
}

/// What a question may do. 0 means no limit, but for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series found, each as often as a selector finds it.
    pub max_series: usize,
    /// Samples in memory, as Prometheus counts them.
    pub max_samples: usize,
    /// Bytes in memory, about.
    pub max_bytes: usize,
    /// Bytes in memory of all questions together: of the class, or of all.
    pub max_total_bytes: usize,
    pub timeout: Duration,
    /// Queries that run at once.
    pub max_concurrency: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_series: 0,
            max_samples: 50_000_000,
            max_bytes: 4 << 30,
            max_total_bytes: 0,
            timeout: Duration::from_secs(120),
            max_concurrency: 20,
        }
    }
}

/// Limits of a class where they differ from those of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLimits {
    pub max_series: Option<usize>,
    pub max_samples: Option<usize>,
    pub max_bytes: Option<usize>,
    pub max_total_bytes: Option<usize>,
    pub timeout: Option<Duration>,
    pub max_concurrency: Option<usize>,
}

/// Limits of all and of each class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    /// Of each question, whatever its class; `max_total_bytes` and `max_concurrency` of all together.
    pub all: Limits,
    /// By [`Class`].
    pub classes: [ClassLimits; COUNT],
    /// What a request says of its class is true.
    pub trust: bool,
    /// Each query is evaluated by itself, even those that wait for a slot together.
    pub each_alone: bool,
}

impl QueryOptions {
    /// Takes `NAME:limit=value,…` as `--query.class` has it; `bytes` parses a size.
    ///
    /// # Errors
    /// In words, without the flag's name.
    pub fn class(&mut self, text: &str, bytes: impl Fn(&str) -> Result<usize, String>) -> Result<(), String> {
        let (name, rest) = text.split_once(':').ok_or_else(|| format!("{text:?} is not CLASS:LIMIT=VALUE,…"))?;
        let class =
            Class::named(name).ok_or_else(|| format!("no class {name:?}: there are rules, dashboard and adhoc"))?;
        let limits = &mut self.classes[class as usize];
        for pair in rest.split(',') {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not LIMIT=VALUE"))?;
            let number = || value.parse().map_err(|_| format!("{key}: {value:?} is not a number"));
            match key {
                "max-series" => limits.max_series = Some(number()?),
                "max-samples" => limits.max_samples = Some(number()?),
                "max-bytes" => limits.max_bytes = Some(bytes(value).map_err(|e| format!("{key}: {e}"))?),
                "max-total-bytes" => limits.max_total_bytes = Some(bytes(value).map_err(|e| format!("{key}: {e}"))?),
                "max-concurrency" => limits.max_concurrency = Some(number()?),
                "timeout" => {
                    let timeout = narthex_model::duration::parse(value).map_err(|e| format!("{key}: {e}"))?;
                    limits.timeout = Some(timeout);
                }
                _ => {
                    return Err(format!(
                        "no limit {key:?}: there are max-series, max-samples, max-bytes, max-total-bytes, max-concurrency and timeout"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The limits of a class and where each comes from.
    fn resolve(&self, class: Class) -> Resolved {
        self.resolve_as(&self.classes[class as usize], |own, name| {
            let class = class.as_str();
            if own { format!("--query.class={class}:{name}") } else { format!("--query.{name}, class {class}") }
        })
    }

    fn resolve_as(&self, of: &ClassLimits, hint: impl Fn(bool, &str) -> String) -> Resolved {
        let all = &self.all;
        let hint = |own: bool, name: &str| -> Arc<str> { hint(own, name).into() };
        let bound = |own: Option<usize>, all: usize, name: &str| {
            // A class may have less than all, not more: what protects the process holds for each.
            let (most, own) = match (own, all) {
                (Some(own @ 1..), 0) => (own, true),
                (Some(own @ 1..), all) if own <= all => (own, true),
                _ => (all, false),
            };
            Bound { most, hint: hint(own, name) }
        };
        let timeout = of.timeout.filter(|t| *t <= all.timeout);
        Resolved {
            series: bound(of.max_series, all.max_series, "max-series"),
            samples: bound(of.max_samples, all.max_samples, "max-samples"),
            bytes: bound(of.max_bytes, all.max_bytes, "max-bytes"),
            timeout: timeout.unwrap_or(all.timeout),
            timeout_hint: hint(timeout.is_some(), "timeout"),
        }
    }
}

/// The limits of one question.
#[derive(Clone, Debug)]
struct Resolved {
    series: Bound,
    samples: Bound,
    bytes: Bound,
    timeout: Duration,
    timeout_hint: Arc<str>,
}

impl Resolved {
    /// The stricter one of each.
    fn and(self, other: Resolved) -> Resolved {
        let least = |a: Bound, b: Bound| match (a.most, b.most) {
            (0, _) => b,
            (_, 0) => a,
            (x, y) => {
                if x <= y {
                    a
                } else {
                    b
                }
            }
        };
        let (timeout, timeout_hint) = match self.timeout <= other.timeout {
            true => (self.timeout, self.timeout_hint),
            false => (other.timeout, other.timeout_hint),
        };
        Resolved {
            series: least(self.series, other.series),
            samples: least(self.samples, other.samples),
            bytes: least(self.bytes, other.bytes),
            timeout,
            timeout_hint,
        }
    }
}

/// A question's class and its limits.
#[derive(Clone, Debug)]
pub struct Asking {
    pub class: Class,
    pub max_samples: usize,
    pub max_bytes: usize,
    pub timeout: Duration,
    /// Counts series and bytes against the limits.
    pub meter: Meter,
    samples_hint: Arc<str>,
    timeout_hint: Arc<str>,
}

impl Asking {
    /// What is said of a query with too many samples.
    pub fn samples_hint(&self) -> String {
        format!("at most {}, {}", self.max_samples, self.samples_hint)
    }

    /// What is said of one that took longer than its class may.
    pub fn timeout_hint(&self) -> String {
        format!("at most {}, {}", narthex_model::duration::format(self.timeout), self.timeout_hint)
    }
}

/// The classes with their limits, their slots and their counts.
pub struct Classes {
    trusted: [Resolved; COUNT],
    claimed: [Resolved; COUNT],
    peers: Resolved,
    trust: bool,
    pools: [MemoryPool; COUNT],
    all: MemoryPool,
    slots: Slots,
    queries: Labelled<Counter>,
    seconds: Labelled<Counter>,
    limited: Labelled<Counter>,
}

impl Classes {
    pub fn new(options: &QueryOptions, r: &Registry) -> Classes {
        let trusted = Class::ALL.map(|c| options.resolve(c));
        let claimed = Class::ALL.map(|c| options.resolve(c).and(options.resolve(Class::Adhoc)));
        let pools = Class::ALL.map(|c| {
            let most = options.classes[c as usize].max_total_bytes.unwrap_or(0);
            let hint = format!("--query.class={}:max-total-bytes", c.as_str()).into();
            MemoryPool::new(Bound { most, hint })
        });
        let all = MemoryPool::new(Bound { most: options.all.max_total_bytes, hint: "--query.max-total-bytes".into() });
        let names = &["class"];
        let running = r.gauges("narthex_query_class_running", "Queries of a class that are evaluated now.", names);
        let waiting = r.gauges("narthex_query_class_waiting", "Queries of a class that wait for a slot.", names);
        let of = |gauges: &Labelled<Gauge>| Class::ALL.map(|c| gauges.with(&[c.as_str()]));
        let slots = Slots::new(options, of(&running), of(&waiting));
        let held = pools.clone();
        r.register(move |out| {
            let help = "Bytes that questions of a class hold in memory now, about.";
            let mut family = Family::new("narthex_query_class_memory_bytes", help, Kind::Gauge);
            for (class, pool) in Class::ALL.iter().zip(&held) {
                family.push(&[("class", class.as_str())], pool.used() as f64);
            }
            out.push(family);
        });
        let classes = Classes {
            trusted,
            claimed,
            peers: options.resolve_as(&ClassLimits::default(), |_, name| format!("--query.{name}")),
            trust: options.trust,
            pools,
            all,
            slots,
            queries: r.counters("narthex_query_class_queries_total", "Queries of a class.", names),
            seconds: r.counters(
                "narthex_query_class_seconds_total",
                "Time that queries of a class took, without waiting.",
                names,
            ),
            limited: r.counters(
                "narthex_query_class_limited_total",
                "Questions of a class that a limit ended: samples, timeout, or memory (series and bytes).",
                &["class", "limit"],
            ),
        };
        for class in Class::ALL {
            classes.queries.with(&[class.as_str()]);
            classes.seconds.with(&[class.as_str()]);
        }
        classes
    }

    /// The class that a request is of: what the header `X-Narthex-Query-Class` says; else dashboard where Grafana's
    /// headers name a dashboard, a panel or a rule; else ad hoc. Nobody is of the rules' class who is not trusted.
    ///
    /// # Errors
    /// For a class that does not exist.
    pub fn of(&self, headers: &HeaderMap) -> Result<Class, ApiError> {
        if let Some(named) = headers.get("x-narthex-query-class") {
            let name = named.to_str().unwrap_or_default();
            return match Class::named(name) {
                Some(Class::Rules) if !self.trust => Ok(Class::Dashboard),
                Some(class) => Ok(class),
                None => Err(ApiError::bad_data(format!(
                    "no query class {name:?} (header X-Narthex-Query-Class): there are rules, dashboard and adhoc"
                ))),
            };
        }
        let is_there = |name: &&str| headers.get(*name).is_some_and(|v| !v.is_empty());
        let dashboard = ["x-dashboard-uid", "x-panel-id", "x-rule-uid", "fromalert"].iter().any(is_there);
        Ok(if dashboard { Class::Dashboard } else { Class::Adhoc })
    }

    /// The limits of a request of a class, with a meter of its own. `cancel` is set by who no longer wants the answer.
    pub fn request(&self, class: Class, cancel: Option<Arc<AtomicBool>>) -> Asking {
        let all = if self.trust { &self.trusted } else { &self.claimed };
        self.asking(class, &all[class as usize], cancel)
    }

    /// The same for what the server asks itself.
    pub fn own(&self, class: Class, cancel: Option<Arc<AtomicBool>>) -> Asking {
        self.asking(class, &self.trusted[class as usize], cancel)
    }

    /// Limits of what another shard asks here, for a query of its own.
    pub fn peer(&self) -> Meter {
        Meter::new(MeterOptions {
            series: self.peers.series.clone(),
            bytes: self.peers.bytes.clone(),
            pools: vec![self.all.clone()],
            deadline: Instant::now().checked_add(self.peers.timeout),
            cancel: None,
        })
    }

    fn asking(&self, class: Class, limits: &Resolved, cancel: Option<Arc<AtomicBool>>) -> Asking {
        let meter = Meter::new(MeterOptions {
            series: limits.series.clone(),
            bytes: limits.bytes.clone(),
            pools: vec![self.pools[class as usize].clone(), self.all.clone()],
            deadline: Instant::now().checked_add(limits.timeout),
            cancel,
        });
        Asking {
            class,
            max_samples: limits.samples.most,
            max_bytes: limits.bytes.most,
            timeout: limits.timeout,
            meter,
            samples_hint: limits.samples.hint.clone(),
            timeout_hint: limits.timeout_hint.clone(),
        }
    }

    /// A slot that is free.
    pub fn try_slot(&self, class: Class) -> Option<Slot> {
        self.slots.try_slot(class)
    }

    /// Waits for a slot in which a query of the class may run. Cancel-safe.
    pub async fn slot(&self, class: Class) -> Slot {
        self.slots.slot(class).await
    }

    /// A query has been evaluated.
    pub(crate) fn done(&self, class: Class, took: Duration) {
        self.queries.with(&[class.as_str()]).inc();
        self.seconds.with(&[class.as_str()]).add(took.as_secs_f64());
    }

    /// A limit ended a question.
    pub(crate) fn limited(&self, class: Class, limit: &str) {
        self.limited.with(&[class.as_str(), limit]).inc();
    }
}

#[cfg(test)]
mod tests {
    use narthex_storage::ErrorKind;

    use super::*;

    fn options(all: Limits, classes: &[&str]) -> QueryOptions {
        let mut options = QueryOptions { all, ..QueryOptions::default() };
        classes.iter().for_each(|c| options.class(c, |b| b.parse().map_err(|_| "no size".to_owned())).unwrap());
        options
    }

    fn classes(options: &QueryOptions) -> Classes {
        Classes::new(options, &Registry::new())
    }

    #[test]
    fn flags() {
        let mut o = QueryOptions::default();
        let mut check = |text: &str| o.class(text, |b| b.parse().map_err(|_| format!("{b:?} is no size")));
        assert_eq!(check("adhoc:max-series=10,timeout=30s,max-bytes=5"), Ok(()));
        for (text, expected) in [
            ("adhoc", "\"adhoc\" is not CLASS:LIMIT=VALUE,…"),
            ("x:timeout=1s", "no class \"x\": there are rules, dashboard and adhoc"),
            ("adhoc:timeout", "\"timeout\" is not LIMIT=VALUE"),
            ("adhoc:max-series=-1", "max-series: \"-1\" is not a number"),
            ("adhoc:max-bytes=x", "max-bytes: \"x\" is no size"),
        ] {
            assert_eq!(check(text), Err(expected.to_owned()));
        }
        assert!(check("adhoc:max-foo=1").unwrap_err().starts_with("no limit \"max-foo\""));
        let of = o.classes[Class::Adhoc as usize];
        assert_eq!((of.max_series, of.timeout, of.max_bytes), (Some(10), Some(Duration::from_secs(30)), Some(5)));
    }

    #[test]
    fn nobody_gains_by_a_name() {
        let all = Limits { max_series: 1000, ..Limits::default() };
        let mut o = options(all, &["adhoc:max-series=10,timeout=30s", "dashboard:max-series=100,max-samples=7"]);
        let c = classes(&o);
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
        };
        for (header, trusted, expected) in [
            (("x-dashboard-uid", "abc"), false, Class::Dashboard),
            (("x-panel-id", ""), false, Class::Adhoc),
            (("accept", "x"), false, Class::Adhoc),
            (("x-narthex-query-class", "adhoc"), false, Class::Adhoc),
            (("x-narthex-query-class", "rules"), false, Class::Dashboard),
            (("x-narthex-query-class", "rules"), true, Class::Rules),
        ] {
            o.trust = trusted;
            assert_eq!(classes(&o).of(&headers(header.0, header.1)).unwrap(), expected, "{header:?}");
        }
        assert!(c.of(&headers("x-narthex-query-class", "me")).is_err());
        let series = |a: &Asking, most: usize| {
            a.meter.series(most).unwrap();
            a.meter.series(1).unwrap_err().to_string()
        };
        // Only says that it is a dashboard.
        let asking = c.request(Class::Dashboard, None);
        assert!(series(&asking, 10).ends_with("10 series (--query.class=adhoc:max-series)"));
        assert_eq!((asking.max_samples, asking.timeout), (7, Duration::from_secs(30)));
        assert_eq!(asking.timeout_hint(), "at most 30s, --query.class=adhoc:timeout");
        assert_eq!(asking.samples_hint(), "at most 7, --query.class=dashboard:max-samples");
        // Is one.
        o.trust = true;
        let asking = classes(&o).request(Class::Dashboard, None);
        assert!(series(&asking, 100).ends_with("(--query.class=dashboard:max-series)"));
        assert_eq!(asking.timeout, Duration::from_secs(120));
        assert_eq!(asking.timeout_hint(), "at most 2m, --query.timeout, class dashboard");
        assert!(series(&c.own(Class::Rules, None), 1000).ends_with("(--query.max-series, class rules)"));
    }

    #[test]
    fn a_class_has_no_more_than_all() {
        let all = Limits { max_bytes: 100_000, max_total_bytes: 150_000, ..Limits::default() };
        let o = options(all, &["adhoc:max-bytes=900000,timeout=1h", "dashboard:max-total-bytes=70000"]);
        let c = classes(&o);
        let (a, b, d) = (c.own(Class::Adhoc, None), c.own(Class::Adhoc, None), c.own(Class::Dashboard, None));
        assert_eq!((a.max_bytes, a.timeout), (100_000, Duration::from_secs(120)));
        a.meter.take(100_000).unwrap();
        let e = b.meter.take(60_000).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Limit);
        assert!(e.to_string().ends_with("150000 bytes in memory (--query.max-total-bytes)"), "{e}");
        drop(a);
        b.meter.take(60_000).unwrap();
        let e = d.meter.take(80_000).unwrap_err().to_string();
        assert!(e.ends_with("(--query.class=dashboard:max-total-bytes)"), "{e}");
    }
}
