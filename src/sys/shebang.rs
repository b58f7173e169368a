//! Checks that the interpreter in the first line of a script exists. Must not run it.
//!
//! For a missing interpreter, the kernel reports that the script does not exist: execve(2). In a script that was edited on
//! Windows, the name of the interpreter ends in a carriage return.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::trust::{Refused, Wrong};

/// Bytes of the line that the kernel reads: `BINPRM_BUF_SIZE`.
const MAX: u64 = 256;

/// Fails for a script whose interpreter does not exist. Unreadable files and other programs are left to the kernel.
///
/// # Errors
/// [`Wrong::CarriageReturn`] and [`Wrong::NoInterpreter`].
pub fn check(path: &Path) -> Result<(), Refused> {
    match File::open(path).ok().and_then(wrong) {
        Some(what) => Err(Refused::Untrusted { path: path.to_owned(), what }),
        None => Ok(()),
    }
}

fn wrong(script: File) -> Option<Wrong> {
    let mut line = Vec::new();
    BufReader::new(script.take(MAX)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    let line = line.trim_matches([' ', '\t', '\n']);
    let interpreter = line.split([' ', '\t']).next()?;
    // For env(1), its argument is the interpreter.
    if interpreter.ends_with('\r') || interpreter.ends_with("/env") && line.ends_with('\r') {
        return Some(Wrong::CarriageReturn);
    }
    let interpreter = Path::new(interpreter);
    (interpreter.is_absolute() && !interpreter.exists()).then_some(Wrong::NoInterpreter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_with_a_wrong_interpreter_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        for (text, expected) in [
            ("#!/bin/sh\n:\n", None),
            ("#! /bin/sh -e\r\n:\r\n", None),
            ("#!/usr/bin/env sh\n", None),
            ("no script\r\n", None),
            ("", None),
            ("#!\n", None),
            ("#!/bin/sh\r\n:\r\n", Some(Wrong::CarriageReturn)),
            ("#!/usr/bin/env sh\r\n", Some(Wrong::CarriageReturn)),
            ("#!/usr/bin/env -S sh -e\r\n", Some(Wrong::CarriageReturn)),
            ("#!/no/such/interpreter -x\n", Some(Wrong::NoInterpreter)),
        ] {
            std::fs::write(&path, text).unwrap();
            match (check(&path), expected) {
                (Ok(()), None) => {}
                (Err(Refused::Untrusted { what, .. }), Some(expected)) => assert_eq!(what, expected, "{text:?}"),
                (other, _) => panic!("{text:?}: {other:?}"),
            }
        }
        assert!(check(&folder.path().join("none")).is_ok());
    }
}
