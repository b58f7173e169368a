//! Malicious damaged archives: salvage ends in reasonable time, and they do not choose the names of its files.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::host::{self, Host, run};

/// Salvages the newest restore point of `web`; returns the exit code, and the report.
fn salvage(host: &Host) -> (i32, Option<Value>) {
    let to = host.path("to");
    let mut command = host.command("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_kvmbackup"), "restore", "web", "--salvage", "--to"]).arg(&to);
    let ran = host.finish(command.arg("--config").arg(host.path("config.yml")).args(["--host", host::NAME]));
    let report = fs::read(to.join("salvage.json")).ok();
    (ran.code, report.map(|report| serde_json::from_slice(&report).unwrap()))
}

#[test]
fn eight_megabytes_of_frame_headers_are_salvaged_in_time() {
    let host = Host::new(&["web"]);
    let folder = host.path("backups/web");
    fs::create_dir_all(&folder).unwrap();
    // RFC 8878: the header of a frame of 16 MiB, and a block that contains the next header. From each header on, all
    // blocks to the end are valid.
    let nested = [0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0, 0, 0, 1, 9 << 3, 0, 0];
    // Headers whose first block is longer than a block can be.
    let broken = [0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0, 0, 0x40, 0, 1];
    for unit in [&nested[..], &broken] {
        fs::write(folder.join("web-20261101T000000Z.tar.zst"), unit.repeat((8 << 20) / unit.len())).unwrap();
        let (code, report) = salvage(&host);
        assert!(code == 6 && report.is_none(), "{code}: {report:?}");
    }
}

#[test]
fn no_member_takes_the_name_of_the_report_or_a_misleading_one() {
    let host = Host::new(&["web"]);
    host.configure("compression: {method: none}", "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(0);
    let archive = host.archives("web").pop().unwrap();
    let parts = host.path("parts");
    host::unpack(&archive, &parts);
    let names = ["salvage.json", "Salvage.JSON", "a\u{1b}[2Jb", "a\u{202e}b", "vda.qcow2", ".profile"];
    for name in names {
        fs::write(parts.join(name), name).unwrap();
    }
    host::pack(&parts, &archive, "");

    let (code, report) = salvage(&host);
    let report = report.unwrap_or_else(|| panic!("exit code {code}, no report"));
    let found = run("find", &[host.path("to").to_str().unwrap(), "-type", "f", "-printf", "%P\\0"]);
    let files: Vec<&str> = found.split_terminator('\0').collect();
    for file in &files {
        let is_plain =
            file.split('/').all(|part| !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(is_plain, "{file:?}");
    }
    // Every file exists under the name that the report lists.
    for name in names {
        let part = report["files"].as_array().unwrap().iter().find(|part| part["member"] == name).unwrap();
        let file = PathBuf::from(part["files"][0].as_str().unwrap());
        assert_eq!(fs::read_to_string(host.path("to").join(&file)).unwrap(), name, "{file:?}");
    }
    assert!(files.contains(&"vda.qcow2") && files.contains(&"salvage.json"));
}
