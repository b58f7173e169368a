//! Tests against the real `qemu-nbd`. QEMU's tools check the results.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::super::{Client, Options, Server};
use super::*;
use crate::model::{Format, Image, Source};

const GIB: u64 = 1 << 30;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn file(path: &Path, format: Format) -> Image {
    Image { source: Source::File(path.to_owned()), format }
}

/// Creates a qcow2 image with data from qemu-io.
fn qcow2(path: &Path, size: &str, writes: &[&str]) -> Image {
    let name = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", name, size]);
    write(path, writes);
    file(path, Format::Qcow2)
}

fn write(path: &Path, writes: &[&str]) {
    let commands: Vec<_> = writes.iter().flat_map(|write| ["-c", write]).collect();
    let node = format!("driver=qcow2,file.driver=file,file.filename={}", path.to_str().unwrap().replace(',', ",,"));
    run("qemu-io", &[&["--image-opts"], &commands[..], &[&node]].concat());
}

fn serve(dir: &Path, chain: &[Image]) -> Server {
    Server::start(chain, &dir.join("socket"), PATIENCE, Options::default()).unwrap()
}

fn connect(server: &Server) -> Client {
    Client::connect(server.socket(), "", PATIENCE).unwrap()
}

/// The data extents from `qemu-img map`, merged.
fn map(path: &Path, format: &str) -> Vec<Extent> {
    let text = run("qemu-img", &["map", "-f", format, "--output=json", path.to_str().unwrap()]);
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut extents: Vec<Extent> = Vec::new();
    for item in list.iter().filter(|item| item["zero"] == false) {
        let (start, length) = (item["start"].as_u64().unwrap(), item["length"].as_u64().unwrap());
        match extents.last_mut() {
            Some(last) if last.end() == start => last.length += length,
            _ => extents.push(extent(start, length)),
        }
    }
    extents
}

/// Reads the data extents into a raw file, which `qemu-img` compares with the image.
fn compare(dir: &Path, client: &mut Client, image: &Path, format: &str) -> Vec<Extent> {
    let extents = client.extents().unwrap();
    let copy = dir.join("copy");
    let out = File::create(&copy).unwrap();
    out.set_len(client.size()).unwrap();
    let mut at = 0;
    let mut total = 0;
    client
        .read(&extents, |offset, bytes| {
            assert!(offset >= at && bytes.len() <= 1 << 20 && !bytes.is_empty());
            at = offset + bytes.len() as u64;
            total += bytes.len() as u64;
            out.write_all_at(bytes, offset).unwrap();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(total, extents.iter().map(|e| e.length).sum::<u64>());
    assert_eq!(at, extents.last().map_or(0, Extent::end));
    run("qemu-img", &["compare", "-f", "raw", "-F", format, copy.to_str().unwrap(), image.to_str().unwrap()]);
    extents
}

#[test]
fn a_qcow2_disk_is_mapped_and_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk");
    let writes: Vec<String> =
        (0..200).map(|n| format!("write -P {} {} {}k", n + 1, n * 10_700_800, n % 90 + 1)).collect();
    let mut writes: Vec<_> = writes.iter().map(String::as_str).collect();
    writes.extend(["write -P 9 1500M 12345k", "write -z 1501M 1M", "write -P 3 2147483136 512"]);
    let image = qcow2(&path, "2G", &writes);
    let server = serve(dir.path(), &[image]);
    let mut client = connect(&server);
    assert_eq!(client.size(), 2 * GIB);
    let extents = compare(dir.path(), &mut client, &path, "qcow2");
    assert!(extents.len() > 200);
    assert_eq!(extents, map(&path, "qcow2"));
    drop(client);
    server.finish().unwrap();
}

#[test]
fn clusters_of_any_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    for (size, overlay) in [("512", "64k"), ("64k", "4k"), ("2M", "2M")] {
        let over = dir.path().join("over");
        let create = |path: &Path, options: &str, rest: &[&str]| {
            let arguments = ["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap()];
            run("qemu-img", &[&arguments, rest].concat());
        };
        create(&base, &format!("cluster_size={size}"), &["64M"]);
        write(&base, &["write -P 1 1M 64k"]);
        create(&over, &format!("cluster_size={overlay}"), &["-b", base.to_str().unwrap(), "-F", "qcow2"]);
        write(&over, &["write -P 2 9M 64k"]);
        let server = serve(dir.path(), &[file(&over, Format::Qcow2), file(&base, Format::Qcow2)]);
        compare(dir.path(), &mut connect(&server), &over, "qcow2");
    }
}

#[test]
fn holes_of_a_sparse_raw_disk_are_found() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    let raw = File::create(&path).unwrap();
    raw.set_len(2 * GIB + 100).unwrap();
    for n in 0..50 {
        raw.write_all_at(&vec![n as u8 + 1; 5000 + 4096 * n as usize], n * 41_000_001).unwrap();
    }
    raw.write_all_at(b"end", 2 * GIB + 97).unwrap();
    raw.sync_all().unwrap();
    let server = serve(dir.path(), &[file(&path, Format::Raw)]);
    let mut client = connect(&server);
    // QEMU rounds up to sectors.
    assert_eq!(client.size(), 2 * GIB + 512);
    let extents = compare(dir.path(), &mut client, &path, "raw");
    assert!(extents.len() > 40);
    assert_eq!(extents, map(&path, "raw"));
}

#[test]
fn a_chain_is_read_by_given_names_or_by_its_headers() {
    let dir = TempDir::new().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    let base_image = qcow2(&base, "64M", &["write -P 1 0 8M", "write -P 2 32M 1M"]);
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.to_str().unwrap(), top.to_str().unwrap()],
    );
    write(&top, &["write -P 3 1M 1M", "write -P 4 60M 64k", "write -z 4M 1M"]);
    let top_image = file(&top, Format::Qcow2);
    let mut maps = Vec::new();
    for chain in [&[top_image.clone()][..], &[top_image.clone(), base_image]] {
        let server = serve(dir.path(), chain);
        maps.push(compare(dir.path(), &mut connect(&server), &top, "qcow2"));
    }
    assert_eq!(maps[0], maps[1]);
    assert_eq!(maps[0], map(&top, "qcow2"));

    // The given names take precedence over those in the header.
    let moved = dir.path().join("moved");
    fs::rename(&base, &moved).unwrap();
    let server = serve(dir.path(), &[top_image, file(&moved, Format::Qcow2)]);
    assert_eq!(connect(&server).extents().unwrap(), maps[0]);
}

#[test]
fn special_characters_in_names_are_literal() {
    let dir = TempDir::new().unwrap();
    for name in ["a b", "Größe, 大", "x,file.filename=y", "nbd:1:2", "json:{}", "q=1,,2", "-v"] {
        let path = dir.path().join(name);
        fs::write(&path, name.repeat(100)).unwrap();
        let server = serve(dir.path(), &[file(&path, Format::Raw)]);
        let mut text = Vec::new();
        let sink = |_, bytes: &[u8]| {
            text.extend_from_slice(bytes);
            Ok::<_, Error>(())
        };
        connect(&server).read(&[extent(0, name.len() as u64 * 100)], sink).unwrap();
        assert_eq!(text, name.repeat(100).as_bytes(), "{name}");
    }
    let name = dir.path().join("qcow 2, ü:");
    let image = qcow2(&name, "1M", &["write -P 5 0 64k"]);
    assert_eq!(connect(&serve(dir.path(), &[image])).extents().unwrap(), [extent(0, 65536)]);
}

#[test]
fn an_empty_tebibyte_has_no_data() {
    let dir = TempDir::new().unwrap();
    let image = qcow2(&dir.path().join("disk"), "1T", &[]);
    let server = serve(dir.path(), &[image]);
    let mut client = connect(&server);
    assert_eq!((client.size(), client.extents().unwrap()), (1 << 40, vec![]));
    client.read(&[], |_, _| Err(Error::Broken)).unwrap();
}

/// Detaches a loop device when the test ends.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn changes_since_a_bitmap_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let image = qcow2(&path, "64M", &["write -P 1 0 1M"]);
    run("qemu-img", &["bitmap", "--add", "-f", "qcow2", path.to_str().unwrap(), "since"]);
    write(&path, &["write -P 2 3M 64k", "write -P 2 3211264 64k", "discard 0 64k"]);
    let start = |bitmap| {
        let options = Options { bitmap: Some(bitmap), ..Options::default() };
        Server::start(std::slice::from_ref(&image), &dir.path().join("socket"), PATIENCE, options)
    };
    let server = start("since").unwrap();
    let changed = |bitmap: &str| Client::changed(server.socket(), "", bitmap, PATIENCE);
    assert_eq!(changed("since").unwrap(), [extent(0, 64 << 10), extent(3 << 20, 128 << 10)]);
    assert!(matches!(changed("other"), Err(Error::NoBitmap { .. })));
    // The data is the same as without the bitmap.
    compare(dir.path(), &mut connect(&server), &path, "qcow2");
    server.finish().unwrap();
    assert!(matches!(start("other"), Err(Error::Ended { .. })));
}

#[test]
fn a_block_device_is_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, vec![7; 3 << 20]).unwrap();
    let device = Loop(run("losetup", &["--find", "--show", path.to_str().unwrap()]).trim().to_owned());
    let image = Image { source: Source::Block(PathBuf::from(&device.0)), format: Format::Raw };
    let server = serve(dir.path(), &[image]);
    assert_eq!(compare(dir.path(), &mut connect(&server), &path, "raw"), [extent(0, 3 << 20)]);
}

#[test]
fn only_force_share_lets_a_guest_start() {
    let dir = TempDir::new().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    let chain = [qcow2(&top, "1M", &[]), qcow2(&base, "1M", &[])];
    for force_share in [false, true] {
        let socket = dir.path().join("socket");
        let _server = Server::start(&chain, &socket, PATIENCE, Options { force_share, ..Options::default() }).unwrap();
        for path in [&top, &base] {
            let status = Command::new("qemu-io").args(["-c", "write 0 512"]).arg(path).output().unwrap().status;
            assert_eq!(status.success(), force_share, "{}", path.display());
        }
    }
}

#[test]
fn a_server_that_cannot_start_reports_the_reason() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, "no image").unwrap();
    let socket = dir.path().join("socket");
    let start = |chain: &[Image]| Server::start(chain, &socket, PATIENCE, Options::default()).err().unwrap();
    let error = start(&[file(&path, Format::Qcow2)]);
    assert!(matches!(error, Error::Ended { .. }));
    assert!(error.to_string().contains("Image is not in qcow2 format"), "{error}");
    let error = start(&[file(&dir.path().join("missing"), Format::Raw)]);
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(!socket.exists());
}

#[test]
fn a_locked_image_gives_a_hint() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk");
    let image = qcow2(&path, "1M", &[]);
    let writer = Command::new("qemu-nbd")
        .args(["--persistent", "--format=qcow2", "--socket"])
        .args([&dir.path().join("writer"), &path])
        .spawn()
        .unwrap();
    let mut writer = Killed(writer);
    let socket = dir.path().join("socket");
    // The writer has locked the image once it accepts connections.
    while Client::connect(&dir.path().join("writer"), "", PATIENCE).is_err() {
        assert!(writer.0.try_wait().unwrap().is_none());
    }
    let error = Server::start(&[image], &socket, PATIENCE, Options::default()).err().unwrap();
    assert!(error.hint().unwrap().contains("Another process"), "{error}");
}

/// Kills a process when the test ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the process exists and is not a zombie. Its first thread may be a zombie while others still run.
fn lives(pid: u32) -> bool {
    let others = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |threads| threads.count());
    others > 1 || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_dropped_server_leaves_no_process_and_no_socket() {
    let dir = TempDir::new().unwrap();
    let image = qcow2(&dir.path().join("disk"), "1M", &[]);
    let server = serve(dir.path(), slice::from_ref(&image));
    let pid = server.pid();
    assert!(lives(pid));
    drop(server);
    assert!(!lives(pid) && !dir.path().join("socket").exists());
}

/// A server for a disk of 128 MiB, for tests that disturb it.
fn large(dir: &Path) -> Server {
    let path = dir.join("disk");
    serve(dir, &[qcow2(&path, "128M", &["write -P 1 0 128M"])])
}

fn signal(server: &Server, signal: Signal) {
    kill_process(Pid::from_raw(server.pid() as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_server_killed_while_reading_is_an_error() {
    let dir = TempDir::new().unwrap();
    let server = large(dir.path());
    let mut client = connect(&server);
    let error = client.read(&[extent(0, 128 << 20)], |offset, _| {
        if offset == 0 {
            signal(&server, Signal::KILL);
        }
        Ok::<_, Error>(())
    });
    assert!(matches!(error, Err(Error::Closed { .. })), "{error:?}");
    assert!(matches!(client.extents(), Err(Error::Broken)));
    while lives(server.pid()) {
        thread::yield_now();
    }
    assert!(matches!(server.finish(), Err(Error::Ended { .. })));
}

#[test]
fn a_server_stopped_while_reading_is_a_stall() {
    let dir = TempDir::new().unwrap();
    let server = large(dir.path());
    let mut client = Client::connect(server.socket(), "", SHORT).unwrap();
    let error = client.read(&[extent(0, 128 << 20)], |offset, _| {
        if offset == 0 {
            signal(&server, Signal::STOP);
        }
        Ok::<_, Error>(())
    });
    assert!(matches!(error, Err(Error::Stalled { .. })), "{error:?}");
}

#[test]
fn an_error_of_the_sink_stops_reading() {
    let dir = TempDir::new().unwrap();
    let server = large(dir.path());
    let mut client = connect(&server);
    let mut calls = 0;
    let error = client.read(&[extent(0, 128 << 20)], |_, _| {
        calls += 1;
        if calls == 3 { Err(Error::Thread(std::io::ErrorKind::Other.into())) } else { Ok(()) }
    });
    assert!(matches!(error, Err(Error::Thread(_))));
    assert_eq!(calls, 3);
    assert!(matches!(client.read(&[], |_, _| Ok::<_, Error>(())), Err(Error::Broken)));
}

#[test]
fn an_unknown_export_and_a_range_outside_of_it_are_errors() {
    let dir = TempDir::new().unwrap();
    let server = serve(dir.path(), &[qcow2(&dir.path().join("disk"), "1M", &[])]);
    assert!(matches!(Client::connect(server.socket(), "vda", PATIENCE), Err(Error::Export { .. })));
    for bad in [extent(1 << 20, 1), extent(0, (1 << 20) + 1), extent(u64::MAX, 2)] {
        let result = connect(&server).read(&[bad], |_, _| Ok::<_, Error>(()));
        assert!(matches!(result, Err(Error::Range { .. })));
    }
    assert!(matches!(Client::connect(&dir.path().join("none"), "", PATIENCE), Err(Error::Connect { .. })));
}
