//! Checks the alert rules with Prometheus' own tool, and against the catalogue and the runbooks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::promql::Query;
use serde::Deserialize;

const RULES: &str = "alerts/kvmbackup.rules.yml";
const TESTS: &str = "alerts/kvmbackup.test.yml";
const RUNBOOK: &str = "https://github.com/bioinformatics-ptp/kvmBackup/blob/main/docs/operations.md#";

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    #[allow(dead_code, reason = "promtool checks it")]
    r#for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    alert_rule_test: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    alertname: String,
    exp_alerts: Vec<serde_yaml::Value>,
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES]);
}

#[test]
fn alerts_fire_and_are_silent_as_expected() {
    promtool(&["test", "rules", TESTS]);
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests: Tests = serde_yaml::from_str(&read(TESTS)).unwrap();
    let cases: Vec<_> = tests.tests.into_iter().flat_map(|test| test.alert_rule_test).collect();
    let of = |fires: bool| -> BTreeSet<_> {
        cases.iter().filter(|case| case.exp_alerts.is_empty() != fires).map(|case| case.alertname.clone()).collect()
    };
    let names: BTreeSet<_> = alerts().into_iter().map(|alert| alert.alert).collect();
    assert_eq!(of(true), names, "alerts that fire in a test");
    assert_eq!(of(false), names, "alerts that are silent in a test");
}

#[test]
fn every_expression_uses_metrics_of_the_catalogue() {
    for alert in alerts() {
        Query::parse(&alert.expr, &alert.alert).assert_known(&alert.alert);
    }
}

#[test]
fn every_alert_has_a_meaning_and_a_link_to_help() {
    for Alert { alert, labels, annotations, .. } in alerts() {
        assert!(alert.starts_with("KvmBackup"), "{alert}");
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["severity"], "{alert}");
        assert!(["critical", "warning", "info"].contains(&labels["severity"].as_str()), "{alert}");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["description", "runbook_url", "summary"], "{alert}");
        // One mail groups many alerts under their summary, so the summary must not vary.
        assert!(!annotations["summary"].contains("{{"), "{alert}");
        assert!(annotations["summary"].ends_with('.') && annotations["description"].ends_with('.'), "{alert}");
        assert!(annotations["description"].contains("{{ "), "{alert}");
        assert_eq!(annotations["runbook_url"], format!("{RUNBOOK}{}", alert.to_lowercase()), "{alert}");
    }
}

#[test]
fn alert_and_status_page_agree_when_a_job_is_late() {
    use chrono::TimeDelta;
    let alert = alerts().into_iter().find(|alert| alert.alert == "KvmBackupJobNotStarted").unwrap();
    let (_, bound) = alert.expr.split_once("> ").unwrap();
    let bound = bound.split_once("> ").map_or(bound, |(_, bound)| bound);
    let (factor, rest) = bound.split_once(" * ").unwrap();
    let (factor, more): (f64, i64) =
        (factor.trim().parse().unwrap(), rest.rsplit("+ ").next().unwrap().trim().parse().unwrap());
    for days in [1, 7] {
        let (late, interval) = (kvmbackup::ledger::standing::late_after(TimeDelta::days(days)), TimeDelta::days(days));
        assert_eq!((interval.num_seconds() as f64 * factor) as i64 + more, late.num_seconds(), "{}", alert.expr);
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let document = read("docs/operations.md");
    let sections: BTreeMap<_, _> = document
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .filter(|(title, _)| title.starts_with("KvmBackup"))
        .collect();
    let alerts = alerts();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), alerts.iter().map(|a| a.alert.as_str()).collect());
    for (title, text) in sections {
        let alert = alerts.iter().find(|alert| alert.alert == title).unwrap();
        let severity = &alert.labels["severity"];
        assert!(text.trim_start().starts_with(&format!("*{severity}*")), "{title} does not begin with *{severity}*");
        assert!(text.contains("```sh\n"), "{title} does not say which command to run");
        assert!(["Worry", "Act "].iter().any(|word| text.contains(word)), "{title} does not say when to worry");
    }
}

fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_yaml::from_str(&read(RULES)).unwrap();
    let alerts: Vec<_> = rules.groups.into_iter().flat_map(|group| group.rules).collect();
    assert!(alerts.len() > 20, "this test looks for alerts in the wrong place");
    alerts
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Runs `promtool` in the project's directory. Panics with its output if it finds a fault.
fn promtool(args: &[&str]) {
    let ran = Command::new("promtool").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let ran = ran.unwrap_or_else(|error| panic!("promtool: {error}; tests/lab/install installs it"));
    let text = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "promtool {args:?}:\n{}", String::from_utf8_lossy(&text));
}
