//! Scalars of a configuration as Prometheus's YAML reader takes them: what looks like a boolean, a number, a time or
//! nothing at all, where text, numbers or switches are wanted.

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{narthex, prometheus, start_narthex, start_prometheus};

/// Plain scalars as they stand in the file.
const SCALARS: &[&str] = &[
    "n",
    "y",
    "N",
    "Y",
    "no",
    "yes",
    "No",
    "YES",
    "on",
    "off",
    "On",
    "OFF",
    "true",
    "false",
    "True",
    "FALSE",
    "tRue",
    "~",
    "null",
    "Null",
    "NULL",
    "nUll",
    "",
    "0",
    "-0",
    "+1",
    "1_000",
    "007",
    "010",
    "0o14",
    "0x1F",
    "0X1F",
    "0b101",
    "-0x1F",
    "1e3",
    "1E3",
    "1.e3",
    "1.5",
    "01.50",
    ".5",
    "-.5",
    "5.",
    "1e400",
    ".inf",
    "-.Inf",
    "+.INF",
    ".nan",
    ".NaN",
    "nan",
    "Inf",
    "12:30:45",
    "1:2",
    "2001-01-01",
    "2001-1-1",
    "2001-01-01T10:00:00Z",
    "2001-01-01 10:00:00 +1",
    "20010101",
    "=",
    "<<",
    "a b",
    "a: b",
    "- a",
    "a #b",
    "a#b",
    "'n'",
    "\"y\"",
    "'~'",
    "''",
    "'it''s'",
    "\"\\x41\\u00e4\\n\"",
    "!!str n",
    "!!str 5",
    "!!str",
    "!!bool y",
    "!!int 5",
    "!!float 5",
    "!!null x",
    "!!binary aGk=",
    "!x y",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "-9223372036854775809",
    "0.1e-5",
    "1__0",
    "_1",
    "1_",
    "%a",
    "@a",
    "`a",
    "|a",
    "?a",
    "? a",
    ":a",
    "-a",
    "&x a",
    "*x",
    "[n]",
    "{n: y}",
    "\t",
    "é",
    "日本",
    "👍",
];

/// Places for a scalar, by name; `@` stands for it.
const PLACES: &[(&str, &str)] = &[
    ("external label", "global: {external_labels: {\n  x: @\n}}\n"),
    ("external label in a block", "global:\n  external_labels:\n    x: @\n"),
    ("label name", "global:\n  external_labels:\n    @: x\n"),
    (
        "target label",
        "scrape_configs:\n- job_name: a\n  static_configs:\n  - targets: ['b:1']\n    labels:\n      x: @\n",
    ),
    ("target", "scrape_configs:\n- job_name: a\n  static_configs:\n  - targets:\n    - @\n"),
    ("job name", "scrape_configs:\n- job_name: @\n"),
    ("switch", "scrape_configs:\n- job_name: a\n  honor_labels: @\n"),
    ("number", "scrape_configs:\n- job_name: a\n  sample_limit: @\n"),
    (
        "factor",
        "scrape_configs:\n- job_name: a\n  scrape_native_histograms: true\n  native_histogram_min_bucket_factor: @\n",
    ),
    ("size", "scrape_configs:\n- job_name: a\n  body_size_limit: @\n"),
    ("duration", "global:\n  scrape_interval: @\n"),
    ("replacement", "scrape_configs:\n- job_name: a\n  relabel_configs:\n  - target_label: x\n    replacement: @\n"),
    (
        "regex",
        "scrape_configs:\n- job_name: a\n  relabel_configs:\n  - target_label: x\n    source_labels: [y]\n    regex: @\n",
    ),
    (
        "modulus",
        "scrape_configs:\n- job_name: a\n  relabel_configs:\n  - {action: hashmod, source_labels: [y], target_label: x, modulus: @}\n",
    ),
    ("parameter", "scrape_configs:\n- job_name: a\n  params:\n    x:\n    - @\n"),
    ("section", "scrape_configs:\n- job_name: a\n  basic_auth: @\n"),
    ("list", "scrape_configs: @\n"),
];

/// Where the two are meant to differ: places (none: all), scalars, and why.
const DEVIATIONS: &[(&[&str], &[&str], &str)] = &[
    (
        &["section", "duration"],
        &["Null", "NULL"],
        "Prometheus's reader makes of these an empty value, and of the other spellings none",
    ),
    (
        &["number", "modulus"],
        &["-.Inf", "18446744073709551616", "-9223372036854775809"],
        "numbers that do not fit are refused; Prometheus takes what is left of their bits",
    ),
    (
        &["target label"],
        &["~", "null", "Null", "NULL", "", "''", "!!str", "\t"],
        "labels of targets with an empty value, which mean nothing, are not printed again",
    ),
    (
        &["label name"],
        &["~", "null", "Null", "NULL", "", "\t", "\"\\x41\\u00e4\\n\""],
        "no name, and one with a line break",
    ),
    (&["parameter"], &["\t"], "a tab alone"),
    (&["external label"], &["?a", ":a"], "text that begins like a key, in braces"),
    (&["regex"], &["'~'"], "printed again, where Prometheus leaves it out"),
];

#[test]
fn scalars_as_prometheus_reads_them() -> Result<()> {
    let Some(theirs) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let promtool = theirs.with_file_name("promtool");
    let folder = tempfile::tempdir()?;
    let mut cases = Vec::new();
    for (place, text) in PLACES {
        for scalar in SCALARS {
            if DEVIATIONS
                .iter()
                .any(|(places, scalars, _)| (places.is_empty() || places.contains(place)) && scalars.contains(scalar))
            {
                continue;
            }
            let file = folder.path().join(format!("{}.yml", cases.len()));
            std::fs::write(&file, text.replace('@', scalar))?;
            cases.push((*place, *scalar, file));
        }
    }
    // One run of each tool for all files would stop at nothing, but say less: whether a file is taken is asked one by one.
    let takes = |binary: &std::path::Path, before: &[&str], file: &std::path::Path| -> Result<(bool, String)> {
        let out = std::process::Command::new(binary)
            .args(before)
            .args(["check", "config", "--syntax-only"])
            .arg(file)
            .output()?;
        Ok((out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()))
    };
    let (mut differences, mut taken) = (Vec::new(), Vec::new());
    let narthex = narthex()?;
    for (place, scalar, file) in &cases {
        let (a, why) = takes(&narthex, &["tool"], file)?;
        let (b, their_why) = takes(&promtool, &[], file)?;
        if a != b {
            differences.push(format!("{place} {scalar:?}: narthex {a} {why}, promtool {b} {their_why}"));
        } else if b {
            taken.push((*place, *scalar, file));
        }
    }
    println!("{} files, {} taken by both", cases.len(), taken.len());
    // What was taken, one after the other: how it is printed again.
    let start = folder.path().join("prometheus.yml");
    std::fs::write(&start, "global: {scrape_interval: 1h}\n")?;
    let flags = [format!("--config.file={}", start.display()), "--web.enable-lifecycle".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ours = start_narthex(folder.path(), net::free_port()?, &flags)?;
    let theirs = start_prometheus(&theirs, folder.path(), net::free_port()?, &flags)?;
    for (place, scalar, file) in taken {
        std::fs::copy(file, &start)?;
        let mut shown = Vec::new();
        for server in [&ours, &theirs] {
            let loaded = net::post(server.address, "/-/reload", "")?;
            let yaml = server.json("/api/v1/status/config")?["data"]["yaml"].as_str().unwrap_or_default().to_owned();
            shown.push((loaded.status, yaml));
        }
        if shown[0] != shown[1] {
            let [a, b] = [&shown[0], &shown[1]].map(|(status, yaml)| {
                let other = &shown[1].1;
                let same = |l: &&str| !other.lines().any(|o| o == *l) || shown[0].1.lines().all(|o| o != *l);
                format!("{status} {:?}", yaml.lines().filter(same).collect::<Vec<_>>())
            });
            differences.push(format!("{place} {scalar:?}: narthex {a}, prometheus {b}"));
        }
    }
    let count = differences.len();
    ensure!(differences.is_empty(), "{count} differ:\n{}", differences.join("\n"));
    ours.stop()
}
