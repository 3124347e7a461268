//! The web page in a real Chromium: a server that scrapes itself, and `scraper/server/ui/test/pages.mjs`, which types a
//! query, looks for the drawn series, and opens every page.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{eventually, start_narthex};

#[test]
fn every_page_works_in_a_browser() -> Result<()> {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scraper/server/ui");
    if !Path::new("/usr/bin/chromium").exists() || !pages.join("node_modules/playwright-core").exists() {
        println!("skipped: needs chromium, and `npm ci` in scraper/server/ui");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let port = net::free_port()?;
    let config = folder.path().join("prometheus.yml");
    let asked = AtomicU64::new(1);
    let app = net::exporter(move |_| {
        let n = asked.fetch_add(1, Ordering::Relaxed);
        format!(
            "# TYPE request_seconds histogram\nrequest_seconds_bucket{{le=\"1.0\"}} {n} # {{trace_id=\"t{n}\"}} 0.5\n\
             request_seconds_bucket{{le=\"+Inf\"}} {n}\nrequest_seconds_count {n}\nrequest_seconds_sum {n}\n# EOF\n"
        )
    })?;
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nstorage: {{exemplars: {{max_exemplars: 1000}}}}\nscrape_configs:\n\
             - job_name: app\n  static_configs: [{{targets: ['{app}']}}]\n\
             - job_name: narthex\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n  \
               relabel_configs: [{{target_label: team, replacement: red}}]\n"
        ),
    )?;
    let server = start_narthex(
        folder.path(),
        port,
        &[&format!("--config.file={}", config.display()), "--enable-feature=exemplar-storage"],
    )?;
    // Two scrapes at least, so that the graph has a line to draw.
    eventually(30, "two scrapes", || Ok(server.query("count(count_over_time(up[1m]) > 2) == 2")?.first().map(|_| ())))?;

    let out = Command::new("node")
        .arg(pages.join("test/pages.mjs"))
        .arg(format!("http://127.0.0.1:{port}"))
        .args(std::env::var_os("NARTHEX_SCREENSHOTS"))
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{text}");
    ensure!(out.status.success() && text.contains(" passed, 0 failed"), "{text}\n{}", server.log_text());
    Ok(())
}
