//! What a page says of a metric besides its samples.

/// The labels that say a series' type and unit (Prometheus's feature `type-and-unit-labels`).
pub const TYPE_LABEL: &str = "__type__";
pub const UNIT_LABEL: &str = "__unit__";

/// The type of a metric as exposition formats declare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetricType {
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
    #[default]
    Unknown,
}

impl MetricType {
    /// The name that `/api/v1/metadata` and the text formats use.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::GaugeHistogram => "gaugehistogram",
            MetricType::Summary => "summary",
            MetricType::Info => "info",
            MetricType::StateSet => "stateset",
            MetricType::Unknown => "unknown",
        }
    }

    /// The labels that a series of this type and of that unit gets ([`TYPE_LABEL`], [`UNIT_LABEL`]): none for what is not
    /// known.
    pub fn labels(self, unit: &str) -> impl Iterator<Item = (&str, &str)> {
        let kind = if self == MetricType::Unknown { "" } else { self.as_str() };
        [(TYPE_LABEL, kind), (UNIT_LABEL, unit)].into_iter().filter(|(_, value)| !value.is_empty())
    }

    /// The number in remote-write messages (`prompb.MetricMetadata`, `io.prometheus.write.v2.Metadata`).
    pub fn code(self) -> u64 {
        match self {
            MetricType::Unknown => 0,
            MetricType::Counter => 1,
            MetricType::Gauge => 2,
            MetricType::Histogram => 3,
            MetricType::GaugeHistogram => 4,
            MetricType::Summary => 5,
            MetricType::Info => 6,
            MetricType::StateSet => 7,
        }
    }

    /// The type of that number; unknown where it is none's.
    pub fn from_code(code: u64) -> MetricType {
        match code {
            1 => MetricType::Counter,
            2 => MetricType::Gauge,
            3 => MetricType::Histogram,
            4 => MetricType::GaugeHistogram,
            5 => MetricType::Summary,
            6 => MetricType::Info,
            7 => MetricType::StateSet,
            _ => MetricType::Unknown,
        }
    }

    /// The type of that name, as [`MetricType::as_str`] spells it.
    pub fn from_name(name: &str) -> Option<MetricType> {
        Some(match name {
            "counter" => MetricType::Counter,
            "gauge" => MetricType::Gauge,
            "histogram" => MetricType::Histogram,
            "gaugehistogram" => MetricType::GaugeHistogram,
            "summary" => MetricType::Summary,
            "info" => MetricType::Info,
            "stateset" => MetricType::StateSet,
            "unknown" => MetricType::Unknown,
            _ => return None,
        })
    }
}

/// Type, help and unit of one metric name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Metadata {
    pub metric_type: MetricType,
    pub help: String,
    pub unit: String,
}
