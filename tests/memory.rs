//! Checks that memory stays bounded regardless of the disk's size, with the maximum number of threads. It is a separate
//! test binary because the peak is measured per process.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use kvmbackup::archive::Writer;
use kvmbackup::model::{Codec, Extent};
use kvmbackup::qcow2::Layout;

/// The maximum number of threads of a run.
const THREADS: usize = 16;
const LIMIT_KIB: u64 = 256 << 10;

/// Bytes that zstd can compress a little, like those of most disks.
fn fill(buffer: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in buffer.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&(state & 0x00ff_00ff_ffff_0fff).to_le_bytes());
    }
}

struct Member<'a>(&'a mut Writer);

impl std::io::Write for Member<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len()).map_err(std::io::Error::other)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn sixteen_threads_and_a_four_tebibyte_disk_stay_under_256_mib() {
    let dir = tempfile::tempdir().unwrap();
    // Data spread over a disk of 4 TiB: the extents, and the tables of the image, could grow with its size.
    let extents: Vec<Extent> = (0..512_u64).map(|n| Extent { offset: n << 33, length: 2 << 20 }).collect();
    let layout = Layout::new(4 << 40, &extents).unwrap();
    // More than the window of a compressor.
    let mut bytes = vec![0; 16 << 20];
    fill(&mut bytes);
    let mut chunks = bytes.chunks_exact(1 << 20).cycle();
    for codec in [Codec::Zstd(3), Codec::Gzip(1), Codec::None] {
        let path = dir.path().join(codec.extension());
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut writer = Writer::new(file, codec, THREADS).unwrap();
        writer.add("manifest.json", b"{}").unwrap();
        writer.member("disks/vda.qcow2", layout.length()).unwrap();
        layout.write_metadata(&mut Member(&mut writer)).unwrap();
        for extent in layout.data() {
            for _ in 0..extent.length >> 20 {
                writer.write(chunks.next().unwrap()).unwrap();
            }
        }
        writer.write(&vec![0; layout.padding() as usize]).unwrap();
        writer.finish().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    let peak = peak_kib();
    assert!(peak < LIMIT_KIB, "{peak} KiB");
}
