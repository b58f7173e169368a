//! Every kind of disk is in the archive byte for byte, with either method for a running domain.

use std::path::Path;

use crate::lab::{Call, Disk, Gate, Lab, Program, by_each_method, qemu_img, run, save_exactly, sha256};
use serde_json::json;

by_each_method! {
    qcow2_raw_and_block_devices_of_any_size_are_saved_exactly
    images_with_unusual_features_and_zeroes_are_saved_exactly
    a_raw_disk_that_holds_a_qcow2_header_is_saved_as_it_is
    overlays_and_scratch_files_are_in_the_configured_directory
    backing_chain_is_saved_flat_and_its_bases_are_untouched
    template_shared_by_two_guests_is_untouched
    an_empty_disk_of_1_tib_makes_an_archive_below_1_mib
    unusual_names_of_images_and_domains_work
}

fn qcow2_raw_and_block_devices_of_any_size_are_saved_exactly(method: &str) {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("made")).unwrap();
    // Not a multiple of a sector: the rest of the last one reads as zeros.
    let odd = lab.path("made/odd.raw");
    std::fs::write(&odd, vec![0x99; 1_000_001]).unwrap();
    let guest = lab
        .guest(&format!("kinds-{method}"))
        .disk(Disk::qcow2("vda"))
        .disk(Disk::raw("vdb"))
        .disk(Disk::block("vdc"))
        .disk(Disk::raw("vdd").file(odd))
        .disk(Disk::qcow2("sda").size("65537K"))
        .paused();
    let targets = ["vda", "vdb", "vdc", "vdd", "sda"];
    for (pattern, target) in (1..).zip(targets) {
        guest.write(target, pattern, 65536 - 512, 70_144);
        guest.write(target, pattern ^ 0xff, 999_936, 512);
    }
    guest.write("sda", 0xdd, (65537 << 10) - 512, 512);
    save_exactly(&lab, &guest, json!({"method": method}), &targets);
}

/// Compressed clusters, subclusters, an image larger than its base, preallocated space, written zeroes and discards:
/// each of these differs in what is allocated, and none may expose data of the image below.
fn images_with_unusual_features_and_zeroes_are_saved_exactly(method: &str) {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("made")).unwrap();
    let path = |name: &str| lab.path("made").join(name).to_str().unwrap().to_owned();
    let (full, packed, small) = (path("full.raw"), path("packed.qcow2"), path("small.qcow2"));
    run("sh", &["-c", "yes 'a line of text' | head -c 16M >\"$1\"", "sh", &full]);
    qemu_img(&["convert", "-q", "-c", "-f", "raw", "-O", "qcow2", &full, &packed]);
    qemu_img(&["convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", &full, &small]);
    let above = |name: &str, options: &str| {
        let image = path(name);
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", &full, "-F", "raw", "-o", options, &image, "24M"]);
        image
    };
    let guest = lab
        .guest(&format!("features-{method}"))
        .disk(Disk::qcow2("vda").file(&packed))
        .disk(Disk::qcow2("vdb").file(&small))
        .disk(Disk::qcow2("vdc").file(above("sub.qcow2", "extended_l2=on,cluster_size=128k")))
        .disk(Disk::qcow2("vdd").file(above("over.qcow2", "preallocation=off")))
        .disk(Disk::raw("vde").file(path("vde.raw")))
        .paused();
    let targets = ["vda", "vdb", "vdc", "vdd", "vde"];
    for target in targets {
        guest.write(target, 0x77, 1 << 20, 4096);
        guest.qemu_io(target, &["write -z 2M 1M", "write -z -u 4M 1M", "discard 6M 1M", "write -P 0 8M 100k", "flush"]);
        for megabyte in [2, 4, 8] {
            guest.assert_holds(target, 0, megabyte << 20, 100 << 10);
        }
    }
    guest.assert_holds("vdd", 0, 16 << 20, 8 << 20);
    save_exactly(&lab, &guest, json!({"method": method}), &targets);
}

/// A guest can write a qcow2 header that names any file of the host into its raw disk. It must not be interpreted.
fn a_raw_disk_that_holds_a_qcow2_header_is_saved_as_it_is(method: &str) {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("made")).unwrap();
    let [secret, image] = ["made/secret.raw", "made/image.raw"].map(|name| lab.path(name).to_str().unwrap().to_owned());
    std::fs::write(&secret, vec![0x5e; 1 << 20]).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &secret, "-F", "raw", &image]);
    run("truncate", &["--size", "%512", &image]);
    let header = std::fs::read(&image).unwrap();
    let guest = lab.guest(&format!("header-{method}")).disk(Disk::raw("vda").file(&image)).paused();
    for state in ["paused", "shut off"] {
        let saved = save_exactly(&lab, &guest, json!({"method": method}), &["vda"]);
        assert_eq!(saved.archive.manifest()["disks"][0]["virtual_bytes"], header.len());
        if state == "paused" {
            guest.destroy();
        }
    }
    assert!(std::fs::read(&image).unwrap() == header);
}

/// Both images have the same file name, too.
fn overlays_and_scratch_files_are_in_the_configured_directory(method: &str) {
    let lab = Lab::new();
    let folder = lab.path("the overlays, all");
    std::fs::create_dir(&folder).unwrap();
    let guest = lab
        .guest(&format!("elsewhere-{method}"))
        .disk(Disk::qcow2("vda").file("one/same.qcow2"))
        .disk(Disk::raw("vdb").file("two/same.qcow2"))
        .paused();
    let keys = json!({"method": method, "overlay_dir": folder, "scratch_dir": folder});
    save_exactly(&lab, &guest, keys.clone(), &["vda", "vdb"]);
    let files = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files(), 0, "something was left in the directory");

    let gate = Gate::new(&lab);
    gate.hold(if method == "pull" { Call::EndPull } else { Call::Commit });
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), keys);
    let mut run = program.command().args(["backup", "--quiet", "--force"]).spawn().unwrap();
    gate.wait(&mut run);
    assert_eq!(files(), 2, "the directory was not used");
    gate.open();
    assert!(run.wait().unwrap().success());
    program.assert_no_leftovers(&guest);
    assert_eq!(files(), 0, "something was left in the directory");
}

fn backing_chain_is_saved_flat_and_its_bases_are_untouched(method: &str) {
    let lab = Lab::new();
    let (raw, middle) = (lab.path("base.raw"), lab.path("the middle, one.qcow2"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    qemu_img(&["create", "-q", "-f", "raw", &text(&raw), "32M"]);
    qemu_io_file(&raw, "raw", "write -P 0x01 0 8M");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &text(&raw), "-F", "raw", &text(&middle)]);
    qemu_io_file(&middle, "qcow2", "write -P 0x02 4M 8M");
    let bases = [sha256(&raw), sha256(&middle)];

    let guest = lab.guest(&format!("chain-{method}")).disk(Disk::qcow2("vda").backing(&middle)).paused();
    guest.write("vda", 0x03, 10 << 20, 8 << 20);
    let saved = save_exactly(&lab, &guest, json!({"method": method}), &["vda"]);
    assert_eq!([sha256(&raw), sha256(&middle)], bases, "a base was written to");
    let info = qemu_img(&["info", "-f", "qcow2", &text(&saved.archive.disk("vda"))]);
    assert!(!info.contains("backing"), "{info}");
    let backing = &saved.archive.manifest()["disks"][0]["backing"];
    assert_eq!(backing[0]["source"]["at"], text(&middle), "{backing:#}");
    assert_eq!(backing[1]["source"]["at"], text(&raw), "{backing:#}");
}

fn template_shared_by_two_guests_is_untouched(method: &str) {
    let lab = Lab::new();
    let template = lab.path("template.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", template.to_str().unwrap(), "32M"]);
    qemu_io_file(&template, "qcow2", "write -P 0x7e 0 16M");
    let before = sha256(&template);
    let guests = ["one", "two"].map(|name| {
        lab.guest(&format!("template-{name}-{method}")).disk(Disk::qcow2("vda").backing(&template)).paused()
    });
    for (guest, pattern) in guests.iter().zip([0x11, 0x22]) {
        guest.write("vda", pattern, 1 << 20, 1 << 20);
        save_exactly(&lab, guest, json!({"method": method}), &["vda"]);
        assert_eq!(sha256(&template), before, "the template was written to");
    }
}

fn an_empty_disk_of_1_tib_makes_an_archive_below_1_mib(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("thin-{method}")).disk(Disk::qcow2("vda").size("1T")).paused();
    let saved = save_exactly(&lab, &guest, json!({"method": method}), &["vda"]);
    assert_eq!(saved.outcome()["read_bytes"], 0);
    let length = std::fs::metadata(saved.program.archive(&saved.report, guest.name())).unwrap().len();
    assert!(length < 1 << 20, "{length} bytes");
}

/// Two images have the same file name, too.
fn unusual_names_of_images_and_domains_work(method: &str) {
    let lab = Lab::new();
    let names = ["with blanks.qcow2", "größe 日本.qcow2", "a,b,,c=d.qcow2", "c:d.qcow2", "it's & <that> \"one\".qcow2"];
    let name = format!("{method} Gäst 日本 & it's, <a>: 100%");
    let one = names.iter().zip('a'..).fold(lab.guest(&name), |guest, (file, letter)| {
        guest.disk(Disk::qcow2(&format!("vd{letter}")).file(format!("the first/{file}")).size("4M"))
    });
    let guest = one
        .disk(Disk::qcow2("vdf").file("the first/same.img").size("4M"))
        .disk(Disk::qcow2("vdg").file("the second/same.img").size("4M"))
        .disk(Disk::raw("vdh").file("raw: 50%, it's.img").size("4M"))
        .paused();
    let targets = ["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh"];
    for (pattern, target) in (1..).zip(targets) {
        guest.write(target, pattern, 1 << 20, 65536);
    }
    let saved = save_exactly(&lab, &guest, json!({"method": method}), &targets);
    assert_eq!(saved.archive.manifest()["domain"]["name"], name.as_str());
}

/// Changes an image that no machine has open.
fn qemu_io_file(image: &Path, format: &str, command: &str) {
    run("qemu-io", &["-f", format, "-c", command, image.to_str().unwrap()]);
}
