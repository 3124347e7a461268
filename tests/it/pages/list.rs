//! The fixed list: jobs with their settings, and pages that are odd, hostile or plainly wrong.

use super::Page;
use super::exporter::{Framing, Reply};
use super::proto::{self, Bucket, Counter, Exemplar, Family, Histogram, Metric, Quantile, Summary, Timestamp, Value};

pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Jobs by name, with what they set beside their targets.
pub const JOBS: &[(&str, &str)] = &[
    ("plain", ""),
    ("nhcb", "convert_classic_histograms_to_nhcb: true"),
    ("nhcb-classic", "convert_classic_histograms_to_nhcb: true\n  always_scrape_classic_histograms: true"),
    ("native", "scrape_native_histograms: true"),
    ("native-classic", "scrape_native_histograms: true\n  always_scrape_classic_histograms: true"),
    ("native-nhcb", "scrape_native_histograms: true\n  convert_classic_histograms_to_nhcb: true"),
    (
        "native-all",
        "scrape_native_histograms: true\n  convert_classic_histograms_to_nhcb: true\n  \
         always_scrape_classic_histograms: true",
    ),
    ("native-buckets", "scrape_native_histograms: true\n  native_histogram_bucket_limit: 4"),
    ("native-factor", "scrape_native_histograms: true\n  native_histogram_min_bucket_factor: 1.5"),
    ("honor", "honor_labels: true"),
    ("no-timestamps", "honor_timestamps: false"),
    ("track", "track_timestamps_staleness: true"),
    ("samples", "sample_limit: 3"),
    (
        "samples-drop",
        "sample_limit: 2\n  metric_relabel_configs:\n  - {source_labels: [drop], regex: yes, action: drop}",
    ),
    ("targets", "target_limit: 2"),
    ("targets-over", "target_limit: 1"),
    ("labels", "label_limit: 6"),
    ("label-name", "label_name_length_limit: 9"),
    ("label-value", "label_value_length_limit: 32"),
    ("body", "body_size_limit: 100B"),
    ("legacy", "metric_name_validation_scheme: legacy\n  metric_name_escaping_scheme: underscores"),
    ("legacy-values", "metric_name_escaping_scheme: values"),
    ("fallback-text", "fallback_scrape_protocol: PrometheusText0.0.4"),
    ("fallback-text1", "fallback_scrape_protocol: PrometheusText1.0.0"),
    ("fallback-om", "fallback_scrape_protocol: OpenMetricsText1.0.0"),
    ("fallback-om0", "fallback_scrape_protocol: OpenMetricsText0.0.1"),
    ("fallback-proto", "fallback_scrape_protocol: PrometheusProto"),
    ("protocols", "scrape_protocols: [PrometheusText0.0.4]"),
    ("extra", "extra_scrape_metrics: true\n  sample_limit: 4\n  body_size_limit: 150B"),
    ("no-gzip", "enable_compression: false"),
    ("no-redirect", "follow_redirects: false"),
    (
        "relabel",
        "metric_relabel_configs:\n  - {source_labels: [__name__], regex: 'drop.*', action: drop}\n  \
         - {source_labels: [__name__], regex: 'rename_(.*)', target_label: __name__, replacement: 'renamed_${1}'}\n  \
         - {source_labels: [__name__], regex: nameless, target_label: __name__, replacement: ''}\n  \
         - {source_labels: [__name__], regex: same_.*, target_label: __name__, replacement: same}\n  \
         - {regex: kill_.*, action: labeldrop}\n  - {regex: 'map_(.*)', action: labelmap}\n  \
         - {source_labels: [up], target_label: up, action: uppercase}\n  \
         - {source_labels: [hash], modulus: 7, target_label: bin, action: hashmod}\n  \
         - {source_labels: [__name__], regex: to_bad, target_label: __name__, replacement: \"\\xff\"}",
    ),
    ("params", "params: {a: ['1', 'x y'], b: ['ü&']}\n  basic_auth: {username: u, password: p}"),
];

/// Pages in the text format; each is also served as OpenMetrics with `# EOF` behind it, and to the job that converts
/// histograms.
const TEXTS: &[(&str, &str)] = &[
    ("empty-line", "\n"),
    ("only-spaces", "   \n"),
    ("one", "a 1\n"),
    ("no-end", "a 1"),
    ("comment-end", "a 1\n# bye"),
    ("crlf", "a 1\r\nb 2\r\n"),
    ("cr-only", "a 1\rb 2\r"),
    ("tabs", "a\t1\nb{x=\"1\"}\t2\t\n"),
    ("many-spaces", "a    1\nb  {x=\"1\"}   2   \n"),
    ("lead-space", " a 1\n"),
    ("lead-tab", "\ta 1\n"),
    ("trail-space", "a 1 \n"),
    ("no-value", "a\n"),
    ("no-value-labels", "a{b=\"c\"}\n"),
    ("no-space", "a{b=\"c\"}1\n"),
    ("no-space-name", "a1\n"),
    ("two-values", "a 1 2 3\n"),
    ("bom", "\u{feff}a 1\n"),
    ("nul", "a 1\n\0b 2\n"),
    ("nul-in-name", "a\0b 1\n"),
    ("nul-in-label", "a{b=\"c\0d\"} 1\n"),
    ("nul-in-value", "a 1\0\n"),
    ("nul-in-comment", "# x\0y\na 1\n"),
    ("nul-in-help", "# HELP a x\0y\na 1\n"),
    ("colon-name", "a:b:c 1\n:d 2\n"),
    ("digit-name", "1a 1\n"),
    ("dash-name", "a-b 1\n"),
    ("dot-name", "a.b 1\n"),
    ("utf8-name", "ä 1\n"),
    ("keyword-names", "HELP 1\nTYPE 2\nEOF 3\nNaN 4\nInf 5\n"),
    ("colon-label", "a{b:c=\"1\"} 1\n"),
    ("digit-label", "a{1b=\"1\"} 1\n"),
    ("empty-braces", "a{} 1\n"),
    ("space-braces", "a{ } 1\n"),
    ("trail-comma", "a{b=\"1\",} 1\n"),
    ("trail-commas", "a{b=\"1\",,} 1\n"),
    ("lead-comma", "a{,b=\"1\"} 1\n"),
    ("only-comma", "a{,} 1\n"),
    ("no-comma", "a{b=\"1\"c=\"2\"} 1\n"),
    ("space-comma", "a{b=\"1\" , c=\"2\" } 1\n"),
    ("space-equals", "a{ b = \"1\" } 1\n"),
    ("single-quotes", "a{b='1'} 1\n"),
    ("no-quotes", "a{b=1} 1\n"),
    ("open-quote", "a{b=\"1} 1\n"),
    ("open-brace", "a{b=\"1\" 1\n"),
    ("close-only", "a} 1\n"),
    ("double-open", "a{{b=\"1\"} 1\n"),
    ("double-close", "a{b=\"1\"}} 1\n"),
    ("two-braces", "a{b=\"1\"}{c=\"2\"} 1\n"),
    ("equals-twice", "a{b==\"1\"} 1\n"),
    ("no-equals", "a{b\"1\"} 1\n"),
    ("label-no-value", "a{b} 1\n"),
    ("escapes", "a{b=\"x\\\\y\\\"z\\nw\"} 1\n"),
    ("bad-escapes", "a{b=\"x\\ty\\q\\x41\\u00e4\"} 1\n"),
    ("escape-end", "a{b=\"x\\\\\"} 1\nc{d=\"\\\"\"} 2\n"),
    ("escape-quote-end", "a{b=\"x\\\"} 1\n"),
    ("raw-newline", "a{b=\"x\ny\"} 1\n"),
    ("escaped-raw-newline", "a{b=\"x\\\ny\"} 1\n"),
    ("braces-in-value", "a{b=\"}{,=#\"} 1\n"),
    ("hash-in-value", "a{b=\"# EOF\"} 1\n"),
    ("empty-value", "a{b=\"\"} 1\na{b=\"\",c=\"x\"} 2\n"),
    ("empty-and-none", "a 1\na{b=\"\"} 2\n"),
    ("utf8-value", "a{b=\"日本語 ü 🦀\"} 1\n"),
    ("dup-label", "a{b=\"1\",b=\"2\"} 1\n"),
    ("dup-label-same", "a{b=\"1\",b=\"1\"} 1\n"),
    ("dup-label-empty", "a{b=\"1\",b=\"\"} 1\n"),
    ("dup-label-apart", "a{b=\"1\",c=\"2\",b=\"3\"} 1\n"),
    ("label-order", "a{z=\"1\",b=\"2\",m=\"3\"} 1\n"),
    ("same-other-order", "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n"),
    ("same-other-order-equal", "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n"),
    ("same-other-space", "a{x=\"1\"} 1\na{x=\"1\",} 2\na{ x=\"1\"} 3\n"),
    ("same-thrice", "a 1\na 2\na 3\n"),
    ("same-equal", "a 1\nb 5\na 1\n"),
    ("same-braces", "a 1\na{} 2\n"),
    ("same-by-quoting", "a 1\n{\"a\"} 2\n{__name__=\"a\"} 3\n"),
    ("name-label", "a{__name__=\"b\"} 1\n"),
    ("name-label-only", "{__name__=\"b\"} 1\n"),
    ("name-label-empty", "a{__name__=\"\"} 1\n"),
    ("name-label-twice", "{__name__=\"b\",__name__=\"c\"} 1\n"),
    ("quoted", "{\"a\"} 1\n{\"a.b\"} 2\n{\"a.b\",\"c.d\"=\"x\"} 3\n"),
    ("quoted-label", "a{\"b.c\"=\"1\"} 1\n"),
    ("quoted-space", "{\"a b\"} 1\n{\" \"} 2\n"),
    ("quoted-empty", "{\"\"} 1\n"),
    ("quoted-empty-label", "a{\"\"=\"1\"} 1\n"),
    ("quoted-escape", "{\"a\\\"b\\\\c\\nd\"} 1\n{\"x\\ty\"} 2\n"),
    ("quoted-twice", "{\"a\",\"b\"} 1\n"),
    ("quoted-and-name", "a{\"b\"} 1\n"),
    ("quoted-last", "{x=\"1\",\"a.b\"} 1\n"),
    ("quoted-middle", "{x=\"1\",\"a.b\",y=\"2\"} 1\n"),
    ("quoted-comma", "{\"a.b\",} 1\n"),
    ("quoted-no-comma", "{\"a.b\" x=\"1\"} 1\n"),
    ("quoted-bare", "\"a.b\" 1\n"),
    ("quoted-newline", "{\"a\nb\"} 1\n"),
    ("quoted-utf8", "{\"ü.日本\",\"ключ\"=\"знач\"} 1\n"),
    ("quoted-name-label", "{\"__name__\"=\"x\"} 1\n"),
    ("quoted-name-both", "{\"a.b\",__name__=\"c\"} 1\n"),
    ("no-name", "{a=\"1\"} 1\n"),
    ("no-name-empty", "{} 1\n"),
    ("reserved", "a{job=\"x\",instance=\"y\"} 1\nb{exported_job=\"e\",job=\"x\"} 2\n"),
    ("reserved-page", "a{page=\"mine\"} 1\n"),
    ("reserved-empty", "a{job=\"\",instance=\"\"} 1\n"),
    ("double-under", "a{__address__=\"1\",__x=\"2\",__=\"3\"} 1\n__a 1\n"),
    ("report-names", "up 7\nscrape_samples_scraped 9\n"),
    ("report-names-labels", "up{a=\"1\"} 7\nscrape_series_added 3\n"),
    ("scrape-duration", "scrape_duration_seconds 1e9\n"),
    // numbers
    ("plain-numbers", "a 0\nb -0\nc +1\nd 1.5\ne .5\nf 5.\ng 1e3\nh 1E-3\ni 1e+3\nj 00012\n"),
    ("inf", "a Inf\nb +Inf\nc -Inf\nd inf\ne INF\nf Infinity\ng -infinity\nh iNf\n"),
    ("nan", "a NaN\nb nan\nc NAN\n"),
    ("nan-sign", "a +NaN\n"),
    ("nan-minus", "a -NaN\n"),
    ("nan-payload", "a nan(0x1)\n"),
    ("inf-long", "a infinit\n"),
    ("hex", "a 0x10\n"),
    ("hex-float", "a 0x1p4\n"),
    ("hex-p-alone", "a 1p4\n"),
    ("underscore", "a 1_000\n"),
    ("base-2", "a 0b11\n"),
    ("octal", "a 0o17\nb 017\n"),
    ("huge", "a 1e308\nb 1.7976931348623157e308\nc 4.9e-324\nd 1e-400\n"),
    ("too-huge", "a 1e309\n"),
    ("too-huge-neg", "a -1e309\n"),
    ("long-digits", "a 123456789012345678901234567890\nb 0.1000000000000000055511151231257827\n"),
    ("exact-half", "a 9007199254740993\nb 9007199254740992.5\n"),
    ("two-dots", "a 1.2.3\n"),
    ("comma-number", "a 1,5\n"),
    ("exp-only", "a e5\n"),
    ("exp-open", "a 1e\n"),
    ("exp-sign", "a 1e+\n"),
    ("dot-only", "a .\n"),
    ("sign-only", "a -\n"),
    ("two-signs", "a --1\n"),
    ("quoted-number", "a \"1\"\n"),
    ("bool", "a true\n"),
    ("null", "a null\n"),
    ("text", "a hello\n"),
    ("unicode-minus", "a \u{2212}1\n"),
    ("suffix-f", "a 1f\n"),
    ("duration", "a 5m\n"),
    ("value-brace", "a 1{b=\"c\"}\n"),
    // timestamps that no version takes, or that are far away
    ("ts-float", "a 1 1.5\n"),
    ("ts-text", "a 1 now\n"),
    ("ts-plus", "a 1 +5\n"),
    ("ts-minus", "a 1 -5\n"),
    ("ts-zero", "a 1 0\n"),
    ("ts-one", "a 1 1\n"),
    ("ts-exp", "a 1 1e3\n"),
    ("ts-max", "a 1 9223372036854775807\n"),
    ("ts-over", "a 1 9223372036854775808\n"),
    ("ts-long", "a 1 99999999999999999999999\n"),
    ("ts-nan", "a 1 NaN\n"),
    ("ts-inf", "a 1 +Inf\n"),
    ("ts-underscore", "a 1 1_0\n"),
    ("ts-future", "a 1 4102444800000\nb 2\n"),
    ("ts-future-s", "a 1 4102444800\nb 2\n"),
    // comments and metadata
    ("help", "# HELP a Some help.\na 1\n"),
    ("type", "# TYPE a counter\na 1\n"),
    ("help-type", "# HELP a Some help.\n# TYPE a gauge\na 1\n"),
    ("type-help", "# TYPE a gauge\n# HELP a Some help.\na 1\n"),
    ("help-twice", "# HELP a One.\n# HELP a Two.\na 1\n"),
    ("type-twice", "# TYPE a gauge\n# TYPE a counter\na 1\n"),
    ("type-after", "a 1\n# TYPE a gauge\n"),
    ("type-other", "# TYPE b gauge\na 1\n"),
    ("type-none", "# TYPE a gauge\n"),
    ("type-split", "# TYPE a gauge\na 1\nb 2\na{x=\"1\"} 3\n"),
    ("type-again", "# TYPE a gauge\na 1\n# TYPE b counter\nb 2\n# TYPE a gauge\na{x=\"1\"} 3\n"),
    ("type-bad", "# TYPE a foo\na 1\n"),
    ("type-case", "# TYPE a Counter\na 1\n"),
    ("type-untyped", "# TYPE a untyped\na 1\n"),
    ("type-unknown", "# TYPE a unknown\na 1\n"),
    ("type-info", "# TYPE a info\na_info{v=\"1\"} 1\n"),
    ("type-stateset", "# TYPE a stateset\na{a=\"x\"} 1\n"),
    ("type-gaugehistogram", "# TYPE a gaugehistogram\na_bucket{le=\"1\"} 1\na_gcount 1\na_gsum 1\n"),
    ("type-missing", "# TYPE a\na 1\n"),
    ("type-empty", "# TYPE a \na 1\n"),
    ("type-no-name", "# TYPE\na 1\n"),
    ("type-trail", "# TYPE a counter \na 1\n"),
    ("type-spaces", "#   TYPE   a   counter\na 1\n"),
    ("type-tabs", "#\tTYPE\ta\tcounter\na 1\n"),
    ("type-nospace", "#TYPE a counter\na 1\n"),
    ("type-lower", "# type a counter\na 1\n"),
    ("type-quoted", "# TYPE \"a.b\" counter\n{\"a.b\"} 1\n"),
    ("type-quoted-open", "# TYPE \"a.b counter\n{\"a.b\"} 1\n"),
    ("type-labels", "# TYPE a{x=\"1\"} counter\na 1\n"),
    ("help-missing", "# HELP a\na 1\n"),
    ("help-empty", "# HELP a \na 1\n"),
    ("help-spaces", "# HELP a   spaced   text  \na 1\n"),
    ("help-escape", "# HELP a x\\\\y\\nz\\\"w\\q\na 1\n"),
    ("help-hash", "# HELP a # HELP b\na 1\n"),
    ("help-quoted", "# HELP \"a.b\" Dotted.\n{\"a.b\"} 1\n"),
    ("help-utf8", "# HELP a 日本 ü\na 1\n"),
    ("unit", "# UNIT a_seconds seconds\na_seconds 1\n"),
    ("unit-wrong", "# UNIT a seconds\na 1\n"),
    ("unit-empty", "# UNIT a \na 1\n"),
    ("unit-all", "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\n# HELP a_seconds Time.\na_seconds 1\n"),
    ("unit-is-name", "# UNIT seconds seconds\nseconds 1\n"),
    ("comment", "# just a comment\na 1\n"),
    ("comment-empty", "#\na 1\n"),
    ("comment-space", "# \na 1\n"),
    ("comment-hashes", "## x\n### y\na 1\n"),
    ("comment-inline", "a 1 # comment\n"),
    ("comment-indent", "  # comment\na 1\n"),
    ("comment-only", "# nothing else\n"),
    ("eof-middle", "a 1\n# EOF\nb 2\n"),
    ("eof-twice", "a 1\n# EOF\n# EOF\n"),
    ("eof-spaces", "a 1\n#  EOF\n"),
    ("eof-trail", "a 1\n# EOF \n"),
    ("eof-glued", "a 1\n#EOF\n"),
    ("blank-lines", "\n\na 1\n\n\nb 2\n\n"),
    // histograms and summaries
    (
        "histogram",
        "# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n",
    ),
    (
        "histogram-le-forms",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2.0\"} 2\nh_bucket{le=\"3e0\"} 3\nh_bucket{le=\"1e10\"} 4\n\
         h_bucket{le=\"1e22\"} 5\nh_bucket{le=\"Inf\"} 6\nh_sum 1\nh_count 6\n",
    ),
    (
        "histogram-le-dup",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\nh_bucket{le=\"+Inf\"} 6\nh_sum 1\nh_count 6\n",
    ),
    ("histogram-le-bad", "# TYPE h histogram\nh_bucket{le=\"abc\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"),
    ("histogram-le-empty", "# TYPE h histogram\nh_bucket{le=\"\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"),
    ("histogram-le-none", "# TYPE h histogram\nh_bucket 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"),
    ("histogram-le-nan", "# TYPE h histogram\nh_bucket{le=\"NaN\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"),
    (
        "histogram-le-hex",
        "# TYPE h histogram\nh_bucket{le=\"0x10\"} 1\nh_bucket{le=\"1_0\"} 1\nh_bucket{le=\"0x1p4\"} 1\n",
    ),
    ("histogram-no-inf", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 2\nh_sum 1\nh_count 3\n"),
    ("histogram-no-count", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\n"),
    ("histogram-no-sum", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n"),
    ("histogram-only-count", "# TYPE h histogram\nh_count 2\nh_sum 1\n"),
    ("histogram-no-buckets", "# TYPE h histogram\nh 2\n"),
    (
        "histogram-unsorted",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 9\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"0.5\"} 1\nh_sum 1\nh_count 9\n",
    ),
    (
        "histogram-falling",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 5\nh_bucket{le=\"2\"} 3\nh_bucket{le=\"+Inf\"} 6\nh_sum 1\nh_count 6\n",
    ),
    ("histogram-negative", "# TYPE h histogram\nh_bucket{le=\"1\"} -1\nh_bucket{le=\"+Inf\"} 6\nh_sum 1\nh_count 6\n"),
    (
        "histogram-float",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1.5\nh_bucket{le=\"+Inf\"} 2.5\nh_sum 1\nh_count 2.5\n",
    ),
    (
        "histogram-nan",
        "# TYPE h histogram\nh_bucket{le=\"1\"} NaN\nh_bucket{le=\"+Inf\"} NaN\nh_sum NaN\nh_count NaN\n",
    ),
    (
        "histogram-count-differs",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 7\n",
    ),
    (
        "histogram-labels",
        "# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 1\nh_bucket{a=\"1\",le=\"+Inf\"} 2\nh_sum{a=\"1\"} 1\nh_count{a=\"1\"} 2\n\
         h_bucket{a=\"2\",le=\"1\"} 3\nh_bucket{a=\"2\",le=\"+Inf\"} 4\nh_sum{a=\"2\"} 1\nh_count{a=\"2\"} 4\n",
    ),
    (
        "histogram-mixed-labels",
        "# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 1\nh_bucket{a=\"2\",le=\"1\"} 3\nh_bucket{a=\"1\",le=\"+Inf\"} 2\n\
         h_bucket{a=\"2\",le=\"+Inf\"} 4\nh_sum{a=\"1\"} 1\nh_sum{a=\"2\"} 1\nh_count{a=\"1\"} 2\nh_count{a=\"2\"} 4\n",
    ),
    ("histogram-untyped", "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n"),
    (
        "histogram-two",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n# TYPE i histogram\n\
         i_bucket{le=\"1\"} 1\ni_bucket{le=\"+Inf\"} 3\ni_sum 4.5\ni_count 3\n",
    ),
    (
        "histogram-then-gauge",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n# TYPE g gauge\ng{le=\"1\"} 1\n",
    ),
    (
        "histogram-interrupted",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nother 5\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n",
    ),
    (
        "histogram-suffixes",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\nh_min 1\nh_max 2\nh 5\n",
    ),
    (
        "histogram-timestamps",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1 4102444800000\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n",
    ),
    (
        "histogram-big-values",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1e18\nh_bucket{le=\"+Inf\"} 1e19\nh_sum 1e300\nh_count 1e19\n",
    ),
    ("histogram-one-bucket", "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\n"),
    (
        "histogram-quoted",
        "# TYPE \"h.x\" histogram\n{\"h.x_bucket\",le=\"1\"} 1\n{\"h.x_bucket\",le=\"+Inf\"} 3\n{\"h.x_sum\"} 4.5\n{\"h.x_count\"} 3\n",
    ),
    (
        "histogram-created",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.5\nh_count 3\nh_created 1.5e9\n",
    ),
    (
        "summary",
        "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\"1\"} 2\ns{quantile=\"0.99\"} 3\ns_sum 4\ns_count 5\n",
    ),
    (
        "summary-forms",
        "# TYPE s summary\ns{quantile=\"0\"} 1\ns{quantile=\".5\"} 2\ns{quantile=\"1e0\"} 3\ns{quantile=\"x\"} 4\n",
    ),
    ("summary-nan", "# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_sum 0\ns_count 0\n"),
    ("summary-untyped", "s{quantile=\"1\"} 1\ns_sum 1\ns_count 1\n"),
    ("summary-le", "# TYPE s summary\ns{quantile=\"1\",le=\"1\"} 1\n"),
    ("gauge-le", "# TYPE g gauge\ng{le=\"1\",quantile=\"1\"} 1\n"),
    ("histogram-quantile", "# TYPE h histogram\nh_bucket{le=\"1\",quantile=\"1\"} 1\n"),
    ("counter-total", "# TYPE c_total counter\nc_total 5\n"),
    ("counter-om", "# TYPE c counter\nc_total 5\nc_created 1500000000\n"),
    ("counter-negative", "# TYPE c counter\nc_total -5\n"),
    ("counter-nan", "# TYPE c counter\nc_total NaN\n"),
    ("info-value", "# TYPE i info\ni_info{v=\"1\"} 2\n"),
    ("gauge-created", "# TYPE g gauge\ng 1\ng_created 2\n"),
    // exemplars
    ("exemplar", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} 0.5\n"),
    ("exemplar-two", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} 0.5 # {trace=\"d\"} 1\n"),
    ("exemplar-empty", "# TYPE c counter\nc_total 5 # {} 0.5\n"),
    ("exemplar-no-value", "# TYPE c counter\nc_total 5 # {trace=\"abc\"}\n"),
    ("exemplar-bad-value", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} x\n"),
    ("exemplar-nan", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} NaN\n"),
    ("exemplar-no-space", "# TYPE c counter\nc_total 5 #{trace=\"abc\"} 1\n"),
    ("exemplar-no-brace", "# TYPE c counter\nc_total 5 # trace=\"abc\" 1\n"),
    ("exemplar-comma", "# TYPE c counter\nc_total 5 # {trace=\"abc\",} 1\n"),
    ("exemplar-dup", "# TYPE c counter\nc_total 5 # {trace=\"abc\",trace=\"d\"} 1\n"),
    ("exemplar-quoted", "# TYPE c counter\nc_total 5 # {\"trace.id\"=\"abc\"} 1\n"),
    ("exemplar-quoted-name", "# TYPE c counter\nc_total 5 # {\"trace.id\"} 1\n"),
    ("exemplar-empty-label", "# TYPE c counter\nc_total 5 # {trace=\"\"} 1\n"),
    ("exemplar-gauge", "# TYPE g gauge\ng 5 # {trace=\"abc\"} 1\n"),
    ("exemplar-untyped", "g 5 # {trace=\"abc\"} 1\n"),
    ("exemplar-ts-nan", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} 1 NaN\n"),
    ("exemplar-ts-inf", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} 1 +Inf\n"),
    ("exemplar-ts-text", "# TYPE c counter\nc_total 5 # {trace=\"abc\"} 1 x\n"),
    (
        "exemplar-buckets",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1 # {t=\"a\"} 0.5\nh_bucket{le=\"+Inf\"} 3 # {t=\"b\"} 4\nh_sum 4.5\nh_count 3\n",
    ),
    ("exemplar-inner-quote", "# TYPE c counter\nc_total 5 # {trace=\"a\\\"b # {\"} 1\n"),
    ("exemplar-newline", "# TYPE c counter\nc_total 5 # {trace=\"a\nb\"} 1\n"),
];

/// Pages whose bytes are no text.
const BYTES: &[(&str, &[u8])] = &[
    ("bad-utf8-value", b"a{b=\"\xff\"} 1\n"),
    ("bad-utf8-label", b"a{b\xff=\"1\"} 1\n"),
    ("bad-utf8-name", b"a\xff 1\n"),
    ("bad-utf8-quoted", b"{\"a\xff\"} 1\n"),
    ("bad-utf8-quoted-label", b"a{\"b\xff\"=\"1\"} 1\n"),
    ("bad-utf8-help", b"# HELP a \xff\na 1\n"),
    ("bad-utf8-type", b"# TYPE a \xff\na 1\n"),
    ("bad-utf8-comment", b"# hello \xff\na 1\n"),
    ("bad-utf8-number", b"a 1\xff\n"),
    ("bad-utf8-cut", b"a{b=\"\xe6\x97\"} 1\n"),
    ("bad-utf8-surrogate", b"a{b=\"\xed\xa0\x80\"} 1\n"),
    ("bad-utf8-overlong", b"a{b=\"\xc0\x80\"} 1\n"),
    ("bad-utf8-late", b"a 1\nb 2\nc{d=\"\xff\"} 3\ne 4\n"),
    ("binary", b"\x00\x01\x02\x03\xff\xfe"),
    ("gzip-magic", b"\x1f\x8b\x08\x00\x00\x00"),
    ("utf16", b"\xff\xfea\x00 \x001\x00\n\x00"),
    ("html", b"<!DOCTYPE html><html><body>hello</body></html>"),
    ("json", b"{\"a\": 1}"),
    ("escapes-only", b"\\\\\\\n"),
    ("bell", b"a\x07 1\n"),
    ("vertical-tab", b"a\x0b1\n"),
    ("form-feed", b"a\x0c1\n"),
    ("nbsp", b"a\xc2\xa01\n"),
    ("del", b"a\x7f 1\n"),
];

/// Pages that are OpenMetrics as they stand.
const OPEN: &[(&str, &str)] = &[
    ("no-eof", "a 1\n"),
    ("eof-no-break", "a 1\n# EOF"),
    ("eof-only", "# EOF\n"),
    ("eof-then", "# EOF\na 1\n"),
    ("eof-blank", "a 1\n# EOF\n\n"),
    ("eof-lower", "a 1\n# eof\n"),
    ("cut-name", "a 1\nb"),
    ("cut-value", "a 1\nb 2"),
    ("cut-label", "a 1\nb{c=\""),
    ("cut-help", "# HELP a x"),
    ("cut-exemplar", "a_total 1 # {x=\"1\"}"),
    ("ts-past", "a 1 1.5\n# EOF\n"),
    ("ts-negative", "a 1 -1.5\n# EOF\n"),
    ("ts-huge", "a 1 1e300\n# EOF\n"),
    ("ts-negative-huge", "a 1 -1e300\n# EOF\n"),
    ("ts-exp-past", "a 1 1.5e9\nb 1\n# EOF\n"),
    ("ts-hex", "a 1 0x1\n# EOF\n"),
    ("ts-space", "a 1 1 \n# EOF\n"),
    ("created", "# TYPE c counter\nc_total 5\nc_created 1500000000.5\n# EOF\n"),
    ("created-first", "# TYPE c counter\nc_created 1500000000.5\nc_total 5\n# EOF\n"),
    ("created-summary", "# TYPE s summary\ns_count 5\ns_sum 1\ns{quantile=\"1\"} 2\ns_created 1500000000.5\n# EOF\n"),
    ("created-bad", "# TYPE c counter\nc_total 5\nc_created NaN\n# EOF\n"),
    ("unit-mid", "# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1\n# EOF\n"),
    ("unit-not-suffix", "# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n"),
    ("unit-no-underscore", "# UNIT abytes bytes\nabytes 1\n# EOF\n"),
    ("unit-quoted", "# UNIT \"a.b_bytes\" bytes\n{\"a.b_bytes\"} 1\n# EOF\n"),
    ("meta-order", "# HELP a x\n# UNIT a \n# TYPE a gauge\na 1\n# EOF\n"),
    ("meta-after", "a 1\n# HELP a x\n# EOF\n"),
    ("meta-break", "# HELP a\n# EOF\n"),
    (
        "exemplar-128",
        "# TYPE c counter\nc_total 1 # {a=\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456\"} 1\n# EOF\n",
    ),
    (
        "exemplar-129",
        "# TYPE c counter\nc_total 1 # {a=\"01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567x\"} 1\n# EOF\n",
    ),
    ("exemplar-space", "# TYPE c counter\nc_total 1  # {a=\"1\"} 1\n# EOF\n"),
    ("exemplar-space-in", "# TYPE c counter\nc_total 1 #  {a=\"1\"} 1\n# EOF\n"),
    ("exemplar-on-sum", "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1 # {a=\"1\"} 1\nh_count 1\n# EOF\n"),
    ("exemplar-nan-label", "# TYPE c counter\nc_total 1 # {NaN=\"1\"} 1\n# EOF\n"),
    (
        "exemplar-many",
        "# TYPE c counter\nc_total{x=\"1\"} 1 # {a=\"1\"} 1\nc_total{x=\"2\"} 1 # {a=\"2\"} 2\nc_total{x=\"3\"} 1 # {a=\"3\"} 3\n# EOF\n",
    ),
    ("stateset", "# TYPE a stateset\na{a=\"x\"} 1\na{a=\"y\"} 0\n# EOF\n"),
    ("stateset-bad", "# TYPE a stateset\na{a=\"x\"} 2\n# EOF\n"),
    (
        "gaugehistogram",
        "# TYPE a gaugehistogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_gcount 2\na_gsum 1\n# EOF\n",
    ),
    ("tabs", "a\t1\n# EOF\n"),
    ("double-space", "a  1\n# EOF\n"),
    ("blank", "a 1\n\nb 2\n# EOF\n"),
    ("comment", "# hello\na 1\n# EOF\n"),
    ("crlf", "a 1\r\n# EOF\r\n"),
    ("interleaved", "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na{x=\"1\"} 1\n# EOF\n"),
    ("summary-negative", "# TYPE s summary\ns{quantile=\"0.5\"} -1\ns_sum -1\ns_count -1\n# EOF\n"),
];

const CONTENT_TYPES: &[(&str, Option<&str>)] = &[
    ("none", None),
    ("empty", Some("")),
    ("plain", Some("text/plain")),
    ("plain-1", Some("text/plain; version=1.0.0; escaping=allow-utf-8")),
    ("plain-9", Some("text/plain; version=9.9.9")),
    ("plain-upper", Some("TEXT/PLAIN; VERSION=0.0.4")),
    ("plain-semicolon", Some("text/plain;")),
    ("plain-bad-param", Some("text/plain; version")),
    ("plain-bad-param2", Some("text/plain; =1")),
    ("plain-dup-param", Some("text/plain; a=1; a=2")),
    ("plain-quoted", Some("text/plain; charset=\"utf-8\"")),
    ("plain-open-quote", Some("text/plain; charset=\"utf-8")),
    ("plain-latin", Some("text/plain; charset=iso-8859-1")),
    ("plain-comma", Some("text/plain, text/html")),
    ("html", Some("text/html; charset=utf-8")),
    ("json", Some("application/json")),
    ("octet", Some("application/octet-stream")),
    ("star", Some("*/*")),
    ("slash", Some("/")),
    ("word", Some("text")),
    ("spaces", Some("   ")),
    ("om", Some("application/openmetrics-text")),
    ("om-0", Some("application/openmetrics-text; version=0.0.1; charset=utf-8")),
    ("om-2", Some("application/openmetrics-text; version=2.0.0; charset=utf-8")),
    ("proto", Some("application/vnd.google.protobuf")),
    ("proto-text", Some("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text")),
    ("proto-other", Some("application/vnd.google.protobuf; proto=x.y; encoding=delimited")),
    ("utf8", Some("text/plain; x=ü")),
];

fn text(name: &str, job: &'static str, body: impl Into<Vec<u8>>) -> Page {
    Page::new(name, job, vec![Reply::new(TEXT, body)])
}

fn steps(name: &str, job: &'static str, content_type: &str, bodies: &[&str]) -> Page {
    Page::new(name, job, bodies.iter().map(|b| Reply::new(content_type, *b)).collect())
}

/// All pages; `now` is the test's beginning in ms, for timestamps.
pub fn pages(now: i64) -> Vec<Page> {
    let mut out = Vec::new();
    for (name, body) in TEXTS {
        out.push(text(&format!("text/{name}"), "plain", *body));
        let mut open = (*body).to_owned();
        if !open.ends_with('\n') {
            open.push('\n');
        }
        open.push_str("# EOF\n");
        out.push(Page::new(&format!("om/{name}"), "plain", vec![Reply::new(OPEN_METRICS, open.clone())]));
        if name.contains("histogram") || name.contains("exemplar") {
            for job in ["nhcb", "nhcb-classic"] {
                out.push(text(&format!("{job}/{name}"), job, *body));
                out.push(Page::new(&format!("{job}/om-{name}"), job, vec![Reply::new(OPEN_METRICS, open.clone())]));
            }
        }
        if name.contains("quoted") || name.contains("dot") || name.contains("utf8") {
            out.push(text(&format!("legacy/{name}"), "legacy", *body));
        }
        if name.starts_with("reserved") || name.starts_with("report") || name.starts_with("empty") {
            out.push(text(&format!("honor/{name}"), "honor", *body));
        }
    }
    for (name, body) in BYTES {
        out.push(text(&format!("text/{name}"), "plain", *body));
        let open = [*body, b"# EOF\n"].concat();
        out.push(Page::new(&format!("om/{name}"), "plain", vec![Reply::new(OPEN_METRICS, open)]));
        out.push(Page::new(&format!("proto/{name}"), "plain", vec![Reply::new(proto::CONTENT_TYPE, *body)]));
    }
    for (name, body) in OPEN {
        out.push(Page::new(&format!("open/{name}"), "plain", vec![Reply::new(OPEN_METRICS, *body)]));
    }
    for (name, content_type) in CONTENT_TYPES {
        let jobs =
            ["plain", "fallback-text", "fallback-text1", "fallback-om", "fallback-om0", "fallback-proto", "protocols"];
        for job in jobs {
            let body = if job.contains("om") { "a 1\n# EOF\n" } else { "a 1\n" };
            let mut reply = Reply::new("", body);
            reply.content_type = content_type.map(str::to_owned);
            out.push(Page::new(&format!("type-{job}/{name}"), job, vec![reply]));
        }
    }
    timestamps(now, &mut out);
    staleness(&mut out);
    types(&mut out);
    limits(&mut out);
    relabelling(&mut out);
    transport(&mut out);
    protobuf(now, &mut out);
    out
}

/// Timestamps near the scrape: right ones, backward ones, ones that stay.
fn timestamps(now: i64, out: &mut Vec<Page>) {
    for job in ["plain", "no-timestamps", "track"] {
        let mut add = |name: &str, bodies: &[String], om: bool| {
            let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
            let content_type = if om { OPEN_METRICS } else { TEXT };
            let mut page = steps(&format!("time-{job}/{name}"), job, content_type, &bodies);
            page.own_timestamps = job != "no-timestamps";
            out.push(page);
        };
        let line = |v: i64, ago: i64| format!("a {v} {}\n", now - ago);
        add("stays", &[line(1, 1000)], false);
        add("moves", &[line(1, 4000), line(2, 3000), line(3, 2000), line(4, 1000)], false);
        add("back", &[line(1, 1000), line(2, 2000), line(3, 3000), line(4, 500)], false);
        add("same-other", &[line(1, 1000), line(2, 1000), line(3, 1000)], false);
        add("old", &[line(1, 3_600_000)], false);
        add("very-old", &[line(1, 86_400_000)], false);
        add("ahead-8", &[line(1, -8 * 60_000)], false);
        add("ahead-20", &[line(1, -20 * 60_000)], false);
        add("comes", &["a 1\n".into(), line(2, -5000), "a 3\n".into()], false);
        add("goes", &[line(1, 1000), "a 2\n".into(), line(3, 1000)], false);
        add("leaves", &[line(1, 1000), "b 2\n".into(), "b 3\n".into()], false);
        add("twice", &[format!("{}{}", line(1, 2000), line(2, 1000))], false);
        add("twice-back", &[format!("{}{}", line(1, 1000), line(2, 2000))], false);
        add("with-and-without", &[format!("{}a 2\n", line(1, 60_000))], false);
        add("without-and-with", &[format!("a 1\n{}", line(2, 60_000))], false);
        add("fails", &[line(1, 1000), "a 1 x\n".into(), line(2, 500)], false);
        let om = |v: i64, ago: i64| format!("a {v} {}.{:03}\n# EOF\n", (now - ago) / 1000, (now - ago) % 1000);
        add("om-stays", &[om(1, 1000)], true);
        add("om-back", &[om(1, 1000), om(2, 2000), om(3, 500)], true);
        add("om-fine", &[format!("a 1 {}.1239\n# EOF\n", now / 1000 - 5)], true);
        let exemplar =
            |ago: i64| format!("# TYPE c counter\nc_total 5 # {{t=\"a\"}} 1 {}.137\n# EOF\n", (now - ago) / 1000);
        add("exemplar", &[exemplar(1000)], true);
        add("exemplar-moves", &[exemplar(9000), exemplar(7000), exemplar(3000)], true);
        add("exemplar-back", &[exemplar(3000), exemplar(7000), exemplar(9000)], true);
    }
}

/// Series that come and go.
fn staleness(out: &mut Vec<Page>) {
    let mut add = |name: &str, bodies: &[&str]| out.push(steps(&format!("stale/{name}"), "plain", TEXT, bodies));
    add("goes", &["a 1\nb 1\n", "a 1\n", "a 1\nb 2\n", "b 3\n"]);
    add("fails", &["a 1\nb 1\n", "a 1\nb\n", "a 2\nb 2\n"]);
    add("empties", &["a 1\nb 1\n", "", "a 2\nb 2\n", "\n"]);
    add("moves", &["a 1\nb 2\nc 3\n", "c 1\na 2\nb 3\n", "b 1\nc 2\na 3\n"]);
    add("grows", &["a 1\n", "a 1\nb 2\n", "a 1\nb 2\nc 3\n", "z 0\na 1\nb 2\nc 3\n"]);
    add("shrinks", &["a 1\nb 2\nc 3\n", "a 1\nc 3\n", "c 3\n", "d 4\n"]);
    add("nan", &["a 1\n", "a NaN\n", "a 2\n"]);
    add("dup-comes", &["a 1\n", "a 1\na 2\n", "a 3\n"]);
    add(
        "dup-order",
        &["a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n", "a{y=\"2\",x=\"1\"} 3\n", "a{x=\"1\",y=\"2\"} 4\n"],
    );
    add("type-change", &["# TYPE a gauge\na 1\n", "# TYPE a counter\na 1\n", "a 1\n", "# HELP a x\na 1\n"]);
    add("help-change", &["# HELP a one\na 1\n", "# HELP a two\na 1\n", "# HELP a \na 1\n"]);
    add(
        "le-change",
        &[
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\n",
            "h_bucket{le=\"1\"} 2\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 3\n",
        ],
    );
    add("late-error", &["a 1\nb 2\n", "a 1\nb 2\nc 3\n!\n", "a 1\nb 2\nc 3\n"]);
    add("report-comes", &["a 1\n", "a 1\nup 5\n", "a 1\n"]);
    add("comment-change", &["# x\na 1\n", "# y\na 1\n", "a 1\n# z\n", "a 1\n"]);
    let mut down = steps("stale/500", "plain", TEXT, &["a 1\n", "a 2\n", "a 3\n"]);
    down.steps[1].status = "500 Internal Server Error";
    out.push(down);
    let mut gone = steps("stale/reset", "plain", TEXT, &["a 1\n", "a 2\n", "a 3\n"]);
    gone.steps[1].framing = Framing::None;
    out.push(gone);
    let mut swap = steps("stale/format", "plain", TEXT, &["a 1\n# EOF\n", "a 2\n# EOF\n", "a 3\n# EOF\n", "a 4\n\n"]);
    swap.steps[1].content_type = Some(OPEN_METRICS.to_owned());
    swap.steps[3].content_type = Some(OPEN_METRICS.to_owned());
    out.push(swap);
    let nhcb = |n: u32| {
        format!("# TYPE h histogram\nh_bucket{{le=\"1\"}} {n}\nh_bucket{{le=\"+Inf\"}} {n}\nh_sum {n}\nh_count {n}\n")
    };
    for job in ["nhcb", "nhcb-classic"] {
        let bodies = [nhcb(1), "a 1\n".to_owned(), nhcb(2), nhcb(2).replace("\"1\"", "\"2\"")];
        out.push(steps(&format!("stale/{job}"), job, TEXT, &bodies.each_ref().map(String::as_str)));
    }
}

fn limits(out: &mut Vec<Page>) {
    let lines = |n: usize| (0..n).map(|i| format!("m{i} {i}\n")).collect::<String>();
    for job in ["samples", "extra"] {
        for n in [0, 2, 3, 4, 5, 20] {
            out.push(text(&format!("{job}/{n}"), job, lines(n)));
        }
        out.push(text(&format!("{job}/dup"), job, "a 1\na 2\na 3\na 4\na 5\n"));
        out.push(text(&format!("{job}/dup-order"), job, "a{x=\"1\",y=\"1\"} 1\na{y=\"1\",x=\"1\"} 2\nb 3\nc 4\n"));
        out.push(text(&format!("{job}/reports"), job, "up 1\na 2\nb 3\n"));
        out.push(text(&format!("{job}/error"), job, lines(5) + "!\n"));
        out.push(text(&format!("{job}/error-early"), job, "a\n".to_owned() + &lines(5)));
        let bodies = [lines(2), lines(4), lines(3), lines(9)];
        out.push(steps(&format!("{job}/over-and-back"), job, TEXT, &bodies.each_ref().map(String::as_str)));
        let bodies = ["m0 2\nn 4\no 1\n", "x 7\ny 9\n# TYPE c counter\nz 1\nm0 1\nn 2\nv 3\n"];
        out.push(steps(&format!("{job}/over-with-old"), job, TEXT, &bodies));
        let bodies = [lines(5), lines(2), lines(5), lines(3)];
        out.push(steps(&format!("{job}/back-and-over"), job, TEXT, &bodies.each_ref().map(String::as_str)));
    }
    for job in ["targets", "targets-over"] {
        for name in ["a", "b"] {
            out.push(text(&format!("{job}/{name}"), job, "a 1\n"));
        }
    }
    for n in 1..6 {
        let page: String = (0..n).map(|i| format!("a{{i=\"{i}\"}} 1\nb{{i=\"{i}\",drop=\"yes\"}} 1\n")).collect();
        out.push(text(&format!("samples-drop/{n}"), "samples-drop", page));
    }
    for (name, body) in [
        ("fits", "a{x=\"1\",y=\"2\"} 1\n"),
        ("over", "a 1\nb{x=\"1\",y=\"2\",z=\"3\"} 1\n"),
        ("empty", "a{x=\"1\",y=\"2\",z=\"\"} 1\n"),
        (
            "far-over",
            "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl{a=\"1\",b=\"1\",c=\"1\",d=\"1\",e=\"1\"} 1\n",
        ),
    ] {
        out.push(text(&format!("labels/{name}"), "labels", body));
    }
    for (name, body) in [
        ("fits", "a{abcdefghi=\"1\"} 1\n"),
        ("over", "a{abcdefghij=\"1\"} 1\n"),
        ("utf8", "a{\"üüüüü\"=\"1\"} 1\n"),
        ("utf8-fits", "a{\"üüüü\"=\"1\"} 1\n"),
    ] {
        out.push(text(&format!("label-name/{name}"), "label-name", body));
    }
    for (name, body) in [
        ("fits", "a{x=\"12345678901234567890123456789012\"} 1\n".to_owned()),
        ("over", "a{x=\"123456789012345678901234567890123\"} 1\n".to_owned()),
        ("utf8", format!("a{{x=\"{}\"}} 1\n", "ü".repeat(17))),
        ("name", format!("{} 1\n", "a".repeat(33))),
        ("long", format!("a{{x=\"{}\"}} 1\n", "xy\\\"".repeat(40))),
    ] {
        out.push(text(&format!("label-value/{name}"), "label-value", body));
    }
    for n in [98, 99, 100, 101, 102, 5000] {
        let body = format!("a{{x=\"{}\"}} 1\n", "x".repeat(n - 10));
        assert_eq!(body.len(), n);
        out.push(text(&format!("body/{n}"), "body", body.clone()));
        let mut zipped = text(&format!("body/gzip-{n}"), "body", super::gzip(body.as_bytes()));
        zipped.steps[0].headers.push(("Content-Encoding", "gzip".into()));
        out.push(zipped);
        let mut chunked = text(&format!("body/chunked-{n}"), "body", body.clone());
        chunked.steps[0].framing = Framing::Chunked;
        out.push(chunked);
        out.push(text(&format!("extra/body-{n}"), "extra", body + &" ".repeat(50) + "\n"));
    }
}

/// What types and units say where they change, where the page has labels of their names, where they are not known.
fn types(out: &mut Vec<Page>) {
    let mut add =
        |name: &str, kind: &str, bodies: &[&str]| out.push(steps(&format!("types/{name}"), "plain", kind, bodies));
    add("change", TEXT, &["# TYPE a counter\na 1\n", "# TYPE a gauge\na 2\n", "a 3\n", "# TYPE a counter\na 4\n"]);
    add(
        "goes-on",
        TEXT,
        &[
            "# TYPE a counter\na 1\nb 2\n# TYPE c gauge\nb{x=\"1\"} 3\nc 1\n",
            "b 1\n# TYPE a counter\nb{x=\"1\"} 1\na 1\n",
        ],
    );
    add("twice", TEXT, &["# TYPE a counter\na 1\n# TYPE a gauge\na 2\n"]);
    add(
        "own",
        TEXT,
        &["# TYPE a counter\na{__type__=\"x\",__unit__=\"y\"} 1\n# TYPE b untyped\nb{__type__=\"x\"} 1\n"],
    );
    add("own-twice", TEXT, &["# TYPE a counter\na{__type__=\"x\",__type__=\"y\"} 1\n"]);
    add(
        "histogram",
        TEXT,
        &["# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"],
    );
    for (name, body) in [
        ("unit", "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# EOF\n"),
        (
            "unit-goes-on",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# TYPE b counter\nb_total 2\n# EOF\n",
        ),
        (
            "unit-empty",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# TYPE b gauge\n# UNIT b \nb 2\n# EOF\n",
        ),
        (
            "unit-own",
            "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds{__unit__=\"x\",__type__=\"\"} 1\n# EOF\n",
        ),
        (
            "state",
            "# TYPE a stateset\na{a=\"x\"} 1\n# TYPE b info\nb_info{x=\"1\"} 1\n# TYPE c gaugehistogram\nc_bucket{le=\"1\"} 1\nc_bucket{le=\"+Inf\"} 1\nc_gcount 1\nc_gsum 1\n# TYPE d unknown\nd 1\n# EOF\n",
        ),
    ] {
        add(name, OPEN_METRICS, &[body, &body.replace(" 1\n", " 2\n")]);
    }
}

fn relabelling(out: &mut Vec<Page>) {
    for (name, body) in [
        ("drops", "drop_a 1\nkeep 2\ndrop_b 3\n"),
        ("all-dropped", "drop_a 1\ndrop_b 3\n"),
        ("renames", "rename_a 1\nrename_b{x=\"1\"} 2\n"),
        ("nameless", "a 1\nnameless 2\n"),
        ("nameless-labels", "nameless{x=\"1\"} 2\n"),
        ("same", "same_a 1\nsame_b 2\nsame_c 3\n"),
        ("labeldrop", "a{kill_x=\"1\"} 1\na{kill_x=\"2\"} 2\n"),
        ("labelmap", "a{map_x=\"1\",map_y=\"2\"} 1\n"),
        ("upper", "a{up=\"ßabc\"} 1\n"),
        ("hashmod", "a{hash=\"x\"} 1\na{hash=\"y\"} 2\n"),
        ("bad-name", "a 1\nto_bad 2\n"),
        ("drop-dup", "drop_a 1\ndrop_a 2\na 1\na 2\n"),
        ("drop-bad-label", "drop_a{b=\"1\",b=\"2\"} 1\n"),
        ("reports", "up 1\n"),
    ] {
        out.push(text(&format!("relabel/{name}"), "relabel", body));
    }
}

/// What goes wrong below the format.
fn transport(out: &mut Vec<Page>) {
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
    let gzip = |r: &mut Reply| {
        r.body = super::gzip(&r.body);
        r.headers.push(("Content-Encoding", "gzip".to_owned()));
    };
    add("gzip", "plain", &gzip);
    add("gzip-unasked", "no-gzip", &gzip);
    add("gzip-upper", "plain", &|r| {
        r.body = super::gzip(&r.body);
        r.headers.push(("Content-Encoding", "GZIP".to_owned()));
    });
    add("gzip-plain-body", "plain", &|r| r.headers.push(("Content-Encoding", "gzip".to_owned())));
    add("gzip-empty", "plain", &|r| {
        r.body.clear();
        r.headers.push(("Content-Encoding", "gzip".to_owned()));
    });
    add("gzip-cut", "plain", &|r| {
        gzip(r);
        r.body.truncate(r.body.len() - 5);
    });
    add("gzip-no-trailer", "plain", &|r| {
        gzip(r);
        r.body.truncate(r.body.len() - 8);
    });
    add("gzip-bad-sum", "plain", &|r| {
        gzip(r);
        let at = r.body.len() - 6;
        r.body[at] ^= 0xff;
    });
    add("gzip-bad-middle", "plain", &|r| {
        gzip(r);
        r.body[12] ^= 0x55;
    });
    add("gzip-two", "plain", &|r| {
        gzip(r);
        r.body = [super::gzip(b"a 1\n"), super::gzip(b"b 2\n")].concat();
    });
    add("gzip-garbage-behind", "plain", &|r| {
        gzip(r);
        r.body.extend_from_slice(b"garbage");
    });
    add("gzip-twice", "plain", &|r| {
        r.body = super::gzip(&r.body);
        gzip(r);
    });
    add("deflate", "plain", &|r| r.headers.push(("Content-Encoding", "deflate".to_owned())));
    add("identity", "plain", &|r| r.headers.push(("Content-Encoding", "identity".to_owned())));
    add("zstd", "plain", &|r| r.headers.push(("Content-Encoding", "zstd".to_owned())));
    add("two-encodings", "plain", &|r| {
        gzip(r);
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

fn exemplar(seconds: Option<i64>, value: f64, id: &str) -> Exemplar {
    Exemplar {
        label: proto::labels(&[("t", id)]),
        value: Some(value),
        timestamp: seconds.map(|seconds| Timestamp { seconds, nanos: 137_000_000 }),
    }
}

fn bucket(count: u64, upper: f64) -> Bucket {
    Bucket { count: Some(count), upper: Some(upper), ..Bucket::default() }
}

fn native() -> Histogram {
    Histogram {
        count: Some(12),
        sum: Some(18.4),
        schema: Some(1),
        zero_threshold: Some(0.001),
        zero_count: Some(2),
        positive_span: proto::spans(&[(0, 2), (1, 2)]),
        positive_delta: vec![1, 1, -1, 0],
        negative_span: proto::spans(&[(0, 2), (1, 2)]),
        negative_delta: vec![1, 1, -1, 0],
        ..Histogram::default()
    }
}

fn of_histogram(name: &str, kind: i32, histogram: Histogram) -> Family {
    proto::family(name, kind, vec![Metric { histogram: Some(histogram), ..Metric::default() }])
}

fn protobuf(now: i64, out: &mut Vec<Page>) {
    let jobs = [
        "plain",
        "nhcb",
        "nhcb-classic",
        "native",
        "native-classic",
        "native-nhcb",
        "native-all",
        "native-buckets",
        "native-factor",
    ];
    let classic = Histogram {
        count: Some(4),
        sum: Some(5.5),
        bucket: vec![bucket(1, 0.5), bucket(3, 1.0), bucket(4, f64::INFINITY)],
        ..Histogram::default()
    };
    let no_inf = Histogram { bucket: vec![bucket(1, 0.5), bucket(3, 1.0)], ..classic.clone() };
    let both = Histogram { bucket: classic.bucket.clone(), ..native() };
    let float = Histogram {
        count: None,
        count_float: Some(12.5),
        zero_count: None,
        zero_count_float: Some(2.5),
        positive_delta: vec![],
        positive_count: vec![1.5, 2.0, 1.0, 1.0],
        negative_delta: vec![],
        negative_count: vec![1.5, 2.0, 1.0, 0.0],
        ..native()
    };
    let float_classic = Histogram {
        count: None,
        count_float: Some(4.5),
        bucket: vec![Bucket { count: None, count_float: Some(1.5), upper: Some(1.0), exemplar: None }],
        ..classic.clone()
    };
    let with_exemplars = Histogram {
        exemplars: vec![
            exemplar(Some(now / 1000 - 2), 1.0, "a"),
            exemplar(Some(now / 1000 - 3), 2.0, "b"),
            exemplar(None, 3.0, "c"),
        ],
        ..native()
    };
    let mut bucket_exemplars = classic.clone();
    bucket_exemplars.bucket[0].exemplar = Some(exemplar(Some(now / 1000 - 2), 0.2, "a"));
    bucket_exemplars.bucket[2].exemplar = Some(exemplar(None, 7.0, "b"));
    let both_exemplars = Histogram { bucket: bucket_exemplars.bucket.clone(), ..with_exemplars.clone() };
    let created = Some(Timestamp { seconds: now / 1000 - 100, nanos: 0 });
    let histograms: Vec<(&str, i32, Histogram)> = vec![
        ("classic", 4, classic.clone()),
        ("classic-no-inf", 4, no_inf),
        (
            "classic-unsorted",
            4,
            Histogram { bucket: vec![bucket(4, f64::INFINITY), bucket(3, 1.0), bucket(1, 0.5)], ..classic.clone() },
        ),
        (
            "classic-falling",
            4,
            Histogram { bucket: vec![bucket(3, 0.5), bucket(1, 1.0), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        (
            "classic-dup",
            4,
            Histogram { bucket: vec![bucket(1, 1.0), bucket(2, 1.0), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        (
            "classic-nan",
            4,
            Histogram { bucket: vec![bucket(1, f64::NAN), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        ("classic-empty", 4, Histogram::default()),
        ("classic-count-only", 4, Histogram { count: Some(3), ..Histogram::default() }),
        ("classic-count-differs", 4, Histogram { count: Some(99), ..classic.clone() }),
        ("classic-gauge", 5, classic.clone()),
        ("classic-created", 4, Histogram { created, ..classic.clone() }),
        ("classic-exemplars", 4, bucket_exemplars),
        ("classic-float", 4, float_classic),
        ("native", 4, native()),
        ("native-gauge", 5, native()),
        ("native-created", 4, Histogram { created, ..native() }),
        ("native-float", 4, float),
        ("native-both", 4, both),
        ("native-exemplars", 4, with_exemplars),
        ("native-both-exemplars", 4, both_exemplars),
        (
            "native-zero-only",
            4,
            Histogram {
                count: Some(2),
                zero_count: Some(2),
                zero_threshold: Some(0.1),
                schema: Some(0),
                sum: Some(0.0),
                ..Histogram::default()
            },
        ),
        (
            "native-empty-span",
            4,
            Histogram {
                count: Some(0),
                schema: Some(3),
                zero_threshold: Some(0.0),
                sum: Some(0.0),
                positive_span: proto::spans(&[(0, 0)]),
                ..Histogram::default()
            },
        ),
        (
            "native-threshold-zero",
            4,
            Histogram { schema: Some(3), zero_threshold: Some(0.0), count: Some(0), ..Histogram::default() },
        ),
        ("native-nan-sum", 4, Histogram { sum: Some(f64::NAN), ..native() }),
        ("native-count-low", 4, Histogram { count: Some(1), ..native() }),
        ("native-count-high", 4, Histogram { count: Some(100), ..native() }),
        ("native-spans-long", 4, Histogram { positive_span: proto::spans(&[(0, 20)]), ..native() }),
        ("native-spans-short", 4, Histogram { positive_span: proto::spans(&[(0, 1)]), ..native() }),
        ("native-span-negative", 4, Histogram { positive_span: proto::spans(&[(0, 2), (-1, 2)]), ..native() }),
        ("native-bucket-negative", 4, Histogram { positive_delta: vec![1, -5, 1, 1], ..native() }),
        ("native-schema-9", 4, Histogram { schema: Some(9), ..native() }),
        ("native-schema-8", 4, Histogram { schema: Some(8), ..native() }),
        ("native-schema-52", 4, Histogram { schema: Some(52), ..native() }),
        ("native-schema--4", 4, Histogram { schema: Some(-4), ..native() }),
        ("native-schema--5", 4, Histogram { schema: Some(-5), ..native() }),
        ("native-schema--53", 4, Histogram { schema: Some(-53), ..native() }),
        ("native-threshold-negative", 4, Histogram { zero_threshold: Some(-1.0), ..native() }),
        ("native-threshold-nan", 4, Histogram { zero_threshold: Some(f64::NAN), ..native() }),
        (
            "native-zero-spans",
            4,
            Histogram { positive_span: proto::spans(&[(0, 1), (0, 0), (0, 1), (1, 2)]), ..native() },
        ),
        ("native-offset-far", 4, Histogram { positive_span: proto::spans(&[(1_000_000, 2), (1, 2)]), ..native() }),
        (
            "native-wide",
            4,
            Histogram {
                count: Some(100),
                positive_span: proto::spans(&[(0, 88)]),
                positive_delta: [1i64].into_iter().chain(std::iter::repeat_n(0, 87)).collect(),
                ..native()
            },
        ),
        ("native-in-gauge-type", 1, native()),
    ];
    for (name, kind, histogram) in histograms {
        for job in jobs {
            let page = proto::page(&[of_histogram("h", kind, histogram.clone())]);
            out.push(Page::new(&format!("proto-{job}/{name}"), job, vec![Reply::new(proto::CONTENT_TYPE, page)]));
        }
    }
    let gauge = |v: f64| Metric { gauge: Some(Value { value: Some(v) }), ..Metric::default() };
    let labelled = |pairs: &[(&str, &str)]| Metric { label: proto::labels(pairs), ..gauge(1.0) };
    let counter = |c: Counter| Metric { counter: Some(c), ..Metric::default() };
    let summary = |s: Summary| Metric { summary: Some(s), ..Metric::default() };
    let quantile = |q: f64, v: f64| Quantile { quantile: Some(q), value: Some(v) };
    let cases: Vec<(&str, Vec<Family>)> = vec![
        ("none", vec![]),
        ("gauge", vec![proto::family("g", 1, vec![gauge(1.5)])]),
        ("gauge-nan", vec![proto::family("g", 1, vec![gauge(f64::NAN), labelled(&[("a", "1")])])]),
        ("gauge-payload", vec![proto::family("g", 1, vec![gauge(f64::from_bits(0x7ff0_0000_0000_0002))])]),
        (
            "counter",
            vec![proto::family("c_total", 0, vec![counter(Counter { value: Some(3.0), ..Counter::default() })])],
        ),
        (
            "counter-created",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter { value: Some(3.0), created, ..Counter::default() })],
            )],
        ),
        (
            "counter-exemplar",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter {
                    value: Some(3.0),
                    exemplar: Some(exemplar(Some(now / 1000 - 1), 1.0, "x")),
                    ..Counter::default()
                })],
            )],
        ),
        (
            "counter-exemplar-bare",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter {
                    value: Some(3.0),
                    exemplar: Some(exemplar(None, 1.0, "x")),
                    ..Counter::default()
                })],
            )],
        ),
        (
            "untyped",
            vec![proto::family(
                "u",
                3,
                vec![Metric { untyped: Some(Value { value: Some(2.0) }), ..Metric::default() }],
            )],
        ),
        (
            "summary",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: Some(1.5),
                    quantile: vec![quantile(0.5, 1.0), quantile(1.0, 2.0), quantile(0.99, f64::NAN)],
                    created: None,
                })],
            )],
        ),
        ("summary-bare", vec![proto::family("s", 2, vec![summary(Summary::default())])]),
        (
            "summary-odd",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: None,
                    quantile: vec![quantile(f64::NAN, 1.0), quantile(-1.0, 1.0), quantile(f64::INFINITY, 1.0)],
                    created,
                })],
            )],
        ),
        (
            "summary-dup",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: None,
                    quantile: vec![quantile(0.5, 1.0), quantile(0.5, 2.0)],
                    created: None,
                })],
            )],
        ),
        ("type-mismatch", vec![proto::family("g", 0, vec![gauge(1.0)])]),
        ("type-mismatch-late", vec![proto::family("a", 1, vec![gauge(1.0)]), proto::family("g", 0, vec![gauge(1.0)])]),
        ("type-none", vec![Family { kind: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("type-unknown", vec![proto::family("g", 17, vec![gauge(1.0)])]),
        ("name-none", vec![Family { name: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("name-empty", vec![proto::family("", 1, vec![gauge(1.0)])]),
        ("name-dots", vec![proto::family("a.b", 1, vec![gauge(1.0)])]),
        ("name-space", vec![proto::family("a b", 1, vec![gauge(1.0)])]),
        ("help-none", vec![Family { help: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("help-newline", vec![Family { help: Some("a\nb\\n".into()), ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("unit", vec![Family { unit: Some("seconds".into()), ..proto::family("g_seconds", 1, vec![gauge(1.0)]) }]),
        ("unit-wrong", vec![Family { unit: Some("seconds".into()), ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("no-metrics", vec![proto::family("g", 1, vec![]), proto::family("h", 1, vec![gauge(1.0)])]),
        ("no-value", vec![proto::family("g", 1, vec![Metric::default()])]),
        (
            "labels",
            vec![proto::family("g", 1, vec![labelled(&[("z", "1"), ("a", "2")]), labelled(&[("a", "\u{0}\u{1}")])])],
        ),
        ("labels-empty", vec![proto::family("g", 1, vec![labelled(&[("a", "")])])]),
        ("labels-name-empty", vec![proto::family("g", 1, vec![labelled(&[("", "x")])])]),
        ("labels-dup", vec![proto::family("g", 1, vec![labelled(&[("a", "1"), ("a", "2")])])]),
        ("labels-dots", vec![proto::family("g", 1, vec![labelled(&[("a.b", "1")])])]),
        ("labels-le", vec![proto::family("g", 1, vec![labelled(&[("le", "1"), ("quantile", "1")])])]),
        ("labels-meta", vec![proto::family("g", 1, vec![labelled(&[("__name__", "x")])])]),
        ("dup", vec![proto::family("g", 1, vec![gauge(1.0), gauge(2.0)])]),
        ("dup-family", vec![proto::family("g", 1, vec![gauge(1.0)]), proto::family("g", 1, vec![gauge(2.0)])]),
        (
            "dup-order",
            vec![proto::family("g", 1, vec![labelled(&[("a", "1"), ("b", "1")]), labelled(&[("b", "1"), ("a", "1")])])],
        ),
        ("timestamp", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(now - 1000), ..gauge(1.0) }])]),
        ("timestamp-zero", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(0), ..gauge(1.0) }])]),
        ("timestamp-negative", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(-5), ..gauge(1.0) }])]),
        ("timestamp-far", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(i64::MAX), ..gauge(1.0) }])]),
        ("reports", vec![proto::family("up", 1, vec![gauge(9.0)])]),
    ];
    for (name, families) in cases {
        let mut page = Page::new(
            &format!("proto/{name}"),
            "native",
            vec![Reply::new(proto::CONTENT_TYPE, proto::page(&families))],
        );
        page.own_timestamps = name.starts_with("timestamp");
        out.push(page);
    }
    // Broken messages.
    let good = proto::page(&[proto::family("a", 1, vec![gauge(1.0)]), proto::family("b", 1, vec![gauge(2.0)])]);
    for cut in [1, 2, 5, good.len() / 2, good.len() - 1] {
        let page = good[..cut].to_vec();
        out.push(Page::new(&format!("proto/cut-{cut}"), "native", vec![Reply::new(proto::CONTENT_TYPE, page)]));
    }
    for (name, bytes) in [
        ("length-huge", vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("length-overlong", vec![0xff; 11]),
        ("zero-messages", vec![0, 0, 0]),
        ("wrong-wire", vec![2, 0x08, 0x01]),
        ("unknown-field", [vec![good[0] + 3], good[1..=good[0] as usize].to_vec(), vec![0xa8, 0x06, 0x01]].concat()),
        ("group-wire", vec![2, 0x0b, 0x0c]),
        ("bad-utf8", vec![3, 0x0a, 0x01, 0xff]),
        ("text-inside", b"a 1\n".to_vec()),
        ("trailing", [good.clone(), vec![0x80]].concat()),
    ] {
        out.push(Page::new(&format!("proto/{name}"), "native", vec![Reply::new(proto::CONTENT_TYPE, bytes)]));
    }
}
