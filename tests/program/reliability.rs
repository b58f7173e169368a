//! Every row of the matrix in docs/reliability.md names tests that exist, or the reason for having none, and marks
//! those that run only in the soak.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the matrix.
struct Row {
    fault: String,
    made: String,
    promise: String,
    tests: String,
}

fn rows() -> Vec<Row> {
    let document = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (_, matrix) = document.split_once("| Fault |").unwrap();
    let (matrix, _) = matrix.split_once("## Fuzzing").unwrap();
    let lines = matrix.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let cells = lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect());
    let rows = cells
        .filter(|cells: &Vec<String>| cells.first().is_some_and(|first| first != "Fault" && first != "How it is made"));
    rows.map(|cells| {
        let [fault, made, promise, tests] =
            cells.try_into().unwrap_or_else(|cells| panic!("not four cells: {cells:?}"));
        Row { fault, made, promise, tests }
    })
    .collect()
}

/// The names of a row's tests, as cargo prints them, prefixed with the name of an integration test's file.
fn names(row: &Row) -> Vec<&str> {
    row.tests.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_row_names_existing_tests() {
    let rows = rows();
    assert!(rows.len() > 60, "this test looks for the matrix in the wrong place");
    for row in &rows {
        assert!(!row.promise.is_empty() && !row.made.is_empty(), "{}: an empty cell", row.fault);
        let names = names(row);
        let reason = row.tests.strip_prefix("not tested: ").is_some_and(|reason| reason.len() > 20);
        assert!(!names.is_empty() || reason, "{}: names no test, and no reason", row.fault);
        for name in names {
            assert!(source(name).is_some(), "{}: no test {name}", row.fault);
        }
    }
}

#[test]
fn every_promise_of_security_names_existing_tests() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let promises: Vec<_> =
        text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")).collect();
    assert!(promises.len() > 5, "this test looks for the promises in the wrong place");
    for promise in promises {
        let names: Vec<_> = promise.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{promise}");
        for name in names {
            assert!(source(name).is_some(), "no test {name}");
        }
    }
}

#[test]
fn tests_that_run_only_in_the_soak_are_marked() {
    for row in rows() {
        for (name, after) in names(&row).iter().zip(row.tests.split('`').skip(2).step_by(2)) {
            let ignored = source(name).is_some_and(|source| is_ignored(&source, name));
            let marked = after.trim_start().starts_with("(soak)");
            assert_eq!(marked, ignored, "{}: {name} and the mark `(soak)` after it", row.fault);
        }
    }
}

#[test]
fn no_row_is_duplicated() {
    let mut seen = BTreeSet::new();
    for row in rows() {
        assert!(seen.insert(row.fault.clone()), "{} is there twice", row.fault);
    }
}

/// The file that contains a test.
fn source(name: &str) -> Option<String> {
    let (path, function) = name.rsplit_once("::")?;
    let parts: Vec<_> = path.split("::").collect();
    let tests = root().join("tests");
    let mut files = vec![tests.join(format!("{}.rs", parts[0]))];
    // A module is a file, or part of the file of its parent.
    for length in (1..=parts.len()).rev() {
        let module = parts[..length].join("/");
        files.extend(["", "guests", "program"].map(|binary| tests.join(binary).join(&module).with_extension("rs")));
        let module = root().join("src").join(parts[..length].join("/"));
        files.extend([module.with_extension("rs"), module.join("mod.rs")]);
    }
    let texts = files.into_iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.into_iter().find(|text| text.contains(&format!("fn {function}(")))
}

fn is_ignored(source: &str, name: &str) -> bool {
    let function = name.rsplit("::").next().unwrap();
    let before = source.split(&format!("fn {function}(")).next().unwrap();
    let attributes =
        before.lines().rev().take_while(|line| line.trim_start().starts_with('#') || line.trim().is_empty());
    attributes.into_iter().any(|line| line.contains("#[ignore"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
