//! Text for counts, ages, times and long messages. It must not know their context, or HTML.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

/// Shortens a long message in the middle, because it begins with what failed and ends with the cause.
pub(super) fn shortened(message: &str) -> String {
    const SIDE: usize = 200;
    let all: Vec<char> = message.chars().collect();
    match all.len() > 2 * SIDE + 1 {
        true => all[..SIDE].iter().chain(&['…']).chain(&all[all.len() - SIDE..]).collect(),
        false => message.to_owned(),
    }
}

/// A number with the singular or plural form of its noun.
pub(super) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A duration in its largest suitable unit: `5 min`, `26 h`, `9 d`.
pub(super) fn span(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", (seconds + 30) / 60),
        5_400..172_800 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}

/// How long ago a time is.
pub(super) fn ago(now: DateTime<Utc>, time: DateTime<Utc>) -> String {
    match now - time {
        age if age < TimeDelta::seconds(60) => "just now".to_owned(),
        age => format!("{} ago", span(age)),
    }
}

/// A time, for readers and for the `datetime` attribute.
#[derive(Serialize)]
pub(super) struct Moment {
    iso: String,
    full: String,
    ago: String,
}

impl Moment {
    pub fn of(now: DateTime<Utc>, time: DateTime<Utc>) -> Moment {
        let iso = time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        Moment { iso, full: full(time), ago: ago(now, time) }
    }
}

/// The complete time.
pub(super) fn full(time: DateTime<Utc>) -> String {
    time.format("%a %-d %b %Y %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_message_is_shortened_in_the_middle() {
        assert_eq!(shortened("disk vda: no space"), "disk vda: no space");
        let short = shortened(&format!("disk ü: {}: no space", "x".repeat(500)));
        assert!(short.starts_with("disk ü: x") && short.contains("x…x") && short.ends_with("x: no space"), "{short}");
        assert_eq!(short.chars().count(), 401);
    }

    #[test]
    fn ages_have_one_unit() {
        let cases = [
            (-5, "0 s"),
            (59, "59 s"),
            (90, "2 min"),
            (3_600, "60 min"),
            (86_400, "24 h"),
            (172_800, "2 d"),
            (900_000, "10 d"),
        ];
        for (seconds, said) in cases {
            assert_eq!(span(TimeDelta::seconds(seconds)), said);
        }
    }
}
