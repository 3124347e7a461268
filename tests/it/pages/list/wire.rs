//! Answers byte for byte: what a client makes of a server that does not keep to HTTP.

use std::io::Write as _;

use super::{Page, TEXT};
use crate::pages::exporter::{Framing, Reply};
use crate::pages::gzip;

const TYPE: &str = "Content-Type: text/plain; version=0.0.4\r\n";

/// Whole answers; `%T` stands for the line of the content type. The connection is closed behind them.
const RAW: &[(&str, &str)] = &[
    ("http10", "HTTP/1.0 200 OK\r\n%T\r\na 1\n"),
    ("http10-length", "HTTP/1.0 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\nb 2\n"),
    ("http10-chunked", "HTTP/1.0 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n"),
    ("http10-keep", "HTTP/1.0 200 OK\r\n%TConnection: keep-alive\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("http09", "a 1\n"),
    ("http12", "HTTP/1.2 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("http20", "HTTP/2.0 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("http-lower", "http/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("http-nothing", "HTTP 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("http-digits", "HTTP/01.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-spaces", "HTTP/1.1  200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-long", "HTTP/1.1 2000 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-short", "HTTP/1.1 20 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-word", "HTTP/1.1 abc OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-negative", "HTTP/1.1 -20 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-none", "HTTP/1.1\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-tab", "HTTP/1.1\t200\tOK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("status-cut", "HTTP/1.1 200 OK"),
    ("status-alone", "HTTP/1.1 200 OK\r\n"),
    ("status-no-headers", "HTTP/1.1 200 OK\r\n\r\na 1\n"),
    ("blank-before", "\r\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("line-feeds", "HTTP/1.1 200 OK\nContent-Type: text/plain; version=0.0.4\nContent-Length: 4\n\na 1\n"),
    ("header-cut", "HTTP/1.1 200 OK\r\nContent-Ty"),
    ("header-no-colon", "HTTP/1.1 200 OK\r\n%TOdd\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("header-no-name", "HTTP/1.1 200 OK\r\n%T: x\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("header-space-colon", "HTTP/1.1 200 OK\r\n%TX-Odd : x\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "header-folded",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain;\r\n version=0.0.4\r\nContent-Length: 4\r\n\r\na 1\n",
    ),
    ("header-folded-first", "HTTP/1.1 200 OK\r\n X: y\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("header-nul", "HTTP/1.1 200 OK\r\n%TX: a\0b\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("header-cr", "HTTP/1.1 200 OK\r\n%TX: a\rb\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("header-tab", "HTTP/1.1 200 OK\r\nContent-Type:\ttext/plain\t\r\nContent-Length:\t4\r\n\r\na 1\n"),
    ("header-case", "HTTP/1.1 200 OK\r\ncONTENT-tYPE: text/plain\r\ncontent-LENGTH: 4\r\n\r\na 1\n"),
    ("header-empty-value", "HTTP/1.1 200 OK\r\n%TX-Empty:\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("length-twice-same", "HTTP/1.1 200 OK\r\n%TContent-Length: 4\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("length-twice", "HTTP/1.1 200 OK\r\n%TContent-Length: 4\r\nContent-Length: 8\r\n\r\na 1\nb 2\n"),
    ("length-list", "HTTP/1.1 200 OK\r\n%TContent-Length: 4, 4\r\n\r\na 1\n"),
    ("length-plus", "HTTP/1.1 200 OK\r\n%TContent-Length: +4\r\n\r\na 1\n"),
    ("length-minus", "HTTP/1.1 200 OK\r\n%TContent-Length: -4\r\n\r\na 1\n"),
    ("length-word", "HTTP/1.1 200 OK\r\n%TContent-Length: four\r\n\r\na 1\n"),
    ("length-empty", "HTTP/1.1 200 OK\r\n%TContent-Length:\r\n\r\na 1\n"),
    ("length-huge", "HTTP/1.1 200 OK\r\n%TContent-Length: 99999999999999999999\r\n\r\na 1\n"),
    ("length-large", "HTTP/1.1 200 OK\r\n%TContent-Length: 9223372036854775807\r\n\r\na 1\n"),
    ("length-zero", "HTTP/1.1 200 OK\r\n%TContent-Length: 0\r\n\r\na 1\n"),
    ("length-zeros", "HTTP/1.1 200 OK\r\n%TContent-Length: 0004\r\n\r\na 1\n"),
    ("length-less", "HTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\nb 2\nc 3\n"),
    (
        "length-and-chunks",
        "HTTP/1.1 200 OK\r\n%TContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n",
    ),
    ("transfer-identity", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("transfer-gzip", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: gzip, chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n"),
    ("transfer-upper", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: CHUNKED\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n"),
    (
        "transfer-twice",
        "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n",
    ),
    ("transfer-odd", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: foo\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n"),
    ("transfer-empty", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding:\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("chunk-extension", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4;x=y\r\na 1\n\r\n0;z\r\n\r\n"),
    ("chunk-zeros", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n00000004\r\na 1\n\r\n000\r\n\r\n"),
    ("chunk-upper", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\nA\r\na 1\nbbb 2\n\r\n0\r\n\r\n"),
    ("chunk-space", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4 \r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-space-before", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n 4\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-bad", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\nxyz\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-prefix", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n0x4\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-minus", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n-4\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-huge", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-large", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\na 1\n"),
    ("chunk-empty-size", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n\r\na 1\n\r\n0\r\n\r\n"),
    ("chunk-long", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\r\na 1\nb 2\n\r\n0\r\n\r\n"),
    ("chunk-no-break", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n0\r\n\r\n"),
    ("chunk-line-feeds", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\na 1\n\n0\n\n"),
    (
        "chunk-trailer",
        "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4\r\na 1\n\r\n0\r\nX: y\r\n\r\n",
    ),
    ("chunk-trailer-bad", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\nodd\r\n\r\n"),
    ("chunk-trailer-cut", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n"),
    ("chunk-only-last", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunk-none", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n"),
    ("chunk-cut-data", "HTTP/1.1 200 OK\r\n%TTransfer-Encoding: chunked\r\n\r\n9\r\na 1\n"),
    ("continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("early-hints", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    (
        "continue-many",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 X\r\n\r\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n",
    ),
    (
        "continue-six",
        "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\n",
    ),
    ("switching", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\na 1\n"),
    ("no-content-body", "HTTP/1.1 204 No Content\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("reset-content", "HTTP/1.1 205 Reset Content\r\n%TContent-Length: 0\r\n\r\n"),
    ("partial-range", "HTTP/1.1 206 Partial Content\r\n%TContent-Range: bytes 0-3/8\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("not-modified-body", "HTTP/1.1 304 Not Modified\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("cookies", "HTTP/1.1 200 OK\r\n%TSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("refresh", "HTTP/1.1 200 OK\r\n%TRefresh: 0; url=/x\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "two-answers",
        "HTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\na 1\nHTTP/1.1 200 OK\r\n%TContent-Length: 4\r\n\r\nb 2\n",
    ),
    ("redirect-body", "HTTP/1.1 302 Found\r\nLocation: /redirected\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("redirect-fragment", "HTTP/1.1 302 Found\r\nLocation: /redirected#x\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-query", "HTTP/1.1 302 Found\r\nLocation: /redirected?x=1\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-twice", "HTTP/1.1 302 Found\r\nLocation: /redirected\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-no-location", "HTTP/1.1 301 Moved\r\n%TContent-Length: 4\r\n\r\na 1\n"),
    ("redirect-utf8", "HTTP/1.1 302 Found\r\nLocation: /ü\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-scheme-only", "HTTP/1.1 302 Found\r\nLocation: http:\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-escape", "HTTP/1.1 302 Found\r\nLocation: /redi%72ected\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-bad-escape", "HTTP/1.1 302 Found\r\nLocation: /%zz\r\nContent-Length: 0\r\n\r\n"),
    ("redirect-310", "HTTP/1.1 310 Odd\r\nLocation: /redirected\r\nContent-Length: 0\r\n\r\n"),
    ("encoding-empty", "HTTP/1.1 200 OK\r\n%TContent-Encoding:\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("encoding-x-gzip", "HTTP/1.1 200 OK\r\n%TContent-Encoding: x-gzip\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("encoding-br", "HTTP/1.1 200 OK\r\n%TContent-Encoding: br\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("type-twice", "HTTP/1.1 200 OK\r\n%TContent-Type: application/openmetrics-text\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "type-latin",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=latin1; version=0.0.4\r\nContent-Length: 4\r\n\r\na 1\n",
    ),
    ("type-spaces", "HTTP/1.1 200 OK\r\nContent-Type: text/plain ; version = 0.0.4\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "type-quoted-escape",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; x=\"a\\\"b\"\r\nContent-Length: 4\r\n\r\na 1\n",
    ),
    ("type-extended", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; x*=utf-8''%41\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("type-continued", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; x*0=a; x*1=b\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "type-version-dup",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; version=0.0.4\r\nContent-Length: 4\r\n\r\na 1\n",
    ),
    ("type-slashes", "HTTP/1.1 200 OK\r\nContent-Type: text//plain\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("type-semicolons", "HTTP/1.1 200 OK\r\nContent-Type: text/plain;;\r\nContent-Length: 4\r\n\r\na 1\n"),
    ("type-space-inside", "HTTP/1.1 200 OK\r\nContent-Type: text /plain\r\nContent-Length: 4\r\n\r\na 1\n"),
    (
        "type-om-spaces",
        "HTTP/1.1 200 OK\r\nContent-Type:   application/openmetrics-text  ;  version=1.0.0\r\nContent-Length: 10\r\n\r\na 1\n# EOF\n",
    ),
    (
        "type-om-1-1",
        "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.1.0\r\nContent-Length: 10\r\n\r\na 1\n# EOF\n",
    ),
];

fn raw(name: &str, bytes: Vec<u8>) -> Page {
    let mut reply = Reply::new(TEXT, bytes);
    reply.framing = Framing::Raw;
    Page::new(&format!("wire/{name}"), "plain", vec![reply])
}

pub(super) fn wire(out: &mut Vec<Page>) {
    for (name, answer) in RAW {
        out.push(raw(name, answer.replace("%T", TYPE).into_bytes()));
    }
    zipped(out);
}

/// A gzip member with these flags and what they announce before its data.
fn member(flags: u8, fields: &[u8], data: &[u8]) -> Vec<u8> {
    let whole = gzip(data);
    let mut out = whole[..10].to_vec();
    out[3] = flags;
    out.extend_from_slice(fields);
    out.extend_from_slice(&whole[10..]);
    out
}

fn stored(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(data).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// Compressed bodies with odd heads, blocks and ends.
fn zipped(out: &mut Vec<Page>) {
    let good = gzip(b"a 1\n");
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let end = good.len();
    let header = |fields: &[u8]| {
        // The sum of a head with these fields, as flag 2 announces.
        let head = [&good[..3], &[2u8][..], &good[4..10], fields].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&head);
        (crc.sum() as u16).to_le_bytes()
    };
    let mut size = good.clone();
    size[end - 4] ^= 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("name", member(8, b"page.txt\0", b"a 1\n")),
        ("name-open", member(8, b"page.txt", b"")[..18].to_vec()),
        ("extra", member(4, b"\x03\0xyz", b"a 1\n")),
        ("extra-long", member(4, b"\xff\xffxyz", b"a 1\n")),
        ("comment", member(16, b"words\0", b"a 1\n")),
        ("all-fields", member(4 | 8 | 16, b"\x02\0xyname\0words\0", b"a 1\n")),
        ("head-sum", member(2, &header(b""), b"a 1\n")),
        ("head-sum-bad", member(2, b"xx", b"a 1\n")),
        ("text-flag", changed(3, 1)),
        ("reserved-flags", changed(3, 0xe0)),
        ("method", changed(2, 7)),
        ("magic", changed(0, 0x1e)),
        ("magic-second", changed(1, 0)),
        ("block-type", changed(10, 0x07)),
        ("stored", stored(b"a 1\n")),
        ("stored-bad-length", {
            let mut bytes = stored(b"a 1\n");
            bytes[12] ^= 1;
            bytes
        }),
        ("size-bad", size),
        ("zeros-behind", [&good[..], &[0; 16]].concat()),
        ("member-empty", [gzip(b""), good.clone(), gzip(b"")].concat()),
        ("member-split-line", [gzip(b"a "), gzip(b"1\nb"), gzip(b" 2\n")].concat()),
        ("member-cut", [&good[..], &good[..7]].concat()),
        ("member-magic-only", [&good[..], &good[..2]].concat()),
        ("member-second-bad-sum", {
            let mut bytes = [&good[..], &good[..]].concat();
            let at = bytes.len() - 7;
            bytes[at] ^= 1;
            bytes
        }),
        ("member-hundred", (0..100).flat_map(|i| gzip(format!("m{{i=\"{i}\"}} {i}\n").as_bytes())).collect()),
        ("head-only", good[..10].to_vec()),
        ("head-cut", good[..5].to_vec()),
        ("one-byte", good[..1].to_vec()),
    ];
    for (name, body) in cases {
        let head = format!("HTTP/1.1 200 OK\r\n{TYPE}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
        out.push(raw(&format!("gzip-{name}"), [head.as_bytes(), &body].concat()));
    }
    // In chunks, and cut within them.
    let mut chunks =
        format!("HTTP/1.1 200 OK\r\n{TYPE}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for part in good.chunks(5) {
        chunks.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunks.extend_from_slice(part);
        chunks.extend_from_slice(b"\r\n");
    }
    out.push(raw("gzip-chunks-cut", chunks.clone()));
    chunks.extend_from_slice(b"0\r\n\r\n");
    out.push(raw("gzip-chunks", chunks));
    let short = [
        format!("HTTP/1.1 200 OK\r\n{TYPE}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", end + 20).as_bytes(),
        &good,
    ]
    .concat();
    out.push(raw("gzip-length-more", short));
    let less = [
        format!("HTTP/1.1 200 OK\r\n{TYPE}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", end - 3).as_bytes(),
        &good,
    ]
    .concat();
    out.push(raw("gzip-length-less", less));
}
