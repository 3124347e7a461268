//! The histogram of a sample, within the limits of its buckets.

use std::sync::Arc;

use narthex_model::{Histogram, Labels};

use super::{Fault, PageError, Run};
use crate::exposition::{PageParser, ParseError, no_histogram};
use crate::histogram;

impl Run<'_> {
    /// The current histogram, within the limits. `None` when it has too many buckets: it is counted on the page, but
    /// not by the limit of samples.
    pub(super) fn reduced(&mut self, parser: &mut dyn PageParser) -> Result<Option<Arc<Histogram>>, PageError> {
        let h = self.histogram(parser)?;
        self.within_limits(h)
    }

    pub(super) fn histogram(&mut self, parser: &mut dyn PageParser) -> Result<Arc<Histogram>, PageError> {
        match parser.histogram() {
            Ok(h) => Ok(h),
            Err(e) if e == no_histogram() => Err(self.histogram_missing(parser)),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn within_limits(&mut self, mut h: Arc<Histogram>) -> Result<Option<Arc<Histogram>>, PageError> {
        let buckets = (h.positive_buckets.len() + h.negative_buckets.len()) as u64;
        if buckets > self.bucket_limit() || h.schema > self.rules.max_schema {
            let reduced = Arc::make_mut(&mut h);
            match histogram::limit(reduced, self.rules.bucket_limit as usize, self.rules.max_schema) {
                Ok(()) => {}
                Err(e) if e == histogram::BUCKET_LIMIT => {
                    self.bucket_limit_hit = true;
                    self.counts.added += 1;
                    self.counts.repeated += 1;
                    return Ok(None);
                }
                Err(e) => return Err(ParseError(e).into()),
            }
        }
        Ok(Some(h))
    }

    /// What Prometheus says where its parser announces a histogram and has none.
    pub(super) fn histogram_missing(&mut self, parser: &dyn PageParser) -> PageError {
        let mut raw = std::mem::take(&mut self.raw);
        let labels = parser.labels(&mut raw).ok().and_then(|()| self.rules.labels(&raw).ok().flatten());
        self.raw = raw;
        let message = format!(
            "parser returned nil histogram/float histogram for a histogram entry type for {} series; parser bug; aborting",
            labels.unwrap_or_else(Labels::empty)
        );
        PageError { fault: Fault::Parse, message }
    }

    pub(super) fn bucket_limit(&self) -> u64 {
        if self.rules.bucket_limit == 0 { u64::MAX } else { self.rules.bucket_limit }
    }
}
