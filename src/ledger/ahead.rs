//! Corrects future times in a ledger, which a clock that was ahead has left. Pure. Must not read the clock, or report
//! anything.
//!
//! A success with such a time would silence alerts, catch-up and weekly emails until that time, so it is removed. An
//! attempt gets the current time instead, so that no success looks newer than it.

use chrono::{DateTime, Utc};

use super::{DomainRecord, DomainResult, Ledger};
use crate::model::is_future;

impl Ledger {
    /// Corrects all future times, and keeps the latest of them as `ahead`.
    pub(super) fn disbelieve(&mut self, now: DateTime<Utc>) {
        let mut times = Times { now, latest: None };
        for job in self.jobs.values_mut() {
            times.clamp(&mut job.last_start);
            times.clamp(&mut job.last_completion);
            times.drop(&mut job.last_success);
        }
        for domain in self.domains.values_mut() {
            times.of_domain(domain);
        }
        for delivery in self.reports.values_mut() {
            times.drop(&mut delivery.last_success);
        }
        for mailed in [&mut self.mailed, &mut self.mailed_maintenance] {
            times.drop(&mut mailed.last);
            times.drop(&mut mailed.last_ok);
        }
        for run in &mut self.mailed.untold {
            times.clamp_time(&mut run.time);
        }
        times.drop(&mut self.last_prune);
        if let Some(maintenance) = &mut self.maintenance {
            times.clamp(&mut maintenance.last);
            times.drop(&mut maintenance.last_prune);
            times.drop(&mut maintenance.last_check);
        }
        for copy in self.copies.values_mut() {
            times.clamp(&mut copy.last_attempt);
            times.drop(&mut copy.last_success);
        }
        self.ahead = self.ahead.max(times.latest);
    }
}

struct Times {
    now: DateTime<Utc>,
    latest: Option<DateTime<Utc>>,
}

impl Times {
    fn of_domain(&mut self, domain: &mut DomainRecord) {
        self.clamp(&mut domain.last_attempt);
        self.drop(&mut domain.first_success);
        self.drop(&mut domain.last_verify);
        self.drop(&mut domain.last_restore);
        let before = domain.history.len();
        domain.history.retain(|attempt| !self.is_ahead(attempt.time));
        self.drop(&mut domain.last_success);
        if before > domain.history.len() && domain.last_success.is_none() {
            let whole = |result| matches!(result, DomainResult::Success | DomainResult::Warning);
            domain.last_success =
                domain.history.iter().rev().find(|attempt| whole(attempt.result)).map(|attempt| attempt.time);
        }
        if domain.first_success.is_none() {
            domain.first_success = domain.last_success;
        }
    }

    fn drop(&mut self, time: &mut Option<DateTime<Utc>>) {
        *time = time.filter(|time| !self.is_ahead(*time));
    }

    fn clamp(&mut self, time: &mut Option<DateTime<Utc>>) {
        if let Some(time) = time {
            self.clamp_time(time);
        }
    }

    fn clamp_time(&mut self, time: &mut DateTime<Utc>) {
        if self.is_ahead(*time) {
            *time = self.now;
        }
    }

    fn is_ahead(&mut self, time: DateTime<Utc>) -> bool {
        let is_ahead = is_future(time, self.now);
        if is_ahead {
            self.latest = self.latest.max(Some(time));
        }
        is_ahead
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn future_times_are_corrected() {
        let past = "2026-11-01T00:00:00Z";
        let future = "2028-01-01T00:00:00Z";
        let attempt = |time: &str| json!({"time": time, "result": "success", "point": null, "duration_ms": 1, "read_bytes": 1, "stored_bytes": 1});
        let mut ledger: Ledger = serde_json::from_value(json!({
            "jobs": {"j": {"last_start": future, "last_completion": future, "last_success": future}},
            "domains": {"d": {
                "last_attempt": future, "first_success": future, "last_success": future, "last_verify": future,
                "last_restore": future, "history": [attempt(past), attempt(future)]
            }},
            "reports": {"smtp": {"last_success": future, "failures": 0}},
            "mailed": {
                "last": future, "last_ok": future, "status": null,
                "untold": [{"time": future, "status": "OK", "subject": "s"}]
            },
            "last_prune": future,
            "maintenance": {"last": future, "last_prune": future, "last_check": future},
            "copies": {"far": {"last_attempt": future, "last_success": future}}
        }))
        .unwrap();
        let now: DateTime<Utc> = "2026-11-30T00:00:00Z".parse().unwrap();
        ledger.disbelieve(now);
        assert_eq!(ledger.ahead, Some(future.parse().unwrap()));
        let domain = &ledger.domains["d"];
        assert_eq!(domain.last_success, Some(past.parse().unwrap()), "the previous success is still known");
        assert_eq!(domain.last_attempt, Some(now), "no success looks newer than the attempt");
        let mut told = Ledger { ahead: None, ..ledger };
        assert!(!serde_json::to_string(&told).unwrap().contains("2028"));
        let believed = told.clone();
        told.disbelieve(now);
        assert_eq!(told, believed);
    }
}
