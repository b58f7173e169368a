//! Owns: whether the interpreter exists that a script names in its first line. Must not: run it.
//!
//! The kernel reports a missing interpreter as if the script did not exist: execve(2). A script that was edited on Windows names
//! one that ends in a carriage return.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::trust::{Refused, Wrong};

/// What the kernel reads of the line: `BINPRM_BUF_SIZE`.
const MAX: u64 = 256;

/// Fails for a script whose interpreter does not exist. What cannot be read, or is no script, is left to the kernel.
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
    // What env(1) is given is the interpreter.
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
    fn a_script_that_cannot_start_is_found_before_it_is_started() {
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
