//! The legacy script's archives keep the contract of stores, as far as they can be read only.

use super::super::contract::{Kind, all};
use crate::engine::fixture::{DOMAIN, Fixture};

#[test]
fn an_archive_of_the_script_keeps_the_contract() {
    let make = |fixture: &Fixture, disks: &[_]| drop(fixture.seed(&format!("{DOMAIN}.tar.gz"), disks));
    all(&Kind { make, is_ours: false, checks_ranges: false });
}
