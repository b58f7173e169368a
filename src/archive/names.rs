//! Owns: which names a member may have. Must not: know what is behind a name.

use super::Error;

/// Bytes of a name, at most.
pub(super) const MAX: usize = 4096;

/// Refuses what could leave the folder that an archive is unpacked in, or could not be named on every system.
pub(super) fn check(name: &str) -> Result<(), Error> {
    let refused = |what| Err(Error::Name { name: name.chars().take(200).collect(), what });
    if name.len() > MAX {
        return refused("it is longer than 4096 bytes");
    }
    if name.contains('\0') {
        return refused("it holds a zero byte");
    }
    // No component may be empty: that refuses a `/` at the start (absolute) and at the end (a folder) too.
    for component in name.split('/') {
        match component {
            "" => return refused("it is absolute, or a component is empty"),
            "." | ".." => return refused("a component is . or .."),
            // A longer one cannot be created on any common file system.
            long if long.len() > 255 => return refused("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn refuses_what_could_escape() {
        let long = "x".repeat(256);
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "a/./b", "a\0b", &long] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["manifest.json", "disks/vda.qcow2", "nvram/Prüfung 1_VARS.fd", "..a/b..", "a\\b\nc"] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn names_may_be_as_long_as_every_system_has_them() {
        assert!(check(&"x".repeat(255)).is_ok());
        let longest = ["x".repeat(240).as_str(); 17].join("/");
        assert_eq!(longest.len(), super::MAX);
        assert!(check(&longest).is_ok());
        assert!(check(&format!("{longest}x")).is_err());
    }
}
