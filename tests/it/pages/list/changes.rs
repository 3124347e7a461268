//! One page, then another, then the first again: what the line cache, staleness and counts make of it.

use super::{OPEN_METRICS, Page, TEXT, steps};
use crate::pages::exporter::Reply;
use crate::pages::proto::{self, Metric, Value};

/// First page, second page; the third step is the first page again, the fourth the second.
const PAIRS: &[(&str, &str, &str)] = &[
    ("type", "# TYPE a gauge\na 1\n", "# TYPE a counter\na 2\n"),
    ("order", "a 1\nb 2\nc 3\nd 4\n", "d 1\nc 2\nb 3\na 4\n"),
    ("label-order", "a{x=\"1\",y=\"2\"} 1\n", "a{y=\"2\",x=\"1\"} 2\n"),
    ("label-space", "a{x=\"1\"} 1\nb 5\n", "a{ x = \"1\" } 2\nb 6\n"),
    ("quoting", "a{x=\"1\"} 1\n", "{\"a\",x=\"1\"} 2\n"),
    ("quoting-twice", "a 1\n", "{\"a\"} 2\na 3\n"),
    ("twice-and-once", "a 1\na 2\nb 1\n", "a 3\nb 2\n"),
    ("twice-apart", "a 1\nb 1\na 2\n", "b 2\na 3\nb 4\n"),
    ("empty-label", "a{x=\"\"} 1\n", "a 2\n"),
    ("empty-page", "a 1\n", ""),
    ("only-comment", "a 1\n", "# nothing\n"),
    ("broken-first", "a 1\nb 2\n", "!\na 1\n"),
    ("broken-last", "a 1\nb 2\n", "a 3\nb 4\n!\n"),
    ("broken-middle", "a 1\nb 2\nc 3\n", "a 4\n!\nb 5\n"),
    ("broken-with-new", "a 1\n", "a 2\nn 1\n!\n"),
    ("broken-swapped", "a 1\nb 2\n", "b 2\nc 3\n!\n"),
    ("no-newline", "a 1\nb 2", "a 3\nb 4\n"),
    ("blank-lines", "a 1\nb 2\n", "\na 3\n\n\nb 4\n\n"),
    ("value-only", "a 1\nb NaN\nc +Inf\n", "a 1\nb 1\nc NaN\n"),
    ("stale-nan-like", "a NaN\n", "a nan\nb NaN\n"),
    ("disjoint", "a 1\nb 2\nc 3\n", "x 1\ny 2\nz 3\n"),
    ("inserted", "a 1\nc 3\ne 5\n", "a 1\nb 2\nc 3\nd 4\ne 5\nf 6\n"),
    ("removed-ends", "a 1\nb 2\nc 3\n", "b 2\n"),
    ("own-report", "a 1\nup 9\n", "a 1\nscrape_duration_seconds 5\n"),
    ("own-report-labelled", "up{x=\"1\"} 3\n", "up 3\n"),
    ("own-report-broken", "a 1\nup 9\n", "a 1\nup 8\n!\n"),
    ("reserved", "a{job=\"x\"} 1\n", "a{exported_job=\"x\"} 2\n"),
    ("reserved-both", "a{job=\"x\"} 1\n", "a{job=\"x\"} 2\na{exported_job=\"x\"} 3\n"),
    ("help", "# HELP a one\n# TYPE a gauge\na 1\n", "# HELP a two\na 2\n"),
    (
        "summary-histogram",
        "# TYPE a summary\na{quantile=\"1\"} 1\na_count 1\na_sum 1\n",
        "# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
    ),
    (
        "le-spelling",
        "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
        "# TYPE a histogram\na_bucket{le=\"1.0\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
    ),
    (
        "histogram-bounds",
        "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
        "# TYPE a histogram\na_bucket{le=\"2\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
    ),
    (
        "histogram-untyped",
        "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
        "a_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
    ),
    (
        "histogram-loses-sum",
        "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
        "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\n",
    ),
    ("relabelled", "rename_a 1\ndrop_b 2\n", "renamed_a 3\ndrop_b 4\nkeep 5\n"),
    ("relabelled-same", "same_a 1\n", "same_b 2\nsame_a 3\n"),
    ("relabelled-labels", "a{kill_x=\"1\"} 1\n", "a{kill_x=\"2\"} 2\na 3\n"),
    ("over-limit", "a 1\nb 2\nc 3\n", "a 4\nb 5\nc 6\nd 7\n"),
    ("over-limit-other", "a 1\nb 2\nc 3\n", "x 1\ny 2\nz 3\na 4\nb 5\n"),
];

/// The same where times are the page's: `@N@` is so many half seconds before the test's end of a step, as below.
const TIMED: &[(&str, &str, &str)] = &[
    ("own-and-not", "a 1 @8@\n", "a 2\n"),
    ("not-and-own", "a 1\n", "a 2 @8@\n"),
    ("not-and-ahead", "a 1\n", "a 2 @-500@\n"),
    ("own-broken", "a 1 @8@\n", "a 2\n!\n"),
    ("broken-own", "a 1\n!\n", "a 2 @600@\n"),
    ("broken-own-then-gone", "a 1\nb 1\n!\n", "b 1 @500@\n"),
    ("own-last-spelled", "a 2\n{\"a\"} 1 @20@\n", "a 3\n"),
    ("report-own", "a 1\nup 5 @30@\n", "a 2\n"),
    ("report-own-ahead", "a 1\nup 5 @-500@\n", "a 2\n"),
    ("over-limit-own", "a 1\nb 2\nc 3\nd 4\n", "a 5 @400@\nb 6\n"),
    ("over-limit-not", "a 1 @700@\nb 2 @700@\nc 3\nd 4\n", "a 5\nb 6\n"),
];

/// Statuses with the page in between.
const STATUSES: &[&str] = &["500 Internal Server Error", "204 No Content", "404 Not Found"];

pub(super) fn changes(now: i64, out: &mut Vec<Page>) {
    let open = |body: &str| if body.ends_with('\n') { format!("{body}# EOF\n") } else { format!("{body}\n# EOF\n") };
    for (name, one, two) in PAIRS {
        for job in ["plain", "honor", "nhcb", "nhcb-classic", "relabel", "samples", "track"] {
            let fits = match job {
                "plain" | "samples" => true,
                "honor" => name.contains("reserved") || name.contains("report"),
                "relabel" => name.contains("relabelled"),
                "track" => name.contains("broken"),
                _ => name.contains("histogram"),
            };
            if !fits || job == "samples" && !name.contains("limit") && !name.contains("broken") {
                continue;
            }
            out.push(steps(&format!("change-{job}/{name}"), job, TEXT, &[one, two, one, two]));
            let bodies = [open(one), open(two), open(one), open(two)];
            let bodies = bodies.each_ref().map(String::as_str);
            out.push(steps(&format!("change-{job}/om-{name}"), job, OPEN_METRICS, &bodies));
        }
    }
    for (name, one, two) in TIMED {
        for job in ["plain", "samples", "track", "no-timestamps"] {
            // Where staleness follows own times, a report that the page had is stale for a scrape in Prometheus.
            if name.contains("limit") != (job == "samples") || job == "track" && name.contains("report") {
                continue;
            }
            let fill = |body: &str| {
                body.split('@').enumerate().fold(String::new(), |mut out, (i, part)| {
                    match part.parse::<i64>() {
                        Ok(halves) if i % 2 == 1 => out.push_str(&(now - halves * 500).to_string()),
                        _ => out.push_str(part),
                    }
                    out
                })
            };
            let bodies = [fill(one), fill(two), fill(one), fill(two)];
            let mut page =
                steps(&format!("change-{job}/timed-{name}"), job, TEXT, &bodies.each_ref().map(String::as_str));
            page.own_timestamps = job != "no-timestamps";
            out.push(page);
        }
    }
    for status in STATUSES {
        let mut page =
            steps(&format!("change-plain/status-{}", &status[..3]), "plain", TEXT, &["a 1\n", "a 2\n", "a 3\n"]);
        page.steps[1].status = status;
        if status.starts_with("204") {
            page.steps[1].body.clear();
        }
        out.push(page);
    }
    formats(out);
    many(out);
}

/// The same series in each format.
fn formats(out: &mut Vec<Page>) {
    let gauge = Metric { gauge: Some(Value { value: Some(3.0) }), ..Metric::default() };
    let protobuf = proto::page(&[proto::family("a", 1, vec![gauge])]);
    let text = Reply::new(TEXT, "# TYPE a gauge\na 1\n");
    let open = Reply::new(OPEN_METRICS, "# TYPE a gauge\na 2\n# EOF\n");
    let binary = Reply::new(proto::CONTENT_TYPE, protobuf);
    let none = Reply { content_type: None, ..text.clone() };
    for (name, steps) in [
        ("text-open", vec![text.clone(), open.clone(), text.clone(), open.clone()]),
        ("text-proto", vec![text.clone(), binary.clone(), text.clone(), binary.clone()]),
        ("open-proto", vec![open.clone(), binary.clone(), open.clone(), text.clone()]),
        ("text-none", vec![text.clone(), none.clone(), text, none]),
    ] {
        out.push(Page::new(&format!("change-plain/format-{name}"), "plain", steps.clone()));
        out.push(Page::new(&format!("change-fallback/format-{name}"), "fallback-text", steps));
    }
}

/// Pages of some hundred lines of which many move.
fn many(out: &mut Vec<Page>) {
    let line = |i: usize| format!("m{{i=\"{i}\"}} {i}\n");
    let all: String = (0..200).map(line).collect();
    let reversed: String = (0..200).rev().map(line).collect();
    let rotated: String = (0..200).map(|i| line((i + 67) % 200)).collect();
    let even: String = (0..200).step_by(2).map(line).collect();
    let doubled: String = (0..200).map(|i| line(i / 2)).collect();
    let twice = all.clone() + &all;
    for (name, two) in
        [("reversed", reversed), ("rotated", rotated), ("even", even), ("doubled", doubled), ("twice", twice)]
    {
        out.push(steps(&format!("change-plain/many-{name}"), "plain", TEXT, &[&all, &two, &all, &two]));
    }
}
