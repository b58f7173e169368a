//! The lab's guests with a database are what the end-to-end tests of the hooks take them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod lab;

use lab::{Database, Lab, Session, hook, virsh};

#[test]
fn a_hook_on_the_host_holds_up_the_database_of_a_guest() {
    for (database, arguments) in
        [(Database::MariaDb, ["mariadb", ""]), (Database::PostgreSql, ["postgresql", "--mode=block"])]
    {
        let lab = Lab::new();
        let guest = lab.database_guest(&format!("db-{}", arguments[0]), database);
        let table = if database == Database::MariaDb { "d.t" } else { "t" };
        guest.sql(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY)"));
        let writer = guest.writer(table);
        let mut command = hook(arguments[0], &[]);
        command.args(guest.client_options()).args(arguments[1..].iter().filter(|argument| !argument.is_empty()));
        let session = Session::held(command);
        let acknowledged = writer.assert_stands_still();
        virsh(&["domfsfreeze", guest.guest.name()]);
        assert!(guest.guest.is_frozen());
        virsh(&["domfsthaw", guest.guest.name()]);
        session.release().assert_good();
        writer.assert_goes_on();
        let rows: u64 = guest.sql(&format!("SELECT COUNT(*) FROM {table}")).parse().unwrap();
        assert!(rows > acknowledged);
        drop(writer);
        guest.assert_sound();
    }
}
