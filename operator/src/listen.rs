//! HTTP over TCP, bounded: so many connections at once, and who does not send a whole head in time loses his.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// What a listener lets happen.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; others wait in the system's queue.
    pub connections: usize,
    /// How long the head of a request may take to come, the first and those after it.
    pub head: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        // Some connections for each shard of large fleets; shards send something every few seconds.
        Bounds { connections: 8192, head: Duration::from_secs(30) }
    }
}

/// Answers for as long as it is polled.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds) {
    let free = Arc::new(Semaphore::new(bounds.connections));
    loop {
        // Never closed.
        let Ok(place) = free.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection can't be accepted");
                // Out of file descriptors, most likely: that does not change at once.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let mut connection = http1::Builder::new();
        connection.timer(TokioTimer::new()).header_read_timeout(bounds.head);
        tokio::spawn(async move {
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn silent_connections_make_room_for_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        let bounds = Bounds { connections: 1, head: Duration::from_millis(100) };
        let serving = tokio::spawn(serve(listener, router, bounds));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        // Without bounds it would wait for ever.
        let read = tokio::time::timeout(Duration::from_secs(60), asking.read_to_string(&mut answer)).await;
        assert!(read.is_ok_and(|r| r.is_ok()) && answer.ends_with("here"), "{answer:?}");
        serving.abort();
    }
}
