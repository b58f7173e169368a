//! Tests that our images are valid for QEMU, and that the reader accepts no other images.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::Extent;

const MIB: u64 = 1 << 20;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// A sparse raw file with nonzero bytes in every extent.
fn raw(dir: &Path, size: u64, extents: &[Extent]) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("raw")).unwrap();
    file.set_len(size).unwrap();
    for (seed, extent) in (1u64..).zip(extents) {
        let bytes: Vec<u8> = (0..extent.length).map(|n| ((n / 7 + seed) % 255 + 1) as u8).collect();
        file.write_all_at(&bytes, extent.offset).unwrap();
    }
    file
}

/// Writes a whole image like a caller of `Layout`.
fn write_image(layout: &Layout, disk: &File, out: &mut impl Write) {
    let mut metadata = Vec::new();
    layout.write_metadata(&mut metadata).unwrap();
    assert_eq!(metadata.len() as u64, layout.metadata_length());
    out.write_all(&metadata).unwrap();
    for extent in layout.data() {
        let mut bytes = vec![0; extent.length as usize];
        disk.read_exact_at(&mut bytes, extent.offset).unwrap();
        out.write_all(&bytes).unwrap();
    }
    out.write_all(&vec![0; layout.padding() as usize]).unwrap();
}

/// Writes the same contents as raw and qcow2, and compares them with QEMU and with our reader.
fn round_trip(size: u64, extents: &[Extent]) {
    let dir = TempDir::new().unwrap();
    let disk = raw(dir.path(), size, extents);
    let layout = Layout::new(size, extents).unwrap();
    let image = dir.path().join("image");
    write_image(&layout, &disk, &mut File::create(&image).unwrap());
    assert_eq!(fs::metadata(&image).unwrap().len(), layout.length());

    let name = image.to_str().unwrap();
    let checked = run("qemu-img", &["check", "-f", "qcow2", name]);
    assert!(checked.contains("No errors were found"), "{checked}");
    assert!(checked.contains(&format!("Image end offset: {}", layout.length())), "{checked}");
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", dir.path().join("raw").to_str().unwrap(), name]);

    let reader = Reader::new(BufReader::new(File::open(&image).unwrap())).unwrap();
    assert_eq!(reader.virtual_size(), size.next_multiple_of(512));
    let back = File::create(dir.path().join("back")).unwrap();
    back.set_len(reader.virtual_size()).unwrap();
    reader.copy(|offset, bytes| back.write_all_at(bytes, offset).map_err(Error::Read)).unwrap();
    back.set_len(size).unwrap();
    let [raw, back] = ["raw", "back"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &back]);
}

fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}

fn image_bytes(size: u64, extents: &[Extent]) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let disk = raw(dir.path(), size, extents);
    let mut image = Vec::new();
    write_image(&Layout::new(size, extents).unwrap(), &disk, &mut image);
    image
}

fn read_all(image: &[u8]) -> Result<u64, Error> {
    let mut total = 0;
    Reader::new(image)?.copy(|_, bytes| {
        total += bytes.len() as u64;
        Ok::<_, Error>(())
    })?;
    Ok(total)
}

#[test]
fn disks_of_every_shape_round_trip() {
    round_trip(0, &[]);
    round_trip(1, &[extent(0, 1)]);
    round_trip(512, &[]);
    round_trip(10 * MIB, &[extent(0, 10 * MIB)]);
    round_trip(10 * MIB + 512, &[extent(10 * MIB, 512)]);
    round_trip(3 * MIB + 12_345, &[extent(5, 100_000), extent(3 * MIB + 12_000, 345)]);
    round_trip(2 << 30, &[extent(70_000, 1), extent(SPAN - 1, 2), extent(3 * SPAN, 300_000)]);
    round_trip(40 << 30, &[extent(39 << 30, MIB)]);
}

#[test]
fn empty_tebibyte_is_a_few_clusters() {
    let layout = Layout::new(1 << 40, &[]).unwrap();
    assert_eq!(layout.length(), 4 * CLUSTER);
    round_trip(1 << 40, &[]);
}

#[test]
fn data_at_the_end_of_a_tebibyte_round_trips() {
    round_trip(1 << 40, &[extent(3 * MIB, 9), extent((1 << 40) - 100, 100)]);
}

/// Images with many refcount blocks are too large for real data, but not for a sparse file.
#[test]
fn refcounts_cover_large_images() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    let layout = Layout::new(20 << 30, &[extent(MIB, 19 << 30)]).unwrap();
    let mut file = File::create(&path).unwrap();
    layout.write_metadata(&mut file).unwrap();
    file.set_len(layout.length()).unwrap();
    let checked = run("qemu-img", &["check", "-f", "qcow2", path.to_str().unwrap()]);
    assert!(checked.contains("No errors were found"), "{checked}");
}

#[test]
fn sixty_four_tebibytes_and_a_million_extents_stream() {
    struct Pieces(u64, usize);
    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            self.1 = self.1.max(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let extents: Vec<_> = (0..1_000_000).map(|n| extent(n * (1 << 20) + 4096, 4096)).collect();
    let layout = Layout::new(64 << 40, &extents).unwrap();
    assert_eq!(layout.data().len(), extents.len());
    let mut pieces = Pieces(0, 0);
    layout.write_metadata(&mut pieces).unwrap();
    assert_eq!(pieces.0, layout.metadata_length());
    assert!(pieces.1 <= CLUSTER as usize);
    Layout::new(64 << 40, &[extent(0, 64 << 40)]).unwrap();
}

#[test]
fn bad_extents_are_refused() {
    for bad in [
        vec![extent(0, 0)],
        vec![extent(5, 6)],
        vec![extent(u64::MAX, 2)],
        vec![extent(4, 4), extent(0, 1)],
        vec![extent(0, 4), extent(3, 1)],
    ] {
        assert!(matches!(Layout::new(10, &bad), Err(Error::Extent { .. })), "{bad:?}");
    }
    assert!(matches!(Layout::new(MAX_SIZE + 1, &[]), Err(Error::Size { .. })));
    assert!(Layout::new(MAX_SIZE, &[extent(0, MAX_SIZE)]).is_ok());
}

#[test]
fn images_of_other_programs_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let base = path("base");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "4M"]);
    run("qemu-io", &["-c", "write -P 7 0 2M", &base]);
    let refused = |args: &[&str], name: &str, text: &str| {
        run("qemu-img", args);
        let error = Reader::new(File::open(path(name)).unwrap()).err().unwrap().to_string();
        assert!(error.contains(text), "{args:?}: {error}");
    };
    refused(&["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &path("top")], "top", "a backing file");
    refused(&["convert", "-c", "-O", "qcow2", &base, &path("packed")], "packed", "extensions");
    let option = format!("data_file={}", path("data"));
    refused(&["create", "-q", "-f", "qcow2", "-o", &option, &path("out"), "4M"], "out", "an external data file");
    refused(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &path("old"), "4M"], "old", "a version other than 3");
    refused(&["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", &path("sub"), "4M"], "sub", "feature flags");
    // On a busy machine `qemu-img` sometimes fails to benchmark LUKS, so the encryption method is set by hand.
    let mut luks = fs::read(&base).unwrap();
    luks[35] = 2;
    assert!(read_all(&luks).unwrap_err().to_string().contains("encryption"));
    assert!(matches!(Reader::new(&[0; 1 << 16][..]), Err(Error::NotQcow2)));
}

#[test]
fn damage_is_described() {
    let good = image_bytes(2 * MIB + 512, &[extent(MIB, 100), extent(2 * MIB, 512)]);
    assert_eq!(read_all(&good).unwrap(), CLUSTER + 512);
    let changed = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] ^= byte;
        read_all(&bad).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let (l1, l2) = (3 * CLUSTER as usize, 4 * CLUSTER as usize);
    assert!(changed(l1, 0x80).contains("an l1 entry is wrong"));
    assert!(changed(l1 + 9, 1).contains("an l1 entry is wrong"));
    assert!(changed(l2, 0x40).contains("compressed clusters"));
    assert!(changed(l2 + 7, 1).contains("an l2 entry is wrong"));
    assert!(changed(l2 + 16 * 8 + 5, 1).contains("an l2 entry is wrong"));
    assert!(changed(45, 1).contains("truncated") || changed(45, 1).contains("entry is wrong"));
    assert!(changed(200, 1).contains("extensions"));
    assert!(changed(good.len() - 1, 1).contains("after the end of the disk"));
    assert!(matches!(read_all(&[&good[..], &[0]].concat()), Err(Error::Damaged { .. })));
    for cut in [0, 10, 70_000, l1 + 5, l2 + 5, good.len() - 1] {
        assert!(matches!(read_all(&good[..cut]), Err(Error::Truncated)), "{cut}");
    }
}

#[test]
fn read_and_sink_errors_are_returned() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    assert!(matches!(Reader::new(Fails), Err(Error::Read(_))));
    let image = image_bytes(MIB, &[extent(0, MIB)]);
    let result = Reader::new(&image[..]).unwrap().copy(|_, _| Err(Error::Truncated));
    assert!(matches!(result, Err(Error::Truncated)));
}

/// Sorted, disjoint extents inside a disk.
fn disks() -> impl Strategy<Value = (u64, Vec<Extent>)> {
    let parts = prop::collection::vec((0u64..300_000, 1u64..200_000), 0..40);
    (parts, 0u64..100_000).prop_map(|(parts, rest)| {
        let mut at = 0;
        let extents: Vec<_> = parts
            .into_iter()
            .map(|(gap, length)| {
                let extent = extent(at + gap, length);
                at = extent.end();
                extent
            })
            .collect();
        (at + rest, extents)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_disk_round_trips((size, extents) in disks()) {
        round_trip(size, &extents);
    }

    #[test]
    fn no_changed_metadata_byte_causes_a_panic(at in 0usize..5 * CLUSTER as usize, byte in 1u8..) {
        let mut image = image_bytes(MIB, &[extent(300_000, 10)]);
        image[at] ^= byte;
        let _ = read_all(&image);
    }
}
