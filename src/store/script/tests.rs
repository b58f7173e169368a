//! Tests that archives of the legacy script pass those contract tests that apply to read-only points.

use super::super::Point;
use super::super::contract::{Kind, all};
use crate::store::fixture::{DOMAIN, Fixture};

#[test]
fn archive_of_the_legacy_script_passes_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.seed(&format!("{DOMAIN}.tar.gz"), disks));
    let data = |_: &Fixture, point: &Point| point.location().to_owned();
    all(&Kind {
        store: Fixture::new,
        make,
        data,
        image: None,
        is_ours: false,
        checks_ranges: false,
        can_sample: false,
    });
}
