//! The syntax and the limits of each kind of value. Must not know where a value is in the file.
//!
//! Every function reports its problems, and then returns `None` or what could be read.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use chrono::Weekday;

use super::error::{Problem, Problems, nearest};
use super::key::{self, Level};
use super::keys::{CODECS, COMPRESSION, KEEP, METRICS};
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

/// A word or number as written.
pub(super) fn text<'a>(place: &Place<'a>, problems: &mut Problems) -> Option<&'a str> {
    match &place.node.kind {
        _ if place.is_null() => problems.add(place.problem("has no value")),
        Kind::Scalar(text, _) if text.trim().is_empty() => problems.add(place.problem("is empty")),
        Kind::Scalar(text, _) => return Some(text),
        Kind::List(_) => problems.add(place.problem("must be one value, not a list")),
        Kind::Map(_) => problems.add(place.problem("must be one value, not a mapping")),
    }
    None
}

/// `true` or `false`.
pub(super) fn boolean(place: &Place<'_>, problems: &mut Problems) -> Option<bool> {
    word(place, &[("true", true), ("false", false)], problems)
}

/// One of several words; case does not matter.
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
    let number = place.node.number().filter(|number| range.contains(number));
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

/// The URI of a libvirt of this host.
pub(super) fn libvirt_uri(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(place, problems)?;
    if !is_local(text) {
        let message =
            format!("{text:?} may be the libvirt of another host, whose images cannot be read from this host");
        let valid =
            "qemu:///system, or qemu+unix:///system?socket=PATH; run kvmbackup on the host that runs the guests";
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
        problems.add(place.wrong("no day given", VALID));
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

/// A number with a unit, `10s` or `2m`, from one second to one hour.
pub(super) fn duration(place: &Place<'_>, problems: &mut Problems) -> Option<Duration> {
    let valid = "a number with its unit, from 1s to 1h, such as 30s or 2m";
    duration_in(place, Duration::from_secs(1)..=Duration::from_secs(3600), valid, problems)
}

/// A number with a unit, `1h` or `7d`, from one hour to a year.
pub(super) fn interval(place: &Place<'_>, problems: &mut Problems) -> Option<Duration> {
    let range = Duration::from_secs(3600)..=Duration::from_secs(366 * 86_400);
    duration_in(place, range, "a number with its unit, from 1h to 366d, such as 12h or 7d", problems)
}

/// A number with a unit, `30m` or `12h`, from one second to seven days.
pub(super) fn long_duration(place: &Place<'_>, problems: &mut Problems) -> Option<Duration> {
    let valid = "a number with its unit, from 1s to 7d, such as 30m or 12h";
    duration_in(place, Duration::from_secs(1)..=Duration::from_secs(7 * 86_400), valid, problems)
}

fn duration_in(
    place: &Place<'_>,
    range: RangeInclusive<Duration>,
    valid: &str,
    problems: &mut Problems,
) -> Option<Duration> {
    let text = text(place, problems)?;
    let duration = size::parse_duration(text).filter(|duration| range.contains(duration));
    if duration.is_none() {
        problems.add(place.wrong(format!("bad time {text:?}"), valid));
    }
    duration
}

/// A whole percentage, `5%`.
pub(super) fn percent(place: &Place<'_>, problems: &mut Problems) -> Option<u32> {
    let text = text(place, problems)?;
    let number = split_unit(text).filter(|(_, unit)| *unit == "%").and_then(|(number, _)| number.parse().ok());
    let percent = number.filter(|percent| (0..=100).contains(percent));
    if percent.is_none() {
        problems.add(place.wrong(format!("bad percentage {text:?}"), "a whole percentage from 0% to 100%, such as 5%"));
    }
    percent
}

/// Bytes: a whole number and a unit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
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
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A share of the target (`10%`) or bytes (`20GB`, `20GiB`, `20000000000`).
pub(super) fn min_free(place: &Place<'_>, problems: &mut Problems) -> Option<MinFree> {
    let text = text(place, problems)?;
    let value = split_unit(text).and_then(|(number, unit)| {
        if unit == "%" {
            return number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(MinFree::Percent);
        }
        bytes(text).map(MinFree::Bytes)
    });
    if value.is_none() {
        let valid =
            "a percentage from 0% to 100%, or a whole number with a unit from kB to TB or KiB to TiB, such as 20GB";
        problems.add(place.wrong(format!("bad amount {text:?}"), valid));
    }
    value
}

/// The method of `compression`, with its default level.
pub(super) type Compression = Option<Codec>;

/// `zstd`, `gzip` or `none`, or a mapping of `method` and `level`.
pub(super) fn compression(place: &Place<'_>, problems: &mut Problems) -> Option<Codec> {
    if !matches!(place.node.kind, Kind::Map(_)) {
        return word(place, CODECS, problems);
    }
    let mut codec: Compression = None;
    let entries = key::inside(place, &mut codec, COMPRESSION, problems);
    key::require(place, &entries, "method", Some("zstd, gzip, none"), problems);
    let Some(entry) = key::find(&entries, "level") else { return codec };
    let mut level = |highest| number(entry, 1..=highest, problems).and_then(|level| level.try_into().ok());
    match codec? {
        Codec::Zstd(_) => level(19).map(Codec::Zstd),
        Codec::Gzip(_) => level(12).map(Codec::Gzip),
        Codec::None => {
            problems.add(entry.problem("compression `none` has no level"));
            None
        }
    }
}

/// The number of restore points to keep.
pub(super) fn rotate(place: &Place<'_>, problems: &mut Problems) -> Option<Policy> {
    number(place, 1..=u32::MAX, problems).map(Policy::rotate)
}

/// The rules of `keep`; at least one of them must be above 0.
pub(super) fn keep(place: &Place<'_>, problems: &mut Problems) -> Policy {
    let mut policy = Policy::default();
    let before = problems.count();
    key::inside(place, &mut policy, KEEP, problems);
    if policy == Policy::default() && problems.count() == before {
        let names = key::names(KEEP, Level::Domain).join(", ");
        problems.add(place.wrong("keeps nothing", format!("one of {names} above 0")));
    }
    policy
}

/// The value of `metrics`; it must have at least one key.
pub(super) fn metrics(place: &Place<'_>, problems: &mut Problems) -> Metrics {
    let mut metrics = Metrics::default();
    if key::inside(place, &mut metrics, METRICS, problems).is_empty() && place.is_mapping() {
        problems.add(place.wrong("no place given", key::names(METRICS, Level::Host).join(", ")));
    }
    metrics
}

pub(super) fn listen(place: &Place<'_>, problems: &mut Problems) -> Option<Listen> {
    let text = text(place, problems)?;
    let listen = text.parse().ok();
    if listen.is_none() {
        problems.add(place.wrong(format!("bad address {text:?}"), Listen::VALID));
    }
    listen
}

/// Names and addresses of this host.
pub(super) fn own_hosts(place: &Place<'_>, problems: &mut Problems) -> Vec<String> {
    place.items().iter().filter_map(|item| own_host(item, problems)).collect()
}

/// A name or an address of this host; IPv6 in brackets, as in a URL.
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

/// The name of a job, which becomes the value of a label.
pub(super) fn job(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(place, problems)?;
    let right = text.chars().count() <= 64 && !text.contains(char::is_control);
    if !right {
        problems.add(place.wrong(format!("bad name {text:?}"), "1 to 64 printable characters"));
    }
    right.then(|| text.to_owned())
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
