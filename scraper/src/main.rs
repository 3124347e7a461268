//! The binary `narthex`: `server` (local mode), `shard` (of a fleet) and `tool`. Wiring only: what things do is in the libraries.

mod agent;
mod flags;
mod late;
mod memory;
mod own_metrics;
mod sending;
mod server;
mod settings;
mod shard;
mod start;
mod tool;
mod version;

use std::process::ExitCode;

use clap::Command;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How jemalloc is set up: few arenas, and freed pages go back after a second, by a thread of its own. The memory of 300,000
/// series just after a restart goes from 469 to 344 bytes each by it, without more CPU.
// SAFETY: jemalloc reads a pointer to a C string under this name, and nothing else has it.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 70] = b"narenas:4,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true\0";

fn command() -> Command {
    let version: &'static str = Box::leak(version::text().into_boxed_str());
    let server =
        Command::new("server").about("Scrapes, stores and answers queries: a Prometheus in one process").long_about(
            "Scrapes, stores and answers queries: a Prometheus in one process.\n\n\
             Flags have Prometheus's names and meanings; those that mean nothing here are taken and named in the log. \
             Without any, the server reads prometheus.yml if there is one here, else it scrapes itself and a \
             node_exporter on localhost:9100 if one answers; it keeps its data in ./data and serves \
             http://localhost:9090.",
        );
    let shard = Command::new("shard").about("One shard of a fleet: scrapes what the operator assigns, answers for all");
    Command::new("narthex")
        .version(version)
        .about("A Kubernetes-native Prometheus")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(flags::add(server))
        .subcommand(shard::add(flags::add(shard)))
        .subcommand(tool::command())
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    // What TLS is made with. Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match matches.subcommand() {
        Some(("server", matches)) => {
            let flags = flags::Flags::of(matches);
            if let Some(conflict) = flags.mode_conflict() {
                eprintln!("{conflict}");
                return ExitCode::from(3);
            }
            server::run(flags)
        }
        Some(("shard", matches)) => shard::run(flags::Flags::of(matches), matches),
        Some(("tool", matches)) => return tool::run(matches),
        _ => return ExitCode::FAILURE,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("narthex: {e:#}");
            ExitCode::FAILURE
        }
    }
}
