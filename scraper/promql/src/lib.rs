//! PromQL: parser, printer and engine.

pub mod ast;
pub mod ast_json;
pub mod error;
pub mod functions_table;
mod lexer;
pub mod parser;
pub mod printer;

pub use ast::Expr;
pub use error::ParseError;
pub use parser::{ParserOptions, parse, parse_selector};
