//! `/api/v1/openapi.yaml`: what the API offers, in OpenAPI 3.1 or 3.2 (`openapi_version`), from one table.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::Request;
use http::{HeaderValue, Response, StatusCode, header};

use crate::answer::{Body, plain};
use crate::params::Form;
use crate::state::App;

/// A path, its methods, what it does, and its parameters: `name:type`, with `*` behind the name where it has to be
/// there and `[]` in it where it may come several times.
type Operation = (&'static str, &'static str, &'static str, &'static str);

const OPERATIONS: &[Operation] = &[
    (
        "/query",
        "get post",
        "Evaluate an instant query",
        "query*:string time:time timeout:duration limit:integer lookback_delta:duration stats:string",
    ),
    (
        "/query_range",
        "get post",
        "Evaluate a range query",
        "query*:string start*:time end*:time step*:duration timeout:duration limit:integer lookback_delta:duration stats:string",
    ),
    ("/query_exemplars", "get post", "Query exemplars", "query*:string start:time end:time"),
    ("/format_query", "get post", "Format a PromQL query", "query*:string"),
    ("/parse_query", "get post", "Parse a PromQL query into its syntax tree", "query*:string"),
    ("/labels", "get post", "Get label names", "start:time end:time match[]:string limit:integer"),
    (
        "/label/{name}/values",
        "get post",
        "Get the values of a label",
        "name*:path start:time end:time match[]:string limit:integer",
    ),
    ("/series", "get post", "Find series by label matchers", "match[]*:string start:time end:time limit:integer"),
    ("/metadata", "get", "Get metadata of metrics", "limit:integer limit_per_metric:integer metric:string"),
    ("/search/metric_names", "get post", "Search metric names", SEARCH),
    ("/search/label_names", "get post", "Search label names", SEARCH),
    (
        "/search/label_values",
        "get post",
        "Search the values of a label",
        "label*:string match[]:string search[]:string fuzz_threshold:integer fuzz_alg:string case_sensitive:boolean sort_by:string sort_dir:string include_score:boolean start:time end:time limit:integer batch_size:integer",
    ),
    ("/scrape_pools", "get", "Get all scrape pools", ""),
    ("/scrape_pools/config", "get", "Get the configuration of a scrape pool", "scrapePool*:string"),
    ("/targets", "get", "Get targets", "scrapePool:string state:string"),
    ("/targets/metadata", "get", "Get metadata by target", "match_target:string metric:string limit:integer"),
    ("/targets/relabel_steps", "get", "Get the steps of relabelling", "scrapePool*:string labels*:string"),
    (
        "/rules",
        "get",
        "Get alerting and recording rules",
        "type:string rule_name[]:string rule_group[]:string file[]:string match[]:string exclude_alerts:boolean group_limit:integer group_next_token:string",
    ),
    ("/alerts", "get", "Get active alerts", ""),
    ("/alertmanagers", "get", "Get Alertmanagers", ""),
    ("/status/config", "get", "Get the configuration in force", ""),
    ("/status/runtimeinfo", "get", "Get facts about the process", ""),
    ("/status/buildinfo", "get", "Get facts about the build", ""),
    ("/status/flags", "get", "Get the flags", ""),
    ("/status/tsdb", "get", "Get statistics of the store", "limit:integer"),
    ("/status/tsdb/blocks", "get", "Get the store's block folders", ""),
    ("/status/storage", "get", "Get facts about the store", ""),
    ("/status/walreplay", "get", "Get the progress of the log's replay", ""),
    ("/status/self_metrics", "get", "Get own metrics", "metric_name_pattern:string"),
    ("/status/active_queries", "get", "Get the queries that run", ""),
    ("/status/top_queries", "get", "Get the costliest queries of late", "topN:integer maxLifetime:string"),
    ("/admin/tsdb/delete_series", "post put", "Delete series", "match[]*:string start:time end:time"),
    ("/admin/tsdb/clean_tombstones", "post put", "Remove deleted data from disk", ""),
    ("/admin/tsdb/snapshot", "post put", "Take a snapshot", "skip_head:boolean"),
    ("/admin/tsdb/backfill", "post", "Take samples of any age, framed as for remote write", ""),
    ("/admin/cancel_query", "post put", "End a running query", "id*:integer"),
    ("/read", "post", "Remote read", ""),
    ("/write", "post", "Remote write", ""),
    ("/otlp/v1/metrics", "post", "Take metrics by OTLP", ""),
    ("/notifications", "get", "Get notifications", ""),
    ("/notifications/live", "get", "Follow notifications as server-sent events", ""),
    ("/features", "get", "Get features and whether they are on", ""),
];

const SEARCH: &str = "match[]:string search[]:string fuzz_threshold:integer fuzz_alg:string case_sensitive:boolean sort_by:string sort_dir:string include_score:boolean include_metadata:boolean start:time end:time limit:integer batch_size:integer";

/// The name of an operation: `query-range-post`.
fn id(path: &str, method: &str) -> String {
    let path: String = path.trim_start_matches('/').chars().filter(|c| !matches!(c, '{' | '}')).collect();
    let base = path.replace(['/', '_'], "-");
    if method == "get" { base } else { format!("{base}-{method}") }
}

fn schema(kind: &str) -> &'static str {
    match kind {
        "time" => "{oneOf: [{type: string, format: date-time}, {type: number, format: unixtime}]}",
        "duration" => "{oneOf: [{type: string, format: duration}, {type: number, format: float}]}",
        "integer" => "{type: integer, format: int64}",
        "boolean" => "{type: boolean}",
        _ => "{type: string}",
    }
}

struct Parameter {
    name: &'static str,
    required: bool,
    kind: &'static str,
}

fn parameters(text: &'static str) -> impl Iterator<Item = Parameter> {
    text.split_whitespace().map(|p| {
        let (name, kind) = p.split_once(':').unwrap_or((p, "string"));
        let bare = name.trim_end_matches('*');
        Parameter { name: bare, required: bare != name, kind }
    })
}

/// The document.
fn document(version: &str, server: &str, release: &str) -> String {
    let mut out = format!(
        "openapi: {version}\ninfo:\n  title: Prometheus API\n  description: The HTTP API of Prometheus, served by Narthex.\n  version: {release:?}\nservers:\n- url: {server:?}\npaths:\n"
    );
    for (path, methods, summary, list) in OPERATIONS {
        let _ = writeln!(out, "  {path}:");
        let tag = path.split('/').nth(1).unwrap_or("query");
        for method in methods.split(' ') {
            let _ = writeln!(
                out,
                "    {method}:\n      tags: [{tag}]\n      summary: {summary:?}\n      operationId: {}",
                id(path, method)
            );
            let listed = |p: &Parameter| p.kind == "path" || method == "get" || method == "put" || tag == "admin";
            if parameters(list).any(|p| listed(&p)) {
                out.push_str("      parameters:\n");
            }
            for p in parameters(list).filter(|p| listed(p)) {
                let place = if p.kind == "path" { "path" } else { "query" };
                let one = schema(p.kind);
                let schema =
                    if p.name.ends_with("[]") { format!("{{type: array, items: {one}}}") } else { one.to_owned() };
                let _ = writeln!(
                    out,
                    "      - name: {:?}\n        in: {place}\n        required: {}\n        schema: {schema}",
                    p.name, p.required
                );
            }
            if method == "post" && tag != "admin" && !list.is_empty() {
                out.push_str(
                    "      requestBody:\n        content:\n          application/x-www-form-urlencoded:\n            schema:\n              type: object\n              properties:\n",
                );
                for p in parameters(list).filter(|p| p.kind != "path") {
                    let _ = writeln!(out, "                {:?}: {}", p.name, schema(p.kind));
                }
            }
            out.push_str(match tag {
                "read" | "write" | "otlp" => RAW,
                "search" => LINES,
                _ if path.ends_with("/live") => EVENTS,
                _ => JSON,
            });
        }
    }
    out.push_str(COMPONENTS);
    out
}

const JSON: &str = "      responses:
        '200':
          description: Success.
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Success'}
        default:
          description: Error.
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Error'}
";

const LINES: &str = "      responses:
        '200':
          description: Results, a JSON object a line.
          content:
            application/x-ndjson: {}
        default:
          description: Error.
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Error'}
";

const EVENTS: &str = "      responses:
        '200':
          description: Notifications as they come.
          content:
            text/event-stream: {}
        '204':
          description: Too many listen.
";

const RAW: &str = "      responses:
        2XX:
          description: Success.
        default:
          description: Error in words.
          content:
            text/plain: {}
";

const COMPONENTS: &str = "components:
  schemas:
    Success:
      type: object
      required: [status]
      properties:
        status: {type: string, enum: [success]}
        data: {}
        warnings: {type: array, items: {type: string}}
        infos: {type: array, items: {type: string}}
    Error:
      type: object
      required: [status, errorType, error]
      properties:
        status: {type: string, enum: [error]}
        errorType:
          type: string
          enum: [bad_data, canceled, execution, internal, not_acceptable, not_found, timeout, unavailable]
        error: {type: string}
";

pub async fn openapi(app: Arc<App>, request: Request) -> Response<Body> {
    let form = Form::parse(request.uri().query().unwrap_or(""));
    let version = match form.get("openapi_version") {
        "3.2" | "3.2.0" => "3.2.0",
        _ => "3.1.0",
    };
    let server = format!("{}/api/v1", app.options.external_url.path().trim_end_matches('/'));
    let mut response = plain(StatusCode::OK, document(version, &server, &app.options.build.version));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    response
}
