//! The shards of a queue: a bounded line of requests each, and one task that sends them in order.
//!
//! A series goes by one lane only, and a lane has one request on its way, so that a series' samples arrive in order. Each
//! request carries the position behind which everything was settled when its oldest sample was read: what all lanes have
//! settled follows from the oldest request that is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::encode::Encoded;

/// A request in line.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub request: Encoded,
    /// Where the tail was before the oldest of it was read.
    pub before: u64,
    /// It may have been sent before: by a process before this one.
    pub repeated: bool,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    sending: Option<u64>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    lanes: Vec<Lane>,
    generation: u64,
    closed: bool,
}

/// All lanes of a queue.
#[derive(Default)]
pub struct Lanes {
    state: Mutex<State>,
    moved: Condvar,
}

impl Lanes {
    /// Begins anew with `n` empty lanes; what tasks there are end. Returns the new tasks' generation.
    pub fn reset(&self, n: usize) -> u64 {
        let mut state = self.state.lock();
        state.lanes.iter().for_each(|l| l.wake.notify_one());
        state.lanes = (0..n).map(|_| Lane::default()).collect();
        state.generation += 1;
        state.generation
    }

    /// Puts a request into line.
    ///
    /// # Errors
    /// The request, where `most` are in line already.
    pub fn push(&self, lane: usize, request: Waiting, most: usize) -> Result<(), Waiting> {
        let mut state = self.state.lock();
        match state.lanes.get_mut(lane) {
            Some(lane) if lane.waiting.len() < most => {
                lane.waiting.push_back(request);
                lane.wake.notify_one();
                Ok(())
            }
            _ => Err(request),
        }
    }

    /// Waits until some request is through, or so long.
    pub fn wait(&self, time: Duration) {
        let mut state = self.state.lock();
        self.moved.wait_for(&mut state, time);
    }

    /// The oldest place that is not settled; none when nothing is left.
    pub fn oldest(&self) -> Option<u64> {
        let state = self.state.lock();
        state.lanes.iter().flat_map(|l| l.sending.into_iter().chain(l.waiting.front().map(|w| w.before))).min()
    }

    /// The next request of a lane; none when its task is to end. Cancel-safe.
    pub async fn next(&self, lane: usize, generation: u64) -> Option<Waiting> {
        loop {
            let wake = {
                let mut state = self.state.lock();
                if state.closed || state.generation != generation {
                    return None;
                }
                let lane = state.lanes.get_mut(lane)?;
                if let Some(next) = lane.waiting.pop_front() {
                    lane.sending = Some(next.before);
                    self.moved.notify_all();
                    return Some(next);
                }
                lane.wake.clone()
            };
            wake.notified().await;
        }
    }

    /// The request that [`Lanes::next`] gave is through.
    pub fn done(&self, lane: usize, generation: u64) {
        let mut state = self.state.lock();
        if state.generation == generation
            && let Some(lane) = state.lanes.get_mut(lane)
        {
            lane.sending = None;
            self.moved.notify_all();
        }
    }

    /// Ends all tasks when they are through with what they send.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.lanes.iter().for_each(|l| l.wake.notify_one());
    }

    /// Wakes up who waits.
    pub fn nudge(&self) {
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Counts;

    fn request(before: u64) -> Waiting {
        let request = Encoded { body: bytes::Bytes::new(), counts: Counts::default(), lowest: 0, highest: 0 };
        Waiting { request, before, repeated: false }
    }

    #[tokio::test]
    async fn what_is_settled_is_what_the_slowest_lane_has_settled() {
        let lanes = Lanes::default();
        let generation = lanes.reset(2);
        assert_eq!(lanes.oldest(), None);
        for (lane, before) in [(0, 10), (0, 20), (1, 15)] {
            assert!(lanes.push(lane, request(before), 2).is_ok());
        }
        assert!(lanes.push(0, request(30), 2).is_err(), "full");
        assert_eq!(lanes.oldest(), Some(10));
        let first = lanes.next(0, generation).await.unwrap();
        assert_eq!((first.before, lanes.oldest()), (10, Some(10)), "on its way is not settled");
        lanes.done(0, generation);
        assert_eq!(lanes.oldest(), Some(15));
        lanes.next(1, generation).await.unwrap();
        lanes.done(1, generation);
        assert_eq!(lanes.oldest(), Some(20));
        lanes.close();
        assert!(lanes.next(0, generation).await.is_none());
    }
}
