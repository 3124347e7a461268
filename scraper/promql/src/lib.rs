//! PromQL: parser, printer and engine.

pub mod ast;
pub mod error;
pub mod functions_table;
pub mod parser;

pub use ast::Expr;
pub use error::ParseError;
pub use parser::{ParserOptions, parse};
