//! What a query returns.

use std::sync::Arc;

use narthex_model::{Histogram, Labels};

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Float(f64),
    Histogram(Arc<Histogram>),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    /// Milliseconds since the epoch: the evaluation's time.
    pub timestamp: i64,
    pub point: Point,
}

/// One series of a matrix. A timestamp is in at most one of the two lists; both ascend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatrixSeries {
    pub labels: Labels,
    pub floats: Vec<(i64, f64)>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

/// The value of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar {
        timestamp: i64,
        value: f64,
    },
    String {
        timestamp: i64,
        value: String,
    },
    /// In the order that the query gave, which matters after `sort` and `topk`; label sets are unique.
    Vector(Vec<Sample>),
    /// Sorted by labels, unique.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// As the API names the type: `scalar`, `string`, `vector`, `matrix`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Scalar { .. } => "scalar",
            Value::String { .. } => "string",
            Value::Vector(_) => "vector",
            Value::Matrix(_) => "matrix",
        }
    }
}
