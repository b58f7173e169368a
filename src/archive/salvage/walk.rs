//! Finds the members of a tar stream with gaps. Must not read their contents.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::super::header::{self, BLOCK, Parsed};
use super::super::kind::Kind;
use super::super::reader::{Cursor, MAX_MEMBERS};
use super::super::{Error, names};
use super::Remains;
use super::place::{Parts, State};
use crate::model::Extent;
use crate::sys::patient_file::PatientFile;
use crate::sys::signals::Cancel;

/// Magic of a GNU header, at byte 257.
const MAGIC: &[u8] = b"ustar  \0";
const MAGIC_AT: u64 = 257;
/// Bytes examined at once.
const LOOK: usize = 64 << 10;

/// Limit of work on gaps of unknown length, in bytes examined or moved: a constant, plus this many per readable byte.
/// Accidental damage uses a fraction of it.
const SPARE: u64 = if cfg!(test) { 4 << 20 } else { 1 << 30 };
const SPARE_PER_BYTE: u64 = 8;
/// Cost per part of correcting the length of a gap, in bytes.
const PART: u64 = 64;

/// The work spent on gaps of unknown length.
#[derive(Debug)]
struct Effort {
    spent: u64,
    most: u64,
}

impl Effort {
    fn of(parts: &Parts) -> Effort {
        Effort { spent: 0, most: SPARE.saturating_add(parts.good_bytes().saturating_mul(SPARE_PER_BYTE)) }
    }

    fn add(&mut self, cost: u64) {
        self.spent = self.spent.saturating_add(cost);
    }

    fn is_left(&self) -> bool {
        self.spent < self.most
    }
}

/// Lists all members and nameless data in order. Guessed gap lengths are corrected if a later header shows them.
pub fn walk(file: &Arc<PatientFile>, kind: Kind, parts: &mut Parts, cancel: &Cancel) -> Result<Vec<Remains>, Error> {
    let mut effort = Effort::of(parts);
    walk_with(file, kind, parts, cancel, &mut effort)
}

fn walk_with(
    file: &Arc<PatientFile>,
    kind: Kind,
    parts: &mut Parts,
    cancel: &Cancel,
    effort: &mut Effort,
) -> Result<Vec<Remains>, Error> {
    // Name, range, and whether the range is certain.
    let mut ranges: Vec<(Option<String>, Extent, bool)> = Vec::new();
    let mut seen = HashSet::new();
    let mut at = 0;
    let mut pieces = parts.pieces(file, kind);
    while at < parts.length() && ranges.len() < MAX_MEMBERS {
        if cancel.signal().is_some() {
            return Err(Error::Read { offset: 0, source: io::Error::other("stopped") });
        }
        if pieces.stream_len() != parts.length() {
            pieces = parts.pieces(file, kind);
        }
        let mut cursor = Cursor::new(&pieces);
        match cursor.header(at) {
            Ok(Some((member, next))) => {
                let name = seen.insert(member.name.clone()).then_some(member.name);
                ranges.push((name, Extent { offset: member.offset, length: member.length }, true));
                at = fit(&mut cursor, parts, (member.offset, next), cancel, effort);
            }
            Ok(None) if is_end(&mut cursor, parts, at) => break,
            _ => {
                let next = find(&mut cursor, parts, at + 1, cancel, &mut 0).unwrap_or(parts.length());
                let is_known = !parts.has_guess(at, next);
                ranges.push((None, Extent { offset: at, length: next - at }, is_known));
                parts.settle(at, next);
                at = next;
            }
        }
    }
    let remains = |(name, range, is_placed): (Option<String>, Extent, bool)| Remains {
        name,
        offset: range.offset,
        length: range.length,
        lost: parts.lost_in(range),
        is_placed,
    };
    let is_nothing = |remains: &Remains| {
        let lost: u64 = remains.lost.iter().map(|lost| lost.length).sum();
        remains.name.is_none() && lost == remains.length
    };
    Ok(ranges.into_iter().map(remains).filter(|remains| !is_nothing(remains)).collect())
}

/// Fits the gaps of unknown length in a member so that the next header is at its end; returns that offset.
fn fit(
    cursor: &mut Cursor<'_>,
    parts: &mut Parts,
    (start, end): (u64, u64),
    cancel: &Cancel,
    effort: &mut Effort,
) -> u64 {
    let Some((gap, _)) = parts.ranges_in(start, end).find(|(_, state)| *state == State::Guessed) else { return end };
    if is_header(cursor, end) || is_exact_end(cursor, parts, end) {
        parts.settle(start, end);
        return end;
    }
    let mut from = gap.end();
    while effort.is_left()
        && let Some(next) = find(cursor, parts, from, cancel, &mut effort.spent)
    {
        effort.add(PART * parts.count_in(gap.offset, next) as u64);
        // Everything between belongs to this member, whose length is known.
        if parts.stretch(gap.offset, next, i128::from(end) - i128::from(next)) {
            effort.add(PART * parts.count() as u64);
            return end;
        }
        from = next + 1;
    }
    // The end of the gap is unknown, or finding it would mean searching the same bytes for very many gaps.
    parts.lose(gap.offset, end);
    end
}

/// Whether exactly the two zero blocks that end a tar stream follow. If everything after this offset is lost, that
/// does not confirm a guess.
fn is_exact_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    parts.good_end() == Some(at.saturating_add(2 * BLOCK)) && is_end(cursor, parts, at)
}

/// Whether only the end of the tar stream, or lost data, follows.
fn is_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    let zeros = |cursor: &mut Cursor<'_>| cursor.block(at).is_ok_and(|block| block.iter().all(|&byte| byte == 0));
    match parts.good_end().filter(|&end| end > at) {
        Some(end) => end <= at + 2 * BLOCK && zeros(cursor),
        None => true,
    }
}

/// The next header written by kvmbackup at or after an offset; none after a signal. Adds the number of examined bytes
/// to `spent`.
fn find(cursor: &mut Cursor<'_>, parts: &Parts, from: u64, cancel: &Cancel, spent: &mut u64) -> Option<u64> {
    let mut bytes = Vec::new();
    for (range, state) in parts.ranges_in(from, u64::MAX) {
        *spent = spent.saturating_add(1);
        if state != State::Good {
            continue;
        }
        let mut start = range.offset.max(from.saturating_add(MAGIC_AT));
        // In small steps, because the next header may be near, and so may the one after it.
        while start + (MAGIC.len() as u64) <= range.end() && cancel.signal().is_none() {
            bytes.resize(LOOK.min(usize::try_from(range.end() - start).ok()?), 0);
            *spent = spent.saturating_add(bytes.len() as u64);
            if cursor.copy(start, &mut bytes).is_err() {
                break;
            }
            for step in memchr(&bytes) {
                let Some(at) = (start + step as u64).checked_sub(MAGIC_AT) else { continue };
                if is_header(cursor, at) {
                    return Some(at);
                }
            }
            // A magic may cross the end of the examined bytes.
            start += (bytes.len() - (MAGIC.len() - 1)) as u64;
        }
    }
    None
}

fn memchr(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC).map(|(at, _)| at)
}

/// Whether this is exactly a header of kvmbackup's writer, because guests also store tar archives.
fn is_header(cursor: &mut Cursor<'_>, at: u64) -> bool {
    let Ok(block) = cursor.block(at) else { return false };
    let time = tar::Header::from_byte_slice(&block).mtime().unwrap_or_default();
    match header::parse(&block, at) {
        // The header of a long name is always the same except for the length.
        Ok(Parsed::LongName(length)) => {
            header::encode(&"x".repeat(length.saturating_sub(1) as usize), 0, 0).starts_with(&block)
        }
        Ok(Parsed::File(name, length)) => {
            let name = String::from_utf8(name).ok().filter(|name| names::check(name).is_ok());
            name.is_some_and(|name| header::encode(&name, length, time).ends_with(&block))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
