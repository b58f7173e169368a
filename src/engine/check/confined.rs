//! Finds out whether AppArmor or SELinux lets QEMU write to a configured directory. Must not ask the kernel for more
//! than whether they are enabled.

use std::fs;
use std::path::Path;

use super::Severity;
use crate::model::Failure;

/// libvirt's AppArmor helper grants no guest a path with one of these prefixes. These are the directories of its
/// `valid_path`: <https://gitlab.com/libvirt/libvirt/-/blob/v9.0.0/src/security/virt-aa-helper.c>.
const REFUSED: [&str; 17] = [
    "/bin/",
    "/boot/",
    "/etc/",
    "/lib",
    "/lost+found/",
    "/proc/",
    "/sbin/",
    "/selinux/",
    "/sys/",
    "/usr/bin/",
    "/usr/lib",
    "/usr/local/bin/",
    "/usr/local/etc/",
    "/usr/local/lib",
    "/usr/local/sbin/",
    "/usr/sbin/",
    "/usr/share/",
];

/// What confines guests on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confined {
    /// AppArmor is enabled: libvirt gives each guest a profile.
    AppArmor,
    /// SELinux is enforcing: libvirt labels what a guest may open.
    SeLinux,
}

impl Confined {
    /// Reads what is enabled from the kernel's files below `sys`.
    pub(super) fn of_host(sys: &Path) -> Option<Confined> {
        let says = |file: &str, word: &str| fs::read_to_string(sys.join(file)).is_ok_and(|text| text.trim() == word);
        if says("fs/selinux/enforce", "1") {
            Some(Confined::SeLinux)
        } else {
            says("module/apparmor/parameters/enabled", "Y").then_some(Confined::AppArmor)
        }
    }

    /// Why a guest may not write to a configured directory.
    pub(super) fn in_the_way(self, folder: &Path) -> Option<(Severity, Failure)> {
        let shown = folder.display();
        let failure = |message: String, hint: String| Failure { message, hint: Some(hint) };
        match self {
            Confined::AppArmor => REFUSED.iter().any(|refused| format!("{shown}/").starts_with(refused)).then(|| {
                let hint = "Use a directory below /var/lib/libvirt or /srv.";
                (
                    Severity::Problem,
                    failure(format!("{shown}: AppArmor does not let guests write there"), hint.to_owned()),
                )
            }),
            Confined::SeLinux => (!folder.starts_with("/var/lib/libvirt/images")).then(|| {
                let hint = format!(
                    "Label it for images: semanage fcontext -a -t virt_image_t '{shown}(/.*)?' && restorecon -R {shown}"
                );
                (Severity::Warning, failure(format!("{shown}: SELinux is enforcing and may deny QEMU access"), hint))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_security_module_is_read_from_sysfs() {
        let sys = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = sys.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Confined::of_host(sys.path()), None);
        write("module/apparmor/parameters/enabled", "N\n");
        assert_eq!(Confined::of_host(sys.path()), None);
        write("module/apparmor/parameters/enabled", "Y\n");
        assert_eq!(Confined::of_host(sys.path()), Some(Confined::AppArmor));
        write("fs/selinux/enforce", "1");
        assert_eq!(Confined::of_host(sys.path()), Some(Confined::SeLinux));
    }

    #[test]
    fn directories_are_judged_by_the_enabled_security_module() {
        let judged = |confined: Confined, folder: &str| confined.in_the_way(Path::new(folder)).map(|(how, _)| how);
        for refused in ["/usr/lib/x", "/usr/lib64", "/etc", "/usr/local/lib/x", "/boot/overlays"] {
            assert_eq!(judged(Confined::AppArmor, refused), Some(Severity::Problem), "{refused}");
        }
        assert_eq!(judged(Confined::AppArmor, "/srv/library"), None);
        assert_eq!(judged(Confined::SeLinux, "/srv/overlays"), Some(Severity::Warning));
        assert_eq!(judged(Confined::SeLinux, "/var/lib/libvirt/images/o"), None);
    }

    #[test]
    fn refused_prefixes_are_those_of_libvirts_helper() {
        let helper = fs::read("/usr/lib/libvirt/virt-aa-helper").unwrap();
        for refused in REFUSED {
            // A C string. The linker may merge it into the end of a longer one.
            let text = format!("{refused}\0");
            assert!(helper.windows(text.len()).any(|window| window == text.as_bytes()), "{refused}");
        }
    }
}
