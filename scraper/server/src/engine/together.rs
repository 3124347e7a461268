//! Queries that wait for a slot and ask for the same are evaluated once.
//!
//! The first that waits leads, those that come until it begins follow and get its result. So each gets what it would have
//! got by itself: the data are read after all of them had come. Nobody follows one that has begun, for what was written
//! since then would be missing. Failures are not shared, since they may be the leader's own: its limits, its client that
//! left. Its followers then wait by themselves again.
//!
//! Where slots are free nobody waits, and this is not asked. It bounds what a crowd in front of one dashboard costs.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::class::Class;

/// What must be equal for a result to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub query: String,
    /// In milliseconds, as the engine takes them.
    pub times: (i64, i64, i64),
    pub lookback: i64,
    pub per_step_stats: bool,
    /// Its limits are the class's.
    pub class: Class,
}

type Followers<T> = Vec<oneshot::Sender<Arc<T>>>;
/// No more than requests are worked on.
type Waiting<T> = Arc<Mutex<HashMap<Question, Followers<T>>>>;

/// The questions that wait.
pub(super) struct Together<T>(Waiting<T>);

impl<T> Default for Together<T> {
    fn default() -> Self {
        Together(Waiting::default())
    }
}

/// What a question that waits does.
pub(super) enum Role<T> {
    Leads(Lead<T>),
    /// Gets the leader's result, or an error when there will be none.
    Follows(oneshot::Receiver<Arc<T>>),
}

/// The first of those that wait for the same.
pub(super) struct Lead<T> {
    waiting: Waiting<T>,
    question: Question,
    begun: bool,
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        // Whoever follows sees that there will be no result.
        self.begin();
    }
}

impl<T> Lead<T> {
    /// From here on nobody follows any more; gives those who do.
    pub(super) fn begin(&mut self) -> Followers<T> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        self.waiting.lock().remove(&self.question).unwrap_or_default()
    }
}

impl<T> Together<T> {
    pub(super) fn wait(&self, question: Question) -> Role<T> {
        let mut waiting = self.0.lock();
        if let Some(followers) = waiting.get_mut(&question) {
            let (to, result) = oneshot::channel();
            followers.retain(|f| !f.is_closed());
            followers.push(to);
            return Role::Follows(result);
        }
        waiting.insert(question.clone(), Vec::new());
        Role::Leads(Lead { waiting: self.0.clone(), question, begun: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_follows_and_who_comes_later_leads() {
        let all = Together::<u32>::default();
        let question = |query: &str| Question {
            query: query.to_owned(),
            times: (1, 2, 3),
            lookback: 0,
            per_step_stats: false,
            class: Class::Adhoc,
        };
        let Role::Leads(mut lead) = all.wait(question("a")) else { panic!("the first leads") };
        let Role::Follows(mut first) = all.wait(question("a")) else { panic!("the second follows") };
        assert!(matches!(all.wait(question("b")), Role::Leads(_)));
        let followers = lead.begin();
        assert_eq!(followers.len(), 1);
        let Role::Leads(second) = all.wait(question("a")) else { panic!("nobody follows one that has begun") };
        followers.into_iter().for_each(|f| f.send(Arc::new(7)).unwrap());
        assert_eq!(*first.try_recv().unwrap(), 7);
        drop(lead);
        // The end of one that has begun is not that of the next.
        let Role::Follows(mut follower) = all.wait(question("a")) else { panic!("it still leads") };
        drop(second);
        assert!(follower.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(all.0.lock().is_empty());
    }
}
