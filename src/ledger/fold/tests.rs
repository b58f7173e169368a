//! Tests what each kind of report changes, one rule per test, and the invariants after any sequence of reports.

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ledger::{Seen, SeenJob, SeenRepository};
use crate::model::{Consistency, Failure, PointId};

fn time(hour: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_312_800, 0).unwrap() + TimeDelta::hours(hour)
}

/// The run of this hour, which took 90 s.
fn report(hour: i64, domains: Vec<DomainOutcome>) -> RunReport {
    RunReport {
        schema: RunReport::SCHEMA,
        version: "0".into(),
        run_id: Uuid::from_u128(hour as u128),
        host: "h".into(),
        jobs: vec!["a".into(), "b".into()],
        started: time(hour),
        finished: time(hour) + TimeDelta::seconds(90),
        domains,
        not_due: Vec::new(),
        recovered: Vec::new(),
        errors: Vec::new(),
        leftovers: Vec::new(),
        signal: None,
        hooks: Vec::new(),
        warnings: Vec::new(),
        damaged: Vec::new(),
        maintenance: None,
    }
}

fn of_job(job: &str, name: &str, outcome: Outcome) -> DomainOutcome {
    let wanted = Some(Consistency::Filesystem);
    DomainOutcome { job: job.into(), outcome, wanted, ..DomainOutcome::new(name, Some(Uuid::nil())) }
}

fn saved(name: &str, hour: i64) -> DomainOutcome {
    let disk = |target: &str| DiskOutcome {
        target: target.into(),
        virtual_bytes: 100,
        data_bytes: 20,
        read_bytes: 20,
        ..DiskOutcome::default()
    };
    DomainOutcome {
        point: Some(PointId::at(time(hour) + TimeDelta::seconds(7))),
        consistency: Some(Consistency::Crash),
        disks: vec![disk("vda"), disk("vdb")],
        read_bytes: 41,
        stored_bytes: 12,
        duration_ms: 8_000,
        ..of_job("a", name, Outcome::Success)
    }
}

fn failed(name: &str, reason: FailureReason) -> DomainOutcome {
    let error = Some(Failure { message: "x".into(), hint: None });
    DomainOutcome { reason: Some(reason), error, duration_ms: 5, ..of_job("a", name, Outcome::Failed) }
}

fn not_run(name: &str) -> DomainOutcome {
    DomainOutcome { wanted: None, ..of_job("a", name, Outcome::Failed) }
}

fn hook(name: &str, phase: &str, status: HookStatus) -> HookResult {
    HookResult {
        name: name.into(),
        phase: phase.into(),
        status,
        message: None,
        duration_ms: 10,
        held_ms: None,
        output: None,
    }
}

fn run(ledger: &mut Ledger, report: &RunReport, result: RunResult) {
    ledger.begin(report);
    ledger.record(report, result);
}

fn runs(ledger: &Ledger, job: &str) -> Vec<(JobResult, u64)> {
    ledger.jobs[job].runs.iter().map(|(result, count)| (*result, *count)).collect()
}

#[test]
fn run_is_in_progress_from_start_to_end() {
    let mut ledger = Ledger::default();
    let report = report(1, vec![saved("web", 1)]);
    ledger.begin(&report);
    assert!(ledger.config_ok);
    assert_eq!(
        ledger.jobs["b"],
        JobRecord { last_start: Some(time(1)), running: Some(report.run_id), ..JobRecord::default() }
    );
    ledger.record(&report, RunResult::Good);
    let job = &ledger.jobs["a"];
    assert_eq!(
        (job.running, job.last_completion, job.last_success),
        (None, Some(report.finished), Some(report.finished))
    );
    assert_eq!((job.last_duration_ms, runs(&ledger, "a")), (90_000, vec![(JobResult::Success, 1)]));
    assert_eq!(job.domains, BTreeMap::from([(Tally::Selected, 1), (Tally::Success, 1)]));
    // Nothing of this job was due, which is a success.
    assert_eq!(runs(&ledger, "b"), [(JobResult::Success, 1)]);
    assert_eq!(ledger.jobs["b"].domains, BTreeMap::from([(Tally::Selected, 0)]));
}

#[test]
fn killed_run_counts_as_aborted_when_the_next_one_starts() {
    let mut ledger = Ledger::default();
    ledger.begin(&report(1, vec![]));
    ledger.begin(&RunReport { jobs: vec!["a".into()], ..report(2, vec![]) });
    assert_eq!(runs(&ledger, "a"), [(JobResult::Aborted, 1)]);
    assert_eq!((runs(&ledger, "b"), ledger.jobs["b"].running), (vec![(JobResult::Aborted, 1)], None));
    assert_eq!(ledger.jobs["a"].running, Some(Uuid::from_u128(2)));
}

#[test]
fn failure_of_one_job_does_not_affect_another() {
    let mut ledger = Ledger::default();
    let other = DomainOutcome { job: "b".into(), ..saved("db", 1) };
    run(&mut ledger, &report(1, vec![saved("web", 1), failed("mail", FailureReason::Copy), other]), RunResult::Failed);
    assert_eq!(runs(&ledger, "a"), [(JobResult::Partial, 1)]);
    assert_eq!((runs(&ledger, "b"), ledger.jobs["a"].last_success), (vec![(JobResult::Success, 1)], None));
    run(&mut ledger, &report(2, vec![failed("web", FailureReason::Copy)]), RunResult::Failed);
    assert_eq!(runs(&ledger, "a"), [(JobResult::Partial, 1), (JobResult::Failure, 1)]);
}

#[test]
fn a_run_that_fails_as_a_whole_fails_for_every_job() {
    let mut ledger = Ledger::default();
    let errors = vec![Failure { message: "no libvirt".into(), hint: None }];
    run(&mut ledger, &RunReport { errors, ..report(1, vec![]) }, RunResult::Hypervisor);
    assert_eq!(
        (runs(&ledger, "a"), runs(&ledger, "b")),
        (vec![(JobResult::Failure, 1)], vec![(JobResult::Failure, 1)])
    );
    ledger.config_failed(time(2));
    assert_eq!((ledger.config_ok, runs(&ledger, "b")), (false, vec![(JobResult::Failure, 2)]));
    assert_eq!(ledger.jobs["b"].last_completion, Some(time(2)));
    run(&mut ledger, &report(3, vec![]), RunResult::Good);
    assert!(ledger.config_ok);
}

#[test]
fn signal_aborts_the_run_and_remaining_domains_are_not_run() {
    let mut ledger = Ledger::default();
    let domains = vec![saved("web", 1), failed("db", FailureReason::Other), not_run("mail")];
    run(&mut ledger, &RunReport { signal: Some(15), ..report(1, domains) }, RunResult::Signal(15));
    assert_eq!(runs(&ledger, "a"), [(JobResult::Aborted, 1)]);
    let states = [Tally::Selected, Tally::Success, Tally::Failure, Tally::NotRun];
    assert_eq!(ledger.jobs["a"].domains, BTreeMap::from_iter(states.into_iter().zip([3, 1, 1, 1])));
    assert!(!ledger.domains.contains_key("mail"), "no attempt was made");
    // A signal during recovery is not in the report.
    run(&mut ledger, &report(2, vec![]), RunResult::Signal(15));
    assert_eq!(runs(&ledger, "a"), [(JobResult::Aborted, 2)]);
}

#[test]
fn domains_skipped_by_hooks_are_neither_failure_nor_success() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![failed("web", FailureReason::Hook)]), RunResult::Failed);
    run(&mut ledger, &report(2, vec![of_job("a", "web", Outcome::Skipped)]), RunResult::Good);
    let (job, web) = (&ledger.jobs["a"], &ledger.domains["web"]);
    assert_eq!((runs(&ledger, "a"), job.last_success), (vec![(JobResult::Failure, 1)], None));
    assert_eq!((web.last_result, web.consecutive_failures), (Some(DomainResult::Skipped), 1));
    assert_eq!((web.last_success, web.last_attempt), (None, Some(time(2))));
    // It does not count if another domain is backed up.
    run(&mut ledger, &report(3, vec![of_job("a", "web", Outcome::Skipped), saved("db", 3)]), RunResult::Good);
    assert_eq!(runs(&ledger, "a"), [(JobResult::Success, 1), (JobResult::Failure, 1)]);
    // The hook skips the whole run.
    let hooks = vec![hook("weekend", "pre-run", HookStatus::Skip)];
    run(&mut ledger, &RunReport { hooks, ..report(4, vec![]) }, RunResult::Good);
    assert_eq!(runs(&ledger, "a"), [(JobResult::Success, 1), (JobResult::Failure, 1)]);
    assert_eq!(ledger.jobs["a"].last_completion, Some(time(4) + TimeDelta::seconds(90)));
}

#[test]
fn success_records_all_values_and_resets_failures() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![failed("web", FailureReason::Copy)]), RunResult::Failed);
    run(&mut ledger, &report(2, vec![failed("web", FailureReason::Timeout)]), RunResult::Failed);
    assert_eq!(
        (ledger.domains["web"].consecutive_failures, ledger.domains["web"].last_error.as_deref()),
        (2, Some("x"))
    );
    let stages_ms = BTreeMap::from([("read".into(), 3), ("commit".into(), 2), ("prune".into(), 1)]);
    let hooks = vec![hook("ping", "pre-domain", HookStatus::Ok), hook("ping", "post-domain", HookStatus::Failed)];
    let timed = DomainOutcome { stages_ms, hooks, frozen_ms: Some(5), captured_ms: Some(4), ..saved("web", 3) };
    run(&mut ledger, &report(3, vec![timed]), RunResult::Good);
    let web = &ledger.domains["web"];
    let began = time(3) + TimeDelta::seconds(7);
    assert_eq!((web.job.as_str(), web.last_attempt, web.last_success), ("a", Some(began), Some(began)));
    assert_eq!((web.last_result, &web.last_error, web.consecutive_failures), (Some(DomainResult::Success), &None, 0));
    assert_eq!(web.failures, BTreeMap::from([(FailureReason::Copy, 1), (FailureReason::Timeout, 1)]));
    assert_eq!((web.last_read_bytes, web.last_stored_bytes, web.virtual_bytes), (41, 12, 200));
    assert_eq!((web.consistency, web.wanted), (Some(Consistency::Crash), Some(Consistency::Filesystem)));
    use Stage::*;
    let stages = [(Hooks, 20), (Frozen, 5), (Snapshot, 4), (Copy, 3), (Commit, 2), (Prune, 1)];
    assert_eq!(web.last_stages_ms, BTreeMap::from(stages));
    assert_eq!(web.hooks_ms, BTreeMap::from([("ping".into(), 20)]));
    assert_eq!(ledger.hooks["ping"].runs, BTreeMap::from([(HookStatus::Ok, 1), (HookStatus::Failed, 1)]));
    assert_eq!((ledger.hooks["ping"].last_ms, ledger.last_prune), (None, Some(time(3) + TimeDelta::seconds(90))));
}

#[test]
fn the_first_warning_is_kept_until_the_next_attempt() {
    let mut ledger = Ledger::default();
    let failure = |message: &str| Failure { message: message.to_owned(), hint: None };
    let warned = DomainOutcome { warnings: vec![failure("a"), failure("b")], ..saved("web", 1) };
    let left = DomainOutcome { leftovers: vec![failure("overlay")], ..saved("web", 2) };
    for (at, outcome, said) in [
        (1, warned.clone(), Some("a (and 1 more)")),
        (2, left, Some("overlay")),
        (3, DomainOutcome { leftovers: vec![failure("overlay")], ..warned }, Some("overlay (and 2 more)")),
        (4, saved("web", 4), None),
    ] {
        run(&mut ledger, &report(at, vec![outcome]), RunResult::Good);
        assert_eq!(ledger.domains["web"].last_warning.as_deref(), said);
    }
}

#[test]
fn a_failed_attempt_keeps_the_sizes_of_the_last_good_one() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![saved("web", 1)]), RunResult::Good);
    // It had read some data when it failed.
    let half = DomainOutcome { read_bytes: 9, stored_bytes: 3, ..failed("web", FailureReason::Copy) };
    run(&mut ledger, &report(2, vec![half]), RunResult::Failed);
    let web = &ledger.domains["web"];
    assert_eq!((web.last_read_bytes, web.last_stored_bytes, web.last_duration_ms), (41, 12, 5));
    let sizes: Vec<_> = web.history.iter().map(|attempt| (attempt.read_bytes, attempt.stored_bytes)).collect();
    assert_eq!(sizes, [(41, 12), (9, 0)]);
}

/// The backup of this hour into a repository, with two disks.
fn saved_in_repository(hour: i64, whole: [Option<WholeRead>; 2]) -> DomainOutcome {
    let mut outcome = saved("web", hour);
    for (disk, whole) in outcome.disks.iter_mut().zip(whole) {
        disk.whole_read = whole;
        disk.changed_bytes = whole.is_none().then_some(hour as u64);
        (disk.read_bytes, disk.new_bytes, disk.stored_bytes) = (5, Some(4), Some(3));
    }
    outcome
}

#[test]
fn disks_of_the_last_point_in_a_repository_are_recorded() {
    let mut ledger = Ledger::default();
    let outcome = saved_in_repository(1, [None, Some(WholeRead::Format)]);
    run(&mut ledger, &report(1, vec![outcome]), RunResult::Good);
    let vda = DiskRecord {
        data_bytes: 20,
        read_bytes: 5,
        changed_bytes: Some(1),
        new_bytes: 4,
        stored_bytes: 3,
        whole_read: None,
    };
    let vdb = DiskRecord { changed_bytes: None, whole_read: Some(WholeRead::Format), ..vda.clone() };
    let disks = BTreeMap::from([("vda".to_owned(), vda), ("vdb".to_owned(), vdb)]);
    assert_eq!(ledger.domains["web"].disks, disks);

    // Its point was not committed.
    let lost = DomainOutcome { point: None, outcome: Outcome::Failed, ..saved_in_repository(2, [None, None]) };
    run(&mut ledger, &report(2, vec![lost]), RunResult::Failed);
    assert_eq!(ledger.domains["web"].disks, disks);

    // A partial point lacks a disk.
    let mut partial = DomainOutcome { outcome: Outcome::Partial, ..saved_in_repository(3, [None, None]) };
    partial.disks.pop();
    run(&mut ledger, &report(3, vec![partial]), RunResult::Failed);
    assert_eq!(ledger.domains["web"].disks.keys().collect::<Vec<_>>(), ["vda"]);

    // An archive knows nothing about new bytes.
    run(&mut ledger, &report(4, vec![saved("web", 4)]), RunResult::Good);
    assert_eq!(ledger.domains["web"].disks, BTreeMap::new());
}

#[test]
fn whole_reads_in_a_row_count_only_those_that_should_not_repeat() {
    let mut ledger = Ledger::default();
    let mut hour = 0;
    let mut after = |whole: [Option<WholeRead>; 2]| {
        hour += 1;
        run(&mut ledger, &report(hour, vec![saved_in_repository(hour, whole)]), RunResult::Good);
        ledger.domains["web"].consecutive_whole_reads
    };
    let unexpected = [WholeRead::NoCheckpoint, WholeRead::Replaced, WholeRead::Resized, WholeRead::Refused];
    for reason in WholeRead::ALL {
        assert_eq!(after([None, Some(reason)]), u64::from(unexpected.contains(&reason)), "{reason:?}");
        assert_eq!(after([None, None]), 0);
    }
    assert_eq!(after([Some(WholeRead::First), Some(WholeRead::First)]), 0);
    assert_eq!(after([Some(WholeRead::Refused), Some(WholeRead::Resized)]), 1, "attempts count, not disks");
    assert_eq!(after([None, Some(WholeRead::NoCheckpoint)]), 2);
    assert_eq!(after([Some(WholeRead::Format), Some(WholeRead::Replaced)]), 3);
    assert_eq!(after([Some(WholeRead::Format), None]), 0);
}

#[test]
fn whole_reads_of_a_domain_that_is_off_do_not_count() {
    let mut ledger = Ledger::default();
    let whole = [Some(WholeRead::NoCheckpoint), None];
    for (hour, method, expected) in [
        (1, Method::Pull, 1),
        (2, Method::Pull, 2),
        (3, Method::Direct, 0),
        (4, Method::Direct, 0),
        (5, Method::Pull, 1),
    ] {
        let outcome = DomainOutcome { method: Some(method), ..saved_in_repository(hour, whole) };
        run(&mut ledger, &report(hour, vec![outcome]), RunResult::Good);
        assert_eq!(ledger.domains["web"].consecutive_whole_reads, expected, "{hour}");
    }
}

#[test]
fn attempts_without_a_point_do_not_change_whole_reads_in_a_row() {
    let mut ledger = Ledger::default();
    let whole = [None, Some(WholeRead::NoCheckpoint)];
    run(&mut ledger, &report(1, vec![saved_in_repository(1, whole)]), RunResult::Good);
    let lost = DomainOutcome { point: None, outcome: Outcome::Failed, ..saved_in_repository(2, whole) };
    run(&mut ledger, &report(2, vec![lost]), RunResult::Failed);
    run(&mut ledger, &report(3, vec![of_job("a", "web", Outcome::Skipped)]), RunResult::Good);
    assert_eq!(ledger.domains["web"].consecutive_whole_reads, 1);
    run(&mut ledger, &report(4, vec![saved_in_repository(4, whole)]), RunResult::Good);
    assert_eq!(ledger.domains["web"].consecutive_whole_reads, 2);
    run(&mut ledger, &report(5, vec![saved("web", 5)]), RunResult::Good);
    assert_eq!(ledger.domains["web"].consecutive_whole_reads, 0, "the point is an archive");
}

#[test]
fn time_of_the_first_success_never_changes() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![failed("web", FailureReason::Copy)]), RunResult::Failed);
    assert_eq!(ledger.domains["web"].first_success, None);
    for day in [2, 3] {
        run(&mut ledger, &report(day, vec![saved("web", day)]), RunResult::Good);
    }
    assert_eq!(ledger.domains["web"].first_success, Some(time(2) + TimeDelta::seconds(7)));
}

#[test]
fn a_partial_backup_counts_as_failure() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![saved("web", 1)]), RunResult::Good);
    let reason = Some(FailureReason::Copy);
    run(
        &mut ledger,
        &report(2, vec![DomainOutcome { outcome: Outcome::Partial, reason, ..saved("web", 2) }]),
        RunResult::Failed,
    );
    let web = &ledger.domains["web"];
    assert_eq!((web.last_result, web.consecutive_failures), (Some(DomainResult::Failure), 1));
    assert_eq!(web.last_success, Some(time(1) + TimeDelta::seconds(7)));
    assert_eq!(
        (&web.failures, runs(&ledger, "a")[1]),
        (&BTreeMap::from([(FailureReason::Copy, 1)]), (JobResult::Failure, 1))
    );
}

#[test]
fn success_with_warnings_or_leftovers_is_a_warning() {
    let mut ledger = Ledger::default();
    let something = || vec![Failure { message: "w".into(), hint: None }];
    let prune = || BTreeMap::from([("prune".into(), 1)]);
    let warned = DomainOutcome { warnings: something(), ..saved("web", 1) };
    let untidy = DomainOutcome { leftovers: something(), stages_ms: prune(), ..saved("db", 1) };
    run(&mut ledger, &report(1, vec![warned, untidy]), RunResult::Untidy);
    for name in ["web", "db"] {
        let domain = &ledger.domains[name];
        assert_eq!((domain.last_result, domain.last_success.is_some()), (Some(DomainResult::Warning), true), "{name}");
    }
    assert_eq!((runs(&ledger, "a"), ledger.last_prune), (vec![(JobResult::Success, 1)], None));
}

#[test]
fn unknown_name_from_the_command_line_is_not_recorded() {
    let mut ledger = Ledger::default();
    let typo = DomainOutcome { job: String::new(), ..failed("wbe", FailureReason::Other) };
    run(&mut ledger, &report(1, vec![typo]), RunResult::Failed);
    assert!(ledger.domains.is_empty());
}

#[test]
fn recorded_times_never_go_back() {
    let mut ledger = Ledger::default();
    ledger.verified("web", time(2));
    ledger.verified("web", time(1));
    ledger.restored("web", time(3));
    ledger.pruned(time(4));
    ledger.delivered(Channel::Smtp, Err(()));
    ledger.delivered(Channel::Smtp, Ok(time(5)));
    let web = &ledger.domains["web"];
    assert_eq!((web.last_verify, web.last_restore, ledger.last_prune), (Some(time(2)), Some(time(3)), Some(time(4))));
    let smtp = &ledger.reports[&Channel::Smtp];
    assert_eq!((smtp.last_success, smtp.failures), (Some(time(5)), 1));
}

#[test]
fn domains_and_jobs_that_no_longer_exist_are_forgotten() {
    let mut ledger = Ledger::default();
    run(&mut ledger, &report(1, vec![saved("web", 1), saved("gone", 1)]), RunResult::Good);
    let mut survey = Survey {
        time: time(2),
        host: "h".into(),
        domains: BTreeMap::from([("web".into(), Seen::default())]),
        jobs: BTreeMap::from([("a".into(), SeenJob::default())]),
        hooks: Default::default(),
        copies: Default::default(),
        repository: SeenRepository { up: true, ..SeenRepository::default() },
        other: None,
        libvirt_ok: false,
    };
    for (libvirt_ok, up, left) in [(false, true, 2), (true, false, 2), (true, true, 1)] {
        (survey.libvirt_ok, survey.repository.up) = (libvirt_ok, up);
        ledger.forget(&survey);
        assert_eq!((ledger.domains.len(), ledger.jobs.len()), (left, left));
    }
    assert!(ledger.domains.contains_key("web") && ledger.jobs.contains_key("a"));
}

/// Any kind of attempt.
fn outcomes() -> impl Strategy<Value = DomainOutcome> {
    let reason = prop::sample::select(FailureReason::ALL.to_vec());
    (0..5, reason).prop_map(|(kind, reason)| match kind {
        0 => saved("d", 1),
        1 => DomainOutcome { outcome: Outcome::Partial, reason: Some(reason), ..saved("d", 1) },
        2 => of_job("a", "d", Outcome::Skipped),
        3 => not_run("d"),
        _ => failed("d", reason),
    })
}

/// All counters of a ledger, by name.
fn counters(ledger: &Ledger) -> BTreeMap<String, u64> {
    let jobs = ledger
        .jobs
        .iter()
        .flat_map(|(name, job)| job.runs.iter().map(move |(result, count)| (format!("{name} {result:?}"), *count)));
    let domains = ledger.domains.iter().flat_map(|(name, domain)| {
        domain.failures.iter().map(move |(reason, count)| (format!("{name} {reason:?}"), *count))
    });
    let hooks = ledger
        .hooks
        .iter()
        .flat_map(|(name, hook)| hook.runs.iter().map(move |(status, count)| (format!("{name} {status:?}"), *count)));
    jobs.chain(domains).chain(hooks).collect()
}

proptest! {
    #[test]
    fn counters_never_decrease_and_other_values_match_the_attempts(
        attempts in prop::collection::vec((outcomes(), any::<bool>()), 1..(HISTORY * 2)),
    ) {
        let mut ledger = Ledger::default();
        let mut tried = Vec::new();
        let mut ended = 0;
        for (hour, (outcome, is_killed)) in attempts.into_iter().enumerate() {
            let before = counters(&ledger);
            let mut report = report(hour as i64, vec![outcome.clone()]);
            report.hooks.push(hook("ping", "pre-run", HookStatus::Ok));
            ledger.begin(&report);
            if !is_killed {
                ledger.record(&report, RunResult::Good);
                tried.extend(Some(outcome).filter(|outcome| state(outcome) != Tally::NotRun));
                ended += 1;
            }
            let after = counters(&ledger);
            prop_assert!(before.iter().all(|(name, count)| after[name] >= *count));
        }
        prop_assert_eq!(ledger.hooks.get("ping").map_or(0, |hook| hook.runs[&HookStatus::Ok]), ended);
        let domain = ledger.domains.get("d").cloned().unwrap_or_default();
        let results: Vec<_> = tried.iter().map(result_of).filter(|result| *result != DomainResult::Skipped).collect();
        let row = results.iter().rev().take_while(|result| **result == DomainResult::Failure).count();
        prop_assert_eq!(domain.consecutive_failures, row as u64);
        let failures = results.iter().filter(|result| **result == DomainResult::Failure).count();
        prop_assert_eq!(domain.failures.values().sum::<u64>(), failures as u64);
        prop_assert_eq!(domain.history.len(), tried.len().min(HISTORY));
        let newest: Vec<_> = tried.iter().rev().take(HISTORY).map(result_of).collect();
        prop_assert_eq!(domain.history.iter().rev().map(|attempt| attempt.result).collect::<Vec<_>>(), newest);
        // The ledger can be written and read again.
        let text = serde_json::to_string(&ledger).unwrap();
        prop_assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    }
}
