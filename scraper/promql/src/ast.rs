//! The syntax tree of PromQL, as the parser builds it and the engine, the printer and `/parse_query` read it.
//!
//! Invariants of a tree that [`crate::parse`] returned: its types are checked, calls name known functions with allowed
//! numbers of arguments, `MatrixSelector`s hold a vector selector, and no path is longer than
//! [`crate::parser::MAX_DEPTH`] nodes, so that walking (and dropping) it recursively is safe. Durations are whole
//! nanoseconds, as in Go; `@` timestamps are milliseconds since the epoch.
//!
//! Deliberately absent: what an engine works out (effective offsets, step-invariant marks, loaded series).

use std::fmt;

use narthex_model::Matcher;

use crate::functions_table::Function;

/// Where a node stands in the query: byte offsets, `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PosRange {
    pub start: u32,
    pub end: u32,
}

impl PosRange {
    pub fn new(start: usize, end: usize) -> PosRange {
        PosRange { start: start as u32, end: end as u32 }
    }

    /// `line:column` of the start within the query that was parsed, both from 1, columns in bytes: what stands before
    /// messages of errors and annotations. "unknown position" for an empty query, "invalid position" beyond its end.
    pub fn start_in(&self, query: &str) -> String {
        if query.is_empty() {
            return "unknown position".into();
        }
        let Some(before) = query.as_bytes().get(..self.start as usize) else {
            return "invalid position".into();
        };
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = match before.iter().rposition(|b| *b == b'\n') {
            Some(i) => before.len() - i,
            None => before.len() + 1,
        };
        format!("{line}:{column}")
    }
}

/// What an expression evaluates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    Vector,
    Scalar,
    Matrix,
    String,
}

impl ValueType {
    /// As the API writes it: `vector`, `scalar`, `matrix`, `string`.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Vector => "vector",
            ValueType::Scalar => "scalar",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }

    /// As messages for people name it: `instant vector`, `range vector`, `scalar`, `string`.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
            other => other.as_str(),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An expression. Its [`fmt::Display`] is Prometheus's `Expr.String()`; [`crate::printer::pretty`] is `Prettify`.
///
/// Equality compares positions, too.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Aggregate(Box<AggregateExpr>),
    Binary(Box<BinaryExpr>),
    Call(Box<Call>),
    Matrix(Box<MatrixSelector>),
    Subquery(Box<SubqueryExpr>),
    Number(NumberLiteral),
    Paren(Box<ParenExpr>),
    String(StringLiteral),
    Unary(Box<UnaryExpr>),
    Vector(Box<VectorSelector>),
}

/// `op [by|without (grouping)] ([param,] expr)`.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateExpr {
    pub op: AggregateOp,
    pub expr: Expr,
    /// Of `topk`, `bottomk`, `quantile`, `limitk`, `limit_ratio` a scalar, of `count_values` a string; else none.
    pub param: Option<Expr>,
    /// In the order of the query, with its duplicates.
    pub grouping: Vec<String>,
    /// Whether `grouping` names the labels to drop rather than those to keep.
    pub without: bool,
    pub pos: PosRange,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BinaryExpr {
    pub op: BinaryOp,
    pub lhs: Expr,
    pub rhs: Expr,
    /// None unless both sides are instant vectors.
    pub matching: Option<VectorMatching>,
    /// The `bool` modifier: a comparison gives 0 or 1 rather than filtering.
    pub return_bool: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub func: &'static Function,
    pub args: Vec<Expr>,
    pub pos: PosRange,
}

/// `selector[range]`. `@`, `offset`, `anchored` and `smoothed` behind it are kept in `selector`, as in Prometheus.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    pub selector: VectorSelector,
    pub range: DurationValue,
    /// The end of the whole, modifiers included; it starts where `selector` starts.
    pub end: u32,
}

/// `expr[range:step]` with its modifiers.
#[derive(Clone, Debug, PartialEq)]
pub struct SubqueryExpr {
    pub expr: Expr,
    pub range: DurationValue,
    /// Zero without an expression where the query leaves the step out.
    pub step: DurationValue,
    pub offset: DurationValue,
    pub at: Option<At>,
    pub end: u32,
}

#[derive(Clone, Debug)]
pub struct NumberLiteral {
    /// Durations in seconds.
    pub value: f64,
    /// Whether it was written as a duration (`5m`) and is to be printed as one.
    pub duration: bool,
    pub pos: PosRange,
}

/// NaN equals NaN here, so that a tree equals itself.
impl PartialEq for NumberLiteral {
    fn eq(&self, other: &Self) -> bool {
        (self.value == other.value || self.value.is_nan() && other.value.is_nan())
            && self.duration == other.duration
            && self.pos == other.pos
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParenExpr {
    pub expr: Expr,
    pub pos: PosRange,
}

/// A string. PromQL's strings are bytes: `"\xff"` is one byte that is no UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub struct StringLiteral {
    /// The text, with U+FFFD for each byte that is no part of UTF-8.
    pub value: String,
    /// The exact bytes where they are not UTF-8. Where it matters (`label_replace`, `count_values`: a label name or
    /// value that is not UTF-8 is refused), look whether it is there.
    pub bytes: Option<Box<[u8]>>,
    pub pos: PosRange,
}

impl StringLiteral {
    /// The exact bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.value.as_bytes())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct UnaryExpr {
    pub op: UnaryOp,
    pub expr: Expr,
    /// Where the operator stands.
    pub start: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorSelector {
    /// The metric name in front of the braces; empty where there is none, also for `{"name"}`.
    pub name: String,
    /// In the order of the query; a `name` adds its matcher on `__name__` at the end.
    pub matchers: Vec<Matcher>,
    /// Exact values of matchers that are not UTF-8, by index into `matchers`; the matcher itself has U+FFFD instead.
    /// Only the printer needs them.
    pub exact_values: Vec<(usize, Box<[u8]>)>,
    pub offset: DurationValue,
    pub at: Option<At>,
    pub anchored: bool,
    pub smoothed: bool,
    /// Set on the second argument of `info()`, which may consist of matchers that all match the empty string.
    pub bypass_empty_matcher_check: bool,
    pub pos: PosRange,
}

/// What an `@` modifier asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Milliseconds since the epoch.
    Timestamp(i64),
    Start,
    End,
}

/// A range, step or offset: fixed, or an expression over the query's step and range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DurationValue {
    /// Nanoseconds; 0 while there is an expression, until somebody evaluates it. Negative only in offsets.
    pub nanos: i64,
    pub expr: Option<Box<DurationExpr>>,
}

impl DurationValue {
    pub fn fixed(nanos: i64) -> DurationValue {
        DurationValue { nanos, expr: None }
    }

    /// Milliseconds, rounded toward zero as Go's `Duration.Milliseconds`.
    pub fn millis(&self) -> i64 {
        self.nanos / 1_000_000
    }

    /// Neither a fixed value but zero nor an expression.
    pub fn is_unset(&self) -> bool {
        self.nanos == 0 && self.expr.is_none()
    }
}

/// Arithmetic over durations in brackets and offsets. Numbers in it are seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationExpr {
    pub op: DurationOp,
    /// None for `step()`, `range()` and unary operators.
    pub lhs: Option<DurationOperand>,
    /// None for `step()` and `range()`.
    pub rhs: Option<DurationOperand>,
    /// Whether it stood in parentheses.
    pub wrapped: bool,
    pub pos: PosRange,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DurationOperand {
    Number(NumberLiteral),
    Expr(Box<DurationExpr>),
}

impl DurationOperand {
    pub fn pos(&self) -> PosRange {
        match self {
            DurationOperand::Number(n) => n.pos,
            DurationOperand::Expr(e) => e.pos,
        }
    }
}

/// Operators of duration expressions. `Add` and `Sub` without `lhs` are unary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    /// `step()`: the query's step, 0 in an instant query.
    Step,
    /// `range()`: the query's range.
    Range,
    MinOf,
    MaxOf,
}

impl DurationOp {
    pub fn as_str(self) -> &'static str {
        match self {
            DurationOp::Add => "+",
            DurationOp::Sub => "-",
            DurationOp::Mul => "*",
            DurationOp::Div => "/",
            DurationOp::Mod => "%",
            DurationOp::Pow => "^",
            DurationOp::Step => "step",
            DurationOp::Range => "range",
            DurationOp::MinOf => "min_of",
            DurationOp::MaxOf => "max_of",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    Add,
    Sub,
}

impl UnaryOp {
    pub fn as_str(self) -> &'static str {
        match self {
            UnaryOp::Add => "+",
            UnaryOp::Sub => "-",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eql,
    Neq,
    Gtr,
    Lss,
    Gte,
    Lte,
    And,
    Or,
    Unless,
    /// `</`: a native histogram's observations below a bound.
    TrimUpper,
    /// `>/`: a native histogram's observations above a bound.
    TrimLower,
}

impl BinaryOp {
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Eql => "==",
            BinaryOp::Neq => "!=",
            BinaryOp::Gtr => ">",
            BinaryOp::Lss => "<",
            BinaryOp::Gte => ">=",
            BinaryOp::Lte => "<=",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
        }
    }

    /// `== != > < >= <=`.
    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Eql | Neq | Gtr | Lss | Gte | Lte)
    }

    /// `and or unless`.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    Avg,
    Bottomk,
    Count,
    CountValues,
    Group,
    Max,
    Min,
    Quantile,
    Stddev,
    Stdvar,
    Sum,
    Topk,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    pub const ALL: [AggregateOp; 14] = {
        use AggregateOp::*;
        [Avg, Bottomk, Count, CountValues, Group, Max, Min, Quantile, Stddev, Stdvar, Sum, Topk, Limitk, LimitRatio]
    };

    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Avg => "avg",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::Count => "count",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Group => "group",
            AggregateOp::Max => "max",
            AggregateOp::Min => "min",
            AggregateOp::Quantile => "quantile",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Sum => "sum",
            AggregateOp::Topk => "topk",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }

    /// Whether a parameter comes before the vector.
    pub fn has_param(self) -> bool {
        use AggregateOp::*;
        matches!(self, Topk | Bottomk | CountValues | Quantile | Limitk | LimitRatio)
    }

    /// Whether it needs the switch for experimental functions.
    pub fn is_experimental(self) -> bool {
        matches!(self, AggregateOp::Limitk | AggregateOp::LimitRatio)
    }
}

macro_rules! display_as_str {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_str!(DurationOp, UnaryOp, BinaryOp, AggregateOp, Cardinality);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cardinality {
    #[default]
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

impl Cardinality {
    pub fn as_str(self) -> &'static str {
        match self {
            Cardinality::OneToOne => "one-to-one",
            Cardinality::ManyToOne => "many-to-one",
            Cardinality::OneToMany => "one-to-many",
            Cardinality::ManyToMany => "many-to-many",
        }
    }
}

/// How the elements of two vectors find each other.
#[derive(Clone, Debug, Default)]
pub struct VectorMatching {
    pub card: Cardinality,
    /// The labels of `on` or `ignoring`, in the order of the query.
    pub labels: Vec<String>,
    /// `on` rather than `ignoring` (or nothing, which is `ignoring ()`).
    pub on: bool,
    /// The labels in `group_left(…)` or `group_right(…)`.
    pub include: Vec<String>,
    /// What stands in for a missing element of the left side (`fill`, `fill_left`).
    pub fill_lhs: Option<f64>,
    /// What stands in for a missing element of the right side (`fill`, `fill_right`).
    pub fill_rhs: Option<f64>,
}

/// Fill values are compared by their bits, so that a tree with `fill(NaN)` equals itself.
impl PartialEq for VectorMatching {
    fn eq(&self, other: &Self) -> bool {
        let bits = |v: Option<f64>| v.map(f64::to_bits);
        (self.card, &self.labels, self.on, &self.include) == (other.card, &other.labels, other.on, &other.include)
            && bits(self.fill_lhs) == bits(other.fill_lhs)
            && bits(self.fill_rhs) == bits(other.fill_rhs)
    }
}

impl MatrixSelector {
    pub fn pos(&self) -> PosRange {
        PosRange { start: self.selector.pos.start, end: self.end }
    }
}

impl Expr {
    pub fn value_type(&self) -> ValueType {
        let mut e = self;
        loop {
            e = match e {
                Expr::Aggregate(_) | Expr::Vector(_) => return ValueType::Vector,
                Expr::Matrix(_) | Expr::Subquery(_) => return ValueType::Matrix,
                Expr::Number(_) => return ValueType::Scalar,
                Expr::String(_) => return ValueType::String,
                Expr::Call(c) => return c.func.return_type,
                Expr::Paren(p) => &p.expr,
                Expr::Unary(u) => &u.expr,
                Expr::Binary(b) => {
                    // The left side is the deep one in long chains; the right one needs looking at only if it is scalar.
                    if b.rhs.value_type() != ValueType::Scalar {
                        return ValueType::Vector;
                    }
                    if b.lhs.value_type() != ValueType::Scalar {
                        return ValueType::Vector;
                    }
                    return ValueType::Scalar;
                }
            }
        }
    }

    /// Where the expression stands; parentheses around it are not part of it.
    pub fn pos(&self) -> PosRange {
        PosRange { start: self.start(), end: self.end() }
    }

    fn start(&self) -> u32 {
        let mut e = self;
        loop {
            e = match e {
                Expr::Aggregate(a) => return a.pos.start,
                Expr::Binary(b) => &b.lhs,
                Expr::Call(c) => return c.pos.start,
                Expr::Matrix(m) => return m.selector.pos.start,
                Expr::Subquery(s) => &s.expr,
                Expr::Number(n) => return n.pos.start,
                Expr::Paren(p) => return p.pos.start,
                Expr::String(s) => return s.pos.start,
                Expr::Unary(u) => return u.start,
                Expr::Vector(v) => return v.pos.start,
            }
        }
    }

    fn end(&self) -> u32 {
        let mut e = self;
        loop {
            e = match e {
                Expr::Aggregate(a) => return a.pos.end,
                Expr::Binary(b) => &b.rhs,
                Expr::Call(c) => return c.pos.end,
                Expr::Matrix(m) => return m.end,
                Expr::Subquery(s) => return s.end,
                Expr::Number(n) => return n.pos.end,
                Expr::Paren(p) => return p.pos.end,
                Expr::String(s) => return s.pos.end,
                Expr::Unary(u) => &u.expr,
                Expr::Vector(v) => return v.pos.end,
            }
        }
    }

    /// The expression inside any number of parentheses.
    pub fn unparen(&self) -> &Expr {
        let mut e = self;
        while let Expr::Paren(p) = e {
            e = &p.expr;
        }
        e
    }

    /// Calls `f` for each expression below, itself not included, in Prometheus's order (an aggregation's vector before
    /// its parameter). A matrix selector has no children here: its selector is no [`Expr`].
    pub fn for_each_child<'a>(&'a self, mut f: impl FnMut(&'a Expr)) {
        match self {
            Expr::Aggregate(a) => {
                f(&a.expr);
                a.param.iter().for_each(f);
            }
            Expr::Binary(b) => {
                f(&b.lhs);
                f(&b.rhs);
            }
            Expr::Call(c) => c.args.iter().for_each(f),
            Expr::Subquery(s) => f(&s.expr),
            Expr::Paren(p) => f(&p.expr),
            Expr::Unary(u) => f(&u.expr),
            Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => {}
        }
    }

    /// As [`Expr::for_each_child`], for changing them.
    pub fn for_each_child_mut(&mut self, mut f: impl FnMut(&mut Expr)) {
        match self {
            Expr::Aggregate(a) => {
                f(&mut a.expr);
                a.param.iter_mut().for_each(f);
            }
            Expr::Binary(b) => {
                f(&mut b.lhs);
                f(&mut b.rhs);
            }
            Expr::Call(c) => c.args.iter_mut().for_each(f),
            Expr::Subquery(s) => f(&mut s.expr),
            Expr::Paren(p) => f(&mut p.expr),
            Expr::Unary(u) => f(&mut u.expr),
            Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => {}
        }
    }

    /// Calls `f` for the expression and everything below it, parents first, with the parents of each (outermost
    /// first).
    pub fn walk<'a>(&'a self, f: &mut impl FnMut(&'a Expr, &[&'a Expr])) {
        fn go<'a>(e: &'a Expr, path: &mut Vec<&'a Expr>, f: &mut impl FnMut(&'a Expr, &[&'a Expr])) {
            f(e, path);
            path.push(e);
            e.for_each_child(|c| go(c, path, f));
            path.pop();
        }
        go(self, &mut Vec::new(), f);
    }

    /// Every vector selector in it, those in range selectors included, in the order of the tree.
    pub fn selectors(&self) -> Vec<&VectorSelector> {
        let mut out = Vec::new();
        self.walk(&mut |e, _| match e {
            Expr::Vector(v) => out.push(&**v),
            Expr::Matrix(m) => out.push(&m.selector),
            _ => {}
        });
        out
    }
}
