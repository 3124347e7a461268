//! The web page in a real Chromium: a server that scrapes itself and a target made for this, and
//! `scraper/server/ui/test/pages.mjs`, which drives every page and looks at what it shows, at three sizes, in both
//! colour schemes.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{eventually, start_narthex};

/// What the target gives when it is asked for the `n`th time: a histogram with exemplars, many series, unusual names and
/// values, and series to be deleted.
fn page(n: u64) -> String {
    let mut page = format!(
        "# TYPE request_seconds histogram\nrequest_seconds_bucket{{le=\"0.1\"}} {n} # {{trace_id=\"t{n}\"}} 0.05\n\
         request_seconds_bucket{{le=\"1.0\"}} {}\nrequest_seconds_bucket{{le=\"2.0\"}} {}\nrequest_seconds_bucket{{le=\"+Inf\"}} {}\n\
         request_seconds_count {}\nrequest_seconds_sum {n}\n# TYPE many gauge\n",
        3 * n,
        4 * n,
        5 * n,
        5 * n
    );
    for i in 0..600 {
        page += &format!("many{{i=\"{i}\"}} {}\n", i * (n % 10));
    }
    page += "# TYPE odd gauge\nodd{v=\"nan\"} NaN\nodd{v=\"inf\"} +Inf\nodd{v=\"big\"} 1.2345e30\n\
             odd{path=\"C:\\\\dir \\\"quoted\\\"\\nline\"} 1\n# TYPE \"odd.name\" gauge\n{\"odd.name\",\"a b\"=\"x\"} 3\n\
             # TYPE doomed gauge\ndoomed{n=\"1\"} 1\ndoomed{n=\"2\"} 2\ndoomed{n=\"3\"} 3\n# EOF\n";
    page
}

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
    let app = net::exporter(move |_| page(asked.fetch_add(1, Ordering::Relaxed)))?;
    let closed = net::free_port()?;
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nstorage: {{exemplars: {{max_exemplars: 1000}}}}\nscrape_configs:\n\
             - job_name: app\n  static_configs: [{{targets: ['{app}', 'dropped.example:80']}}]\n  \
               relabel_configs: [{{source_labels: [__address__], regex: 'dropped.*', action: drop}}]\n\
             - job_name: custom\n  convert_classic_histograms_to_nhcb: true\n  static_configs: [{{targets: ['{app}']}}]\n  \
               metric_relabel_configs: [{{source_labels: [__name__], regex: 'request_.*', action: keep}}]\n\
             - job_name: down\n  static_configs: [{{targets: ['127.0.0.1:{closed}']}}]\n\
             - job_name: narthex\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n  \
               relabel_configs: [{{target_label: team, replacement: red}}]\n"
        ),
    )?;
    let server = start_narthex(
        folder.path(),
        port,
        &[
            &format!("--config.file={}", config.display()),
            "--enable-feature=exemplar-storage",
            "--web.enable-admin-api",
        ],
    )?;
    // Two scrapes at least, so that the graph has a line to draw.
    eventually(30, "two scrapes", || Ok(server.query("count(count_over_time(up[1m]) > 2) == 4")?.first().map(|_| ())))?;

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
