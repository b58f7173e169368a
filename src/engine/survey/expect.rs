//! Derives from the configuration how often to expect a backup, and how many restore points. Pure. Must not know
//! domains.

use chrono::Weekday;

use crate::retention::Policy;

/// Seconds of a day. The hour of a clock change is within every tolerance.
const DAY: u64 = 24 * 60 * 60;

/// The longest time between two of these days, in seconds, including the step into the next week; 0 without days.
pub(super) fn longest_gap(days: &[Weekday]) -> u64 {
    let mut days: Vec<u64> = days.iter().map(|day| u64::from(day.num_days_from_monday())).collect();
    days.sort_unstable();
    days.dedup();
    // The first day of the next week ends the last gap of this one.
    let next = days.iter().skip(1).copied().chain(days.first().map(|first| first + 7));
    days.iter().zip(next).map(|(day, next)| (next - day) * DAY).max().unwrap_or(0)
}

/// The fewest restore points that stay once there are enough. One point may satisfy several rules, so only the largest
/// rule is certain. `None` if all stay.
pub(super) fn kept(policy: &Policy) -> Option<u64> {
    let Policy { last, daily, weekly, monthly, yearly } = *policy;
    [last, daily, weekly, monthly, yearly].into_iter().max().filter(|largest| *largest > 0).map(u64::from)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Months, TimeDelta, Utc};
    use proptest::prelude::*;

    use super::*;
    use crate::model::PointId;
    use crate::retention;

    #[test]
    fn longest_gap_includes_the_step_into_the_next_week() {
        use Weekday::*;
        let cases: [(&[Weekday], u64); 7] = [
            (&[Sun], 7),
            (&[Mon, Thu], 4),
            (&[Thu, Mon, Mon], 4),
            (&[Sat, Sun], 6),
            (&[Mon, Tue, Wed, Thu, Fri], 3),
            (&[Mon, Tue, Wed, Thu, Fri, Sat, Sun], 1),
            (&[], 0),
        ];
        for (days, gap) in cases {
            assert_eq!(longest_gap(days), gap * DAY, "{days:?}");
        }
    }

    #[test]
    fn all_points_stay_without_a_rule() {
        assert_eq!(kept(&Policy::default()), None);
        assert_eq!(kept(&Policy { weekly: 1, ..Policy::default() }), Some(1));
    }

    proptest! {
        /// Compares with retention itself: with points of many years, one each fortnight or each year, never fewer
        /// stay, and for some policies no more.
        #[test]
        fn kept_points_are_never_fewer_than_expected(rules in prop::array::uniform5(0_u32..9)) {
            let [last, daily, weekly, monthly, yearly] = rules;
            let policy = Policy { last, daily, weekly, monthly, yearly };
            let now: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().unwrap();
            let fortnights: Vec<_> = (0..400).map(|n| PointId::at(now - TimeDelta::days(14 * n))).collect();
            let years: Vec<_> = (0..20).map(|n| PointId::at(now - Months::new(12 * n))).collect();
            let stay = |points: &[PointId]| {
                retention::apply(&policy, points, now).iter().filter(|verdict| verdict.keep).count() as u64
            };
            match kept(&policy) {
                None => prop_assert_eq!((stay(&fortnights), stay(&years)), (400, 20)),
                Some(kept) => {
                    prop_assert!(stay(&fortnights) >= kept);
                    prop_assert_eq!(stay(&years), kept);
                }
            }
        }
    }
}
