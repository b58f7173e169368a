//! Reads from the header of any qcow2 image what it refers to: backing file, data file, internal snapshots, bitmaps.
//! Must not read data, open what it finds, or trust a length.
//!
//! Layout of the header, its extensions and the snapshot table: QEMU's `docs/interop/qcow2.txt`.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use super::Error;

const MAGIC: u32 = 0x5146_49fb;
/// Header length of version 2; version 3 contains its length.
const V2_LENGTH: u64 = 72;
/// Offset of the header length in version 3.
const V3_LENGTH_AT: u64 = 100;
/// Longest name that QEMU accepts, in bytes.
const MAX_NAME: u32 = 1023;
/// Bytes of extensions that are read: QEMU stores all of them in the first cluster, at most 2 MiB.
const MAX_EXTENSIONS: u64 = 2 << 20;
/// Limit of snapshots, the same as QEMU's.
const MAX_SNAPSHOTS: u32 = 1 << 16;
/// Limit of all snapshot names, in bytes.
const MAX_NAMES: usize = 4 << 20;

const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;
const BITMAPS: u32 = 0x2385_2875;

/// The references in the header of a qcow2 image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Version of the format: 2 or 3. Only version 3 has bitmaps.
    pub version: u32,
    /// Backing file as written in the header: relative to the image's directory, absolute, or with a protocol.
    pub backing: Option<OsString>,
    /// Format of the backing file, according to the header.
    pub backing_format: Option<String>,
    /// External data file.
    pub data_file: Option<OsString>,
    /// Names of the internal snapshots, in table order.
    pub snapshots: Vec<String>,
    /// Number of bitmaps.
    pub bitmaps: u32,
}

impl Links {
    /// Reads the references.
    ///
    /// # Errors
    /// [`Error::NotQcow2`] if the file is something else, [`Error::Damaged`] if the header contradicts itself.
    pub fn read(image: &File) -> Result<Links, Error> {
        let at = Fields(image);
        match at.u32(0) {
            Ok(MAGIC) => {}
            Ok(_) | Err(Error::Truncated) => return Err(Error::NotQcow2),
            Err(error) => return Err(error),
        }
        let version = at.u32(4)?;
        let header = if version >= 3 { u64::from(at.u32(V3_LENGTH_AT)?) } else { V2_LENGTH };
        let mut links = Links { version, backing: at.backing()?, ..Links::default() };
        at.extensions(header, &mut links)?;
        links.snapshots = at.snapshots()?;
        Ok(links)
    }
}

struct Fields<'a>(&'a File);

impl Fields<'_> {
    fn bytes(&self, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact_at(&mut bytes, offset).map_err(Error::read)?;
        Ok(bytes)
    }

    fn u16(&self, offset: u64) -> Result<u16, Error> {
        let mut bytes = [0; 2];
        self.0.read_exact_at(&mut bytes, offset).map_err(Error::read)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&self, offset: u64) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, offset).map_err(Error::read)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&self, offset: u64) -> Result<u64, Error> {
        Ok(u64::from(self.u32(offset)?) << 32 | u64::from(self.u32(offset.saturating_add(4))?))
    }

    fn backing(&self) -> Result<Option<OsString>, Error> {
        let (offset, length) = (self.u64(8)?, self.u32(16)?);
        match (offset, length) {
            (0, _) | (_, 0) => Ok(None),
            (_, length) if length > MAX_NAME => {
                Err(Error::Damaged { what: "the name of its backing file is too long" })
            }
            (offset, length) => Ok(Some(OsString::from_vec(self.bytes(offset, length)?))),
        }
    }

    fn extensions(&self, header: u64, links: &mut Links) -> Result<(), Error> {
        let mut offset = header;
        while offset < MAX_EXTENSIONS {
            let (kind, length) = match (self.u32(offset), self.u32(offset + 4)) {
                (Ok(kind), Ok(length)) => (kind, length),
                // A version 2 image without extensions may end right after its header.
                (Err(Error::Truncated), _) | (_, Err(Error::Truncated)) => return Ok(()),
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            let data = offset + 8;
            match kind {
                0 => return Ok(()),
                BACKING_FORMAT if length <= MAX_NAME => {
                    links.backing_format = Some(String::from_utf8_lossy(&self.bytes(data, length)?).into_owned());
                }
                DATA_FILE if length <= MAX_NAME => {
                    links.data_file = Some(OsString::from_vec(self.bytes(data, length)?));
                }
                BITMAPS if length >= 4 => links.bitmaps = self.u32(data)?,
                _ => {}
            }
            offset = data.saturating_add(u64::from(length).next_multiple_of(8));
        }
        Err(Error::Damaged { what: "its header extensions have no end" })
    }

    fn snapshots(&self) -> Result<Vec<String>, Error> {
        let (count, mut offset) = (self.u32(60)?, self.u64(64)?);
        if count > MAX_SNAPSHOTS {
            return Err(Error::Damaged { what: "it has too many internal snapshots" });
        }
        let (mut names, mut length) = (Vec::new(), 0);
        for _ in 0..count {
            if offset > i64::MAX as u64 || length > MAX_NAMES {
                return Err(Error::Damaged { what: "its snapshot table is outside the file" });
            }
            let (id, name) = (u64::from(self.u16(offset + 12)?), self.u16(offset + 14)?);
            let extra = u64::from(self.u32(offset + 36)?);
            let name_at = offset + 40 + extra + id;
            names.push(String::from_utf8_lossy(&self.bytes(name_at, u32::from(name))?).into_owned());
            length += usize::from(name);
            offset = (name_at + u64::from(name)).next_multiple_of(8);
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str], folder: &Path) {
        let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn read(path: &Path) -> Result<Links, Error> {
        Links::read(&File::open(path).unwrap())
    }

    fn image(folder: &Path) -> PathBuf {
        qemu_img(&["create", "-q", "-f", "raw", "base one.raw", "4M"], folder);
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base one.raw", "-F", "raw", "a.qcow2"], folder);
        for name in ["first", "second snapshot"] {
            qemu_img(&["snapshot", "-c", name, "a.qcow2"], folder);
        }
        qemu_img(&["bitmap", "--add", "a.qcow2", "changes"], folder);
        folder.join("a.qcow2")
    }

    #[test]
    fn links_written_by_qemu_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let expected = Links {
            version: 3,
            backing: Some("base one.raw".into()),
            backing_format: Some("raw".into()),
            data_file: None,
            snapshots: vec!["first".into(), "second snapshot".into()],
            bitmaps: 1,
        };
        assert_eq!(read(&image(dir.path())).unwrap(), expected);
        qemu_img(
            &["create", "-q", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "d.qcow2", "4M"],
            dir.path(),
        );
        assert_eq!(read(&dir.path().join("d.qcow2")).unwrap().data_file, Some("d.raw".into()));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "4M"], dir.path());
        assert_eq!(read(&dir.path().join("old.qcow2")).unwrap(), Links { version: 2, ..Links::default() });
        assert!(matches!(read(&dir.path().join("d.raw")), Err(Error::NotQcow2)));
    }

    #[test]
    fn no_damaged_header_panics() {
        let dir = tempfile::tempdir().unwrap();
        let whole = std::fs::read(image(dir.path())).unwrap();
        let path = dir.path().join("damaged");
        for at in 0..120 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                std::fs::write(&path, &bytes).unwrap();
                let _ = read(&path);
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err() || at >= 72, "cut at {at}");
        }
    }
}
