//! Notes to whoever looks at the page: "configuration reload failed", "shutting down". Listed at `/notifications`,
//! pushed at `/notifications/live`.

use std::sync::Arc;

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::sync::broadcast;

pub const CONFIG_FAILED: &str = "Configuration reload has failed.";
pub const STARTING: &str = "Prometheus is starting and replaying the write-ahead log (WAL).";
pub const STOPPING: &str = "Prometheus is shutting down and gracefully stopping all operations.";

/// One note.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Notification {
    pub text: String,
    /// RFC 3339.
    pub date: String,
    /// False in the message that takes a note back.
    pub active: bool,
}

/// Clones are the same list.
#[derive(Clone)]
pub struct Notifications(Arc<Inner>);

struct Inner {
    list: Mutex<Vec<Notification>>,
    live: broadcast::Sender<Notification>,
    max_listeners: usize,
    active: Gauge,
    updates: Counter,
    dropped: Counter,
}

impl Notifications {
    pub fn new(r: &Registry, max_listeners: usize) -> Notifications {
        // A listener that is more than 64 notes behind misses the oldest; it still has the list.
        let (live, _) = broadcast::channel(64);
        Notifications(Arc::new(Inner {
            list: Mutex::default(),
            live,
            max_listeners,
            active: r.gauge(
                "prometheus_api_notification_active_subscribers",
                "The current number of active notification subscribers.",
            ),
            updates: r.counter(
                "prometheus_api_notification_updates_sent_total",
                "Total number of notification updates sent.",
            ),
            dropped: r.counter(
                "prometheus_api_notification_updates_dropped_total",
                "Total number of notification updates dropped.",
            ),
        }))
    }

    /// Shows a note until it is taken back; a note that is already shown gets a new date.
    pub fn add(&self, text: &str) {
        let date = narthex_runtime::log::timestamp(std::time::SystemTime::now());
        let note = Notification { text: text.to_owned(), date, active: true };
        let mut list = self.0.list.lock();
        match list.iter_mut().find(|n| n.text == text) {
            Some(known) => *known = note.clone(),
            None => list.push(note.clone()),
        }
        let _ = self.0.live.send(note);
        self.0.updates.inc();
    }

    /// Takes a note back.
    pub fn remove(&self, text: &str) {
        let mut list = self.0.list.lock();
        if let Some(i) = list.iter().position(|n| n.text == text) {
            let note = Notification { active: false, ..list.remove(i) };
            let _ = self.0.live.send(note);
            self.0.updates.inc();
        }
    }

    pub fn list(&self) -> Vec<Notification> {
        self.0.list.lock().clone()
    }

    /// What is shown now and what follows; none when too many listen.
    pub fn listen(&self) -> Option<(Vec<Notification>, Listener)> {
        let list = self.0.list.lock();
        if self.0.live.receiver_count() >= self.0.max_listeners {
            return None;
        }
        let listener = Listener { live: self.0.live.subscribe(), of: self.clone() };
        self.0.active.set(self.0.live.receiver_count() as f64);
        Some((list.clone(), listener))
    }
}

/// A place among the listeners, given back on drop.
pub struct Listener {
    live: broadcast::Receiver<Notification>,
    of: Notifications,
}

impl Listener {
    /// The next note; none when there will be no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Notification> {
        loop {
            match self.live.recv().await {
                Ok(note) => return Some(note),
                Err(broadcast::error::RecvError::Lagged(n)) => self.of.0.dropped.add(n as f64),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.of.0.active.set(self.of.0.live.receiver_count().saturating_sub(1) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_get_what_is_new_and_are_limited() {
        let n = Notifications::new(&Registry::new(), 1);
        n.add("a");
        let (list, mut listener) = n.listen().unwrap();
        assert_eq!(list[0].text, "a");
        assert!(n.listen().is_none());
        n.remove("a");
        assert!(!listener.next().await.unwrap().active);
        drop(listener);
        assert!(n.listen().is_some());
        assert!(n.list().is_empty());
    }
}
