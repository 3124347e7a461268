//! What a large query really allocates, against the budget that it is given: 10,000 series over 1,500 steps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;
use narthex_model::Labels;
use narthex_promql::{Engine, EngineError, EngineOptions, QueryLimits, RangeQuery, Value};
use narthex_storage::memory::SelectOnly;
use narthex_storage::{Batch, FloatColumn, SelectRequest, Series, SeriesSet};

/// Counts what lives, and the most that ever lived.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all work is the system allocator's; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERIES: usize = 10_000;
const STEPS: i64 = 1_500;
const STEP: i64 = 15_000;

/// Makes its series as they are asked for, as a store decodes them.
fn made(_: &SelectRequest) -> SeriesSet {
    let times: Arc<[i64]> = (-20..STEPS).map(|i| i * STEP).collect();
    let values: Vec<f64> = (0..times.len()).map(|k| (k * 7) as f64).collect();
    let batches = (0..SERIES / 100).map(move |b| {
        let series = (0..100).map(|i| {
            let n = (b * 100 + i).to_string();
            let labels = Labels::from_pairs([("__name__", "m_total"), ("instance", n.as_str()), ("job", "j")]);
            Series { labels, floats: FloatColumn::new(times.clone(), values.clone()), ..Series::default() }
        });
        Ok(Batch { series: series.collect() })
    });
    SeriesSet { batches: Box::new(batches), warnings: Vec::new() }
}

/// Bytes that the query took at most, and the series of its result.
fn run(expr: &str, max_bytes: usize) -> (usize, Result<usize, EngineError>) {
    let limits = QueryLimits { max_bytes: Some(max_bytes), ..QueryLimits::default() };
    let query = RangeQuery {
        expr: expr.into(),
        start: 0,
        end: (STEPS - 1) * STEP,
        step: STEP,
        limits,
        ..RangeQuery::default()
    };
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = block_on(Engine::new(EngineOptions::default()).range(Arc::new(SelectOnly(made)), query));
    let most = MOST.load(Ordering::Relaxed) - before;
    let series = result.map(|r| match r.value {
        Value::Matrix(all) => all.len(),
        _ => 0,
    });
    (most, series)
}

#[test]
fn queries_stay_within_their_bytes() {
    const MIB: usize = 1 << 20;
    // A budget that suffices, and the series that come out. What is outside of the budget is small.
    for (expr, budget, series) in [("rate(m_total[5m])", 400 * MIB, SERIES), ("sum by (job) (m_total)", 4 * MIB, 1)] {
        let (most, result) = run(expr, budget);
        assert_eq!(result.unwrap(), series, "{expr}");
        assert!(most < budget + 4 * MIB, "{expr} took {most} of {budget} bytes");
        println!("{expr}: {} MiB at most", most / MIB);
    }
    for (expr, budget) in [("m_total", 30 * MIB), ("m_total * 2", 200 * MIB), ("sum(m_total)", MIB / 2)] {
        let (most, result) = run(expr, budget);
        assert!(matches!(result, Err(EngineError::TooManyBytes(_))), "{expr}");
        assert!(most < budget + 4 * MIB, "{expr} took {most} of {budget} bytes before it was stopped");
    }
}
