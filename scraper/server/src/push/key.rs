//! The key of a group, as the path of a request names it.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use narthex_model::labels::{is_legacy_name, quote, quote_bytes};

/// Labels sorted by name, `job` among them; values may be empty.
pub type Key = Vec<(String, String)>;

/// Most labels of a key.
const MOST_LABELS: usize = 64;

/// What a name ends in whose value is base64.
const BASE64: &str = "@base64";

/// Without padding, which is cut off before; of the last character Go ignores what is too much.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

fn base64(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('=');
    let bytes = ENGINE.decode(text).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, ..) | base64::DecodeError::InvalidLastSymbol(at, ..) => at,
            _ => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    })?;
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

/// What follows `/metrics/` in a path that names a group, decoded; `None` where the path names none.
pub fn is_group(path: &[u8]) -> bool {
    let rest = path.strip_prefix(b"job").map(|rest| rest.strip_prefix(BASE64.as_bytes()).unwrap_or(rest));
    rest.and_then(|rest| rest.strip_prefix(b"/")).is_some_and(|rest| !rest.is_empty())
}

/// The key that such a path names.
///
/// # Errors
/// In the Pushgateway's words. A path that is not UTF-8 is refused here; the Pushgateway stores a group that makes all
/// further pushes fail.
pub fn parse(path: &[u8]) -> Result<Key, String> {
    let path = std::str::from_utf8(path).map_err(|_| format!("path {} is not UTF-8", quote_bytes(path)))?;
    let (word, rest) = path.split_once('/').unwrap_or((path, ""));
    let (job, labels) = match rest.split_once('/') {
        Some((job, labels)) => (job, Some(labels)),
        None => (rest, None),
    };
    let job = match word.ends_with(BASE64) {
        true => base64(job).map_err(|e| format!("invalid base64 encoding in job name {}: {e}", quote(job)))?,
        false => job.to_owned(),
    };
    let mut key = Key::new();
    let mut set = |name: &str, value: String| match key.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => key.push((name.to_owned(), value)),
    };
    let parts: Vec<&str> = labels.filter(|l| !l.is_empty()).map(|l| l.split('/').collect()).unwrap_or_default();
    if !parts.len().is_multiple_of(2) {
        let text = format!("/{}", labels.unwrap_or_default());
        return Err(format!("odd number of components in label string {}", quote(&text)));
    }
    if parts.len() / 2 >= MOST_LABELS {
        return Err(format!("a grouping key has at most {MOST_LABELS} labels"));
    }
    for pair in parts.chunks_exact(2) {
        let &[name, value] = pair else { continue };
        let plain = name.strip_suffix(BASE64).unwrap_or(name);
        if !is_legacy_name(plain) || plain.starts_with("__") {
            return Err(format!("improper label name {}", quote(plain)));
        }
        let value = match plain.len() == name.len() {
            true => value.to_owned(),
            false => {
                base64(value).map_err(|e| format!("invalid base64 encoding for label {plain}={}: {e}", quote(value)))?
            }
        };
        set(plain, value);
    }
    if job.is_empty() {
        return Err("job name is required".to_owned());
    }
    set("job", job);
    key.sort();
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_the_pushgateway_reads_them() {
        for (path, expected) in [
            ("job/j", Ok("job=j")),
            ("job/j/", Ok("job=j")),
            ("job/j/x/", Ok("job=j x=")),
            ("job/j/b/2/a/1", Ok("a=1 b=2 job=j")),
            ("job/j/a/1/a/2", Ok("a=2 job=j")),
            ("job/j/job/k", Ok("job=j")),
            ("job/j/path//var/tmp", Ok("job=j path= var=tmp")),
            ("job@base64/YS9i", Ok("job=a/b")),
            ("job/j/p@base64/YQ==", Ok("job=j p=a")),
            ("job/j/p@base64/YR", Ok("job=j p=a")),
            ("job/j/p@base64/=", Ok("job=j p=")),
            ("job/j/a b/1", Err("improper label name \"a b\"")),
            ("job/j/__a/1", Err("improper label name \"__a\"")),
            ("job/j/x", Err("odd number of components in label string \"/x\"")),
            ("job@base64/=", Err("job name is required")),
            ("job@base64/!", Err("invalid base64 encoding in job name \"!\": illegal base64 data at input byte 0")),
            ("job/j/p@base64/!", Err("invalid base64 encoding for label p=\"!\": ")),
        ] {
            let got = parse(path.as_bytes());
            let text = |key: Key| key.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
            match (got.map(text), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{path}"),
                (Err(got), Err(expected)) => assert!(got.starts_with(expected), "{path}: {got}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert!(parse(b"job/\xff").is_err());
        let labels = |n: usize| (0..n).map(|i| format!("/l{i}/v")).collect::<String>();
        assert!(parse(format!("job/j{}", labels(63)).as_bytes()).is_ok());
        assert!(parse(format!("job/j{}", labels(64)).as_bytes()).unwrap_err().contains("at most 64"));
        for (path, expected) in
            [("job/", false), ("job", false), ("jobs/a", false), ("job/a", true), ("job@base64/a", true)]
        {
            assert_eq!(is_group(path.as_bytes()), expected, "{path}");
        }
    }
}
