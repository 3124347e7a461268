//! One answer from all shards: a [`Queryable`] that asks the local store and every peer, and merges.
//!
//! Each peer gets the same selection and answers with columns ([`codec`]), not JSON. A peer that does not answer in
//! time, or not at all, leaves the answer partial, and a warning names it. Series that several shards hold (a target
//! that moved, a replica) are merged by timestamp; the local store comes first where both have one.
//!
//! Deliberately absent: pushing aggregations down to the shards. Its place is [`Fanout::select`], which has the hints.

pub mod codec;
mod merge;
mod peer;
pub mod routes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use narthex_model::{Exemplar, Labels};
use narthex_storage::{
    ErrorKind, HeldBytes, LabelQuery, LabelResult, MetadataEntry, Meter, Queryable, SelectRequest, SeriesSet,
    StorageError, Trace,
};

pub use peer::{Options, Peer, PeerError};

/// The local store and its peers. Clones share the peers.
#[derive(Clone)]
pub struct Fanout {
    local: Arc<dyn Queryable>,
    peers: Arc<ArcSwap<Vec<Peer>>>,
    client: Arc<peer::Client>,
}

impl Fanout {
    /// Without peers it answers as the local store does.
    pub fn new(local: Arc<dyn Queryable>, options: Options) -> Fanout {
        Fanout { local, peers: Arc::default(), client: Arc::new(peer::Client::new(options)) }
    }

    /// From now on these peers are asked. This process itself must not be among them.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.peers.store(Arc::new(peers));
    }

    pub fn peers(&self) -> Arc<Vec<Peer>> {
        self.peers.load_full()
    }

    /// The token that peers ask for and that this process shows.
    pub fn set_token(&self, token: Option<String>) {
        self.client.set_token(token);
    }

    /// Asks all peers at once. What fails becomes a warning, but for limits: an answer that is too large is none.
    async fn ask<T>(
        &self,
        path: &str,
        body: Vec<u8>,
        read: fn(&[u8]) -> Result<T, PeerError>,
        meter: &Meter,
        trace: &Trace,
    ) -> Result<(Vec<(T, HeldBytes)>, Vec<String>), StorageError> {
        let peers = self.peers.load_full();
        let body = bytes::Bytes::from(body);
        let ask = async |peer: &Peer| {
            let step = trace.step(|| format!("shard {} ({})", peer.name, peer.url));
            let answer = self.client.ask(peer, path, body.clone(), meter).await;
            step.end();
            match &answer {
                Ok((bytes, _)) => step.add("bytes", bytes.len() as u64),
                Err(error) => step.step(|| format!("failed: {error}")).end(),
            }
            answer
        };
        let answers = join_all(peers.iter().map(ask)).await;
        let (mut all, mut warnings) = (Vec::new(), Vec::new());
        for (peer, answer) in peers.iter().zip(answers) {
            match answer.and_then(|(bytes, held)| Ok((read(&bytes)?, held))) {
                Ok(answer) => all.push(answer),
                Err(PeerError::Limit(error)) => return Err(error),
                Err(PeerError::Refused(text)) => {
                    let text = format!("shard {} ({}): {text}", peer.name, peer.url);
                    return Err(StorageError::new(ErrorKind::Limit, text));
                }
                Err(error) => warnings.push(missing(peer, &error)),
            }
        }
        Ok((all, warnings))
    }

    /// A question about labels: all answers, sorted, unique, cut to the limit.
    async fn gather<T: Ord>(
        &self,
        local: BoxFuture<'_, Result<LabelResult<T>, StorageError>>,
        path: &str,
        body: Vec<u8>,
        limit: usize,
        (meter, trace): (Meter, Trace),
        read: fn(&[u8]) -> Result<LabelResult<T>, PeerError>,
    ) -> Result<LabelResult<T>, StorageError> {
        if self.peers.load().is_empty() {
            return local.await;
        }
        let (local, remote) = futures::join!(local, self.ask(path, body, read, &meter, &trace));
        let (answers, missing) = remote?;
        let mut out = local?;
        out.warnings.extend(missing);
        let mut values: BTreeSet<T> = out.values.into_iter().collect();
        for (answer, _held) in answers {
            values.extend(answer.values);
            out.warnings.extend(answer.warnings);
            out.truncated |= answer.truncated;
        }
        out.values = values.into_iter().collect();
        if limit > 0 && out.values.len() > limit {
            out.values.truncate(limit);
            out.truncated = true;
        }
        Ok(out)
    }
}

fn missing(peer: &Peer, error: &PeerError) -> String {
    format!("shard {} ({}) is missing from the answer: {error}", peer.name, peer.url)
}

impl Queryable for Fanout {
    fn select(&self, mut request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        if self.peers.load().is_empty() {
            return self.local.select(request);
        }
        // What several shards have is merged by labels.
        request.hints.only_labels = None;
        async move {
            let body = codec::encode_select(&request);
            let (meter, trace) = (request.hints.meter.clone(), request.hints.trace.clone());
            request.hints.trace = trace.step(|| "this shard".into());
            let own = request.hints.trace.clone();
            let remote = self.ask(routes::SELECT, body, codec::Stream::check, &meter, &trace);
            let local = async {
                let set = self.local.select(request).await;
                own.end();
                set
            };
            let (local, remote) = futures::join!(local, remote);
            let (streams, warnings) = remote?;
            let mut local = local?;
            local.warnings.extend(warnings);
            for (stream, _) in &streams {
                local.warnings.extend(stream.warnings.iter().cloned());
            }
            Ok(merge::merge(local, streams, meter))
        }
        .boxed()
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        let (body, limit) = (codec::encode_labels("", &query), query.limit);
        let meter = (query.meter.clone(), query.trace.clone());
        self.gather(self.local.series(query), routes::SERIES, body, limit, meter, codec::decode_series).boxed()
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let (body, limit) = (codec::encode_labels("", &query), query.limit);
        let meter = (query.meter.clone(), query.trace.clone());
        self.gather(self.local.label_names(query), routes::NAMES, body, limit, meter, codec::decode_strings).boxed()
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let (body, limit) = (codec::encode_labels(name, &query), query.limit);
        let meter = (query.meter.clone(), query.trace.clone());
        let local = self.local.label_values(name, query);
        self.gather(local, routes::VALUES, body, limit, meter, codec::decode_strings).boxed()
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        let body = codec::encode_labels("", &query);
        async move {
            let meter = query.meter.clone();
            let trace = query.trace.clone();
            let remote = self.ask(routes::EXEMPLARS, body, codec::decode_exemplars, &meter, &trace);
            let (local, remote) = futures::join!(self.local.exemplars(query), remote);
            let (answers, missing) = remote?;
            // The contract has no place for warnings here.
            missing.iter().for_each(|m| tracing::warn!("exemplars: {m}"));
            let mut all: std::collections::BTreeMap<Labels, Vec<Exemplar>> = local?.into_iter().collect();
            for (labels, exemplars) in answers.into_iter().flat_map(|a| a.0) {
                let of = all.entry(labels).or_default();
                let new: Vec<Exemplar> = exemplars.into_iter().filter(|e| !of.contains(e)).collect();
                of.extend(new);
                of.sort_by_key(|e| e.timestamp);
            }
            Ok(all.into_iter().collect())
        }
        .boxed()
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        let body = codec::encode_labels(metric.unwrap_or_default(), &LabelQuery::default());
        let local = self.local.metadata(metric);
        async move {
            let (meter, trace) = (Meter::default(), Trace::default());
            let remote = self.ask(routes::METADATA, body, codec::decode_metadata, &meter, &trace);
            let (local, remote) = futures::join!(local, remote);
            let (answers, missing) = remote?;
            missing.iter().for_each(|m| tracing::warn!("metadata: {m}"));
            let mut all = local?;
            for entry in answers.into_iter().flat_map(|a| a.0) {
                if !all.contains(&entry) {
                    all.push(entry);
                }
            }
            all.sort_by(|a, b| (&a.metric, &a.metadata).cmp(&(&b.metric, &b.metadata)));
            Ok(all)
        }
        .boxed()
    }
}

/// How long peers have to answer, unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
