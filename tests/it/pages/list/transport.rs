//! What goes wrong below the format: statuses, redirects, framing, encodings.

use super::{Page, TEXT, text};
use crate::pages::exporter::{Framing, Reply};
use crate::pages::gzip;

/// What goes wrong below the format.
pub(super) fn transport(out: &mut Vec<Page>) {
    let mut add = |name: &str, job: &'static str, change: &dyn Fn(&mut Reply)| {
        let mut page = text(&format!("http/{name}"), job, "a 1\nb 2\n");
        change(&mut page.steps[0]);
        out.push(page);
    };
    for status in [
        "200 OK",
        "200 Fine",
        "201 Created",
        "202 Accepted",
        "203 Non-Authoritative Information",
        "204 No Content",
        "206 Partial Content",
        "300 Multiple Choices",
        "304 Not Modified",
        "305 Use Proxy",
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "404 Weg",
        "407 Proxy Authentication Required",
        "418 I'm a teapot",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "503 ",
        "599 Odd",
        "999 High",
        "200",
    ] {
        add(&format!("status-{status}").replace([' ', '\''], "-"), "plain", &|r| {
            r.status = status;
            if status.starts_with("204") || status.starts_with("304") {
                r.body.clear();
            }
        });
    }
    for framing in [Framing::Chunked, Framing::ChunkedCut, Framing::Short, Framing::Close, Framing::None] {
        add(&format!("framing-{framing:?}"), "plain", &|r| r.framing = framing);
    }
    for status in
        ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        for job in ["plain", "no-redirect"] {
            let code = &status[..3];
            let set = |to: &'static str| {
                move |r: &mut Reply| {
                    r.status = status;
                    r.headers.push(("Location", to.to_owned()));
                }
            };
            add(&format!("redirect-{code}-{job}"), job, &set("/redirected"));
            if code == "302" {
                add(&format!("redirect-relative-{job}"), job, &set("../redirected"));
                add(&format!("redirect-missing-{job}"), job, &|r| r.status = status);
                add(&format!("redirect-empty-{job}"), job, &set(""));
                add(&format!("redirect-loop-{job}"), job, &set("/loop"));
                add(&format!("redirect-slashes-{job}"), job, &set("//"));
                add(&format!("redirect-404-{job}"), job, &set("/nowhere"));
                add(&format!("redirect-scheme-{job}"), job, &set("ftp://127.0.0.1/x"));
                add(&format!("redirect-bad-{job}"), job, &set("http://[::1/x"));
                add(&format!("redirect-port-{job}"), job, &set("http://127.0.0.1:99999/x"));
                add(&format!("redirect-space-{job}"), job, &set("/redi rected"));
                add(&format!("redirect-refused-{job}"), job, &set("http://127.0.0.1:1/x"));
            }
        }
    }
    let zipped = |r: &mut Reply| {
        r.body = gzip(&r.body);
        r.headers.push(("Content-Encoding", "gzip".to_owned()));
    };
    add("gzip", "plain", &zipped);
    add("gzip-unasked", "no-gzip", &zipped);
    add("gzip-upper", "plain", &|r| {
        r.body = gzip(&r.body);
        r.headers.push(("Content-Encoding", "GZIP".to_owned()));
    });
    add("gzip-plain-body", "plain", &|r| r.headers.push(("Content-Encoding", "gzip".to_owned())));
    add("gzip-empty", "plain", &|r| {
        r.body.clear();
        r.headers.push(("Content-Encoding", "gzip".to_owned()));
    });
    add("gzip-cut", "plain", &|r| {
        zipped(r);
        r.body.truncate(r.body.len() - 5);
    });
    add("gzip-no-trailer", "plain", &|r| {
        zipped(r);
        r.body.truncate(r.body.len() - 8);
    });
    add("gzip-bad-sum", "plain", &|r| {
        zipped(r);
        let at = r.body.len() - 6;
        r.body[at] ^= 0xff;
    });
    add("gzip-bad-middle", "plain", &|r| {
        zipped(r);
        r.body[12] ^= 0x55;
    });
    add("gzip-two", "plain", &|r| {
        zipped(r);
        r.body = [gzip(b"a 1\n"), gzip(b"b 2\n")].concat();
    });
    add("gzip-garbage-behind", "plain", &|r| {
        zipped(r);
        r.body.extend_from_slice(b"garbage");
    });
    add("gzip-twice", "plain", &|r| {
        r.body = gzip(&r.body);
        zipped(r);
    });
    add("deflate", "plain", &|r| r.headers.push(("Content-Encoding", "deflate".to_owned())));
    add("identity", "plain", &|r| r.headers.push(("Content-Encoding", "identity".to_owned())));
    add("zstd", "plain", &|r| r.headers.push(("Content-Encoding", "zstd".to_owned())));
    add("two-encodings", "plain", &|r| {
        zipped(r);
        r.headers.push(("Content-Encoding", "identity".to_owned()));
    });
    add("two-types", "plain", &|r| r.headers.push(("Content-Type", "application/json".to_owned())));
    add("bad-header", "plain", &|r| r.headers.push(("X-Odd Name", "1".to_owned())));
    add("header-latin", "plain", &|r| r.headers.push(("X-Latin", "\u{e4}".to_owned())));
    add("long-header", "plain", &|r| r.headers.push(("X-Long", "x".repeat(10_000))));
    add("params", "params", &|_| {});
    add("legacy", "legacy", &|_| {});
    add("legacy-values", "legacy-values", &|_| {});
    add("protocols", "protocols", &|_| {});
}

/// The targets of redirects, which nobody scrapes by themselves.
pub fn redirected() -> Vec<(String, Vec<Reply>)> {
    let mut again = Reply::new(TEXT, "");
    again.status = "302 Found";
    again.headers.push(("Location", "/loop".into()));
    vec![("/redirected".into(), vec![Reply::new(TEXT, "r 1\n")]), ("/loop".into(), vec![again])]
}
