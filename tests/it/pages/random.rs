//! Generated pages: sensible ones with a few bytes or pieces changed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Page;
use super::exporter::Reply;
use super::list::{OPEN_METRICS, TEXT};

const PIECES: &[&str] = &[
    "# TYPE m counter\n",
    "# TYPE m gauge\n",
    "# TYPE m histogram\n",
    "# TYPE m summary\n",
    "# HELP m Words, \\n and \\\\.\n",
    "# UNIT m_seconds seconds\n",
    "# TYPE m_seconds gauge\n",
    "# comment\n",
    "#\n",
    "\n",
    "m 1\n",
    "m 2\n",
    "m_total 5\n",
    "m_seconds 7\n",
    "m{a=\"1\"} 2\n",
    "m{a=\"1\",b=\"2\"} 3\n",
    "m{b=\"2\",a=\"1\"} 4\n",
    "{\"m.x\",a=\"1\"} 5\n",
    "{\"m\",\"a.b\"=\"c\"} 6\n",
    "m_bucket{le=\"1\"} 1\n",
    "m_bucket{le=\"2.5\"} 3\n",
    "m_bucket{le=\"+Inf\"} 4\n",
    "m_sum 9.5\n",
    "m_count 4\n",
    "m{quantile=\"0.5\"} 1\n",
    "m_total 5 # {t=\"x\"} 1\n",
    "m_created 1.6e9\n",
    "n NaN\n",
    "n +Inf\n",
    "o 1e-9\n",
    "m{a=\"\"} 1\n",
    "m{a=\"x\\\\y\\n\\\"z\"} 1\n",
    "m{job=\"j\"} 1\n",
];

const BYTES: &[u8] = b"{}\"\\=, \t\n\r#0aE_:.+-\x00\xff\xc3";

const TOKENS: &[&str] = &[
    "{",
    "}",
    "\"",
    "\\",
    "=",
    ",",
    " ",
    "\n",
    "# ",
    "# EOF\n",
    "# TYPE ",
    "NaN",
    "+Inf",
    "1e5",
    "le=\"1\"",
    "__name__=\"q\"",
    "0x1",
    "\\n",
    "ü",
];

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// As many as `NARTHEX_PAGES_RANDOM` says (150), from `NARTHEX_PAGES_SEED` (1).
pub fn pages() -> Vec<Page> {
    let seed = number("NARTHEX_PAGES_SEED", 1);
    (0..number("NARTHEX_PAGES_RANDOM", 150)).map(|i| page(seed, i)).collect()
}

fn page(seed: u64, i: u64) -> Page {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(i));
    let steps = (0..rng.random_range(1..4)).map(|_| body(&mut rng)).collect::<Vec<_>>();
    let open = rng.random_bool(0.5);
    let job = ["plain", "plain", "nhcb", "nhcb-classic", "honor", "samples", "relabel"][rng.random_range(0..7)];
    let replies = steps
        .into_iter()
        .map(|mut body| {
            if open && rng.random_bool(0.95) {
                if !body.ends_with(b"\n") && rng.random_bool(0.8) {
                    body.push(b'\n');
                }
                body.extend_from_slice(b"# EOF\n");
            }
            Reply::new(if open { OPEN_METRICS } else { TEXT }, body)
        })
        .collect();
    Page::new(&format!("random/{seed}-{i}"), job, replies)
}

fn body(rng: &mut StdRng) -> Vec<u8> {
    let mut body: Vec<u8> = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        body.extend_from_slice(PIECES[rng.random_range(0..PIECES.len())].as_bytes());
    }
    // A third stays whole.
    for _ in 0..[0, 1, 2][rng.random_range(0..3)] {
        let at = rng.random_range(0..=body.len());
        match rng.random_range(0..5) {
            0 => body.insert(at, BYTES[rng.random_range(0..BYTES.len())]),
            1 if at < body.len() => {
                body.remove(at);
            }
            2 if at < body.len() => body[at] = BYTES[rng.random_range(0..BYTES.len())],
            3 => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                body.splice(at..at, token.bytes());
            }
            _ => body.truncate(at),
        }
    }
    body
}
