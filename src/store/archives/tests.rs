//! kvmbackup archives pass the contract tests with every codec.

use super::super::contract::{Kind, all};
use super::super::{Error, Point, Store, disk_member};
use crate::model::Codec;
use crate::store::fixture::{DOMAIN, Fixture};

const AT: &str = "2026-11-20T02:00:00Z";

#[test]
fn zstd_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::Zstd(1), disks));
    all(&Kind { make, is_ours: true, checks_ranges: true });
}

#[test]
fn gzip_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::Gzip(1), disks));
    all(&Kind { make, is_ours: true, checks_ranges: true });
}

#[test]
fn uncompressed_archive_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.point(AT, Codec::None, disks));
    all(&Kind { make, is_ours: true, checks_ranges: false });
}

#[test]
fn concurrent_writers_get_distinct_points_and_a_dropped_one_leaves_none() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let begin = || fixture.store.begin(DOMAIN, AT.parse().unwrap(), Codec::Zstd(1), |_| Ok::<_, Error>(())).unwrap();
    let listed = |store: &Store| store.points(DOMAIN).unwrap();
    let mut writers = [begin(), begin(), begin()];
    for writer in &mut writers {
        let manifest = fixture.manifest(writer.id(), &disks[..1]);
        writer.manifest(&manifest, 1).unwrap();
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
