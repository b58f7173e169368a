//! Owns: tar headers as this format has them: regular files only, GNU magic, long names in a `L` record, sizes above
//! 8 GiB in base 256 (GNU tar manual, "Basic Tar Format"). Must not: read or write files.

use tar::{EntryType, Header};

use super::{Error, names};

/// The unit of a tar stream.
pub(super) const BLOCK: u64 = 512;

/// What the name of a `L` record is.
const LONG_LINK: &[u8] = b"././@LongLink";

/// What one header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The end of the stream.
    End,
    /// The name of the next header is in so many bytes after this one.
    LongName(u64),
    /// A member with a name (to be ignored after a [`Parsed::LongName`]) and a length.
    File(Vec<u8>, u64),
}

/// The bytes before a member's contents; `time` is its modification time, in seconds since 1970.
pub(super) fn encode(name: &str, length: u64, time: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * BLOCK as usize);
    let field = name.as_bytes();
    if field.len() > 100 {
        let mut contents = field.to_vec();
        contents.push(0);
        bytes.extend_from_slice(header(LONG_LINK, contents.len() as u64, 0, EntryType::GNULongName).as_bytes());
        contents.resize(contents.len() + padding(contents.len() as u64) as usize, 0);
        bytes.extend_from_slice(&contents);
    }
    bytes.extend_from_slice(header(field, length, time, EntryType::Regular).as_bytes());
    bytes
}

fn header(name: &[u8], length: u64, time: u64, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    // Not `set_path`: it would clean the name up, and refuses long ones.
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name) {
        *to = *from;
    }
    header.set_entry_type(kind);
    header.set_size(length);
    // The archive holds domain XML with secrets: private when unpacked, too.
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_cksum();
    header
}

/// The zeros that fill up the last block of so many bytes.
pub(super) fn padding(length: u64) -> u64 {
    (BLOCK - length % BLOCK) % BLOCK
}

/// Reads the header at `offset` of the tar stream.
pub(super) fn parse(block: &[u8; BLOCK as usize], offset: u64) -> Result<Parsed, Error> {
    let damaged = |what| Error::Header { offset, what };
    if block.iter().all(|&byte| byte == 0) {
        return Ok(Parsed::End);
    }
    let header = Header::from_byte_slice(block);
    // The checksum counts its own field as blanks.
    let sum: u32 =
        block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
    if header.cksum().ok() != Some(sum) {
        return Err(damaged("its checksum does not match"));
    }
    if header.as_gnu().is_none() {
        return Err(damaged("it is not a GNU header"));
    }
    let length = header.entry_size().map_err(|_| damaged("its length is not a number"))?;
    let name = &header.as_old().name;
    let name = name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())].to_vec();
    match header.entry_type() {
        EntryType::Regular => Ok(Parsed::File(name, length)),
        EntryType::GNULongName if length <= names::MAX as u64 + 1 => Ok(Parsed::LongName(length)),
        EntryType::GNULongName => Err(damaged("the name is too long")),
        _ => Err(damaged("it is not a regular file")),
    }
}

/// A member's name from its bytes: UTF-8 and fit to be unpacked.
pub(super) fn name(bytes: Vec<u8>, offset: u64) -> Result<String, Error> {
    let name = String::from_utf8(bytes).map_err(|_| Error::Header { offset, what: "the name is not UTF-8" })?;
    names::check(&name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_flips_show() {
        for (name, length) in [("manifest.json", 0), ("disks/ä b.qcow2", 5 << 43), ("x", u64::MAX >> 1)] {
            let block: [u8; 512] = encode(name, length, 1_795_000_000).try_into().unwrap();
            assert_eq!(parse(&block, 0).unwrap(), Parsed::File(name.into(), length));
            for at in 0..512 {
                let mut flipped = block;
                flipped[at] ^= 1;
                // The checksum's own field has don't-care bytes; nothing else may differ without an error.
                if let Ok(parsed) = parse(&flipped, 0) {
                    assert_eq!(parsed, Parsed::File(name.into(), length), "{at}");
                }
            }
        }
        assert_eq!(parse(&[0; 512], 0).unwrap(), Parsed::End);
    }

    #[test]
    fn links_and_devices_are_refused() {
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Directory, EntryType::XHeader] {
            let block = *header(b"x", 0, 0, kind).as_bytes();
            assert!(parse(&block, 0).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn names_are_as_long_as_they_may_be() {
        let what = |length| {
            let Err(Error::Header { what, .. }) =
                parse(header(LONG_LINK, length, 0, EntryType::GNULongName).as_bytes(), 0)
            else {
                return None;
            };
            Some(what)
        };
        // The name's end is a zero byte.
        let most = names::MAX as u64 + 1;
        assert_eq!(
            (what(1), what(most), what(most + 1), what(1 << 40)),
            (None, None, Some("the name is too long"), Some("the name is too long"))
        );
        // What the name field holds needs no record of its own.
        assert_eq!(encode(&"x".repeat(100), 0, 0).len(), 512);
        assert_eq!(encode(&"x".repeat(101), 0, 0).len(), 3 * 512);
    }
}
