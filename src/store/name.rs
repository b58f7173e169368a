//! Encodes a domain name as a file name and decodes it. Must not access the disk.
//!
//! Bytes other than `A-Z a-z 0-9 . _ -`, and a leading `.` or `-`, are percent-encoded: every name is one safe
//! component and can be recovered from its file. A name that would be too long keeps its start and ends in `%-` and
//! 32 digits of its SHA-256; `%-` is no percent-encoding, so the two kinds cannot be confused. The directory of such
//! a domain contains its name in a file.
//!
//! If a file system treats two names as one (case, a trailing dot) or reserves a name, the directory uses the other
//! encoding, which escapes every byte and is unambiguous on every file system.

use crate::model::Hasher;
use crate::model::{Codec, PointId};

/// Limit of an encoded name in bytes; with date, extension and the marks of a partial file it fits in the 255 of a
/// file name.
const MAX: usize = 200;

/// Hexadecimal digits of the digest in a shortened name.
const DIGITS: usize = 32;

/// File with the full name, in the directory of a domain with a shortened name.
pub(super) const NAME_FILE: &str = ".domain";

/// Extension of the mark of a protected archive.
const PROTECTED: &str = "protected";

/// One codec per file extension.
const CODECS: [Codec; 3] = [Codec::Zstd(0), Codec::Gzip(0), Codec::None];

/// Encodes a domain name as a path component.
pub(super) fn encode(domain: &str) -> String {
    let mut encoded = String::with_capacity(domain.len());
    for (at, byte) in domain.bytes().enumerate() {
        match byte {
            b'.' | b'-' if at == 0 => encoded += &format!("%{byte:02X}"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => encoded.push(char::from(byte)),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    shortened(encoded, domain)
}

/// The other encoding: it has no dot, and no letters except in escapes.
pub(super) fn encode_all(domain: &str) -> String {
    shortened(domain.bytes().map(|byte| format!("%{byte:02X}")).collect(), domain)
}

fn shortened(mut encoded: String, domain: &str) -> String {
    if encoded.len() > MAX {
        let mut hasher = Hasher::new();
        hasher.update(domain.as_bytes());
        let digest = hasher.finish().to_string();
        let mut start = MAX - 2 - DIGITS;
        // Do not cut an escape, which begins at most two bytes before.
        start -= encoded[start - 2..start].find('%').map_or(0, |at| 2 - at);
        encoded.truncate(start);
        encoded += "%-";
        encoded += &digest[..DIGITS];
    }
    encoded
}

/// Whether every file system keeps this component as is. Windows and SMB drop trailing dots and reserve device names
/// with any extension.
pub(super) fn is_portable(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let is_numbered = |device: &str| {
        let number = stem.strip_prefix(device);
        number.is_some_and(|number| number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let is_device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || is_numbered("COM") || is_numbered("LPT");
    !component.ends_with('.') && !is_device
}

/// Whether a file system may treat two components as the same.
pub(super) fn may_be_one(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

/// The component with its case inverted; `None` if it has no letters.
pub(super) fn other_case(component: &str) -> Option<String> {
    let other =
        component.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
    Some(other.collect()).filter(|other| other != component)
}

/// The encoded domain at the start of an archive's file name.
pub(super) fn component_of(file: &str) -> Option<&str> {
    let (start, _) = file.split_once(".tar")?;
    let (component, stamp) = start.rsplit_once('-')?;
    stamp.parse::<PointId>().is_ok().then_some(component)
}

/// Whether the name is shortened, so that it cannot be decoded.
pub(super) fn is_shortened(component: &str) -> bool {
    component.contains("%-")
}

/// Whether the component is an encoding of the domain.
pub(super) fn stands_for(component: &str, domain: &str) -> bool {
    component == encode(domain) || component == encode_all(domain)
}

/// Decodes a component; `None` for a shortened one and for one that neither encoding produces.
pub(super) fn decode(component: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            plain => plain,
        });
    }
    let domain = String::from_utf8(bytes).ok()?;
    (!domain.is_empty() && stands_for(component, &domain)).then_some(domain)
}

pub(super) fn archive(component: &str, id: PointId, codec: Codec) -> String {
    format!("{component}-{id}.{}", codec.extension())
}

/// The file name of an archive that is being written: one per point, regardless of the codec.
pub(super) fn partial(component: &str, id: PointId) -> String {
    format!(".{component}-{id}.part")
}

/// The file name of the mark of a protected archive.
pub(super) fn protection(component: &str, id: PointId) -> String {
    format!("{component}-{id}.{PROTECTED}")
}

/// A file in a domain's directory, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A finished archive of kvmbackup.
    Archive(PointId),
    /// An unfinished archive of kvmbackup.
    Partial(PointId),
    /// The mark of a protected archive.
    Protection(PointId),
    /// An archive of the legacy script; 0 is the newest.
    Script(u32),
}

impl Known {
    /// The ID that this file occupies.
    pub(super) fn id(self) -> Option<PointId> {
        match self {
            Known::Archive(id) | Known::Partial(id) => Some(id),
            Known::Protection(_) | Known::Script(_) => None,
        }
    }
}

/// Parses the name of a file in the directory of `domain`; `None` for foreign files.
pub(super) fn parse(domain: &str, file: &str) -> Option<Known> {
    let component = encode(domain);
    let id = |text: &str| {
        let id: PointId = text.parse().ok()?;
        // Only the canonical form, because `parse` accepts others.
        (id.to_string() == text).then_some(id)
    };
    if let Some(rest) = file.strip_prefix('.').and_then(|file| file.strip_prefix(&component)) {
        return id(rest.strip_prefix('-')?.strip_suffix(".part")?).map(Known::Partial);
    }
    if let Some((stamp, ending)) =
        file.strip_prefix(&component).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split_once('.'))
        && let Some(id) = id(stamp)
    {
        if CODECS.iter().any(|codec| codec.extension() == ending) {
            return Some(Known::Archive(id));
        }
        if ending == PROTECTED {
            return Some(Known::Protection(id));
        }
    }
    match file.strip_prefix(domain)?.strip_prefix(".tar.gz")? {
        "" => Some(Known::Script(0)),
        rotated => {
            let number = rotated.strip_prefix('.')?;
            number
                .parse()
                .ok()
                .filter(|&rotation: &u32| rotation > 0 && rotation.to_string() == number)
                .map(Known::Script)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn names_round_trip(domain in "\\PC{1,60}|[a-z./%-]{1,9}|[ -~]{1,300}") {
            let component = encode(&domain);
            prop_assert!(component.len() <= MAX && !component.contains('/') && !component.starts_with('.'));
            match is_shortened(&component) {
                true => prop_assert_eq!(decode(&component), None),
                false => prop_assert_eq!(decode(&component), Some(domain.clone())),
            }
            let id: PointId = "20261122T020000Z".parse().unwrap();
            let all = encode_all(&domain);
            prop_assert!(all.len() <= MAX && is_portable(&all) && (all == component || !may_be_one(&all, &component)));
            prop_assert_eq!(decode(&all), (!is_shortened(&all)).then_some(domain.clone()));
            prop_assert_eq!(parse(&domain, &archive(&component, id, Codec::None)), Some(Known::Archive(id)));
            let file = archive(&component, id, Codec::None);
            prop_assert_eq!(component_of(&file), Some(component.as_str()));
            prop_assert_eq!(parse(&domain, &partial(&component, id)), Some(Known::Partial(id)));
        }
    }

    #[test]
    fn example_names_are_encoded_as_specified() {
        for (domain, component) in [
            ("web-1", "web-1"),
            ("my vm", "my%20vm"),
            ("..", "%2E."),
            ("-x", "%2Dx"),
            ("a/b%", "a%2Fb%25"),
            ("ü", "%C3%BC"),
        ] {
            assert_eq!(encode(domain), component);
        }
        for foreign in ["my vm", "%c3%bc", "a%", "a%4", "%41b", "", "lost+found", ".x", "%FF"] {
            assert_eq!(decode(foreign), None, "{foreign:?}");
        }
        for reserved in ["web.", "CON", "con.1", "Lpt1", "com9.x"] {
            assert!(!is_portable(&encode(reserved)) && is_portable(&encode_all(reserved)), "{reserved}");
        }
        assert!(is_portable("console") && is_portable("com10") && is_portable("web.1"));
        assert_eq!((encode_all("Web."), decode("%57%65%62%2E")), ("%57%65%62%2E".to_owned(), Some("Web.".to_owned())));
        let (a, b) = ("x".repeat(300), "x".repeat(301));
        assert!(encode(&a) != encode(&b) && is_shortened(&encode(&a)));
        let longest = "x".repeat(MAX);
        assert_eq!(encode(&longest), longest);
        assert!(is_shortened(&encode(&format!("{longest}x"))));
        assert_eq!(encode(&"ä".repeat(100)).len(), 2 + DIGITS + (MAX - 2 - DIGITS) / 3 * 3);
    }

    #[test]
    fn file_names_are_classified() {
        let id: PointId = "20261122T020000Z".parse().unwrap();
        for (file, known) in [
            ("my%20vm-20261122T020000Z.tar.zst", Some(Known::Archive(id))),
            ("my%20vm-20261122T020000Z.tar.gz", Some(Known::Archive(id))),
            (".my%20vm-20261122T020000Z.part", Some(Known::Partial(id))),
            ("my vm.tar.gz", Some(Known::Script(0))),
            ("my vm.tar.gz.12", Some(Known::Script(12))),
            ("my vm.tar.gz.0", None),
            ("my vm.tar.gz.1x", None),
            ("my vm-20261122T020000Z.tar.zst", None),
            ("my%20vm-20261122T020000Z.tar.zst.sha256", None),
            ("my%20vm-2026.tar.zst", None),
            ("other-20261122T020000Z.tar", None),
        ] {
            assert_eq!(parse("my vm", file), known, "{file}");
        }
    }
}
