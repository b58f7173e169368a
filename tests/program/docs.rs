//! Checks the documents: configurations are valid, command lines are accepted, links work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use kvmbackup::config;
use kvmbackup::metrics::catalogue;

#[test]
fn every_configuration_shown_is_valid() {
    let mut checked = 0;
    for (path, text) in documents() {
        for block in blocks(&text, "yaml") {
            checked += 1;
            for host in hosts(&block) {
                if let Err(errors) = config::parse(&block, &path, &host) {
                    panic!("{}:\n{block}\n{errors}", path.display());
                }
            }
        }
    }
    let example = std::fs::read_to_string(root().join("packaging/config.example.yml")).unwrap();
    config::parse(&example, Path::new("config.example.yml"), "cloud1").unwrap();
    assert!(checked > 4, "this test looks for configurations in the wrong place");
}

#[test]
fn every_command_line_shown_is_valid() {
    let mut checked = BTreeSet::new();
    for (path, text) in documents() {
        let lines = ["sh", "console"].iter().flat_map(|language| blocks(&text, language)).flat_map(commands);
        let inline =
            text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("kvmbackup ")).map(str::to_owned);
        for line in lines.chain(inline) {
            understood(&path, &line);
            checked.insert(line);
        }
    }
    assert!(checked.len() > 20, "this test looks for command lines in the wrong place: {checked:?}");
}

#[test]
fn every_command_in_a_hint_is_valid() {
    let mut checked = 0;
    for path in files(&root().join("src"), "rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for code in line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("kvmbackup ")) {
                understood(&path, code);
                checked += 1;
            }
        }
    }
    assert!(checked > 0);
}

#[test]
fn every_place_named_in_a_hint_exists() {
    let mut checked = 0;
    for path in files(&root().join("src"), "rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("ee docs/") {
            let rest = &text[at + 3..];
            let (document, rest) = rest.split_once(',').unwrap();
            let title = rest.split(['"', '\\']).find(|part| part.len() > 3).unwrap();
            let document = std::fs::read_to_string(root().join(document)).unwrap();
            assert!(headings(&document).contains(&slug(title)), "{}: {title}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn every_link_works_and_every_document_is_linked() {
    let mut linked = BTreeSet::new();
    for (path, text) in documents() {
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let target = target.canonicalize().unwrap_or_else(|_| panic!("{}: {link} leads nowhere", path.display()));
            if !anchor.is_empty() {
                let there = headings(&std::fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{}: {link}: no such heading among {there:?}", path.display());
            }
            linked.insert(target);
        }
    }
    for path in files(&root().join("docs"), "md") {
        assert!(linked.contains(&path.canonicalize().unwrap()), "no document links to {}", path.display());
    }
}

#[test]
fn every_exit_code_is_documented() {
    let document = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let table = document.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    for line in kvmbackup::model::EXIT_STATUS.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap();
        let row = format!("| {code} | {}", meaning.trim());
        assert!(table.contains(&row), "docs/operations.md lacks the row {row}");
    }
    let untidy = table.lines().find(|line| line.starts_with("| 7 |")).unwrap();
    assert!(untidy.contains("](mail.md#"), "the row of exit code 7 does not link to the manual of mail: {untidy}");
    assert_eq!(
        table.lines().filter(|line| line.starts_with("| ")).count(),
        kvmbackup::model::EXIT_STATUS.lines().count()
    );
}

#[test]
fn every_retention_rule_is_documented() {
    let document = std::fs::read_to_string(root().join("docs/config.md")).unwrap();
    let text = "h:\n  backupdir: /b\n  domains: {a: {day_of_week: daily}}\n  keep: {last: 1, qqqqqqqq: 1}\n";
    let errors = config::parse(text, Path::new("x"), "h").unwrap_err();
    let rules = errors.problems.into_iter().find_map(|problem| problem.valid).unwrap();
    assert!(rules.split(", ").count() == 5, "{rules}");
    for rule in rules.split(", ") {
        assert!(document.contains(&format!("| `{rule}: N` |")), "docs/config.md has no row for `keep: {{{rule}: N}}`");
    }
}

#[test]
fn every_metric_is_documented_as_in_the_catalogue() {
    let document = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let (_, table) = document.split_once("| name | type | labels | meaning |\n|---|---|---|---|\n").unwrap();
    let rows = catalogue::ALL.iter().map(|metric| {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let row = format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help);
        row.replace("|  |", "| |")
    });
    let wanted: String = rows.collect();
    assert!(table == wanted, "the table of docs/metrics.md should be:\n{wanted}");
}

#[test]
fn every_metric_named_is_in_the_catalogue() {
    let known: BTreeSet<_> = catalogue::ALL.iter().map(|metric| metric.name).collect();
    let mut named = BTreeSet::new();
    for (path, text) in documents() {
        for code in text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("kvmbackup_")) {
            let name = code.split(|c: char| !(c.is_ascii_alphanumeric() || "_*".contains(c))).next().unwrap();
            let is_known = match name.strip_suffix('*') {
                Some(beginning) => known.iter().any(|known| known.starts_with(beginning)),
                None => known.contains(name),
            };
            assert!(is_known, "{}: no metric {name}", path.display());
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() >= known.len(), "this test looks for metrics in the wrong place");
}

#[test]
fn readme_lists_the_requirements_and_the_first_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let first_screen: String = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    for command in ["make demo", "make test"] {
        assert!(first_screen.contains(command), "{command} is not in the first screen");
    }
    for (at, _) in readme.match_indices("make ") {
        let before = readme[..at].chars().next_back();
        let target: String = readme[at + 5..].chars().take_while(char::is_ascii_lowercase).collect();
        if matches!(before, Some('`' | '\n')) && !target.is_empty() {
            assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no target {target}");
        }
    }
    let needed = env!("CARGO_PKG_RUST_VERSION");
    assert!(readme.contains(needed), "the README does not say that Rust {needed} is needed");
}

#[test]
fn every_picture_is_in_the_readme_and_small() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let pictures = files(&root().join("docs/images"), "png");
    assert!(pictures.len() >= 2, "this test looks for pictures in the wrong place");
    for path in pictures {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        assert!(readme.contains(&format!("]({name})")), "README.md does not show {name}");
        assert!(std::fs::metadata(&path).unwrap().len() <= 100 << 10, "{name} is larger than 100 KiB");
    }
}

/// README, changelog, the README of the hooks, and everything in docs.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = files(&root().join("docs"), "md");
    paths.extend(["README.md", "CHANGELOG.md", "hooks/README.md"].map(|name| root().join(name)));
    let documents: Vec<_> =
        paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    assert!(documents.len() > 5);
    documents
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|own| own == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The fenced blocks of a language, without the indentation of their fence.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(String, bool, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (Some((_, wanted, body)), Some(_)) => {
                if *wanted {
                    found.push(std::mem::take(body));
                }
                open = None;
            }
            (Some((indent, _, body)), None) => {
                *body += line.strip_prefix(indent.as_str()).unwrap_or(line);
                *body += "\n";
            }
            (None, Some(word)) => {
                open = Some((line[..line.len() - bare.len()].to_owned(), word.trim() == language, String::new()));
            }
            (None, None) => {}
        }
    }
    found
}

/// The sections of a configuration that are hosts.
fn hosts(yaml: &str) -> Vec<String> {
    let root: BTreeMap<String, serde_yaml::Value> = serde_yaml::from_str(yaml).unwrap();
    let hosts: Vec<_> = root.into_keys().filter(|key| key != "defaults").collect();
    assert!(!hosts.is_empty(), "no host in:\n{yaml}");
    hosts
}

/// The calls of kvmbackup in a shell block, without their prefix (a prompt, cron's times, a path).
fn commands(block: String) -> Vec<String> {
    let lines = block.lines().filter(|line| !line.trim_start().starts_with('#'));
    let calls = lines.filter_map(|line| {
        let at = line.find("kvmbackup ").filter(|at| *at == 0 || line[..*at].ends_with([' ', '/']))?;
        let call = line[at..].split(" #").next()?.split(['|', '>', ';']).next()?.split("&&").next()?;
        Some(call.trim().to_owned())
    });
    calls.collect()
}

#[track_caller]
fn understood(path: &Path, line: &str) {
    let words = line.split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned());
    match kvmbackup::cli::args::parse(words) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {}
        Err(error) => panic!("{}: `{line}`: {error}", path.display()),
    }
}

/// The targets of all links outside of code.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    let mut found = Vec::new();
    for line in prose {
        for part in line.split("](").skip(1) {
            found.extend(part.split(')').next().map(str::to_owned));
        }
    }
    found
}

/// The anchors of all headings.
fn headings(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}

/// A heading's anchor, as generated by code hosts.
fn slug(heading: &str) -> String {
    let kept =
        heading.trim().to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}
