//! Owns: one piece of the tar stream, compressed and back, with the checks that make damage an error. Must not: know where
//! pieces lie.

use std::io;

use libdeflater::{CompressionLvl, Compressor as Deflater, Decompressor as Inflater};
use zstd::zstd_safe::CParameter;

use super::gzip;
use super::kind::{Kind, ZSTD};
use super::table::{Entry, le};
use crate::model::Codec;
use crate::sys::buffer::{Buffer, room};

/// Compresses pieces; holds a context and a buffer, so keep and reuse it.
pub(super) enum Packer {
    Zstd(Box<zstd::bulk::Compressor<'static>>, Buffer),
    Gzip(Deflater, Buffer),
    None,
}

impl Packer {
    /// A level out of range is an error.
    pub(super) fn new(codec: Codec) -> io::Result<Packer> {
        Ok(match codec {
            Codec::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
                if level == 3 {
                    // Half of what level 3 has: the tables stay in a core's own cache, which saves about a tenth of the
                    // time and costs about a hundredth of the size.
                    compressor.set_parameter(CParameter::HashLog(16))?;
                    compressor.set_parameter(CParameter::ChainLog(15))?;
                }
                Packer::Zstd(Box::new(compressor), Buffer::new()?)
            }
            Codec::Gzip(level) => {
                let level = CompressionLvl::new(level).map_err(|_| io::ErrorKind::InvalidInput)?;
                Packer::Gzip(Deflater::new(level), Buffer::new()?)
            }
            Codec::None => Packer::None,
        })
    }

    /// Memory of one context, at most, for pieces of [`PIECE`](super::PIECE) bytes: measured by `ZSTD_sizeof_CCtx` with zstd 1.5.7, and what
    /// libdeflate 1.26 allocates.
    pub(super) fn context_bytes(codec: Codec) -> usize {
        let kib = match codec {
            Codec::Zstd(..=2) => 768,
            Codec::Zstd(3) => 1280,
            Codec::Zstd(4..=6) => 3072,
            Codec::Zstd(7..=8) => 5632,
            Codec::Zstd(9) => 10_752,
            Codec::Zstd(10..=11) => 20_992,
            Codec::Zstd(_) => 66_048,
            Codec::Gzip(..=9) => 1024,
            Codec::Gzip(_) => 10_240,
            Codec::None => 0,
        };
        kib << 10
    }

    /// Compresses a piece in place: its buffer and this packer's change places, so nothing is copied.
    pub(super) fn pack(&mut self, piece: &mut Buffer) -> io::Result<Entry> {
        let unpacked = size(piece)?;
        let check = match self {
            Packer::Zstd(compressor, buffer) => {
                buffer.replace(|all| compressor.compress_to_buffer(piece, all))?;
                std::mem::swap(piece, buffer);
                // A frame ends with the checksum that the seek table has, too.
                le(&piece[piece.len().saturating_sub(4)..])
            }
            Packer::Gzip(deflater, buffer) => {
                let check = libdeflater::crc32(piece);
                buffer.replace(|all| deflate(deflater, piece, check, all))?;
                std::mem::swap(piece, buffer);
                check
            }
            Packer::None => 0,
        };
        Ok(Entry { packed: size(piece)?, unpacked, check })
    }
}

/// Makes a gzip member of `piece` at the start of `room`; its length.
fn deflate(deflater: &mut Deflater, piece: &[u8], check: u32, room: &mut [u8]) -> io::Result<usize> {
    let (start, rest) = room.split_at_mut(gzip::HEADER);
    let (data, trailer) = rest.split_at_mut(rest.len() - gzip::TRAILER);
    let length =
        deflater.deflate_compress(piece, data).map_err(|_| io::Error::other("libdeflate had too little room"))?;
    trailer[..4].copy_from_slice(&check.to_le_bytes());
    trailer[4..].copy_from_slice(&size(piece)?.to_le_bytes());
    let end = gzip::HEADER + length;
    let member = end + gzip::TRAILER;
    start.copy_from_slice(&gzip::header(u32::try_from(member).map_err(|_| io::ErrorKind::InvalidInput)?));
    let trailer = room.len() - gzip::TRAILER..;
    room.copy_within(trailer, end);
    Ok(member)
}

fn size(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Decodes pieces; holds contexts, so keep and reuse it.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    inflater: Inflater,
}

impl Unpacker {
    /// Fails when there is no memory for a context.
    pub(super) fn new() -> io::Result<Unpacker> {
        Ok(Unpacker { zstd: zstd::bulk::Decompressor::new()?, inflater: Inflater::new() })
    }

    /// Decodes the bytes of one piece into `out`, which is replaced; the error says what is wrong with them.
    ///
    /// `packed` has the length that `entry` says, and `entry` sane lengths.
    pub(super) fn unpack(
        &mut self,
        kind: Kind,
        entry: Entry,
        packed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let unpacked = entry.unpacked as usize;
        match kind {
            Kind::Zstd => {
                // Frame header descriptor (RFC 8878, 3.1.1.1.1): a checksum follows, no reserved bit, no dictionary.
                let descriptor = packed.strip_prefix(&ZSTD).and_then(<[u8]>::first);
                if descriptor.is_none_or(|bits| bits & 0b0001_1111 != 0b0000_0100) {
                    return Err("it has no frame header");
                }
                // Ties the frame to its place: one from elsewhere has another checksum.
                if packed.last_chunk::<4>().is_none_or(|check| le(check) != entry.check) {
                    return Err("its checksum does not match the seek table");
                }
                out.clear();
                out.reserve_exact(unpacked);
                self.zstd
                    .decompress_to_buffer(packed, out)
                    .map_err(|_| "it does not decode, or its checksum does not match")?;
            }
            Kind::Gzip => {
                let member = packed.strip_prefix(&gzip::header(entry.packed));
                let Some((data, trailer)) = member.and_then(<[u8]>::split_last_chunk::<{ gzip::TRAILER }>) else {
                    return Err("it has no frame header");
                };
                if le(trailer) != entry.check || le(&trailer[4..]) != entry.unpacked {
                    return Err("its trailer does not match the seek table");
                }
                room(out, unpacked);
                let length = self.inflater.deflate_decompress(data, out).map_err(|_| "it does not decode")?;
                if length != unpacked || libdeflater::crc32(out) != entry.check {
                    return Err("its checksum does not match");
                }
            }
            Kind::None => {
                out.clear();
                out.extend_from_slice(packed);
            }
        }
        if out.len() == unpacked { Ok(()) } else { Err("its length does not match the seek table") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::FULL_PIECE;

    /// A piece of one byte many times, packed.
    fn packed(codec: Codec) -> (Vec<u8>, Entry) {
        let mut piece = Buffer::new().unwrap();
        piece.append(&[7; 1000]);
        let entry = Packer::new(codec).unwrap().pack(&mut piece).unwrap();
        (piece.to_vec(), entry)
    }

    fn unpack(kind: Kind, entry: Entry, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut out = vec![1; 3];
        Unpacker::new().unwrap().unpack(kind, entry, bytes, &mut out).map(|()| out)
    }

    #[test]
    fn what_is_wrong_with_a_zstd_frame_is_told() {
        let (good, entry) = packed(Codec::Zstd(3));
        assert_eq!(unpack(Kind::Zstd, entry, &good).unwrap(), [7; 1000]);
        let start = Err("it has no frame header");
        for length in 0..5 {
            assert_eq!(unpack(Kind::Zstd, entry, &good[..length]), start);
        }
        // Its magic number; no checksum follows; a reserved bit; a dictionary.
        for (at, bits) in [(0, 1), (3, 0x80), (4, 0b100), (4, 0b1000), (4, 0b1)] {
            let mut bytes = good.clone();
            bytes[at] ^= bits;
            assert_eq!(unpack(Kind::Zstd, entry, &bytes), start, "{at} {bits}");
        }
        let other = Entry { check: entry.check ^ 1, ..entry };
        assert_eq!(unpack(Kind::Zstd, other, &good), Err("its checksum does not match the seek table"));
        assert_eq!(unpack(Kind::Zstd, other, &good[..5]), Err("its checksum does not match the seek table"));
        let mut bytes = good.clone();
        bytes[good.len() - 6] ^= 0x40;
        assert_eq!(unpack(Kind::Zstd, entry, &bytes), Err("it does not decode, or its checksum does not match"));
        let longer = Entry { unpacked: 1001, ..entry };
        assert_eq!(unpack(Kind::Zstd, longer, &good), Err("its length does not match the seek table"));
    }

    #[test]
    fn what_is_wrong_with_a_gzip_member_is_told() {
        let (good, entry) = packed(Codec::Gzip(6));
        assert_eq!(unpack(Kind::Gzip, entry, &good).unwrap(), [7; 1000]);
        let start = Err("it has no frame header");
        for length in [0, 1, gzip::HEADER, gzip::HEADER + gzip::TRAILER - 1] {
            assert_eq!(unpack(Kind::Gzip, entry, &good[..length]), start, "{length}");
        }
        // Its magic number, and its own length.
        for at in [0, gzip::HEADER - 4] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert_eq!(unpack(Kind::Gzip, entry, &bytes), start, "{at}");
        }
        let trailer = Err("its trailer does not match the seek table");
        assert_eq!(unpack(Kind::Gzip, Entry { check: entry.check ^ 1, ..entry }, &good), trailer);
        assert_eq!(unpack(Kind::Gzip, Entry { unpacked: 999, ..entry }, &good), trailer);
        let bare = [&good[..gzip::HEADER], &good[good.len() - gzip::TRAILER..]].concat();
        assert_eq!(unpack(Kind::Gzip, entry, &bare), Err("it does not decode"));
        // A trailer that fits an entry, and contents that fit neither.
        let end = good.len() - gzip::TRAILER;
        for (at, entry) in [
            (end, Entry { check: entry.check ^ 1, ..entry }),
            (end + 4, Entry { unpacked: entry.unpacked ^ 1, ..entry }),
        ] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert_eq!(unpack(Kind::Gzip, entry, &bytes), Err("its checksum does not match"));
        }
    }

    #[test]
    fn what_cannot_be_compressed_fits_into_a_buffer() {
        let mut random = vec![0; FULL_PIECE];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
        for (kind, codec) in [(Kind::Zstd, Codec::Zstd(1)), (Kind::Gzip, Codec::Gzip(1)), (Kind::None, Codec::None)] {
            let mut piece = Buffer::new().unwrap();
            piece.append(&random);
            let entry = Packer::new(codec).unwrap().pack(&mut piece).unwrap();
            assert!(unpack(kind, entry, &piece).unwrap() == random, "{codec:?}");
        }
    }

    #[test]
    fn an_uncompressed_piece_has_its_length() {
        let entry = Entry { packed: 4, unpacked: 4, check: 0 };
        assert_eq!(unpack(Kind::None, entry, b"abcd").unwrap(), b"abcd");
        assert!(unpack(Kind::None, Entry { unpacked: 5, ..entry }, b"abcd").is_err());
    }
}
