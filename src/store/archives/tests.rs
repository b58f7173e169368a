//! Tests that kvmbackup archives pass the contract tests with every codec.

use super::super::contract::{Kind, all};
use super::super::{Point, Store, disk_member};
use crate::model::Codec;
use crate::store::fixture::{DOMAIN, Disk, Fixture};

const AT: &str = "2026-11-20T02:00:00Z";

fn archive(make: fn(&Fixture, &[Disk]), checks_ranges: bool) -> Kind {
    let data = |_: &Fixture, point: &Point| point.location().to_owned();
    Kind {
        store: Fixture::new,
        make,
        data,
        image: Some("qcow2"),
        is_ours: true,
        checks_ranges,
        can_sample: checks_ranges,
    }
}

#[test]
fn zstd_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::Zstd(1), disks));
    all(&archive(make, true));
}

#[test]
fn archive_beside_a_repository_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::Zstd(1), disks));
    all(&Kind { store: || Fixture::new().with_second(), ..archive(make, true) });
}

#[test]
fn gzip_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::Gzip(1), disks));
    all(&archive(make, true));
}

#[test]
fn uncompressed_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::None, disks));
    all(&archive(make, false));
}

#[test]
fn concurrent_writers_get_distinct_points_and_a_dropped_one_leaves_none() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let begin = || fixture.begin(AT, Codec::Zstd(1));
    let listed = |store: &Store| store.points(DOMAIN).unwrap();
    let mut writers = [begin(), begin(), begin()];
    for writer in &mut writers {
        let manifest = fixture.manifest(writer.id(), &disks[..1]);
        writer.manifest(&manifest).unwrap();
        writer.disk(&disk_member("vda"), &mut disks[0].source()).unwrap();
    }
    assert!(listed(&fixture.store).is_empty() && fixture.store.partials(DOMAIN).unwrap().len() == 3);
    let [mut first, mut second, third] = writers;
    let mut made: Vec<Point> = vec![second.commit().unwrap(), first.commit().unwrap()];
    drop((first, second, third));
    made.sort_by_key(|point| point.id);
    assert_eq!(listed(&fixture.store), made);
    assert!(fixture.store.partials(DOMAIN).unwrap().is_empty());
}
