//! The end of a process: the first signal asks, the second aborts; parts end in order, and the log says who is late.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Tells every part that the process is to end. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.0.cancel();
    }

    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the end was asked for. Cancel-safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Turns the first SIGINT or SIGTERM into a request, and the second into an abort with status 1.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let token = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "interrupt",
                    _ = terminate.recv() => "terminated",
                };
                if token.is_requested() {
                    warn!(signal = name, "received a second signal, aborting");
                    std::process::exit(1);
                }
                warn!(signal = name, "received an OS signal, exiting gracefully");
                token.request();
            }
        });
        Ok(())
    }
}

type Stage = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// What ends one after the other.
#[derive(Default)]
pub struct Stages(Vec<Stage>);

impl Stages {
    pub fn new() -> Stages {
        Stages::default()
    }

    /// Adds the next stage. It starts when all before it are through.
    pub fn then(mut self, name: &'static str, stage: impl Future<Output = ()> + Send + 'static) -> Stages {
        self.0.push((name, Box::pin(stage)));
        self
    }

    /// Runs the stages in order; every five seconds a pending one is named in the log.
    pub async fn run(self) {
        for (name, mut stage) in self.0 {
            let mut waited = 0;
            loop {
                match tokio::time::timeout(Duration::from_secs(5), &mut stage).await {
                    Ok(()) => break,
                    Err(_) => {
                        waited += 5;
                        warn!(pending = name, seconds = waited, "waiting for a part to end");
                    }
                }
            }
            info!(part = name, "stopped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn stages_run_in_order() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let push = |name: &'static str, ms| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                seen.lock().unwrap().push(name);
            }
        };
        Stages::new().then("intake", push("intake", 20)).then("store", push("store", 0)).run().await;
        assert_eq!(*seen.lock().unwrap(), ["intake", "store"]);
    }
}
