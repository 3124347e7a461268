//! What was built.

use narthex_server::BuildInfo;

/// The Prometheus version whose behaviour this one has: clients (Grafana among them) switch features by it.
const COMPATIBLE: &str = "3.14.0";

pub fn build_info() -> BuildInfo {
    BuildInfo {
        version: COMPATIBLE.into(),
        revision: option_env!("NARTHEX_REVISION").unwrap_or("unknown").into(),
        branch: format!("narthex-{}", env!("CARGO_PKG_VERSION")),
        build_user: String::new(),
        build_date: String::new(),
        go_version: String::new(),
    }
}

/// For `--version`.
pub fn text() -> String {
    format!(
        "{} (compatible with Prometheus {COMPATIBLE}, revision {})",
        env!("CARGO_PKG_VERSION"),
        option_env!("NARTHEX_REVISION").unwrap_or("unknown")
    )
}
