//! Pushed groups in a real process: acknowledged ones are there after `kill -9`, queries see them until they are deleted,
//! and who scrapes `/metrics/pushed` gets the same series.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{Server, eventually, start_narthex};

fn start(folder: &Path, config: &str) -> Result<Server> {
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let config = format!("--config.file={}", file.display());
    start_narthex(folder, net::free_port()?, &[&config, "--web.enable-push", "--web.enable-admin-api"])
}

fn push(server: &Server, line: &str, body: &str) -> Result<()> {
    let (method, path) = line.split_once(' ').unwrap_or_default();
    let answer = net::send(server.address, method, path, &[], body.as_bytes())?;
    ensure!(matches!(answer.status, 200 | 202), "{line}: {} {}", answer.status, answer.text());
    Ok(())
}

/// The values of a name by their job.
fn by_job(server: &Server, name: &str) -> Result<BTreeMap<String, String>> {
    let found = server.query(name)?.into_iter().map(|(labels, value)| {
        let labels: serde_json::Value = serde_json::from_str(&labels)?;
        Ok((labels["job"].as_str().unwrap_or_default().to_owned(), value))
    });
    found.collect()
}

#[test]
fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    const JOBS: u64 = 3;
    let folder = tempfile::tempdir()?;
    let config = "global: {scrape_interval: 1s}\n";
    let mut acknowledged = vec![0; JOBS as usize];
    for round in 0..3u64 {
        let server = start(folder.path(), config)?;
        // Nothing that was acknowledged is lost, and nothing that nobody sent is there.
        let seen = eventually(20, "the pushed values", || {
            let seen = by_job(&server, "n")?;
            Ok((seen.len() as u64 == if round == 0 { 0 } else { JOBS }).then_some(seen))
        })?;
        for (job, value) in &seen {
            let job: usize = job.trim_start_matches('j').parse()?;
            let (value, least): (u64, u64) = (value.parse()?, acknowledged[job]);
            ensure!((least..=least + 1).contains(&value), "round {round}: {value}, acknowledged were {least}");
        }
        let counts: Arc<Vec<AtomicU64>> = Arc::new(acknowledged.iter().map(|n| AtomicU64::new(*n)).collect());
        let address = server.address;
        let pushers: Vec<_> = (0..JOBS)
            .map(|job| {
                let counts = counts.clone();
                std::thread::spawn(move || {
                    for n in counts[job as usize].load(Ordering::SeqCst) + 1.. {
                        let (path, body) = (format!("/metrics/job/j{job}"), format!("n {n}\n"));
                        match net::send(address, "PUT", &path, &[], body.as_bytes()) {
                            Ok(answer) if answer.status == 200 => counts[job as usize].store(n, Ordering::SeqCst),
                            _ => return,
                        }
                    }
                })
            })
            .collect();
        eventually(30, "enough pushes", || {
            let enough = counts.iter().zip(&acknowledged).all(|(n, before)| n.load(Ordering::SeqCst) > before + 20);
            Ok(enough.then_some(()))
        })?;
        server.kill()?;
        pushers.into_iter().for_each(|p| _ = p.join());
        acknowledged = counts.iter().map(|n| n.load(Ordering::SeqCst)).collect();
    }
    // An orderly end keeps them, too; what is deleted stays so.
    let server = start(folder.path(), config)?;
    push(&server, "DELETE /metrics/job/j0", "")?;
    ensure!(by_job(&server, "n")?.len() as u64 == JOBS - 1, "a deleted group is still there");
    server.stop()?;
    let server = start(folder.path(), config)?;
    eventually(20, "the groups that are left", || Ok((by_job(&server, "n")?.len() as u64 == JOBS - 1).then_some(())))?;
    Ok(())
}

#[test]
fn queries_see_what_a_scrape_of_the_groups_would_store() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = net::free_port()?;
    // It scrapes its own groups besides, under another name.
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: gateway\n  honor_labels: true\n  metrics_path: /metrics/pushed\n  \
         static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n  metric_relabel_configs: [{{target_label: from, replacement: scrape}}]\n"
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config)?;
    let config = format!("--config.file={}", file.display());
    let server = start_narthex(folder.path(), port, &[&config, "--web.enable-push", "--web.enable-admin-api"])?;
    let body = "# TYPE c counter\nc{x=\"\",job=\"no\"} 1e6\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 3\nh_count 2\n\
                # TYPE s summary\ns{quantile=\"0.5\"} 4\ns_sum 5\ns_count 6\n";
    push(&server, "PUT /metrics/job/j/instance/i", body)?;
    push(&server, "PUT /metrics/job/k", "c{instance=\"mine\"} 7\n".replace("c{", "# TYPE c counter\nc{").as_str())?;
    push(&server, "PUT /metrics/job/l", "# TYPE c counter\nc 8\n")?;
    // At once.
    ensure!(by_job(&server, "c")?.get("l").map(String::as_str) == Some("8"), "a push is not seen at once");
    let of = |expr: &str| -> Result<Vec<(String, String)>> {
        let mut all = server.query(expr)?;
        all.retain(|(labels, _)| !labels.contains("push_time"));
        all.sort();
        Ok(all)
    };
    let both = || -> Result<(Vec<_>, Vec<_>)> {
        let pushed = of("{__name__!~\"up|scrape_.*\",from=\"\",job=~\"j|k|l\"}")?;
        let scraped = of(
            "label_replace({__name__!~\"up|scrape_.*\",from=\"scrape\",job=~\"j|k|l\"}, \"from\", \"\", \"\", \"\")",
        )?;
        Ok((pushed, scraped))
    };
    let (pushed, _) = eventually(20, "both the same", || {
        let (pushed, scraped) = both()?;
        Ok((pushed.len() > 8 && pushed == scraped).then_some((pushed, scraped)))
    })?;
    ensure!(pushed.len() == 3 + 4 + 3 + 3, "{pushed:?}");
    // What goes is gone at once, for a scrape with the next one.
    push(&server, "PUT /metrics/job/j/instance/i", "")?;
    push(&server, "DELETE /metrics/job/k", "")?;
    ensure!(by_job(&server, "c{from=\"\"}")?.keys().collect::<Vec<_>>() == ["l"], "what ended is still there");
    eventually(20, "both the same after the end", || {
        let (pushed, scraped) = both()?;
        Ok((pushed == scraped).then_some(()))
    })?;
    // A minute of samples at the interval, without a push.
    let count = |at: &Server| -> Result<f64> {
        let found = at.query("count_over_time(c{from=\"\",job=\"l\"}[1m])")?;
        Ok(found.first().map_or(Ok(0.0), |(_, v)| v.parse())?)
    };
    eventually(20, "samples at each interval", || Ok((count(&server)? >= 4.0).then_some(())))?;
    push(&server, "PUT /api/v1/admin/wipe", "")?;
    ensure!(of("{from=\"\",job=\"l\"}")?.is_empty(), "wiping left something");
    ensure!(net::get(server.address, "/metrics/pushed")?.body.is_empty());
    server.stop()
}
