//! The parser, printer and JSON tree against what Prometheus answered (`testdata/promql-parser/README.md`). Every
//! line counts; there is no list of exceptions.

use narthex_promql::ast_json::to_json;
use narthex_promql::printer::pretty;
use narthex_promql::{ParserOptions, parse};
use serde_json::Value;

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"))
}

fn report(faults: Vec<String>, total: usize, expected_total: usize) {
    assert!(faults.is_empty(), "{} of {total} differ:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(total, expected_total);
}

#[test]
fn accepted_formatted_and_translated_alike() {
    let mut faults = Vec::new();
    let mut total = 0;
    for case in lines(include_str!("../testdata/promql-parser/accepted.jsonl")) {
        total += 1;
        let query = case["query"].as_str().expect("a query");
        match parse(query, &ParserOptions::all()) {
            Err(e) => faults.push(format!("{query}\n  refused: {e}")),
            Ok(expr) => {
                let formatted = pretty(&expr);
                if Some(formatted.as_str()) != case["formatted"].as_str() {
                    faults.push(format!("{query}\n  formatted {formatted}\n  expected  {}", case["formatted"]));
                }
                let ast = to_json(&expr);
                if !case["ast"].is_null() && ast != case["ast"] {
                    faults.push(format!("{query}\n  tree     {ast}\n  expected {}", case["ast"]));
                }
                if let Err(e) = parse(&formatted, &ParserOptions::all()) {
                    faults.push(format!("{query}\n  formatted as {formatted}, which is refused: {e}"));
                }
            }
        }
    }
    report(faults, total, 1869);
}

#[test]
fn refused_with_the_same_words_and_place() {
    let mut faults = Vec::new();
    let mut total = 0;
    for case in lines(include_str!("../testdata/promql-parser/refused.jsonl")) {
        total += 1;
        let query = case["query"].as_str().expect("a query");
        let error = match parse(query, &ParserOptions::all()) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        };
        if Some(error.as_str()) != case["error"].as_str() {
            faults.push(format!("{query}\n  got      {error}\n  expected {}", case["error"]));
        }
    }
    report(faults, total, 119);
}
