//! Room for what recurses over expressions: parsing, printing, evaluating. The parser bounds their depth
//! ([`crate::parser::MAX_DEPTH`]), but a thread of a pool may have less stack than that takes.

/// Deeper trees get a thread with a stack of their own.
const SHALLOW: usize = 32;
const LARGE: usize = 64 << 20;

/// No expression of this text is deeper.
pub fn bound(text: &str) -> usize {
    // Nothing nests deeper than it has brackets and operators; words may be operators.
    let signs = text.bytes().filter(|b| !b.is_ascii_alphanumeric() && !b.is_ascii_whitespace() && *b != b'_').count();
    signs / 2 + words(text)
}

fn words(text: &str) -> usize {
    let operator = |w: &&str| ["and", "or", "unless", "atan2"].iter().any(|o| w.eq_ignore_ascii_case(o));
    text.split_ascii_whitespace().filter(operator).count()
}

/// Runs `work` here, or for expressions of more depth on a thread that has room; a panic goes on here.
///
/// # Errors
/// When there is no such thread to be had.
pub fn run<T: Send>(depth: usize, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    if depth <= SHALLOW {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("promql-deep".into()).stack_size(LARGE);
        let handle = thread.spawn_scoped(scope, work)?;
        handle.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use crate::{ParserOptions, ast_json::to_json, parse, printer::pretty};

    #[test]
    fn deep_texts_fit_a_small_stack() {
        let deep = [
            format!("{}1{}", "(".repeat(500), ")".repeat(500)),
            format!("{}x{}", "abs(".repeat(500), ")".repeat(500)),
            format!("x{}", " and x".repeat(500)),
            format!("x{}", " + x".repeat(500)),
            format!("{}x", "-".repeat(500)),
            "(".repeat(100_000),
        ];
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            for text in deep {
                let result = super::run(super::bound(&text), || {
                    let expr = parse(&text, &ParserOptions::default())?;
                    Ok::<_, crate::ParseError>((pretty(&expr).len(), to_json(&expr).to_string().len()))
                });
                let short = text.len() < 10_000;
                assert_eq!(result.unwrap().is_ok(), short, "{}", &text[..40]);
            }
        });
        thread.unwrap().join().unwrap();
    }
}
