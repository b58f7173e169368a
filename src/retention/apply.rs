//! Applies a policy to a list of restore points. Must not delete anything.

use chrono::{DateTime, Datelike, NaiveDate, TimeZone};

use super::Policy;
use crate::model::{PointId, is_future};

/// Whether a restore point stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub point: PointId,
    pub keep: bool,
    /// Every rule that keeps it (`last 2 of 3`, `daily 2026-11-21`), or why none does. Never empty.
    pub reasons: Vec<String>,
}

/// Judges the good restore points of one domain, in any order. The result is sorted newest first.
///
/// Days, ISO weeks, months and years are in the time zone of `now`. Periods without a point do not count: `daily: 7` keeps
/// points of seven days, even if there are gaps. The newest point always stays. Points in the future (see [`is_future`]) stay
/// and do not count: either the clock was set back since and they are the newest, or it was wrong then and their age is unknown.
pub fn apply<Tz: TimeZone>(policy: &Policy, points: &[PointId], now: DateTime<Tz>) -> Vec<Judgement> {
    let mut points = points.to_vec();
    points.sort_unstable_by(|a, b| b.cmp(a));
    points.dedup();
    let mut periods = [
        Period::new("daily", policy.daily, |day| day.format("%Y-%m-%d").to_string()),
        Period::new("weekly", policy.weekly, |day| {
            let week = day.iso_week();
            format!("{:04}-W{:02}", week.year(), week.week())
        }),
        Period::new("monthly", policy.monthly, |day| day.format("%Y-%m").to_string()),
        Period::new("yearly", policy.yearly, |day| day.format("%Y").to_string()),
    ];
    let mut counted = 0;
    let judge = |point: PointId| {
        let keep = |reasons| Judgement { point, keep: true, reasons };
        if is_future(point.time(), now.to_utc()) {
            return keep(vec!["in the future: the clock was set back".to_owned()]);
        }
        if *policy == Policy::default() {
            return keep(vec!["no rule: keep all".to_owned()]);
        }
        let day = point.time().with_timezone(&now.timezone()).date_naive();
        let mut reasons = Vec::new();
        if counted < policy.last {
            counted += 1;
            reasons.push(format!("last {counted} of {}", policy.last));
        }
        reasons.extend(periods.iter_mut().filter_map(|period| period.claim(day)));
        if reasons.is_empty() {
            return Judgement { point, keep: false, reasons: vec!["no rule keeps it".to_owned()] };
        }
        keep(reasons)
    };
    points.into_iter().map(judge).collect()
}

/// A rule that keeps the newest point of each of the `left` periods.
struct Period {
    rule: &'static str,
    left: u32,
    name: fn(NaiveDate) -> String,
    last: Option<String>,
}

impl Period {
    fn new(rule: &'static str, left: u32, name: fn(NaiveDate) -> String) -> Period {
        Period { rule, left, name, last: None }
    }

    /// The reason if this rule keeps the next older point, which was taken on `day`.
    fn claim(&mut self, day: NaiveDate) -> Option<String> {
        if self.left == 0 {
            return None;
        }
        let name = (self.name)(day);
        if self.last.as_ref() == Some(&name) {
            return None;
        }
        self.left -= 1;
        let reason = format!("{} {name}", self.rule);
        self.last = Some(name);
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, Utc};
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn point(text: &str) -> PointId {
        text.parse().unwrap()
    }

    fn kept(policy: &Policy, points: &[PointId]) -> Vec<PointId> {
        apply(policy, points, now()).into_iter().filter(|v| v.keep).map(|v| v.point).collect()
    }

    fn lines<Tz: TimeZone>(policy: &Policy, points: &[PointId], now: DateTime<Tz>) -> Vec<String> {
        let line = |v: &Judgement| format!("{} {} {}", if v.keep { "+" } else { "-" }, v.point, v.reasons.join(", "));
        apply(policy, points, now).iter().map(line).collect()
    }

    #[test]
    fn every_point_has_reasons() {
        let points = [
            "20251231T020000Z",
            "20261031T020000Z",
            "20261115T020000Z",
            "20261121T020000Z",
            "20261121T140000Z",
            "20261122T020000Z",
            "20261123T020000Z",
        ]
        .map(point);
        let policy = Policy { last: 2, daily: 3, weekly: 2, monthly: 2, yearly: 2 };
        assert_eq!(
            lines(&policy, &points, now()),
            [
                "+ 20261123T020000Z last 1 of 2, daily 2026-11-23, weekly 2026-W48, monthly 2026-11, yearly 2026",
                "+ 20261122T020000Z last 2 of 2, daily 2026-11-22, weekly 2026-W47",
                "+ 20261121T140000Z daily 2026-11-21",
                "- 20261121T020000Z no rule keeps it",
                "- 20261115T020000Z no rule keeps it",
                "+ 20261031T020000Z monthly 2026-10",
                "+ 20251231T020000Z yearly 2025",
            ]
        );
    }

    #[test]
    fn days_are_in_the_time_zone_of_the_host() {
        // 23:30 UTC on the 21st is the 22nd in Berlin.
        let points = [point("20261121T233000Z"), point("20261122T040000Z"), point("20261121T120000Z")];
        let berlin = now().with_timezone(&FixedOffset::east_opt(3600).unwrap());
        assert_eq!(
            lines(&Policy { daily: 9, ..Policy::default() }, &points, berlin),
            [
                "+ 20261122T040000Z daily 2026-11-22",
                "- 20261121T233000Z no rule keeps it",
                "+ 20261121T120000Z daily 2026-11-21",
            ]
        );
    }

    #[test]
    fn weeks_are_iso_weeks_and_do_not_end_with_the_year() {
        let points = [point("20261231T120000Z"), point("20270101T120000Z")];
        let later = "2027-01-02T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let verdicts = lines(&Policy { weekly: 5, ..Policy::default() }, &points, later);
        assert_eq!(verdicts, ["+ 20270101T120000Z weekly 2026-W53", "- 20261231T120000Z no rule keeps it"]);
    }

    #[test]
    fn points_in_the_future_stay_and_do_not_count() {
        let points = [point("20301231T120000Z"), point("20261101T120000Z"), point("20261001T120000Z")];
        assert_eq!(
            lines(&Policy::rotate(1), &points, now()),
            [
                "+ 20301231T120000Z in the future: the clock was set back",
                "+ 20261101T120000Z last 1 of 1",
                "- 20261001T120000Z no rule keeps it",
            ]
        );
    }

    /// The second of two backups within one second has the name of the next second.
    #[test]
    fn a_point_of_the_next_second_counts() {
        let now = "2026-11-01T12:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let points = [point("20261101T120001Z"), point("20261101T120000Z")];
        assert_eq!(
            lines(&Policy::rotate(1), &points, now),
            ["+ 20261101T120001Z last 1 of 1", "- 20261101T120000Z no rule keeps it"]
        );
    }

    #[test]
    fn without_a_rule_all_points_stay() {
        let points = [point("20261101T120000Z"), point("20001001T120000Z")];
        assert_eq!(kept(&Policy::default(), &points).len(), 2);
        assert_eq!(apply(&Policy::rotate(3), &[], now()), []);
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let rule = 0..6_u32;
        (rule.clone(), rule.clone(), rule.clone(), rule.clone(), rule)
            .prop_map(|(last, daily, weekly, monthly, yearly)| Policy { last, daily, weekly, monthly, yearly })
            .prop_filter("a rule", |policy| *policy != Policy::default())
    }

    fn histories() -> impl Strategy<Value = Vec<PointId>> {
        let age = prop_oneof![0..100_000_i64, 0..5_000_000_i64, -10_000_000..200_000_000_i64];
        prop::collection::vec(age, 0..60)
            .prop_map(|ages| ages.into_iter().map(|age| PointId::at(now() - chrono::TimeDelta::seconds(age))).collect())
    }

    proptest! {
        #[test]
        fn newest_point_always_stays(policy in policies(), points in histories()) {
            let kept = kept(&policy, &points);
            prop_assert_eq!(kept.iter().max(), points.iter().max());
            let past = |points: &[PointId]| points.iter().filter(|point| point.time() <= now()).max().copied();
            prop_assert_eq!(past(&kept), past(&points));
        }

        #[test]
        fn applying_a_policy_twice_removes_nothing_more(policy in policies(), points in histories()) {
            let once = kept(&policy, &points);
            prop_assert_eq!(kept(&policy, &once), once);
        }

        #[test]
        fn higher_numbers_keep_no_fewer_points(policy in policies(), more in policies(), points in histories()) {
            let sum = Policy {
                last: policy.last + more.last,
                daily: policy.daily + more.daily,
                weekly: policy.weekly + more.weekly,
                monthly: policy.monthly + more.monthly,
                yearly: policy.yearly + more.yearly,
            };
            let larger = kept(&sum, &points);
            prop_assert!(kept(&policy, &points).iter().all(|point| larger.contains(point)));
        }

        #[test]
        fn rotate_keeps_exactly_that_number(n in 1..9_u32, points in histories()) {
            let mut past: Vec<_> = points.into_iter().filter(|point| point.time() <= now()).collect();
            past.sort();
            past.dedup();
            prop_assert_eq!(kept(&Policy::rotate(n), &past).len(), past.len().min(n as usize));
        }
    }
}
