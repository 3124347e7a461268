//! The server's own metrics, under Prometheus's names.

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge, Histogram, Labelled};

/// Connections of all listeners.
#[derive(Clone)]
pub struct Connections {
    pub accepted: Counter,
    pub closed: Counter,
}

/// Counts and times of requests.
#[derive(Clone)]
pub struct HttpMetrics {
    pub requests: Labelled<Counter>,
    pub duration: Labelled<Histogram>,
    pub size: Labelled<Histogram>,
    pub ready: Gauge,
    pub connections: Connections,
    /// Requests for own metrics, by code, and those that are being answered.
    pub own: Labelled<Counter>,
    pub own_in_flight: Gauge,
    pub federation_errors: Counter,
    pub federation_warnings: Counter,
}

impl HttpMetrics {
    pub fn new(r: &Registry) -> HttpMetrics {
        let own = r.counters(
            "promhttp_metric_handler_requests_total",
            "Total number of scrapes by HTTP status code.",
            &["code"],
        );
        for code in ["200", "500", "503"] {
            own.with(&[code]);
        }
        HttpMetrics {
            own,
            requests: r.counters("prometheus_http_requests_total", "Counter of HTTP requests.", &["handler", "code"]),
            duration: r.histograms(
                "prometheus_http_request_duration_seconds",
                "Histogram of latencies for HTTP requests.",
                &["handler"],
                &[0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0],
            ),
            size: r.histograms(
                "prometheus_http_response_size_bytes",
                "Histogram of response size for HTTP requests.",
                &["handler"],
                &[100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9],
            ),
            ready: r.gauge(
                "prometheus_ready",
                "Whether Prometheus startup was fully completed and the server is ready for normal operation.",
            ),
            connections: Connections {
                accepted: r
                    .counters(
                        "net_conntrack_listener_conn_accepted_total",
                        "Total number of connections opened to the listener of a given name.",
                        &["listener_name"],
                    )
                    .with(&["http"]),
                closed: r
                    .counters(
                        "net_conntrack_listener_conn_closed_total",
                        "Total number of connections closed that were made to the listener of a given name.",
                        &["listener_name"],
                    )
                    .with(&["http"]),
            },
            own_in_flight: r
                .gauge("promhttp_metric_handler_requests_in_flight", "Current number of scrapes being served."),
            federation_errors: r.counter(
                "prometheus_web_federation_errors_total",
                "Total number of errors that occurred while sending federation responses.",
            ),
            federation_warnings: r.counter(
                "prometheus_web_federation_warnings_total",
                "Total number of warnings that occurred while sending federation responses.",
            ),
        }
    }
}
