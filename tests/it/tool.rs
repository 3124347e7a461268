//! `narthex tool` beside the real promtool: the same command lines, the output and the exit code compared.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{eventually, narthex, prometheus, start_narthex};

pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run(binary: &Path, args: &[&str], input: &str) -> Result<Said> {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it has ended.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) })
}

/// How much of what is said on the error output has to be the same.
#[derive(Clone, Copy, PartialEq)]
pub enum Errors {
    Same,
    /// Only whether there is any: the texts of faults differ.
    Some,
}

pub struct Tools {
    pub ours: PathBuf,
    pub theirs: PathBuf,
}

impl Tools {
    pub fn check(&self, args: &[&str], input: &str, errors: Errors) -> Result<()> {
        let with_tool: Vec<&str> = std::iter::once("tool").chain(args.iter().copied()).collect();
        let with_experimental: Vec<&str> = std::iter::once("--experimental").chain(args.iter().copied()).collect();
        let ours = run(&self.ours, &with_tool, input)?;
        let theirs = run(&self.theirs, &with_experimental, input)?;
        let same = ours.code == theirs.code
            && ours.out == theirs.out
            && match errors {
                Errors::Same => ours.err == theirs.err,
                Errors::Some => ours.err.is_empty() == theirs.err.is_empty(),
            };
        ensure!(
            same,
            "{args:?}: {:?}\n{}{}   instead of {:?}\n{}{}",
            ours.code,
            ours.out,
            ours.err,
            theirs.code,
            theirs.out,
            theirs.err
        );
        Ok(())
    }
}

pub fn tools() -> Result<Option<Tools>> {
    let theirs = prometheus().map(|p| p.with_file_name("promtool")).filter(|p| p.is_file());
    let Some(theirs) = theirs else {
        println!("skipped: no promtool to compare with");
        return Ok(None);
    };
    Ok(Some(Tools { ours: narthex()?, theirs }))
}

const PAGES: [(&str, &str); 16] = [
    ("good", "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n"),
    ("empty", ""),
    ("no-help", "a 1\n"),
    ("counter", "# HELP a A.\n# TYPE a counter\na 1\n# HELP g_total G.\n# TYPE g_total gauge\ng_total 1\n"),
    (
        "units",
        "# HELP a_milliseconds A.\na_milliseconds 1\n# HELP b_ms B.\nb_ms 1\n# HELP c_kibibytes C.\nc_kibibytes 1\n",
    ),
    ("camel", "# HELP aB A.\naB{cD=\"1\",eF=\"2\"} 1\n# HELP a:b A.\na:b 1\n"),
    ("labels", "# HELP g G.\n# TYPE g gauge\ng{le=\"1\"} 1\ng{quantile=\"1\"} 1\n"),
    (
        "names",
        "# HELP a_gauge A.\n# TYPE a_gauge gauge\na_gauge 1\n# HELP b_count B.\n# TYPE b_count gauge\nb_count 1\n",
    ),
    ("twice", "# HELP g G.\n# TYPE g gauge\ng{a=\"1\"} 1\ng{a=\"1\"} 2\ng{a=\"1\"} 3\n"),
    (
        "histogram",
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
         # HELP s S.\n# TYPE s summary\ns{quantile=\"0.99\"} 1\ns_sum 1\ns_count 2\n",
    ),
    ("value", "a 1\nb x\n"),
    ("cut", "a 1"),
    ("type", "# TYPE a nothing\na 1\n"),
    ("late-type", "a 1\n# TYPE a gauge\n"),
    ("quotes", "a{b='1'} 1\n"),
    ("timestamp", "a 1 1.5\n"),
];

#[test]
fn checks_what_promtool_checks() -> Result<()> {
    let Some(tools) = tools()? else { return Ok(()) };
    for (_, page) in PAGES {
        tools.check(&["check", "metrics"], page, Errors::Same)?;
        tools.check(&["check", "metrics", "--lint=none"], page, Errors::Same)?;
    }
    for name in ["good", "histogram", "counter", "camel"] {
        let page = PAGES.iter().find(|p| p.0 == name).map_or("", |p| p.1);
        // With equal counts the order is not defined in promtool.
        if name == "good" || name == "histogram" {
            tools.check(&["check", "metrics", "--extended", "--lint=none"], page, Errors::Same)?;
        }
    }
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let file = folder.path().join(name);
        std::fs::write(&file, text)?;
        Ok(file.display().to_string())
    };
    write("good.json", r#"[{"targets": ["a:1"], "labels": {"x": "y"}}]"#)?;
    write("bad.json", r#"[{"targets": 1}]"#)?;
    write("bad.txt", "x")?;
    for (name, text, errors) in [
        (
            "ok.yml",
            "global: {scrape_interval: 30s}\nscrape_configs: [{job_name: a, static_configs: [{targets: ['a:1']}]}]\n",
            Errors::Same,
        ),
        ("long.yml", "scrape_configs: [{job_name: a, scrape_interval: 10m}]\n", Errors::Same),
        ("unknown.yml", "scrape_config: []\n", Errors::Some),
        (
            "missing-sd.yml",
            "scrape_configs: [{job_name: a, file_sd_configs: [{files: ['nowhere/*.json']}]}]\n",
            Errors::Same,
        ),
        ("sd.yml", "scrape_configs: [{job_name: a, file_sd_configs: [{files: ['good.json']}]}]\n", Errors::Same),
        ("bad-sd.yml", "scrape_configs: [{job_name: a, file_sd_configs: [{files: ['bad.json']}]}]\n", Errors::Some),
        ("token.yml", "scrape_configs: [{job_name: a, authorization: {credentials_file: nowhere}}]\n", Errors::Same),
        (
            "cert.yml",
            "scrape_configs: [{job_name: a, tls_config: {cert_file: no.crt, key_file: no.key}}]\n",
            Errors::Same,
        ),
        ("cert-only.yml", "scrape_configs: [{job_name: a, tls_config: {cert_file: no.crt}}]\n", Errors::Some),
        ("address.yml", "scrape_configs: [{job_name: a, static_configs: [{targets: ['a/b']}]}]\n", Errors::Some),
        (
            "relabel.yml",
            "scrape_configs: [{job_name: a, static_configs: [{targets: ['a:1']}], relabel_configs: [{target_label: __address__, replacement: ''}]}]\n",
            Errors::Some,
        ),
        ("rules.yml", "rule_files: [nowhere.rules]\n", Errors::Same),
        ("extra.yml", "scrape_config_files: ['ok-jobs.yml']\n", Errors::Same),
    ] {
        let file = write(name, text)?;
        for flags in [
            vec!["check", "config"],
            vec!["check", "config", "--syntax-only"],
            vec!["check", "config", "--lint=all", "--lint-fatal"],
            vec!["check", "config", "--lint=too-long-scrape-interval"],
            vec!["check", "config", "--lint=too-long-scrape-interval,none", "--query.lookback-delta=1m"],
        ] {
            let args: Vec<&str> = flags.into_iter().chain([file.as_str()]).collect();
            tools.check(&args, "", errors)?;
        }
    }
    for (name, text, errors) in [
        (
            "web.yml",
            "basic_auth_users: {a: $2y$10$qNOPPy4AYzXW8fvNnBpCCOSa5AzGWI1RYYsZ5vHsyQzaoxN1UYHPG}\n",
            Errors::Same,
        ),
        ("web-bad.yml", "basic_auth_user: {}\n", Errors::Some),
        ("web-tls.yml", "tls_server_config: {cert_file: nowhere, key_file: nowhere}\n", Errors::Some),
    ] {
        let file = write(name, text)?;
        tools.check(&["check", "web-config", &file], "", errors)?;
    }
    let discovery = write(
        "discovery.yml",
        "scrape_configs: [{job_name: a, file_sd_configs: [{files: ['good.json']}], relabel_configs: [{source_labels: [x], target_label: z}]}, {job_name: b}]\n",
    )?;
    tools.check(&["check", "service-discovery", "--timeout=1s", &discovery, "a"], "", Errors::Same)?;
    tools.check(&["check", "service-discovery", "--timeout=1s", &discovery, "c"], "", Errors::Same)?;
    for query in [
        "sum(rate(a[5m]))by(x)",
        "a{x=\"1\"}+b",
        "a{",
        "sum by (a, b) (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{b=\"c\"})",
    ] {
        tools.check(&["promql", "format", query], "", Errors::Some)?;
        tools.check(&["promql", "label-matchers", "set", query, "x", "y"], "", Errors::Some)?;
        tools.check(&["promql", "label-matchers", "set", "-t", "!~", query, "z", "a|b"], "", Errors::Some)?;
        tools.check(&["promql", "label-matchers", "delete", query, "x"], "", Errors::Some)?;
    }
    Ok(())
}

/// Web configurations, each after a line `=== number`. They name `c.pem` and `k.pem`, a pair; `k2.pem`, another key; and
/// `bad.pem`, which is none.
const WEB_CONFIGS: &str = include_str!("testdata/web_config_cases.txt");

#[test]
fn takes_and_refuses_web_configurations_as_promtool_does() -> Result<()> {
    let Some(tools) = tools()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let [pair, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]));
    let (pair, other) = (pair?, other?);
    for (name, pem) in [
        ("c.pem", pair.cert.pem()),
        ("k.pem", pair.signing_key.serialize_pem()),
        ("k2.pem", other.signing_key.serialize_pem()),
        ("bad.pem", "garbage\n".to_owned()),
    ] {
        std::fs::write(folder.path().join(name), pem)?;
    }
    let file = folder.path().join("web.yml");
    let cases: Vec<&str> = WEB_CONFIGS.split("=== ").skip(1).filter_map(|c| Some(c.split_once('\n')?.1)).collect();
    let (mut taken, mut differing) = (0, Vec::new());
    for text in &cases {
        std::fs::write(&file, text)?;
        let shown = file.display().to_string();
        let ours = run(&tools.ours, &["tool", "check", "web-config", &shown], "")?;
        let theirs = run(&tools.theirs, &["check", "web-config", &shown], "")?;
        taken += usize::from(theirs.code == Some(0));
        // Refused here, not only by the server that starts (HTTP/2 lacks its suite) or by everybody who connects.
        let useless = ["cipher_suites: [TLS_AES_128_GCM_SHA256]", "min_version: TLS13\n  max_version: TLS12"];
        if useless.iter().any(|u| text.contains(u)) {
            ensure!(ours.code == Some(1), "{text}: {}", ours.out);
        } else if (ours.code, &ours.out) != (theirs.code, &theirs.out) {
            differing
                .push(format!("{text:?}:\n   {}{}instead of\n   {}{}", ours.out, ours.err, theirs.out, theirs.err));
        }
    }
    println!("{} web configurations, {taken} of them taken", cases.len());
    ensure!(cases.len() > 100 && taken > 30, "too few cases were compared");
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}

#[test]
fn asks_and_pushes_as_promtool_does() -> Result<()> {
    let Some(tools) = tools()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("prometheus.yml");
    std::fs::write(&config, "global: {scrape_interval: 1h}\n")?;
    let config = format!("--config.file={}", config.display());
    let server = start_narthex(folder.path(), net::free_port()?, &[&config, "--web.enable-remote-write-receiver"])?;
    let url = format!("http://{}", server.address);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let times = [now - 20, now - 10, now];
    for (i, time) in times.iter().enumerate() {
        let page = format!(
            "# HELP a A.\n# TYPE a gauge\na{{x=\"<&>\",job=\"own\"}} {i}.5 {time}000\na{{x=\"b\"}} 1e6 {time}000\n\
             # TYPE h histogram\nh_bucket{{le=\"1\"}} 1 {time}000\nh_sum 2 {time}000\nh_count 3 {time}000\n\
             # TYPE s summary\ns{{quantile=\"0.5\"}} NaN {time}000\ns_sum 2 {time}000\ns_count 3 {time}000\n"
        );
        // The first by promtool, the second by both, the third by ours alone, in the other protocol.
        if i < 2 {
            let said = run(&tools.theirs, &["push", "metrics", &url], &page)?;
            ensure!(said.code == Some(0), "{}{}", said.out, said.err);
        }
        if i > 0 {
            let version =
                ["--protobuf_message=prometheus.WriteRequest", "--protobuf_message=io.prometheus.write.v2.Request"];
            let said = run(&tools.ours, &["tool", "push", "metrics", version[i - 1], &url], &page)?;
            ensure!(said.code == Some(0), "{}{}", said.out, said.err);
            ensure!(said.out == "Parsing standard input\n  SUCCESS: metrics pushed to remote write.\n", "{}", said.out);
        }
    }
    eventually(20, "all samples", || {
        let all = server.json(&format!("/api/v1/query?query={}", net::encode("{job=\"promtool\"}[5m]")))?;
        let all = all["data"]["result"].as_array().cloned().unwrap_or_default();
        let counts: Vec<usize> = all.iter().map(|s| s["values"].as_array().map_or(0, Vec::len)).collect();
        ensure!(counts == [3; 9], "{counts:?}: {all:?}");
        Ok(Some(()))
    })?;
    let metadata = server.json("/api/v1/metadata?metric=a")?;
    ensure!(metadata["data"]["a"][0]["help"] == "A." && metadata["data"]["a"][0]["type"] == "gauge", "{metadata}");
    let (start, time) = (format!("--start={}", now - 60), format!("--time={now}"));
    let end = format!("--end={now}");
    for args in [
        vec!["query", "instant", &time, &url, "a"],
        vec!["query", "instant", "-o", "json", &time, &url, "a"],
        vec!["query", "instant", &time, &url, "1 + 1"],
        vec!["query", "instant", &time, &url, "nothing"],
        vec!["query", "instant", &time, &url, "sum(a)"],
        vec!["query", "instant", &time, &url, "a["],
        vec!["query", "instant", &time, &url, "a[1m]"],
        vec!["query", "instant", "--time=soon", &url, "a"],
        vec!["query", "instant", "--time=2026-01-01T00:00:00.5Z", &url, "time()"],
        vec!["query", "range", &start, &end, "--step=10s", &url, "a"],
        vec!["query", "range", &start, &end, "--step=10s", "-o", "json", &url, "{job=\"promtool\"}"],
        vec!["query", "range", &start, &end, &url, "sum(a)"],
        vec!["query", "range", &end, "--start=99999999999", &url, "a"],
        vec!["query", "series", "--match=a", &url],
        vec!["query", "series", "--match=a", "--match=h_sum", "-o", "json", &url],
        vec!["query", "series", "--match={}", &url],
        vec!["query", "labels", &url, "x"],
        vec!["query", "labels", "--match=s", "-o", "json", &start, &end, &url, "__name__"],
        vec!["query", "labels", &url, "nothing"],
        vec!["query", "instant", "http://127.0.0.1:1", "a"],
        vec!["check", "healthy", "--url", &url],
        vec!["check", "ready", "--url", &url],
        vec!["push", "metrics", "--remote-write.path=/nowhere", &url],
    ] {
        let errors = if args[0] == "push" { Errors::Some } else { Errors::Same };
        tools.check(&args, "a 1\n", errors)?;
    }
    // A native histogram.
    let exporter_page = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 2.5\nh_count 3\n";
    let target = net::exporter(move |_| exporter_page.to_owned())?;
    std::fs::write(
        folder.path().join("prometheus.yml"),
        format!(
            "scrape_configs: [{{job_name: n, scrape_interval: 1s, scrape_timeout: 1s, convert_classic_histograms_to_nhcb: true, static_configs: [{{targets: ['{target}']}}]}}]\n"
        ),
    )?;
    server.signal("HUP")?;
    eventually(20, "a native histogram", || Ok((server.query("h{job=\"n\"}")?.len() == 1).then_some(())))?;
    let time = format!("--time={}", now + 30);
    for format in ["promql", "json"] {
        tools.check(&["query", "instant", "-o", format, &time, &url, "h{job=\"n\"}"], "", Errors::Same)?;
    }
    server.stop()
}
