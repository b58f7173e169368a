//! The results of copying the repository to other places, and whether a copy is due. Pure. Must not render.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// The results of one copy of the repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyRecord {
    /// Its address, without a password. With another one, it is the record of another copy.
    pub to: String,
    /// When the last attempt began.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When the last successful attempt began: the copy contains all restore points until then.
    pub last_success: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When the newest restore point of each domain on the copy was taken, as far as known.
    pub newest: BTreeMap<String, DateTime<Utc>>,
}

/// How much earlier than planned a copy may begin, at most: half of the interval of an hourly timer.
const SLACK: Duration = Duration::from_secs(30 * 60);

impl CopyRecord {
    /// Whether it is time for the next attempt.
    pub fn is_due(&self, every: Duration, now: DateTime<Utc>) -> bool {
        let wait = every - SLACK.min(every / 4);
        let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
        self.last_success.is_none_or(|last| now < last || now - last >= wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hourly_timer_copies_at_the_planned_interval() {
        let now: DateTime<Utc> = "2026-11-22T02:00:00Z".parse().unwrap();
        let last =
            |minutes| CopyRecord { last_success: Some(now - TimeDelta::minutes(minutes)), ..CopyRecord::default() };
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        for (minutes, every, due) in [
            (44, hour, false),
            (45, hour, true),
            (23 * 60, day, false),
            (23 * 60 + 30, day, true),
            (24 * 60, day, true),
            (-60, day, true),
        ] {
            assert_eq!(last(minutes).is_due(every, now), due, "{minutes} {every:?}");
        }
        assert!(CopyRecord::default().is_due(day, now));
    }
}
