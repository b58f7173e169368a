//! Entry point for disks in an archive. Must not use an archive.

use kvmbackup::model::Extent;
use kvmbackup::qcow2::{Error, Layout, Reader};

/// Reads a qcow2 stream. Whole images are too large for a fuzzer, so the bytes describe changes to an image that the first byte
/// selects. A change has three bytes of offset, one byte of length, and that many bytes of data.
pub fn qcow2(data: &[u8]) {
    let Some((base, mut changes)) = data.split_first() else { return };
    let mut image = image(*base);
    while let Some((head, rest)) = changes.split_first_chunk::<4>() {
        let [low, middle, high, length] = *head;
        let at = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        match image.get_mut(at..at + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => image.truncate(at),
        }
        changes = rest;
    }
    drop(read(&image));
}

/// Checks that the reader delivers exactly the data that it announced, in order and inside the disk.
fn read(image: &[u8]) -> Result<(), Error> {
    let reader = Reader::new(image)?;
    let size = reader.virtual_size();
    let data = reader.data().to_vec();
    assert!(data.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
    assert!(data.iter().all(|extent| extent.end() <= size));
    let announced: u64 = data.iter().map(|extent| extent.length).sum();
    let mut delivered = 0;
    reader.copy(|_, bytes| {
        delivered += bytes.len() as u64;
        Ok::<(), Error>(())
    })?;
    assert_eq!(delivered, announced);
    Ok(())
}

/// Zeros, or a valid image of up to 1 MiB.
fn image(base: u8) -> Vec<u8> {
    let extents: &[(u64, u64)] = match base % 4 {
        0 => return vec![0; 8 << 16],
        1 => &[],
        2 => &[(0, 1 << 16), (5 << 16, 1 << 16)],
        _ => &[(3 << 16, 512), (1 << 30, 1 << 17)],
    };
    let extents: Vec<Extent> = extents.iter().map(|&(offset, length)| Extent { offset, length }).collect();
    let layout = Layout::new(2 << 30, &extents).unwrap();
    let mut image = Vec::with_capacity(layout.length() as usize);
    layout.write_metadata(&mut image).unwrap();
    image.resize(layout.length() as usize, 0);
    image
}
