//! Identifies objects and blobs by the SHA-256 of their bytes. Must not know what an ID identifies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of an object's stored bytes or of a blob's contents, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Id::BYTES]);

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ID of 64 lower-case hexadecimal digits")]
pub struct NotAnId;

impl Id {
    /// Length of an ID in bytes.
    pub const BYTES: usize = 32;

    /// The ID of these bytes.
    pub fn of(bytes: &[u8]) -> Id {
        Id(Sha256::digest(bytes).into())
    }

    /// An ID of zeros, which identifies nothing.
    pub const fn from_zeros() -> Id {
        Id([0; Id::BYTES])
    }

    /// The ID with these bytes.
    pub fn from_bytes(bytes: [u8; Id::BYTES]) -> Id {
        Id(bytes)
    }

    /// The bytes of the ID.
    pub fn as_bytes(&self) -> &[u8; Id::BYTES] {
        &self.0
    }

    /// The 64 digits, without an allocation.
    pub fn hex(&self) -> [u8; 2 * Id::BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 2 * Id::BYTES];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Id, NotAnId> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NotAnId),
        };
        let text = text.as_bytes();
        if text.len() != 2 * Id::BYTES {
            return Err(NotAnId);
        }
        let mut id = [0; Id::BYTES];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Id(id))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an ID of 64 lower-case hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_other_text_is_refused() {
        let id = Id::of(b"hi");
        let text = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
        assert_eq!((id.to_string().as_str(), text.parse()), (text, Ok(id)));
        assert_eq!(id.hex(), text.as_bytes());
        assert_eq!(serde_json::from_str::<Id>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for wrong in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('8', "g")] {
            assert_eq!(wrong.parse::<Id>(), Err(NotAnId));
        }
    }
}
