//! Owner and permissions of a file, as numbers. Must not access a file, or resolve names.

use serde::{Deserialize, Serialize};

/// Permission bits that a restored file may have: no setuid, setgid or sticky bit, and no write access for everyone.
const SANE: u32 = 0o775;

/// Owner and permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Owner {
    /// A file that only its owner may use.
    pub fn private(uid: u32, gid: u32) -> Owner {
        Owner { uid, gid, mode: 0o600 }
    }

    /// The permissions that a restored file may have; its owner can always read and write it.
    pub fn sane(self) -> Owner {
        Owner { mode: (self.mode & SANE) | 0o600, ..self }
    }

    /// Whether this user, with this as its only group, may enter a directory with these permissions.
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
    fn most_specific_permission_class_decides() {
        let folder = Owner { uid: 0, gid: 5, mode: 0o701 };
        assert_eq!([(0, 0), (1, 5), (1, 1)].map(|(uid, gid)| folder.lets_enter(uid, gid)), [true, false, true]);
    }
}
