//! The identity of a restore point, and the compression of its file. Must not know where points are stored.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::words::words;
use super::{Method, is_future};

const LAYOUT: &str = "%Y%m%dT%H%M%SZ";

/// The ID of a restore point: the UTC second when it was taken, such as `20261122T020000Z`, or a later one if the domain
/// already had a newer point. Unique per domain; sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(DateTime<Utc>);

impl PointId {
    /// The ID of a point taken at this time, without fractions of a second.
    pub fn at(time: DateTime<Utc>) -> PointId {
        PointId(DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time))
    }

    fn next(self) -> PointId {
        PointId(self.0 + TimeDelta::seconds(1))
    }

    /// The time when it was taken.
    pub fn time(&self) -> DateTime<Utc> {
        self.0
    }
}

/// Which ID a new restore point gets.
#[derive(Debug, Clone, Copy)]
pub enum NewId {
    /// That of a point taken at this time. It is later than those of all existing points, so that the new point is the
    /// newest even if the clock was set back a little or points were made faster than one per second. Points in the
    /// future (see [`is_future`]) do not count.
    Taken(DateTime<Utc>),
    /// That of the point that it is a copy of, or else the next free one.
    Copied(PointId),
}

impl NewId {
    /// The ID beside these existing ones.
    pub fn beside(self, taken: &BTreeSet<PointId>) -> PointId {
        let mut id = match self {
            NewId::Copied(id) => id,
            NewId::Taken(at) => {
                let newest = taken.iter().rev().find(|id| !is_future(id.0, at));
                newest.map_or(PointId::at(at), |newest| newest.next().max(PointId::at(at)))
            }
        };
        while taken.contains(&id) {
            id = id.next();
        }
        id
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(LAYOUT))
    }
}

impl FromStr for PointId {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(PointId(NaiveDateTime::parse_from_str(text, LAYOUT)?.and_utc()))
    }
}

impl Serialize for PointId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A kind of store for restore points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreKind {
    /// A directory with one archive per restore point.
    Archive,
    /// A repository.
    Repository,
}

words!(StoreKind { Archive = "archive", Repository = "repository" });

impl StoreKind {
    /// How `method: auto` captures a running domain unless a disk needs another method: a repository can read only what
    /// changed, which needs the backup API.
    pub fn usual_method(self) -> Method {
        match self {
            StoreKind::Archive => Method::Snapshot,
            StoreKind::Repository => Method::Pull,
        }
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "method", content = "level")]
pub enum Codec {
    /// Independent zstd frames; levels 1 to 19.
    Zstd(i32),
    /// Independent gzip members; levels 1 to 12.
    Gzip(i32),
    /// Not compressed.
    None,
}

impl Codec {
    /// The extension of the archive's file name.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::Zstd(_) => "tar.zst",
            Codec::Gzip(_) => "tar.gz",
            Codec::None => "tar",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_round_trips_and_drops_fractions() {
        let id = PointId::at(DateTime::from_timestamp(1_795_000_000, 999_999_999).unwrap());
        assert_eq!(id.to_string().parse::<PointId>().unwrap(), id);
        assert!("2026-11-22".parse::<PointId>().is_err());
    }

    #[test]
    fn new_point_is_newer_than_all_except_those_in_the_future() {
        let [now, earlier, ahead, future] = ["020000", "010000", "020459", "030000"]
            .map(|time| format!("20261122T{time}Z").parse::<PointId>().unwrap());
        let after = |taken: &[PointId]| NewId::Taken(now.time()).beside(&taken.iter().copied().collect());
        assert_eq!(after(&[]), now);
        assert_eq!(after(&[earlier, future]), now);
        assert_eq!(after(&[earlier, now, future]), now.next());
        assert_eq!(after(&[earlier, ahead, future]), ahead.next());
        let limit = ahead.next();
        assert_eq!(after(&[limit, limit.next()]), limit.next().next(), "no ID is used twice");
        assert_eq!(NewId::Copied(now).beside(&[earlier, ahead].into()), now);
    }
}
