//! Negotiates an export (fixed newstyle). Must not send requests.

use super::Error;
use super::wire::Wire;

const INIT_MAGIC: [u8; 8] = *b"NBDMAGIC";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags; server and client use the same bits.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
/// Set in every error reply.
const REP_ERROR: u32 = 1 << 31;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
const HAS_FLAGS: u16 = 1 << 0;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;

/// The protocol's limit for names and messages, in bytes.
const MAX_STRING: usize = 4096;
/// Limit for replies to one option, so that a faulty server cannot keep us waiting.
const MAX_REPLIES: usize = 64;
/// What block status describes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Context<'a> {
    /// Data, holes and zeros.
    Allocation,
    /// The blocks in the dirty bitmap with this name: those that the guest wrote or discarded since the bitmap was created.
    Changed(&'a str),
}

impl Context<'_> {
    /// Its name: that of the specification, or of QEMU (`docs/interop/nbd.txt` there).
    fn name(self) -> String {
        match self {
            Context::Allocation => "base:allocation".to_owned(),
            Context::Changed(bitmap) => format!("qemu:dirty-bitmap:{bitmap}"),
        }
    }
}

/// A negotiated export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// In bytes.
    pub size: u64,
    /// Several connections may be used.
    pub multi_conn: bool,
    /// A read may request an unfragmented reply.
    pub can_df: bool,
    /// The id of the requested context, if the server supports it.
    pub context: Option<u32>,
    /// Unit of offsets and lengths in bytes; a power of two.
    pub min_block: u32,
    /// Limit of one read in bytes.
    pub max_block: u32,
}

pub(super) fn negotiate(wire: &mut Wire, name: &str, context: Context<'_>) -> Result<Export, Error> {
    if name.len() > MAX_STRING {
        return Err(refused(wire, name, "the name is too long".to_owned()));
    }
    greet(wire)?;
    let structured = option(wire, OPT_STRUCTURED_REPLY, &[], |_, _, _| Ok(false))?.is_none();
    let context = if structured { select(wire, name, &context.name())? } else { None };
    go(wire, name, context)
}

fn greet(wire: &mut Wire) -> Result<(), Error> {
    if wire.array()? != INIT_MAGIC || wire.array()? != OPTION_MAGIC {
        return Err(wire.protocol("it did not send a newstyle greeting"));
    }
    let flags = wire.u16()?;
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(wire.protocol("it is not a fixed newstyle server"));
    }
    let mine = flags & (FIXED_NEWSTYLE | NO_ZEROES);
    wire.write(&u32::from(mine).to_be_bytes())
}

/// The id of a context; `None` if the server does not support it.
fn select(wire: &mut Wire, name: &str, context: &str) -> Result<Option<u32>, Error> {
    let query = [&string(name)[..], &1u32.to_be_bytes(), &string(context)].concat();
    let mut id = None;
    let error = option(wire, OPT_SET_META_CONTEXT, &query, |wire, kind, length| {
        if kind != REP_META_CONTEXT || length != 4 + context.len() || id.is_some() {
            return Ok(false);
        }
        id = Some(wire.u32()?);
        Ok(wire.text(length - 4)? == context)
    })?;
    Ok(if error.is_none() { id } else { None })
}

fn go(wire: &mut Wire, name: &str, context: Option<u32>) -> Result<Export, Error> {
    let query = [&string(name)[..], &1u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat();
    let mut export = None;
    // The protocol's defaults for a server that does not report block sizes.
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
        return Err(wire.protocol("its block sizes are invalid"));
    }
    Ok(Export {
        size,
        multi_conn: flags & CAN_MULTI_CONN != 0,
        can_df: flags & SEND_DF != 0,
        context,
        min_block,
        max_block,
    })
}

/// Sends an option and reads all its replies. `visit` reads the payload of each reply except errors and the final
/// acknowledgement, and returns whether it was valid. Returns the reason if the server rejects the option.
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
    Err(wire.protocol("it sent too many replies to an option"))
}

fn refused(wire: &Wire, export: &str, reason: String) -> Error {
    Error::Export { socket: wire.socket().to_owned(), export: export.to_owned(), reason }
}

/// A string with its length before it. The caller has checked the length.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}
