//! Series of a running server, by remote read.

use bytes::Bytes;
use clap::ArgMatches;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use narthex_model::protobuf::{bytes_field, message, varint_field};
use narthex_model::{Labels, MatchType, Matcher};
use narthex_server::read::encode::is_integer;

use super::{Outcome, server};
use crate::tool::blocks::{Decoded, HistogramSample};

/// Calls `each` with the series that match and have samples in the range, sorted by labels. An answer is read as a whole.
pub fn each_series(
    m: &ArgMatches,
    selectors: &[Vec<Matcher>],
    (mint, maxt): (i64, i64),
    each: &mut dyn FnMut(&Labels, &Decoded) -> Outcome,
) -> Outcome {
    let server = server(m)?;
    let url = server.url("/api/v1/read");
    let mut body = Vec::new();
    for selector in selectors {
        message(&mut body, 1, |out| {
            varint_field(out, 1, mint as u64);
            varint_field(out, 2, maxt as u64);
            for matcher in selector {
                message(out, 3, |out| {
                    let kind = match matcher.match_type {
                        MatchType::Equal => 0,
                        MatchType::NotEqual => 1,
                        MatchType::Regexp => 2,
                        MatchType::NotRegexp => 3,
                    };
                    varint_field(out, 1, kind);
                    bytes_field(out, 2, matcher.name.as_bytes());
                    bytes_field(out, 3, matcher.value.as_bytes());
                });
            }
        });
    }
    let body = Bytes::from(snap::raw::Encoder::new().compress_vec(&body)?);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("snappy"));
    headers.insert("x-prometheus-remote-read-version", HeaderValue::from_static("0.1.0"));
    let answer = server.send(Method::POST, &url, headers, body)?;
    if answer.status != StatusCode::OK {
        anyhow::bail!("{url}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim());
    }
    let answer = snap::raw::Decoder::new().decompress_vec(&answer.body)?;
    let mut all = std::collections::BTreeMap::<Labels, Decoded>::new();
    let results = narthex_server::write::decode::read_answer(&answer).map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
    for series in results {
        let samples = Decoded {
            floats: series.samples.into_iter().map(|(t, v)| (t, v, 0)).collect(),
            histograms: series
                .histograms
                .into_iter()
                .map(|(time, histogram)| {
                    let integer = is_integer(&histogram);
                    HistogramSample { time, histogram, start: 0, integer }
                })
                .collect(),
        };
        // A series that several selectors select comes several times.
        all.entry(series.labels).or_insert(samples);
    }
    all.iter().try_for_each(|(labels, samples)| each(labels, samples))
}
