//! Texts that are never shown.

use std::fmt;

use crate::yaml::decode::Fault;
use crate::yaml::{Context, Node, Out, Yaml};

/// What stands in place of a secret wherever configuration is shown.
pub const REDACTED: &str = "<secret>";

/// A text that no formatting shows: [`Secret::expose`] is the only way to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the request that needs it; never for a log, a page or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { REDACTED })
    }
}

impl Yaml for Secret {
    const GO_TYPE: &'static str = "config.Secret";

    fn zero() -> Self {
        Secret::default()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        Ok(Secret(String::decode(node, cx)?))
    }

    fn print(&self) -> Out {
        if self.is_empty() { Out::Plain("null".into()) } else { Out::Text(REDACTED.into()) }
    }
}
