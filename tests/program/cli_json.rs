//! docs/json.md matches the program's output: every key, its type, and no additional key.

use crate::host;
use std::collections::{BTreeMap, BTreeSet};

use crate::host::{Host, run};
use kvmbackup::model::{
    Consistency, DamagedPoint, DiskOutcome, DomainOutcome, Failure, FailureReason, HookResult, HookStatus, Method,
    NotSaved, Outcome, PointId, RunReport, SkippedDisk, WholeRead,
};
use serde_json::Value;

#[test]
fn report_with_every_field_is_documented_key_by_key() {
    let documented = section("Report");
    let full = serde_json::from_str(&kvmbackup::report::json(&full_report()).unwrap()).unwrap();
    let keys = documented.check(&full);
    assert_eq!(keys, documented.keys(), "docs/json.md and the report differ");
}

#[test]
fn salvage_report_is_documented_key_by_key() {
    let documented = section("Salvage");
    let host = Host::new(&["a"]);
    let raw = host.path("noise");
    let noise: Vec<u8> = (0..12_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&raw, noise).unwrap();
    run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), host.image("a").to_str().unwrap()]);
    host.configure("", "{a: {day_of_week: daily}}");
    host.run("backup").ends(0);
    let archive = host.archives("a").pop().unwrap();
    let good = std::fs::read(&archive).unwrap();
    let salvage = |what: &str, damaged: std::ops::Range<usize>| {
        let mut bad = good.clone();
        bad[damaged].fill(0);
        std::fs::write(&archive, bad).unwrap();
        let to = host.path(what);
        host.run(&format!("restore a --salvage --to {}", to.display())).ends(6);
        serde_json::from_slice::<Value>(&std::fs::read(to.join("salvage.json")).unwrap()).unwrap()
    };
    let middle = good.len() / 2;
    let mut seen = documented.check(&salvage("middle", middle..middle + 16));
    // The documents and the start of the disk.
    let headers = salvage("headers", 4096..8192);
    assert_eq!((&headers["schema"], &headers["domain"]), (&1.into(), &"a".into()));
    seen.extend(documented.check(&headers));
    assert_eq!(seen, documented.keys(), "docs/json.md and the report differ");
}

#[test]
fn real_reports_are_as_documented() {
    let documented = section("Report");
    let host = Host::new(&["a", "b", "gone"]);
    std::fs::remove_file(host.image("gone")).unwrap();
    host.configure(
        "",
        &format!(
            "{{a: {{day_of_week: daily, rotate: 1, exclude_disks: [vdx]}}, gone: {{day_of_week: daily}}, \
          b: {{day_of_week: {}}}, nosuch: {{day_of_week: daily}}}}",
            host.another_day()
        ),
    );
    host.run("backup").ends(1);
    host.age("a", &[2, 1]);
    std::fs::write(host.path("state/journal/0.json"), "{").unwrap();
    let report = host.run("backup --json").ends(1).json();
    documented.check(&report);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["not_due"], serde_json::json!(["b"]));
    let find =
        |name: &str| report["domains"].as_array().unwrap().iter().find(|domain| domain["domain"] == name).unwrap();
    let a = find("a");
    assert_eq!(
        (&a["outcome"], &a["method"], &a["consistency"]),
        (&"success".into(), &"direct".into(), &"offline".into())
    );
    assert!(a["point"].as_str().unwrap().parse::<PointId>().is_ok());
    assert_eq!(a["pruned"].as_array().unwrap().len(), 2);
    assert_eq!(a["stored_bytes"], std::fs::metadata(&host.archives("a")[0]).unwrap().len());
    assert_eq!(a["disks"][0]["virtual_bytes"], 8 << 20);
    assert!(a["warnings"][0]["message"].as_str().unwrap().contains("vdx"));
    assert_eq!(find("gone")["outcome"], "failed");
    assert_eq!(find("nosuch")["uuid"], Value::Null);
    assert!(report["leftovers"][0]["hint"].is_string());
    documented.check(&host.run("report --format json").ends(0).json());

    host.configure("backupdir: /dev/null", "{a: {day_of_week: daily}}");
    documented.check(&host.run("backup --json").ends(5).json());
}

#[test]
fn plan_is_as_documented() {
    let documented = section("Plan");
    let host = Host::new(&["a", "b", "c"]);
    host.configure(
        "",
        &format!(
            "{{a: {{day_of_week: daily}}, b: {{day_of_week: {}}}, d: {{day_of_week: daily}}}}",
            host.another_day()
        ),
    );
    let plan = host.run("backup --dry-run --json").ends(1).json();
    assert_eq!(documented.check(&plan), documented.keys());
    let decisions: Vec<_> =
        plan["plan"].as_array().unwrap().iter().map(|entry| entry["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["due", "not-due", "unknown", "not-selected"]);
}

#[test]
fn lists_verifications_and_prunings_are_as_documented() {
    let mut host = Host::new(&[]);
    host.add_with_encrypted_disk("a");
    host.add("bad", "");
    host.run("backup").ends(1);
    host.age("a", &[3, 2, 1]);
    let seed = host.path("backups/a/a.tar.gz");
    let script =
        "mkdir -p \"$1/2023-11-05\" && echo x >\"$1/2023-11-05/a.xml\" && tar -C \"$1\" -czf \"$2\" 2023-11-05";
    let [dir, archive] = [host.path("made"), seed].map(|path| path.to_str().unwrap().to_owned());
    host::run("sh", &["-c", script, "sh", &dir, &archive]);
    let bad = host.archives("bad").remove(0);
    let bytes = std::fs::read(&bad).unwrap();
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();

    std::os::unix::fs::symlink("nowhere", host.path("backups/closed")).unwrap();

    let sampled = host.run("verify --all --sample 5% --json").ends(6).json();
    section("Verification").covers(&sampled, &[]);
    section("Verification").check(&host.run("verify --all --json").ends(6).json());
    let listed = host.run("list --json").ends(6).json();
    section("Restore points").covers(&listed, &["points[].not_saved[].what", "points[].not_saved[].data"]);
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    let pruned = host.run("prune --dry-run --json").ends(5).json();
    // Failed removals are missing here: root can remove any file, and tests run as root. One guest has all points here.
    section("Pruning").covers(&pruned, &["domains[].points[].failure.message", "domains[].left_alone[].message"]);
    assert_eq!(pruned["dry_run"], true);
    let pruned = host.run("prune --json").ends(5).json();
    section("Pruning").check(&pruned);
    assert_eq!(pruned["dry_run"], false);
}

#[test]
fn checks_are_as_documented() {
    let host = Host::new(&["a"]);
    host.configure("", "{\"*\": {day_of_week: daily}, nosuch: {day_of_week: daily}}");
    let checked = host.run("check --json").ends(1).json();
    section("Checks").covers(&checked, &[]);
    host.write_config("");
    let checked = host.run("check --json").ends(2).json();
    section("Checks").covers(&checked, &[]);
    assert_eq!(checked["findings"][0]["severity"], "problem");
}

/// A report with every field set: a new field does not compile until it is added here.
fn full_report() -> RunReport {
    let failure = || Failure { message: "m".into(), hint: Some("h".into()) };
    let hook = || HookResult {
        name: "n".into(),
        phase: "snapshot".into(),
        status: HookStatus::Lost,
        message: Some("m".into()),
        duration_ms: 1,
        held_ms: Some(1),
        output: Some("o".into()),
    };
    let id = "20261122T020000Z".parse::<PointId>().unwrap();
    let domain = DomainOutcome {
        domain: "a".into(),
        uuid: Some(uuid::Uuid::nil()),
        job: "j".into(),
        outcome: Outcome::Partial,
        method: Some(Method::Pull),
        method_reason: Some("r".into()),
        consistency: Some(Consistency::Filesystem),
        wanted: Some(Consistency::Filesystem),
        frozen_ms: Some(1),
        captured_ms: Some(1),
        point: Some(id),
        disks: vec![DiskOutcome {
            target: "vda".into(),
            virtual_bytes: 1,
            data_bytes: 1,
            read_bytes: 1,
            changed_bytes: Some(1),
            whole_read: Some(WholeRead::Replaced),
            new_bytes: Some(1),
            stored_bytes: Some(1),
            encrypted: true,
            shrunk: true,
        }],
        skipped: vec![SkippedDisk { target: "vdb".into(), reason: "r".into(), missed: true, hint: Some("h".into()) }],
        not_saved: vec![NotSaved { what: "w".into(), data: true, hint: Some("h".into()) }],
        read_bytes: 1,
        stored_bytes: 1,
        duration_ms: 1,
        stages_ms: BTreeMap::from([("read".into(), 1), ("commit".into(), 1), ("prune".into(), 1)]),
        restore_points: 1,
        pruned: vec![id],
        warnings: vec![failure()],
        leftovers: vec![failure()],
        error: Some(failure()),
        reason: Some(FailureReason::Copy),
        hooks: vec![hook()],
    };
    RunReport {
        maintenance: None,
        schema: RunReport::SCHEMA,
        version: "0".into(),
        run_id: uuid::Uuid::nil(),
        host: "h".into(),
        jobs: vec!["j".into()],
        started: id.time(),
        finished: id.time(),
        domains: vec![domain],
        not_due: vec!["b".into()],
        recovered: vec!["r".into()],
        errors: vec![failure()],
        leftovers: vec![failure()],
        signal: Some(15),
        hooks: vec![hook()],
        warnings: vec![failure()],
        damaged: vec![DamagedPoint { domain: "a".into(), id, failure: failure() }],
    }
}

/// The fields that a section of docs/json.md documents, each with its types.
struct Documented(BTreeMap<String, String>);

fn section(title: &str) -> Documented {
    let text = include_str!("../../docs/json.md");
    let (_, section) = text.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| {
        let mut cells = row.split('|').map(str::trim);
        (cells.next().unwrap().trim_end_matches('`').to_owned(), cells.next().unwrap().to_owned())
    });
    Documented(rows.collect())
}

impl Documented {
    fn keys(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// [`Documented::check`], and panics unless the document has every key except hints and those of `without`.
    fn covers(&self, document: &Value, without: &[&str]) {
        let seen = self.check(document);
        let missing: Vec<_> = self.keys().difference(&seen).cloned().collect();
        let missing: Vec<_> =
            missing.iter().filter(|key| !key.ends_with(".hint") && !without.contains(&key.as_str())).collect();
        assert!(missing.is_empty(), "documented, but missing: {missing:?}\n{document:#}");
    }

    /// Panics unless every key of a document is documented with its type, and every mandatory key exists. Returns the
    /// keys.
    fn check(&self, document: &Value) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        self.object("", document, &mut seen);
        seen
    }

    fn object(&self, prefix: &str, value: &Value, seen: &mut BTreeSet<String>) {
        let Value::Object(fields) = value else { return };
        for (key, value) in fields {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let types = self.0.get(&path).unwrap_or_else(|| panic!("docs/json.md does not document `{path}`: {value}"));
            assert!(types.split(" or ").any(|of| of == kind(value)), "`{path}` is {value}, but documented as {types}");
            self.object(&path, value, seen);
            for item in value.as_array().into_iter().flatten() {
                self.object(&format!("{path}[]"), item, seen);
            }
            seen.insert(path);
        }
        let direct = |path: &str| path.rsplit_once('.').map_or("", |(parent, _)| parent) == prefix;
        for (path, types) in self.0.iter().filter(|(path, types)| direct(path) && !types.ends_with("absent")) {
            let key = path.rsplit('.').next().unwrap();
            assert!(fields.contains_key(key), "`{path}` ({types}) is missing in {value}");
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
