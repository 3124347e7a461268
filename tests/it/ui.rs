//! The web page in a real Chromium: a server that scrapes itself, and `scraper/server/ui/test/pages.mjs`, which types a
//! query, looks for the drawn series, and opens every page.

use std::path::Path;
use std::process::Command;

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
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: narthex\n  static_configs:\n  - targets: ['127.0.0.1:{port}']\n"
        ),
    )?;
    let server = start_narthex(folder.path(), port, &[&format!("--config.file={}", config.display())])?;
    // Two scrapes at least, so that the graph has a line to draw.
    eventually(30, "two scrapes", || Ok(server.query("count_over_time(up[1m]) > 2")?.first().map(|_| ())))?;

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
