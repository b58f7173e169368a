//! The installed systemd units, and their restrictions for a program, applied without systemd.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The units, by name.
pub fn installed() -> BTreeMap<String, String> {
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.map(|path| (name(&path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The values of a key, one per line.
pub fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The prefix that runs a command within a unit's limits, as systemd.exec(5) describes them: capabilities, read-only
/// directories, devices, network, umask. System calls are not among them.
pub fn limits(name: &str) -> Vec<String> {
    let unit = &installed()[name];
    let is = |key: &str| settings(unit, key) == ["true"];
    let mut script = "set -e; seal() { mount --rbind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; }\n".to_owned();
    for folder in match settings(unit, "ProtectSystem")[..] {
        ["true"] => &["/usr", "/boot"][..],
        ["full"] => &["/usr", "/boot", "/etc"],
        ref other => panic!("{name}: ProtectSystem={other:?}"),
    } {
        script += &format!("seal {folder}\n");
    }
    for (key, folders) in [("ProtectKernelTunables", "/proc/sys /sys"), ("ProtectControlGroups", "/sys/fs/cgroup")] {
        assert!(is(key), "{name}: {key}");
        script += &format!("for folder in {folders}; do seal $folder; done\n");
    }
    if is("PrivateDevices") {
        script += "dev=$(mktemp -d); mount -t tmpfs tmpfs $dev\n\
                   for node in null zero full random urandom tty; do touch $dev/$node; mount --bind /dev/$node $dev/$node; done\n\
                   mount --move $dev /dev; rmdir $dev\n";
    }
    script += "for folder in /usr /sys; do ! touch $folder/x 2>/dev/null; done\n";
    let [umask] = settings(unit, "UMask")[..] else { panic!("{name}: UMask") };
    let kept = settings(unit, "CapabilityBoundingSet").join(" ").to_lowercase().replace("cap_", "+");
    assert!(
        kept.split(' ').all(|name| name.starts_with('+')),
        "{name}: the list of kept capabilities is missing: {kept}"
    );
    let privileges = if is("NoNewPrivileges") { "--no-new-privs " } else { "" };
    script += &format!(
        "umask {umask}; exec setpriv {privileges}--bounding-set=-all,{} --inh-caps=-all -- \"$@\"",
        kept.replace(' ', ",")
    );
    let network = if is("PrivateNetwork") { vec!["--net"] } else { vec![] };
    [&["unshare", "--mount"], &network[..], &["sh", "-c", &script, "sh"]]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}
