//! Vector selectors, and the postfix operators that turn them into something else or modify them.

use narthex_model::{METRIC_NAME, MatchType, Matcher, gomath};

use super::{AT, Context, Deep, Parsed, Parser, RANGE, RANGE_END, STEP, STEP_END, literal, take_expr};
use crate::ast::*;
use crate::lexer::{Kind, Token};

const MATCHER: Context = Context { inside: "label matching", expected: r#"identifier or "}""# };
const MATCHER_OP: Context = Context { inside: "label matching", expected: "label matching operator" };
const MATCHER_VALUE: Context = Context { inside: "label matching", expected: "string" };
const MATCHER_NEXT: Context = Context { inside: "label matching", expected: r#""," or "}""# };

/// Whether a vector selector can begin with such a token.
pub(super) fn starts(kind: Kind) -> bool {
    kind == Kind::LeftBrace || may_be_name(kind)
}

/// Names, and the keywords that may be the name of a metric.
pub(super) fn may_be_name(kind: Kind) -> bool {
    use Kind::*;
    matches!(
        kind,
        Identifier
            | MetricIdentifier
            | Aggregator(_)
            | Op(BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
            | By
            | Without
            | Fill
            | FillLeft
            | FillRight
            | Offset
            | Start
            | End
            | Step
            | Range
            | Anchored
            | Smoothed
            | MaxOf
            | MinOf
    )
}

/// What `@` and `offset` may follow: where they are kept, and the end that moves.
struct Modifiable<'e> {
    offset: &'e mut DurationValue,
    at: &'e mut Option<At>,
    end: &'e mut u32,
}

fn modifiable(expr: &mut Expr) -> Option<Modifiable<'_>> {
    match expr {
        Expr::Vector(v) => Some(Modifiable { offset: &mut v.offset, at: &mut v.at, end: &mut v.pos.end }),
        Expr::Matrix(m) => Some(Modifiable { offset: &mut m.selector.offset, at: &mut m.selector.at, end: &mut m.end }),
        Expr::Subquery(s) => Some(Modifiable { offset: &mut s.offset, at: &mut s.at, end: &mut s.end }),
        _ => None,
    }
}

impl<'a> Parser<'a> {
    /// A vector selector whose first token, an opening brace or a name, has been taken.
    pub(super) fn vector_selector(&mut self, first: Token<'a>) -> Parsed<VectorSelector> {
        let mut selector = VectorSelector { pos: first.pos(), ..Default::default() };
        if first.kind == Kind::LeftBrace {
            self.matchers(&mut selector)?;
            return Ok(selector);
        }
        selector.name = first.text.to_owned();
        if self.take_if(Kind::LeftBrace)?.is_some() {
            self.matchers(&mut selector)?;
        }
        selector.matchers.push(Matcher::equal(METRIC_NAME, first.text));
        Ok(selector)
    }

    /// What follows an opening brace, to the closing one.
    fn matchers(&mut self, selector: &mut VectorSelector) -> Parsed<()> {
        let mut token = self.peek()?;
        while token.kind != Kind::RightBrace {
            self.matcher(token, selector)?;
            token = self.peek()?;
            match token.kind {
                Kind::RightBrace => break,
                Kind::Comma => self.take(),
                _ => return Err(self.unexpected_in(token, MATCHER_NEXT)),
            }
            token = self.peek()?;
        }
        self.take();
        selector.pos.end = token.pos().end;
        Ok(())
    }

    fn matcher(&mut self, label: Token<'a>, selector: &mut VectorSelector) -> Parsed<()> {
        let (name, quoted) = match label.kind {
            Kind::Identifier => (label.text.to_owned(), None),
            Kind::String => {
                let (name, bytes) = literal::unquote(label.text);
                (name, Some(bytes))
            }
            _ => return Err(self.unexpected_in(label, MATCHER)),
        };
        self.take();
        let token = self.peek()?;
        let match_type = match token.kind {
            Kind::Eql => MatchType::Equal,
            Kind::Op(BinaryOp::Neq) => MatchType::NotEqual,
            Kind::EqlRegex => MatchType::Regexp,
            Kind::NeqRegex => MatchType::NotRegexp,
            _ => match quoted {
                Some(bytes) => {
                    selector.matchers.push(Matcher::equal(METRIC_NAME, name));
                    selector.exact_values.extend(bytes.map(|b| (selector.matchers.len() - 1, b)));
                    return Ok(());
                }
                None => return Err(self.unexpected_in(token, MATCHER_OP)),
            },
        };
        self.take();
        let token = self.peek()?;
        if token.kind != Kind::String {
            return Err(self.unexpected_in(token, MATCHER_VALUE));
        }
        self.take();
        let (value, bytes) = literal::unquote(token.text);
        match Matcher::new(match_type, name, value) {
            Ok(matcher) => {
                selector.matchers.push(matcher);
                selector.exact_values.extend(bytes.map(|b| (selector.matchers.len() - 1, b)));
                Ok(())
            }
            Err(e) => Err(self.error(PosRange::new(label.start, token.end()), e.to_string())),
        }
    }

    /// What follows `[`: a range, or a subquery's range and step.
    pub(super) fn bracket(&mut self, left: &mut Deep, open: Token<'a>) -> Parsed<()> {
        let range = self.inside(RANGE, Self::positive_duration)?;
        let token = self.peek()?;
        match token.kind {
            Kind::RightBracket => {
                self.take();
                let pos = PosRange::new(open.start, token.end());
                let selector = match &mut left.0 {
                    Expr::Vector(selector) if selector.offset.nanos != 0 => {
                        return Err(self.error(pos, "no offset modifiers allowed before range"));
                    }
                    Expr::Vector(selector) if matches!(selector.at, Some(At::Timestamp(_))) => {
                        return Err(self.error(pos, "no @ modifiers allowed before range"));
                    }
                    Expr::Vector(selector) => std::mem::take(&mut **selector),
                    _ => return Err(self.error(pos, "ranges only allowed for vector selectors")),
                };
                left.0 = Expr::Matrix(Box::new(MatrixSelector { selector, range, end: pos.end }));
                Ok(())
            }
            Kind::Colon => {
                self.take();
                let mut token = self.peek()?;
                let mut step = DurationValue::default();
                if token.kind != Kind::RightBracket {
                    step = self.inside(STEP, Self::positive_duration)?;
                    token = self.peek()?;
                    if token.kind != Kind::RightBracket {
                        return Err(self.unexpected_in(token, STEP_END));
                    }
                }
                self.take();
                left.1 = self.above(left.1, token.pos())?;
                let (offset, at, end) = (DurationValue::default(), None, token.pos().end);
                let expr = take_expr(&mut left.0);
                left.0 = Expr::Subquery(Box::new(SubqueryExpr { expr, range, step, offset, at, end }));
                Ok(())
            }
            _ => Err(self.unexpected_in(token, RANGE_END)),
        }
    }

    /// What follows `offset`.
    pub(super) fn offset(&mut self, expr: &mut Expr) -> Parsed<()> {
        let (offset, end) = self.inside(super::OFFSET, Self::offset_duration)?;
        let pos = expr.pos();
        let Some(target) = modifiable(expr) else {
            let what = "an instant vector selector or range vector selector or a subquery";
            return Err(self.error(pos, format!("offset modifier must be preceded by {what}")));
        };
        if !target.offset.is_unset() {
            return Err(self.error(pos, "offset may not be set multiple times"));
        }
        *target.offset = offset;
        *target.end = end;
        Ok(())
    }

    /// What follows `@`.
    pub(super) fn at(&mut self, expr: &mut Expr) -> Parsed<()> {
        let pos = expr.pos();
        let (at, end) = self.inside(AT, |p| {
            let token = p.peek()?;
            if matches!(token.kind, Kind::Start | Kind::End) {
                p.take();
                p.expect(Kind::LeftParen)?;
                let close = p.expect(Kind::RightParen)?;
                let at = if token.kind == Kind::Start { At::Start } else { At::End };
                return Ok((at, close.pos().end));
            }
            let sign = p.sign()?;
            let token = p.peek()?;
            if !matches!(token.kind, Kind::Number | Kind::Duration) {
                return Err(p.unexpected(token));
            }
            p.take();
            let mut seconds = p.number(token)?.value;
            if sign.is_some_and(|(op, _)| op == UnaryOp::Sub) {
                seconds = -seconds;
            }
            if !seconds.is_finite() || seconds >= i64::MAX as f64 || seconds <= i64::MIN as f64 {
                let shown = if seconds.is_finite() {
                    format!("{seconds:.6}")
                } else {
                    narthex_model::number::format_value(seconds)
                };
                return Err(p.error(pos, format!("timestamp out of bounds for @ modifier: {shown}")));
            }
            Ok((At::Timestamp(gomath::to_i64((seconds * 1000.0).round())), token.pos().end))
        })?;
        let Some(target) = modifiable(expr) else {
            let what = "an instant vector selector or range vector selector or a subquery";
            return Err(self.error(pos, format!("@ modifier must be preceded by {what}")));
        };
        if target.at.is_some() {
            return Err(self.error(pos, "@ <timestamp> may not be set multiple times"));
        }
        *target.at = Some(at);
        *target.end = end;
        Ok(())
    }

    /// `anchored` or `smoothed`, which has been taken.
    pub(super) fn extended_range(&mut self, expr: &mut Expr, anchored: bool) -> Parsed<()> {
        let pos = expr.pos();
        let word = if anchored { "anchored" } else { "smoothed" };
        if !self.options.extended_range_selectors {
            return Err(self.error(pos, format!("{word} modifier is experimental and not enabled")));
        }
        let selector = match expr {
            Expr::Vector(v) => v,
            Expr::Matrix(m) => &mut m.selector,
            Expr::Subquery(_) => {
                return Err(self.error(pos, format!("{word} modifier is not supported for subqueries")));
            }
            _ => return Err(self.error(pos, format!("{word} modifier not implemented"))),
        };
        *(if anchored { &mut selector.anchored } else { &mut selector.smoothed }) = true;
        if selector.anchored && selector.smoothed {
            return Err(self.error(pos, "anchored and smoothed modifiers cannot be used together"));
        }
        Ok(())
    }
}
