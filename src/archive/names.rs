//! Checks member names. Must not access files.

use super::Error;

/// Limit of a name in bytes.
pub(super) const MAX: usize = 4096;

/// Refuses names that could leave the directory of extraction or that some system cannot represent.
pub(super) fn check(name: &str) -> Result<(), Error> {
    let refused = |what| Err(Error::Name { name: name.chars().take(200).collect(), what });
    if name.len() > MAX {
        return refused("it is longer than 4096 bytes");
    }
    if name.contains('\0') {
        return refused("it contains a zero byte");
    }
    // An empty component also means a `/` at the start (absolute) or at the end (a directory).
    for component in name.split('/') {
        match component {
            "" => return refused("it is absolute, or a component is empty"),
            "." | ".." => return refused("a component is . or .."),
            // No common file system allows a longer component.
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
    fn names_that_leave_the_directory_are_refused() {
        let long = "x".repeat(256);
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "a/./b", "a\0b", &long] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["manifest.json", "disks/vda.qcow2", "nvram/Prüfung 1_VARS.fd", "..a/b..", "a\\b\nc"] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn name_length_limits_are_exact() {
        assert!(check(&"x".repeat(255)).is_ok());
        let longest = ["x".repeat(240).as_str(); 17].join("/");
        assert_eq!(longest.len(), super::MAX);
        assert!(check(&longest).is_ok());
        assert!(check(&format!("{longest}x")).is_err());
    }
}
