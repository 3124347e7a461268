//! What peers ask: the local store's answers, over HTTP. Never the fleet's: a question goes no further than one step.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use narthex_storage::{ErrorKind, LabelQuery, Meter, Queryable, SeriesSet, StorageError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::codec;

pub const SELECT: &str = "/internal/v1/select";
pub const SERIES: &str = "/internal/v1/series";
pub const NAMES: &str = "/internal/v1/label_names";
pub const VALUES: &str = "/internal/v1/label_values";
pub const EXEMPLARS: &str = "/internal/v1/exemplars";
pub const METADATA: &str = "/internal/v1/metadata";

/// The largest question.
const MAX_QUESTION: usize = 1 << 20;
/// A chunk of an answer is sent when it is this large.
const CHUNK: usize = 256 << 10;

#[derive(Clone)]
struct Local {
    store: Arc<dyn Queryable>,
    token: Option<Arc<str>>,
    meters: Arc<dyn Fn() -> Meter + Send + Sync>,
}

impl Local {
    fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes());
        let wanted = format!("Bearer {token}");
        // The time that this takes tells nothing of how much is right.
        given.is_some_and(|g| {
            g.len() == wanted.len() && g.iter().zip(wanted.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
        })
    }
}

/// Routes that answer for `store`, which must be the local one. With a token, only to those who show it. Each question
/// gets a meter of `meters`.
pub fn routes(
    store: Arc<dyn Queryable>,
    token: Option<String>,
    meters: impl Fn() -> Meter + Send + Sync + 'static,
) -> Router {
    let local = Local { store, token: token.map(Arc::from), meters: Arc::new(meters) };
    Router::new()
        .route(SELECT, post(select))
        .route(SERIES, post(series))
        .route(NAMES, post(names))
        .route(VALUES, post(values))
        .route(EXEMPLARS, post(exemplars))
        .route(METADATA, post(metadata))
        .layer(DefaultBodyLimit::max(MAX_QUESTION))
        .with_state(local)
}

fn refused(local: &Local, headers: &HeaderMap) -> Option<Response> {
    (!local.allows(headers)).then(|| StatusCode::UNAUTHORIZED.into_response())
}

fn bad(error: super::PeerError) -> Response {
    (StatusCode::BAD_REQUEST, error.to_string()).into_response()
}

fn failed(error: StorageError) -> Response {
    let status = match error.kind {
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ErrorKind::Limit => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Cancelled | ErrorKind::Unavailable | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string()).into_response()
}

async fn select(State(local): State<Local>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refused) = refused(&local, &headers) {
        return refused;
    }
    let request = match codec::decode_select(&body) {
        Ok(mut request) => {
            request.hints.meter = (local.meters)();
            request
        }
        Err(error) => return bad(error),
    };
    let set = match local.store.select(request).await {
        Ok(set) => set,
        Err(error) => return failed(error),
    };
    // Two chunks wait for the network; the thread that encodes waits when they are not taken.
    let (to, chunks) = mpsc::channel::<Result<Bytes, StorageError>>(2);
    tokio::task::spawn_blocking(move || encode(set, &to));
    Response::new(Body::from_stream(ReceiverStream::new(chunks)))
}

/// Encodes and sends. An error breaks the answer off, which the asker sees by the missing end.
fn encode(set: SeriesSet, to: &mpsc::Sender<Result<Bytes, StorageError>>) {
    let mut out = Vec::new();
    set.warnings.iter().for_each(|w| codec::put_warning(&mut out, w));
    for batch in set.batches {
        match batch {
            Ok(batch) => codec::put_batch(&mut out, &batch),
            Err(error) => {
                tracing::warn!(%error, "a peer's selection failed");
                let _ = to.blocking_send(Err(error));
                return;
            }
        }
        if out.len() >= CHUNK && to.blocking_send(Ok(Bytes::from(std::mem::take(&mut out)))).is_err() {
            return;
        }
    }
    codec::put_end(&mut out);
    // The asker may have gone: then nobody misses it.
    let _ = to.blocking_send(Ok(Bytes::from(out)));
}

/// One handler per question about labels: decode, ask, encode.
macro_rules! question {
    ($name:ident, |$store:ident, $text:ident, $query:ident| $ask:expr, |$answer:ident| $encode:expr) => {
        async fn $name(State(local): State<Local>, headers: HeaderMap, body: Bytes) -> Response {
            if let Some(refused) = refused(&local, &headers) {
                return refused;
            }
            #[allow(unused_variables)]
            let ($text, $query) = match codec::decode_labels(&body) {
                Ok((text, query)) => (text, LabelQuery { meter: (local.meters)(), ..query }),
                Err(error) => return bad(error),
            };
            let $store = &local.store;
            match $ask.await {
                Ok($answer) => $encode.into_response(),
                Err(error) => failed(error),
            }
        }
    };
}

question!(series, |store, name, query| store.series(query), |answer| codec::encode_series(&answer));
question!(names, |store, name, query| store.label_names(query), |answer| codec::encode_strings(answer));
question!(values, |store, name, query| store.label_values(&name, query), |answer| codec::encode_strings(answer));
question!(exemplars, |store, name, query| store.exemplars(query), |answer| codec::encode_exemplars(&answer));
question!(metadata, |store, name, query| store.metadata(Some(name.as_str()).filter(|n| !n.is_empty())), |answer| {
    codec::encode_metadata(&answer)
});

#[cfg(test)]
mod tests {
    use narthex_model::{Labels, Matcher};
    use narthex_storage::SelectRequest;
    use narthex_storage::memory::MemoryStore;

    use super::super::{Fanout, Options, Peer};
    use super::*;

    fn labels(name: &str, instance: &str) -> Labels {
        Labels::from_pairs([("__name__", name), ("instance", instance)])
    }

    async fn serve(store: &MemoryStore, token: Option<&str>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = routes(Arc::new(store.clone()), token.map(str::to_owned), Meter::default);
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn peer(name: &str, url: &str) -> Peer {
        Peer { name: name.to_owned(), url: url.to_owned() }
    }

    #[tokio::test]
    async fn the_fleet_answers_as_one_store_and_names_who_is_missing() {
        let (a, b) = (MemoryStore::new(), MemoryStore::new());
        for t in 0..4 {
            a.put(&labels("up", "a"), t, 1.0, 0);
            b.put(&labels("up", "b"), t, 0.0, 0);
            // This one moved from a to b.
            if t < 2 { &a } else { &b }.put(&labels("up", "moved"), t, t as f64, 0);
        }
        let url = serve(&b, Some("secret")).await;
        let fanout = Fanout::new(Arc::new(a.clone()), Options { token: Some("secret".into()), ..Options::default() });
        fanout.set_peers(vec![peer("f-1", &url)]);
        let select = || fanout.select(SelectRequest::new(vec![Matcher::equal("__name__", "up")], 0, 10));
        let set = select().await.unwrap();
        assert!(set.warnings.is_empty(), "{:?}", set.warnings);
        let all = set.collect_sorted().unwrap();
        let shown: Vec<_> = all.iter().map(|s| (s.labels.value("instance"), s.floats.len())).collect();
        assert_eq!(shown, [("a", 4), ("b", 4), ("moved", 4)]);
        assert_eq!(all[2].floats.iter().map(|(_, v)| v).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0]);

        let query = LabelQuery { maxt: 10, ..LabelQuery::default() };
        let values = fanout.label_values("instance", query.clone()).await.unwrap().values;
        assert_eq!(values, ["a", "b", "moved"]);
        assert_eq!(fanout.series(query.clone()).await.unwrap().values.len(), 3);
        let limited = fanout.label_values("instance", LabelQuery { limit: 2, ..query }).await.unwrap();
        assert!(limited.truncated && limited.values.len() == 2);

        let trace = narthex_storage::Trace::new(String::new());
        let mut request = SelectRequest::new(vec![Matcher::equal("__name__", "up")], 0, 10);
        request.hints.trace = trace.clone();
        fanout.select(request).await.unwrap();
        let steps: Vec<String> = trace.show().unwrap().children.into_iter().map(|s| s.message).collect();
        assert!(
            steps.len() == 2 && steps[1] == "this shard: series 2" || steps[0] == "this shard: series 2",
            "{steps:?}"
        );
        assert!(steps.iter().any(|s| s.starts_with("shard f-1 (http://") && s.contains("): bytes ")), "{steps:?}");

        // A port that nobody listens on.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        fanout.set_peers(vec![peer("f-1", &url), peer("f-2", &format!("http://{gone}"))]);
        let set = select().await.unwrap();
        assert!(set.warnings.len() == 1 && set.warnings[0].contains("shard f-2"), "{:?}", set.warnings);
        assert_eq!(set.collect_sorted().unwrap().len(), 3);

        // Without the token a peer says nothing.
        fanout.set_token(None);
        fanout.set_peers(vec![peer("f-1", &url)]);
        let set = select().await.unwrap();
        assert!(set.warnings[0].contains("401"), "{:?}", set.warnings);
        assert_eq!(set.collect_sorted().unwrap().len(), 2);
    }
}
