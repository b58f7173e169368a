//! Salvages a restore point of a repository: each file with zeros for its lost ranges. Must not know how blobs are placed.

use std::path::Path;

use super::naming::Naming;
use super::{DAMAGES, Disk, Folder, Part, Range, SALVAGED, Salvaged, State, expect_room};
use crate::engine::Error;
use crate::engine::error::chain;
use crate::engine::restore::sparse::{Kind, Output};
use crate::engine::restore::staging::Staging;
use crate::engine::restore::work::Work;
use crate::store::{FileRemains, SnapshotRemains};

/// Extension of the member of a disk.
const RAW: &str = ".raw";

/// Writes every file of which something is left.
pub fn salvage(
    work: &Work<'_>,
    remains: &SnapshotRemains,
    to: &Path,
    staging: &mut Staging,
    salvaged: &mut Salvaged,
) -> Result<(), Error> {
    salvaged.damages = remains.damages().take(DAMAGES).map(chain).collect();
    let more = remains.damages().len().saturating_sub(DAMAGES);
    if more > 0 {
        salvaged.damages.push(format!("and {more} more damaged blobs"));
    }
    salvaged.missing = remains.missing();
    let names = remains.names();
    let files = names.iter().map(|name| remains.file(name)).collect::<Result<Vec<_>, _>>()?;
    expect_room(to, files.iter().map(readable).sum(), staging)?;
    let mut folder = Folder { to, staging, naming: Naming::new() };
    for (name, file) in names.iter().zip(&files) {
        work.go_on()?;
        salvaged.files.push(part(work, remains, (name, file), &mut folder)?);
    }
    Ok(())
}

fn readable(file: &FileRemains) -> u64 {
    file.length() - file.lost().iter().map(|lost| lost.length).sum::<u64>()
}

fn part(
    work: &Work<'_>,
    remains: &SnapshotRemains,
    (name, file): (&str, &FileRemains),
    folder: &mut Folder<'_>,
) -> Result<Part, Error> {
    let state = if file.lost().is_empty() { State::Whole } else { State::Torn };
    let lost: Vec<Range> = file.lost().iter().copied().map(Range::from).collect();
    let target = name.strip_prefix("disks/").and_then(|name| name.strip_suffix(RAW));
    let disk =
        target.map(|target| Disk { target: target.to_owned(), virtual_bytes: file.length(), unreadable: lost.clone() });
    let mut part = Part { member: Some(name.to_owned()), files: Vec::new(), state, bytes: file.length(), lost, disk };
    if readable(file) == 0 && file.length() > 0 {
        return Ok(part);
    }
    let torn = if state == State::Whole { "" } else { SALVAGED };
    let (path, out) = match target {
        Some(target) => folder.create(target, &format!("{torn}{RAW}"))?,
        None => folder.create(name, torn)?,
    };
    let whole = folder.to.join(&path);
    let failed = Error::file("write", &whole);
    let mut output = Output::start(&out, Kind::NewFile).map_err(&failed)?;
    remains.read(file, &mut |offset, bytes| {
        work.go_on()?;
        output.take(offset, bytes).map_err(&failed)
    })?;
    let length = file.length();
    output.finish().and_then(|()| out.with(move |file| file.set_len(length))).map_err(&failed)?;
    part.files.push(path);
    Ok(part)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::salvage;
    use super::*;
    use crate::engine::monitor::Silent;
    use crate::engine::points::When;
    use crate::model::Codec;
    use crate::store::fixture::{DOMAIN, Disk as Saved, Fixture};
    use crate::sys::patience::Patience;
    use crate::sys::signals::Cancel;

    fn packs(fixture: &Fixture) -> Vec<PathBuf> {
        let shards = fs::read_dir(fixture.path("backup/data")).unwrap().map(|shard| shard.unwrap().path());
        let mut packs: Vec<_> =
            shards.flat_map(|shard| fs::read_dir(shard).unwrap()).map(|pack| pack.unwrap().path()).collect();
        packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
        packs
    }

    fn salvaged(fixture: &Fixture, name: &str) -> (PathBuf, Result<Salvaged, Error>) {
        let to = fixture.path(name);
        let store = fixture.opened(&Patience::default());
        let found = salvage((DOMAIN, When::Newest), &to, &store, &Silent, &Cancel::default());
        (to, found)
    }

    /// Every byte is the saved one, or zero and in the report. Returns the number of lost bytes.
    fn expect_no_wrong_byte(to: &Path, salvaged: &Salvaged, disk: &Saved) -> u64 {
        let member = format!("disks/{}.raw", disk.target);
        let part = salvaged.files.iter().find(|part| part.member.as_ref() == Some(&member)).unwrap();
        let unreadable = &part.disk.as_ref().unwrap().unreadable;
        let lost: u64 = unreadable.iter().map(|range| range.length).sum();
        let Some(file) = part.files.first() else { return lost };
        let mut expected = fs::read(&disk.raw).unwrap();
        expected.resize(usize::try_from(disk.size).unwrap(), 0);
        for range in unreadable {
            expected[range.offset as usize..(range.offset + range.length) as usize].fill(0);
        }
        assert_eq!(file.to_str().unwrap().contains(SALVAGED), lost > 0);
        assert!(fs::read(to.join(file)).unwrap() == expected, "{member}");
        lost
    }

    fn restic(fixture: &Fixture, arguments: &[&str]) {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "-r"]).arg(fixture.path("backup")).arg("--password-file");
        let output = command.arg(fixture.path("password")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn undamaged_part_of_a_point_in_a_repository_is_saved() {
        let fixture = Fixture::with_repository();
        let disks = [
            fixture.usual_disks().remove(1),
            fixture.disk("vdc", "c.raw", crate::model::Format::Raw, (3 << 20, &[(0, 3 << 20)])),
        ];
        fixture.point("2026-11-20T02:00:00Z", Codec::None, &disks);
        let (to, found) = salvaged(&fixture, "whole");
        let found = found.unwrap();
        assert!(found.is_whole(), "{found:?}");
        assert!(disks.iter().all(|disk| expect_no_wrong_byte(&to, &found, disk) == 0));
        assert!(to.join("domain.xml").is_file() && to.join("manifest.json").is_file());

        // A flipped byte costs one blob.
        let data = packs(&fixture).pop().unwrap();
        let good = fs::read(&data).unwrap();
        let file = File::options().write(true).open(&data).unwrap();
        file.write_all_at(&[good[good.len() / 2] ^ 1], good.len() as u64 / 2).unwrap();
        let (to, found) = salvaged(&fixture, "flipped");
        let found = found.unwrap();
        let lost: u64 = disks.iter().map(|disk| expect_no_wrong_byte(&to, &found, disk)).sum();
        assert!(!found.is_whole() && (1..=64 << 10).contains(&lost), "{lost} {found:?}");

        // Half of the pack is lost.
        fs::write(&data, &good[..good.len() / 2]).unwrap();
        let (to, found) = salvaged(&fixture, "cut");
        let found = found.unwrap();
        let lost: u64 = disks.iter().map(|disk| expect_no_wrong_byte(&to, &found, disk)).sum();
        assert!((64 << 10..3 << 20).contains(&lost), "{lost} {found:?}");

        // The pack is lost, and restic has removed it from the index.
        fs::remove_file(&data).unwrap();
        restic(&fixture, &["rebuild-index"]);
        let (to, found) = salvaged(&fixture, "removed");
        let found = found.unwrap();
        let lost: u64 = disks.iter().map(|disk| expect_no_wrong_byte(&to, &found, disk)).sum();
        assert!(!found.is_whole() && lost > 1 << 20, "{lost} {found:?}");

        // Without the directories, nothing can be named.
        packs(&fixture).iter().for_each(|pack| fs::remove_file(pack).unwrap());
        assert!(salvaged(&fixture, "nothing").1.unwrap_err().is_damage());
        assert!(!fixture.path("nothing").exists());
    }
}
