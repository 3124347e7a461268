//! Slots in which queries run, shared out among the classes by need: see [`super`].

use std::collections::VecDeque;
use std::sync::Arc;

use narthex_runtime::metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{COUNT, Class, QueryOptions};

/// Who runs and who waits. Clones are the same.
#[derive(Clone)]
pub(super) struct Slots(Arc<SlotsInner>);

struct SlotsInner {
    total: usize,
    /// What each class may have when all are taken.
    reserve: usize,
    most: [usize; COUNT],
    running: [Gauge; COUNT],
    waiting: [Gauge; COUNT],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: [usize; COUNT],
    /// No more than requests are worked on. Whoever has gone is passed over.
    waiting: [VecDeque<oneshot::Sender<Slot>>; COUNT],
}

/// The right to run, given back on drop.
pub struct Slot {
    of: Slots,
    class: Class,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.of.freed(self.class);
    }
}

impl Slots {
    pub(super) fn new(options: &QueryOptions, running: [Gauge; COUNT], waiting: [Gauge; COUNT]) -> Slots {
        let total = options.all.max_concurrency.max(1);
        let most = options.classes.map(|c| c.max_concurrency.filter(|n| *n > 0).unwrap_or(total).min(total));
        let reserve = (total / 10).max(1);
        Slots(Arc::new(SlotsInner { total, reserve, most, running, waiting, state: Mutex::default() }))
    }

    pub(super) fn try_slot(&self, class: Class) -> Option<Slot> {
        let mut state = self.0.state.lock();
        self.0.has_room(&state, class).then(|| {
            self.0.run(&mut state, class);
            Slot { of: self.clone(), class }
        })
    }

    pub(super) async fn slot(&self, class: Class) -> Slot {
        let turn = {
            let mut state = self.0.state.lock();
            if self.0.has_room(&state, class) {
                self.0.run(&mut state, class);
                return Slot { of: self.clone(), class };
            }
            let (to, turn) = oneshot::channel();
            let queue = &mut state.waiting[class as usize];
            queue.retain(|w| !w.is_closed());
            queue.push_back(to);
            turn
        };
        let _waits = self.0.waiting[class as usize].hold();
        match turn.await {
            Ok(slot) => slot,
            // The list lives as long as we do.
            Err(_) => std::future::pending().await,
        }
    }

    fn freed(&self, class: Class) {
        let mut lucky = Vec::new();
        {
            let mut state = self.0.state.lock();
            state.running[class as usize] -= 1;
            self.0.running[class as usize].add(-1.0);
            while let Some((class, to)) = self.0.next(&mut state) {
                self.0.run(&mut state, class);
                lucky.push((class, to));
            }
        }
        // One that has gone drops its slot, which then goes to the next: not under the lock.
        for (class, to) in lucky {
            let _ = to.send(Slot { of: self.clone(), class });
        }
    }
}

impl SlotsInner {
    fn has_room(&self, state: &State, class: Class) -> bool {
        let own = state.running[class as usize];
        own < self.most[class as usize] && (own < self.reserve || state.running.iter().sum::<usize>() < self.total)
    }

    fn run(&self, state: &mut State, class: Class) {
        state.running[class as usize] += 1;
        self.running[class as usize].add(1.0);
    }

    /// Who runs next, if anybody waits and may.
    fn next(&self, state: &mut State) -> Option<(Class, oneshot::Sender<Slot>)> {
        for queue in &mut state.waiting {
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
        }
        let waits = |c: &Class| !state.waiting[*c as usize].is_empty() && self.has_room(state, *c);
        let class = Class::ALL.into_iter().filter(waits).min_by_key(|c| state.running[*c as usize])?;
        let to = state.waiting[class as usize].pop_front()?;
        Some((class, to))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::Limits;
    use super::*;

    #[tokio::test]
    async fn no_class_keeps_another_one_out() {
        let all = Limits { max_concurrency: 3, ..Limits::default() };
        let mut options = QueryOptions { all, ..QueryOptions::default() };
        options.class("rules:max-concurrency=2", |_| Err(String::new())).unwrap();
        let gauges = || Class::ALL.map(|_| Gauge::default());
        let c = Arc::new(Slots::new(&options, gauges(), gauges()));
        let now = |class| c.slot(class).now_or_never();
        let mut adhoc: Vec<Slot> = (0..3).map(|_| now(Class::Adhoc).expect("one class alone has all")).collect();
        assert!(now(Class::Adhoc).is_none());
        let dashboard = now(Class::Dashboard).expect("one slot is there whoever has the others");
        assert!(now(Class::Dashboard).is_none());
        // Those who wait: in turn within a class, the class with the fewest first.
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |class, n: usize| {
            let (c, order) = (c.clone(), order.clone());
            tokio::spawn(async move {
                let slot = c.slot(class).await;
                order.lock().push((class, n));
                std::mem::forget(slot);
            })
        };
        let gone = wait(Class::Adhoc, 0);
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        let waiting = [wait(Class::Adhoc, 1), wait(Class::Adhoc, 2), wait(Class::Dashboard, 3)];
        tokio::task::yield_now().await;
        assert_eq!(c.0.waiting[Class::Adhoc as usize].get(), 2.0);
        // Four run: with one less all three are still taken.
        drop(adhoc.pop());
        tokio::task::yield_now().await;
        assert!(order.lock().is_empty());
        drop(dashboard);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock(), [(Class::Dashboard, 3)]);
        drop(adhoc);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [(Class::Dashboard, 3), (Class::Adhoc, 1), (Class::Adhoc, 2)]);
        let rules: Vec<_> = (0..3).map(|_| now(Class::Rules)).collect();
        assert_eq!(rules.iter().flatten().count(), 1);
    }
}
