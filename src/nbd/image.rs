//! Converts a backing chain to options of QEMU's block layer. Must not open the images.
//!
//! Every driver and file is explicit, so that QEMU probes nothing. Otherwise a guest could write a qcow2 header into its raw
//! disk and make QEMU read any file of the host (see QEMU's `docs/system/images.rst` on probing).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Error, Options};
use crate::model::{Format, Image, Source};

/// Bytes that QEMU reads at once from the L2 tables of a qcow2 image: a whole table for the default cluster size. With QEMU's
/// default of 4 KiB, mapping a large thin disk takes about four times as long.
const WHOLE_TABLES: &str = "65536";

/// The argument of `--image-opts` for a chain, nearest image first. With `whole_tables`, QEMU rejects images with smaller
/// clusters.
pub fn options(chain: &[Image], how: Options<'_>, whole_tables: bool) -> Result<OsString, Error> {
    let mut list = Vec::new();
    let mut node = String::new();
    for image in chain {
        let (driver, path) = match &image.source {
            Source::File(path) => ("file", path),
            Source::Block(path) => ("host_device", path),
            Source::Network(name) => return Err(Error::Image { image: name.clone() }),
            Source::Unsupported(kind) => return Err(Error::Image { image: format!("a disk of type '{kind}'") }),
            Source::Empty => return Err(Error::Image { image: "a drive without a medium".to_owned() }),
        };
        push(&mut list, &format!("{node}driver"), image.format.driver().as_ref());
        if whole_tables && image.format == Format::Qcow2 {
            push(&mut list, &format!("{node}l2-cache-entry-size"), WHOLE_TABLES.as_ref());
        }
        push(&mut list, &format!("{node}file.driver"), driver.as_ref());
        push(&mut list, &format!("{node}file.filename"), path.as_os_str());
        node.push_str("backing.");
    }
    if list.is_empty() {
        return Err(Error::Image { image: "an empty chain".to_owned() });
    }
    // Without an explicit end, QEMU follows the backing file in the header.
    if how.chain_ends && chain.last().is_some_and(|image| image.format == Format::Qcow2) {
        push(&mut list, node.trim_end_matches('.'), OsStr::new(""));
    }
    if how.force_share {
        // The images below inherit it.
        push(&mut list, "force-share", "on".as_ref());
    }
    Ok(OsString::from_vec(list))
}

/// Adds `key=value`. QEMU requires commas in values to be doubled.
fn push(list: &mut Vec<u8>, key: &str, value: &OsStr) {
    if !list.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(key.as_bytes());
    list.push(b'=');
    for &byte in value.as_bytes() {
        list.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Options<'_> = Options { force_share: true, chain_ends: false, bitmap: None };

    #[test]
    fn every_driver_is_named_and_commas_are_doubled() {
        let chain = [
            Image { source: Source::File("/a, b=c".into()), format: Format::Qcow2 },
            Image { source: Source::Block("/dev/x".into()), format: Format::Raw },
        ];
        assert_eq!(
            options(&chain, SHARED, false).unwrap(),
            "driver=qcow2,file.driver=file,file.filename=/a,, b=c,backing.driver=raw,\
             backing.file.driver=host_device,backing.file.filename=/dev/x,force-share=on"
        );
        assert_eq!(
            options(&chain, Options::default(), true).unwrap(),
            "driver=qcow2,l2-cache-entry-size=65536,file.driver=file,file.filename=/a,, b=c,backing.driver=raw,\
             backing.file.driver=host_device,backing.file.filename=/dev/x"
        );
        let ends = Options { chain_ends: true, ..Options::default() };
        assert!(options(&chain[..1], ends, false).unwrap().into_string().unwrap().ends_with(",backing="));
        assert!(!options(&chain, ends, false).unwrap().into_string().unwrap().contains("backing.backing="));
        let remote = Image { source: Source::Network("rbd:pool/x".into()), format: Format::Raw };
        assert!(matches!(options(&[remote], Options::default(), true), Err(Error::Image { .. })));
        assert!(matches!(options(&[], Options::default(), true), Err(Error::Image { .. })));
    }
}
