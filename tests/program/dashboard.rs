//! Checks the dashboard: Grafana's types, the rules of grafana/dashboard-linter, the layout, and the catalogue.
//!
//! The linter itself is not packaged, so its rules are implemented here, one test each, under their original names
//! (<https://github.com/grafana/dashboard-linter/blob/main/docs/index.md>). PromQL is parsed by a third-party parser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::promql::{Query, Selected};
use promql_parser::label::MatchOp;
use serde_json::{Value, json};

/// Units of Grafana that are used here.
const UNITS: [&str; 4] = ["short", "s", "bytes", "percentunit"];
const DATASOURCE: &str = "${datasource}";
/// Rows, in the order of an operator's questions.
const ROWS: [&str; 9] = [
    "Is everything protected?",
    "What failed?",
    "How old?",
    "How big?",
    "What changed?",
    "How long?",
    "How full?",
    "Hooks",
    "kvmbackup itself",
];

#[test]
fn dashboard_can_be_provisioned() {
    let dashboard = dashboard();
    assert_eq!((&dashboard["uid"], &dashboard["id"]), (&json!("kvmbackup"), &Value::Null));
    assert!((39..=42).contains(&dashboard["schemaVersion"].as_u64().unwrap()));
    // They are only for Grafana's import dialog; provisioning does not change them.
    assert!(dashboard.get("__inputs").is_none() && !text().contains("${DS_"));
}

#[test]
fn panels_are_in_the_order_of_an_operators_questions() {
    let dashboard = dashboard();
    let rows = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    assert_eq!(rows.map(|row| string(row, "title")).collect::<Vec<_>>(), ROWS);
    let ids: Vec<_> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is used twice");
}

#[test]
fn panels_fill_the_grid_and_do_not_overlap() {
    let mut taken = BTreeSet::new();
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(x < 24 && taken.insert((y, x)), "{} overlaps or is too wide", name(panel));
            }
        }
    }
    let rows = taken.last().unwrap().0 + 1;
    assert_eq!(taken.len() as u64, rows * 24, "the grid has gaps");
}

#[test]
fn every_query_uses_metrics_of_the_catalogue() {
    for (place, query) in queries() {
        Query::parse(&query, &place).assert_known(&place);
    }
    for (place, query) in annotations() {
        Query::parse(&query, &place).assert_known(&place);
    }
}

#[test]
fn every_used_variable_is_defined_and_every_defined_one_is_used() {
    let variables: BTreeSet<_> =
        dashboard()["templating"]["list"].as_array().unwrap().iter().map(|of| string(of, "name").to_owned()).collect();
    assert_eq!(variables, BTreeSet::from(["backup_job", "datasource", "domain", "instance", "job"].map(str::to_owned)));
    let used: BTreeSet<_> = text()
        .split('$')
        .skip(1)
        .map(|rest| {
            rest.trim_start_matches('{')
                .split(|c: char| c != '_' && !c.is_ascii_alphabetic())
                .next()
                .unwrap()
                .to_owned()
        })
        .filter(|word| !word.starts_with("__") && !word.is_empty())
        .collect();
    assert_eq!(used, variables);
}

// The rules of the linter.

#[test]
fn template_datasource_rule() {
    let variable = variable("datasource");
    assert_eq!((string(&variable, "type"), string(&variable, "query")), ("datasource", "prometheus"));
    assert_eq!(string(&variable, "label"), "Data source");
}

#[test]
fn template_job_rule_and_template_instance_rule() {
    for (name, label) in [("job", "Job"), ("instance", "Instance")] {
        let variable = variable(name);
        assert_eq!((string(&variable, "type"), string(&variable, "label")), ("query", label));
        assert_eq!(variable["datasource"]["uid"], DATASOURCE);
        assert_eq!((&variable["multi"], &variable["allValue"]), (&json!(true), &json!(".+")));
    }
}

#[test]
fn template_label_promql_rule() {
    for variable in query_variables() {
        let place = string(&variable, "name");
        let query = string(&variable, "query");
        let (selector, label) =
            query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        assert_eq!(label, place);
        let query = Query::parse(&format!("count by ({label}) ({})", substituted(selector)), place);
        query.assert_known(place);
    }
}

#[test]
fn template_on_time_change_reload_rule() {
    for variable in query_variables() {
        assert_eq!(variable["refresh"], 2, "{variable:#}");
        assert_eq!(variable["datasource"]["uid"], DATASOURCE, "{variable:#}");
    }
}

#[test]
fn panel_datasource_rule() {
    for panel in panels() {
        assert_eq!(panel["datasource"]["uid"], DATASOURCE, "{}", name(&panel));
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], DATASOURCE, "{}", name(&panel));
        }
    }
}

#[test]
fn panel_title_description_rule() {
    for panel in panels() {
        assert!(!string(&panel, "title").is_empty() && string(&panel, "description").ends_with('.'), "{panel:#}");
    }
}

#[test]
fn panel_units_rule() {
    for panel in panels().into_iter().filter(|panel| ["stat", "gauge", "timeseries"].contains(&string(panel, "type"))) {
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(UNITS.contains(&string(defaults, "unit")), "{}", name(&panel));
    }
    for panel in panels() {
        for of in panel["fieldConfig"]["overrides"].as_array().unwrap() {
            for property in of["properties"].as_array().unwrap().iter().filter(|property| property["id"] == "unit") {
                assert!(UNITS.contains(&string(property, "value")), "{}", name(&panel));
            }
        }
    }
}

#[test]
fn panel_no_targets_rule() {
    for panel in panels() {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", name(&panel));
    }
}

#[test]
fn target_promql_rule() {
    for (place, query) in queries() {
        Query::parse(&query, &place);
    }
}

#[test]
fn target_job_rule_and_target_instance_rule() {
    for (place, query) in queries() {
        for Selected { selector, .. } in Query::parse(&query, &place).selectors() {
            for label in ["job", "instance"] {
                let found = selector.matchers.find_matchers(label);
                let of_variable = |op: &MatchOp| matches!(op, MatchOp::Re(_));
                let right = found.len() == 1 && of_variable(&found[0].op) && found[0].value == value_of(label);
                assert!(right, "{place}: {selector} has no {label}=~\"${label}\"");
            }
        }
    }
}

#[test]
fn target_rate_interval_rule() {
    for (place, query) in raw_queries() {
        for call in query.match_indices("rate(").map(|(at, _)| &query[at..]) {
            let range = call.split('[').nth(1).unwrap().split(']').next().unwrap();
            assert_eq!(range, "$__rate_interval", "{place}");
        }
    }
}

#[test]
fn target_counter_agg_rule() {
    for (place, query) in queries() {
        for Selected { selector, function } in Query::parse(&query, &place).selectors() {
            let counts = selector.name.as_ref().unwrap().ends_with("_total");
            let rated = matches!(function, Some("rate" | "irate" | "increase"));
            assert!(!counts || rated, "{place}: {selector} is a counter, but is used without rate or increase");
        }
    }
}

#[test]
fn uneditable_dashboard_rule() {
    assert_eq!(dashboard()["editable"], false);
}

/// Grafana's own types, in TypeScript. They are available only from npm.
#[test]
fn dashboard_matches_the_types_of_grafana() {
    if Command::new("npm").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: npm is missing, and only it has Grafana's types (package nodejs or npm, and a network)");
        return;
    }
    let dir = types();
    let schema = std::fs::read_to_string(root().join("tests/dashboard/schema.ts")).unwrap();
    let accepts = |dashboard: &str, name: &str| {
        let text = format!("{schema}export const dashboard: Json<Checked> = {dashboard};\n");
        std::fs::write(dir.join(name), text).unwrap();
        let words = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", name];
        let ran = Command::new(dir.join("node_modules/.bin/tsc")).args(words).current_dir(&dir).output().unwrap();
        (ran.status.success(), String::from_utf8(ran.stdout).unwrap())
    };
    let (accepted, said) = accepts(&text(), "dashboard.ts");
    assert!(accepted, "{said}");
    // The check would also detect an error.
    let (accepted, said) = accepts(&text().replace("\"refresh\": 2", "\"refresh\": \"2\""), "wrong.ts");
    assert!(!accepted && said.contains("VariableRefresh"), "{said}");
}

/// The directory with the types, installed once.
fn types() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grafana-types");
    let wanted = std::fs::read_to_string(root().join("tests/dashboard/package.json")).unwrap();
    let installed = dir.join("installed.json");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return dir;
    }
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("package.json"), &wanted).unwrap();
    let words = ["install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    let ran = Command::new("npm").args(words).current_dir(&dir).output().unwrap();
    assert!(ran.status.success(), "npm install: {}", String::from_utf8_lossy(&ran.stderr));
    std::fs::write(installed, wanted).unwrap();
    dir
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text() -> String {
    std::fs::read_to_string(root().join("dashboards/kvmbackup.json")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&text()).unwrap()
}

/// All panels that are not rows.
fn panels() -> Vec<Value> {
    let panels: Vec<_> =
        dashboard()["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").cloned().collect();
    assert!(panels.len() > 20, "this test looks for panels in the wrong place");
    panels
}

fn variable(name: &str) -> Value {
    let dashboard = dashboard();
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().find(|variable| variable["name"] == name).unwrap().clone()
}

fn query_variables() -> Vec<Value> {
    let dashboard = dashboard();
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().filter(|variable| variable["type"] == "query").cloned().collect()
}

/// The queries of all panels as written, with their place.
fn raw_queries() -> Vec<(String, String)> {
    let of_panel = |panel: Value| {
        let targets = panel["targets"].as_array().unwrap().clone();
        let place = name(&panel).to_owned();
        targets.into_iter().map(move |target| (place.clone(), string(&target, "expr").to_owned()))
    };
    panels().into_iter().flat_map(of_panel).collect()
}

/// The queries of all panels as Prometheus receives them.
fn queries() -> Vec<(String, String)> {
    raw_queries().into_iter().map(|(place, query)| (place, substituted(&query))).collect()
}

fn annotations() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let list = dashboard["annotations"]["list"].as_array().unwrap();
    let own = list.iter().filter(|annotation| annotation.get("expr").is_some());
    own.map(|annotation| (string(annotation, "name").to_owned(), substituted(string(annotation, "expr")))).collect()
}

/// The value for a variable, which must be recognizable later.
fn value_of(variable: &str) -> String {
    format!("the-{variable}")
}

fn substituted(query: &str) -> String {
    let query = query.replace("$__rate_interval", "5m").replace("$__range", "1d");
    let names = ["backup_job", "domain", "instance", "job"];
    names.iter().fold(query, |query, name| query.replace(&format!("${name}"), &value_of(name)))
}

fn string<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_else(|| panic!("no {key} in {of:#}"))
}

fn name(panel: &Value) -> &str {
    string(panel, "title")
}
