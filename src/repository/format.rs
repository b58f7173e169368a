//! Encodes objects other than packs: JSON, compressed, sealed, and named by its SHA-256. Must not know the contents of
//! objects.

use std::cell::RefCell;
use std::io::Read;
use std::sync::OnceLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use zstd::bulk::{Compressor, Decompressor};

use super::crypto::Key;
use super::{Corruption, Id, Kind};

/// zstd level of compressed objects and blobs.
pub const LEVEL: i32 = 3;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// First byte of compressed contents. Uncompressed contents start with `{` or `[`.
const COMPRESSED: u8 = 2;

/// Limits of an object of this kind in bytes: stored, and decompressed.
pub fn limits(kind: Kind) -> (u64, u64) {
    match kind {
        Kind::Config | Kind::Key | Kind::Lock => (64 << 10, 64 << 10),
        Kind::Snapshot => (1 << 20, 4 << 20),
        Kind::Index => (64 << 20, 256 << 20),
        // A pack is never read whole.
        Kind::Pack => (0, 0),
    }
}

/// The stored bytes of an object.
pub fn encode<T: Serialize>(key: &Key, kind: Kind, value: &T) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    if kind == Kind::Config {
        return key.seal(&json);
    }
    let mut packed = vec![COMPRESSED];
    packed.extend(compress(&json)?);
    key.seal(&packed)
}

/// Decodes the stored bytes of an object. The caller must have checked them against its name.
pub fn decode<T: DeserializeOwned>(key: &Key, kind: Kind, sealed: Vec<u8>) -> Result<T, Corruption> {
    let packed = key.open(sealed)?;
    let json = match packed.split_first() {
        Some((&COMPRESSED, rest)) if kind != Kind::Config => decompress(rest, limits(kind).1)?,
        Some((b'{' | b'[', _)) => packed,
        _ => {
            return Err(Corruption::Malformed("it is neither JSON nor compressed as in format version 2"));
        }
    };
    serde_json::from_slice(&json).map_err(Corruption::Json)
}

/// Fails if the SHA-256 of these bytes is not this ID.
pub fn check_name(id: Id, bytes: &[u8]) -> Result<(), Corruption> {
    if Id::of(bytes) == id { Ok(()) } else { Err(Corruption::Hash) }
}

thread_local! {
    // Each thread keeps its contexts: making one takes up to a fifth of the time that a blob of 64 KiB takes.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses bytes into one zstd frame.
pub fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(bytes),
        None => kept.insert(Compressor::new(LEVEL)?).compress(bytes),
    })
}

/// The contents of a zstd frame, at most `limit` bytes.
pub fn decompress(packed: &[u8], limit: u64) -> Result<Vec<u8>, Corruption> {
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(Corruption::Decompress)?;
    decoder.take(limit + 1).read_to_end(&mut bytes).map_err(Corruption::Decompress)?;
    if bytes.len() as u64 > limit { Err(Corruption::TooLarge { limit }) } else { Ok(bytes) }
}

/// The contents of a zstd frame, which must have exactly `length` bytes.
pub fn decompress_exactly(packed: &[u8], length: usize) -> Result<Vec<u8>, Corruption> {
    let bytes = DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress(packed, length),
        None => kept.insert(Decompressor::new()?).decompress(packed, length),
    });
    let bytes = bytes.map_err(Corruption::Decompress)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(Corruption::Malformed("its length differs from that in the index"))
    }
}

/// The ID of a blob of this many zeros. The IDs for the usual lengths are computed once.
pub fn zero_id(length: u64) -> Id {
    static IDS: [OnceLock<Id>; 2] = [OnceLock::new(), OnceLock::new()];
    let compute = || {
        let mut hasher = Sha256::new();
        let mut left = length;
        while left > 0 {
            let count = left.min(ZEROS.len() as u64);
            hasher.update(&ZEROS[..count as usize]);
            left -= count;
        }
        Id::from_bytes(hasher.finalize().into())
    };
    let usual = [ZeroLength::Large, ZeroLength::Small].into_iter().position(|usual| usual.bytes() as u64 == length);
    usual.map_or_else(compute, |at| *IDS[at].get_or_init(compute))
}

/// The lengths of the blobs that represent holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroLength {
    /// 8 MiB, for most of a large hole.
    Large,
    /// 512 KiB. `restic restore --sparse` makes holes only in a file with such a blob.
    Small,
}

impl ZeroLength {
    /// Length in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            ZeroLength::Large => 8 << 20,
            ZeroLength::Small => 512 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_round_trip_and_all_except_the_config_are_compressed() {
        let key = Key::random().unwrap();
        let value = vec!["x".repeat(1000)];
        for kind in [Kind::Config, Kind::Lock, Kind::Snapshot, Kind::Index] {
            let sealed = encode(&key, kind, &value).unwrap();
            assert_eq!(sealed.len() > 1000, kind == Kind::Config);
            assert_eq!(decode::<Vec<String>>(&key, kind, sealed).unwrap(), value);
        }
        let plain = key.seal(br#"["x"]"#).unwrap();
        assert_eq!(decode::<Vec<String>>(&key, Kind::Snapshot, plain).unwrap(), ["x"], "as in format version 1");
        for wrong in [&b""[..], b"\x02", b"\x02x", b"\x01{}", b"{", b"[1]"] {
            decode::<Vec<String>>(&key, Kind::Snapshot, key.seal(wrong).unwrap()).unwrap_err();
        }
    }

    #[test]
    fn frame_with_too_much_data_is_refused() {
        let swells = compress(&vec![0; 100 << 20]).unwrap();
        assert!(swells.len() < 20_000);
        assert!(matches!(decompress(&swells, 1 << 20), Err(Corruption::TooLarge { .. })));
        decompress_exactly(&swells, 1 << 20).unwrap_err();
        decompress_exactly(&compress(b"xy").unwrap(), 3).unwrap_err();
        assert_eq!(decompress(&compress(b"xy").unwrap(), 2).unwrap(), b"xy");
    }

    #[test]
    fn id_of_zeros_matches_that_of_restic() {
        let id = "07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541";
        assert_eq!(zero_id(512 << 10).to_string(), id);
    }
}
