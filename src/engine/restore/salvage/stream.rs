//! Owns: what can be read of a damaged restore point that is one stream. Must not: call any of it good: its one checksum is at
//! its end.

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

/// Bytes read at once.
const BUFFER: usize = 1 << 20;

/// Everything up to the place where the stream cannot be read any more.
pub fn salvage(
    work: &Work<'_>,
    reader: &PointReader,
    to: &Path,
    staging: &mut Staging,
    salvaged: &mut Salvaged,
) -> Result<(), Error> {
    // Of a damaged one, what its headers say of lengths is worth nothing.
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
    // Why it ends early is known already, unless the writing failed, or it hangs now.
    match read {
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Read(error)) if error.is_target_stall() => Err(error),
        _ => Ok(()),
    }
}

/// Why the second reading ends early: our own failure, or the stream's.
enum Stop {
    Failed(Error),
    Read(Error),
}

impl From<crate::store::Error> for Stop {
    fn from(error: crate::store::Error) -> Stop {
        Stop::Read(error.into())
    }
}

/// Writes one file as far as it can be read.
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

/// The name of a member's file, and what comes behind it.
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

/// Copies what can be read; how much that was. An image that names another file of the host is not brought back.
fn copy(work: &Work<'_>, contents: &mut FileReader<'_>, out: &PatientFile, path: &Path) -> Result<u64, Error> {
    let failed = Error::file("write", path);
    let mut output = Output::start(out, Kind::NewFile).map_err(&failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        work.go_on()?;
        let mut count = next(contents, &mut buffer)?;
        // The whole header, however short the pieces are.
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

/// The next bytes; damage ends them.
fn next(contents: &mut FileReader<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    match contents.read(buffer) {
        Err(error) if error.is_damage() => Ok(0),
        read => Ok(read?),
    }
}
