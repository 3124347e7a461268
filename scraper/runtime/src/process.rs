//! The `process_*` metrics, from `/proc`. Empty where there is no `/proc`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::{Family, Kind};

/// Ticks per second of `/proc/self/stat`: `USER_HZ`, which is 100 on every Linux.
const USER_HZ: f64 = 100.0;

/// Facts about this process at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessStats {
    pub cpu_seconds: f64,
    pub resident_bytes: f64,
    pub virtual_bytes: f64,
    pub open_fds: f64,
    pub max_fds: f64,
    /// Seconds since the epoch.
    pub start_time: f64,
    pub threads: f64,
}

/// Reads them; a figure that can't be read is 0.
pub fn stats() -> ProcessStats {
    let mut s = ProcessStats { start_time: start_time(), ..ProcessStats::default() };
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // The command's name, in parentheses, may hold anything: count fields after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        s.cpu_seconds = (number(11) + number(12)) / USER_HZ;
        s.threads = number(17);
        s.virtual_bytes = number(20);
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(rss) = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))
    {
        s.resident_bytes = rss.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0;
    }
    s.open_fds = std::fs::read_dir("/proc/self/fd").map(|d| d.count() as f64).unwrap_or(0.0);
    if let Ok(limits) = std::fs::read_to_string("/proc/self/limits") {
        let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
        s.max_fds = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    }
    s
}

/// When the process started, in seconds since the epoch, to hundredths.
pub fn start_time() -> f64 {
    static START: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let from_proc = || {
            let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
            let ticks: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
            let boot = std::fs::read_to_string("/proc/stat").ok()?;
            let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
            Some(boot + ticks / USER_HZ)
        };
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs_f64()).unwrap_or(0.0);
        from_proc().unwrap_or_else(now)
    })
}

/// A soft limit of `/proc/self/limits`; none where it is unlimited.
fn limit(name: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes received and sent by all interfaces of the process's network namespace.
fn network() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    text.lines().filter_map(|l| l.split_once(':')).fold((0.0, 0.0), |(received, sent), (_, figures)| {
        let figure = |i: usize| figures.split_whitespace().nth(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (received + figure(0), sent + figure(8))
    })
}

/// A collector for [`crate::Registry::register`].
pub fn collect(out: &mut Vec<Family>) {
    let s = stats();
    let mut add = |name: &str, help: &str, kind, value| out.push(Family::single(name, help, kind, value));
    add("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", Kind::Counter, s.cpu_seconds);
    add("process_max_fds", "Maximum number of open file descriptors.", Kind::Gauge, s.max_fds);
    add("process_open_fds", "Number of open file descriptors.", Kind::Gauge, s.open_fds);
    add("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge, s.resident_bytes);
    add(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        Kind::Gauge,
        s.start_time,
    );
    add("process_threads", "Number of OS threads.", Kind::Gauge, s.threads);
    add("process_virtual_memory_bytes", "Virtual memory size in bytes.", Kind::Gauge, s.virtual_bytes);
    let limit = limit("Max address space").unwrap_or(u64::MAX as f64);
    add("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", Kind::Gauge, limit);
    let (received, sent) = network();
    add(
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
        Kind::Counter,
        received,
    );
    add(
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
        Kind::Counter,
        sent,
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_and_a_start() {
        let s = super::stats();
        assert!(s.resident_bytes > 100_000.0 && s.open_fds >= 3.0 && s.start_time > 1.6e9 && s.threads >= 1.0, "{s:?}");
    }
}
