//! What one question was made of, and how long each part took: a tree that its answer shows when it was asked for.
//!
//! A trace that is off, which is the default, takes no steps and costs a look. One that is on has a bounded number of
//! steps and a bounded depth; what goes beyond is part of the step above.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Most steps of a trace, and most steps below each other.
const MAX_STEPS: usize = 1000;
const MAX_DEPTH: usize = 50;

/// A step of a trace, and where further ones go below it. Clones are the same step.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    began: Instant,
    depth: usize,
    /// Steps that there may be yet in the whole tree.
    left: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    message: String,
    figures: Vec<(&'static str, u64)>,
    took: Option<Duration>,
    children: Vec<Arc<Step>>,
}

/// A step as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceStep {
    pub message: String,
    pub took: Duration,
    pub children: Vec<TraceStep>,
}

/// Who looks on makes no difference to what is asked.
impl PartialEq for Trace {
    fn eq(&self, _: &Trace) -> bool {
        true
    }
}

impl Eq for Trace {}

impl Step {
    fn new(message: String, depth: usize, left: Arc<AtomicUsize>) -> Step {
        let state = State { message, figures: Vec::new(), took: None, children: Vec::new() };
        Step { began: Instant::now(), depth, left, state: Mutex::new(state) }
    }

    /// Recurses to the bounded depth.
    fn show(&self) -> TraceStep {
        let state = self.state.lock();
        let mut message = state.message.clone();
        for (i, (what, n)) in state.figures.iter().enumerate() {
            message.push_str(if i == 0 { ": " } else { ", " });
            message.push_str(&format!("{what} {n}"));
        }
        let took = state.took.unwrap_or_else(|| self.began.elapsed());
        TraceStep { message, took, children: state.children.iter().map(|c| c.show()).collect() }
    }
}

impl Trace {
    /// One that is on.
    pub fn new(message: String) -> Trace {
        Trace(Some(Arc::new(Step::new(message, 0, Arc::new(AtomicUsize::new(MAX_STEPS))))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a step below this one; it ends with [`Trace::end`]. Off where this one is, or where the tree is full.
    pub fn step(&self, message: impl FnOnce() -> String) -> Trace {
        let Some(step) = &self.0 else { return Trace(None) };
        let one_less = |n: usize| n.checked_sub(1);
        if step.depth >= MAX_DEPTH || step.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return Trace(None);
        }
        let child = Arc::new(Step::new(message(), step.depth + 1, step.left.clone()));
        step.state.lock().children.push(child.clone());
        Trace(Some(child))
    }

    /// Adds to a figure of the step: series, samples, bytes.
    pub fn add(&self, what: &'static str, n: u64) {
        let Some(step) = &self.0 else { return };
        let mut state = step.state.lock();
        match state.figures.iter_mut().find(|f| f.0 == what) {
            Some(figure) => figure.1 = figure.1.saturating_add(n),
            None => state.figures.push((what, n)),
        }
    }

    /// The step took until now. Only the first call counts.
    pub fn end(&self) {
        if let Some(step) = &self.0 {
            self.took(step.began.elapsed());
        }
    }

    /// The step took so long, whenever that was. Only the first call counts.
    pub fn took(&self, took: Duration) {
        if let Some(step) = &self.0 {
            step.state.lock().took.get_or_insert(took);
        }
    }

    /// The tree as it is now; what has not ended is shown as if it ended now. None where the trace is off.
    pub fn show(&self) -> Option<TraceStep> {
        self.0.as_ref().map(|step| step.show())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_figures() {
        let off = Trace::default();
        off.step(|| unreachable!()).add("x", 1);
        assert!(!off.is_on() && off.show().is_none());
        let root = Trace::new("query".into());
        let a = root.step(|| "a".into());
        a.add("series", 2);
        a.add("samples", 5);
        a.add("series", 3);
        a.step(|| "b".into()).took(Duration::from_secs(7));
        a.took(Duration::from_secs(9));
        a.end();
        let shown = root.show().unwrap();
        let took = |s| Duration::from_secs(s);
        let b = TraceStep { message: "b".into(), took: took(7), children: Vec::new() };
        let a = TraceStep { message: "a: series 5, samples 5".into(), took: took(9), children: vec![b] };
        assert_eq!((shown.message.as_str(), shown.children), ("query", vec![a]));
    }

    #[test]
    fn it_is_bounded() {
        let root = Trace::new(String::new());
        let mut deep = root.clone();
        let mut depth = 0;
        while deep.is_on() {
            deep = deep.step(String::new);
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH + 1);
        let wide = (0..2 * MAX_STEPS).filter(|_| root.step(String::new).is_on()).count();
        assert_eq!(wide, MAX_STEPS - MAX_DEPTH);
    }
}
