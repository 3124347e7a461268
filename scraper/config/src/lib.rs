//! Configuration: `prometheus.yml`, scrape jobs, and the assignment of targets to a shard.
//!
//! A file is read as Prometheus 3.14 reads it: the same keys, defaults, inheritance from `global`, and faults; what
//! is new is that a fault names file, line and key. [`Config::to_yaml`] prints what `/api/v1/status/config` shows.
//! Rule files are named here, not read.

pub mod alerting;
pub mod assignment;
pub mod features;
pub mod http_client;
mod load;
pub mod references;
mod relabel;
pub mod remote;
pub mod scrape;
pub mod sd;
mod secret;
pub mod size;
pub mod storage;
pub mod weburl;
pub mod wire;
mod yaml;

use std::path::{Component, Path, PathBuf};

pub use alerting::{AlertingConfig, AlertmanagerConfig};
pub use assignment::{Assignment, HistogramOverrides, Target, TargetGroup};
pub use http_client::{
    Authorization, BasicAuth, GRANT_JWT_BEARER, Header, HttpClientConfig, OAuth2, ProxyConfig, TlsConfig, TlsVersion,
};
pub use load::{Config, ConfigError, glob, parse_target_groups};
pub use narthex_model::{Action, RelabelConfig, RelabelRegex, ValidationScheme};
pub use remote::{RemoteReadConfig, RemoteWriteConfig};
pub use scrape::{EscapingScheme, GlobalConfig, ScrapeConfig, ScrapeProtocol};
pub use sd::{
    ConsulSdConfig, DiscoveryConfig, DiscoveryConfigs, DnsSdConfig, DockerSdConfig, FileSdConfig, HttpSdConfig,
    KubernetesAttachMetadata, KubernetesRole, KubernetesSdConfig, NomadSdConfig,
};
pub use secret::{REDACTED, Secret};
pub use size::ByteSize;
pub use storage::{
    ExemplarsConfig, OtlpConfig, RetentionConfig, RuntimeConfig, StorageConfig, TracingConfig, TranslationStrategy,
    TsdbConfig,
};
pub use weburl::WebUrl;
pub use yaml::decode::{Fault, Invalid};

/// `path` below `dir`, without `.` and `..` where the text alone resolves them; empty and absolute paths stay.
pub fn join_dir(dir: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() || path.is_absolute() {
        return path.to_owned();
    }
    let mut joined = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match joined.components().next_back() {
                Some(Component::Normal(_)) => {
                    joined.pop();
                }
                Some(Component::RootDir) => {}
                _ => joined.push(".."),
            },
            other => joined.push(other),
        }
    }
    joined
}
