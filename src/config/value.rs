//! Owns: how each kind of value is written, and its bounds. Must not: know where a value stands in the file.
//!
//! Every function adds its problems and then gives `None`, or what could be read.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use chrono::Weekday;
use serde_yaml::Value;

use super::error::{Problem, Problems, nearest};
use super::keys;
use super::node::Kind;
use super::place::Place;
use super::{Metrics, MinFree};
use crate::model::{Codec, Listen, is_local, size};
use crate::retention::Policy;

const WEEK: [(Weekday, &str); 7] = [
    (Weekday::Mon, "Monday"),
    (Weekday::Tue, "Tuesday"),
    (Weekday::Wed, "Wednesday"),
    (Weekday::Thu, "Thursday"),
    (Weekday::Fri, "Friday"),
    (Weekday::Sat, "Saturday"),
    (Weekday::Sun, "Sunday"),
];

/// A word or number as it is written.
pub(super) fn text<'a>(place: &Place<'a>, problems: &mut Problems) -> Option<&'a str> {
    match &place.node.kind {
        Kind::Scalar(_, Value::Null) => problems.add(place.problem("has no value")),
        Kind::Scalar(text, _) if text.trim().is_empty() => problems.add(place.problem("is empty")),
        Kind::Scalar(text, _) => return Some(text),
        Kind::List(_) => problems.add(place.problem("must be one value, not a list")),
        Kind::Map(_) => problems.add(place.problem("must be one value, not a mapping")),
    }
    None
}

/// `true` or `false`.
pub(super) fn boolean(place: &Place<'_>, problems: &mut Problems) -> Option<bool> {
    match place.node.kind {
        Kind::Scalar(_, Value::Bool(value)) => Some(value),
        _ => word(place, &[("true", true), ("false", false)], problems),
    }
}

/// One of some words, in any case.
pub(super) fn word<T: Copy>(place: &Place<'_>, words: &[(&'static str, T)], problems: &mut Problems) -> Option<T> {
    let text = text(place, problems)?;
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    if found.is_none() {
        problems.add(bad_word(place, text, &words.iter().map(|(word, _)| *word).collect::<Vec<_>>()));
    }
    found.map(|(_, value)| *value)
}

/// A whole number within bounds.
pub(super) fn number(place: &Place<'_>, range: RangeInclusive<u32>, problems: &mut Problems) -> Option<u32> {
    let text = text(place, problems)?;
    let number = match &place.node.kind {
        Kind::Scalar(_, value) => value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n)),
        _ => None,
    };
    if number.is_none() {
        let (low, high) = range.into_inner();
        let valid = if high == u32::MAX {
            format!("a whole number from {low}")
        } else {
            format!("a whole number from {low} to {high}")
        };
        problems.add(place.wrong(format!("bad number {text:?}"), valid));
    }
    number
}

/// An absolute path.
pub(super) fn absolute(place: &Place<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(text(place, problems)?);
    if path.is_absolute() {
        return Some(path);
    }
    problems.add(place.wrong(format!("bad path {path:?}"), "an absolute path"));
    None
}

/// The address of a libvirt of this host.
pub(super) fn libvirt_uri(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(place, problems)?;
    if !is_local(text) {
        let message =
            format!("{text:?} is, or may be, the libvirt of another host; its images cannot be read from here");
        let valid = "qemu:///system, or qemu+unix:///system?socket=PATH; run kvmbackup on the host of the guests";
        problems.add(place.wrong(message, valid));
    }
    Some(text.to_owned())
}

/// One word or a list of words.
pub(super) fn words(place: &Place<'_>, problems: &mut Problems) -> Vec<String> {
    place.items().iter().filter_map(|item| text(item, problems)).map(str::to_owned).collect()
}

/// Days of the week, in their order.
pub(super) fn days(place: &Place<'_>, problems: &mut Problems) -> Vec<Weekday> {
    const VALID: &str = "Mon, Tue, Wed, Thu, Fri, Sat, Sun, their long names, daily";
    let items = place.items();
    if items.is_empty() {
        problems.add(place.wrong("contains no day", VALID));
    }
    let mut days = Vec::new();
    for item in items {
        let Some(text) = text(&item, problems) else { continue };
        if text.eq_ignore_ascii_case("daily") {
            days.extend(WEEK.map(|(day, _)| day));
        } else if let Ok(day) = text.parse() {
            days.push(day);
        } else {
            let names = WEEK.iter().flat_map(|(_, long)| [*long, &long[..3]]).chain(["daily"]);
            let nearest = nearest(text, names);
            problems.add(Problem { nearest, ..item.wrong(format!("bad day {text:?}"), VALID) });
        }
    }
    days.sort_by_key(Weekday::num_days_from_monday);
    days.dedup();
    days
}

/// A time as a number with its unit, `10s` or `2m`, from one second to one hour.
pub(super) fn duration(place: &Place<'_>, problems: &mut Problems) -> Option<Duration> {
    let text = text(place, problems)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let duration = size::parse_duration(text).filter(|duration| range.contains(duration));
    if duration.is_none() {
        problems
            .add(place.wrong(format!("bad time {text:?}"), "a number with a unit, from 1s to 1h, such as 30s or 2m"));
    }
    duration
}

/// A share of the target (`10%`) or bytes (`20GB`, `20GiB`, `20000000000`).
pub(super) fn min_free(place: &Place<'_>, problems: &mut Problems) -> Option<MinFree> {
    let text = text(place, problems)?;
    let value = split_unit(text).and_then(|(number, unit)| {
        if unit == "%" {
            return number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(MinFree::Percent);
        }
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000_u64.pow(2),
            "gb" => 1000_u64.pow(3),
            "tb" => 1000_u64.pow(4),
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor).map(MinFree::Bytes)
    });
    if value.is_none() {
        let valid =
            "a percentage from 0% to 100%, or a whole number with a unit from kB to TB or KiB to TiB, such as 20GB";
        problems.add(place.wrong(format!("bad amount {text:?}"), valid));
    }
    value
}

/// `zstd`, `gzip` or `none`, or a mapping of `method` and `level`.
pub(super) fn compression(place: &Place<'_>, problems: &mut Problems) -> Option<Codec> {
    const METHODS: [(&str, Codec); 3] = [("zstd", Codec::Zstd(3)), ("gzip", Codec::Gzip(6)), ("none", Codec::None)];
    if !matches!(place.node.kind, Kind::Map(_)) {
        return word(place, &METHODS, problems);
    }
    let (mut codec, mut level) = (None, None);
    let mut named = false;
    for entry in place.entries(problems) {
        match entry.name {
            "method" => {
                named = true;
                codec = word(&entry, &METHODS, problems);
            }
            "level" => level = Some(entry),
            _ => problems.add(unknown_key(&entry, "unknown key", keys::COMPRESSION)),
        }
    }
    if !named {
        problems.add(place.wrong("`method` is missing", "zstd, gzip, none"));
    }
    let (Some(codec), Some(level)) = (codec, &level) else { return codec };
    let range = match codec {
        Codec::Zstd(_) => 1..=19,
        Codec::Gzip(_) => 1..=12,
        Codec::None => {
            problems.add(level.problem("compression `none` has no level"));
            return None;
        }
    };
    let level = i32::try_from(number(level, range, problems)?).ok()?;
    Some(match codec {
        Codec::Zstd(_) => Codec::Zstd(level),
        Codec::Gzip(_) => Codec::Gzip(level),
        Codec::None => Codec::None,
    })
}

/// The rules of `keep`; at least one of them above 0.
pub(super) fn keep(place: &Place<'_>, problems: &mut Problems) -> Option<Policy> {
    let mut policy = Policy::default();
    let mut all_read = true;
    for entry in place.entries(problems) {
        let rule = match entry.name {
            "last" => &mut policy.last,
            "daily" => &mut policy.daily,
            "weekly" => &mut policy.weekly,
            "monthly" => &mut policy.monthly,
            "yearly" => &mut policy.yearly,
            _ => {
                problems.add(unknown_key(&entry, "unknown key", keys::KEEP));
                all_read = false;
                continue;
            }
        };
        match number(&entry, 0..=u32::MAX, problems) {
            Some(number) => *rule = number,
            None => all_read = false,
        }
    }
    if all_read && policy == Policy::default() && (place.is_null() || matches!(place.node.kind, Kind::Map(_))) {
        problems.add(place.wrong("would keep nothing", format!("one of {} above 0", keys::KEEP.join(", "))));
    }
    Some(policy)
}

/// The places of `metrics`; at least one.
pub(super) fn metrics(place: &Place<'_>, problems: &mut Problems) -> Metrics {
    let mut metrics = Metrics::default();
    let entries = place.entries(problems);
    for entry in &entries {
        match entry.name {
            "textfile" => metrics.textfile = absolute(entry, problems),
            "listen" => metrics.listen = listen(entry, problems),
            "hosts" => metrics.hosts = entry.items().iter().filter_map(|item| own_host(item, problems)).collect(),
            _ => problems.add(unknown_key(entry, "unknown key", keys::METRICS)),
        }
    }
    if entries.is_empty() && (place.is_null() || matches!(place.node.kind, Kind::Map(_))) {
        problems.add(place.wrong("contains no address", keys::METRICS.join(", ")));
    }
    metrics
}

fn listen(place: &Place<'_>, problems: &mut Problems) -> Option<Listen> {
    let text = text(place, problems)?;
    let listen = text.parse().ok();
    if listen.is_none() {
        problems.add(place.wrong(format!("bad address {text:?}"), Listen::VALID));
    }
    listen
}

/// A name or an address of this host; of IPv6 in brackets, as in a URL.
fn own_host(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(place, problems)?;
    if let Ok(Listen::Tcp { host, .. }) = format!("{text}:0").parse() {
        return Some(host);
    }
    problems.add(
        place.wrong(
            format!("bad host {text:?}"),
            "a host name or an address without a port, such as cloud1.example.org",
        ),
    );
    None
}

/// A name of what is watched: the value of a label.
pub(super) fn job(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(place, problems)?;
    let right = text.chars().count() <= 64 && !text.contains(char::is_control);
    if !right {
        problems.add(place.wrong(format!("bad name {text:?}"), "1 to 64 printable characters"));
    }
    right.then(|| text.to_owned())
}

/// The problem of a key that is not in a table.
pub(super) fn unknown_key(place: &Place<'_>, message: &str, keys: &[&str]) -> Problem {
    let nearest = nearest(place.name, keys.iter().copied());
    Problem { nearest, ..place.wrong(message, keys.join(", ")) }
}

fn bad_word(place: &Place<'_>, text: &str, words: &[&str]) -> Problem {
    let nearest = nearest(text, words.iter().copied());
    Problem { nearest, ..place.wrong(format!("bad value {text:?}"), words.join(", ")) }
}

/// The number at the start of a text and what follows it.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then(|| (number, unit.trim_start()))
}
