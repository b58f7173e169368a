//! Owns: the members of a tar stream with holes. Must not: read contents.

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

/// All that is there, in order. A gap whose length was guessed gets the right one where a header behind it tells.
pub fn walk(file: &Arc<PatientFile>, kind: Kind, parts: &mut Parts, cancel: &Cancel) -> Result<Vec<Remains>, Error> {
    // Name, place, and whether that is known for sure.
    let mut ranges: Vec<(Option<String>, Extent, bool)> = Vec::new();
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
                let again = ranges.iter().any(|(name, ..)| name.as_ref() == Some(&member.name));
                let name = (!again).then_some(member.name);
                ranges.push((name, Extent { offset: member.offset, length: member.length }, true));
                at = fit(&mut cursor, parts, (member.offset, next), cancel);
            }
            Ok(None) if is_end(&mut cursor, parts, at) => break,
            _ => {
                let next = find(&mut cursor, parts, at + 1, cancel).unwrap_or(parts.length());
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
fn fit(cursor: &mut Cursor<'_>, parts: &mut Parts, (start, end): (u64, u64), cancel: &Cancel) -> u64 {
    let Some((gap, _)) = parts.ranges_in(start, end).find(|(_, state)| *state == State::Guessed) else { return end };
    if is_header(cursor, end) || is_exact_end(cursor, parts, end) {
        parts.settle(start, end);
        return end;
    }
    let mut from = gap.end();
    while let Some(next) = find(cursor, parts, from, cancel) {
        // All that lies between belongs to this member, of which the length is known.
        if parts.stretch(gap.offset, next, i128::from(end) - i128::from(next)) {
            return end;
        }
        from = next + 1;
    }
    // Nothing behind the gap tells where it ends.
    parts.lose(gap.offset, end);
    end
}

/// Whether the two blocks of zeros are here that end a tar stream, and nothing follows. That all behind is lost does not show
/// that a guess was right.
fn is_exact_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    let last = parts.ranges().rev().find(|(_, state)| *state == State::Good).map(|(range, _)| range.end());
    last == Some(at.saturating_add(2 * BLOCK)) && is_end(cursor, parts, at)
}

/// Whether nothing but the end of the tar stream, or what is lost, is to come.
fn is_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    let last = parts.ranges_in(at, u64::MAX).rev().find(|(_, state)| *state == State::Good);
    let zeros = |cursor: &mut Cursor<'_>| cursor.block(at).is_ok_and(|block| block.iter().all(|&byte| byte == 0));
    match last.map(|(range, _)| range.end()) {
        Some(end) => end <= at + 2 * BLOCK && zeros(cursor),
        None => true,
    }
}

/// The next header at or behind an offset that this program has written; none after a signal.
fn find(cursor: &mut Cursor<'_>, parts: &Parts, from: u64, cancel: &Cancel) -> Option<u64> {
    let mut bytes = Vec::new();
    for (range, _) in parts.ranges_in(from, u64::MAX).filter(|(_, state)| *state == State::Good) {
        let mut start = range.offset.max(from.saturating_add(MAGIC_AT));
        // A little at a time: the next one may be near, and so may the one after it.
        while start + (MAGIC.len() as u64) <= range.end() && cancel.signal().is_none() {
            bytes.resize(LOOK.min(usize::try_from(range.end() - start).ok()?), 0);
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
