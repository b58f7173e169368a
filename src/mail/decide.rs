//! Summarises a run, and decides whether an email is due for it. Pure. Must not send, or read the clock.

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};

use crate::config::MailWhen;
use crate::ledger::standing::Age;
use crate::ledger::{Ledger, Mailed, Survey};
use crate::model::{DomainOutcome, Outcome, RunReport, RunResult, Status};

/// The time between two good runs that are mailed as a sign of life: half a day less than a week, so that a weekly run is never too
/// early.
const SIGN_OF_LIFE: TimeDelta = TimeDelta::hours(7 * 24 - 12);

/// The summary of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gist {
    /// How much attention the run needs.
    pub status: Status,
    /// The number of domains that the status is about.
    pub count: usize,
    /// The number of domains of the run.
    pub all: usize,
    /// The domains, or the cause, that the status is about.
    pub names: Vec<String>,
}

/// The summary of a run. `result` is that of the program, `late` are guests that should have been due; see [`late`].
pub fn gist(report: &RunReport, result: RunResult, late: &[String]) -> Gist {
    let result = result.max(report.result());
    if report.maintenance.is_some() {
        let name = match result {
            RunResult::Damaged => "the repository is damaged",
            _ if result.severity() == Status::Failed => "maintenance failed",
            _ => "maintenance",
        };
        return Gist { status: result.severity(), count: 0, all: 0, names: vec![name.to_owned()] };
    }
    let warns = !late.is_empty() || report.domains.iter().any(DomainOutcome::warns);
    let status = match result.severity() {
        Status::Ok if warns || !report.warnings.is_empty() || !report.damaged.is_empty() => Status::Warning,
        status => status,
    };
    let of = |test: fn(&DomainOutcome) -> bool| -> Vec<String> {
        report.domains.iter().filter(|domain| test(domain)).map(|domain| domain.domain.clone()).collect()
    };
    let mut names = match status {
        Status::Ok => of(|domain| domain.outcome == Outcome::Success),
        Status::Warning => of(DomainOutcome::warns),
        Status::Failed | Status::Aborted => of(|domain| domain.outcome.is_failure()),
    };
    let count = names.len();
    let damaged = report.damaged.iter().map(|point| format!("{} {} is damaged", point.domain, point.id));
    match status {
        Status::Ok => names.clear(),
        Status::Warning => names.extend(late.iter().map(|name| format!("{name} is late")).chain(damaged)),
        Status::Failed | Status::Aborted if result == RunResult::Damaged => names.extend(damaged),
        Status::Failed | Status::Aborted => {}
    }
    if names.is_empty() && status != Status::Ok {
        names.push(result.cause().to_owned());
    }
    Gist { status, count, all: report.domains.len(), names }
}

/// Guests that were not due in this run although their last backup is too old, or although they never had one.
pub fn late(ledger: &Ledger, survey: &Survey, report: &RunReport) -> Vec<String> {
    let tried = |name: &str| report.domains.iter().any(|domain| domain.domain == name);
    let guests = survey.domains.iter().filter(|(name, seen)| seen.job.is_some() && seen.defined && !tried(name));
    let late = guests.filter(|(name, seen)| {
        let past = ledger.domains.get(*name);
        Age::of(past, Some(seen), report.finished).is_late()
    });
    late.map(|(name, _)| name.clone()).collect()
}

/// Whether an email is due for a run, considering earlier emails. The days of a digest are those of `now`'s time zone.
pub fn is_due(when: MailWhen, gist: &Gist, mailed: &Mailed, now: DateTime<FixedOffset>) -> bool {
    let changed = mailed.status != Some(gist.status) || (gist.status != Status::Ok && mailed.names != gist.names);
    let no_sign = mailed.last_ok.is_none_or(|last| now.with_timezone(&Utc) - last >= SIGN_OF_LIFE);
    match when {
        MailWhen::Always => true,
        MailWhen::Change => changed,
        MailWhen::Digest => {
            mailed.last.is_none_or(|last| last.with_timezone(now.offset()).date_naive() != now.date_naive())
        }
        MailWhen::Failure => match gist.status {
            Status::Failed | Status::Aborted => true,
            Status::Warning => changed,
            Status::Ok => changed || no_sign,
        },
    }
}

/// Whether an email is due for a maintenance of the repository, considering earlier emails about it. A good one is mailed
/// only after a bad one, unless every one is mailed: the runs send the signs of life and the digests.
pub fn is_maintenance_due(when: MailWhen, gist: &Gist, mailed: &Mailed, now: DateTime<FixedOffset>) -> bool {
    let is_news = gist.status != Status::Ok || mailed.status.is_some_and(|status| status != Status::Ok);
    when == MailWhen::Always || (is_news && is_due(when, gist, mailed, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{DomainRecord, Seen, SeenPoints};
    use crate::report::sample;

    fn now() -> DateTime<FixedOffset> {
        "2026-11-23T00:30:00+01:00".parse().unwrap()
    }

    fn ago(hours: i64) -> Option<DateTime<Utc>> {
        Some(now().with_timezone(&Utc) - TimeDelta::hours(hours))
    }

    #[test]
    fn worst_problem_determines_the_status_and_the_names() {
        let of = |report: &RunReport, result, late: &[String]| {
            let gist = gist(report, result, late);
            (gist.status, gist.count, gist.all, gist.names.join(", "))
        };
        assert_eq!(of(&sample::good(), RunResult::Good, &[]), (Status::Ok, 2, 2, String::new()));
        assert_eq!(of(&sample::bad(), RunResult::Failed, &[]), (Status::Failed, 2, 3, "db1, files".into()));
        assert_eq!(
            of(&sample::good(), RunResult::Good, &["web".into()]),
            (Status::Warning, 0, 2, "web is late".into())
        );
        assert_eq!(of(&sample::good(), RunResult::Signal(15), &[]), (Status::Aborted, 0, 2, "the run".into()));
        assert_eq!(
            of(&sample::empty(), RunResult::Locked, &[]),
            (Status::Failed, 0, 0, "another run holds the lock".into())
        );
        let mut warned = sample::good();
        warned.domains[1].warnings = sample::bad().domains[2].warnings.clone();
        assert_eq!(of(&warned, RunResult::Good, &[]), (Status::Warning, 1, 2, "büro".into()));
    }

    #[test]
    fn by_default_failures_recovery_and_a_weekly_sign_of_life_are_mailed() {
        let ok = gist(&sample::good(), RunResult::Good, &[]);
        let bad = gist(&sample::bad(), RunResult::Failed, &[]);
        let due = |gist: &Gist, mailed: &Mailed| is_due(MailWhen::Failure, gist, mailed, now());
        let mailed = |status, last_ok| Mailed { status: Some(status), last_ok, ..Mailed::default() };
        assert!(due(&ok, &Mailed::default()), "the first email shows that mail works");
        assert!(due(&bad, &mailed(Status::Ok, ago(24))));
        assert!(due(&bad, &mailed(Status::Failed, ago(24))), "each failure");
        assert!(due(&ok, &mailed(Status::Failed, ago(24))), "recovery");
        assert!(!due(&ok, &mailed(Status::Ok, ago(24))));
        assert!(due(&ok, &mailed(Status::Ok, ago(7 * 24 - 1))), "weekly sign of life");
    }

    #[test]
    fn maintenance_is_mailed_if_it_fails_and_once_it_succeeds_again() {
        let about = |result| gist(&RunReport { maintenance: Some(vec![]), ..sample::empty() }, result, &["web".into()]);
        let (ok, bad, damaged) = (about(RunResult::Good), about(RunResult::Target), about(RunResult::Damaged));
        assert_eq!((ok.status, ok.names.join(", ")), (Status::Ok, "maintenance".into()));
        assert_eq!((bad.status, bad.names.join(", ")), (Status::Failed, "maintenance failed".into()));
        assert_eq!((damaged.status, damaged.names.join(", ")), (Status::Failed, "the repository is damaged".into()));
        assert_eq!(about(RunResult::Signal(15)).status, Status::Aborted);
        let told = |gist: &Gist, hours| Mailed {
            status: Some(gist.status),
            names: gist.names.clone(),
            last: ago(hours),
            last_ok: ago(9999),
            ..Mailed::default()
        };
        let due = |when, gist: &Gist, mailed: &Mailed| is_maintenance_due(when, gist, mailed, now());
        for when in [MailWhen::Failure, MailWhen::Change, MailWhen::Digest] {
            assert!(!due(when, &ok, &Mailed::default()) && !due(when, &ok, &told(&ok, 168)), "{when:?}");
            assert!(due(when, &bad, &Mailed::default()) && due(when, &ok, &told(&bad, 168)), "{when:?}");
            assert!(due(when, &damaged, &told(&bad, 168)), "{when:?}");
            assert_eq!(due(when, &bad, &told(&bad, 168)), when != MailWhen::Change, "{when:?}");
        }
        assert!(!due(MailWhen::Digest, &bad, &told(&bad, 0)), "one a day");
        assert!(due(MailWhen::Always, &ok, &told(&ok, 0)));
    }

    #[test]
    fn change_means_a_new_status_or_new_names_and_a_digest_is_daily() {
        let ok = gist(&sample::good(), RunResult::Good, &[]);
        let bad = gist(&sample::bad(), RunResult::Failed, &[]);
        let same = Mailed { status: Some(Status::Failed), names: bad.names.clone(), ..Mailed::default() };
        assert!(!is_due(MailWhen::Change, &bad, &same, now()));
        assert!(is_due(MailWhen::Change, &Gist { names: vec!["other".into()], ..bad.clone() }, &same, now()));
        assert!(is_due(MailWhen::Change, &ok, &same, now()));
        let digest = |last| is_due(MailWhen::Digest, &bad, &Mailed { last, ..Mailed::default() }, now());
        assert!(digest(None) && digest(ago(1)) && !digest(ago(0)), "half past midnight, local time");
        assert!(is_due(MailWhen::Always, &ok, &Mailed::default(), now()));
    }

    #[test]
    fn guests_with_an_overdue_backup_are_late() {
        let seen = |hours: i64, job: Option<&str>| Seen {
            job: job.map(str::to_owned),
            defined: true,
            expected_interval_s: 86400,
            points: SeenPoints {
                newest: Some(sample::empty().finished - TimeDelta::hours(hours)),
                ..SeenPoints::default()
            },
            ..Seen::default()
        };
        let unsaved = |hours: i64| Seen {
            since: Some(sample::empty().finished - TimeDelta::hours(hours)),
            points: SeenPoints::default(),
            ..seen(0, Some("j"))
        };
        let survey = Survey {
            time: sample::empty().finished,
            host: "h".into(),
            domains: [
                ("db1", seen(99, Some("j"))),
                ("due", seen(30, Some("j"))),
                ("late", seen(32, Some("j"))),
                ("never", unsaved(32)),
                ("new", unsaved(30)),
                ("nobody's", seen(99, None)),
            ]
            .map(|(name, seen)| (name.to_owned(), seen))
            .into(),
            jobs: Default::default(),
            hooks: Default::default(),
            copies: Default::default(),
            repository: Default::default(),
            other: None,
            libvirt_ok: true,
        };
        assert_eq!(late(&Ledger::default(), &survey, &sample::bad()), ["late", "never"]);
        // A partial restore point does not count as a backup.
        let whole = DomainRecord {
            last_success: Some(sample::empty().finished - TimeDelta::hours(40)),
            ..DomainRecord::default()
        };
        let ledger = Ledger { domains: [("due".to_owned(), whole)].into(), ..Ledger::default() };
        assert_eq!(late(&ledger, &survey, &sample::bad()), ["due", "late", "never"]);
    }
}
