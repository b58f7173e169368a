//! Archives are written without filling the page cache, which belongs to the guests, if the target's file system
//! supports that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is test code")]

use crate::host;
use crate::steps;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::host::{Host, run};
use kvmbackup::sys::step::Step;
use rustix::fs::OFlags;

const SIZE: u64 = 64 << 20;

/// The flags, as in proc_pid_fdinfo(5), of each open file of a process whose name has this ending.
fn flags(pid: u32, ending: &str) -> Vec<OFlags> {
    let proc = Path::new("/proc").join(pid.to_string());
    let open = fs::read_dir(proc.join("fd")).unwrap().map(Result::unwrap);
    let open = open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.to_str().unwrap().ends_with(ending)));
    let info = open.map(|fd| fs::read_to_string(proc.join("fdinfo").join(fd.file_name())).unwrap());
    let octal = info.map(|info| info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned());
    octal.map(|octal| OFlags::from_bits_retain(u32::from_str_radix(&octal, 8).unwrap())).collect()
}

#[test]
fn archive_is_written_past_the_page_cache() {
    // On disk, because the lab's own files may be in memory.
    let host = Host::in_folder(Path::new(env!("CARGO_TARGET_TMPDIR")), &["a"]);
    let direct = File::options().write(true).create(true).custom_flags(OFlags::DIRECT.bits() as i32).to_owned();
    if let Err(error) = direct.open(host.path("direct")) {
        println!("skipped: the file system of {} takes no O_DIRECT: {error}", host.path("").display());
        return;
    }
    let image = host.image("a");
    let image = image.to_str().unwrap();
    run("qemu-img", &["resize", "-q", "-f", "qcow2", image, &SIZE.to_string()]);
    run("qemu-io", &["-c", &format!("write -P 0x5a 0 {SIZE}"), image]);
    host.configure("", "{a: {day_of_week: daily, compression: none}}");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["backup", "--host", host::NAME, "-c"]).arg(host.path("config.yml"));
    let held = steps::hold(&mut command, Step::ArchiveEnd.into(), &host.path("held"));
    let open = flags(held.pid(), ".part");
    assert!(open.iter().any(|flags| flags.contains(OFlags::DIRECT)), "{open:?}");
    assert!(held.finish().status.success());

    let archive = host.archives("a").remove(0);
    let bytes = fs::metadata(&archive).unwrap().len();
    let cached = run("fincore", &["--bytes", "--noheadings", "--output", "RES", archive.to_str().unwrap()]);
    let cached: u64 = cached.trim().parse().unwrap();
    println!("figure: of an archive of {bytes} bytes, {cached} are in the page cache");
    assert!(bytes > SIZE && cached < bytes / 8, "{cached} of {bytes} bytes are in the cache");
}
