//! From the syntax tree to what is evaluated: durations and `@` resolved, `start()` and its like folded, parts whose
//! value is the same at every step marked, and everything listed that has to be selected.
//!
//! Offsets and `@` are kept as they are written; what sample time a step looks at follows from them alone, whatever
//! subqueries are around (Prometheus shifts offsets by the evaluator's start instead, to the same effect).

use narthex_model::{MatchType, Matcher};
use narthex_storage::SelectHints;

use crate::ast::{
    self, AggregateOp, At, BinaryOp, DurationExpr, DurationOp, DurationOperand, DurationValue, Expr, PosRange, UnaryOp,
    ValueType, VectorMatching,
};

/// A node of the plan with its place in the query.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub pos: PosRange,
    pub kind: Kind,
    /// The number of what is evaluated once for several nodes ([`super::shared`]).
    pub share: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Number(f64),
    /// The text, and the literal as it is printed.
    String(String, String),
    Selector(Selector),
    Range(RangeSelector),
    Subquery(Box<Subquery>),
    Call(Box<Call>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    Negate(Box<Node>),
    /// A unary plus changes nothing, but what is below keeps its own place, and is no selector to what is above.
    Plus(Box<Node>),
    /// Evaluated at the first step only.
    StepInvariant(Box<Node>),
}

#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// Index into [`Plan::selects`].
    pub id: usize,
    /// Milliseconds.
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub at: Option<i64>,
    pub anchored: bool,
    pub smoothed: bool,
    /// Of histograms only count and sum are needed.
    pub skip_buckets: bool,
    /// Series come with some of their labels only, so that several may have the same ones.
    pub some_labels: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct RangeSelector {
    pub selector: Selector,
    /// Milliseconds.
    pub range: i64,
    pub range_seconds: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Subquery {
    pub expr: Node,
    pub range: i64,
    pub range_seconds: f64,
    /// 0 where the engine's default applies.
    pub step: i64,
    pub offset: i64,
    pub at: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub name: &'static str,
    pub args: Vec<Node>,
    /// Of `info`: the index into [`Plan::selects`], and when info series are looked at.
    pub info: Option<InfoSelect>,
    /// Of `absent` and `absent_over_time`: the matchers of the argument, if it is a selector.
    pub matchers: Vec<Matcher>,
}

#[derive(Clone, Debug)]
pub(crate) struct InfoSelect {
    pub id: usize,
    pub at: Option<i64>,
    pub offset: i64,
    /// Matchers of the second argument.
    pub matchers: Vec<Matcher>,
}

#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    pub op: AggregateOp,
    pub expr: Node,
    pub param: Option<Node>,
    /// Sorted.
    pub grouping: Vec<String>,
    pub without: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub op: BinaryOp,
    pub lhs: Node,
    pub rhs: Node,
    pub matching: Option<VectorMatching>,
    pub return_bool: bool,
}

/// What one selector needs from the store.
#[derive(Clone, Debug)]
pub(crate) struct Select {
    pub matchers: Vec<Matcher>,
    pub mint: i64,
    pub maxt: i64,
    pub hints: SelectHints,
    /// Another node's result stands for that of the one that would need it.
    pub unused: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub root: Node,
    pub value_type: ValueType,
    pub selects: Vec<Select>,
    /// For how many nodes each shared result stands.
    pub shares: Vec<usize>,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Milliseconds; `end == start` and `step == 0` for an instant query.
    pub start: i64,
    pub end: i64,
    pub step: i64,
    pub lookback: i64,
    /// The step of subqueries that name none.
    pub default_subquery_step: i64,
    /// Whether series of a name may differ in type and unit alone.
    pub type_and_unit_labels: bool,
}

/// Functions whose result depends on the time of the evaluation even when their arguments do not.
pub(super) const AT_UNSAFE: &[&str] = &[
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "end",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
];

/// What stands above a node.
enum Above<'a> {
    Subquery { offset: i64, range: i64, at: Option<i64>, step: i64 },
    Aggregate(&'a ast::AggregateExpr),
    Call(&'static str),
    Binary(BinaryOp),
    Other,
}

struct Builder<'a> {
    cx: Context,
    above: Vec<Above<'a>>,
    selects: Vec<Select>,
}

/// A node, whether it is step invariant, and whether it is worth a mark then.
type Built = (Node, bool, bool);

/// `text` is what `expr` was parsed from, or empty.
///
/// # Errors
/// The text of what is wrong with a duration expression.
pub(crate) fn plan(expr: &Expr, text: &str, cx: Context) -> Result<Plan, String> {
    let mut builder = Builder { cx, above: Vec::new(), selects: Vec::new() };
    let (node, _, wrap) = builder.build(expr)?;
    let mut root = if wrap { invariant(node) } else { node };
    let mut selects = builder.selects;
    let shares = super::shared::mark(&mut root, text, &mut selects);
    Ok(Plan { root, value_type: expr.value_type(), selects, shares })
}

fn invariant(node: Node) -> Node {
    Node { pos: node.pos, kind: Kind::StepInvariant(Box::new(node)), share: None }
}

impl Node {
    /// Calls `f` for each node directly below.
    pub(crate) fn each_child<'n>(&'n self, mut f: impl FnMut(&'n Node)) {
        match &self.kind {
            Kind::Number(_) | Kind::String(..) | Kind::Selector(_) | Kind::Range(_) => {}
            Kind::Subquery(s) => f(&s.expr),
            Kind::Call(c) => c.args.iter().for_each(f),
            Kind::Aggregate(a) => {
                f(&a.expr);
                a.param.iter().for_each(f);
            }
            Kind::Binary(b) => {
                f(&b.lhs);
                f(&b.rhs);
            }
            Kind::Negate(inner) | Kind::Plus(inner) | Kind::StepInvariant(inner) => f(inner),
        }
    }

    /// The same, to change them.
    pub(crate) fn each_child_mut(&mut self, mut f: impl FnMut(&mut Node)) {
        match &mut self.kind {
            Kind::Number(_) | Kind::String(..) | Kind::Selector(_) | Kind::Range(_) => {}
            Kind::Subquery(s) => f(&mut s.expr),
            Kind::Call(c) => c.args.iter_mut().for_each(f),
            Kind::Aggregate(a) => {
                f(&mut a.expr);
                a.param.iter_mut().for_each(f);
            }
            Kind::Binary(b) => {
                f(&mut b.lhs);
                f(&mut b.rhs);
            }
            Kind::Negate(inner) | Kind::Plus(inner) | Kind::StepInvariant(inner) => f(inner),
        }
    }

    /// What it does, in a word.
    pub(crate) fn operator(&self) -> &'static str {
        match &self.kind {
            Kind::Number(_) => "number",
            Kind::String(..) => "string",
            Kind::Selector(_) => "selector",
            Kind::Range(_) => "range selector",
            Kind::Subquery(_) => "subquery",
            Kind::Call(c) => c.name,
            Kind::Aggregate(a) => a.op.as_str(),
            Kind::Binary(b) => b.op.as_str(),
            Kind::Negate(_) => "negate",
            Kind::Plus(_) => "plus",
            Kind::StepInvariant(_) => "step invariant",
        }
    }
}

impl<'a> Builder<'a> {
    fn below(&mut self, above: Above<'a>, expr: &'a Expr) -> Result<Built, String> {
        self.above.push(above);
        let built = self.build(expr);
        self.above.pop();
        built
    }

    fn build(&mut self, expr: &'a Expr) -> Result<Built, String> {
        let pos = expr.pos();
        let node = |kind| Node { pos, kind, share: None };
        Ok(match expr {
            Expr::Number(n) => (node(Kind::Number(n.value)), true, false),
            Expr::String(s) => (node(Kind::String(s.value.clone(), expr.to_string())), true, false),
            // What is inside keeps its own place: annotations name it.
            Expr::Paren(p) => self.below(Above::Other, &p.expr)?,
            Expr::Unary(u) => {
                let (inner, is_invariant, wrap) = self.below(Above::Other, &u.expr)?;
                let inner = Box::new(inner);
                let kind = if u.op == UnaryOp::Sub { Kind::Negate(inner) } else { Kind::Plus(inner) };
                (node(kind), is_invariant, wrap)
            }
            Expr::Vector(v) => {
                let selector = self.selector(v, 0)?;
                let fixed = selector.at.is_some();
                (node(Kind::Selector(selector)), fixed, fixed)
            }
            Expr::Matrix(m) => {
                let range = self.duration(&m.range, false)?;
                let selector = self.selector(&m.selector, range)?;
                let fixed = selector.at.is_some();
                let range = RangeSelector { selector, range: range / 1_000_000, range_seconds: seconds(range) };
                (node(Kind::Range(range)), fixed, false)
            }
            Expr::Subquery(s) => {
                let offset = self.duration(&s.offset, true)?;
                let step = if s.step.is_unset() { 0 } else { self.duration(&s.step, false)? / 1_000_000 };
                let range = self.duration(&s.range, false)?;
                let at = self.at(s.at);
                let above = Above::Subquery { offset, range, at, step };
                let (inner, is_invariant, _) = self.below(above, &s.expr)?;
                // Once for all its steps, whether the subquery itself is fixed or not.
                let inner = if is_invariant { invariant(inner) } else { inner };
                let subquery = Subquery {
                    expr: inner,
                    range: range / 1_000_000,
                    range_seconds: seconds(range),
                    step,
                    offset: offset / 1_000_000,
                    at,
                };
                (node(Kind::Subquery(Box::new(subquery))), at.is_some(), at.is_some())
            }
            Expr::Aggregate(a) => {
                let (inner, is_invariant, wrap) = self.below(Above::Aggregate(a), a.expr.unparen())?;
                let param = match &a.param {
                    Some(p) => Some(self.below(Above::Aggregate(a), p.unparen())?.0),
                    None => None,
                };
                let mut grouping = a.grouping.clone();
                grouping.sort();
                let aggregate = Aggregate { op: a.op, expr: inner, param, grouping, without: a.without };
                (node(Kind::Aggregate(Box::new(aggregate))), is_invariant, wrap)
            }
            Expr::Binary(b) => {
                let (lhs, left_invariant, wrap_left) = self.below(Above::Binary(b.op), &b.lhs)?;
                let (rhs, right_invariant, wrap_right) = self.below(Above::Binary(b.op), &b.rhs)?;
                let both = left_invariant && right_invariant;
                let binary = Binary {
                    op: b.op,
                    lhs: if wrap_left && !both { invariant(lhs) } else { lhs },
                    rhs: if wrap_right && !both { invariant(rhs) } else { rhs },
                    matching: b.matching.clone(),
                    return_bool: b.return_bool,
                };
                (node(Kind::Binary(Box::new(binary))), both, both)
            }
            Expr::Call(c) => return self.call(c, pos),
        })
    }

    fn call(&mut self, c: &'a ast::Call, pos: PosRange) -> Result<Built, String> {
        let name = c.func.name;
        let Context { start, end, step, .. } = self.cx;
        let folded = match name {
            "start" => Some(start as f64 / 1000.0),
            "end" => Some(end as f64 / 1000.0),
            "range" => Some(seconds((end - start).saturating_mul(1_000_000))),
            "step" => Some(if start == end { 0.0 } else { seconds(step.saturating_mul(1_000_000)) }),
            _ => None,
        };
        if let Some(value) = folded {
            return Ok((Node { pos, kind: Kind::Number(value), share: None }, true, false));
        }
        let mut is_invariant = !AT_UNSAFE.contains(&name);
        // `timestamp(x @ 1)` is fixed though `timestamp(abs(x @ 1))` is not.
        let mut fixed_timestamp = name == "timestamp";
        let (mut args, mut wraps) = (Vec::with_capacity(c.args.len()), Vec::with_capacity(c.args.len()));
        let mut matchers = Vec::new();
        for arg in &c.args {
            let arg = arg.unparen();
            if name == "info" && !args.is_empty() {
                // Only its matchers count: it is not evaluated.
                args.push(Node { pos: arg.pos(), kind: Kind::Number(0.0), share: None });
                wraps.push(false);
                if let Expr::Vector(v) = arg {
                    matchers = v.matchers.clone();
                    is_invariant &= v.at.is_some();
                }
                continue;
            }
            let (mut node, arg_invariant, wrap) = self.below(Above::Call(name), arg)?;
            // In Prometheus `timestamp(x @ 1 offset 5m)` forgets the offset, though it selects with it.
            if name == "timestamp"
                && let (Expr::Vector(_), Kind::Selector(selector)) = (arg, &mut node.kind)
                && selector.at.is_some()
            {
                selector.offset = 0;
            }
            is_invariant &= arg_invariant;
            fixed_timestamp &= arg_invariant && matches!(arg, Expr::Vector(_));
            args.push(node);
            // Functions look at range vectors themselves, subqueries included.
            wraps.push(wrap && !matches!(arg, Expr::Subquery(_)));
        }
        let info = if name == "info" { Some(self.info(c, std::mem::take(&mut matchers))) } else { None };
        if matches!(name, "absent" | "absent_over_time") {
            matchers = match c.args.first().map(Expr::unparen) {
                Some(Expr::Vector(v)) => v.matchers.clone(),
                Some(Expr::Matrix(m)) => m.selector.matchers.clone(),
                _ => Vec::new(),
            };
        }
        let whole = is_invariant || fixed_timestamp;
        if !whole {
            args = args.into_iter().zip(wraps).map(|(arg, wrap)| if wrap { invariant(arg) } else { arg }).collect();
        }
        let node = |kind| Node { pos, kind, share: None };
        Ok((node(Kind::Call(Box::new(Call { name, args, info, matchers }))), whole, whole))
    }

    fn at(&self, at: Option<At>) -> Option<i64> {
        at.map(|at| match at {
            At::Timestamp(t) => t,
            At::Start => self.cx.start,
            At::End => self.cx.end,
        })
    }

    /// Notes what a selector needs; `range` in nanoseconds, 0 for an instant selector.
    fn selector(&mut self, v: &'a ast::VectorSelector, range: i64) -> Result<Selector, String> {
        let offset = self.duration(&v.offset, true)?;
        let at = self.at(v.at);
        let (mint, maxt) = self.time_range(at, offset, range, v.anchored, v.smoothed);
        let in_subquery = self.above.iter().any(|a| matches!(a, Above::Subquery { .. }));
        let step = self.above.iter().fold(None, |found, a| match a {
            Above::Subquery { step: 0, .. } => Some(self.cx.default_subquery_step),
            Above::Subquery { step, .. } => Some(*step),
            _ => found,
        });
        let (grouping, by) = match self.above.last() {
            Some(Above::Aggregate(a)) => (a.grouping.clone(), !a.without),
            _ => (Vec::new(), false),
        };
        let once = self.cx.start == self.cx.end || at.is_some();
        let only_labels = self.only_labels(v, range != 0);
        let some_labels = only_labels.is_some();
        let hints = SelectHints {
            only_labels,
            no_samples: !v.smoothed && self.needs_presence(),
            latest_only: range == 0 && once && !in_subquery && !v.smoothed,
            step: step.unwrap_or(self.cx.step),
            range: range / 1_000_000,
            func: self.function_above(),
            grouping,
            by,
            ..SelectHints::default()
        };
        self.selects.push(Select { matchers: v.matchers.clone(), mint, maxt, hints, unused: false });
        Ok(Selector {
            id: self.selects.len() - 1,
            offset: offset / 1_000_000,
            at,
            anchored: v.anchored,
            smoothed: v.smoothed,
            skip_buckets: self.skip_buckets(),
            some_labels,
        })
    }

    /// The labels that matter where an aggregation keeps only some, if they are told apart at once or by a function
    /// over ranges. Such a function drops the metric's name, so there may be only one.
    fn only_labels(&self, v: &ast::VectorSelector, is_range: bool) -> Option<Vec<String>> {
        use AggregateOp::*;
        let a = match (&*self.above, is_range) {
            ([.., Above::Aggregate(a)], false) => a,
            ([.., Above::Aggregate(a), Above::Call(name)], true)
                if *name != "absent_over_time"
                    && !self.cx.type_and_unit_labels
                    && v.matchers
                        .iter()
                        .any(|m| &*m.name == narthex_model::METRIC_NAME && m.match_type == MatchType::Equal) =>
            {
                a
            }
            _ => return None,
        };
        // Deviations are taken in the order of all labels.
        if a.without || !matches!(a.op, Sum | Avg | Count | Min | Max | Group | Quantile) {
            return None;
        }
        let mut names = a.grouping.clone();
        names.push(narthex_model::METRIC_NAME.to_owned());
        Some(names)
    }

    /// Whether only the times of samples matter to what is directly above.
    fn needs_presence(&self) -> bool {
        match self.above.last() {
            Some(Above::Aggregate(a)) => matches!(a.op, AggregateOp::Count | AggregateOp::Group),
            Some(Above::Call(name)) => {
                matches!(*name, "absent" | "absent_over_time" | "count_over_time" | "present_over_time")
            }
            _ => false,
        }
    }

    /// The first and last time at which a selector here can need a sample.
    fn time_range(&self, at: Option<i64>, offset: i64, range: i64, anchored: bool, smoothed: bool) -> (i64, i64) {
        let (mut start, mut end) = (self.cx.start, self.cx.end);
        let (mut sub_offset, mut sub_range, mut sub_at) = (0i64, 0i64, None);
        for above in &self.above {
            if let Above::Subquery { offset, range, at, .. } = above {
                sub_offset = sub_offset.saturating_add(*offset);
                sub_range = sub_range.saturating_add(*range);
                if at.is_some() {
                    (sub_offset, sub_range, sub_at) = (*offset, *range, *at);
                }
            }
        }
        if let Some(t) = sub_at {
            (start, end) = (t, t);
        }
        let ms = |nanos: i64| nanos / 1_000_000;
        if let Some(t) = at {
            (start, end) = (t, t);
        } else {
            start = start.saturating_sub(ms(sub_offset)).saturating_sub(ms(sub_range));
            end = end.saturating_sub(ms(sub_offset));
        }
        let lookback = self.cx.lookback;
        start = start.saturating_sub(ms(range)).saturating_add(1);
        if range == 0 || anchored || smoothed {
            start = start.saturating_sub(lookback);
        }
        if smoothed {
            end = end.saturating_add(lookback);
        }
        (start.saturating_sub(ms(offset)), end.saturating_sub(ms(offset)))
    }

    /// The next function or aggregation above, unless a binary operator is nearer.
    fn function_above(&self) -> Option<String> {
        for above in self.above.iter().rev() {
            match above {
                Above::Aggregate(a) => return Some(a.op.as_str().to_owned()),
                Above::Call(name) => return Some((*name).to_owned()),
                Above::Binary(_) => return None,
                Above::Subquery { .. } | Above::Other => {}
            }
        }
        None
    }

    /// Whether only counts and sums of histograms matter here.
    fn skip_buckets(&self) -> bool {
        let mut skip = false;
        for above in self.above.iter().rev() {
            match above {
                Above::Subquery { .. } | Above::Binary(BinaryOp::TrimLower | BinaryOp::TrimUpper) => return false,
                Above::Call("histogram_count" | "histogram_sum" | "histogram_avg") => skip = true,
                Above::Call("histogram_quantile" | "histogram_quantiles" | "histogram_fraction") => return false,
                _ => {}
            }
        }
        skip
    }

    /// The select of `info`: all info series whose name and data labels fit. Which of them belong to the base series is
    /// known only later.
    fn info(&mut self, c: &'a ast::Call, matchers: Vec<Matcher>) -> InfoSelect {
        let (at, offset) = self.info_reference(c.args.first().map(Expr::unparen));
        let names: Vec<Matcher> = matchers.iter().filter(|m| &*m.name == narthex_model::METRIC_NAME).cloned().collect();
        let mut wanted = effective_info_names(&names);
        wanted.extend(matchers.iter().filter(|m| &*m.name != narthex_model::METRIC_NAME).cloned());
        let (mint, maxt) = self.time_range(at, offset, 0, false, false);
        let hints = SelectHints { step: self.cx.step, func: Some("info".into()), ..SelectHints::default() };
        self.selects.push(Select { matchers: wanted, mint, maxt, hints, unused: false });
        InfoSelect { id: self.selects.len() - 1, at, offset: offset / 1_000_000, matchers }
    }

    /// `@` and offset (nanoseconds) of all selectors in the argument of `info`, if they agree.
    fn info_reference(&self, expr: Option<&'a Expr>) -> (Option<i64>, i64) {
        struct Found {
            first: Option<(Option<i64>, i64)>,
            uniform: bool,
        }
        fn go(b: &Builder<'_>, e: &Expr, subqueries: &mut Vec<(i64, Option<i64>)>, found: &mut Found) -> bool {
            let vector = match e {
                Expr::Vector(v) => Some(v.as_ref()),
                Expr::Matrix(m) => Some(&m.selector),
                _ => None,
            };
            if let Some(v) = vector {
                let mut at = b.at(v.at);
                let mut offset = b.duration(&v.offset, true).unwrap_or(0);
                for (sub_offset, sub_at) in subqueries.iter().rev() {
                    if at.is_some() {
                        break;
                    }
                    offset += sub_offset;
                    at = *sub_at;
                }
                let ms = offset / 1_000_000;
                match found.first {
                    None => found.first = Some((at, offset)),
                    Some((first_at, first_offset)) => {
                        let first_ms = first_offset / 1_000_000;
                        found.uniform &= match (first_at, at) {
                            (Some(a), Some(b)) => a - first_ms == b - ms,
                            (None, None) => first_ms == ms,
                            _ => false,
                        };
                    }
                }
                return true;
            }
            if !matches!(e.value_type(), ValueType::Vector | ValueType::Matrix) {
                return false;
            }
            let mut any = false;
            match e {
                Expr::Subquery(s) => {
                    subqueries.push((b.duration(&s.offset, true).unwrap_or(0), b.at(s.at)));
                    any = go(b, &s.expr, subqueries, found);
                    subqueries.pop();
                }
                Expr::Call(c) if c.func.name == "info" => {
                    any = c.args.first().is_some_and(|a| go(b, a, subqueries, found));
                }
                other => other.for_each_child(|child| any |= go(b, child, subqueries, found)),
            }
            found.uniform &= any;
            any
        }
        let mut found = Found { first: None, uniform: true };
        if let Some(expr) = expr {
            go(self, expr, &mut Vec::new(), &mut found);
        }
        if found.uniform { found.first.unwrap_or((None, 0)) } else { (None, 0) }
    }

    /// Nanoseconds.
    fn duration(&self, value: &DurationValue, may_be_negative: bool) -> Result<i64, String> {
        let Some(expr) = &value.expr else { return Ok(value.nanos) };
        let seconds = self.duration_expr(expr)?;
        let at = |text: &str| Err(format!("{}:{}: {text}", expr.pos.start, expr.pos.end));
        if !seconds.is_finite() {
            return at("duration is NaN or infinite");
        }
        if seconds <= 0.0 && !may_be_negative {
            return at("duration must be greater than 0");
        }
        if seconds.abs() > (1u64 << 63) as f64 / 1e9 {
            return at("duration is out of range");
        }
        Ok(((seconds * 1000.0) as i64).saturating_mul(1_000_000))
    }

    fn duration_expr(&self, e: &DurationExpr) -> Result<f64, String> {
        let operand = |side: &Option<DurationOperand>| match side {
            None => Ok(0.0),
            Some(DurationOperand::Number(n)) => Ok(n.value),
            Some(DurationOperand::Expr(inner)) => self.duration_expr(inner),
        };
        let (l, r) = (operand(&e.lhs)?, operand(&e.rhs)?);
        let at = |text: &str| Err(format!("{}:{}: {text}", e.pos.start, e.pos.end));
        Ok(match e.op {
            DurationOp::Step => seconds(self.cx.step.saturating_mul(1_000_000)),
            DurationOp::Range => seconds((self.cx.end - self.cx.start).saturating_mul(1_000_000)),
            DurationOp::MinOf => go_min(l, r),
            DurationOp::MaxOf => go_max(l, r),
            DurationOp::Add => l + r,
            DurationOp::Sub if e.lhs.is_none() => -r,
            DurationOp::Sub => l - r,
            DurationOp::Mul => l * r,
            DurationOp::Div if r == 0.0 => return at("division by zero"),
            DurationOp::Div => l / r,
            DurationOp::Mod if r == 0.0 => return at("modulo by zero"),
            DurationOp::Mod => l % r,
            DurationOp::Pow => narthex_model::gomath::pow(l, r),
        })
    }
}

/// The matchers on the name that select info series: `target_info` by default, `.+_info` where only names to be left
/// out are given.
pub(crate) fn effective_info_names(names: &[Matcher]) -> Vec<Matcher> {
    use narthex_model::METRIC_NAME;
    if names.iter().any(|m| matches!(m.match_type, MatchType::Equal | MatchType::Regexp)) {
        return names.to_vec();
    }
    if names.is_empty() {
        return vec![Matcher::equal(METRIC_NAME, "target_info")];
    }
    let mut out: Vec<Matcher> = Matcher::new(MatchType::Regexp, METRIC_NAME, ".+_info").into_iter().collect();
    out.extend_from_slice(names);
    out
}

/// Go's `Duration.Seconds`.
fn seconds(nanos: i64) -> f64 {
    (nanos / 1_000_000_000) as f64 + (nanos % 1_000_000_000) as f64 / 1e9
}

/// Go's `math.Min`: NaN wins.
pub(crate) fn go_min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { a } else { b }
    } else if a < b {
        a
    } else {
        b
    }
}

/// Go's `math.Max`: NaN wins.
pub(crate) fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else if a > b {
        a
    } else {
        b
    }
}
