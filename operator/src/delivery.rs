//! The HTTP side that shards see: a stream of snapshots down, reports up. It holds no state: what comes in goes to the
//! controller as [`Input`], and what goes out is what the controller put into a shard's channel.
//!
//! Both ways need the fleet's token; who has none at all is turned away before a body is read. A process that does not
//! lead answers 503, and shards try again.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use narthex_config::wire::{HEARTBEAT, Message, REPORT_PATH, Report, STREAM_PATH};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::Tokens;
use crate::fleet::Line;

/// What shards tell the controller.
#[derive(Debug)]
pub enum Input {
    Connect { fleet: String, shard: String, reply: oneshot::Sender<Option<watch::Receiver<Line>>> },
    Disconnect { fleet: String, shard: String },
    Report(Box<Report>),
}

/// What handlers share.
#[derive(Clone)]
pub struct Delivery {
    /// Full when the controller can't keep up: shards are then told to come back.
    pub inputs: mpsc::Sender<Input>,
    pub tokens: Tokens,
    pub leads: watch::Receiver<bool>,
}

#[derive(Deserialize)]
struct Who {
    fleet: String,
    shard: String,
}

/// The largest report that is taken: about 400,000 targets.
const MAX_REPORT: usize = 64 << 20;

impl Delivery {
    pub fn router(self) -> Router {
        Router::new()
            .route(STREAM_PATH, get(stream))
            .route(REPORT_PATH, post(report))
            .layer(DefaultBodyLimit::max(MAX_REPORT))
            .layer(middleware::from_fn_with_state(self.clone(), strangers_stay_out))
            .with_state(self)
    }

    /// Why a request is refused, if it is: its token must be that fleet's, or anyone's where it is not known yet which.
    fn refusal(&self, fleet: Option<&str>, headers: &HeaderMap) -> Option<Response> {
        if !*self.leads.borrow() {
            return Some((StatusCode::SERVICE_UNAVAILABLE, "this process does not lead\n").into_response());
        }
        let given =
            headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        let tokens = self.tokens.read();
        let is_given = |token: &String| given.is_some_and(|given| same(token, given));
        let accepted = match fleet {
            Some(fleet) => tokens.get(fleet).is_some_and(is_given),
            None => tokens.values().any(is_given),
        };
        if accepted {
            return None;
        }
        // An unknown fleet and a wrong token look alike from outside.
        Some((StatusCode::UNAUTHORIZED, "the token is not this fleet's\n").into_response())
    }
}

/// Compares without telling by its time how much is right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// A report names its fleet in its body: strangers must not get so far as to have one read.
async fn strangers_stay_out(State(delivery): State<Delivery>, request: Request, next: Next) -> Response {
    match delivery.refusal(None, request.headers()) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

async fn report(State(delivery): State<Delivery>, headers: HeaderMap, Json(report): Json<Report>) -> Response {
    if let Some(refused) = delivery.refusal(Some(&report.fleet), &headers) {
        return refused;
    }
    match delivery.inputs.try_send(Input::Report(Box::new(report))) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Tells the controller when a stream ends, however it does.
struct Gone(Delivery, String, String);

impl Drop for Gone {
    fn drop(&mut self) {
        let (inputs, fleet, shard) = (self.0.inputs.clone(), self.1.clone(), self.2.clone());
        // Not lost when the channel is full: the controller must hear of it.
        tokio::spawn(async move {
            let _ = inputs.send(Input::Disconnect { fleet, shard }).await;
        });
    }
}

async fn stream(State(delivery): State<Delivery>, Query(who): Query<Who>, headers: HeaderMap) -> Response {
    if let Some(refused) = delivery.refusal(Some(&who.fleet), &headers) {
        return refused;
    }
    let (reply, answer) = oneshot::channel();
    let input = Input::Connect { fleet: who.fleet.clone(), shard: who.shard.clone(), reply };
    if delivery.inputs.send(input).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(Some(lines)) = answer.await else {
        return (StatusCode::NOT_FOUND, "no such shard\n").into_response();
    };
    let gone = Gone(delivery.clone(), who.fleet, who.shard);
    let start = Lines { lines, leads: delivery.leads, first: true, _gone: gone };
    let body = futures::stream::unfold(start, next_line);
    let mut response = Response::new(Body::from_stream(body));
    let kind = header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Lines {
    lines: watch::Receiver<Line>,
    leads: watch::Receiver<bool>,
    first: bool,
    _gone: Gone,
}

/// The next line: the newest snapshot when there is one that was not sent, a ping after a while without. Ends when
/// this process no longer leads.
async fn next_line(mut s: Lines) -> Option<(Result<Bytes, std::convert::Infallible>, Lines)> {
    loop {
        if !*s.leads.borrow() {
            return None;
        }
        if std::mem::take(&mut s.first) {
            s.lines.mark_changed();
        }
        tokio::select! {
            changed = s.lines.changed() => {
                changed.ok()?;
                let line = s.lines.borrow_and_update().clone();
                if !line.is_empty() {
                    return Some((Ok(Bytes::from(format!("{line}\n"))), s));
                }
            }
            () = tokio::time::sleep(HEARTBEAT) => {
                let ping = serde_json::to_string(&Message::Ping { generation: 0 }).unwrap_or_default();
                return Some((Ok(Bytes::from(ping + "\n")), s));
            }
            _ = s.leads.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use parking_lot::RwLock;
    use tower::ServiceExt;

    use super::*;

    fn delivery(leads: bool) -> (Delivery, mpsc::Receiver<Input>) {
        let tokens = HashMap::from([("a/one".to_owned(), "1".to_owned()), ("b/two".to_owned(), "2".to_owned())]);
        let (inputs, received) = mpsc::channel(1);
        let leads = watch::Sender::new(leads).subscribe();
        (Delivery { inputs, tokens: Arc::new(RwLock::new(tokens)), leads }, received)
    }

    fn post_report(token: &str, body: Body) -> Request {
        let request = Request::post(REPORT_PATH).header(header::CONTENT_TYPE, "application/json");
        request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(body).unwrap()
    }

    fn of_fleet(fleet: &str) -> Body {
        Body::from(serde_json::to_vec(&Report { fleet: fleet.to_owned(), ..Report::default() }).unwrap())
    }

    #[tokio::test]
    async fn a_report_needs_its_fleet_s_token() {
        for (leads, token, fleet, expected) in [
            (true, "1", "a/one", StatusCode::NO_CONTENT),
            (true, "2", "a/one", StatusCode::UNAUTHORIZED),
            (true, "", "a/one", StatusCode::UNAUTHORIZED),
            (true, "1", "c/three", StatusCode::UNAUTHORIZED),
            (false, "1", "a/one", StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let (delivery, mut received) = delivery(leads);
            let answer = delivery.router().oneshot(post_report(token, of_fleet(fleet))).await.unwrap();
            assert_eq!(answer.status(), expected, "{leads} {token:?} {fleet}");
            assert_eq!(received.try_recv().is_ok(), expected == StatusCode::NO_CONTENT);
        }
    }

    #[tokio::test]
    async fn a_stream_needs_its_fleet_s_token() {
        for (token, expected) in [("2", StatusCode::UNAUTHORIZED), ("1", StatusCode::NOT_FOUND)] {
            let (delivery, mut received) = delivery(true);
            // The controller knows no such shard.
            tokio::spawn(async move {
                if let Some(Input::Connect { reply, .. }) = received.recv().await {
                    reply.send(None).unwrap();
                }
            });
            let request = Request::get(format!("{STREAM_PATH}?fleet=a/one&shard=one-0"));
            let request = request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()).unwrap();
            assert_eq!(delivery.router().oneshot(request).await.unwrap().status(), expected);
        }
    }

    #[tokio::test]
    async fn a_stranger_s_body_is_not_read() {
        let unread = futures::stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
            panic!("the body is read")
        });
        let (delivery, _received) = delivery(true);
        let answer = delivery.router().oneshot(post_report("3", Body::from_stream(unread))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}
