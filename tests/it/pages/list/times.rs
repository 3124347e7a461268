//! Pages in steps: times of their own, and series that come and go.

use super::{OPEN_METRICS, Page, TEXT, steps};
use crate::pages::exporter::Framing;

/// Timestamps near the scrape: right ones, backward ones, ones that stay.
pub(super) fn timestamps(now: i64, out: &mut Vec<Page>) {
    for job in ["plain", "no-timestamps", "track"] {
        let mut add = |name: &str, bodies: &[String], om: bool| {
            let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
            let content_type = if om { OPEN_METRICS } else { TEXT };
            let mut page = steps(&format!("time-{job}/{name}"), job, content_type, &bodies);
            page.own_timestamps = job != "no-timestamps";
            out.push(page);
        };
        let line = |v: i64, ago: i64| format!("a {v} {}\n", now - ago);
        add("stays", &[line(1, 1000)], false);
        add("moves", &[line(1, 4000), line(2, 3000), line(3, 2000), line(4, 1000)], false);
        add("back", &[line(1, 1000), line(2, 2000), line(3, 3000), line(4, 500)], false);
        add("same-other", &[line(1, 1000), line(2, 1000), line(3, 1000)], false);
        add("old", &[line(1, 3_600_000)], false);
        add("very-old", &[line(1, 86_400_000)], false);
        add("ahead-8", &[line(1, -8 * 60_000)], false);
        add("ahead-20", &[line(1, -20 * 60_000)], false);
        add("comes", &["a 1\n".into(), line(2, -5000), "a 3\n".into()], false);
        add("goes", &[line(1, 1000), "a 2\n".into(), line(3, 1000)], false);
        add("leaves", &[line(1, 1000), "b 2\n".into(), "b 3\n".into()], false);
        add("twice", &[format!("{}{}", line(1, 2000), line(2, 1000))], false);
        add("twice-back", &[format!("{}{}", line(1, 1000), line(2, 2000))], false);
        add("with-and-without", &[format!("{}a 2\n", line(1, 60_000))], false);
        add("without-and-with", &[format!("a 1\n{}", line(2, 60_000))], false);
        add("fails", &[line(1, 1000), "a 1 x\n".into(), line(2, 500)], false);
        let om = |v: i64, ago: i64| format!("a {v} {}.{:03}\n# EOF\n", (now - ago) / 1000, (now - ago) % 1000);
        add("om-stays", &[om(1, 1000)], true);
        add("om-back", &[om(1, 1000), om(2, 2000), om(3, 500)], true);
        add("om-fine", &[format!("a 1 {}.1239\n# EOF\n", now / 1000 - 5)], true);
        let exemplar =
            |ago: i64| format!("# TYPE c counter\nc_total 5 # {{t=\"a\"}} 1 {}.137\n# EOF\n", (now - ago) / 1000);
        add("exemplar", &[exemplar(1000)], true);
        add("exemplar-moves", &[exemplar(9000), exemplar(7000), exemplar(3000)], true);
        add("exemplar-back", &[exemplar(3000), exemplar(7000), exemplar(9000)], true);
    }
}

/// Series that come and go.
pub(super) fn staleness(out: &mut Vec<Page>) {
    let mut add = |name: &str, bodies: &[&str]| out.push(steps(&format!("stale/{name}"), "plain", TEXT, bodies));
    add("goes", &["a 1\nb 1\n", "a 1\n", "a 1\nb 2\n", "b 3\n"]);
    add("fails", &["a 1\nb 1\n", "a 1\nb\n", "a 2\nb 2\n"]);
    add("empties", &["a 1\nb 1\n", "", "a 2\nb 2\n", "\n"]);
    add("moves", &["a 1\nb 2\nc 3\n", "c 1\na 2\nb 3\n", "b 1\nc 2\na 3\n"]);
    add("grows", &["a 1\n", "a 1\nb 2\n", "a 1\nb 2\nc 3\n", "z 0\na 1\nb 2\nc 3\n"]);
    add("shrinks", &["a 1\nb 2\nc 3\n", "a 1\nc 3\n", "c 3\n", "d 4\n"]);
    add("nan", &["a 1\n", "a NaN\n", "a 2\n"]);
    add("dup-comes", &["a 1\n", "a 1\na 2\n", "a 3\n"]);
    add(
        "dup-order",
        &["a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n", "a{y=\"2\",x=\"1\"} 3\n", "a{x=\"1\",y=\"2\"} 4\n"],
    );
    add("type-change", &["# TYPE a gauge\na 1\n", "# TYPE a counter\na 1\n", "a 1\n", "# HELP a x\na 1\n"]);
    add("help-change", &["# HELP a one\na 1\n", "# HELP a two\na 1\n", "# HELP a \na 1\n"]);
    add(
        "le-change",
        &[
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\n",
            "h_bucket{le=\"1\"} 2\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 3\n",
        ],
    );
    add("late-error", &["a 1\nb 2\n", "a 1\nb 2\nc 3\n!\n", "a 1\nb 2\nc 3\n"]);
    add("report-comes", &["a 1\n", "a 1\nup 5\n", "a 1\n"]);
    add("comment-change", &["# x\na 1\n", "# y\na 1\n", "a 1\n# z\n", "a 1\n"]);
    let mut down = steps("stale/500", "plain", TEXT, &["a 1\n", "a 2\n", "a 3\n"]);
    down.steps[1].status = "500 Internal Server Error";
    out.push(down);
    let mut gone = steps("stale/reset", "plain", TEXT, &["a 1\n", "a 2\n", "a 3\n"]);
    gone.steps[1].framing = Framing::None;
    out.push(gone);
    let mut swap = steps("stale/format", "plain", TEXT, &["a 1\n# EOF\n", "a 2\n# EOF\n", "a 3\n# EOF\n", "a 4\n\n"]);
    swap.steps[1].content_type = Some(OPEN_METRICS.to_owned());
    swap.steps[3].content_type = Some(OPEN_METRICS.to_owned());
    out.push(swap);
    let nhcb = |n: u32| {
        format!("# TYPE h histogram\nh_bucket{{le=\"1\"}} {n}\nh_bucket{{le=\"+Inf\"}} {n}\nh_sum {n}\nh_count {n}\n")
    };
    for job in ["nhcb", "nhcb-classic"] {
        let bodies = [nhcb(1), "a 1\n".to_owned(), nhcb(2), nhcb(2).replace("\"1\"", "\"2\"")];
        out.push(steps(&format!("stale/{job}"), job, TEXT, &bodies.each_ref().map(String::as_str)));
    }
}
