//! Relabelling rules as YAML.

use narthex_model::{Action, RelabelConfig, RelabelRegex};

use crate::yaml::decode::{self, Fault};
use crate::yaml::{Check, Context, Node, Out, Section, Yaml};

impl Check for RelabelConfig {}

impl Section for RelabelConfig {
    const GO_TYPE: &'static str = "relabel.Config";

    fn field(&mut self, key: &str, node: &Node, cx: &mut Context) -> Result<bool, Fault> {
        fn set<T: Yaml>(field: &mut T, node: &Node, cx: &mut Context) -> Result<(), Fault> {
            if let Some(value) = decode::value(node, cx)? {
                *field = value;
            }
            Ok(())
        }
        match key {
            "source_labels" => {
                set(&mut self.source_labels, node, cx)?;
                if self.source_labels.iter().any(String::is_empty) {
                    return Err(cx.fault(node, "\"\" is not a valid label name"));
                }
            }
            "separator" => set(&mut self.separator, node, cx)?,
            "regex" => set(&mut self.regex, node, cx)?,
            "modulus" => set(&mut self.modulus, node, cx)?,
            "target_label" => set(&mut self.target_label, node, cx)?,
            "replacement" => set(&mut self.replacement, node, cx)?,
            "action" => set(&mut self.action, node, cx)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn write(&self, out: &mut Vec<(String, Out)>) {
        if !self.source_labels.is_empty() {
            out.push(("source_labels".into(), Out::Flow(Box::new(self.source_labels.print()))));
        }
        out.push(("separator".into(), self.separator.print()));
        if !self.regex.is_default() {
            out.push(("regex".into(), self.regex.print()));
        }
        if self.modulus != 0 {
            out.push(("modulus".into(), self.modulus.print()));
        }
        if !self.target_label.is_empty() {
            out.push(("target_label".into(), self.target_label.print()));
        }
        out.push(("replacement".into(), self.replacement.print()));
        if let Some(action) = self.action {
            out.push(("action".into(), action.print()));
        }
    }
}

impl Yaml for RelabelConfig {
    const GO_TYPE: &'static str = "relabel.Config";

    fn zero() -> Self {
        RelabelConfig {
            separator: String::new(),
            replacement: String::new(),
            action: None,
            regex: RelabelRegex::zero(),
            ..RelabelConfig::default()
        }
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        decode::section(node, cx)
    }

    fn print(&self) -> Out {
        let mut out = Vec::new();
        Section::write(self, &mut out);
        Out::Map(out)
    }
}

impl Yaml for RelabelRegex {
    const GO_TYPE: &'static str = "relabel.Regexp";

    fn zero() -> Self {
        RelabelRegex::new("").unwrap_or_default()
    }

    fn is_zero(&self) -> bool {
        self.is_default()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let text = String::decode(node, cx)?;
        RelabelRegex::new(&text).map_err(|message| cx.fault(node, message))
    }

    fn print(&self) -> Out {
        Out::Text(self.as_str().to_owned())
    }
}

impl Yaml for Action {
    const GO_TYPE: &'static str = "relabel.Action";

    fn zero() -> Self {
        Action::Replace
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let text = String::decode(node, cx)?;
        Action::from_name(&text)
            .ok_or_else(|| cx.fault(node, format!("unknown relabel action {}", narthex_model::labels::quote(&text))))
    }

    fn print(&self) -> Out {
        Out::Text(self.as_str().into())
    }
}
