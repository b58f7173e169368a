//! Checks the code against the import table of docs/design.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The project modules that each directory may import, besides itself. A directory that is not in the table may import
/// none.
///
/// `report` knows exit codes and how text is laid out, `config` the policy that retention uses; both are values. The
/// store knows the contents of each kind of point, and reads definitions of those without a manifest. `app` composes:
/// it names every adapter.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sys", &[]),
    ("retention", &["model"]),
    ("ledger", &["model", "sys"]),
    ("metrics", &["ledger", "model", "sys"]),
    ("mail", &["config", "ledger", "model", "report", "sys"]),
    ("exporter", &["ledger", "metrics", "model", "sys"]),
    ("config", &["model", "retention", "sys"]),
    ("plan", &["config", "model"]),
    ("report", &["model"]),
    ("hooks", &["model", "sys"]),
    ("hypervisor", &["model", "sys"]),
    ("qcow2", &["model"]),
    ("nbd", &["model", "sys"]),
    ("archive", &["model", "sys"]),
    ("repository", &["model", "sys"]),
    ("store", &["archive", "hypervisor", "model", "qcow2", "repository", "sys"]),
    (
        "engine",
        &["config", "hooks", "hypervisor", "ledger", "model", "nbd", "plan", "qcow2", "retention", "store", "sys"],
    ),
    (
        "app",
        &[
            "config",
            "engine",
            "exporter",
            "hooks",
            "hypervisor",
            "ledger",
            "mail",
            "metrics",
            "model",
            "plan",
            "report",
            "store",
            "sys",
        ],
    ),
    (
        "cli",
        &[
            "app", "config", "engine", "exporter", "hooks", "ledger", "metrics", "model", "plan", "report", "store",
            "sys",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Permitted items of an importable module, if not all of them are.
const ONLY: &[(&str, &str, &[&str])] = &[
    // Only the interface of an owner, never its internals.
    ("store", "hypervisor", &["crate::hypervisor::domain_xml"]),
];

#[test]
fn every_file_header_says_what_the_file_is_responsible_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not begin with //!", path.display());
        let head: Vec<_> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
        let head = head.join(" ").to_lowercase();
        let is_top = matches!(path.to_str(), Some("lib.rs" | "main.rs"));
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests") || path.iter().any(|part| part == "tests");
        let says = head.contains("owns:") || head.contains("must not") || head.contains("must never");
        assert!(
            is_top || is_test || says,
            "{}: say what it is responsible for and what it must not do",
            path.display()
        );
    }
}

#[test]
fn directories_import_only_what_the_design_permits() {
    let table: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let own = folder(&path);
        let allowed = table.get(own.as_str()).unwrap_or_else(|| panic!("{own} is not in the import table"));
        for import in imports(product(&path, &text)) {
            let module = import.split("::").nth(1).unwrap().to_owned();
            let less = ONLY.iter().find(|(from, to, _)| *from == own && *to == module);
            let inside = less.is_some_and(|(_, _, only)| !only.iter().any(|only| import.starts_with(only)));
            if module != own && (!allowed.contains(&module.as_str()) || inside) {
                wrong.insert(format!("{}: {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against docs/design.md:\n{}", Vec::from_iter(wrong).join("\n"));
}

#[test]
fn import_table_and_design_have_every_directory() {
    let folders: BTreeSet<_> = sources().iter().map(|(path, _)| folder(path)).collect();
    let listed: BTreeSet<_> = MAY_IMPORT.iter().map(|(folder, _)| (*folder).to_owned()).collect();
    assert_eq!(folders, listed);
    let design = std::fs::read_to_string(root().join("docs/design.md")).unwrap();
    for folder in folders.iter().filter(|folder| root().join("src").join(folder).is_dir()) {
        assert!(design.contains(&format!("| `{folder}/` |")), "docs/design.md does not describe {folder}/");
    }
}

/// Names of public types that several modules have; their users write the module as part of the name.
const SHARED_NAMES: &[&str] = &[
    "Disk",
    "Entry",
    "Error",
    "Host",
    "Kind",
    "Metrics",
    "Plan",
    "Reader",
    "Refused",
    "Repository",
    "Restore",
    "Salvaged",
    "Server",
    "State",
];

#[test]
fn public_type_names_are_unique() {
    let mut owners = BTreeMap::<String, Vec<PathBuf>>::new();
    for (path, text) in sources() {
        for line in product(&path, &text).lines() {
            let kinds = ["pub struct ", "pub enum ", "pub trait "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            owners.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    owners.retain(|name, paths| paths.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    assert!(owners.is_empty(), "defined twice: {owners:#?}");
}

#[test]
fn only_the_command_line_prints() {
    for (path, text) in sources().into_iter().filter(|(path, _)| folder(path) != "cli") {
        let text = product(&path, &text);
        for word in ["println!", "eprintln!", "print!(", "eprint!(", "stdout()", "stderr()", "dbg!("] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn metrics_are_named_only_in_their_catalogue() {
    for (path, text) in sources() {
        let is_catalogue = path == Path::new("metrics/catalogue.rs");
        assert!(is_catalogue || !product(&path, &text).contains("\"kvmbackup_"), "{} names a metric", path.display());
    }
}

#[test]
fn only_one_file_contains_unsafe_code() {
    let allows = |text: &str| text.contains("allow(unsafe_code") || text.contains("expect(unsafe_code");
    let files: Vec<_> = sources().into_iter().filter(|(_, text)| allows(text)).map(|(path, _)| path).collect();
    assert_eq!(files, [PathBuf::from("hypervisor/libvirt/ffi.rs")]);
}

#[test]
fn only_one_file_starts_programs() {
    let starts = |text: &str| [".spawn()", ".output()", ".status()"].iter().any(|call| text.contains(call));
    let files: Vec<_> =
        sources().into_iter().filter(|(path, text)| starts(product(path, text))).map(|(path, _)| path).collect();
    assert_eq!(files, [PathBuf::from("sys/program.rs")], "a new process must not inherit a file of a hung target");
}

/// Side effects without their own step, each with its reason.
const NO_STEP: &[(&str, &str)] = &[
    // Leftovers are removed by the next run that gets this far.
    ("metrics/textfile.rs", "durable::remove(&aside)"),
    ("metrics/textfile.rs", "durable::remove(&entry.path())"),
    ("mail/spool.rs", "durable::remove(&path)"),
    // The next run with a readable configuration does it again.
    ("app/mail/known.rs", "durable::remove(&path)"),
    ("app/mail/known.rs", "durable::write(&path, &json)"),
    // Each is in the middle of a file that is complete or missing, between two steps.
    ("metrics/textfile.rs", "durable::create_private(aside)"),
    ("mail/spool.rs", "durable::create_private(&aside)"),
    // The fallbacks of the step that calls them.
    ("store/partial.rs", "fs::hard_link(from, to)"),
    ("store/partial.rs", "fs::remove_file(from)"),
    ("store/partial.rs", "fs::rename(from, to)"),
    // A trial leaves an empty directory or file at worst, and the next one removes it.
    ("store/trial.rs", "fs::create_dir(&trial)"),
    ("store/trial.rs", "durable::create_private(&new)"),
    ("store/trial.rs", "durable::remove(&trial.join(name))"),
    ("store/trial.rs", "fs::remove_dir(trial)"),
    // The directory for the cache of restic, which can be removed at any time.
    ("engine/restic.rs", "durable::create_private_dir(&cache)"),
    // The processes end with this process.
    ("mail/program.rs", "program::start("),
    // Its caller announces the step for the tool's effect.
    ("engine/qemu_img.rs", "program::start("),
];

#[test]
fn every_side_effect_of_a_backup_is_a_step() {
    const EFFECTS: [&str; 11] = [
        "fs::rename(",
        "fs::hard_link(",
        "fs::remove_file(",
        "fs::remove_dir",
        "fs::create_dir",
        "fs::write(",
        "durable::write(",
        "durable::remove(",
        "durable::create_private",
        "program::start(",
        "lock::take(",
    ];
    let mut found = 0;
    for (path, text) in sources() {
        let is_ours = ["engine", "store", "ledger", "metrics", "mail", "nbd", "app"].contains(&folder(&path).as_str());
        if !is_ours || path.starts_with("engine/restore") || path.starts_with("engine/restore.rs") {
            continue;
        }
        let lines: Vec<_> = product(&path, &text).lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(effect) = EFFECTS.iter().find(|effect| line.contains(**effect)) else { continue };
            found += 1;
            // One step may cover two consecutive effects.
            let is_step = lines[at.saturating_sub(14)..=at].iter().any(|line| line.contains("step::reached("));
            let is_known = NO_STEP.iter().any(|(file, words)| path == Path::new(file) && line.contains(words));
            assert!(is_step || is_known, "{}: no step is announced before {effect}: {line}", path.display());
        }
    }
    assert!(found > 20, "this test looks for effects in the wrong place");
}

#[test]
fn fault_injection_is_only_in_debug_builds() {
    let step = std::fs::read_to_string(root().join("src/sys/step.rs")).unwrap();
    assert!(step.contains("#[cfg(debug_assertions)]\nmod fault;"));
    assert!(step.contains("#[cfg(debug_assertions)]\n    fault::act(step)?;"));
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names = code.filter(|line| line.contains("KVMBACKUP_FAULT")).count();
        assert_eq!(names > 0, path == Path::new("sys/step/fault.rs"), "{}", path.display());
    }
}

#[test]
fn engine_names_no_hypervisor_adapter() {
    for (path, text) in sources().into_iter().filter(|(path, _)| folder(path) == "engine") {
        let text = product(&path, &text);
        assert!(!text.contains("Libvirt") && !text.contains("virt::"), "{} names the adapter", path.display());
    }
}

/// Every file of `src`, by its relative path.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&src).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50, "this test looks for sources in the wrong place");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder(path: &Path) -> String {
    path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The code without its tests, which may use anything.
fn product<'a>(path: &Path, text: &'a str) -> &'a str {
    let is_test = ["tests", "tests.rs", "sample.rs", "fixture.rs", "fake.rs", "contract.rs"]
        .iter()
        .any(|name| path.iter().any(|part| part == *name));
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    if is_test { "" } else { &text[..end] }
}

/// Every path that begins with `crate::`, in use declarations (with expanded groups) and in code, but not in comments.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        if path != "crate" {
            found.insert(path.to_owned());
            continue;
        }
        // `use crate::{archive, store::Store};`
        let group =
            rest[end..].strip_prefix('{').and_then(|group| Some(&group[..group.find(';')?])).unwrap_or_default();
        found.extend(top_level(group).into_iter().map(|name| format!("crate::{name}")));
    }
    found
}

/// The names of a group's first level: `a, b::{c, d}` gives `a` and `b`.
fn top_level(group: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut depth = 0_usize;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            c if depth == 0 && !c.is_whitespace() => names.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    names.into_iter().map(|name| name.trim_end_matches(':').to_owned()).filter(|name| !name.is_empty()).collect()
}
