//! Owns: which stored times are believed. Must not: ask what time it is.

use chrono::{DateTime, TimeDelta, Utc};

/// Clocks may be as much off, here or on the host that wrote a time.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// Whether a stored time is of the future: the clock was wrong then, or is now, and nothing may be waited for until that time.
pub fn is_future(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    time > now + TOLERANCE
}
