//! Makes file names from names in archives, and makes them harmless. Pure. Must not access the host.

use std::path::Path;

use crate::model::{Format, Source, is_plain};
use crate::store::SavedDisk;

/// The file name of a disk: its former one, if it had one.
pub fn file_name(disk: &SavedDisk) -> String {
    let ending = ending(&disk.format);
    let old = match &disk.source {
        Source::File(path) => path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name)),
        _ => None,
    };
    match (old, &disk.format) {
        (Some(name), Format::Raw | Format::Qcow2) => name.to_owned(),
        // The contents are stored as qcow2 regardless of the old extension; an image stored as is keeps its name.
        (Some(name), Format::Other(_)) if disk.virtual_bytes.is_none() => name.to_owned(),
        (Some(name), Format::Other(_)) => {
            let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
            format!("{stem}.{ending}")
        }
        (None, _) => format!("{}.{ending}", disk.target),
    }
}

/// The file name of a disk in a copy of the domain.
pub fn fresh_name(domain: &str, disk: &SavedDisk) -> String {
    let old = disk.source.path().and_then(Path::extension).and_then(|old| old.to_str());
    let old = old.filter(|old| old.len() <= 8 && old.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let ending = match (&disk.format, old) {
        (Format::Raw, Some(old)) => old,
        (Format::Other(_), Some(old)) if disk.virtual_bytes.is_none() => old,
        (format, _) => ending(format),
    };
    format!("{domain}-{}.{ending}", disk.target)
}

fn ending(format: &Format) -> &'static str {
    if *format == Format::Raw { "raw" } else { "qcow2" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(source: &str, format: Format) -> SavedDisk {
        SavedDisk {
            target: "vda".to_owned(),
            member: String::new(),
            source: Source::File(source.into()),
            format,
            virtual_bytes: Some(1),
            owner: None,
            encrypted: false,
        }
    }

    #[test]
    fn restored_files_keep_their_names_and_copies_get_new_ones() {
        let cases = [
            ("/srv/web 1.img", Format::Raw, "web 1.img", "new-vda.img"),
            ("/srv/web", Format::Raw, "web", "new-vda.raw"),
            ("/srv/web.img", Format::Qcow2, "web.img", "new-vda.qcow2"),
            ("/srv/web.vmdk", Format::Other("vmdk".to_owned()), "web.qcow2", "new-vda.qcow2"),
            ("/srv/..", Format::Raw, "vda.raw", "new-vda.raw"),
            ("/srv/.web", Format::Qcow2, "vda.qcow2", "new-vda.qcow2"),
            ("/srv/x.a b", Format::Raw, "x.a b", "new-vda.raw"),
        ];
        for (source, format, kept, fresh) in cases {
            let disk = disk(source, format);
            assert_eq!((file_name(&disk).as_str(), fresh_name("new", &disk).as_str()), (kept, fresh), "{source}");
        }
        let mut block = disk("/dev/vg/x.y", Format::Raw);
        block.source = Source::Block("/dev/vg/x".into());
        assert_eq!(file_name(&block), "vda.raw");
    }
}
