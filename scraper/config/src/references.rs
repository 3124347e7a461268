//! References to the environment and to files of secrets in a configuration file: `%{NAME}` is a variable, `%{file:PATH}` what a
//! file holds, but for blanks at its end; `%%{` is `%{`. They may stand in any text of the file, and of those that
//! `scrape_config_files` names, once [`allow`] was called: a plain `prometheus.yml` is read as it stands.
//!
//! What a reference stood for is never shown: where a configuration or a fault of one is printed, the reference is. What
//! comes from elsewhere (discovered targets, monitors) is not looked through for references.

use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// From here on references are followed (`--config.expand-env`).
pub fn allow() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// The longest file of a secret.
const MAX_FILE: u64 = 1 << 20;

/// How many texts are kept to be hidden; files that rotate bring new ones.
const MAX_HIDDEN: usize = 10_000;

/// What is hidden where it is part of a text has at least this many bytes.
const MIN_PART: usize = 4;

/// Texts that must not be shown, with what is shown in their place.
static HIDDEN: RwLock<Vec<(String, String)>> = RwLock::new(Vec::new());

/// Follows the references in the texts of one file.
#[derive(Clone, Debug)]
pub(crate) struct References {
    /// Relative files are relative to it.
    folder: PathBuf,
}

impl References {
    /// For a file in this folder; `None` where references are not followed.
    pub fn of(file: &Path) -> Option<References> {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        ALLOWED.load(Ordering::Relaxed).then_some(References { folder })
    }

    /// The text with what its references stand for; `None` where it has none.
    ///
    /// # Errors
    /// A reference that leads nowhere.
    pub fn follow(&self, text: &str) -> Result<Option<String>, String> {
        if !text.contains("%{") {
            return Ok(None);
        }
        let (mut out, mut rest) = (String::new(), text);
        let mut hidden = Vec::new();
        while let Some(at) = rest.find("%{") {
            let (before, reference) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('%') {
                out.push_str(before);
                out.push_str("%{");
                rest = &reference[2..];
                continue;
            }
            out.push_str(before);
            let end = reference.find('}').ok_or_else(|| format!("a reference without its end: {reference:?}"))?;
            let value = self.value(&reference[2..end])?;
            out.push_str(&value);
            hidden.push((value, reference[..=end].to_owned()));
            rest = &reference[end + 1..];
        }
        out.push_str(rest);
        if !hidden.is_empty() {
            hidden.push((out.clone(), text.to_owned()));
            hide(hidden);
        }
        Ok(Some(out))
    }

    fn value(&self, name: &str) -> Result<String, String> {
        if let Some(path) = name.strip_prefix("file:") {
            let read = |path: &Path| -> std::io::Result<String> {
                if std::fs::metadata(path)?.len() > MAX_FILE {
                    return Err(std::io::Error::other("it is too long for a secret"));
                }
                std::fs::read_to_string(path)
            };
            let text =
                read(&self.folder.join(path)).map_err(|e| format!("cannot read the file of %{{{name}}}: {e}"))?;
            return Ok(text.trim_end().to_owned());
        }
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() || !plain {
            return Err(format!("%{{{name}}} is no reference: %{{NAME}} and %{{file:PATH}} are"));
        }
        std::env::var(name).map_err(|_| format!("the environment has no variable {name}, which %{{{name}}} refers to"))
    }
}

/// Keeps texts from being shown from now on.
fn hide(texts: Vec<(String, String)>) {
    let mut hidden = HIDDEN.write().unwrap_or_else(|e| e.into_inner());
    for (text, shown) in texts {
        if text.is_empty() {
            continue;
        }
        match hidden.iter_mut().find(|(t, _)| *t == text) {
            Some(known) => known.1 = shown,
            None => hidden.push((text, shown)),
        }
    }
    // The longest first, so that of two that begin alike none is shown in part.
    hidden.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    hidden.truncate(MAX_HIDDEN);
}

/// A text of a configuration, or about one, as it may be shown.
pub(crate) fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    let hidden = HIDDEN.read().unwrap_or_else(|e| e.into_inner());
    if let Some((_, shown)) = hidden.iter().find(|(t, _)| t == text) {
        return shown.clone().into();
    }
    let mut out = std::borrow::Cow::Borrowed(text);
    for (secret, shown) in hidden.iter().filter(|(t, _)| t.len() >= MIN_PART) {
        if out.contains(secret.as_str()) {
            out = out.replace(secret.as_str(), shown).into();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "from-a-file \n").unwrap();
        let references = References { folder: folder.path().to_owned() };
        let home = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        for (text, expected) in [
            ("plain $HOME ${HOME} %", None),
            ("100%{CARGO_MANIFEST_DIR}%", Some(format!("100{home}%"))),
            ("%%{X} %{file:secret}", Some("%{X} from-a-file".to_owned())),
            ("a%{file:secret}b%{file:secret}", Some("afrom-a-filebfrom-a-file".to_owned())),
        ] {
            assert_eq!(references.follow(text).unwrap(), expected, "{text}");
        }
        for (text, fault) in [
            ("%{NO_SUCH_VARIABLE}", "the environment has no variable NO_SUCH_VARIABLE"),
            ("%{file:none}", "cannot read the file of %{file:none}: No such file"),
            ("%{}", "is no reference"),
            ("%{a b}", "is no reference"),
            ("x%{a", "without its end"),
        ] {
            let said = references.follow(text).unwrap_err();
            assert!(said.contains(fault), "{text}: {said}");
        }
        assert_eq!(shown("from-a-file"), "%{file:secret}");
        assert_eq!(shown("cannot read `from-a-file` there"), "cannot read `%{file:secret}` there");
        assert_eq!(shown("http://afrom-a-filebfrom-a-file/"), "http://a%{file:secret}b%{file:secret}/");
    }
}
