//! Owns: the members of a tar stream with holes. Must not: read contents.

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

/// What a GNU header has at its byte 257.
const MAGIC: &[u8] = b"ustar  \0";
const MAGIC_AT: u64 = 257;
/// Bytes that are looked at together.
const LOOK: usize = 64 << 10;

/// The work on gaps of unknown length that a file may cause, in bytes looked at or moved: a constant, plus this many per byte that
/// can be read. Accidental damage causes a fraction of it.
const SPARE: u64 = if cfg!(test) { 4 << 20 } else { 1 << 30 };
const SPARE_PER_BYTE: u64 = 8;
/// Bytes that are moved for every part when the length of a gap is corrected.
const PART: u64 = 64;

/// The work on gaps of unknown length.
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

/// All that is there, in order. A gap whose length was guessed gets the right one where a header behind it tells.
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
    // Name, place, and whether that is known for sure.
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

/// Brings a member whose contents have gaps of unknown length to its end, where the next header is; returns that place.
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
        // All that lies between belongs to this member, of which the length is known.
        if parts.stretch(gap.offset, next, i128::from(end) - i128::from(next)) {
            effort.add(PART * parts.count() as u64);
            return end;
        }
        from = next + 1;
    }
    // Nothing behind the gap tells where it ends, or not without searching the same bytes for very many gaps.
    parts.lose(gap.offset, end);
    end
}

/// Whether the two blocks of zeros are here that end a tar stream, and nothing follows. That all behind is lost does not show
/// that a guess was right.
fn is_exact_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    parts.good_end() == Some(at.saturating_add(2 * BLOCK)) && is_end(cursor, parts, at)
}

/// Whether nothing but the end of the tar stream, or what is lost, is to come.
fn is_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    let zeros = |cursor: &mut Cursor<'_>| cursor.block(at).is_ok_and(|block| block.iter().all(|&byte| byte == 0));
    match parts.good_end().filter(|&end| end > at) {
        Some(end) => end <= at + 2 * BLOCK && zeros(cursor),
        None => true,
    }
}

/// The next header at or behind an offset that this program has written; none after a signal. Adds what is looked at to `spent`.
fn find(cursor: &mut Cursor<'_>, parts: &Parts, from: u64, cancel: &Cancel, spent: &mut u64) -> Option<u64> {
    let mut bytes = Vec::new();
    for (range, state) in parts.ranges_in(from, u64::MAX) {
        *spent = spent.saturating_add(1);
        if state != State::Good {
            continue;
        }
        let mut start = range.offset.max(from.saturating_add(MAGIC_AT));
        // A little at a time: the next one may be near, and so may the one after it.
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
            // A magic may lie across the end of what was looked at.
            start += (bytes.len() - (MAGIC.len() - 1)) as u64;
        }
    }
    None
}

fn memchr(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC).map(|(at, _)| at)
}

/// Whether the very header is here that a writer makes: guests keep tar archives, too.
fn is_header(cursor: &mut Cursor<'_>, at: u64) -> bool {
    let Ok(block) = cursor.block(at) else { return false };
    let time = tar::Header::from_byte_slice(&block).mtime().unwrap_or_default();
    match header::parse(&block, at) {
        // That of a long name is always the same but for the length.
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
