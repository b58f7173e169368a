//! Determines how a disk is cut into blobs, and its holes into blobs of zeros. Must not read or store blobs.

use super::Id;
use super::format::{ZeroLength, zero_id};
use super::tree::MAX_BLOBS;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SMALL_DISK: u64 = 32 * GIB;

/// Blob size in bytes for a disk of this size: the wanted one, unless there would be too many blobs. `None` if the disk is
/// too large. Small blobs cost space for their IDs; a large blob is stored again after a small change in it.
pub fn blob_size(size: u64, wanted: Option<u64>) -> Option<u64> {
    let usual = if size <= SMALL_DISK {
        64 * KIB
    } else if size <= TIB {
        256 * KIB
    } else {
        MIB
    };
    let fits = |blob: &u64| size / blob < MAX_BLOBS as u64;
    let first = wanted.unwrap_or(usual);
    (0..8).map(|doubled| first << doubled).filter(|blob| *blob <= 8 * MIB).find(fits)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The blobs of a file, in order. Zeros are collected into the largest blobs that represent holes.
#[derive(Debug, Default)]
pub struct Content {
    ids: Vec<Id>,
    /// Bytes so far.
    length: u64,
    /// Zeros at the end that are not in a blob yet.
    zeros: u64,
    /// Lengths of blobs of zeros that must be stored, each once.
    zero_lengths: Vec<u64>,
}

impl Content {
    /// Appends a blob.
    pub fn push(&mut self, id: Id, length: u64, unit: u64) {
        self.flush(unit);
        self.ids.push(id);
        self.length += length;
    }

    /// Appends zeros.
    pub fn push_zeros(&mut self, length: u64) {
        self.zeros += length;
        self.length += length;
    }

    /// Bytes so far.
    #[cfg(test)]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The IDs, and the lengths of the blobs of zeros among them.
    pub fn finish(mut self, unit: u64) -> (Vec<Id>, Vec<u64>) {
        self.flush(unit);
        (self.ids, self.zero_lengths)
    }

    /// Turns the zeros at the end into blobs. If there are enough of them, at least one blob is a
    /// [`ZeroLength::Small`].
    fn flush(&mut self, unit: u64) {
        let (large, small) = (ZeroLength::Large.bytes() as u64, ZeroLength::Small.bytes() as u64);
        while self.zeros > 0 {
            let length = match self.zeros {
                zeros if zeros > large => large,
                zeros if zeros >= small => small,
                zeros => zeros.min(unit),
            };
            self.ids.push(zero_id(length));
            if !self.zero_lengths.contains(&length) {
                self.zero_lengths.push(length);
            }
            self.zeros -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_size_grows_with_the_disk() {
        for (size, blob) in [
            (0, 64 * KIB),
            (32 * GIB, 64 * KIB),
            (32 * GIB + 1, 256 * KIB),
            (TIB - 1, 256 * KIB),
            (TIB, 512 * KIB),
            (TIB + 1, MIB),
            (4 * TIB, 2 * MIB),
            (10 * TIB, 4 * MIB),
            (32 * TIB - 1, 8 * MIB),
        ] {
            assert_eq!(blob_size(size, None), Some(blob), "{size}");
        }
        assert_eq!(blob_size(32 * TIB, None), None);
        assert_eq!(blob_size(u64::MAX, None), None);
        for (size, wanted, blob) in [
            (GIB, 8 * MIB, 8 * MIB),
            (TIB, 128 * KIB, 512 * KIB),
            (100 * GIB, 64 * KIB, 64 * KIB),
            (32 * TIB - 1, 64 * KIB, 8 * MIB),
        ] {
            assert_eq!(blob_size(size, Some(wanted)), Some(blob), "{size} {wanted}");
        }
        assert_eq!(blob_size(32 * TIB, Some(8 * MIB)), None);
    }

    #[test]
    fn zeros_become_large_blobs_and_one_for_sparse_restores_by_restic() {
        let unit = 64 * KIB;
        let lengths = |zeros: u64| {
            let mut content = Content::default();
            content.push(Id::of(b"a"), unit, unit);
            content.push_zeros(zeros / 2);
            content.push_zeros(zeros - zeros / 2);
            assert_eq!(content.length(), zeros + unit);
            let (ids, lengths) = content.finish(unit);
            let all: Vec<u64> =
                ids[1..].iter().map(|id| *lengths.iter().find(|length| zero_id(**length) == *id).unwrap()).collect();
            assert_eq!(all.iter().sum::<u64>(), zeros);
            all
        };
        assert_eq!(lengths(0), [0; 0]);
        assert_eq!(lengths(100 * KIB), [64 * KIB, 36 * KIB]);
        assert_eq!(lengths(512 * KIB + 1), [512 * KIB, 1]);
        assert_eq!(lengths(8 * MIB), [512 * KIB; 16]);
        assert_eq!(lengths(17 * MIB), [8 * MIB, 8 * MIB, 512 * KIB, 512 * KIB]);
    }

    #[test]
    fn zeros_are_recognized() {
        assert!(is_zero(&[]) && is_zero(&[0; 10_000]));
        for at in [0, 4095, 4096, 9999] {
            let mut bytes = [0; 10_000];
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
