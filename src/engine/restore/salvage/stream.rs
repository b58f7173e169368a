//! Salvages a damaged restore point that is one stream. Must not report any of it as intact, because the only
//! checksum is at its end.

use std::path::Path;

use super::{Folder, Naming, Part, Range, SALVAGED, Salvaged, State, expect_room};
use crate::engine::Error;
use crate::engine::error::chain;
use crate::engine::restore::foreign;
use crate::engine::restore::sparse::{Kind, Output};
use crate::engine::restore::staging::Staging;
use crate::engine::restore::work::Work;
use crate::model::is_plain;
use crate::store::{Entry, FileReader, PointReader};
use crate::sys::patient_file::PatientFile;

/// Read buffer in bytes.
const BUFFER: usize = 1 << 20;

/// Writes everything up to the point where the stream becomes unreadable.
pub fn salvage(
    work: &Work<'_>,
    reader: &PointReader,
    to: &Path,
    staging: &mut Staging,
    salvaged: &mut Salvaged,
) -> Result<(), Error> {
    // The lengths in a damaged stream's headers cannot be trusted.
    let mut readable = 0;
    let mut buffer = vec![0; BUFFER];
    let whole = reader.each(&mut |_, contents| {
        loop {
            match contents.read(&mut buffer)? {
                0 => return Ok::<(), Error>(()),
                count => readable += count as u64,
            }
        }
    });
    work.go_on()?;
    let state = match whole {
        Ok(()) => State::Whole,
        Err(error) if error.is_target_stall() => return Err(error),
        Err(error) => {
            salvaged.damages.push(chain(&error));
            State::Unchecked
        }
    };
    expect_room(to, readable, staging)?;
    let mut folder = Folder { to, staging, naming: Naming::new() };
    let read = reader.each(&mut |entry, contents| {
        salvaged.files.push(part(work, entry, contents, state, &mut folder).map_err(Stop::Failed)?);
        Ok(())
    });
    // Damage was already reported by the first pass; only a failed write or a hang is new.
    match read {
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Read(error)) if error.is_target_stall() => Err(error),
        _ => Ok(()),
    }
}

/// Why the second pass ended early: a failed write, or the stream.
enum Stop {
    Failed(Error),
    Read(Error),
}

impl From<crate::store::Error> for Stop {
    fn from(error: crate::store::Error) -> Stop {
        Stop::Read(error.into())
    }
}

/// Writes the readable part of one file.
fn part(
    work: &Work<'_>,
    entry: &Entry,
    contents: &mut FileReader<'_>,
    mut state: State,
    folder: &mut Folder<'_>,
) -> Result<Part, Error> {
    let (stem, ending) = salvaged_name(entry.file_name(), state);
    let (name, out) = folder.create(&stem, &ending)?;
    let written = copy(work, contents, &out, &folder.to.join(&name))?;
    let mut lost = Vec::new();
    if written < entry.length {
        state = State::Torn;
        lost.push(Range { offset: written, length: entry.length - written });
    }
    Ok(Part { member: Some(entry.name.clone()), files: vec![name], state, bytes: entry.length, lost, disk: None })
}

/// Stem and extension of a member's file.
fn salvaged_name(name: &str, state: State) -> (String, String) {
    if state == State::Whole {
        return (name.to_owned(), String::new());
    }
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && is_plain(ending) => {
            (stem.to_owned(), format!("{SALVAGED}.{ending}"))
        }
        _ => (name.to_owned(), SALVAGED.to_owned()),
    }
}

/// Copies the readable bytes and returns their number. An image that names another file of the host is refused.
fn copy(work: &Work<'_>, contents: &mut FileReader<'_>, out: &PatientFile, path: &Path) -> Result<u64, Error> {
    let failed = Error::file("write", path);
    let mut output = Output::start(out, Kind::NewFile).map_err(&failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        work.go_on()?;
        let mut count = next(contents, &mut buffer)?;
        // The check below needs the whole header, even if reads are short.
        while at == 0 && (1..foreign::HEADER).contains(&count) {
            match next(contents, &mut buffer[count..])? {
                0 => break,
                more => count += more,
            }
        }
        if count == 0 {
            break;
        }
        if at == 0 && foreign::names_another_file(&buffer[..count]) {
            let what = format!("the image {} reads from another file of the host", path.display());
            return Err(Error::suspect(work.archive, &what));
        }
        output.take(at, &buffer[..count]).map_err(&failed)?;
        at += count as u64;
    }
    output.finish().and_then(|()| out.with(move |file| file.set_len(at))).map_err(&failed)?;
    Ok(at)
}

/// Reads the next bytes; 0 at damage.
fn next(contents: &mut FileReader<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    match contents.read(buffer) {
        Err(error) if error.is_damage() => Ok(0),
        read => Ok(read?),
    }
}
