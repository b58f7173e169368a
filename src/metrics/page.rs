//! Collects samples of the catalogue's metrics and writes them in Prometheus' exposition format, version 0.0.4. Must
//! not know what a metric means.
//!
//! The format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>. The crate does the
//! escaping. Its `Registry` and metric vectors are not used: a vector distinguishes its children by a hash over the
//! label values without a separator, so `("a", "bc")` and `("ab", "c")` would be one series. It also omits metrics
//! without a series.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, MetricFamily, MetricType};

use super::Error;
use super::catalogue::{Kind, Metric};

/// Replaces a carriage return in a label. The format has no escape for it, and scripts would take it for the end of a
/// line.
const REPLACEMENT: &str = "\u{fffd}";

/// Samples by series. A later value replaces an earlier one.
#[derive(Debug, Default)]
pub(super) struct Page(BTreeMap<&'static str, BTreeMap<Vec<String>, f64>>);

impl Page {
    /// Sets one series; `labels` are the values of the metric's labels, in the catalogue's order.
    pub(super) fn set(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let labels = labels.iter().map(|label| label.replace('\r', REPLACEMENT)).collect();
        self.0.entry(metric.name).or_default().insert(labels, value);
    }

    /// The text of these metrics, each with its help and type even if it has no series.
    pub(super) fn text(&self, metrics: &[Metric]) -> Result<String, Error> {
        let mut text = String::new();
        for metric in metrics {
            match self.0.get(metric.name) {
                Some(samples) => TextEncoder.encode_utf8(&[family(metric, samples)], &mut text)?,
                None => text.push_str(&header(metric)),
            }
        }
        Ok(text)
    }
}

/// What the crate writes before the series of a metric. No help text of the catalogue needs escaping.
fn header(metric: &Metric) -> String {
    let Metric { name, help, .. } = metric;
    let kind = match metric.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn family(metric: &Metric, samples: &BTreeMap<Vec<String>, f64>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
    });
    family.set_metric(samples.iter().map(|(labels, value)| sample(metric, labels, *value)).collect());
    family
}

fn sample(metric: &Metric, labels: &[String], value: f64) -> prometheus::proto::Metric {
    let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut sample = prometheus::proto::Metric::from_label(pairs.collect());
    match metric.kind {
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        }
    }
    sample
}
