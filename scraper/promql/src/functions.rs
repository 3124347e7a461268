//! PromQL's functions, one family per file. Each gets columns or windows and gives values; labels, steps and matching
//! are the evaluator's matter.

pub(crate) mod histogram;
pub(crate) mod labels;
pub(crate) mod math;
pub(crate) mod over_time;
pub(crate) mod rate;
pub(crate) mod sort;
pub(crate) mod time;
pub(crate) mod trend;

use std::sync::Arc;

use narthex_model::Histogram;

use crate::annotations::{Annotation, HistogramOperation};
use crate::ast::PosRange;
use crate::engine::query::Query;

/// The samples of one series in the window of one step. Floats and histograms ascend in time; start timestamps are
/// parallel to them, or empty.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    pub t: &'a [i64],
    pub f: &'a [f64],
    pub starts: &'a [i64],
    pub ht: &'a [i64],
    pub h: &'a [Arc<Histogram>],
    pub hstarts: &'a [i64],
    /// The step's time, and the window's ends, in milliseconds.
    pub now: i64,
    pub range_start: i64,
    pub range_end: i64,
    /// Whether the window reaches beyond its ends.
    pub anchored: bool,
    pub smoothed: bool,
}

impl Window<'_> {
    pub(crate) fn is_mixed(&self) -> bool {
        !self.f.is_empty() && !self.h.is_empty()
    }
}

/// What a range function knows besides the window.
pub(crate) struct RangeContext<'a> {
    pub query: &'a Query,
    /// Of the argument, for annotations.
    pub pos: PosRange,
    /// Of the series.
    pub metric: &'a str,
    pub range_seconds: f64,
}

impl RangeContext<'_> {
    pub(crate) fn annotate(&self, annotation: Annotation) {
        self.query.annotate(annotation);
    }

    pub(crate) fn mixed(&self) {
        self.annotate(Annotation::mixed_floats_histograms(self.metric, self.pos));
    }

    pub(crate) fn mixed_schemas(&self) {
        self.annotate(Annotation::mixed_exponential_custom(self.metric, self.pos));
    }

    pub(crate) fn ignored_histograms(&self, w: &Window<'_>) {
        if !w.h.is_empty() {
            self.annotate(Annotation::ignored_in_mixed_range(self.metric, self.pos));
        }
    }

    /// Adds a histogram, with the annotations that belong to it. False when it cannot be added.
    pub(crate) fn add(&self, sum: &mut Histogram, other: &Histogram) -> bool {
        self.settle(sum.add(other), HistogramOperation::Add)
    }

    /// Subtracts one likewise.
    pub(crate) fn sub(&self, sum: &mut Histogram, other: &Histogram) -> bool {
        self.settle(sum.sub(other), HistogramOperation::Sub)
    }

    fn settle(
        &self,
        outcome: Result<narthex_model::histogram::AddOutcome, narthex_model::histogram::IncompatibleSchemas>,
        operation: HistogramOperation,
    ) -> bool {
        match outcome {
            Ok(outcome) => {
                if outcome.bounds_reconciled {
                    self.annotate(Annotation::bounds_reconciled(operation, self.pos));
                }
                true
            }
            Err(_) => {
                self.mixed_schemas();
                false
            }
        }
    }
}
