//! The parser of PromQL: a query's text to a checked [`Expr`].
//!
//! Recursive descent with binding powers over [`crate::lexer`]'s tokens. Prometheus's parser is generated from an
//! ambiguous grammar, and what that makes of the ambiguities is the language; where this parser looks odd it follows
//! that. Of several faults in a query the one is reported that Prometheus reports first, with its words and place. So
//! the order of checks matters: a fault that is found when a construct ends comes before those of the next token
//! exactly where the generated parser doesn't look at that token first.
//!
//! Bounds: queries of at most [`MAX_INPUT`] bytes, trees of at most [`MAX_DEPTH`] levels, which bounds the
//! recursion here, too. Deliberately absent: recovery after the first fault.

mod check;
mod duration;
pub(crate) mod literal;
mod selector;

use narthex_model::Matcher;
use narthex_model::labels::quote;

use crate::ast::*;
use crate::error::ParseError;
use crate::functions_table::{Function, function};
use crate::lexer::{Kind, Lexer, Token};

/// The longest path through a syntax tree, in nodes: what bounds every recursion over one. Long chains such as
/// `a or b or c …` reach it, their trees are as deep as they are long.
pub const MAX_DEPTH: usize = 512;

/// The longest query, in bytes.
pub const MAX_INPUT: usize = 1 << 20;

/// Which parts of the language that Prometheus keeps behind `--enable-feature` are on. The default is that of a stock
/// Prometheus 3.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParserOptions {
    /// `promql-experimental-functions`: experimental functions, `limitk` and `limit_ratio`.
    pub experimental_functions: bool,
    /// Arithmetic in ranges, steps and offsets; on by default since 3.14.
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `promql-binop-fill-modifiers`: `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
}

impl Default for ParserOptions {
    fn default() -> Self {
        ParserOptions {
            experimental_functions: false,
            duration_expressions: true,
            extended_range_selectors: false,
            fill_modifiers: false,
        }
    }
}

impl ParserOptions {
    /// Everything on, as Prometheus's own test scripts want it.
    pub fn all() -> ParserOptions {
        ParserOptions {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
        }
    }
}

/// Parses and type-checks a query.
///
/// # Errors
/// The first fault of the query, worded as Prometheus words it.
pub fn parse(input: &str, options: &ParserOptions) -> Result<Expr, ParseError> {
    let expr = Parser::new(input, options).and_then(|mut p| p.query());
    let mut expr = expr.map_err(|e| *e)?;
    check::check(&mut expr, input).map_err(|e| *e)?;
    Ok(expr)
}

/// Parses a lone vector selector, as `match[]` parameters hold one: `up`, `{job="a"}`, `up{job=~"a|b"}`. A name in
/// front of the braces is the last matcher. That one of the matchers must not match the empty string is for the caller
/// to check.
///
/// # Errors
/// The first fault of the selector, worded as Prometheus words it.
pub fn parse_selector(input: &str) -> Result<Vec<Matcher>, ParseError> {
    let selector = Parser::new(input, &ParserOptions::default()).and_then(|mut p| p.lone_selector());
    selector.map(|s| s.matchers).map_err(|e| *e)
}

/// The error is boxed to keep the frames of the recursion small.
type Parsed<T> = Result<T, Box<ParseError>>;

/// An expression and the length of the longest path in it.
type Deep = (Expr, usize);

/// The innermost construct that has words of its own for what does not fit.
#[derive(Clone, Copy)]
struct Context {
    inside: &'static str,
    expected: &'static str,
}

const AGGREGATION: Context = Context { inside: "aggregation", expected: "" };
const OFFSET: Context = Context { inside: "offset", expected: "number, duration, step(), or range()" };
const AT: Context = Context { inside: "@", expected: "timestamp" };
const RANGE: Context =
    Context { inside: "subquery or range selector", expected: "number, duration, step(), or range()" };
const RANGE_END: Context = Context { inside: "subquery or range", expected: r#"":" or "]""# };
const STEP: Context = Context { inside: "subquery selector", expected: r#"number, duration, step(), range(), or "]""# };
const STEP_END: Context = Context { inside: "subquery selector", expected: r#""]""# };
const GROUPING: Context = Context { inside: "grouping opts", expected: r#""(""# };
const GROUPING_LABEL: Context = Context { inside: "grouping opts", expected: "label" };
const GROUPING_NEXT: Context = Context { inside: "grouping opts", expected: r#""," or ")""# };

/// Binding powers; a greater one binds tighter.
const MUL_POWER: u8 = 5;

fn power(op: BinaryOp) -> u8 {
    use BinaryOp::*;
    match op {
        Or => 1,
        And | Unless => 2,
        Eql | Neq | Gtr | Lss | Gte | Lte | TrimUpper | TrimLower => 3,
        Add | Sub => 4,
        Mul | Div | Mod | Atan2 => MUL_POWER,
        Pow => 6,
    }
}

struct Parser<'a> {
    input: &'a str,
    options: ParserOptions,
    lexer: Lexer<'a>,
    ahead: Option<Token<'a>>,
    context: Option<Context>,
    depth: usize,
    /// Where the token ends that was taken last.
    last_end: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str, options: &ParserOptions) -> Parsed<Parser<'a>> {
        if input.len() > MAX_INPUT {
            let message = format!("query is {} bytes long, more than {MAX_INPUT} are not allowed", input.len());
            return Err(Box::new(ParseError::new(PosRange::default(), message, input)));
        }
        Ok(Parser {
            input,
            options: *options,
            lexer: Lexer::new(input),
            ahead: None,
            context: None,
            depth: 0,
            last_end: 0,
        })
    }

    fn error(&self, pos: PosRange, message: impl Into<String>) -> Box<ParseError> {
        Box::new(ParseError::new(pos, message, self.input))
    }

    /// The next token, which stays there.
    fn peek(&mut self) -> Parsed<Token<'a>> {
        if let Some(token) = self.ahead {
            return Ok(token);
        }
        match self.lexer.next_token() {
            Ok(token) => {
                self.ahead = Some(token);
                Ok(token)
            }
            Err(e) => Err(self.error(PosRange::new(e.start, self.input.len()), e.message)),
        }
    }

    /// Takes the token that was peeked at.
    fn take(&mut self) {
        debug_assert!(self.ahead.is_some());
        if let Some(token) = self.ahead.take() {
            self.last_end = token.end();
        }
    }

    /// Takes the next token if it is of this kind.
    fn take_if(&mut self, kind: Kind) -> Parsed<Option<Token<'a>>> {
        let token = self.peek()?;
        if token.kind == kind {
            self.take();
            return Ok(Some(token));
        }
        Ok(None)
    }

    /// Takes the next token, which has to be of this kind.
    fn expect(&mut self, kind: Kind) -> Parsed<Token<'a>> {
        match self.take_if(kind)? {
            Some(token) => Ok(token),
            None => {
                let token = self.peek()?;
                Err(self.unexpected(token))
            }
        }
    }

    fn unexpected(&self, token: Token<'_>) -> Box<ParseError> {
        match self.context {
            Some(context) => self.unexpected_in(token, context),
            None => self.error(token.pos(), format!("unexpected {}", token.describe())),
        }
    }

    fn unexpected_in(&self, token: Token<'_>, context: Context) -> Box<ParseError> {
        let mut message = format!("unexpected {} in {}", token.describe(), context.inside);
        if !context.expected.is_empty() {
            message += ", expected ";
            message += context.expected;
        }
        self.error(token.pos(), message)
    }

    /// Runs `f` in a context.
    fn inside<T>(&mut self, context: Context, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let before = self.context.replace(context);
        let result = f(self);
        self.context = before;
        result
    }

    fn too_deep(&self, pos: PosRange) -> Box<ParseError> {
        self.error(pos, format!("expression is nested more than {MAX_DEPTH} levels deep"))
    }

    fn query(&mut self) -> Parsed<Expr> {
        if self.peek()?.kind == Kind::Eof {
            return Err(self.error(PosRange::default(), "no expression found in input"));
        }
        let (expr, _) = self.expr(0)?;
        self.expect(Kind::Eof)?;
        Ok(expr)
    }

    fn lone_selector(&mut self) -> Parsed<VectorSelector> {
        let first = self.peek()?;
        if !selector::starts(first.kind) {
            return Err(self.unexpected(first));
        }
        self.take();
        let selector = self.vector_selector(first)?;
        self.expect(Kind::Eof)?;
        Ok(selector)
    }

    /// One level more than `below`.
    fn above(&self, below: usize, pos: PosRange) -> Parsed<usize> {
        if below >= MAX_DEPTH {
            return Err(self.too_deep(pos));
        }
        Ok(below + 1)
    }

    /// Enters a recursion; the caller decrements `depth` when it is done.
    fn descend(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let token = self.peek()?;
            return Err(self.too_deep(token.pos()));
        }
        Ok(())
    }

    /// An expression of operators that bind at least as tightly as `least`.
    fn expr(&mut self, least: u8) -> Parsed<Deep> {
        self.descend()?;
        let mut left = self.prefix()?;
        while self.infix(&mut left, least)? {}
        self.depth -= 1;
        Ok(left)
    }

    /// Applies the next infix or postfix operator to what stands before it. False if there is none for it.
    fn infix(&mut self, left: &mut Deep, least: u8) -> Parsed<bool> {
        let token = self.peek()?;
        match token.kind {
            Kind::Op(op) if power(op) >= least => {
                self.take();
                self.binary(left, op, token.pos())?;
            }
            Kind::LeftBracket => {
                self.take();
                self.bracket(left, token)?;
            }
            Kind::Offset => {
                self.take();
                self.offset(&mut left.0)?;
            }
            Kind::At => {
                self.take();
                self.at(&mut left.0)?;
            }
            Kind::Anchored | Kind::Smoothed => {
                self.take();
                self.extended_range(&mut left.0, token.kind == Kind::Anchored)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What stands before the first infix or postfix operator.
    fn prefix(&mut self) -> Parsed<Deep> {
        let token = self.peek()?;
        if !starts_expr(token.kind) {
            return Err(self.unexpected(token));
        }
        self.take();
        match token.kind {
            Kind::LeftParen => self.paren(token),
            Kind::Op(BinaryOp::Add) => self.unary(UnaryOp::Add, token.pos()),
            Kind::Op(BinaryOp::Sub) => self.unary(UnaryOp::Sub, token.pos()),
            Kind::Number | Kind::Duration | Kind::String => self.literal(token),
            _ => self.named(token),
        }
    }

    fn literal(&mut self, token: Token<'a>) -> Parsed<Deep> {
        if token.kind != Kind::String {
            return Ok((Expr::Number(self.number(token)?), 1));
        }
        let (value, bytes) = literal::unquote(token.text);
        Ok((Expr::String(StringLiteral { value, bytes, pos: token.pos() }), 1))
    }

    /// A call, an aggregation or a selector; a word before a parenthesis is no metric's name.
    fn named(&mut self, token: Token<'a>) -> Parsed<Deep> {
        let next = self.peek()?.kind;
        match token.kind {
            Kind::Identifier | Kind::Start | Kind::End | Kind::Step | Kind::Range | Kind::MaxOf | Kind::MinOf
                if next == Kind::LeftParen =>
            {
                self.call(token)
            }
            Kind::Aggregator(op) if matches!(next, Kind::LeftParen | Kind::By | Kind::Without) => {
                self.aggregate(op, token)
            }
            _ => self.selector_expr(token),
        }
    }

    fn selector_expr(&mut self, first: Token<'a>) -> Parsed<Deep> {
        Ok((Expr::Vector(Box::new(self.vector_selector(first)?)), 1))
    }

    fn paren(&mut self, open: Token<'a>) -> Parsed<Deep> {
        let (expr, depth) = self.expr(0)?;
        let close = self.expect(Kind::RightParen)?;
        let pos = PosRange::new(open.start, close.end());
        let depth = self.above(depth, pos)?;
        Ok((Expr::Paren(Box::new(ParenExpr { expr, pos })), depth))
    }

    fn unary(&mut self, op: UnaryOp, pos: PosRange) -> Parsed<Deep> {
        let operand = self.expr(MUL_POWER + 1)?;
        self.new_unary(op, pos, operand)
    }

    fn new_unary(&self, op: UnaryOp, pos: PosRange, (expr, depth): Deep) -> Parsed<Deep> {
        // A sign belongs to the number behind it, unless an operator took that: `-2^2`.
        if let Expr::Number(mut number) = expr {
            if op == UnaryOp::Sub {
                number.value = -number.value;
            }
            number.pos.start = pos.start;
            return Ok((Expr::Number(number), depth));
        }
        let depth = self.above(depth, pos)?;
        Ok((Expr::Unary(Box::new(UnaryExpr { op, expr, start: pos.start })), depth))
    }

    fn binary(&mut self, left: &mut Deep, op: BinaryOp, pos: PosRange) -> Parsed<()> {
        let return_bool = self.take_if(Kind::Bool)?.is_some();
        let matching = self.matching()?;
        // All but `^` are left-associative.
        let right = self.expr(if op == BinaryOp::Pow { power(op) } else { power(op) + 1 })?;
        self.new_binary(left, op, pos, return_bool, matching, right)
    }

    fn new_binary(
        &self,
        left: &mut Deep,
        op: BinaryOp,
        pos: PosRange,
        return_bool: bool,
        matching: VectorMatching,
        (rhs, right_depth): Deep,
    ) -> Parsed<()> {
        let depth = self.above(left.1.max(right_depth), pos)?;
        let fills = matching.fill_lhs.is_some() || matching.fill_rhs.is_some();
        let lhs = take_expr(&mut left.0);
        let expr = Expr::Binary(Box::new(BinaryExpr { op, lhs, rhs, matching: Some(matching), return_bool }));
        if fills && !self.options.fill_modifiers {
            return Err(self.error(expr.pos(), "binop fill modifiers are experimental and not enabled"));
        }
        *left = (expr, depth);
        Ok(())
    }

    /// `[on|ignoring (…) [group_left|group_right [(…)]]] [fill…]`.
    fn matching(&mut self) -> Parsed<VectorMatching> {
        let mut matching = VectorMatching::default();
        let token = self.peek()?;
        if matches!(token.kind, Kind::On | Kind::Ignoring) {
            self.take();
            matching.on = token.kind == Kind::On;
            matching.labels = self.grouping()?;
            let token = self.peek()?;
            if matches!(token.kind, Kind::GroupLeft | Kind::GroupRight) {
                self.take();
                matching.card =
                    if token.kind == Kind::GroupLeft { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                // An expression in parentheses can't follow: they are the labels to include.
                let next = self.peek()?;
                if next.kind == Kind::LeftParen || !starts_expr(next.kind) {
                    matching.include = self.grouping()?;
                }
            }
        }
        let first = self.peek()?.kind;
        match first {
            Kind::Fill => {
                self.take();
                let value = self.fill_value()?;
                (matching.fill_lhs, matching.fill_rhs) = (Some(value), Some(value));
            }
            Kind::FillLeft => {
                self.take();
                matching.fill_lhs = Some(self.fill_value()?);
                if self.take_if(Kind::FillRight)?.is_some() {
                    matching.fill_rhs = Some(self.fill_value()?);
                }
            }
            Kind::FillRight => {
                self.take();
                matching.fill_rhs = Some(self.fill_value()?);
                if self.take_if(Kind::FillLeft)?.is_some() {
                    matching.fill_lhs = Some(self.fill_value()?);
                }
            }
            _ => {}
        }
        Ok(matching)
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.expect(Kind::LeftParen)?;
        let sign = self.sign()?;
        let token = self.peek()?;
        if !matches!(token.kind, Kind::Number | Kind::Duration) {
            return Err(self.unexpected(token));
        }
        self.take();
        let value = self.number(token)?.value;
        self.expect(Kind::RightParen)?;
        Ok(if sign.is_some_and(|(op, _)| op == UnaryOp::Sub) { -value } else { value })
    }

    /// A `+` or `-`, if one is next.
    fn sign(&mut self) -> Parsed<Option<(UnaryOp, PosRange)>> {
        let token = self.peek()?;
        let op = match token.kind {
            Kind::Op(BinaryOp::Add) => UnaryOp::Add,
            Kind::Op(BinaryOp::Sub) => UnaryOp::Sub,
            _ => return Ok(None),
        };
        self.take();
        Ok(Some((op, token.pos())))
    }

    /// Label names in parentheses.
    fn grouping(&mut self) -> Parsed<Vec<String>> {
        let token = self.peek()?;
        if token.kind != Kind::LeftParen {
            return Err(self.unexpected_in(token, GROUPING));
        }
        self.take();
        let mut labels = Vec::new();
        if self.take_if(Kind::RightParen)?.is_some() {
            return Ok(labels);
        }
        loop {
            let token = self.peek()?;
            if token.kind == Kind::String {
                self.take();
                let (label, bytes) = literal::unquote(token.text);
                if label.is_empty() || bytes.is_some() {
                    let shown = narthex_model::labels::quote_bytes(bytes.as_deref().unwrap_or_default());
                    return Err(self.error(token.pos(), format!("invalid label name for grouping: {shown}")));
                }
                labels.push(label);
            } else if is_grouping_label(token.kind) {
                self.take();
                labels.push(token.text.to_owned());
            } else {
                return Err(self.unexpected_in(token, GROUPING_LABEL));
            }
            let token = self.peek()?;
            match token.kind {
                Kind::RightParen => break,
                Kind::Comma => self.take(),
                _ => return Err(self.unexpected_in(token, GROUPING_NEXT)),
            }
            if self.peek()?.kind == Kind::RightParen {
                break;
            }
        }
        self.take();
        Ok(labels)
    }

    fn aggregate(&mut self, op: AggregateOp, name: Token<'a>) -> Parsed<Deep> {
        let context = self.context.replace(AGGREGATION);
        let before = self.aggregate_modifier()?;
        let args = self.call_body()?;
        let modifier = match before {
            Some(modifier) => Some(modifier),
            None => self.aggregate_modifier()?,
        };
        self.context = context;
        // The last thing taken was the closing parenthesis of either the arguments or the labels behind them.
        self.new_aggregate(op, PosRange::new(name.start, self.last_end), modifier.unwrap_or_default(), args)
    }

    fn new_aggregate(
        &self,
        op: AggregateOp,
        pos: PosRange,
        (without, grouping): (bool, Vec<String>),
        (args, depth): (Vec<Expr>, usize),
    ) -> Parsed<Deep> {
        let depth = self.above(depth, pos)?;
        let given = args.len();
        if given == 0 {
            return Err(self.error(pos, "no arguments for aggregate expression provided"));
        }
        if op.is_experimental() && !self.options.experimental_functions {
            let message = format!(
                "{op}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
            );
            return Err(self.error(pos, message));
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        let mut args = args.into_iter();
        let param = if op.has_param() { args.next() } else { None };
        match (args.next(), args.next()) {
            (Some(expr), None) => {
                Ok((Expr::Aggregate(Box::new(AggregateExpr { op, expr, param, grouping, without, pos })), depth))
            }
            _ => {
                let wrong = "wrong number of arguments for aggregate expression provided";
                Err(self.error(pos, format!("{wrong}, expected {wanted}, got {given}")))
            }
        }
    }

    /// `by (…)` or `without (…)`: whether it is `without`, and the labels.
    fn aggregate_modifier(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        let token = self.peek()?;
        if !matches!(token.kind, Kind::By | Kind::Without) {
            return Ok(None);
        }
        self.take();
        Ok(Some((token.kind == Kind::Without, self.grouping()?)))
    }

    fn call(&mut self, name: Token<'a>) -> Parsed<Deep> {
        let args = self.call_body()?;
        self.new_call(name, args)
    }

    fn new_call(&self, name: Token<'a>, (args, depth): (Vec<Expr>, usize)) -> Parsed<Deep> {
        let func = self.known_function(name)?;
        let pos = PosRange::new(name.start, self.last_end);
        let depth = self.above(depth, pos)?;
        Ok((Expr::Call(Box::new(Call { func, args, pos })), depth))
    }

    fn known_function(&self, name: Token<'_>) -> Parsed<&'static Function> {
        let Some(func) = function(name.text) else {
            return Err(self.error(name.pos(), format!("unknown function with name {}", quote(name.text))));
        };
        if func.experimental && !self.options.experimental_functions {
            return Err(self.error(name.pos(), format!("function {} is not enabled", quote(name.text))));
        }
        Ok(func)
    }

    /// Arguments in parentheses, and the depth of the deepest.
    fn call_body(&mut self) -> Parsed<(Vec<Expr>, usize)> {
        self.expect(Kind::LeftParen)?;
        let mut args = (Vec::new(), 0);
        if self.take_if(Kind::RightParen)?.is_some() {
            return Ok(args);
        }
        loop {
            let (arg, depth) = self.expr(0)?;
            args.0.push(arg);
            args.1 = depth.max(args.1);
            if !self.another_argument()? {
                return Ok(args);
            }
        }
    }

    /// Takes the comma before another argument, or the closing parenthesis.
    fn another_argument(&mut self) -> Parsed<bool> {
        let token = self.peek()?;
        match token.kind {
            Kind::RightParen => {
                self.take();
                return Ok(false);
            }
            Kind::Comma => self.take(),
            _ => return Err(self.unexpected(token)),
        }
        if !starts_expr(self.peek()?.kind) {
            return Err(self.error(token.pos(), "trailing commas not allowed in function call args"));
        }
        Ok(true)
    }
}

/// The expression, with something trivial in its place.
fn take_expr(expr: &mut Expr) -> Expr {
    let nothing = NumberLiteral { value: 0.0, duration: false, pos: PosRange::default() };
    std::mem::replace(expr, Expr::Number(nothing))
}

/// Whether an expression can begin with such a token.
fn starts_expr(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Number | Kind::Duration | Kind::String | Kind::LeftParen | Kind::Op(BinaryOp::Add | BinaryOp::Sub)
    ) || selector::starts(kind)
}

/// Whether such a word can be a label in `by (…)`, `on (…)` and so on: every word but `without`.
fn is_grouping_label(kind: Kind) -> bool {
    use Kind::*;
    let never_a_metric = matches!(kind, Op(BinaryOp::Atan2) | Bool | GroupLeft | GroupRight | Ignoring | On);
    never_a_metric || kind != Without && selector::may_be_name(kind)
}
