//! Checks that docs/dependencies.md lists the built versions, so that an updated package is reviewed again.

use std::collections::BTreeMap;

const LOCK: &str = include_str!("../../Cargo.lock");
const DOCUMENT: &str = include_str!("../../docs/dependencies.md");

/// The versions of each package.
fn locked() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for package in LOCK.split("[[package]]").skip(1) {
        let value = |key| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.unwrap().trim_matches('"')
        };
        found.entry(value("name")).or_default().push(value("version"));
    }
    found
}

#[test]
fn packages_that_parse_foreign_bytes_were_reviewed_at_the_built_version() {
    let locked = locked();
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split(" | ").collect()).collect();
    assert!(rows.len() > 15, "this test looks for the table in the wrong place");
    for row in &rows {
        let [name, version, reads, advisories] = row[..] else { panic!("not four cells: {row:?}") };
        let name = name.trim_end_matches('`');
        let built = locked.get(name).unwrap_or_else(|| panic!("{name} is no longer built"));
        assert_eq!(built, &[version], "{name} was updated: review it again");
        assert!(!reads.is_empty() && !advisories.is_empty(), "{name}");
    }
}
