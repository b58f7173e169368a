//! Owns: the members of a tar stream with holes. Must not: read contents.

use std::sync::Arc;

use super::super::header::{self, BLOCK, Parsed};
use super::super::kind::Kind;
use super::super::reader::{Cursor, MAX_MEMBERS};
use super::super::{Error, names};
use super::Remains;
use super::place::{Parts, State};
use crate::model::Extent;
use crate::sys::patient_file::PatientFile;

/// What a GNU header has at its byte 257.
const MAGIC: &[u8] = b"ustar  \0";
const MAGIC_AT: u64 = 257;

/// All that is there, in order. A gap whose length was guessed gets the right one where a header behind it tells.
pub fn walk(file: &Arc<PatientFile>, kind: Kind, parts: &mut Parts) -> Result<Vec<Remains>, Error> {
    // Name, place, and whether that is known for sure.
    let mut ranges: Vec<(Option<String>, Extent, bool)> = Vec::new();
    let mut at = 0;
    let mut pieces = parts.pieces(file, kind);
    while at < parts.length() && ranges.len() < MAX_MEMBERS {
        if pieces.stream_len() != parts.length() {
            pieces = parts.pieces(file, kind);
        }
        let mut cursor = Cursor::new(&pieces);
        match cursor.header(at) {
            Ok(Some((member, next))) => {
                let again = ranges.iter().any(|(name, ..)| name.as_ref() == Some(&member.name));
                let name = (!again).then_some(member.name);
                ranges.push((name, Extent { offset: member.offset, length: member.length }, true));
                at = fit(&mut cursor, parts, member.offset, next);
            }
            Ok(None) if is_end(&mut cursor, parts, at) => break,
            _ => {
                let next = find(&mut cursor, parts, at + 1).unwrap_or(parts.length());
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
fn fit(cursor: &mut Cursor<'_>, parts: &mut Parts, start: u64, end: u64) -> u64 {
    let guessed = |state| state == State::Guessed;
    let Some((gap, _)) =
        parts.ranges().find(|(range, state)| guessed(*state) && range.end() > start && range.offset < end)
    else {
        return end;
    };
    if is_header(cursor, end) || is_exact_end(cursor, parts, end) {
        parts.settle(start, end);
        return end;
    }
    let mut from = gap.end();
    while let Some(next) = find(cursor, parts, from) {
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
    let last = parts.ranges().filter(|(_, state)| *state == State::Good).map(|(range, _)| range.end()).max();
    last == Some(at.saturating_add(2 * BLOCK)) && is_end(cursor, parts, at)
}

/// Whether nothing but the end of the tar stream, or what is lost, is to come.
fn is_end(cursor: &mut Cursor<'_>, parts: &Parts, at: u64) -> bool {
    let readable = parts.ranges().filter(|(range, state)| *state == State::Good && range.end() > at);
    let zeros = |cursor: &mut Cursor<'_>| cursor.block(at).is_ok_and(|block| block.iter().all(|&byte| byte == 0));
    match readable.map(|(range, _)| range.end()).max() {
        Some(end) => end <= at + 2 * BLOCK && zeros(cursor),
        None => true,
    }
}

/// The next header at or behind an offset that this program has written.
fn find(cursor: &mut Cursor<'_>, parts: &Parts, from: u64) -> Option<u64> {
    let good = parts.ranges().filter(|(range, state)| *state == State::Good && range.end() > from);
    for (range, _) in good {
        let mut bytes = vec![0; usize::try_from(range.length).ok()?];
        if cursor.copy(range.offset, &mut bytes).is_err() {
            continue;
        }
        for step in memchr(&bytes) {
            let magic = range.offset + step as u64;
            let Some(at) = magic.checked_sub(MAGIC_AT).filter(|&at| at >= from) else { continue };
            if is_header(cursor, at) {
                return Some(at);
            }
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
