//! The messages of `io.prometheus.client` (client_model's `metrics.proto`) as a scrape needs them. Absent numbers read
//! as 0, and a message that comes twice is merged, as Prometheus has it; what a page says in no field of these is
//! passed over. Labels stay as they lie: whether they are any good is asked only where they are wanted.

use super::ParseError;
use super::wire::{Fields, zigzag32};

/// Text as it lies on the page, maybe not UTF-8.
pub(super) type Raw<'a> = &'a [u8];

#[derive(Clone, Debug, Default)]
pub(super) struct Counter<'a> {
    pub value: f64,
    pub exemplar: Option<Exemplar<'a>>,
    pub start: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quantile {
    pub quantile: f64,
    pub value: f64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub sample_count: u64,
    pub sample_sum: f64,
    pub quantile: Vec<Quantile>,
    pub start: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Histogram<'a> {
    pub sample_count: u64,
    pub sample_count_float: f64,
    pub sample_sum: f64,
    pub bucket: Vec<Bucket<'a>>,
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: u64,
    pub zero_count_float: f64,
    pub negative_span: Vec<BucketSpan>,
    pub negative_delta: Vec<i64>,
    pub negative_count: Vec<f64>,
    pub positive_span: Vec<BucketSpan>,
    pub positive_delta: Vec<i64>,
    pub positive_count: Vec<f64>,
    pub start: Option<Timestamp>,
    pub exemplars: Vec<Exemplar<'a>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Bucket<'a> {
    pub cumulative_count: u64,
    pub cumulative_count_float: f64,
    pub upper_bound: f64,
    /// Most have none.
    pub exemplar: Option<Box<Exemplar<'a>>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BucketSpan {
    pub offset: i32,
    pub length: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Exemplar<'a> {
    pub label: Vec<(Raw<'a>, Raw<'a>)>,
    pub value: f64,
    pub timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timestamp {
    pub seconds: i64,
    pub nanos: i32,
}

impl Timestamp {
    /// Milliseconds since the epoch; what no `i64` holds wraps around.
    pub fn millis(&self) -> i64 {
        self.seconds.wrapping_mul(1000).wrapping_add((self.nanos / 1_000_000) as i64)
    }

    fn merge(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Timestamp", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.seconds = fields.varint(wire, "Seconds")? as i64,
                2 => self.nanos = fields.varint(wire, "Nanos")? as i32,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Metric<'a> {
    /// Messages.
    pub label: Vec<Raw<'a>>,
    pub gauge: f64,
    pub counter: Counter<'a>,
    pub summary: Summary,
    pub untyped: f64,
    pub timestamp_ms: i64,
    pub histogram: Histogram<'a>,
}

impl<'a> Metric<'a> {
    pub fn decode(message: &'a [u8]) -> Result<Metric<'a>, ParseError> {
        let mut out = Metric::default();
        let mut fields = Fields::new("Metric", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => out.label.push(fields.bytes(wire, "Label")?),
                2 => merge_value("Gauge", &mut out.gauge, fields.bytes(wire, "Gauge")?)?,
                3 => out.counter.merge(fields.bytes(wire, "Counter")?)?,
                4 => out.summary.merge(fields.bytes(wire, "Summary")?)?,
                5 => merge_value("Untyped", &mut out.untyped, fields.bytes(wire, "Untyped")?)?,
                6 => out.timestamp_ms = fields.varint(wire, "TimestampMs")? as i64,
                7 => out.histogram.merge(fields.bytes(wire, "Histogram")?)?,
                _ => fields.skip()?,
            }
        }
        Ok(out)
    }
}

/// Name and value of a label's message; `check` sees each of them as it comes, and whether it is the name.
pub(super) fn label_pair<'a>(
    message: &'a [u8],
    check: impl Fn(bool, Raw<'a>) -> Result<(), ParseError>,
) -> Result<(Raw<'a>, Raw<'a>), ParseError> {
    let (mut name, mut value) = (&b""[..], &b""[..]);
    let mut fields = Fields::new("LabelPair", message);
    while let Some((tag, wire)) = fields.next()? {
        match tag {
            1 => {
                name = fields.bytes(wire, "Name")?;
                check(true, name)?;
            }
            2 => {
                value = fields.bytes(wire, "Value")?;
                check(false, value)?;
            }
            _ => fields.skip()?,
        }
    }
    Ok((name, value))
}

/// A gauge or what has no type.
fn merge_value(name: &'static str, value: &mut f64, message: &[u8]) -> Result<(), ParseError> {
    let mut fields = Fields::new(name, message);
    while let Some((tag, wire)) = fields.next()? {
        match tag {
            1 => *value = fields.double(wire, "Value")?,
            _ => fields.skip()?,
        }
    }
    Ok(())
}

impl<'a> Counter<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Counter", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.value = fields.double(wire, "Value")?,
                2 => self.exemplar.get_or_insert_default().merge(fields.bytes(wire, "Exemplar")?)?,
                3 => self.start.get_or_insert_default().merge(fields.bytes(wire, "StartTimestamp")?)?,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

impl Quantile {
    fn merge(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Quantile", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.quantile = fields.double(wire, "Quantile")?,
                2 => self.value = fields.double(wire, "Value")?,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

impl Summary {
    fn merge(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Summary", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.sample_count = fields.varint(wire, "SampleCount")?,
                2 => self.sample_sum = fields.double(wire, "SampleSum")?,
                3 => {
                    let mut quantile = Quantile::default();
                    quantile.merge(fields.bytes(wire, "Quantile")?)?;
                    self.quantile.push(quantile);
                }
                4 => self.start.get_or_insert_default().merge(fields.bytes(wire, "StartTimestamp")?)?,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

impl<'a> Histogram<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Histogram", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.sample_count = fields.varint(wire, "SampleCount")?,
                2 => self.sample_sum = fields.double(wire, "SampleSum")?,
                3 => {
                    let mut bucket = Bucket::default();
                    bucket.merge(fields.bytes(wire, "Bucket")?)?;
                    self.bucket.push(bucket);
                }
                4 => self.sample_count_float = fields.double(wire, "SampleCountFloat")?,
                5 => self.schema = zigzag32(fields.varint(wire, "Schema")?),
                6 => self.zero_threshold = fields.double(wire, "ZeroThreshold")?,
                7 => self.zero_count = fields.varint(wire, "ZeroCount")?,
                8 => self.zero_count_float = fields.double(wire, "ZeroCountFloat")?,
                9 => self.negative_span.push(BucketSpan::decode(fields.bytes(wire, "NegativeSpan")?)?),
                10 => fields.zigzags(wire, "NegativeDelta", &mut self.negative_delta)?,
                11 => fields.doubles(wire, "NegativeCount", &mut self.negative_count)?,
                12 => self.positive_span.push(BucketSpan::decode(fields.bytes(wire, "PositiveSpan")?)?),
                13 => fields.zigzags(wire, "PositiveDelta", &mut self.positive_delta)?,
                14 => fields.doubles(wire, "PositiveCount", &mut self.positive_count)?,
                15 => self.start.get_or_insert_default().merge(fields.bytes(wire, "StartTimestamp")?)?,
                16 => {
                    let mut exemplar = Exemplar::default();
                    exemplar.merge(fields.bytes(wire, "Exemplars")?)?;
                    self.exemplars.push(exemplar);
                }
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

impl<'a> Bucket<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Bucket", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.cumulative_count = fields.varint(wire, "CumulativeCount")?,
                2 => self.upper_bound = fields.double(wire, "UpperBound")?,
                3 => self.exemplar.get_or_insert_default().merge(fields.bytes(wire, "Exemplar")?)?,
                4 => self.cumulative_count_float = fields.double(wire, "CumulativeCountFloat")?,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

impl BucketSpan {
    fn decode(message: &[u8]) -> Result<BucketSpan, ParseError> {
        let mut out = BucketSpan::default();
        let mut fields = Fields::new("BucketSpan", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => out.offset = zigzag32(fields.varint(wire, "Offset")?),
                2 => out.length = fields.varint(wire, "Length")? as u32,
                _ => fields.skip()?,
            }
        }
        Ok(out)
    }
}

impl<'a> Exemplar<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), ParseError> {
        let mut fields = Fields::new("Exemplar", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => self.label.push(label_pair(fields.bytes(wire, "Label")?, |_, _| Ok(()))?),
                2 => self.value = fields.double(wire, "Value")?,
                3 => self.timestamp.get_or_insert_default().merge(fields.bytes(wire, "Timestamp")?)?,
                _ => fields.skip()?,
            }
        }
        Ok(())
    }
}

/// A family without its metrics, which are decoded one at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FamilyHead<'a> {
    pub name: Raw<'a>,
    pub help: Raw<'a>,
    pub metric_type: i32,
    pub unit: Raw<'a>,
}

impl<'a> FamilyHead<'a> {
    /// The head, and whether the family has metrics, whose framing is sound then.
    pub fn decode(message: &'a [u8]) -> Result<(FamilyHead<'a>, bool), ParseError> {
        let (mut out, mut has_metrics) = (FamilyHead::default(), false);
        let mut fields = Fields::new("MetricFamily", message);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => out.name = fields.bytes(wire, "Name")?,
                2 => out.help = fields.bytes(wire, "Help")?,
                3 => out.metric_type = fields.varint(wire, "Type")? as i32,
                4 => {
                    fields.bytes(wire, "Metric")?;
                    has_metrics = true;
                }
                5 => out.unit = fields.bytes(wire, "Unit")?,
                _ => fields.skip()?,
            }
        }
        Ok((out, has_metrics))
    }

    /// The next metric's message among the fields that are left.
    pub fn next_metric(fields: &mut Fields<'a>) -> Result<Option<&'a [u8]>, ParseError> {
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                4 => return fields.bytes(wire, "Metric").map(Some),
                _ => fields.skip()?,
            }
        }
        Ok(None)
    }
}

pub(super) const COUNTER: i32 = 0;
pub(super) const GAUGE: i32 = 1;
pub(super) const SUMMARY: i32 = 2;
pub(super) const UNTYPED: i32 = 3;
pub(super) const HISTOGRAM: i32 = 4;
pub(super) const GAUGE_HISTOGRAM: i32 = 5;
