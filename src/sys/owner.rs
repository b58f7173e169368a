//! Decides which owners of files and links are trusted. Must not access files.

use rustix::process::geteuid;

/// Whether this user id is root or the user of this process. A link of any other user could lead root to places that its
/// owner cannot access.
pub fn is_trusted(owner: u32) -> bool {
    is_trusted_by(owner, geteuid().as_raw())
}

fn is_trusted_by(owner: u32, user: u32) -> bool {
    owner == 0 || owner == user
}

#[cfg(test)]
mod tests {
    use super::is_trusted_by;

    #[test]
    fn root_and_this_user_are_trusted() {
        let cases = [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, false), (1000, 1001, false)];
        for (owner, user, trusted) in cases {
            assert_eq!(is_trusted_by(owner, user), trusted, "{owner} for {user}");
        }
    }
}
