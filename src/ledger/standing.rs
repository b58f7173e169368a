//! Decides whether the backups of a guest or the runs of a job are late, missing, or not scheduled, for the status
//! page, emails and metrics. Pure. Must not render.

use chrono::{DateTime, TimeDelta, Utc};

use super::{DomainRecord, JobRecord, Seen, SeenJob};

/// The age of the last good backup, compared with the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// No backup exists, although the first one should.
    Never,
    /// No backup exists yet, and the first one is not due: the guest is newer than one interval, or has no schedule.
    Awaited,
    /// It has no schedule, or the schedule is unknown.
    Unplanned(TimeDelta),
    /// Not older than the schedule allows, with some tolerance because runs differ in length.
    OnTime {
        /// How old it is.
        age: TimeDelta,
        /// Planned time between two backups.
        interval: TimeDelta,
    },
    /// Older than that.
    Late {
        /// How old it is.
        age: TimeDelta,
        /// Planned time between two backups.
        interval: TimeDelta,
    },
}

impl Age {
    /// The age of a guest's last backup, according to the ledger and the last survey.
    pub fn of(past: Option<&DomainRecord>, seen: Option<&Seen>, now: DateTime<Utc>) -> Age {
        let interval = seen.and_then(|seen| interval(seen.expected_interval_s));
        let age = |since: DateTime<Utc>| (now - since).max(TimeDelta::zero());
        match (last_success(past, seen).map(age), interval) {
            (Some(age), Some(interval)) if age > late_after(interval) => Age::Late { age, interval },
            (Some(age), Some(interval)) => Age::OnTime { age, interval },
            (Some(age), None) => Age::Unplanned(age),
            (None, Some(interval)) => match seen.and_then(|seen| seen.since) {
                Some(since) if age(since) <= late_after(interval) => Age::Awaited,
                _ => Age::Never,
            },
            // The schedule is unknown until the first survey.
            (None, None) if seen.is_none() => Age::Never,
            (None, None) => Age::Awaited,
        }
    }

    /// Whether a backup should exist by now but does not.
    pub fn is_late(self) -> bool {
        matches!(self, Age::Never | Age::Late { .. })
    }
}

/// The age above which a backup, or the start of a run, is late: the interval, a quarter of it and an hour, because runs differ in
/// length.
pub fn late_after(interval: TimeDelta) -> TimeDelta {
    interval + interval / 4 + TimeDelta::hours(1)
}

/// The time between two days of a schedule; `None` without a schedule, or if the number is implausible.
pub fn interval(seconds: u64) -> Option<TimeDelta> {
    const TEN_YEARS: i64 = 315_576_000;
    i64::try_from(seconds).ok().filter(|seconds| (1..=TEN_YEARS).contains(seconds)).map(TimeDelta::seconds)
}

/// When the guest was last backed up completely. After the loss of the ledger this is the time of its newest restore
/// point. If the ledger knows the newest point but no success, that point is partial.
pub fn last_success(past: Option<&DomainRecord>, seen: Option<&Seen>) -> Option<DateTime<Utc>> {
    let is_known = |time: &DateTime<Utc>| {
        past.is_some_and(|past| {
            past.history.iter().filter_map(|attempt| attempt.point).any(|point| point.time() == *time)
        })
    };
    past.and_then(|past| past.last_success).or_else(|| seen?.points.newest.filter(|time| !is_known(time)))
}

/// When the guest was first backed up completely, as far back as ledger and restore points go.
pub fn first_success(past: Option<&DomainRecord>, seen: Option<&Seen>) -> Option<DateTime<Utc>> {
    let oldest = seen.and_then(|seen| seen.points.oldest).filter(|_| last_success(past, seen).is_some());
    [past.and_then(|past| past.first_success), oldest].into_iter().flatten().min()
}

impl Seen {
    /// libvirt defines it, and the configuration neither covers nor excludes it.
    pub fn is_unprotected(&self) -> bool {
        self.defined && self.job.is_none() && !self.excluded
    }
}

impl JobRecord {
    /// The time since the last run of the job began, if that is too long.
    pub fn late(&self, seen: &SeenJob, now: DateTime<Utc>) -> Option<TimeDelta> {
        let (since, interval) = (now - self.last_start?, interval(seen.expected_interval_s)?);
        (since > late_after(interval)).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attempt, DomainResult, SeenPoints};
    use super::*;
    use crate::model::PointId;

    const DAY: u64 = 86_400;

    fn now() -> DateTime<Utc> {
        "2026-11-23T08:00:00Z".parse().unwrap()
    }

    fn ago(hours: i64) -> Option<DateTime<Utc>> {
        Some(now() - TimeDelta::hours(hours))
    }

    fn saved(hours: i64) -> DomainRecord {
        DomainRecord { last_success: ago(hours), ..DomainRecord::default() }
    }

    fn seen(interval: u64, since: Option<i64>, newest: Option<i64>) -> Seen {
        let points = SeenPoints { newest: newest.and_then(ago), oldest: newest.and_then(ago), ..SeenPoints::default() };
        let job = Some("j".to_owned());
        Seen {
            job,
            defined: true,
            expected_interval_s: interval,
            since: since.and_then(ago),
            points,
            ..Seen::default()
        }
    }

    #[test]
    fn guest_is_late_after_its_interval_plus_a_quarter_and_an_hour() {
        for (interval, hours, is_late) in
            [(DAY, 31, false), (DAY, 32, true), (7 * DAY, 211, false), (7 * DAY, 212, true)]
        {
            let seen = seen(interval, None, None);
            assert_eq!(Age::of(Some(&saved(hours)), Some(&seen), now()).is_late(), is_late, "{interval} {hours}");
            let job = JobRecord { last_start: ago(hours), ..JobRecord::default() };
            let planned = SeenJob { expected_interval_s: interval, ..SeenJob::default() };
            assert_eq!(job.late(&planned, now()).is_some(), is_late, "{interval} {hours}");
        }
        assert!(!Age::of(Some(&saved(9_999)), Some(&seen(0, None, None)), now()).is_late(), "no schedule");
    }

    #[test]
    fn first_backup_is_late_after_the_same_time() {
        for (since, age) in [(Some(31), Age::Awaited), (Some(32), Age::Never), (None, Age::Never)] {
            assert_eq!(Age::of(None, Some(&seen(DAY, since, None)), now()), age);
        }
        assert_eq!(Age::of(None, None, now()), Age::Never);
        assert_eq!(Age::of(None, Some(&seen(0, None, None)), now()), Age::Awaited);
    }

    #[test]
    fn without_a_ledger_the_newest_restore_point_counts() {
        let seen = seen(DAY, Some(99), Some(5));
        assert_eq!(last_success(None, Some(&seen)), ago(5));
        assert_eq!(first_success(None, Some(&seen)), ago(5));
        assert!(matches!(Age::of(None, Some(&seen), now()), Age::OnTime { .. }));
        // The ledger knows that this point is partial.
        let partial = Attempt {
            time: ago(5).unwrap(),
            result: DomainResult::Failure,
            point: Some(PointId::at(ago(5).unwrap())),
            duration_ms: 0,
            read_bytes: 0,
            stored_bytes: 0,
        };
        let past = DomainRecord { history: [partial].into(), ..DomainRecord::default() };
        assert_eq!(last_success(Some(&past), Some(&seen)), None);
        assert_eq!(Age::of(Some(&past), Some(&seen), now()), Age::Never);
    }

    #[test]
    fn a_clock_that_was_ahead_makes_no_guest_late() {
        let age = Age::of(Some(&saved(-5)), Some(&seen(DAY, None, None)), now());
        assert_eq!(age, Age::OnTime { age: TimeDelta::zero(), interval: TimeDelta::days(1) });
    }
}
