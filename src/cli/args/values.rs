//! Parses option values that need more than a word. Must not know which option they belong to.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

use crate::engine::restore::DiskChoice;
use crate::model::{Phase, PointId, StoreKind, size};

impl clap::ValueEnum for StoreKind {
    fn value_variants<'a>() -> &'a [StoreKind] {
        &StoreKind::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
}

/// Selects a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// By its ID.
    Id(PointId),
    /// The newest one that was taken at or before this time.
    Time(DateTime<Utc>),
}

impl FromStr for At {
    type Err = String;

    /// An ID (`20261122T020000Z`), or a time: RFC 3339, or `2026-11-22[ 02:00[:00]]` in the time zone of the host. A
    /// time without seconds, or without an hour, means the last second of that minute or day.
    fn from_str(text: &str) -> Result<At, String> {
        if let Ok(id) = text.parse() {
            return Ok(At::Id(id));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(At::Time(time.to_utc()));
        }
        let last_second = TimeDelta::seconds(59);
        let local = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|layout| NaiveDateTime::parse_from_str(text, layout).ok())
            .or_else(|| {
                let minute = ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
                let minute = minute.iter().find_map(|layout| NaiveDateTime::parse_from_str(text, layout).ok());
                minute?.checked_add_signed(last_second)
            })
            .or_else(|| {
                let next = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.checked_add_days(Days::new(1))?;
                next.and_time(NaiveTime::MIN).checked_sub_signed(TimeDelta::seconds(1))
            });
        // If a clock change repeats an hour, the second one is meant. If it skips the hour, the time does not exist.
        let time = local.and_then(|local| local.and_local_timezone(Local).latest());
        time.map(|time| At::Time(time.to_utc()))
            .ok_or_else(|| "not a restore point ID (20261122T020000Z) or a time (2026-11-22 02:00)".to_owned())
    }
}

/// A duration as in the configuration, but also in days.
pub fn duration(text: &str) -> Result<Duration, String> {
    size::parse_duration(text).ok_or_else(|| "not a number with a unit (30s, 15m, 2h or 7d)".to_owned())
}

/// A percentage of something that cannot be empty.
pub fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|percent| (1..=100).contains(percent)).ok_or_else(|| "not a percentage, 1% to 100%".to_owned())
}

/// The ID of a key of a repository, or the beginning of it.
pub fn key_id(text: &str) -> Result<String, String> {
    let is_id = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { Ok(text.to_owned()) } else { Err("not an ID: up to 64 hexadecimal digits".to_owned()) }
}

/// A hook phase, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseName(pub Phase);

impl FromStr for PhaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<PhaseName, String> {
        let names = || Phase::ALL.map(Phase::name).join(", ");
        let found = Phase::ALL.into_iter().find(|phase| phase.name() == text);
        found.map(PhaseName).ok_or_else(|| format!("expected one of: {}", names()))
    }
}

/// A disk to restore, and optionally the device to write it to.
pub fn disk(text: &str) -> Result<DiskChoice, String> {
    let (target, device) = match text.split_once('=') {
        Some((target, device)) => (target, Some(PathBuf::from(device))),
        None => (text, None),
    };
    if target.is_empty() || device.as_ref().is_some_and(|device| !device.is_absolute()) {
        return Err("expected TARGET or TARGET=/dev/…, such as vda or vda=/dev/vg0/web-1".to_owned());
    }
    Ok(DiskChoice { target: target.to_owned(), device })
}
