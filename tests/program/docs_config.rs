//! Checks that `docs/config.md` and the example configuration document every key that the code knows, with the code's
//! defaults.

use std::path::Path;

use kvmbackup::config::{self, Settings};

const HOST: &str = "h:\n  backupdir: /b\n  domains: {a: {day_of_week: daily}}\n";
const REPOSITORY: &str =
    "h:\n  domains: {a: {day_of_week: daily}}\n  repository: {url: \"s3:https://h/b\", password_file: /p, @}\n";
const COPIES: &str = "copies: [{name: n, to: /c, password_file: /p, @}]";
const HOOK: &str = "name: n, phase: pre-domain, command: [/c]";
const SESSION: &str = "name: n, type: session, phase: snapshot, command: [/c]";

/// A group of keys: the section that documents them, and a configuration with the required ones; `@` marks the place
/// for another key.
struct Group {
    from: &'static str,
    to: &'static str,
    base: String,
}

fn groups() -> Vec<Group> {
    let group = |from, to, base: &str| Group { from, to, base: format!("{HOST}  {base}\n") };
    vec![
        group("## Keys of a host", "### Metrics", "@"),
        group("## Keys of a domain", "## Hooks", "@"),
        group("### Metrics", "### Repository", "metrics: {@}"),
        Group { from: "### Repository", to: "### Copies", base: REPOSITORY.to_owned() },
        Group { from: "### Copies", to: "### Mail", base: REPOSITORY.replace('@', COPIES) },
        group("### Mail", "The keys of `smtp`", "mail: {to: root, @}"),
        group("The keys of `smtp`", "## Keys of a domain", "mail: {to: root, smtp: {host: m, @}}"),
        group("## Hooks", "## When a domain is due", &format!("hooks: [{{{HOOK}, @}}]")),
    ]
}

fn parse(text: &str) -> Result<Settings, config::Errors> {
    config::parse(text, Path::new("x"), "h")
}

/// The keys that the code would have accepted in place of an unknown one.
fn keys(base: &str) -> Vec<String> {
    let errors = parse(&base.replace('@', "qqqqqqqq: 1")).unwrap_err();
    let problem = errors.problems.into_iter().find(|problem| problem.key.ends_with("qqqqqqqq")).unwrap();
    problem.valid.unwrap().split(", ").map(str::to_owned).collect()
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md")).unwrap()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("{from} is missing"));
    rest.split_once(to).unwrap_or_else(|| panic!("{to} is missing")).0
}

/// The cells of a key's row: key, type with its unit, default, meaning.
fn row(section: &str, key: &str) -> Option<Vec<String>> {
    let line = section.lines().find(|line| line.starts_with(&format!("| `{key}` |")))?;
    let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{key}: {cells:?}");
    Some(cells)
}

/// The contents of the YAML blocks.
fn examples(text: &str) -> String {
    text.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

fn names(text: &str, key: &str) -> bool {
    text.match_indices(&format!("{key}:")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|before| !(before.is_alphanumeric() || before == '_' || before == '-'))
    })
}

#[test]
fn every_key_is_documented_with_type_default_meaning_and_example() {
    let document = document();
    let mut told = 0;
    for group in groups() {
        let section = between(&document, group.from, group.to);
        let is_top = group.base.ends_with("  @\n");
        let shown = examples_of(&document, &group);
        for key in keys(&group.base) {
            let row = row(section, &key);
            // The code has one list for the keys of hosts and domains.
            let elsewhere = is_top
                && groups().iter().any(|other| self::row(between(&document, other.from, other.to), &key).is_some());
            assert!(row.is_some() || elsewhere, "{}: no row for `{key}`", group.from);
            assert!(names(&shown, &key), "{}: no example of `{key}`", group.from);
            if let Some(cells) = row.filter(|_| key.ends_with("timeout")) {
                assert!(cells[1].starts_with("duration"), "{key} has a unit: {cells:?}");
            }
            told += 1;
        }
    }
    assert!(told > 60, "{told}");
}

/// The section with the examples of a group: those of `smtp` are with those of `mail`; those of hosts and domains
/// anywhere.
fn examples_of(document: &str, group: &Group) -> String {
    examples(match group.from {
        "### Mail" | "The keys of `smtp`" => between(document, "### Mail", "## Keys of a domain"),
        "## Hooks" => between(document, group.from, group.to),
        _ => document,
    })
}

#[test]
fn every_documented_default_is_that_of_the_code() {
    let document = document();
    let mut checked = 0;
    for group in groups() {
        let section = between(&document, group.from, group.to);
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let key = line.split('`').nth(1).unwrap();
            let cells = row(section, key).unwrap();
            let base = match key {
                "ready_timeout" | "hold_timeout" | "release_timeout" => group.base.replace(HOOK, SESSION),
                _ => group.base.clone(),
            };
            let own = if group.base.ends_with("  @\n") { &base } else { base.strip_prefix(HOST).unwrap_or(&base) };
            // One of several passwords is.
            let is_given = names(own, key) && key != "password_file";
            assert_eq!(is_given, cells[2].starts_with("required"), "{key}: required keys are in {base}");
            // A value, alone or followed by a case with another default.
            let Some((default, rest)) = cells[2].strip_prefix('`').and_then(|rest| rest.split_once('`')) else {
                continue;
            };
            if !rest.is_empty() && !rest.starts_with(';') {
                continue;
            }
            let bare = parse(&base.replace(", @", "").replace('@', "")).unwrap();
            let said = parse(&base.replace('@', &format!("{key}: {default}"))).unwrap();
            assert_eq!(said, bare, "{key}: the default is not {default}");
            checked += 1;
        }
    }
    assert!(checked > 18, "{checked}");
}

#[test]
fn example_configuration_names_every_key_and_is_valid_with_all_of_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/config.example.yml");
    let example = std::fs::read_to_string(path).unwrap();
    let all: Vec<String> = groups().iter().flat_map(|group| keys(&group.base)).collect();
    for key in &all {
        assert!(names(&example, key), "the example does not name `{key}`");
    }
    let mut uncommented = 0;
    let whole: Vec<String> = example
        .lines()
        .map(|line| {
            let is_key =
                |rest: &str| all.iter().any(|key| rest.trim_start_matches([' ', '-']).starts_with(&format!("{key}:")));
            match line.split_once("# ") {
                Some((before, rest)) if before.trim().is_empty() && is_key(rest) => {
                    uncommented += 1;
                    format!("{before}{rest}")
                }
                _ => line.to_owned(),
            }
        })
        .collect();
    assert!(uncommented > 25, "{uncommented}");
    for text in [example, whole.join("\n")] {
        config::parse(&text, Path::new("config.example.yml"), "cloud1")
            .unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    }
}
