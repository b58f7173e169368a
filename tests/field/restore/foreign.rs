//! Images that another program wrote, in archives of the script that this program replaces: QEMU follows no other file of this host
//! for them.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::lab::{Lab, Program, qemu_img, run, try_virsh};

/// An archive of the script with one image of a format, which names a file of the host.
fn archive(lab: &Lab, program: &Program, name: &str, format: &str, secret: &Path) {
    let day = lab.path("2026-11-01");
    fs::create_dir_all(&day).unwrap();
    let (image, secret) = (day.join("d.img"), secret.to_str().unwrap());
    let _ = fs::remove_file(&image);
    match format {
        "vmdk" => fs::write(
            &image,
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                 RW 2048 FLAT \"{secret}\" 0\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"2\"\n\
                 ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
            ),
        )
        .unwrap(),
        _ => drop(qemu_img(&["create", "-q", "-f", format, "-b", secret, "-F", "raw", image.to_str().unwrap(), "1M"])),
    }
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>13b8d9f2-bb55-4bd2-8ac6-5fef68fb3977</uuid><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' \
         type='{format}'/><source file='/img/d.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    );
    for ending in ["", "-inactive", "-migratable"] {
        fs::write(day.join(format!("{name}{ending}.xml")), &xml).unwrap();
    }
    let folder = program.backups().join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}.tar.gz"));
    run("tar", &["-C", lab.dir().to_str().unwrap(), "-czf", file.to_str().unwrap(), "2026-11-01"]);
}

#[test]
fn an_image_of_a_format_that_names_other_files_is_restored_as_a_file_and_in_no_definition() {
    let lab = Lab::new();
    let name = "foreign-format";
    let program = Program::new(&lab).domain(name, json!({}));
    let secret = lab.path("secret");
    fs::write(&secret, "TOP-SECRET-HOST-FILE").unwrap();
    fs::File::options().write(true).open(&secret).unwrap().set_len(1 << 20).unwrap();
    for format in ["vmdk", "qed", "qcow"] {
        archive(&lab, &program, name, format, &secret);
        let to = lab.path(&format!("to-{format}"));
        let copy = format!("{name}-{format}");
        let ran = program.run(&["restore", name, "--define", "--name", &copy, "--to", to.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let told = format!("disk vda: an image of the format {format} is restored as a file alone");
        assert!(ran.stdout.contains(&told), "{ran:#?}");
        let guest = lab.adopt(&copy);
        assert!(!guest.inactive_xml().contains("<disk"), "{}", guest.inactive_xml());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        assert!(try_virsh(&["start", "--paused", &copy]).is_ok());
        guest.destroy();
        // Files alone are what they were.
        let files = lab.path(&format!("files-{format}"));
        let ran = program.run(&["restore", name, "--to", files.to_str().unwrap()]);
        assert!(ran.code == 0 && ran.stdout.contains(&told), "{ran:#?}");
        assert_eq!(fs::read(files.join("d.img")).unwrap(), fs::read(lab.path("2026-11-01/d.img")).unwrap());
    }
    archive(&lab, &program, name, "qcow2", &secret);
    let to = lab.path("to-qcow2");
    let ran = program.run(&["restore", name, "--define", "--name", "foreign-q", "--to", to.to_str().unwrap()]);
    assert!(ran.code == 6 && ran.stderr.contains("has a backing file") && !to.exists(), "{ran:#?}");
}

#[test]
fn a_raw_image_stays_raw_whatever_its_bytes_look_like() {
    let lab = Lab::new();
    let name = "foreign-raw";
    let program = Program::new(&lab).domain(name, json!({}));
    let secret = lab.path("secret");
    fs::write(&secret, vec![0x53; 1 << 20]).unwrap();
    archive(&lab, &program, name, "qcow2", &secret);
    // The definition says nothing of the format, which libvirt takes as raw.
    for ending in ["", "-inactive", "-migratable"] {
        let file = lab.path(&format!("2026-11-01/{name}{ending}.xml"));
        let xml = fs::read_to_string(&file).unwrap();
        fs::write(&file, xml.replace("<driver name='qemu' type='qcow2'/>", "")).unwrap();
    }
    let file = program.backups().join(format!("{name}/{name}.tar.gz"));
    run("tar", &["-C", lab.dir().to_str().unwrap(), "-czf", file.to_str().unwrap(), "2026-11-01"]);
    let to = lab.path("to");
    let copy = "foreign-raw-copy";
    let ran = program.run(&["restore", name, "--define", "--name", copy, "--to", to.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let guest = lab.adopt(copy);
    assert!(guest.inactive_xml().contains("type='raw'"), "{}", guest.inactive_xml());
    guest.start_paused();
    let live = guest.live_xml();
    assert!(live.contains("type='raw'") && !live.contains("<backingStore type"), "{live}");
}
