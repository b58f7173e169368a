//! Owns: what can be read of a damaged archive of the seed script. Must not: call any of it good: its one checksum is at its
//! end.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Part, Range, SALVAGED, Salvaged, State, create, expect_room};
use crate::archive::seed::Seed;
use crate::engine::Error;
use crate::engine::error::chain;
use crate::engine::restore::foreign;
use crate::engine::restore::names::is_plain;
use crate::engine::restore::sparse::{Kind, Output};
use crate::engine::restore::staging::Staging;
use crate::engine::restore::work::Work;
use crate::sys::patience::Stalled;
use crate::sys::patient_file::PatientFile;

/// Bytes read at once.
const BUFFER: usize = 1 << 20;

/// Everything up to the place where the stream cannot be read any more.
pub fn salvage(work: &Work<'_>, to: &Path, staging: &mut Staging, salvaged: &mut Salvaged) -> Result<(), Error> {
    let seed = Seed::open_patiently(work.archive, work.domain, work.patience).map_err(Error::archive(work.archive))?;
    // Of a damaged one, what its headers say of lengths is worth nothing.
    let mut readable = 0;
    let mut buffer = vec![0; BUFFER];
    let whole = seed.each(|_, contents| {
        loop {
            match contents.read(&mut buffer)? {
                0 => return Ok(()),
                _ if work.cancel.signal().is_some() => return Err(io::Error::other("stopped")),
                count => readable += count as u64,
            }
        }
    });
    work.go_on()?;
    let state = match whole {
        Ok(()) => State::Whole,
        Err(error) if Stalled::caused(&error) => return Err(Error::archive(work.archive)(error)),
        Err(error) => {
            salvaged.damages.push(chain(&error));
            State::Unchecked
        }
    };
    expect_room(to, readable, staging)?;
    let mut failed = None;
    let read = seed.each(|member, contents| {
        let name = salvaged_name(member.file_name(), state);
        let mut part = Part {
            member: Some(member.name.clone()),
            files: Vec::new(),
            state,
            bytes: member.length,
            lost: Vec::new(),
            disk: None,
        };
        let written = create(&name, to, staging).and_then(|out| copy(work, contents, &out, &to.join(&name)));
        match written {
            Ok(written) => {
                if written < member.length {
                    part.state = State::Torn;
                    part.lost.push(Range { offset: written, length: member.length - written });
                }
                part.files.push(name);
                salvaged.files.push(part);
                Ok(())
            }
            Err(error) => {
                failed = Some(error);
                Err(io::Error::other("stopped"))
            }
        }
    });
    // Why it ends early is known already, unless the writing failed, or it hangs now.
    match read {
        Err(error) if Stalled::caused(&error) => Err(Error::archive(work.archive)(error)),
        _ => failed.map_or(Ok(()), Err),
    }
}

/// Two members of one file name are told apart by nobody: the second is refused by the staging.
fn salvaged_name(name: &str, state: State) -> PathBuf {
    let name = if is_plain(name) { name } else { "unnamed" };
    if state == State::Whole {
        return PathBuf::from(name);
    }
    let path = Path::new(name);
    match (path.file_stem().and_then(|stem| stem.to_str()), path.extension().and_then(|ending| ending.to_str())) {
        (Some(stem), Some(ending)) => PathBuf::from(format!("{stem}{SALVAGED}.{ending}")),
        _ => PathBuf::from(format!("{name}{SALVAGED}")),
    }
}

/// Copies what can be read; how much that was. An image that names another file of the host is not brought back.
fn copy(work: &Work<'_>, contents: &mut dyn Read, out: &PatientFile, path: &Path) -> Result<u64, Error> {
    let failed = Error::file("write", path);
    let mut output = Output::start(out, Kind::NewFile).map_err(&failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        work.go_on()?;
        let read = if at == 0 { foreign::fill(contents, &mut buffer) } else { contents.read(&mut buffer) };
        let count = match read {
            Err(error) if Stalled::is(&error) => return Err(work.read_error(error)),
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        if at == 0 && foreign::names_another_file(&buffer[..count]) {
            let what = format!("the image {} reads from another file of the host", path.display());
            return Err(Error::Suspect { path: work.archive.to_owned(), what });
        }
        output.take(at, &buffer[..count]).map_err(&failed)?;
        at += count as u64;
    }
    output.finish().and_then(|()| out.with(move |file| file.set_len(at))).map_err(&failed)?;
    Ok(at)
}
