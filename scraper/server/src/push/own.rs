//! Names that a Pushgateway exposes itself. A push of one of them as another type is refused there, and here likewise:
//! programs in Go push most of them, and a series has one type.

use super::proto::{COUNTER, GAUGE, SUMMARY};

const COUNTERS: &[&str] = &[
    "go_memstats_alloc_bytes_total",
    "go_memstats_frees_total",
    "go_memstats_mallocs_total",
    "process_cpu_seconds_total",
    "process_network_receive_bytes_total",
    "process_network_transmit_bytes_total",
    "pushgateway_http_requests_total",
];

const SUMMARIES: &[&str] =
    &["go_gc_duration_seconds", "pushgateway_http_push_duration_seconds", "pushgateway_http_push_size_bytes"];

const GAUGES: &[&str] = &[
    "go_gc_gogc_percent",
    "go_gc_gomemlimit_bytes",
    "go_goroutines",
    "go_info",
    "go_memstats_alloc_bytes",
    "go_memstats_buck_hash_sys_bytes",
    "go_memstats_gc_sys_bytes",
    "go_memstats_heap_alloc_bytes",
    "go_memstats_heap_idle_bytes",
    "go_memstats_heap_inuse_bytes",
    "go_memstats_heap_objects",
    "go_memstats_heap_released_bytes",
    "go_memstats_heap_sys_bytes",
    "go_memstats_last_gc_time_seconds",
    "go_memstats_mcache_inuse_bytes",
    "go_memstats_mcache_sys_bytes",
    "go_memstats_mspan_inuse_bytes",
    "go_memstats_mspan_sys_bytes",
    "go_memstats_next_gc_bytes",
    "go_memstats_other_sys_bytes",
    "go_memstats_stack_inuse_bytes",
    "go_memstats_stack_sys_bytes",
    "go_memstats_sys_bytes",
    "go_sched_gomaxprocs_threads",
    "go_threads",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "pushgateway_build_info",
    "push_failure_time_seconds",
    "push_time_seconds",
];

/// The type of a name that a Pushgateway has itself.
pub fn kind(name: &str) -> Option<i32> {
    if !name.starts_with("go_") && !name.starts_with("p") {
        return None;
    }
    let lists = [(COUNTER, COUNTERS), (SUMMARY, SUMMARIES), (GAUGE, GAUGES)];
    lists.iter().find(|(_, names)| names.contains(&name)).map(|(kind, _)| *kind)
}
