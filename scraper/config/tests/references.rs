//! References in configuration files. In a process of its own, as they are allowed for a whole process.

use narthex_config::{Config, references};

#[test]
fn references_are_followed_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("password", "pa55word-of-a-user\n");
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let text = "global: {external_labels: {where: '%{CARGO_MANIFEST_DIR}', plain: '%%{X}', region: $NOWHERE}}\n\
                scrape_config_files: [more.yml]\n\
                scrape_configs:\n\
                - job_name: a\n  sample_limit: '%{file:limit}'\n  metrics_path: '/x/%{file:password}/y'\n  \
                params: {token: ['%{file:password}']}\n  \
                relabel_configs:\n  - {source_labels: [a], regex: '(.*)$', target_label: b, replacement: '${1}$'}\n";
    write("limit", "731\n");
    write(
        "more.yml",
        "scrape_configs:\n- {job_name: b, basic_auth: {username: '%{file:password}', password: '%{file:password}'}}\n",
    );
    write("f.yml", text);
    let file = folder.path().join("f.yml");
    // As they stand before they are allowed.
    let config = Config::parse("global: {external_labels: {a: '%{CARGO_MANIFEST_DIR}'}}", &file, &|_| None).unwrap();
    assert_eq!(config.global.external_labels.labels().get("a"), Some("%{CARGO_MANIFEST_DIR}"));
    references::allow();
    let config = Config::load_file(&file).unwrap();
    let labels = config.global.external_labels.labels();
    assert_eq!((labels.get("where"), labels.get("plain")), (Some(&*manifest), Some("%{X}")));
    let jobs = config.jobs().unwrap();
    assert_eq!((jobs[0].sample_limit, &*jobs[0].metrics_path), (731, "/x/pa55word-of-a-user/y"));
    assert_eq!(jobs[0].params["token"], ["pa55word-of-a-user"]);
    assert_eq!(jobs[0].relabel_configs[0].replacement, "${1}$");
    let basic = jobs[1].http.basic_auth.as_ref().unwrap();
    assert_eq!((&*basic.username, basic.password.expose()), ("pa55word-of-a-user", "pa55word-of-a-user"));
    let shown = format!("{}{}{}", config.to_yaml(), jobs[0].to_yaml(), jobs[1].to_yaml());
    assert!(!shown.contains("pa55word") && !shown.contains(&manifest), "{shown}");
    for part in ["where: '%{CARGO_MANIFEST_DIR}'", "'%{file:limit}'", "/x/%{file:password}/y", "- '%{file:password}'"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    // Faults name line and reference, not what it stands for.
    for (text, fault) in [
        ("global:\n  sample_limit: '%{file:password}'\n", "line 2: cannot unmarshal !!str `%{file:...` into uint"),
        ("global:\n  scrape_interval: '%{file:password}'\n", "%{file:password}"),
        ("scrape_configs:\n- {job_name: a, scheme: '%{NO_SUCH}'}\n", "line 2: the environment has no variable NO_SUCH"),
        ("scrape_configs:\n- {job_name: a, scheme: '%{file:none}'}\n", "line 2: cannot read the file of %{file:none}"),
    ] {
        let said = Config::parse(text, &file, &|_| None).unwrap_err().to_string();
        assert!(!said.contains("pa55"), "{said}");
        assert!(said.contains(fault), "{text}: {said}");
    }
    // What others send is not looked through.
    let groups = narthex_config::parse_target_groups("[{targets: ['%{file:password}']}]").unwrap();
    assert!(format!("{groups:?}").contains("%{file:password}"));
    assert!(
        narthex_config::ScrapeConfig::parse("{job_name: '%{CARGO_MANIFEST_DIR}'}").unwrap().job_name.starts_with('%')
    );
}
