//! The syntax tree as `/api/v1/parse_query` answers it.

use narthex_model::number::format_value;
use serde_json::{Value, json};

use crate::ast::*;

/// The tree in Prometheus's shape, without positions. Infinite and NaN fill values, on which Prometheus's own reply
/// breaks off, are null.
pub fn to_json(expr: &Expr) -> Value {
    // Children first, so that the large frames that `json!` needs are not part of the recursion.
    let mut children = Vec::new();
    expr.for_each_child(|child| children.push(to_json(child)));
    node(expr, children)
}

/// The node whose children, in the order of [`Expr::for_each_child`], are translated.
fn node(expr: &Expr, children: Vec<Value>) -> Value {
    match expr {
        Expr::Call(c) => with(
            json!({
                "type": "call",
                "func": {
                    "name": c.func.name,
                    "argTypes": c.func.arg_types.iter().map(|t| t.as_str()).collect::<Vec<_>>(),
                    "variadic": c.func.variadic,
                    "returnType": c.func.return_type.as_str(),
                },
            }),
            "args",
            Value::Array(children),
        ),
        Expr::Matrix(m) => {
            let mut node = selector("matrixSelector", &m.selector);
            node["range"] = m.range.millis().into();
            node["rangeExpr"] = duration(&m.range);
            node
        }
        Expr::Vector(v) => selector("vectorSelector", v),
        Expr::Number(n) => json!({ "type": "numberLiteral", "val": format_value(n.value) }),
        Expr::String(s) => json!({ "type": "stringLiteral", "val": s.value }),
        _ => inner_node(expr, children),
    }
}

fn inner_node(expr: &Expr, children: Vec<Value>) -> Value {
    let mut children = children.into_iter();
    let (first, second) = (children.next().unwrap_or_default(), children.next().unwrap_or_default());
    match expr {
        Expr::Aggregate(a) => {
            let node = json!({
                "type": "aggregation",
                "op": a.op.as_str(),
                "grouping": a.grouping,
                "without": a.without,
            });
            with(with(node, "expr", first), "param", second)
        }
        Expr::Binary(b) => {
            let node = json!({
                "type": "binaryExpr",
                "op": b.op.as_str(),
                "matching": b.matching.as_ref().map(matching),
                "bool": b.return_bool,
            });
            with(with(node, "lhs", first), "rhs", second)
        }
        Expr::Subquery(s) => {
            let node = json!({
                "type": "subquery",
                "range": s.range.millis(),
                "rangeExpr": duration(&s.range),
                "offset": s.offset.millis(),
                "offsetExpr": duration(&s.offset),
                "step": s.step.millis(),
                "stepExpr": duration(&s.step),
                "timestamp": timestamp(s.at),
                "startOrEnd": start_or_end(s.at),
            });
            with(node, "expr", first)
        }
        Expr::Paren(_) => with(json!({ "type": "parenExpr" }), "expr", first),
        Expr::Unary(u) => with(json!({ "type": "unaryExpr", "op": u.op.as_str() }), "expr", first),
        Expr::Call(_) | Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => Value::Null,
    }
}

/// The object with one more field. (`json!` would copy a child, and each level all below it.)
fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

fn selector(kind: &str, v: &VectorSelector) -> Value {
    let matchers: Vec<Value> = v
        .matchers
        .iter()
        .map(|m| json!({ "name": &*m.name, "value": &*m.value, "type": m.match_type.as_str() }))
        .collect();
    json!({
        "type": kind,
        "name": v.name,
        "offset": v.offset.millis(),
        "offsetExpr": duration(&v.offset),
        "matchers": matchers,
        "timestamp": timestamp(v.at),
        "startOrEnd": start_or_end(v.at),
        "anchored": v.anchored,
        "smoothed": v.smoothed,
    })
}

fn matching(m: &VectorMatching) -> Value {
    json!({
        "card": m.card.as_str(),
        "labels": m.labels,
        "on": m.on,
        "include": m.include,
        "fillValues": { "lhs": m.fill_lhs.map(number), "rhs": m.fill_rhs.map(number) },
    })
}

/// Whole numbers without a fraction, as Go writes them.
fn number(v: f64) -> Value {
    let whole = v as i64;
    if whole as f64 == v && whole.unsigned_abs() < 1 << 53 && !(v == 0.0 && v.is_sign_negative()) {
        whole.into()
    } else {
        v.into()
    }
}

fn timestamp(at: Option<At>) -> Value {
    match at {
        Some(At::Timestamp(ms)) => ms.into(),
        _ => Value::Null,
    }
}

fn start_or_end(at: Option<At>) -> Value {
    match at {
        Some(At::Start) => "start".into(),
        Some(At::End) => "end".into(),
        _ => Value::Null,
    }
}

fn duration(d: &DurationValue) -> Value {
    d.expr.as_deref().map_or(Value::Null, duration_expr)
}

fn duration_expr(e: &DurationExpr) -> Value {
    let lhs = e.lhs.as_ref().map(operand);
    let rhs = e.rhs.as_ref().map(operand);
    duration_node(e, lhs, rhs)
}

fn duration_node(e: &DurationExpr, lhs: Option<Value>, rhs: Option<Value>) -> Value {
    let node = json!({ "type": "durationExpr", "op": e.op.as_str(), "wrapped": e.wrapped });
    with(with(node, "lhs", lhs.unwrap_or_default()), "rhs", rhs.unwrap_or_default())
}

fn operand(o: &DurationOperand) -> Value {
    match o {
        DurationOperand::Number(n) => duration_number(n),
        DurationOperand::Expr(e) => duration_expr(e),
    }
}

fn duration_number(n: &NumberLiteral) -> Value {
    json!({ "type": "numberLiteral", "val": format_value(n.value), "duration": n.duration })
}
