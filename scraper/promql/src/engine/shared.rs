//! Parts that stand in a query several times are selected and evaluated once.
//!
//! Two parts are the same if their texts are, to the character, and they select the same: so even the places in their
//! annotations differ by a distance. Left alone are parts whose series go one by one into an aggregation or a function,
//! since sharing would hold them in memory; and parts of subqueries and of what is step-invariant, which have steps of
//! their own: those are shared as a whole.

use hashbrown::HashMap;

use super::EngineError;
use super::SampleStats;
use super::columns::Series;
use super::eval::{Evaluator, Out};
use super::plan::{Kind, Node, Select};
use super::windows::Grid;
use crate::annotations::Annotations;

/// Numbers the nodes that come several times, and returns how often each comes. Selects that are not needed any more
/// are marked.
pub(super) fn mark(root: &mut Node, text: &str, selects: &mut [Select]) -> Vec<usize> {
    let mut marker = Marker { text, selects, seen: HashMap::new(), uses: Vec::new() };
    if let Kind::StepInvariant(inner) = &mut root.kind {
        marker.below(inner);
    } else {
        marker.below(root);
    }
    marker.uses
}

struct Marker<'a> {
    text: &'a str,
    selects: &'a mut [Select],
    /// By text: the selects of a part, and its number.
    seen: HashMap<&'a str, Vec<(Vec<Used>, usize)>>,
    uses: Vec<usize>,
}

impl Marker<'_> {
    fn visit(&mut self, node: &mut Node, may_share: bool) {
        if may_share && self.share(node) {
            return;
        }
        self.below(node);
    }

    fn below(&mut self, node: &mut Node) {
        let streams = |n: &Node| match &n.kind {
            Kind::Selector(_) => true,
            Kind::Call(c) => c.args.iter().any(|a| matches!(a.kind, Kind::Range(_) | Kind::Subquery(_))),
            _ => false,
        };
        match &mut node.kind {
            Kind::Call(c) => {
                for arg in &mut c.args {
                    let may_share = !matches!(arg.kind, Kind::Selector(_));
                    self.visit(arg, may_share);
                }
            }
            Kind::Aggregate(a) => {
                let may_share = !streams(&a.expr);
                self.visit(&mut a.expr, may_share);
                a.param.iter_mut().for_each(|p| self.visit(p, true));
            }
            Kind::Binary(b) => {
                self.visit(&mut b.lhs, true);
                self.visit(&mut b.rhs, true);
            }
            Kind::Negate(inner) | Kind::Plus(inner) => self.visit(inner, true),
            _ => {}
        }
    }

    /// Whether the node is one that came before.
    fn share(&mut self, node: &mut Node) -> bool {
        if matches!(node.kind, Kind::Number(_) | Kind::String(..) | Kind::Range(_) | Kind::Subquery(_)) {
            return false;
        }
        let mut ids = Vec::new();
        selects_of(node, &mut ids);
        let Some(text) = self.text.get(node.pos.start as usize..node.pos.end as usize) else { return false };
        if ids.is_empty() || text.is_empty() {
            return false;
        }
        let before = self.seen.entry(text).or_default();
        let same = |other: &[Used]| {
            other.len() == ids.len()
                && other.iter().zip(&ids).all(|(a, b)| {
                    a.skip_buckets == b.skip_buckets && same_select(&self.selects[a.id], &self.selects[b.id])
                })
        };
        if let Some((first, number)) = before.iter().find(|(other, _)| same(other)) {
            self.uses[*number] += 1;
            node.share = Some(*number);
            // Whichever is evaluated first reads what the first one selects.
            let mut first = first.iter();
            replace_selects(node, &mut || first.next().map(|used| used.id));
            ids.iter().for_each(|used| self.selects[used.id].unused = true);
            return true;
        }
        before.push((ids, self.uses.len()));
        node.share = Some(self.uses.len());
        self.uses.push(1);
        false
    }
}

fn same_select(a: &Select, b: &Select) -> bool {
    a.matchers == b.matchers && (a.mint, a.maxt) == (b.mint, b.maxt) && a.hints == b.hints
}

/// A select, and what is made of it.
#[derive(Clone, Copy)]
struct Used {
    id: usize,
    skip_buckets: bool,
}

fn selects_of(node: &Node, out: &mut Vec<Used>) {
    match &node.kind {
        Kind::Selector(s) => out.push(Used { id: s.id, skip_buckets: s.skip_buckets }),
        Kind::Range(r) => out.push(Used { id: r.selector.id, skip_buckets: r.selector.skip_buckets }),
        Kind::Call(c) => out.extend(c.info.as_ref().map(|i| Used { id: i.id, skip_buckets: false })),
        _ => {}
    }
    node.each_child(|child| selects_of(child, out));
}

/// Sets the selects of a part, in the order in which [`selects_of`] finds them.
fn replace_selects(node: &mut Node, next: &mut dyn FnMut() -> Option<usize>) {
    let mut set = |id: &mut usize| *id = next().unwrap_or(*id);
    match &mut node.kind {
        Kind::Selector(s) => set(&mut s.id),
        Kind::Range(r) => set(&mut r.selector.id),
        Kind::Call(c) => c.info.iter_mut().for_each(|i| set(&mut i.id)),
        _ => {}
    }
    node.each_child_mut(|child| replace_selects(child, next));
}

/// A result that is asked for again.
pub(crate) struct Kept {
    out: Out,
    /// How often it will be asked for.
    left: usize,
    /// Where the node that it was made for begins.
    start: i64,
    annotations: Annotations,
    /// Samples that it took.
    stats: SampleStats,
}

impl Evaluator<'_> {
    /// Evaluates a node that stands for several: the first time indeed, then from what was kept.
    pub(crate) fn eval_shared(&self, number: usize, node: &Node, grid: Grid) -> Result<Out, EngineError> {
        let uses = self.q.shares.get(number).copied().unwrap_or(1);
        if uses < 2 {
            return self.eval_node(node, grid);
        }
        let kept = self.q.kept.borrow_mut().remove(&number);
        let Some(mut kept) = kept else {
            let annotations = self.q.annotations.take();
            let stats = self.q.stats.borrow().clone();
            let out = self.eval_node(node, grid)?;
            let own = self.q.annotations.replace(annotations);
            self.q.annotations.borrow_mut().extend(&own, 0);
            if let Some(copy) = copy_of(&out) {
                self.hold(&copy)?;
                let stats = self.q.stats.borrow().since(&stats);
                let start = i64::from(node.pos.start);
                let kept = Kept { out: copy, left: uses - 1, start, annotations: own, stats };
                self.q.kept.borrow_mut().insert(number, kept);
            }
            return Ok(out);
        };
        self.q.annotations.borrow_mut().extend(&kept.annotations, i64::from(node.pos.start) - kept.start);
        self.q.stats.borrow_mut().add(&kept.stats);
        kept.left -= 1;
        let out = match (kept.left, copy_of(&kept.out)) {
            (0, _) | (_, None) => kept.out,
            (_, Some(copy)) => {
                self.hold(&copy)?;
                self.q.kept.borrow_mut().insert(number, kept);
                copy
            }
        };
        if let Out::Vector(all) = &out {
            all.iter().try_for_each(|s| self.q.charge(s.weight()))?;
        }
        Ok(out)
    }

    /// Counts the bytes of what is kept; its samples count when it is asked for, as if it were evaluated then.
    fn hold(&self, out: &Out) -> Result<(), EngineError> {
        match out {
            Out::Vector(all) => all.iter().try_for_each(|s| self.q.charge_bytes(super::query::bytes_of(s))),
            _ => Ok(()),
        }
    }
}

fn copy_of(out: &Out) -> Option<Out> {
    match out {
        Out::Scalar(s) => Some(Out::Scalar(s.clone())),
        Out::Vector(all) => Some(Out::Vector(all.iter().map(Series::clone).collect())),
        Out::String(_) | Out::Matrix(_) => None,
    }
}

impl SampleStats {
    /// What was counted since `before`.
    fn since(&self, before: &SampleStats) -> SampleStats {
        let steps = |now: &[(i64, u64)], before: &[(i64, u64)]| {
            now.iter().zip(before).map(|((t, n), (_, m))| (*t, n.saturating_sub(*m))).collect()
        };
        SampleStats {
            total: self.total.saturating_sub(before.total),
            read: self.read.saturating_sub(before.read),
            total_per_step: steps(&self.total_per_step, &before.total_per_step),
            read_per_step: steps(&self.read_per_step, &before.read_per_step),
            peak: 0,
        }
    }

    fn add(&mut self, other: &SampleStats) {
        self.total += other.total;
        self.read += other.read;
        let steps = |to: &mut [(i64, u64)], from: &[(i64, u64)]| {
            to.iter_mut().zip(from).for_each(|(to, from)| to.1 += from.1);
        };
        steps(&mut self.total_per_step, &other.total_per_step);
        steps(&mut self.read_per_step, &other.read_per_step);
    }
}
