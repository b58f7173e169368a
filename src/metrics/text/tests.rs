//! Compares the text with a file, and tests it with promtool and Prometheus' own storage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;
use crate::ledger::*;
use crate::model::{Consistency, FailureReason, PointId, WholeRead};

/// Names that libvirt accepts: it rejects only `/`, line feeds, and invalid UTF-8.
const HOSTILE: &[&str] = &[
    r#"quo"te"#,
    r"back\slash",
    r"\",
    r"\n",
    r#"\""#,
    r#"",result="success"} 1"#,
    "{}",
    "# HELP x",
    "tab\tand\rreturn",
    "ünï © 漢字 🦀",
    " ",
];

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0)
}

fn point(seconds: i64) -> PointId {
    PointId::at(at(seconds).unwrap())
}

/// The disks of a point in a repository: one of which the changes were read, and one that was read whole.
fn disks() -> BTreeMap<String, DiskRecord> {
    let changed = DiskRecord {
        data_bytes: 8_000_000_000,
        read_bytes: 650_000_000,
        changed_bytes: Some(640_000_000),
        new_bytes: 410_000_000,
        stored_bytes: 180_000_000,
        whole_read: None,
    };
    let whole = DiskRecord {
        data_bytes: 2_000_000_000,
        read_bytes: 2_000_000_000,
        changed_bytes: None,
        new_bytes: 0,
        stored_bytes: 0,
        whole_read: Some(WholeRead::NoCheckpoint),
    };
    BTreeMap::from([("vda".to_owned(), changed), ("vdb".to_owned(), whole)])
}

/// The results of runs with every kind of domain.
fn ledger() -> Ledger {
    let nightly = JobRecord {
        last_start: at(0),
        last_completion: at(600),
        last_success: at(-86_400),
        last_duration_ms: 600_500,
        running: None,
        runs: BTreeMap::from([(JobResult::Success, 40), (JobResult::Partial, 2)]),
        domains: BTreeMap::from([(Tally::Selected, 2), (Tally::Success, 1), (Tally::Failure, 1)]),
    };
    let web = DomainRecord {
        job: "nightly".to_owned(),
        last_attempt: at(1),
        last_success: at(1),
        last_result: Some(DomainResult::Success),
        last_duration_ms: 301_250,
        last_stages_ms: BTreeMap::from([(Stage::Frozen, 812), (Stage::Copy, 290_000)]),
        last_read_bytes: 8_000_000_000,
        last_stored_bytes: 3_000_000_000,
        virtual_bytes: 20_000_000_000,
        consistency: Some(Consistency::Filesystem),
        wanted: Some(Consistency::Application),
        last_verify: at(-3600),
        hooks_ms: BTreeMap::from([("flush".to_owned(), 1_500)]),
        ..DomainRecord::default()
    };
    let db = DomainRecord {
        job: "nightly".to_owned(),
        last_attempt: at(2),
        last_result: Some(DomainResult::Failure),
        last_error: Some("no".to_owned()),
        consecutive_failures: 3,
        failures: BTreeMap::from([(FailureReason::Copy, 3)]),
        history: VecDeque::from([Attempt {
            time: at(2).unwrap(),
            result: DomainResult::Failure,
            point: Some(point(2)),
            duration_ms: 1,
            read_bytes: 1,
            stored_bytes: 1,
        }]),
        ..DomainRecord::default()
    };
    let deduplicated = DomainRecord { disks: disks(), consecutive_whole_reads: 2, ..web.clone() };
    Ledger {
        config_ok: true,
        jobs: BTreeMap::from([("nightly".to_owned(), nightly.clone()), ("given-up".to_owned(), nightly)]),
        domains: BTreeMap::from([
            ("web".to_owned(), web.clone()),
            ("db".to_owned(), db),
            ("gone".to_owned(), web.clone()),
            ("uncovered".to_owned(), web),
            ("vm".to_owned(), deduplicated),
        ]),
        hooks: BTreeMap::from([(
            "flush".to_owned(),
            HookRecord { runs: BTreeMap::from([(HookStatus::Ok, 9), (HookStatus::Lost, 1)]), last_ms: Some(20) },
        )]),
        reports: BTreeMap::from([(Channel::Smtp, Delivery { last_success: at(700), failures: 2 })]),
        last_prune: at(550),
        maintenance: Some(MaintenanceRecord {
            repository: "/backup".into(),
            last: at(800),
            last_error: Some("damaged".to_owned()),
            last_prune: at(790),
            last_check: at(-604_000),
            unused_ratio: Some(0.025),
            stored: Some(StoredObjects { bytes: 10_500_000, packs: 12, blobs: 3_400 }),
        }),
        copies: BTreeMap::from([
            ("gone".to_owned(), CopyRecord::default()),
            (
                "offsite".to_owned(),
                CopyRecord {
                    to: "rest:https://u:***@far/".to_owned(),
                    last_attempt: at(860),
                    last_success: at(810),
                    last_error: Some("copy offsite: connection refused".to_owned()),
                    newest: [("other".to_owned(), at(500).unwrap()), ("removed".to_owned(), at(-9_000).unwrap())]
                        .into(),
                },
            ),
        ]),
        ..Ledger::default()
    }
}

fn points(count: u64, newest: i64) -> SeenPoints {
    SeenPoints { count, bytes: count * 1_000_000, oldest: at(-1_000_000), newest: at(newest), ..SeenPoints::default() }
}

fn seen(job: Option<&str>, points: SeenPoints) -> Seen {
    Seen {
        job: job.map(str::to_owned),
        excluded: false,
        defined: true,
        leftover_overlays: 0,
        since: None,
        expected_interval_s: if job.is_some() { 86_400 } else { 0 },
        store: None,
        wanted: None,
        points,
    }
}

fn survey() -> Survey {
    Survey {
        time: at(900).unwrap(),
        host: "h".to_owned(),
        domains: BTreeMap::from([
            (
                "web".to_owned(),
                seen(Some("nightly"), SeenPoints { damaged: vec![point(1), point(-9)], ..points(7, 1) }),
            ),
            ("db".to_owned(), Seen { leftover_overlays: 1, ..seen(Some("nightly"), points(1, 2)) }),
            ("lost".to_owned(), seen(Some("nightly"), points(2, -50_000))),
            ("new".to_owned(), seen(Some("nightly"), SeenPoints::default())),
            ("vm".to_owned(), seen(Some("nightly"), points(3, 1))),
            ("stranger".to_owned(), seen(None, SeenPoints::default())),
            ("uncovered".to_owned(), seen(None, SeenPoints::default())),
            ("archive".to_owned(), Seen { defined: false, ..seen(None, points(1, -90_000)) }),
            ("gone".to_owned(), Seen { defined: false, ..seen(None, SeenPoints::default()) }),
        ]),
        jobs: BTreeMap::from([(
            "nightly".to_owned(),
            SeenJob { expected_interval_s: 86_400, minimum_restore_points: 7 },
        )]),
        hooks: BTreeSet::from(["flush".to_owned()]),
        copies: BTreeMap::from([("never".to_owned(), 604_800), ("offsite".to_owned(), 86_400)]),
        repository: SeenRepository {
            path: "/backup".into(),
            up: true,
            capacity_bytes: 1_000_000_000_000,
            available_bytes: 250_000_000_000,
            stored_bytes: 10_000_000,
            deduplicated: false,
        },
        other: None,
        libvirt_ok: true,
    }
}

/// The value of a series, by its text up to the value.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn has_domain(text: &str, name: &str) -> bool {
    text.contains(&format!("domain=\"{name}\""))
}

#[track_caller]
fn promtool(args: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in Debian's package prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The complaints of promtool about a text.
#[track_caller]
fn lint(text: &str) -> String {
    let output = promtool(&["check", "metrics"], text);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn text_equals_the_golden_file() {
    let text = text(&ledger(), Some(&survey()), false).unwrap();
    let golden =
        include_str!("golden.prom").replace("VERSION", env!("CARGO_PKG_VERSION")).replace("REVISION", revision());
    assert_eq!(lint(&golden), "");
    assert!(text == golden, "src/metrics/text/golden.prom should be:\n{text}");
}

#[test]
fn promtool_accepts_every_text() {
    for (ledger, survey) in [(Ledger::default(), None), (ledger(), None), (ledger(), Some(survey()))] {
        let text =
            text(&ledger, survey.as_ref(), true).unwrap() + &exporter_text(true, Duration::from_millis(7)).unwrap();
        assert_eq!(lint(&text), "");
        for metric in ALL {
            let kind = format!("# TYPE {} {}\n", metric.name, format!("{:?}", metric.kind).to_lowercase());
            assert_eq!(text.matches(&kind).count(), 1, "{}", metric.name);
            assert_eq!(
                text.matches(&format!("# HELP {} {}\n", metric.name, metric.help)).count(),
                1,
                "{}",
                metric.name
            );
        }
    }
}

#[test]
fn promtool_rejects_a_bad_text() {
    assert_ne!(lint("# HELP kvmbackup_x_ms X.\n# TYPE kvmbackup_x_ms counter\nkvmbackup_x_ms 1\n"), "");
}

#[test]
fn every_metric_has_a_series_with_all_of_its_labels() {
    let text = text(&ledger(), Some(&survey()), false).unwrap() + &exporter_text(true, Duration::ZERO).unwrap();
    for metric in ALL {
        let mut series = text.lines().filter(|line| line.starts_with(&format!("{}{{", metric.name)));
        match metric.labels {
            [] => assert!(text.lines().any(|line| line.starts_with(&format!("{} ", metric.name))), "{}", metric.name),
            labels => {
                let first = series.next().unwrap_or_else(|| panic!("no series of {}", metric.name));
                for line in series.chain([first]) {
                    let names: Vec<_> = line.split("=\"").filter_map(|part| part.rsplit(['{', ',']).next()).collect();
                    assert_eq!(&names[..names.len() - 1], labels, "{line}");
                }
            }
        }
    }
}

/// Prometheus' own storage reads the series and returns the same names.
#[test]
fn prometheus_reads_back_hostile_names() {
    let mut survey = survey();
    for name in HOSTILE {
        survey.domains.insert((*name).to_owned(), seen(Some("nightly"), SeenPoints::default()));
    }
    let text = text(&ledger(), Some(&survey), false).unwrap();
    assert_eq!(lint(&text), "");
    assert!(!text.contains('\r'));

    // The storage is filled from OpenMetrics, which has the same samples but requires times and an end.
    let defined = text.lines().filter(|line| line.starts_with("kvmbackup_domain_defined{"));
    let samples: String = defined.map(|line| format!("{line} 1790000000\n")).collect();
    let dir = tempfile::tempdir().unwrap();
    let (file, storage) = (dir.path().join("in"), dir.path().join("storage"));
    std::fs::write(&file, format!("# TYPE kvmbackup_domain_defined gauge\n{samples}# EOF\n")).unwrap();
    let words = ["tsdb", "create-blocks-from", "openmetrics", path(&file), path(&storage)];
    let made = promtool(&words, "");
    assert!(made.status.success(), "{made:?}\n{samples}");
    std::fs::create_dir(storage.join("wal")).unwrap();
    let dump = String::from_utf8(promtool(&["tsdb", "dump", path(&storage)], "").stdout).unwrap();
    let read: BTreeSet<String> =
        dump.lines().filter_map(|line| line.split_once("domain=")).map(|(_, rest)| go_string(rest)).collect();
    let names: BTreeSet<String> = survey.domains.keys().filter(|name| *name != "gone").cloned().collect();
    // The format has no escape for a carriage return.
    let names = names.into_iter().map(|name| name.replace('\r', "\u{fffd}")).collect();
    assert_eq!(read, names, "{dump}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The value of the Go string literal at the start of a text.
fn go_string(literal: &str) -> String {
    let mut string = String::new();
    let mut chars = literal.chars().skip(1);
    loop {
        match chars.next().unwrap() {
            '"' => return string,
            '\\' => string.push(match chars.next().unwrap() {
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                other => other,
            }),
            other => string.push(other),
        }
    }
}

#[test]
fn labels_with_the_same_concatenation_are_separate_series() {
    let mut survey = survey();
    for (job, name) in [("a", "bc"), ("ab", "c")] {
        survey.jobs.insert(job.to_owned(), SeenJob::default());
        survey.domains.insert(name.to_owned(), seen(Some(job), SeenPoints::default()));
    }
    let text = text(&Ledger::default(), Some(&survey), false).unwrap();
    for labels in [r#"{backup_job="a",domain="bc"}"#, r#"{backup_job="ab",domain="c"}"#] {
        assert_eq!(value(&text, &format!("kvmbackup_domain_restore_points{labels}")), Some(0.0), "{text}");
    }
}

#[test]
fn sizes_in_a_repository_are_not_those_of_full_points() {
    let mut survey = survey();
    survey.repository.deduplicated = true;
    let text = text(&ledger(), Some(&survey), false).unwrap();
    for name in ["kvmbackup_domain_last_read_bytes{", "kvmbackup_domain_last_stored_bytes{"] {
        let sizes: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
        assert!(!sizes.is_empty() && sizes.iter().all(|line| line.contains("mode=\"incremental\"")), "{sizes:#?}");
    }
    assert!(!text.contains("mode=\"full\""));
}

#[test]
fn disks_have_series_only_if_the_last_point_is_in_a_repository() {
    let text = text(&ledger(), Some(&survey()), false).unwrap();
    let series = |domain: &str| -> Vec<_> {
        let of_disks = |line: &&str| line.starts_with("kvmbackup_disk_") || line.contains("whole_reads{");
        text.lines().filter(of_disks).filter(|line| line.contains(&format!("domain=\"{domain}\""))).collect()
    };
    assert_eq!(series("web"), [""; 0]);
    assert_eq!(series("new"), [""; 0]);
    let of = |name: &str, labels: &str| value(&text, &format!("kvmbackup_{name}{{backup_job=\"nightly\",{labels}}}"));
    assert_eq!(of("domain_consecutive_whole_reads", r#"domain="vm""#), Some(2.0));
    let (vda, vdb) = (r#"domain="vm",disk="vda""#, r#"domain="vm",disk="vdb""#);
    assert_eq!(of("disk_last_changed_bytes", vda), Some(640_000_000.0));
    assert_eq!(of("disk_last_changed_bytes", vdb), None, "its changes are unknown");
    assert_eq!(of("disk_last_new_bytes", vdb), Some(0.0));
    let whole: Vec<_> = series("vm").into_iter().filter(|line| line.contains("last_whole_read{")).collect();
    let expected = format!(r#"kvmbackup_disk_last_whole_read{{backup_job="nightly",{vdb},reason="no_checkpoint"}} 1"#);
    assert_eq!(whole, [expected]);
}

#[test]
fn maintenance_of_another_repository_or_of_none_has_no_series() {
    let has_series = |ledger: &Ledger| {
        let text = text(ledger, Some(&survey()), false).unwrap();
        text.lines().any(|line| line.starts_with("kvmbackup_repository_maintenance_success{"))
    };
    let mut ledger = ledger();
    assert!(has_series(&ledger));
    ledger.maintenance.as_mut().unwrap().repository = "/other".into();
    assert!(!has_series(&ledger));
    ledger.maintenance = None;
    assert!(!has_series(&ledger));
}

#[test]
fn failure_counters_start_at_zero() {
    let text = text(&Ledger::default(), Some(&survey()), false).unwrap();
    for reason in FailureReason::ALL {
        let word = serde_json::to_value(reason).unwrap();
        let labels = format!("{{backup_job=\"nightly\",domain=\"new\",reason={word}}}");
        assert_eq!(value(&text, &format!("kvmbackup_domain_failures_total{labels}")), Some(0.0), "{labels}");
    }
    for result in ["success", "partial", "failure", "aborted"] {
        let labels = format!("{{backup_job=\"nightly\",result=\"{result}\"}}");
        assert_eq!(value(&text, &format!("kvmbackup_job_runs_total{labels}")), Some(0.0), "{labels}");
    }
    assert_eq!(
        value(&text, r#"kvmbackup_domain_last_success_timestamp_seconds{backup_job="nightly",domain="new"}"#),
        Some(0.0)
    );
}

#[test]
fn removed_guest_has_no_series_and_counters_stay() {
    let (ledger, mut survey) = (ledger(), survey());
    let before = text(&ledger, Some(&survey), false).unwrap();
    assert!(has_domain(&before, "web") && !has_domain(&before, "gone"), "{before}");
    survey.domains.remove("web");
    let after = text(&ledger, Some(&survey), false).unwrap();
    assert!(!has_domain(&after, "web"), "{after}");
    let runs = r#"kvmbackup_job_runs_total{backup_job="nightly",result="success"}"#;
    assert_eq!(value(&after, runs), Some(40.0));
}

#[test]
fn lost_ledger_does_not_hide_restore_points() {
    let success = |text: &str, name: &str| {
        value(
            text,
            &format!("kvmbackup_domain_last_success_timestamp_seconds{{backup_job=\"nightly\",domain=\"{name}\"}}"),
        )
    };
    let text = text(&ledger(), Some(&survey()), false).unwrap();
    assert_eq!(success(&text, "lost"), Some(1_789_950_000.0));
    assert_eq!(success(&text, "db"), Some(0.0), "the only point is partial");
}

#[test]
fn running_requires_a_run_and_a_lock() {
    let running = |ledger: &Ledger, locked| {
        let text = text(ledger, Some(&survey()), locked).unwrap();
        value(&text, r#"kvmbackup_job_running{backup_job="nightly"}"#)
    };
    let mut ledger = ledger();
    assert_eq!(running(&ledger, true), Some(0.0), "a restore holds the lock");
    ledger.jobs.get_mut("nightly").unwrap().running = Some(Uuid::nil());
    assert_eq!(running(&ledger, true), Some(1.0));
    assert_eq!(running(&ledger, false), Some(0.0), "the run was killed");
}
