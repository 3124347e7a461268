//! What holds for every query: printing and parsing undo each other, nothing makes the parser panic, and no query, deep
//! or long as it may be, overflows the stack.

use narthex_model::{METRIC_NAME, MatchType, Matcher};
use narthex_promql::ast::*;
use narthex_promql::ast_json::to_json;
use narthex_promql::functions_table::{FUNCTIONS, Function};
use narthex_promql::parser::{MAX_DEPTH, MAX_INPUT};
use narthex_promql::printer::pretty;
use narthex_promql::{ParserOptions, parse, parse_selector};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const NOWHERE: PosRange = PosRange { start: 0, end: 0 };

/// The tree without positions, which printing changes.
fn strip(expr: &mut Expr) {
    match expr {
        Expr::Aggregate(a) => a.pos = NOWHERE,
        Expr::Call(c) => c.pos = NOWHERE,
        Expr::Matrix(m) => {
            m.end = 0;
            strip_duration(&mut m.range);
            strip_selector(&mut m.selector);
        }
        Expr::Subquery(s) => {
            s.end = 0;
            [&mut s.range, &mut s.step, &mut s.offset].into_iter().for_each(strip_duration);
        }
        Expr::Number(n) => n.pos = NOWHERE,
        Expr::Paren(p) => p.pos = NOWHERE,
        Expr::String(s) => s.pos = NOWHERE,
        Expr::Unary(u) => u.start = 0,
        Expr::Vector(v) => strip_selector(v),
        Expr::Binary(_) => {}
    }
    expr.for_each_child_mut(strip);
}

fn strip_selector(v: &mut VectorSelector) {
    v.pos = NOWHERE;
    strip_duration(&mut v.offset);
    // The printer sorts them.
    v.matchers.sort_by_key(|m| (*m.name == *METRIC_NAME, m.to_string()));
}

fn strip_duration(d: &mut DurationValue) {
    fn operand(o: &mut DurationOperand) {
        match o {
            DurationOperand::Number(n) => n.pos = NOWHERE,
            DurationOperand::Expr(e) => expr(e),
        }
    }
    fn expr(e: &mut DurationExpr) {
        e.pos = NOWHERE;
        e.lhs.iter_mut().chain(e.rhs.iter_mut()).for_each(operand);
    }
    d.expr.iter_mut().for_each(|e| expr(e));
}

fn stripped(mut expr: Expr) -> Expr {
    strip(&mut expr);
    expr
}

fn number(value: f64, duration: bool) -> NumberLiteral {
    NumberLiteral { value, duration, pos: NOWHERE }
}

fn any_number() -> impl Strategy<Value = NumberLiteral> {
    prop_oneof![
        any::<f64>().prop_map(|v| number(v, false)),
        (-1000i32..1000).prop_map(|v| number(v.into(), false)),
        select(vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e21, 5e-324]).prop_map(|v| number(v, false)),
        (1i64..100_000_000).prop_map(|ms| number(ms as f64 / 1000.0, true)),
    ]
    .prop_filter("durations that a float in nanoseconds cuts to other milliseconds", |n| {
        !n.duration || (n.value * 1e9) as i64 / 1_000_000 == (n.value * 1e3).round() as i64
    })
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_]{0,8}",
        select(vec!["by", "offset", "sum", "start", "step", "min_of", "fill", "anchored", "on", "bool"])
            .prop_map(str::to_owned),
    ]
}

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof![3 => any_name(), 1 => "\\PC{1,6}"].prop_filter("the lexer refuses it", |l| !l.contains('\u{fffd}'))
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,12}"].prop_filter("the lexer refuses it", |s| !s.contains('\u{fffd}'))
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let label = any_label().prop_filter("would be a second name", |l| l != METRIC_NAME);
    let type_and_value = prop_oneof![
        (select(vec![MatchType::Equal, MatchType::NotEqual]), any_text().boxed()),
        (select(vec![MatchType::Regexp, MatchType::NotRegexp]), "[a-z.*+]{1,3}|[a-z]+\\|[a-z]+".boxed()),
    ];
    (label, type_and_value)
        .prop_filter_map("no expression", |(label, (match_type, value))| Matcher::new(match_type, label, value).ok())
}

fn any_duration(negative: bool) -> impl Strategy<Value = DurationValue> {
    let fixed = (1i64..4_000_000_000, any::<bool>())
        .prop_map(move |(ms, minus)| DurationValue::fixed(if negative && minus { -ms } else { ms } * 1_000_000));
    // What stands in parentheses behind `offset` takes all that follows, so that Prometheus's own printer fails there.
    let expr = any_duration_expr().prop_map(move |e| {
        let e = if negative && e.wrapped {
            let (lhs, rhs) = (DurationOperand::Expr(Box::new(e)), DurationOperand::Number(number(1.0, true)));
            DurationExpr { op: DurationOp::MaxOf, lhs: Some(lhs), rhs: Some(rhs), wrapped: false, pos: NOWHERE }
        } else {
            e
        };
        DurationValue { nanos: 0, expr: Some(Box::new(e)) }
    });
    prop_oneof![3 => fixed, 1 => expr]
}

fn any_duration_expr() -> impl Strategy<Value = DurationExpr> {
    fn function(op: DurationOp) -> DurationExpr {
        DurationExpr { op, lhs: None, rhs: None, wrapped: false, pos: NOWHERE }
    }
    let leaf = select(vec![DurationOp::Step, DurationOp::Range]).prop_map(function);
    leaf.prop_recursive(4, 16, 2, |inner| {
        let operand = prop_oneof![
            (1i32..5000).prop_map(|v| DurationOperand::Number(number(v.into(), false))),
            (1i32..5000).prop_map(|v| DurationOperand::Number(number(v.into(), true))),
            inner.clone().prop_map(|e| DurationOperand::Expr(Box::new(e))),
        ];
        use DurationOp::*;
        prop_oneof![
            (select(vec![Add, Sub, Mul, Div, Mod, Pow]), operand.clone(), operand.clone()).prop_map(|(op, l, r)| (
                op,
                Some(l),
                r,
                true
            )),
            (select(vec![MinOf, MaxOf]), operand.clone(), operand.clone()).prop_map(|(op, l, r)| (
                op,
                Some(l),
                r,
                false
            )),
            inner.prop_map(|e| (Sub, None, DurationOperand::Expr(Box::new(e)), true)),
        ]
        .prop_map(|(op, lhs, rhs, wrapped)| DurationExpr { op, lhs, rhs: Some(rhs), wrapped, pos: NOWHERE })
    })
}

fn any_at() -> impl Strategy<Value = Option<At>> {
    option::of(prop_oneof![(-5_000_000i64..5_000_000_000).prop_map(At::Timestamp), Just(At::Start), Just(At::End)])
}

fn any_selector() -> impl Strategy<Value = VectorSelector> {
    let extended = select(vec![(false, false), (false, false), (true, false), (false, true)]);
    // What can be the name of a metric: not `on` and `bool`, nor numbers, in any case of letters.
    let name = any_name().prop_filter("a keyword", |n| {
        !matches!(n.to_ascii_lowercase().as_str(), "on" | "bool" | "inf" | "nan" | "atan2")
    });
    (name, vec(any_matcher(), 0..4), option::of(any_duration(true)), any_at(), extended).prop_map(
        |(name, mut matchers, offset, at, (anchored, smoothed))| {
            matchers.push(Matcher::equal(METRIC_NAME, name.as_str()));
            let offset = offset.unwrap_or_default();
            VectorSelector { name, matchers, offset, at, anchored, smoothed, ..Default::default() }
        },
    )
}

fn paren(expr: Expr) -> Expr {
    Expr::Paren(Box::new(ParenExpr { expr, pos: NOWHERE }))
}

/// What can stand as an operand of anything without parentheses.
fn tight(expr: Expr) -> Expr {
    match expr {
        Expr::Binary(_) | Expr::Unary(_) | Expr::Number(_) => paren(expr),
        other => other,
    }
}

fn aggregate(op: AggregateOp, expr: Expr, grouping: Vec<String>, without: bool) -> Expr {
    use AggregateOp::*;
    let param = match op {
        CountValues => Some(Expr::String(StringLiteral { value: "label".into(), bytes: None, pos: NOWHERE })),
        Topk | Bottomk | Quantile | Limitk | LimitRatio => Some(Expr::Number(number(0.5, false))),
        _ => None,
    };
    Expr::Aggregate(Box::new(AggregateExpr { op, expr, param, grouping, without, pos: NOWHERE }))
}

fn call(func: &'static Function, vector: &Expr, matrix: &Expr, scalar: &NumberLiteral, text: &str) -> Expr {
    let args = func
        .arg_types
        .iter()
        .map(|t| match t {
            ValueType::Vector => vector.clone(),
            ValueType::Matrix => matrix.clone(),
            ValueType::Scalar => Expr::Number(scalar.clone()),
            ValueType::String => Expr::String(StringLiteral { value: text.into(), bytes: None, pos: NOWHERE }),
        })
        .collect();
    let call = Expr::Call(Box::new(Call { func, args, pos: NOWHERE }));
    match func.return_type {
        ValueType::Vector => call,
        _ => Expr::Call(Box::new(Call {
            func: narthex_promql::functions_table::function("vector").expect("a function"),
            args: vec![call],
            pos: NOWHERE,
        })),
    }
}

fn any_matching(op: BinaryOp) -> impl Strategy<Value = VectorMatching> {
    let card = if op.is_set() {
        Just(Cardinality::ManyToMany).boxed()
    } else {
        select(vec![Cardinality::OneToOne, Cardinality::ManyToOne, Cardinality::OneToMany]).boxed()
    };
    let fill = option::of(select(vec![0.0, -1.5, f64::INFINITY, 1e30]));
    let labels = || vec(any_label(), 0..3);
    (card, labels(), any::<bool>(), labels(), fill.clone(), fill).prop_map(
        move |(card, labels, on, mut include, fill_lhs, fill_rhs)| {
            include.retain(|l| !labels.contains(l));
            if !matches!(card, Cardinality::ManyToOne | Cardinality::OneToMany) {
                include.clear();
            }
            let (fill_lhs, fill_rhs) = if op.is_set() { (None, None) } else { (fill_lhs, fill_rhs) };
            VectorMatching { card, labels, on, include, fill_lhs, fill_rhs }
        },
    )
}

/// Expressions of the type instant vector.
fn any_vector() -> impl Strategy<Value = Expr> {
    let leaf = any_selector().prop_map(|v| Expr::Vector(Box::new(v)));
    leaf.prop_recursive(5, 40, 3, |inner| {
        use BinaryOp::*;
        let operator = select(vec![
            Add, Sub, Mul, Div, Mod, Pow, Atan2, Eql, Neq, Gtr, Lss, Gte, Lte, And, Or, Unless, TrimUpper, TrimLower,
        ]);
        let functions: Vec<&'static Function> = FUNCTIONS.iter().filter(|f| f.name != "info").collect();
        let matrix = prop_oneof![
            (any_selector(), any_duration(false))
                .prop_map(|(selector, range)| { Expr::Matrix(Box::new(MatrixSelector { selector, range, end: 0 })) }),
            (
                inner.clone(),
                any_duration(false),
                option::of(any_duration(false)),
                option::of(any_duration(true)),
                any_at()
            )
                .prop_map(|(expr, range, step, offset, at)| {
                    let (step, offset) = (step.unwrap_or_default(), offset.unwrap_or_default());
                    // A selector's modifiers would become the subquery's.
                    let expr = if matches!(expr, Expr::Vector(_)) { paren(expr) } else { tight(expr) };
                    Expr::Subquery(Box::new(SubqueryExpr { expr, range, step, offset, at, end: 0 }))
                }),
        ];
        prop_oneof![
            inner.clone().prop_map(paren),
            (select(vec![UnaryOp::Add, UnaryOp::Sub]), inner.clone())
                .prop_map(|(op, e)| Expr::Unary(Box::new(UnaryExpr { op, expr: tight(e), start: 0 }))),
            (select(AggregateOp::ALL.to_vec()), inner.clone(), vec(any_label(), 0..3), any::<bool>())
                .prop_map(|(op, e, grouping, without)| aggregate(op, e, grouping, without)),
            (select(functions), inner.clone(), matrix, any_number(), any_text())
                .prop_map(|(f, vector, matrix, scalar, text)| call(f, &vector, &matrix, &scalar, &text)),
            (operator, inner.clone(), inner.clone(), any::<bool>())
                .prop_flat_map(|(op, l, r, b)| (Just((op, l, r, b)), any_matching(op)))
                .prop_map(|((op, lhs, rhs, b), matching)| {
                    let (lhs, rhs) = (tight(lhs), tight(rhs));
                    let return_bool = b && op.is_comparison();
                    Expr::Binary(Box::new(BinaryExpr { op, lhs, rhs, matching: Some(matching), return_bool }))
                }),
            (inner, any_number(), any::<bool>()).prop_map(|(e, n, flip)| {
                let sides = (tight(e), Expr::Number(n));
                let (lhs, rhs) = if flip { (sides.1, sides.0) } else { sides };
                Expr::Binary(Box::new(BinaryExpr { op: Mul, lhs, rhs, matching: None, return_bool: false }))
            }),
        ]
    })
}

/// Pieces of queries, to be thrown together.
fn any_soup() -> impl Strategy<Value = String> {
    let words = "+ - * / % ^ == != < > <= >= </ >/ and or unless atan2 ( ) { } [ ] , : = =~ !~ ! @ offset bool on \
                 ignoring group_left group_right by without sum topk count_values fill fill_left anchored smoothed \
                 start end step range max_of foo a:b 5m 1h30m 1 0x1f 1e3 .5 inf \"str\" 'x' `raw` \" \\ # ; é rate( \
                 foo{a=\"b\"} foo[5m] [5m:1m] offset(1m+step()) @start() on(a) {a=~\"[\"} \"\\xff\" \n";
    let words: Vec<&'static str> = words.split(' ').collect();
    vec(prop_oneof![8 => select(words).prop_map(str::to_owned), 1 => any::<String>()], 0..16)
        .prop_map(|parts| parts.join(" "))
}

fn round_trip(expr: &Expr) -> Result<(), TestCaseError> {
    for text in [expr.to_string(), pretty(expr)] {
        match parse(&text, &ParserOptions::all()) {
            Ok(again) => prop_assert_eq!(stripped(again), stripped(expr.clone()), "{}", text),
            Err(e) => prop_assert!(false, "{} of {}", e, text),
        }
    }
    Ok(())
}

#[test]
fn what_is_printed_parses_to_the_same() {
    // The strategies' own frames are large in a debug build.
    let run = || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) };
        if let Err(e) = TestRunner::new(config).run(&any_vector(), |expr| round_trip(&expr)) {
            panic!("{e}");
        }
    };
    let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(run).expect("a thread");
    assert!(thread.join().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_text_is_parsed_or_refused(text in prop_oneof![any::<String>(), any_soup()]) {
        let _ = parse_selector(&text);
        for options in [ParserOptions::default(), ParserOptions::all()] {
            match parse(&text, &options) {
                Err(e) => prop_assert!(e.range.start as usize <= text.len(), "{}", e),
                Ok(expr) => {
                    prop_assert_eq!(expr.pos().start_in(&text).contains("position"), false);
                    to_json(&expr);
                    // Prometheus's printer drops what is below a millisecond, so no more than this holds here.
                    let printed = expr.to_string();
                    if let Ok(again) = parse(&printed, &ParserOptions::all()) {
                        prop_assert_eq!(again.to_string(), printed);
                    }
                }
            }
        }
    }
}

/// A query with `depth` levels of something.
fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn deep_queries_are_refused_and_those_at_the_bound_work() {
    let shapes: [(&str, &str, &str); 11] = [
        ("(", "1", ")"),
        ("-", "a", ""),
        ("-(", "a", ")"),
        ("abs(", "a", ")"),
        ("sum by (a) (", "a", ")"),
        ("topk(1, ", "a", ")"),
        ("sum(a + ", "a", ")"),
        ("a^", "a", ""),
        ("a or ", "a", ""),
        ("", "a", " + 1"),
        ("max_over_time(", "a", "[5m:1m])"),
    ];
    // A debug build's frames in a thread with the stack that Rust gives by default.
    let work = move || {
        for (open, inner, close) in shapes {
            for depth in [MAX_DEPTH + 1, 100_000] {
                let query = nested(open, inner, close, depth);
                assert!(parse(&query, &ParserOptions::all()).is_err(), "{open}{inner}{close} {depth} times");
            }
            // Those that take two levels each reach half as deep.
            let parsed = [MAX_DEPTH - 1, MAX_DEPTH / 2 - 1]
                .into_iter()
                .find_map(|depth| parse(&nested(open, inner, close, depth), &ParserOptions::all()).ok());
            let Some(expr) = parsed else { panic!("{open}{inner}{close} is refused too early") };
            let _ = (expr.to_string(), to_json(&expr), expr.clone() == expr, expr.selectors().len());
            let _ = (pretty(&expr), expr.value_type(), expr.pos());
        }
        for brackets in ["a[", "a[1m:", "a offset ", "a offset -"] {
            let tail = if brackets.contains('[') { "]" } else { "" };
            for depth in [MAX_DEPTH - 2, 100_000] {
                for (open, inner, close) in
                    [("(", "1m", ")"), ("-", "1m", ""), ("1m^", "1m", ""), ("max_of(1m,", "1m", ")")]
                {
                    let query = format!("{brackets}{}{tail}", nested(open, inner, close, depth));
                    let parsed = parse(&query, &ParserOptions::all());
                    if depth > MAX_DEPTH {
                        assert!(parsed.is_err(), "{brackets}{open} {depth} times");
                    } else if let Ok(expr) = parsed {
                        let _ = (pretty(&expr), to_json(&expr), expr.clone() == expr);
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread");
    assert!(thread.join().is_ok());
}

#[test]
fn long_queries_are_refused() {
    let query = format!("foo{{a=\"{}\"}}", "x".repeat(MAX_INPUT));
    let error = parse(&query, &ParserOptions::all()).expect_err("too long");
    assert!(error.to_string().starts_with("1:1: parse error: query is 1048585 bytes long"), "{error}");
    assert!(parse_selector(&query).is_err());
}
