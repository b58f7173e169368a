//! Checks that the lab's guests with a database behave as the end-to-end tests of the hooks assume.

use crate::lab::{Database, Lab, Session, hook, virsh};

#[test]
fn hook_on_the_host_blocks_mariadb_in_a_guest() {
    holds_up(Database::MariaDb, "mariadb", &[], "d.t");
}

#[test]
fn hook_on_the_host_blocks_postgresql_in_a_guest() {
    holds_up(Database::PostgreSql, "postgresql", &["--mode=block"], "t");
}

fn holds_up(database: Database, name: &str, arguments: &[&str], table: &str) {
    let lab = Lab::new();
    let guest = lab.database_guest(&format!("holds-up-{name}"), database);
    guest.sql(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY)"));
    let writer = guest.writer(table);

    let mut command = hook(name, arguments);
    command.args(guest.client_options());
    let session = Session::held(command);
    let acknowledged = writer.assert_stands_still();
    virsh(&["domfsfreeze", guest.guest.name()]);
    assert!(guest.guest.is_frozen());
    virsh(&["domfsthaw", guest.guest.name()]);
    session.release().assert_good();
    writer.assert_goes_on();

    drop(writer);
    let rows: u64 = guest.sql(&format!("SELECT COUNT(*) FROM {table}")).parse().unwrap();
    assert!(rows > acknowledged);
    guest.assert_sound();
}
