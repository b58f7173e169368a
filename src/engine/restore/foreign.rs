//! Owns: the check of a qcow2 image that another program wrote, before QEMU opens it as a disk. Must not: accept one that
//! reads from any other file of the host.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use crate::engine::Error;
use crate::engine::qemu_img::{self, Limits};

const NOT_QCOW2: &str = "is not a qcow2 image";
/// `qemu-img info` reads only metadata, and a hostile image may make it say much.
const LIMITS: Limits = Limits { stall: Duration::from_secs(60), answer: 1 << 20 };
/// Bytes of a header that are looked at.
pub const HEADER: usize = 104;

/// Fails unless the image stands on its own: no backing file, no data file. The header is looked at first, so that QEMU does
/// not open another file even to tell of it.
pub fn check(image: &Path, archive: &Path, member: &str) -> Result<(), Error> {
    let suspect = |what: &str| Error::suspect(archive, &format!("the image {member} {what}"));
    let mut start = [0; HEADER];
    let read = File::open(image).and_then(|mut file| fill(&mut file, &mut start));
    let count = read.map_err(Error::file("read", image))?;
    expect_alone(&start[..count], archive, member)?;
    let told = qemu_img::info(image, "qcow2", LIMITS)?;
    let data_file = &told["format-specific"]["data"]["data-file"];
    if told["format"] != "qcow2" || !told["backing-filename"].is_null() || !data_file.is_null() {
        return Err(suspect("reads from another file of the host"));
    }
    Ok(())
}

/// Fails unless these first bytes are those of a qcow2 image without backing file and data file.
pub fn expect_alone(start: &[u8], archive: &Path, member: &str) -> Result<(), Error> {
    match start.first_chunk().map_or(Some(NOT_QCOW2), reaches_out) {
        None => Ok(()),
        Some(what) => Err(Error::suspect(archive, &format!("the image {member} {what}"))),
    }
}

/// What is wrong with a header: QEMU's `docs/interop/qcow2.txt`, "Header".
fn reaches_out(header: &[u8; HEADER]) -> Option<&'static str> {
    let any = |from: usize, until: usize| header[from..until].iter().any(|&byte| byte != 0);
    if header[..4] != *b"QFI\xfb" || any(4, 7) || !(2..=3).contains(&header[7]) {
        return Some(NOT_QCOW2);
    }
    if any(8, 16) {
        return Some("has a backing file");
    }
    // Bit 2 of the incompatible features; version 2 has none.
    (header[7] == 3 && header[79] & 4 != 0).then_some("has a data file")
}

/// Whether these first bytes are those of a qcow2 image that reads from another file.
pub fn names_another_file(start: &[u8]) -> bool {
    let Some(header) = start.first_chunk::<HEADER>() else { return false };
    header.starts_with(b"QFI\xfb") && matches!(reaches_out(header), Some(what) if what != NOT_QCOW2)
}

/// Fails if a file that is copied unchanged would lead QEMU to another file: a definition can declare any file, such as the
/// UEFI variables, to be an image.
pub fn check_copy(file: &Path, archive: &Path, member: &str) -> Result<(), Error> {
    let mut start = [0; HEADER];
    let read = File::open(file).and_then(|mut file| fill(&mut file, &mut start));
    let count = read.map_err(Error::file("read", file))?;
    if names_another_file(&start[..count]) {
        return Err(Error::suspect(archive, &format!("{member} reads from another file of the host")));
    }
    Ok(())
}

/// Reads until the buffer holds the header of an image, or the file ends.
pub fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < HEADER.min(buffer.len()) {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture::{run, text};

    #[test]
    fn images_that_stand_on_their_own_pass_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let made = |name: &str, arguments: &[&str]| {
            let image = path(name);
            run("qemu-img", &[&["create", "-q", "-f", "qcow2"], arguments, &[text(&image), "4M"]].concat());
            check(&image, Path::new("a.tar.gz"), name)
        };
        made("good", &[]).unwrap();
        made("old", &["-o", "compat=0.10"]).unwrap();
        let base = path("good");
        let error = made("top", &["-b", text(&base), "-F", "qcow2"]).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("has a backing file"), "{error}");
        let data = format!("data_file={}", text(&path("data")));
        let error = made("out", &["-o", &data]).unwrap_err();
        assert!(error.to_string().contains("has a data file"), "{error}");
        std::fs::write(path("raw"), [0; 4096]).unwrap();
        assert!(check(&path("raw"), Path::new("a"), "raw").is_err());
        std::fs::write(path("short"), "QFI").unwrap();
        assert!(check(&path("short"), Path::new("a"), "short").is_err());
    }
}
