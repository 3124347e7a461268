//! PromQL: parser, printer and engine.

pub mod annotations;
pub mod ast;
pub mod ast_json;
pub mod deep;
pub mod engine;
pub mod error;
mod functions;
pub mod functions_table;
mod lexer;
pub mod parser;
pub mod printer;
pub mod testscript;
pub mod value;

pub use annotations::Annotations;
pub use ast::Expr;
pub use engine::{
    Engine, EngineError, EngineErrorKind, EngineOptions, InstantQuery, Prepared, QueryLimits, QueryResult, QueryStats,
    RangeQuery, SampleStats, Timings,
};
pub use error::ParseError;
pub use parser::{ParserOptions, parse, parse_selector};
pub use value::{MatrixSeries, Point, Sample, Value};
