//! What a job makes of good pages: limits, types and units as labels, relabelling.

use super::{OPEN_METRICS, Page, TEXT, steps, text};
use crate::pages::exporter::Framing;
use crate::pages::gzip;

pub(super) fn limits(out: &mut Vec<Page>) {
    let lines = |n: usize| (0..n).map(|i| format!("m{i} {i}\n")).collect::<String>();
    for job in ["samples", "extra"] {
        for n in [0, 2, 3, 4, 5, 20] {
            out.push(text(&format!("{job}/{n}"), job, lines(n)));
        }
        out.push(text(&format!("{job}/dup"), job, "a 1\na 2\na 3\na 4\na 5\n"));
        out.push(text(&format!("{job}/dup-order"), job, "a{x=\"1\",y=\"1\"} 1\na{y=\"1\",x=\"1\"} 2\nb 3\nc 4\n"));
        out.push(text(&format!("{job}/reports"), job, "up 1\na 2\nb 3\n"));
        out.push(text(&format!("{job}/error"), job, lines(5) + "!\n"));
        out.push(text(&format!("{job}/error-early"), job, "a\n".to_owned() + &lines(5)));
        let bodies = [lines(2), lines(4), lines(3), lines(9)];
        out.push(steps(&format!("{job}/over-and-back"), job, TEXT, &bodies.each_ref().map(String::as_str)));
        let bodies = ["m0 2\nn 4\no 1\n", "x 7\ny 9\n# TYPE c counter\nz 1\nm0 1\nn 2\nv 3\n"];
        out.push(steps(&format!("{job}/over-with-old"), job, TEXT, &bodies));
        let bodies = [lines(5), lines(2), lines(5), lines(3)];
        out.push(steps(&format!("{job}/back-and-over"), job, TEXT, &bodies.each_ref().map(String::as_str)));
    }
    for job in ["targets", "targets-over"] {
        for name in ["a", "b"] {
            out.push(text(&format!("{job}/{name}"), job, "a 1\n"));
        }
    }
    for n in 1..6 {
        let page: String = (0..n).map(|i| format!("a{{i=\"{i}\"}} 1\nb{{i=\"{i}\",drop=\"yes\"}} 1\n")).collect();
        out.push(text(&format!("samples-drop/{n}"), "samples-drop", page));
    }
    for (name, body) in [
        ("fits", "a{x=\"1\",y=\"2\"} 1\n"),
        ("over", "a 1\nb{x=\"1\",y=\"2\",z=\"3\"} 1\n"),
        ("empty", "a{x=\"1\",y=\"2\",z=\"\"} 1\n"),
        (
            "far-over",
            "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl{a=\"1\",b=\"1\",c=\"1\",d=\"1\",e=\"1\"} 1\n",
        ),
    ] {
        out.push(text(&format!("labels/{name}"), "labels", body));
    }
    for (name, body) in [
        ("fits", "a{abcdefghi=\"1\"} 1\n"),
        ("over", "a{abcdefghij=\"1\"} 1\n"),
        ("utf8", "a{\"üüüüü\"=\"1\"} 1\n"),
        ("utf8-fits", "a{\"üüüü\"=\"1\"} 1\n"),
    ] {
        out.push(text(&format!("label-name/{name}"), "label-name", body));
    }
    for (name, body) in [
        ("fits", "a{x=\"12345678901234567890123456789012\"} 1\n".to_owned()),
        ("over", "a{x=\"123456789012345678901234567890123\"} 1\n".to_owned()),
        ("utf8", format!("a{{x=\"{}\"}} 1\n", "ü".repeat(17))),
        ("name", format!("{} 1\n", "a".repeat(33))),
        ("long", format!("a{{x=\"{}\"}} 1\n", "xy\\\"".repeat(40))),
    ] {
        out.push(text(&format!("label-value/{name}"), "label-value", body));
    }
    for n in [98, 99, 100, 101, 102, 5000] {
        let body = format!("a{{x=\"{}\"}} 1\n", "x".repeat(n - 10));
        assert_eq!(body.len(), n);
        out.push(text(&format!("body/{n}"), "body", body.clone()));
        let mut zipped = text(&format!("body/gzip-{n}"), "body", gzip(body.as_bytes()));
        zipped.steps[0].headers.push(("Content-Encoding", "gzip".into()));
        out.push(zipped);
        let mut chunked = text(&format!("body/chunked-{n}"), "body", body.clone());
        chunked.steps[0].framing = Framing::Chunked;
        out.push(chunked);
        out.push(text(&format!("extra/body-{n}"), "extra", body + &" ".repeat(50) + "\n"));
    }
}

/// What types and units say where they change, where the page has labels of their names, where they are not known.
pub(super) fn types(out: &mut Vec<Page>) {
    let mut add =
        |name: &str, kind: &str, bodies: &[&str]| out.push(steps(&format!("types/{name}"), "plain", kind, bodies));
    add("change", TEXT, &["# TYPE a counter\na 1\n", "# TYPE a gauge\na 2\n", "a 3\n", "# TYPE a counter\na 4\n"]);
    add(
        "goes-on",
        TEXT,
        &[
            "# TYPE a counter\na 1\nb 2\n# TYPE c gauge\nb{x=\"1\"} 3\nc 1\n",
            "b 1\n# TYPE a counter\nb{x=\"1\"} 1\na 1\n",
        ],
    );
    add("twice", TEXT, &["# TYPE a counter\na 1\n# TYPE a gauge\na 2\n"]);
    add(
        "own",
        TEXT,
        &["# TYPE a counter\na{__type__=\"x\",__unit__=\"y\"} 1\n# TYPE b untyped\nb{__type__=\"x\"} 1\n"],
    );
    add("own-twice", TEXT, &["# TYPE a counter\na{__type__=\"x\",__type__=\"y\"} 1\n"]);
    add(
        "histogram",
        TEXT,
        &["# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"],
    );
    for (name, body) in [
        ("unit", "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# EOF\n"),
        (
            "unit-goes-on",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# TYPE b counter\nb_total 2\n# EOF\n",
        ),
        (
            "unit-empty",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# TYPE b gauge\n# UNIT b \nb 2\n# EOF\n",
        ),
        (
            "unit-own",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds{__unit__=\"x\",__type__=\"\"} 1\n# EOF\n",
        ),
        (
            "state",
            "# TYPE a stateset\na{a=\"x\"} 1\n# TYPE b info\nb_info{x=\"1\"} 1\n# TYPE c gaugehistogram\nc_bucket{le=\"1\"} 1\nc_bucket{le=\"+Inf\"} 1\nc_gcount 1\nc_gsum 1\n# TYPE d unknown\nd 1\n# EOF\n",
        ),
    ] {
        add(name, OPEN_METRICS, &[body, &body.replace(" 1\n", " 2\n")]);
    }
}

pub(super) fn relabelling(out: &mut Vec<Page>) {
    for (name, body) in [
        ("drops", "drop_a 1\nkeep 2\ndrop_b 3\n"),
        ("all-dropped", "drop_a 1\ndrop_b 3\n"),
        ("renames", "rename_a 1\nrename_b{x=\"1\"} 2\n"),
        ("nameless", "a 1\nnameless 2\n"),
        ("nameless-labels", "nameless{x=\"1\"} 2\n"),
        ("same", "same_a 1\nsame_b 2\nsame_c 3\n"),
        ("labeldrop", "a{kill_x=\"1\"} 1\na{kill_x=\"2\"} 2\n"),
        ("labelmap", "a{map_x=\"1\",map_y=\"2\"} 1\n"),
        ("upper", "a{up=\"ßabc\"} 1\n"),
        ("hashmod", "a{hash=\"x\"} 1\na{hash=\"y\"} 2\n"),
        ("bad-name", "a 1\nto_bad 2\n"),
        ("drop-dup", "drop_a 1\ndrop_a 2\na 1\na 2\n"),
        ("drop-bad-label", "drop_a{b=\"1\",b=\"2\"} 1\n"),
        ("reports", "up 1\n"),
    ] {
        out.push(text(&format!("relabel/{name}"), "relabel", body));
    }
}
