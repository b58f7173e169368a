//! Owns: the negotiation that opens an export (fixed newstyle). Must not: send a request.

use super::Error;
use super::wire::Wire;

const INIT_MAGIC: [u8; 8] = *b"NBDMAGIC";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags; the client's are the same bits.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
/// Set in every reply that is an error.
const REP_ERROR: u32 = 1 << 31;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
const HAS_FLAGS: u16 = 1 << 0;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;

/// The protocol's bound for names and messages.
const MAX_STRING: usize = 4096;
/// The most replies to one option; a server that goes on has lost its way.
const MAX_REPLIES: usize = 64;
/// The context that tells data from holes and zeros.
const ALLOCATION: &str = "base:allocation";

/// What was agreed about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// Its size, in bytes.
    pub size: u64,
    /// Requests may go over several connections.
    pub multi_conn: bool,
    /// A read may ask for one piece.
    pub can_df: bool,
    /// The id of `base:allocation`, when the server tells block status.
    pub allocation: Option<u32>,
    /// The unit of offsets and lengths, in bytes; a power of two.
    pub min_block: u32,
    /// The most bytes of one read.
    pub max_block: u32,
}

/// Agrees with the server on everything up to the first request.
pub(super) fn negotiate(wire: &mut Wire, name: &str) -> Result<Export, Error> {
    if name.len() > MAX_STRING {
        return Err(refused(wire, name, "the name is too long".to_owned()));
    }
    greet(wire)?;
    let structured = option(wire, OPT_STRUCTURED_REPLY, &[], |_, _, _| Ok(false))?.is_none();
    let allocation = if structured { allocation(wire, name)? } else { None };
    go(wire, name, allocation)
}

fn greet(wire: &mut Wire) -> Result<(), Error> {
    if wire.array()? != INIT_MAGIC || wire.array()? != OPTION_MAGIC {
        return Err(wire.protocol("its greeting is not that of a newstyle server"));
    }
    let flags = wire.u16()?;
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(wire.protocol("it is not a fixed newstyle server"));
    }
    let mine = flags & (FIXED_NEWSTYLE | NO_ZEROES);
    wire.write(&u32::from(mine).to_be_bytes())
}

/// Asks for `base:allocation`; a server without it answers `None`.
fn allocation(wire: &mut Wire, name: &str) -> Result<Option<u32>, Error> {
    let query = [&string(name)[..], &1u32.to_be_bytes(), &string(ALLOCATION)].concat();
    let mut id = None;
    let error = option(wire, OPT_SET_META_CONTEXT, &query, |wire, kind, length| {
        if kind != REP_META_CONTEXT || length != 4 + ALLOCATION.len() || id.is_some() {
            return Ok(false);
        }
        id = Some(wire.u32()?);
        Ok(wire.text(length - 4)? == ALLOCATION)
    })?;
    Ok(if error.is_none() { id } else { None })
}

fn go(wire: &mut Wire, name: &str, allocation: Option<u32>) -> Result<Export, Error> {
    let query = [&string(name)[..], &1u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat();
    let mut export = None;
    // What the protocol lets a client assume that is told nothing.
    let mut blocks = (1, 32 << 20);
    let error = option(wire, OPT_GO, &query, |wire, kind, length| {
        if kind != REP_INFO || length < 2 {
            return Ok(false);
        }
        match (wire.u16()?, length) {
            (INFO_EXPORT, 12) => export = Some((wire.u64()?, wire.u16()?)),
            (INFO_BLOCK_SIZE, 14) => {
                let (min, _preferred, max) = (wire.u32()?, wire.u32()?, wire.u32()?);
                blocks = (min, max);
            }
            (INFO_EXPORT | INFO_BLOCK_SIZE, _) => return Ok(false),
            (_, length) => drop(wire.text(length - 2)?),
        }
        Ok(true)
    })?;
    if let Some(reason) = error {
        return Err(refused(wire, name, reason));
    }
    let Some((size, flags)) = export.filter(|(_, flags)| flags & HAS_FLAGS != 0) else {
        return Err(wire.protocol("it does not report the export's size"));
    };
    let (min_block, max_block) = blocks;
    if !min_block.is_power_of_two() || min_block > 1 << 16 || max_block < min_block {
        return Err(wire.protocol("its block sizes make no sense"));
    }
    Ok(Export {
        size,
        multi_conn: flags & CAN_MULTI_CONN != 0,
        can_df: flags & SEND_DF != 0,
        allocation,
        min_block,
        max_block,
    })
}

/// Sends an option and reads its replies up to the last. `visit` reads the payload of each that is neither an error nor the
/// acknowledgement, and answers whether it was in order. The result is what the server says when it does not agree.
fn option(
    wire: &mut Wire,
    option: u32,
    data: &[u8],
    mut visit: impl FnMut(&mut Wire, u32, usize) -> Result<bool, Error>,
) -> Result<Option<String>, Error> {
    let length = data.len() as u32; // Two names and a few bytes at most.
    wire.write(&[&OPTION_MAGIC[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat())?;
    for _ in 0..MAX_REPLIES {
        let (magic, about, kind, length) = (wire.u64()?, wire.u32()?, wire.u32()?, wire.u32()? as usize);
        if magic != REPLY_MAGIC || about != option || length > MAX_STRING + 64 {
            return Err(wire.protocol("its reply to an option is malformed"));
        }
        match kind {
            REP_ACK if length == 0 => return Ok(None),
            kind if kind & REP_ERROR != 0 => {
                let text = wire.text(length)?;
                let reason = if text.is_empty() { format!("error {}", kind & !REP_ERROR) } else { text };
                return Ok(Some(reason));
            }
            kind => {
                if !visit(wire, kind, length)? {
                    return Err(wire.protocol("its reply to an option does not match the request"));
                }
            }
        }
    }
    Err(wire.protocol("its replies to an option do not end"))
}

fn refused(wire: &Wire, export: &str, reason: String) -> Error {
    Error::Export { socket: wire.socket().to_owned(), export: export.to_owned(), reason }
}

/// A string with its length, at most `MAX_STRING` bytes.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}
