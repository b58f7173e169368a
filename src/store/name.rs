//! Owns: how a domain's name becomes a file name and back. Must not: touch the disk.
//!
//! Bytes other than `A-Z a-z 0-9 . _ -`, and a leading `.` or `-`, are percent-encoded: every name is one safe component
//! and can be told from its file. A name too long for that keeps its start and ends in `%-` and 32 digits of its SHA-256;
//! `%-` is no percent-encoding, so the two kinds cannot be mixed up. The folder of such a domain holds its name in a file.
//!
//! Where a file system takes two names for one (case, a dot at the end) or reserves a name, the folder has the other
//! encoding, which escapes every byte and which no file system mistakes for anything else.

use crate::model::Hasher;
use crate::model::{Codec, PointId};

/// Bytes of an encoded name, at most; with date, ending and the marks of a partial file it fits in the 255 of a file name.
const MAX: usize = 200;

/// Hexadecimal digits of the digest in a shortened name.
const DIGITS: usize = 32;

/// The file in the folder of a domain with a shortened name that holds the name itself.
pub(super) const NAME_FILE: &str = ".domain";

/// All endings of archives.
const CODECS: [Codec; 3] = [Codec::Zstd(0), Codec::Gzip(0), Codec::None];

/// The component that stands for a domain.
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

/// The other component that stands for a domain: it has no letter, but in the escapes, and no dot.
pub(super) fn encode_all(domain: &str) -> String {
    shortened(domain.bytes().map(|byte| format!("%{byte:02X}")).collect(), domain)
}

fn shortened(mut encoded: String, domain: &str) -> String {
    if encoded.len() > MAX {
        let mut hasher = Hasher::new();
        hasher.update(domain.as_bytes());
        let digest = hasher.finish().to_string();
        let mut start = MAX - 2 - DIGITS;
        // Not within an escape: it begins at most two bytes before the cut.
        start -= encoded[start - 2..start].find('%').map_or(0, |at| 2 - at);
        encoded.truncate(start);
        encoded += "%-";
        encoded += &digest[..DIGITS];
    }
    encoded
}

/// Whether every file system takes a component as it is. Windows and its shares drop dots at the end, and reserve the names
/// of devices, whatever the ending.
pub(super) fn is_portable(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let is_numbered = |device: &str| {
        let number = stem.strip_prefix(device);
        number.is_some_and(|number| number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let is_device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || is_numbered("COM") || is_numbered("LPT");
    !component.ends_with('.') && !is_device
}

/// Whether a file system may take two different components for one.
pub(super) fn may_be_one(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

/// The same component in the other case; `None` if it has no letters.
pub(super) fn other_case(component: &str) -> Option<String> {
    let other =
        component.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
    Some(other.collect()).filter(|other| other != component)
}

/// The component at the start of an archive's file name.
pub(super) fn component_of(file: &str) -> Option<&str> {
    let (start, _) = file.split_once(".tar")?;
    let (component, stamp) = start.rsplit_once('-')?;
    stamp.parse::<PointId>().is_ok().then_some(component)
}

/// Whether a component is a shortened name, which does not tell the domain.
pub(super) fn is_shortened(component: &str) -> bool {
    component.contains("%-")
}

/// Whether a component stands for a domain.
pub(super) fn stands_for(component: &str, domain: &str) -> bool {
    component == encode(domain) || component == encode_all(domain)
}

/// The domain a component stands for; `None` for a shortened one and for what neither encoding would make.
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

/// The file name of an archive.
pub(super) fn archive(component: &str, id: PointId, codec: Codec) -> String {
    format!("{component}-{id}.{}", codec.extension())
}

/// The file name of an archive that is being written: one for each point, whatever the codec.
pub(super) fn partial(component: &str, id: PointId) -> String {
    format!(".{component}-{id}.part")
}

/// What the name of a file in a domain's folder says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// An archive of ours.
    Archive(PointId),
    /// One that was not finished.
    Partial(PointId),
    /// One of the seed script; 0 is the newest.
    Seed(u32),
}

impl Known {
    /// The point that takes this name from others.
    pub(super) fn id(self) -> Option<PointId> {
        match self {
            Known::Archive(id) | Known::Partial(id) => Some(id),
            Known::Seed(_) => None,
        }
    }
}

/// Reads the name of a file in the folder of `domain`; `None` for foreign files.
pub(super) fn parse(domain: &str, file: &str) -> Option<Known> {
    let component = encode(domain);
    let id = |text: &str| {
        let id: PointId = text.parse().ok()?;
        // Only the one way to write it: `parse` takes others too.
        (id.to_string() == text).then_some(id)
    };
    if let Some(rest) = file.strip_prefix('.').and_then(|file| file.strip_prefix(&component)) {
        return id(rest.strip_prefix('-')?.strip_suffix(".part")?).map(Known::Partial);
    }
    if let Some((stamp, ending)) =
        file.strip_prefix(&component).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split_once('.'))
        && CODECS.iter().any(|codec| codec.extension() == ending)
        && let Some(id) = id(stamp)
    {
        return Some(Known::Archive(id));
    }
    match file.strip_prefix(domain)?.strip_prefix(".tar.gz")? {
        "" => Some(Known::Seed(0)),
        rotated => {
            let number = rotated.strip_prefix('.')?;
            number
                .parse()
                .ok()
                .filter(|&rotation: &u32| rotation > 0 && rotation.to_string() == number)
                .map(Known::Seed)
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
    fn examples() {
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
    fn files_are_told_apart() {
        let id: PointId = "20261122T020000Z".parse().unwrap();
        for (file, known) in [
            ("my%20vm-20261122T020000Z.tar.zst", Some(Known::Archive(id))),
            ("my%20vm-20261122T020000Z.tar.gz", Some(Known::Archive(id))),
            (".my%20vm-20261122T020000Z.part", Some(Known::Partial(id))),
            ("my vm.tar.gz", Some(Known::Seed(0))),
            ("my vm.tar.gz.12", Some(Known::Seed(12))),
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
