//! Type checks, and other rules that need the whole tree. Sets what depends on types: the matching of binary operators.

use narthex_model::METRIC_NAME;
use narthex_model::labels::quote;

use crate::ast::*;
use crate::error::ParseError;

/// Checks a tree and completes it. Faults are found in Prometheus's order, so the first is the one that it shows.
pub(super) fn check(expr: &mut Expr, query: &str) -> Result<(), Box<ParseError>> {
    Checker { query }.expr(expr).map(drop)
}

struct Checker<'a> {
    query: &'a str,
}

type Checked<T> = Result<T, Box<ParseError>>;

impl Checker<'_> {
    fn error<T>(&self, pos: PosRange, message: impl Into<String>) -> Checked<T> {
        Err(Box::new(ParseError::new(pos, message, self.query)))
    }

    /// Recursive, as are those that it calls: what needs room, such as wording a fault, is done elsewhere.
    fn expr(&self, expr: &mut Expr) -> Checked<ValueType> {
        match expr {
            Expr::Number(_) => Ok(ValueType::Scalar),
            Expr::String(_) => Ok(ValueType::String),
            Expr::Vector(v) => self.selector(v).map(|()| ValueType::Vector),
            Expr::Matrix(m) => self.selector(&m.selector).map(|()| ValueType::Matrix),
            Expr::Paren(p) => self.expr(&mut p.expr),
            Expr::Unary(u) => {
                let t = self.expr(&mut u.expr)?;
                self.check_unary(u, t)
            }
            Expr::Subquery(s) => {
                let t = self.expr(&mut s.expr)?;
                self.check_subquery(s, t)
            }
            Expr::Aggregate(a) => self.aggregate(a),
            Expr::Binary(b) => self.binary(b),
            Expr::Call(c) => self.call(c),
        }
    }

    fn check_unary(&self, u: &UnaryExpr, t: ValueType) -> Checked<ValueType> {
        if matches!(t, ValueType::Scalar | ValueType::Vector) {
            return Ok(t);
        }
        let only = "unary expression only allowed on expressions of type scalar or instant vector";
        let pos = PosRange { start: u.start, end: u.expr.pos().end };
        self.error(pos, format!("{only}, got {}", quote(t.documented())))
    }

    fn check_subquery(&self, s: &SubqueryExpr, t: ValueType) -> Checked<ValueType> {
        if t == ValueType::Vector {
            return Ok(ValueType::Matrix);
        }
        let pos = PosRange { start: s.expr.pos().start, end: s.end };
        self.error(pos, format!("subquery is only allowed on instant vector, got {t} instead"))
    }

    fn aggregate(&self, a: &mut AggregateExpr) -> Checked<ValueType> {
        self.expect(&mut a.expr, ValueType::Vector, "aggregation expression")?;
        if let Some(param) = &mut a.param {
            let wanted = if a.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
            self.expect(param, wanted, "aggregation parameter")?;
        }
        Ok(ValueType::Vector)
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, inside: &str) -> Checked<()> {
        let t = self.expr(expr)?;
        if t == wanted { Ok(()) } else { self.wrong_type(expr, wanted, inside, t) }
    }

    fn wrong_type(&self, expr: &Expr, wanted: ValueType, inside: &str, t: ValueType) -> Checked<()> {
        let message = format!("expected type {} in {inside}, got {}", wanted.documented(), t.documented());
        self.error(expr.pos(), message)
    }

    fn binary(&self, b: &mut BinaryExpr) -> Checked<ValueType> {
        let left = self.expr(&mut b.lhs)?;
        let right = self.expr(&mut b.rhs)?;
        self.check_binary(b, left, right)
    }

    fn check_binary(&self, b: &mut BinaryExpr, left: ValueType, right: ValueType) -> Checked<ValueType> {
        let result = match (left, right) {
            (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
            _ => ValueType::Vector,
        };
        let pos = PosRange { start: b.lhs.pos().start, end: b.rhs.pos().end };
        if b.return_bool && !b.op.is_comparison() {
            return self.error(self.operator(b), "bool modifier can only be used on comparison operators");
        }
        if b.op.is_comparison() && !b.return_bool && result == ValueType::Scalar {
            return self.error(self.operator(b), "comparisons between scalars must use BOOL modifier");
        }
        let is_operand = |t| matches!(t, ValueType::Scalar | ValueType::Vector);
        if let Some(matching) = &mut b.matching {
            if b.op.is_set() && matching.card == Cardinality::OneToOne {
                matching.card = Cardinality::ManyToMany;
            }
            if matching.on
                && let Some(label) = matching.labels.iter().find(|l| matching.include.contains(l))
            {
                let message = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
                return self.error(self.operator(b), message);
            }
        }
        for (t, side) in [(left, &b.lhs), (right, &b.rhs)] {
            if !is_operand(t) {
                let message = "binary expression must contain only scalar and instant vector types";
                return self.error(side.pos(), message);
            }
        }
        if let Some(matching) = &b.matching {
            let fills = matching.fill_lhs.is_some() || matching.fill_rhs.is_some();
            if left != ValueType::Vector || right != ValueType::Vector {
                if !matching.labels.is_empty() {
                    return self.error(pos, "vector matching only allowed between instant vectors");
                }
                if fills {
                    return self.error(pos, "filling in missing series only allowed between instant vectors");
                }
                b.matching = None;
            } else if b.op.is_set() {
                if matching.card != Cardinality::ManyToMany {
                    let message = format!("no grouping allowed for {} operation", quote(b.op.as_str()));
                    return self.error(pos, message);
                }
                if fills {
                    return self.error(pos, "filling in missing series not allowed for set operators");
                }
            }
        }
        if b.op.is_set() && (left == ValueType::Scalar || right == ValueType::Scalar) {
            let message = format!("set operator {} not allowed in binary scalar expression", quote(b.op.as_str()));
            return self.error(pos, message);
        }
        Ok(result)
    }

    /// Where the operator stands, with its modifiers.
    fn operator(&self, b: &BinaryExpr) -> PosRange {
        let (start, end) = (b.lhs.pos().end as usize, b.rhs.pos().start as usize);
        let Some(between) = self.query.get(start..end) else { return PosRange::new(start, end) };
        let is_space = [' ', '\t', '\n', '\r'];
        let trimmed = between.trim_start_matches(is_space);
        let start = end - trimmed.len();
        PosRange::new(start, start + trimmed.trim_end_matches(is_space).len())
    }

    fn call(&self, c: &mut Call) -> Checked<ValueType> {
        self.check_call(c)?;
        for (i, arg) in c.args.iter_mut().enumerate() {
            let types = c.func.arg_types;
            let Some(wanted) = types.get(i).or(types.last()) else { break };
            let t = self.expr(arg)?;
            if t != *wanted {
                self.wrong_argument(arg, *wanted, c.func.name, t)?;
            }
        }
        Ok(c.func.return_type)
    }

    fn wrong_argument(&self, arg: &Expr, wanted: ValueType, name: &str, t: ValueType) -> Checked<()> {
        self.wrong_type(arg, wanted, &format!("call to function {}", quote(name)), t)
    }

    /// The number of arguments, and what only `info` wants.
    fn check_call(&self, c: &mut Call) -> Checked<()> {
        let func = c.func;
        let name = quote(func.name);
        let given = c.args.len();
        let listed = func.arg_types.len();
        if func.variadic == 0 {
            if listed != given {
                return self.error(c.pos, format!("expected {listed} argument(s) in call to {name}, got {given}"));
            }
        } else {
            let least = listed.saturating_sub(1);
            if least > given {
                let message = format!("expected at least {least} argument(s) in call to {name}, got {given}");
                return self.error(c.pos, message);
            }
            if let Ok(more @ 1..) = usize::try_from(func.variadic)
                && least + more < given
            {
                let most = least + more;
                let message = format!("expected at most {most} argument(s) in call to {name}, got {given}");
                return self.error(c.pos, message);
            }
        }
        if func.name == "info"
            && let Some(arg) = c.args.get_mut(1)
        {
            let t = arg.value_type();
            if t != ValueType::Vector {
                let message =
                    format!("expected type instant vector in call to function {name}, got {}", t.documented());
                return self.error(c.pos, message);
            }
            match arg {
                Expr::Vector(v) if v.name.is_empty() => v.bypass_empty_matcher_check = true,
                Expr::Vector(v) => {
                    return self.error(v.pos, "expected label selectors only, got vector selector instead");
                }
                other => return self.error(other.pos(), "expected label selectors only"),
            }
        }
        Ok(())
    }

    fn selector(&self, v: &VectorSelector) -> Checked<()> {
        if !v.name.is_empty() {
            // The last matcher is that of the name in front of the braces.
            let inside = v.matchers.split_last().map_or(&[][..], |(_, inside)| inside);
            if let Some(m) = inside.iter().find(|m| *m.name == *METRIC_NAME) {
                let message = format!("metric name must not be set twice: {} or {}", quote(&v.name), quote(&m.value));
                return self.error(v.pos, message);
            }
            return Ok(());
        }
        if !v.bypass_empty_matcher_check && v.matchers.iter().all(|m| m.matches_empty()) {
            return self.error(v.pos, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }
}
