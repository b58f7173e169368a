//! Decides which stored times are plausible. Must not read the clock.

use chrono::{DateTime, TimeDelta, Utc};

/// The clock skew that is tolerated, here or on the host that wrote a time.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// Whether a stored time is in the future. Then a clock is or was wrong, and nothing may wait until that time.
pub fn is_future(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    time > now + TOLERANCE
}
