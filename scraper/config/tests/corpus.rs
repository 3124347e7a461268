//! Prometheus's own configuration files: accepted, refused for the same reason, printed in the same way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use narthex_config::{Config, sd};
use narthex_model::{Labels, relabel};
use serde_json::Value;

fn testdata(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(below)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn load(file: &Path) -> Result<Config, String> {
    let config = Config::load_file(file).map_err(|e| e.to_string())?;
    config.jobs().map_err(|e| e.to_string())?;
    Ok(config)
}

/// What a message of Prometheus says of the fault, piece by piece: without the file, the lines, the YAML library's
/// introduction.
fn pieces(message: &str) -> Vec<String> {
    let message = message.strip_prefix("parsing YAML file ").unwrap_or(message);
    let message = message.strip_prefix("yaml: unmarshal errors:\n").unwrap_or(message);
    // Where it says the job besides, we say the path.
    let message = message.split(" for scrape config with job name").next().unwrap_or(message);
    let message = message.split_once("scrape_protocols: ").map_or(message, |(_, m)| m);
    message
        .lines()
        .map(|line| {
            let line = line.trim();
            match line.strip_prefix("line ").and_then(|l| l.split_once(": ")) {
                Some((number, rest)) => format!("line {number}: {rest}"),
                None => line.to_owned(),
            }
        })
        .collect()
}

/// Faults that are worded in our own way.
fn worded_otherwise(file: &str) -> Option<&'static str> {
    Some(match file {
        // The job's name is given by the path.
        "scrape_config_files_fallback_scrape_protocol1.bad.yml" => "unknown scrape protocol prometheusproto",
        // Two files, both named, with their whole paths.
        "scrape_config_files_double_import.bad.yml" => "found multiple scrape configs with job name \"prometheus\"",
        "scrape_config_files_duplicate.bad.yml" => "first found in main config file",
        "scrape_config_files_global_duplicate.bad.yml" => "first found in main config file",
        "scrape_config_files_global.bad.yml" => "scrape timeout greater than scrape interval",
        _ => return None,
    })
}

#[test]
fn verdicts() {
    let verdicts: BTreeMap<String, Value> =
        serde_json::from_value(json(&testdata("prometheus/verdicts.json"))).unwrap();
    let (mut matched, mut skipped, mut wrong) = (0, Vec::new(), Vec::new());
    for (file, verdict) in &verdicts {
        let accepted = verdict["accepted"].as_bool().unwrap();
        let result = load(&testdata("prometheus").join(file));
        if let Err(message) = &result
            && message.contains(sd::UNSUPPORTED_MESSAGE)
        {
            // Refused by name: not what Prometheus says, and no fault of another kind hides behind it.
            assert!(message.contains("_sd_configs is a service discovery"), "{file}: {message}");
            skipped.push(file.as_str());
            continue;
        }
        match (&result, verdict["error"].as_str()) {
            (Ok(_), _) if accepted => matched += 1,
            (Err(message), Some(expected)) if !accepted => {
                let same = match worded_otherwise(file) {
                    Some(text) => message.contains(text),
                    None => pieces(expected).iter().all(|piece| message.contains(piece)),
                };
                let line = message.contains("line ");
                if same && line {
                    matched += 1;
                } else {
                    wrong.push(format!("{file}: {message:?}, Prometheus: {expected:?}"));
                }
            }
            (Err(_), None) if !accepted => matched += 1,
            (Err(message), _) => wrong.push(format!("{file} should be accepted: {message}")),
            (Ok(_), expected) => wrong.push(format!("{file} should be refused: {expected:?}")),
        }
    }
    println!("{matched} as Prometheus, {} skipped for their discovery: {skipped:?}", skipped.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(matched + skipped.len(), verdicts.len());
    assert!(skipped.len() <= 50, "too much is skipped");
}

#[test]
fn agent_mode_refuses_what_it_has_no_use_for() {
    for (file, field) in [
        ("good", None),
        ("without_remote_writes", None),
        ("with_alert_manager", Some("alerting")),
        ("with_alert_relabels", Some("alerting")),
        ("with_remote_reads", Some("remote_read")),
        ("with_rule_files", Some("rule_files")),
    ] {
        let config = load(&testdata(&format!("prometheus/agent_mode.{file}.yml"))).unwrap();
        let expected = field.map(|f| format!("field {f} is not allowed in agent mode"));
        assert_eq!(config.check_agent().err().map(|e| e.to_string()), expected, "{file}");
    }
}

#[test]
fn relabelling() {
    let cases = json(&testdata("relabel/cases.json"));
    let labels = |v: &Value| -> Labels {
        v.as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .fold(&mut narthex_model::LabelsBuilder::new(), |b, (k, v)| b.set(k, v))
            .build()
    };
    let cases = cases.as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let job = serde_json::json!({"job_name": "j", "relabel_configs": case["relabel_configs"]});
        let mut job = narthex_config::ScrapeConfig::parse(&job.to_string()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        job.validate(&narthex_config::GlobalConfig::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let before = labels(&case["labels"]);
        let mut after = before.to_builder();
        let kept = relabel::process(&job.relabel_configs, &mut after);
        assert_eq!(kept, case["kept"].as_bool().unwrap(), "{name}");
        if kept {
            assert_eq!(after.build(), labels(&case["output"]), "{name}");
        }
        let steps = relabel::steps(&job.relabel_configs, &before);
        let expected = case["steps"].as_array().unwrap();
        assert_eq!(steps.len(), expected.len(), "{name}");
        for (i, (step, expected)) in steps.iter().zip(expected).enumerate() {
            assert_eq!(step.kept, expected["kept"].as_bool().unwrap(), "{name}, step {i}");
            assert_eq!(step.output, labels(&expected["output"]), "{name}, step {i}");
        }
    }
    assert_eq!(cases.len(), 62);
}

#[test]
fn printed() {
    let mut files = 0;
    for entry in std::fs::read_dir(testdata("printed")).unwrap() {
        let golden = entry.unwrap().path();
        let name = golden.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        files += 1;
        let folder = if name.starts_with("x_") { "more" } else { "prometheus" };
        let text = std::fs::read_to_string(testdata(folder).join(name)).unwrap();
        let mut config = Config::parse(&text, Path::new(name), &|_| None).unwrap();
        config.set_directory(Path::new("/tmp/prometheus-config"));
        let time = std::time::Duration::from_secs(15 * 24 * 3600);
        config.set_default_retention(narthex_config::RetentionConfig { time, ..Default::default() });
        let printed = config.to_yaml();
        assert_eq!(printed, std::fs::read_to_string(&golden).unwrap(), "{name}");
        // What is printed can be read, though not all of it says the same: false is left out where it is not the
        // default, and secrets are gone.
        Config::parse(&printed, Path::new(name), &|_| None).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(files, 65);
}

#[test]
fn secrets_are_not_shown() {
    let text = r#"
scrape_configs:
- job_name: a
  basic_auth: {username: u, password: planted1}
  proxy_url: http://u:planted2@p/
  proxy_connect_header: {X: [planted3]}
  http_headers: {Y: {secrets: [planted4]}}
  tls_config: {cert: c, key: planted5}
  http_sd_configs: [{url: "http://u:planted6@h/", authorization: {credentials: planted7}}]
  consul_sd_configs: [{token: planted8}]
- job_name: b
  oauth2: {client_id: i, client_secret: planted9, token_url: t}
remote_write:
- {url: "http://u:planted10@h", sigv4: {access_key: a, secret_key: planted11}}
"#;
    let config = Config::parse(text, Path::new("f"), &|_| None).unwrap();
    for shown in [config.to_yaml(), format!("{config:?}")] {
        assert!(!shown.contains("planted"), "{shown}");
    }
    for bad in ["{url: 'http://u:planted@h:x'}", "{url: 'http://h', basic_auth: {password: {planted: 1}}}"] {
        let text = format!("scrape_configs: [{{job_name: a, http_sd_configs: [{bad}]}}]");
        let message = Config::parse(&text, Path::new("f"), &|_| None).unwrap_err().to_string();
        assert!(!message.contains("u:planted"), "{message}");
    }
}

/// A fault names file, line and key.
#[test]
fn faults_say_where() {
    for (text, expected) in [
        (
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: a\n  honor_label: true\n- job_name: b\n  scrape_timeout: 1h\n  sample_limit: many\n",
            "parsing YAML file f.yml: line 5: field honor_label not found in type config.ScrapeConfig (at \
             scrape_configs[0].honor_label); line 8: cannot unmarshal !!str `many` into uint (at \
             scrape_configs[1].sample_limit)",
        ),
        (
            "scrape_configs:\n- job_name: a\n  scrape_timeout: 1h\n",
            "parsing YAML file f.yml: line 3: scrape timeout greater than scrape interval for scrape config with job \
             name \"a\" (at scrape_configs[0].scrape_timeout)",
        ),
        (
            "scrape_configs:\n- job_name: a\n  relabel_configs:\n  - action: keep\n  - action: replace\n",
            "parsing YAML file f.yml: line 5: relabel configuration for replace action requires 'target_label' value \
             (at scrape_configs[0].relabel_configs[1])",
        ),
        (
            "scrape_configs:\n- job_name: a\n  ec2_sd_configs: [{}]\n",
            "parsing YAML file f.yml: line 3: ec2_sd_configs is a service discovery that Narthex does not have (at \
             scrape_configs[0].ec2_sd_configs)",
        ),
        (
            "a: &a {scrape_interval: 5s, scrape_timeout: 9s}\n",
            "parsing YAML file f.yml: line 1: field a not found in type config.plain (at a)",
        ),
    ] {
        assert_eq!(Config::parse(text, Path::new("f.yml"), &|_| None).unwrap_err().to_string(), expected);
    }
    assert!(Config::parse("scrape_configs: [{", Path::new("f.yml"), &|_| None).is_err());
}

/// Found beside a Prometheus: `Ok` with what is printed, or a part of the fault.
#[test]
fn edges_of_jobs() {
    let oauth2 = |proxy: &str| format!("oauth2: {{client_id: a, client_secret: s, token_url: 'http://x', {proxy}}}");
    for (settings, expected) in [
        ("fallback_scrape_protocol: ''".to_owned(), Ok("")),
        ("fallback_scrape_protocol: x".to_owned(), Err("unknown scrape protocol x")),
        ("scrape_protocols: ['']".to_owned(), Err("unknown scrape protocol ,")),
        (oauth2("no_proxy: x"), Err("if no_proxy is configured, proxy_url must also be configured")),
        (oauth2("proxy_from_environment: true, proxy_url: 'http://p'"), Err("proxy_url must not be configured")),
        (oauth2("proxy_connect_header: {a: [b]}"), Err("if proxy_connect_header is configured")),
        (oauth2("proxy_url: 'http://p:1'"), Ok("proxy_url: http://p:1")),
    ] {
        let text = format!("scrape_configs:\n- job_name: a\n  {settings}\n");
        let got = Config::parse(&text, Path::new("f.yml"), &|_| None).map(|c| c.to_yaml()).map_err(|e| e.to_string());
        match expected {
            Ok(part) => {
                assert!(got.as_ref().is_ok_and(|g| g.contains(part) && !g.contains("fallback")), "{text}{got:?}")
            }
            Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{text}{got:?}"),
        }
    }
}

#[test]
fn anchors_and_merge_keys() {
    let text = "scrape_configs:\n- &base\n  job_name: a\n  scrape_interval: 5s\n  scrape_timeout: 2s\n- <<: *base\n  job_name: b\n  scrape_timeout: 3s\n";
    let config = Config::parse(text, Path::new("f.yml"), &|_| None).unwrap();
    let b = &config.scrape_configs[1];
    assert_eq!((b.job_name.as_str(), b.scrape_interval.as_secs(), b.scrape_timeout.as_secs()), ("b", 5, 3));
    // Nine levels of nine aliases each.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    let message = Config::parse(&bomb, Path::new("f.yml"), &|_| None).unwrap_err().to_string();
    assert!(message.contains("excessive aliasing"), "{message}");
}

/// Aliases that nest what each of them nests: as deep as the parser never sees it.
#[test]
fn deep_documents_are_refused() {
    let mut text = "a0: &a0 x\n".to_owned();
    for i in 1..2000 {
        text.push_str(&format!("a{i}: &a{i} {}*a{}{}\n", "[".repeat(100), i - 1, "]".repeat(100)));
    }
    for text in [text, "[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
        assert!(Config::parse(&text, Path::new("f.yml"), &|_| None).is_err());
    }
}

#[test]
fn odd_but_valid_documents() {
    for text in [
        "",
        "# nothing\n",
        "---\n...\n",
        "null",
        "\u{feff}global: {scrape_interval: 7s}\n",
        "%YAML 1.1\n---\nglobal:\n  scrape_interval: 7s\n",
        "global:\r\n  scrape_interval: 7s\r\n",
        "{\"global\": {\"scrape_interval\": \"7s\"}}",
    ] {
        let config = Config::parse(text, Path::new("f.yml"), &|_| None).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        let expected = if text.contains("7s") { 7 } else { 60 };
        assert_eq!(config.global.scrape_interval.as_secs(), expected, "{text:?}");
    }
}

/// Files with pieces cut out, doubled or exchanged are refused or read; nothing panics.
#[test]
fn damaged_files() {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below.max(1)
    };
    for file in ["more/x_odd.yml", "more/x_conf.good.yml", "prometheus/conf.good.yml"] {
        let text = std::fs::read_to_string(testdata(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for _ in 0..150 {
            let mut damaged: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                let other = random(damaged.len());
                match random(4) {
                    0 => drop(damaged.remove(at)),
                    1 => damaged.swap(at, other),
                    2 => {
                        let line: Vec<char> = damaged[at].chars().collect();
                        damaged[at] = line[..random(line.len() + 1)].iter().collect();
                    }
                    _ => {
                        let piece =
                            ["- ", ": ", "{", "[", "&a ", "*a", "!!binary ", "\"", "|", "<<: ", "~"][random(11)];
                        let line: Vec<char> = damaged[at].chars().collect();
                        let cut = random(line.len() + 1);
                        let (head, tail): (String, String) =
                            (line[..cut].iter().collect(), line[cut..].iter().collect());
                        damaged[at] = format!("{head}{piece}{tail}");
                    }
                }
            }
            if let Ok(config) = Config::parse(&damaged.join("\n"), Path::new("f.yml"), &|_| None) {
                config.to_yaml();
            }
        }
    }
}
