//! Checks the names in a PromQL expression against the catalogue, with a third-party parser.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::collections::BTreeSet;

use kvmbackup::metrics::catalogue;
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// The metrics of Prometheus itself and of node_exporter that the project uses: name and labels.
const OTHERS: &[(&str, &[&str])] =
    &[("up", &[]), ("node_textfile_mtime_seconds", &["file"]), ("node_textfile_scrape_error", &[])];
/// Labels that Prometheus adds to every series.
const TARGET: [&str; 2] = ["instance", "job"];
/// Labels with a fixed set of values, all of which the metric's help names.
const WORDS: [&str; 7] = ["result", "state", "reason", "stage", "mode", "level", "wanted"];

/// A parsed expression.
pub struct Query {
    expr: Expr,
}

/// A selector, and the function around it, if there is one.
pub struct Selected<'a> {
    /// The selector.
    pub selector: &'a VectorSelector,
    /// Of the innermost call that has it as an argument.
    pub function: Option<&'a str>,
}

impl Query {
    /// Parses it. Panics with `place` if it is invalid.
    pub fn parse(text: &str, place: &str) -> Query {
        let expr = parser::parse(text).unwrap_or_else(|error| panic!("{place}: {error}: {text}"));
        Query { expr }
    }

    /// All selectors.
    pub fn selectors(&self) -> Vec<Selected<'_>> {
        let mut found = Vec::new();
        selectors(&self.expr, None, &mut found);
        found
    }

    /// Panics unless all metrics, labels and label values are in the catalogue.
    pub fn assert_known(&self, place: &str) {
        let mut labels = BTreeSet::from(TARGET);
        for Selected { selector, .. } in self.selectors() {
            let name = selector.name.as_deref().unwrap_or_else(|| panic!("{place}: a selector without a metric"));
            let metric = catalogue::ALL.iter().find(|metric| metric.name == name);
            let other = OTHERS.iter().find(|(other, _)| *other == name);
            let own = match (metric, other) {
                (Some(metric), _) => metric.labels,
                (None, Some((_, labels))) => labels,
                (None, None) => panic!("{place}: the catalogue has no metric {name}"),
            };
            labels.extend(own);
            assert!(
                selector.matchers.or_matchers.is_empty(),
                "{place}: `or` in a selector is not supported by Prometheus"
            );
            for matcher in &selector.matchers.matchers {
                let label = matcher.name.as_str();
                assert!(own.contains(&label) || TARGET.contains(&label), "{place}: {name} has no label {label}");
                for word in words(matcher).into_iter().filter(|_| WORDS.contains(&label)) {
                    let help = metric.map_or("", |metric| metric.help);
                    let told = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|told| told == word);
                    assert!(told, "{place}: {name} never has {label}=\"{word}\" according to its help: {help}");
                }
            }
        }
        for label in grouping(&self.expr) {
            assert!(labels.contains(label), "{place}: no metric in it has the label {label}");
        }
    }
}

/// The values that a matcher names; none if it is negative, or matches by more than alternatives.
fn words(matcher: &Matcher) -> Vec<&str> {
    match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![&matcher.value],
        MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
    }
}

/// Calls `each` with the direct parts of an expression.
fn children<'a>(expr: &'a Expr, mut each: impl FnMut(&'a Expr)) {
    match expr {
        Expr::Aggregate(of) => {
            each(&of.expr);
            of.param.iter().for_each(|param| each(param));
        }
        Expr::Unary(of) => each(&of.expr),
        Expr::Binary(of) => {
            each(&of.lhs);
            each(&of.rhs);
        }
        Expr::Paren(of) => each(&of.expr),
        Expr::Subquery(of) => each(&of.expr),
        Expr::Call(of) => of.args.args.iter().for_each(|argument| each(argument)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::VectorSelector(_) | Expr::MatrixSelector(_) => {}
        Expr::Extension(_) => panic!("not supported by Prometheus"),
    }
}

fn selectors<'a>(expr: &'a Expr, function: Option<&'a str>, found: &mut Vec<Selected<'a>>) {
    match expr {
        Expr::VectorSelector(selector) => found.push(Selected { selector, function }),
        Expr::MatrixSelector(matrix) => found.push(Selected { selector: &matrix.vs, function }),
        Expr::Call(call) => children(expr, |child| selectors(child, Some(call.func.name), found)),
        _ => children(expr, |child| selectors(child, function, found)),
    }
}

/// The labels by which an expression aggregates and matches.
fn grouping(expr: &Expr) -> Vec<&str> {
    let modifiers: Vec<&LabelModifier> = match expr {
        Expr::Aggregate(of) => of.modifier.iter().collect(),
        Expr::Binary(of) => of.modifier.iter().filter_map(|modifier| modifier.matching.as_ref()).collect(),
        _ => Vec::new(),
    };
    let mut found: Vec<&str> = modifiers.into_iter().flat_map(|of| &of.labels().labels).map(String::as_str).collect();
    children(expr, |child| found.extend(grouping(child)));
    found
}
