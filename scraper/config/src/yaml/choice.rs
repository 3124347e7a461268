//! A text of which only a few are known.

use super::decode::Fault;
use super::{Context, Node, Out, Yaml};

/// An enumeration that stands in files by its members' names.
pub(crate) trait Choice: Copy + 'static {
    /// What messages call the type.
    const TYPE: &'static str;

    const ALL: &'static [Self];

    /// What an explicit null gives.
    const ZERO: Self;

    /// The member's name; empty for one that says that nothing was chosen, which is not printed.
    fn name(self) -> &'static str;

    /// The fault of a text that names none.
    fn unknown(text: &str) -> String;
}

impl<T: Choice> Yaml for T {
    const GO_TYPE: &'static str = T::TYPE;

    fn zero() -> Self {
        T::ZERO
    }

    fn is_zero(&self) -> bool {
        self.name().is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let text = String::decode(node, cx)?;
        let named = T::ALL.iter().find(|c| c.name() == text);
        named.copied().ok_or_else(|| cx.fault(node, T::unknown(&text)))
    }

    fn print(&self) -> Out {
        Out::Text(self.name().into())
    }
}
