//! Decides whether the days of one domain include today. Must not know domains or libvirt.

use chrono::{Datelike, Days, NaiveDate, Weekday};

use crate::config::DomainSettings;

/// `Ok` if the domain is due, `Err` if not, each with the reason. `last` is the day of the newest restore point.
pub(super) fn judge(settings: &DomainSettings, last: Option<NaiveDate>, today: NaiveDate) -> Result<String, String> {
    let runs = |day: NaiveDate| settings.days.contains(&day.weekday());
    if runs(today) {
        return Ok(format!("due: {}", today.format("%A")));
    }
    let missed = (1..=7).filter_map(|n| today.checked_sub_days(Days::new(n))).find(|day| runs(*day));
    match missed.filter(|_| settings.catch_up) {
        Some(_) if last.is_none() => return Ok("catching up: no restore point yet".to_owned()),
        Some(missed) if last < Some(missed) => {
            return Ok(format!("catching up: nothing since {}", missed.format("%a %Y-%m-%d")));
        }
        _ => {}
    }
    let next = (1..=7).filter_map(|n| today.checked_add_days(Days::new(n))).find(|day| runs(*day));
    let next = next.map(|day| format!("; next {day}")).unwrap_or_default();
    Err(format!("not today: runs on {}{next}", names(&settings.days)))
}

fn names(days: &[Weekday]) -> String {
    days.iter().map(Weekday::to_string).collect::<Vec<_>>().join(", ")
}
