//! Durations in brackets and behind `offset`: literals and arithmetic over them.

use narthex_model::gomath;

use super::literal::duration_out_of_range;
use super::{MUL_POWER, Parsed, Parser, power};
use crate::ast::*;
use crate::lexer::{Kind, Token};

/// An operand and the depth of its tree.
type Deep = (DurationOperand, usize);

fn duration_op(kind: Kind) -> Option<(DurationOp, u8)> {
    let Kind::Op(op) = kind else { return None };
    let duration_op = match op {
        BinaryOp::Add => DurationOp::Add,
        BinaryOp::Sub => DurationOp::Sub,
        BinaryOp::Mul => DurationOp::Mul,
        BinaryOp::Div => DurationOp::Div,
        BinaryOp::Mod => DurationOp::Mod,
        BinaryOp::Pow => DurationOp::Pow,
        _ => return None,
    };
    Some((duration_op, power(op)))
}

fn value(operand: DurationOperand) -> DurationValue {
    match operand {
        DurationOperand::Number(n) => DurationValue::fixed(gomath::to_i64((n.value * 1e9).round())),
        DurationOperand::Expr(e) => DurationValue { nanos: 0, expr: Some(e) },
    }
}

impl<'a> Parser<'a> {
    /// A range or a step.
    pub(super) fn positive_duration(&mut self) -> Parsed<DurationValue> {
        let (operand, _) = self.duration(0)?;
        // A duration ends where the next token is none of it, so that has been read before this is found.
        self.peek()?;
        match operand {
            DurationOperand::Number(n) if n.value <= 0.0 => Err(self.error(n.pos, "duration must be greater than 0")),
            operand => Ok(value(operand)),
        }
    }

    /// What follows `offset`, and where it ends. Without parentheses it is a single operand with a sign at most:
    /// `a offset 5m + 1` adds 1 to `a`. But what stands in parentheses without a sign starts an expression that takes
    /// all that follows.
    pub(super) fn offset_duration(&mut self) -> Parsed<(DurationValue, u32)> {
        let first = self.peek()?;
        let operand = match self.sign()? {
            None if first.kind == Kind::LeftParen => self.duration(0)?.0,
            None => self.duration_primary(None)?.0,
            Some((op, pos)) => {
                let token = self.peek()?;
                match token.kind {
                    Kind::Number | Kind::Duration => {
                        let number = self.duration_number(token)?;
                        self.signed_number(op, pos, number)?
                    }
                    Kind::LeftParen => {
                        self.take();
                        let (inner, _) = self.duration(0)?;
                        self.expect(Kind::RightParen)?;
                        self.signed(op, pos, wrapped(inner))?
                    }
                    Kind::Op(BinaryOp::Add | BinaryOp::Sub) => {
                        let (inner, depth) = self.duration(MUL_POWER + 1)?;
                        let signed = self.signed(op, pos, inner)?;
                        self.duration_tail((signed, depth + 1), 0)?.0
                    }
                    _ => {
                        let (rhs, _) = self.duration_primary(Some(pos))?;
                        let op = match op {
                            UnaryOp::Add => DurationOp::Add,
                            UnaryOp::Sub => DurationOp::Sub,
                        };
                        let pos = PosRange { start: pos.start, end: rhs.pos().end };
                        let expr = DurationExpr { op, lhs: None, rhs: Some(rhs), wrapped: false, pos };
                        DurationOperand::Expr(Box::new(expr))
                    }
                }
            }
        };
        Ok((value(operand), self.last_end as u32))
    }

    /// An expression of operators that bind at least as tightly as `least`.
    fn duration(&mut self, least: u8) -> Parsed<Deep> {
        self.descend()?;
        let left = match self.sign()? {
            Some((op, pos)) => {
                let (inner, depth) = self.duration(MUL_POWER + 1)?;
                let depth = self.above(depth, pos)?;
                (self.signed(op, pos, inner)?, depth)
            }
            None => self.duration_primary(None)?,
        };
        let result = self.duration_tail(left, least);
        self.depth -= 1;
        result
    }

    /// The operators behind the first operand.
    fn duration_tail(&mut self, mut left: Deep, least: u8) -> Parsed<Deep> {
        loop {
            let token = self.peek()?;
            let Some((op, power)) = duration_op(token.kind).filter(|(_, power)| *power >= least) else {
                return Ok(left);
            };
            self.take();
            let right = self.duration(if op == DurationOp::Pow { power } else { power + 1 })?;
            let (lhs, rhs) = (left.0, right.0);
            self.experimental(lhs.pos())?;
            if matches!(&rhs, DurationOperand::Number(n) if n.value == 0.0) {
                match op {
                    DurationOp::Div => return Err(self.error(token.pos(), "division by zero")),
                    DurationOp::Mod => return Err(self.error(token.pos(), "modulo by zero")),
                    _ => {}
                }
            }
            let pos = PosRange { start: lhs.pos().start, end: rhs.pos().end };
            let depth = self.above(left.1.max(right.1), token.pos())?;
            let expr = DurationExpr { op, lhs: Some(lhs), rhs: Some(rhs), wrapped: false, pos };
            left = (DurationOperand::Expr(Box::new(expr)), depth);
        }
    }

    /// A literal, a function, or something in parentheses. A `sign` before it is part of what is not enabled.
    fn duration_primary(&mut self, sign: Option<PosRange>) -> Parsed<Deep> {
        let token = self.peek()?;
        match token.kind {
            Kind::Number | Kind::Duration => {
                let number = self.duration_number(token)?;
                if duration_out_of_range(number.value) {
                    return Err(self.error(number.pos, "duration out of range"));
                }
                Ok((DurationOperand::Number(number), 1))
            }
            Kind::Step | Kind::Range => {
                self.take();
                self.expect(Kind::LeftParen)?;
                let close = self.expect(Kind::RightParen)?;
                let op = if token.kind == Kind::Step { DurationOp::Step } else { DurationOp::Range };
                let pos = PosRange::new(token.start, close.end());
                self.experimental(sign.unwrap_or(pos))?;
                let expr = DurationExpr { op, lhs: None, rhs: None, wrapped: false, pos };
                Ok((DurationOperand::Expr(Box::new(expr)), 1))
            }
            Kind::MaxOf | Kind::MinOf => {
                self.take();
                self.expect(Kind::LeftParen)?;
                let (lhs, left_depth) = self.duration(0)?;
                self.expect(Kind::Comma)?;
                let (rhs, right_depth) = self.duration(0)?;
                self.expect(Kind::RightParen)?;
                let op = if token.kind == Kind::MaxOf { DurationOp::MaxOf } else { DurationOp::MinOf };
                // Without the function's name, as in Prometheus 3.14.
                let pos = PosRange { start: lhs.pos().start, end: rhs.pos().end };
                self.experimental(sign.unwrap_or(pos))?;
                let depth = self.above(left_depth.max(right_depth), token.pos())?;
                let expr = DurationExpr { op, lhs: Some(lhs), rhs: Some(rhs), wrapped: false, pos };
                Ok((DurationOperand::Expr(Box::new(expr)), depth))
            }
            Kind::LeftParen => {
                self.take();
                let (inner, depth) = self.duration(0)?;
                self.expect(Kind::RightParen)?;
                self.experimental(inner.pos())?;
                Ok((wrapped(inner), depth))
            }
            _ => Err(self.unexpected(token)),
        }
    }

    fn duration_number(&mut self, token: Token<'a>) -> Parsed<NumberLiteral> {
        self.take();
        self.number(token)
    }

    fn signed(&self, op: UnaryOp, pos: PosRange, operand: DurationOperand) -> Parsed<DurationOperand> {
        match operand {
            DurationOperand::Number(number) => self.signed_number(op, pos, number),
            DurationOperand::Expr(e) if op == UnaryOp::Add => Ok(DurationOperand::Expr(e)),
            DurationOperand::Expr(e) => {
                let pos = PosRange { start: pos.start, end: e.pos.end };
                let rhs = Some(DurationOperand::Expr(e));
                let expr = DurationExpr { op: DurationOp::Sub, lhs: None, rhs, wrapped: false, pos };
                Ok(DurationOperand::Expr(Box::new(expr)))
            }
        }
    }

    fn signed_number(&self, op: UnaryOp, pos: PosRange, mut number: NumberLiteral) -> Parsed<DurationOperand> {
        if op == UnaryOp::Sub {
            number.value = -number.value;
        }
        if duration_out_of_range(number.value) {
            return Err(self.error(pos, "duration out of range"));
        }
        number.pos.start = pos.start;
        Ok(DurationOperand::Number(number))
    }

    fn experimental(&self, pos: PosRange) -> Parsed<()> {
        if self.options.duration_expressions {
            return Ok(());
        }
        Err(self.error(pos, "experimental duration expression is not enabled"))
    }
}

/// Parentheses around a number leave no trace.
fn wrapped(operand: DurationOperand) -> DurationOperand {
    match operand {
        DurationOperand::Expr(mut e) => {
            e.wrapped = true;
            DurationOperand::Expr(e)
        }
        number => number,
    }
}
