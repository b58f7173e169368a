//! Finds the parts of an archive, as documented in `docs/format.md`, without the program's own code.

use std::ops::Range;

/// A part of the file.
pub struct Place {
    pub name: String,
    pub range: Range<usize>,
    /// Rotation of its bytes when halves are swapped.
    pub swap_at: usize,
    /// The second disk, with everything that its restore needs, is outside this place.
    pub leaves_second_disk: bool,
    /// Bytes of the tar stream in the frames that contain the place: no more than these need to be lost.
    pub held: usize,
    /// Bytes of the tar stream from there to the end, which a cut removes.
    pub behind: usize,
}

fn place(name: &str, range: Range<usize>) -> Place {
    let swap_at = range.len() / 2;
    Place { name: name.to_owned(), range, swap_at, leaves_second_disk: false, held: 0, behind: 0 }
}

/// The places of an archive in one of the codecs.
pub fn places(file: &[u8], codec: &str) -> Vec<Place> {
    match codec {
        "none" => in_tar(file),
        "seed" => in_stream(file),
        _ => {
            let frames = frames(file, codec);
            let mut places = in_frames(file, &frames.iter().map(|(range, _)| range.clone()).collect::<Vec<_>>());
            for place in &mut places {
                let touched =
                    frames.iter().filter(|(frame, _)| place.range.start < frame.end && frame.start < place.range.end);
                place.held = touched.map(|(_, held)| held).sum();
                place.behind =
                    frames.iter().filter(|(frame, _)| place.range.start < frame.end).map(|(_, held)| held).sum();
            }
            places
        }
    }
}

/// Frames in order: manifest, documents and the first disk's start, more of the disks, checksums; then the table.
fn in_frames(file: &[u8], frames: &[Range<usize>]) -> Vec<Place> {
    let last = frames.len() - 1;
    let table = frames[last].end..file.len();
    let named = [
        ("the manifest's frame", 0),
        ("the frame of the tar headers", 1),
        ("a disk's frame", 2),
        ("the frame of SHA256SUMS", last),
    ];
    let mut places = Vec::new();
    for (name, at) in named {
        let Range { start, end } = frames[at].clone();
        let middle = start + (end - start) / 2;
        let parts = [("header", start..start + 6), ("contents", middle..middle + 16), ("checksum", end - 8..end)];
        // The small ones have the same size.
        let parts = if at == 0 || at == last { &parts[1..2] } else { &parts[..] };
        for (part, range) in parts.iter().cloned() {
            let mut place = place(&format!("the {part} of {name}"), range);
            place.leaves_second_disk = at == 2;
            places.push(place);
        }
    }
    let (first, second) = (frames[1].clone(), frames[2].clone());
    let two = Place { swap_at: first.len(), ..place("two whole frames", first.start..second.end) };
    let whole = Place { leaves_second_disk: false, ..place("a whole frame", second) };
    let entry = table.start + 8 + 12;
    let end = file.len() - 10..file.len();
    places.extend([
        two,
        whole,
        place("an entry of the seek table", entry..entry + 12),
        place("the seek table", table),
        place("the end", end),
    ]);
    places
}

/// Position and content size of each frame, from the lengths in the table (zstd) or in the members (gzip).
fn frames(file: &[u8], codec: &str) -> Vec<(Range<usize>, usize)> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    let mut at = 0;
    if codec == "gzip" {
        while &file[at + 12..at + 14] == b"KB" {
            let length = number(at + 16);
            frames.push((at..at + length, number(at + length - 4)));
            at += length;
        }
        return frames;
    }
    let count = number(file.len() - 9);
    let table = file.len() - 9 - 12 * count;
    for entry in 0..count {
        let length = number(table + 12 * entry);
        frames.push((at..at + length, number(table + 12 * entry + 4)));
        at += length;
    }
    frames
}

/// An uncompressed archive: plain tar headers and contents.
fn in_tar(file: &[u8]) -> Vec<Place> {
    let mut members = Vec::new();
    let mut at = 0;
    while file[at] != 0 {
        let name =
            String::from_utf8(file[at..at + 100].iter().copied().take_while(|&byte| byte != 0).collect()).unwrap();
        let digits = std::str::from_utf8(&file[at + 124..at + 135]).unwrap();
        let length = usize::from_str_radix(digits, 8).unwrap();
        members.push((name, at, at + 512..at + 512 + length));
        at += 512 + length.next_multiple_of(512);
    }
    let find = |wanted: &str| members.iter().find(|(name, ..)| name == wanted).unwrap().clone();
    let (_, header, disk) = find("disks/vda.qcow2");
    let (.., manifest) = find("manifest.json");
    let (.., sums) = find("SHA256SUMS");
    let (.., xml) = find("domain.xml");
    let middle = disk.start + disk.len() / 2;
    let in_disk = Place { leaves_second_disk: true, ..place("a disk's data", middle..middle + 1000) };
    vec![
        place("a tar header", header..header + 512),
        place("the manifest", manifest),
        place("the definition", xml),
        place("a disk's metadata", disk.start + 24..disk.start + 32),
        in_disk,
        place("SHA256SUMS", sums),
        place("the end", file.len() - 700..file.len()),
    ]
}

/// One gzip stream: its header, its contents, its checksum.
fn in_stream(file: &[u8]) -> Vec<Place> {
    let middle = file.len() / 2;
    vec![
        place("the gzip header", 0..4),
        place("the first kilobyte", 500..600),
        place("the middle", middle..middle + 50),
        place("the gzip checksum", file.len() - 8..file.len()),
    ]
}
