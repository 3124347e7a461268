//! YAML as Prometheus's reader (go-yaml 2) takes it: a tree with lines, typed decoding that rejects unknown keys,
//! and printing in the same form.
//!
//! Why not derive it: the shared HTTP client keys stand *inside* other sections, defaults depend on whether a section
//! is there, null, or absent, scalars keep their text (`regex: 0123`), and an error has to name line and key.

mod choice;
pub(crate) mod decode;
pub(crate) mod emit;
pub(crate) mod node;

pub(crate) use choice::Choice;
pub(crate) use decode::{Check, Context, Invalid, Section, Yaml};
pub(crate) use emit::Out;
pub(crate) use node::Node;

/// Declares a section of the configuration: the struct, its defaults, and how its keys are read and printed.
///
/// Per field: how it prints (`omit` when it has its type's zero value, `keep` always, `flow` as `omit` in one line,
/// `inline` its own keys stand in this section), the key, name, type, and the default where that is not `Default`'s.
/// A `checked` section implements [`Check`], a `plain` one needs no check.
macro_rules! section {
    ($(#[$meta:meta])* $checked:ident pub struct $Name:ident = $go:literal {
        $( $(#[$fmeta:meta])* $mode:ident $key:literal $field:ident : $ty:ty $( = $default:expr )? ),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name { $( $(#[$fmeta])* pub $field: $ty, )* }

        impl Default for $Name {
            fn default() -> Self {
                $Name { $( $field: $crate::yaml::section!(@default $ty $(, $default)?), )* }
            }
        }

        impl $crate::yaml::Section for $Name {
            const GO_TYPE: &'static str = $go;

            #[allow(unused_variables)]
            fn field(
                &mut self,
                key: &str,
                node: &$crate::yaml::Node,
                cx: &mut $crate::yaml::Context,
            ) -> Result<bool, $crate::yaml::decode::Fault> {
                $( $crate::yaml::section!(@field $mode $key, self.$field, key, node, cx); )*
                Ok(false)
            }

            #[allow(unused_variables)]
            fn write(&self, out: &mut Vec<(String, $crate::yaml::Out)>) {
                $( $crate::yaml::section!(@write $mode $key, self.$field, out); )*
            }
        }

        impl $crate::yaml::Yaml for $Name {
            const GO_TYPE: &'static str = $go;

            fn zero() -> Self {
                $Name { $( $field: $crate::yaml::Yaml::zero(), )* }
            }

            fn is_zero(&self) -> bool {
                $( $crate::yaml::Yaml::is_zero(&self.$field) && )* true
            }

            fn decode(
                node: &$crate::yaml::Node,
                cx: &mut $crate::yaml::Context,
            ) -> Result<Self, $crate::yaml::decode::Fault> {
                $crate::yaml::decode::section(node, cx)
            }

            fn print(&self) -> $crate::yaml::Out {
                let mut out = Vec::new();
                $crate::yaml::Section::write(self, &mut out);
                $crate::yaml::Out::Map(out)
            }

            #[allow(unused_variables)]
            fn relocate(&mut self, dir: &std::path::Path) {
                $( $crate::yaml::Yaml::relocate(&mut self.$field, dir); )*
            }
        }

        $crate::yaml::section!(@check $checked $Name);
    };

    (@default $ty:ty) => { <$ty>::default() };
    (@default $ty:ty, $default:expr) => { $default };

    (@check checked $Name:ident) => {};
    (@check plain $Name:ident) => { impl $crate::yaml::Check for $Name {} };

    (@field inline $key:literal, $field:expr, $name:ident, $node:ident, $cx:ident) => {
        if $crate::yaml::Section::field(&mut $field, $name, $node, $cx)? {
            return Ok(true);
        }
    };
    (@field $mode:ident $key:literal, $field:expr, $name:ident, $node:ident, $cx:ident) => {
        if $name == $key {
            if let Some(value) = $crate::yaml::decode::value($node, $cx)? {
                $field = value;
            }
            return Ok(true);
        }
    };

    (@write inline $key:literal, $field:expr, $out:ident) => { $crate::yaml::Section::write(&$field, $out); };
    (@write keep $key:literal, $field:expr, $out:ident) => {
        $out.push(($key.to_owned(), $crate::yaml::Yaml::print(&$field)));
    };
    (@write omit $key:literal, $field:expr, $out:ident) => {
        if !$crate::yaml::Yaml::is_zero(&$field) {
            $out.push(($key.to_owned(), $crate::yaml::Yaml::print(&$field)));
        }
    };
    (@write flow $key:literal, $field:expr, $out:ident) => {
        if !$crate::yaml::Yaml::is_zero(&$field) {
            $out.push(($key.to_owned(), $crate::yaml::Out::Flow(Box::new($crate::yaml::Yaml::print(&$field)))));
        }
    };
}
pub(crate) use section;
