//! Owns: what AppArmor or SELinux lets QEMU do with a folder of the operator's choice. Must not: ask the kernel for more than
//! whether it is on.

use std::fs;
use std::path::Path;

use super::Severity;
use crate::model::Failure;

/// What begins like this libvirt's helper for AppArmor grants no guest; the lists in its source, as far as folders are concerned:
/// <https://gitlab.com/libvirt/libvirt/-/blob/v9.0.0/src/security/virt-aa-helper.c>, `valid_path`.
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
    /// AppArmor is on: libvirt gives each guest a profile.
    AppArmor,
    /// SELinux is enforcing: libvirt labels what a guest may open.
    SeLinux,
}

impl Confined {
    /// What is on, by the files of the kernel below `sys`.
    pub(super) fn of_host(sys: &Path) -> Option<Confined> {
        let says = |file: &str, word: &str| fs::read_to_string(sys.join(file)).is_ok_and(|text| text.trim() == word);
        if says("fs/selinux/enforce", "1") {
            Some(Confined::SeLinux)
        } else {
            says("module/apparmor/parameters/enabled", "Y").then_some(Confined::AppArmor)
        }
    }

    /// Why a guest may not write in a folder that the configuration names.
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
    fn the_kernel_says_what_is_on() {
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
    fn folders_are_judged_by_what_is_on() {
        let judged = |confined: Confined, folder: &str| confined.in_the_way(Path::new(folder)).map(|(how, _)| how);
        for refused in ["/usr/lib/x", "/usr/lib64", "/etc", "/usr/local/lib/x", "/boot/overlays"] {
            assert_eq!(judged(Confined::AppArmor, refused), Some(Severity::Problem), "{refused}");
        }
        assert_eq!(judged(Confined::AppArmor, "/srv/library"), None);
        assert_eq!(judged(Confined::SeLinux, "/srv/overlays"), Some(Severity::Warning));
        assert_eq!(judged(Confined::SeLinux, "/var/lib/libvirt/images/o"), None);
    }

    #[test]
    fn the_refused_places_are_those_of_libvirts_own_helper() {
        let helper = fs::read("/usr/lib/libvirt/virt-aa-helper").unwrap();
        for refused in REFUSED {
            // A string of C; the linker lets one be the end of another.
            let text = format!("{refused}\0");
            assert!(helper.windows(text.len()).any(|window| window == text.as_bytes()), "{refused}");
        }
    }
}
