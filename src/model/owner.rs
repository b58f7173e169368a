//! Owns: whose a file is and who may use it, as numbers. Must not: look at a file, or resolve names.

use serde::{Deserialize, Serialize};

/// Bits of a mode that a restored file may have: no setuid, setgid or sticky bit, and no write access for everyone.
const SANE: u32 = 0o775;

/// Whose a file is and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Owner {
    /// A file that only its owner may use.
    pub fn private(uid: u32, gid: u32) -> Owner {
        Owner { uid, gid, mode: 0o600 }
    }

    /// The same with the permission bits that a restored file may have; its owner can always use it.
    pub fn sane(self) -> Owner {
        Owner { mode: (self.mode & SANE) | 0o600, ..self }
    }

    /// Whether this user, with this as its only group, may enter a folder that is so.
    pub fn lets_enter(self, uid: u32, gid: u32) -> bool {
        let bit = if self.uid == uid {
            0o100
        } else if self.gid == gid {
            0o010
        } else {
            0o001
        };
        self.mode & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_bits_are_dropped() {
        let of = |mode| Owner { uid: 1, gid: 2, mode }.sane().mode;
        assert_eq!([of(0o7777), of(0o644), of(0), of(0o100_660)], [0o775, 0o644, 0o600, 0o660]);
    }

    #[test]
    fn the_nearest_class_of_bits_decides() {
        let folder = Owner { uid: 0, gid: 5, mode: 0o701 };
        assert_eq!([(0, 0), (1, 5), (1, 1)].map(|(uid, gid)| folder.lets_enter(uid, gid)), [true, false, true]);
    }
}
