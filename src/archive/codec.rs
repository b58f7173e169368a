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
                if !packed.starts_with(&ZSTD) || packed.len() < 9 || packed[4] & 0b0001_1111 != 0b0000_0100 {
                    return Err("it does not start as one");
                }
                // Ties the frame to its place: one from elsewhere has another checksum.
                if le(&packed[packed.len() - 4..]) != entry.check {
                    return Err("its checksum is not the one in the seek table");
                }
                out.clear();
                out.reserve_exact(unpacked);
                self.zstd
                    .decompress_to_buffer(packed, out)
                    .map_err(|_| "it does not decode, or its checksum does not match")?;
            }
            Kind::Gzip => {
                if packed.len() < gzip::HEADER + gzip::TRAILER || packed[..gzip::HEADER] != gzip::header(entry.packed) {
                    return Err("it does not start as one");
                }
                let (data, trailer) = packed[gzip::HEADER..].split_at(packed.len() - gzip::HEADER - gzip::TRAILER);
                if le(trailer) != entry.check || le(&trailer[4..]) != entry.unpacked {
                    return Err("its trailer is not what the seek table says");
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
        if out.len() == unpacked { Ok(()) } else { Err("its contents have another length than the seek table says") }
    }
}
