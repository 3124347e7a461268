//! Queries as text: [`std::fmt::Display`] of the syntax tree is Prometheus's `Expr.String()`, on one line; [`pretty`]
//! is its `Prettify`, what `/api/v1/format_query` answers.
//!
//! Parsing what is printed gives the same tree but for positions, except where Prometheus's own printer falls short:
//! durations below a millisecond vanish, `@` keeps milliseconds, and numbers in duration expressions lose their
//! parentheses.

use std::fmt::{self, Write};
use std::time::Duration;

use narthex_model::labels::{is_legacy_name, quote, quote_bytes};
use narthex_model::number::{format_g, format_value};
use narthex_model::{METRIC_NAME, MatchType, duration, gomath};

use crate::ast::*;

/// Lines longer than so many bytes are split.
const MAX_LINE: usize = 100;

/// The query with long expressions split over lines, indented by two spaces a level.
pub fn pretty(expr: &Expr) -> String {
    let mut out = String::new();
    write_pretty(&mut out, expr, 0);
    out
}

/// A duration as Prometheus writes it: `1h30m`, `90d`; years and weeks only where nothing is left over. What is below
/// a millisecond is cut off.
fn format_duration(nanos: i64) -> String {
    let text = duration::format(Duration::from_nanos(nanos.unsigned_abs()));
    if nanos <= -1_000_000 { format!("-{text}") } else { text }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_expr(&mut out, self);
        f.write_str(&out)
    }
}

impl fmt::Display for VectorSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_selector(&mut out, self, None);
        f.write_str(&out)
    }
}

impl fmt::Display for MatrixSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_selector(&mut out, &self.selector, Some(&self.range));
        f.write_str(&out)
    }
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_duration_expr(&mut out, self);
        f.write_str(&out)
    }
}

fn write_expr(out: &mut String, expr: &Expr) {
    match expr {
        Expr::Aggregate(a) => {
            write_aggregate_head(out, a);
            out.push('(');
            if let Some(param) = &a.param {
                write_expr(out, param);
                out.push_str(", ");
            }
            write_expr(out, &a.expr);
            out.push(')');
        }
        Expr::Binary(b) => {
            write_expr(out, &b.lhs);
            out.push(' ');
            write_operator(out, b);
            out.push(' ');
            write_expr(out, &b.rhs);
        }
        Expr::Call(c) => {
            out.push_str(c.func.name);
            out.push('(');
            for (i, arg) in c.args.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_expr(out, arg);
            }
            out.push(')');
        }
        Expr::Matrix(m) => write_selector(out, &m.selector, Some(&m.range)),
        Expr::Subquery(s) => {
            write_expr(out, &s.expr);
            write_subquery_tail(out, s);
        }
        Expr::Number(n) => write_number(out, n),
        Expr::Paren(p) => {
            out.push('(');
            write_expr(out, &p.expr);
            out.push(')');
        }
        Expr::String(s) => out.push_str(&quote_bytes(s.as_bytes())),
        Expr::Unary(u) => {
            out.push_str(u.op.as_str());
            write_expr(out, &u.expr);
        }
        Expr::Vector(v) => write_selector(out, v, None),
    }
}

fn write_number(out: &mut String, n: &NumberLiteral) {
    if !n.duration {
        out.push_str(&format_value(n.value));
    } else if n.value < 0.0 {
        out.push('-');
        out.push_str(&format_duration(gomath::to_i64(-n.value * 1e9)));
    } else {
        out.push_str(&format_duration(gomath::to_i64(n.value * 1e9)));
    }
}

fn write_aggregate_head(out: &mut String, a: &AggregateExpr) {
    out.push_str(a.op.as_str());
    if a.without || !a.grouping.is_empty() {
        out.push_str(if a.without { " without (" } else { " by (" });
        write_labels(out, &a.grouping);
        out.push_str(") ");
    }
}

fn write_labels(out: &mut String, labels: &[String]) {
    for (i, label) in labels.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if is_legacy_name(label) {
            out.push_str(label);
        } else {
            out.push_str(&quote(label));
        }
    }
}

/// The operator with its modifiers.
fn write_operator(out: &mut String, b: &BinaryExpr) {
    out.push_str(b.op.as_str());
    if b.return_bool {
        out.push_str(" bool");
    }
    let Some(m) = &b.matching else { return };
    let grouped = matches!(m.card, Cardinality::ManyToOne | Cardinality::OneToMany);
    if !m.labels.is_empty() || m.on || grouped {
        out.push_str(if m.on { " on (" } else { " ignoring (" });
        write_labels(out, &m.labels);
        out.push(')');
    }
    if grouped {
        out.push_str(if m.card == Cardinality::ManyToOne { " group_left (" } else { " group_right (" });
        write_labels(out, &m.include);
        out.push(')');
    }
    match (m.fill_lhs, m.fill_rhs) {
        (Some(l), Some(r)) if l == r => {
            let _ = write!(out, " fill ({})", format_g(l));
        }
        (lhs, rhs) => {
            for (side, fill) in [("left", lhs), ("right", rhs)] {
                if let Some(v) = fill {
                    let _ = write!(out, " fill_{side} ({})", format_g(v));
                }
            }
        }
    }
}

fn write_selector(out: &mut String, v: &VectorSelector, range: Option<&DurationValue>) {
    out.push_str(&v.name);
    let mut matchers: Vec<String> = Vec::with_capacity(v.matchers.len());
    for (i, m) in v.matchers.iter().enumerate() {
        let is_name = *m.name == *METRIC_NAME && m.match_type == MatchType::Equal;
        if is_name && *m.value == *v.name && !m.value.is_empty() {
            continue;
        }
        let exact = v.exact_values.iter().find(|(at, _)| *at == i);
        matchers.push(match exact {
            None => m.to_string(),
            Some((_, bytes)) => {
                let name = if is_legacy_name(&m.name) { m.name.to_string() } else { quote(&m.name) };
                format!("{name}{}{}", m.match_type.as_str(), quote_bytes(bytes))
            }
        });
    }
    if !matchers.is_empty() {
        matchers.sort();
        let _ = write!(out, "{{{}}}", matchers.join(","));
    }
    let extended = match (v.anchored, v.smoothed) {
        (true, _) => " anchored",
        (_, true) => " smoothed",
        _ => "",
    };
    match range {
        Some(range) => {
            out.push('[');
            write_duration(out, range);
            out.push(']');
            out.push_str(extended);
            write_at(out, v.at);
        }
        None => {
            write_at(out, v.at);
            out.push_str(extended);
        }
    }
    write_offset(out, &v.offset);
}

fn write_subquery_tail(out: &mut String, s: &SubqueryExpr) {
    out.push('[');
    write_duration(out, &s.range);
    out.push(':');
    if !s.step.is_unset() {
        write_duration(out, &s.step);
    }
    out.push(']');
    write_at(out, s.at);
    write_offset(out, &s.offset);
}

fn write_at(out: &mut String, at: Option<At>) {
    match at {
        Some(At::Timestamp(ms)) => {
            let _ = write!(out, " @ {:.3}", ms as f64 / 1000.0);
        }
        Some(At::Start) => out.push_str(" @ start()"),
        Some(At::End) => out.push_str(" @ end()"),
        None => {}
    }
}

fn write_offset(out: &mut String, offset: &DurationValue) {
    if !offset.is_unset() {
        out.push_str(" offset ");
        write_duration(out, offset);
    }
}

fn write_duration(out: &mut String, d: &DurationValue) {
    match &d.expr {
        Some(expr) => write_duration_expr(out, expr),
        // Go writes the sign by itself, so that -0.5ms is "-0s".
        None if d.nanos < 0 => {
            out.push('-');
            out.push_str(&format_duration(d.nanos.wrapping_neg()));
        }
        None => out.push_str(&format_duration(d.nanos)),
    }
}

fn write_operand(out: &mut String, operand: &DurationOperand) {
    match operand {
        DurationOperand::Number(n) => write_number(out, n),
        DurationOperand::Expr(e) => write_duration_expr(out, e),
    }
}

fn write_duration_expr(out: &mut String, e: &DurationExpr) {
    if e.wrapped {
        out.push('(');
    }
    match (e.op, &e.lhs, &e.rhs) {
        (DurationOp::Step | DurationOp::Range, ..) => {
            out.push_str(e.op.as_str());
            out.push_str("()");
        }
        (DurationOp::MinOf | DurationOp::MaxOf, lhs, rhs) => {
            out.push_str(e.op.as_str());
            out.push('(');
            lhs.iter().for_each(|o| write_operand(out, o));
            out.push_str(", ");
            rhs.iter().for_each(|o| write_operand(out, o));
            out.push(')');
        }
        (op, None, rhs) => {
            // A unary plus isn't written.
            if op == DurationOp::Sub {
                out.push('-');
            }
            rhs.iter().for_each(|o| write_operand(out, o));
        }
        (op, Some(lhs), rhs) => {
            write_operand(out, lhs);
            let _ = write!(out, " {op} ");
            rhs.iter().for_each(|o| write_operand(out, o));
        }
    }
    if e.wrapped {
        out.push(')');
    }
}

fn indent(out: &mut String, level: usize) {
    (0..level).for_each(|_| out.push_str("  "));
}

/// Writes an expression whose parent began a new line for it if `level` is not 0.
fn write_pretty(out: &mut String, expr: &Expr, level: usize) {
    // What a sign stands before is asked itself whether it is too long.
    if let Expr::Unary(u) = expr {
        let mut child = String::new();
        write_pretty(&mut child, &u.expr, level);
        indent(out, level);
        out.push_str(u.op.as_str());
        out.push_str(child.trim());
        return;
    }
    let mut line = String::new();
    write_expr(&mut line, expr);
    let long = line.len() > MAX_LINE;
    match expr {
        Expr::Subquery(s) if long => {
            write_pretty(out, &s.expr, level);
            write_subquery_tail(out, s);
        }
        // Prometheus forgets to indent short ones.
        Expr::Subquery(_) => out.push_str(&line),
        Expr::Aggregate(a) if long => {
            indent(out, level);
            write_aggregate_head(out, a);
            out.push_str("(\n");
            if let Some(param) = &a.param {
                write_pretty(out, param, level + 1);
                out.push_str(",\n");
            }
            write_pretty(out, &a.expr, level + 1);
            close(out, level);
        }
        Expr::Binary(b) if long => {
            write_pretty(out, &b.lhs, level + 1);
            out.push('\n');
            indent(out, level);
            write_operator(out, b);
            out.push('\n');
            write_pretty(out, &b.rhs, level + 1);
        }
        Expr::Call(c) if long => {
            indent(out, level);
            out.push_str(c.func.name);
            out.push_str("(\n");
            for (i, arg) in c.args.iter().enumerate() {
                if i > 0 {
                    out.push_str(",\n");
                }
                write_pretty(out, arg, level + 1);
            }
            close(out, level);
        }
        Expr::Paren(p) if long => {
            indent(out, level);
            out.push_str("(\n");
            write_pretty(out, &p.expr, level + 1);
            close(out, level);
        }
        _ => {
            indent(out, level);
            out.push_str(&line);
        }
    }
}

fn close(out: &mut String, level: usize) {
    out.push('\n');
    indent(out, level);
    out.push(')');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ms, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (-90_000, "-1m30s"),
            (90 * 86_400_000, "90d"),
            (14 * 86_400_000, "2w"),
            (365 * 86_400_000, "1y"),
            (366 * 86_400_000, "366d"),
            (93_784_005, "1d2h3m4s5ms"),
        ] {
            assert_eq!(format_duration(ms * 1_000_000), expected);
        }
        assert_eq!(format_duration(999_999), "0s");
        assert_eq!(format_duration(i64::MIN), "-106751d23h47m16s854ms");
    }
}
