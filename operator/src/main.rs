//! `narthex-operator`: turns monitors into targets, shares them out to a fleet's shards, and looks after the fleet's
//! objects. What happens is in the modules; this file starts them.

mod cluster;
mod compile;
mod controller;
mod delivery;
mod fleet;
mod index;
mod lease;
mod listen;
mod watches;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use kube::{Api, Client};
use narthex_runtime::log::{Format, parse_level};
use narthex_runtime::{Registry, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::info;

#[derive(Parser, Debug)]
#[command(name = "narthex-operator", version, about = "Shares the targets of monitors out to fleets of scraper shards")]
struct Flags {
    /// Where shards connect.
    #[arg(long = "delivery.listen-address", default_value = "0.0.0.0:9443")]
    delivery: SocketAddr,
    /// Metrics and health.
    #[arg(long = "web.listen-address", default_value = "0.0.0.0:8080")]
    web: SocketAddr,
    /// Where shards reach this operator; written into their pods.
    #[arg(long = "delivery.url", default_value = "http://narthex-operator.narthex-system.svc:9443")]
    url: String,
    /// The scraper's image for fleets that name none.
    #[arg(long = "scraper.image", default_value = "narthex:latest")]
    image: String,
    /// Only one process at a time leads.
    #[arg(long = "leader-elect", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// The namespace of the lease.
    #[arg(long = "leader-elect.namespace", env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The name of the lease.
    #[arg(long = "leader-elect.name", default_value = "narthex-operator")]
    lease_name: String,
    /// The name by which this process holds the lease.
    #[arg(long = "identity", env = "POD_NAME")]
    identity: Option<String>,
    /// Whether the objects of fleets (StatefulSet, Services) are written.
    #[arg(long = "workloads", default_value_t = true, action = clap::ArgAction::Set)]
    workloads: bool,
    /// Whether Nodes are watched (for `attachMetadata`).
    #[arg(long = "watch.nodes", default_value_t = true, action = clap::ArgAction::Set)]
    nodes: bool,
    /// Seconds that a shard may be away before others take its targets over.
    #[arg(long = "failover.after", default_value_t = 15)]
    failover: u64,
    /// Only log messages of this severity or above: debug, info, warn, error.
    #[arg(long = "log.level", default_value = "info", value_parser = parse_level)]
    log_level: tracing::Level,
    /// Format of log messages: logfmt, json.
    #[arg(long = "log.format", default_value = "logfmt")]
    log_format: Format,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let telemetry = narthex_runtime::trace::init(flags.log_level, flags.log_format).context("logging")?;
    // Fails only when something else installed one before, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime")?;
    let outcome = runtime.block_on(run(flags));
    telemetry.flush();
    outcome
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("signal handlers")?;
    let client = Client::try_default().await.context("connecting to the API server")?;
    let registry = Registry::new();
    registry.register(narthex_runtime::process::collect);

    let (stop, stopped) = watch::channel(false);
    let (leads_to, leads) = watch::channel(!flags.leader_elect);
    let (ready_to, ready) = watch::channel(false);
    let mut tasks = Vec::new();
    if flags.leader_elect {
        let identity = flags.identity.clone().unwrap_or_else(|| format!("narthex-operator-{}", std::process::id()));
        let api = Api::namespaced(client.clone(), &flags.lease_namespace);
        let (name, stopped) = (flags.lease_name.clone(), stopped.clone());
        tasks.push(tokio::spawn(async move { lease::run(api, &name, &identity, leads_to, stopped).await }));
    }

    let (inputs_to, inputs) = mpsc::channel(1024);
    let tokens = cluster::Tokens::default();
    let shards = delivery::Delivery { inputs: inputs_to, tokens: Arc::clone(&tokens), leads: leads.clone() };
    let delivery =
        TcpListener::bind(flags.delivery).await.with_context(|| format!("listening on {}", flags.delivery))?;
    let web = TcpListener::bind(flags.web).await.with_context(|| format!("listening on {}", flags.web))?;
    info!(delivery = %delivery.local_addr()?, web = %web.local_addr()?, "listening");

    let settings = controller::Settings {
        policy: fleet::Policy { failover: Duration::from_secs(flags.failover), ..fleet::Policy::default() },
        image: flags.image,
        operator_url: flags.url,
        manage_workloads: flags.workloads,
    };
    let controller = controller::Controller::new(client.clone(), settings, &registry, leads, ready_to);
    tasks.push(tokio::spawn(cluster::write(client.clone(), controller.desired(), tokens)));
    let changes = watches::start(&client, flags.nodes);
    let controlling = tokio::spawn(controller.run(changes, inputs, stopped));

    let admin = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(move || async move {
                if *ready.borrow() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "syncing\n") }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let mut text = String::new();
                narthex_runtime::metrics::write_text(&mut text, &registry.gather());
                ([("content-type", narthex_runtime::metrics::TEXT_TYPE)], text)
            }),
        );
    let serving = tokio::spawn(listen::serve(delivery, shards.router(), listen::Bounds::default()));
    let administering =
        tokio::spawn(listen::serve(web, admin, listen::Bounds { connections: 512, ..Default::default() }));

    let outcome = tokio::select! {
        () = shutdown.requested() => Ok(()),
        _ = controlling => Err(anyhow::anyhow!("the controller ended")),
        _ = serving => Err(anyhow::anyhow!("the delivery server ended")),
    };
    info!("stopping");
    stop.send_replace(true);
    // The lease is released; nothing else has to be saved.
    for task in tasks.into_iter().take(usize::from(flags.leader_elect)) {
        let _ = tokio::time::timeout(Duration::from_secs(3), task).await;
    }
    administering.abort();
    outcome
}
