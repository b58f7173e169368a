//! Ten days of a guest with a database, a log and an upgrade take less space in a repository than with virtnbdbackup.

use std::path::Path;

use crate::lab::{Database, DatabaseGuest, Lab, Program, run};
use serde_json::json;

const SIZES: [&str; 3] = ["64KiB", "256KiB", "1MiB"];

/// Bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let said = run("du", &["-s", "--block-size=1", "--apparent-size", folder.to_str().unwrap()]);
    said.split_whitespace().next().unwrap().parse().unwrap()
}

/// What happens in a day: updates and new rows, a log that is rotated, and on one day new versions of all libraries.
fn live(guest: &DatabaseGuest, day: u32) {
    let (first, last) = (day * 20_000, day * 20_000 + 19_999);
    guest.sql(&format!(
        "INSERT INTO orders SELECT n, md5(n::text), now(), random() FROM generate_series({first}, {last}) n;
         UPDATE orders SET price = random() WHERE id IN (SELECT (random() * {last})::int FROM generate_series(1, 5000));
         DELETE FROM orders WHERE id IN (SELECT (random() * {last})::int FROM generate_series(1, 1000));
         CHECKPOINT;"
    ));
    let log = format!(
        "cd /var/log && gzip -f app.log 2>/dev/null; mv app.log.gz app.log.{day}.gz 2>/dev/null;
         seq {first} {last} | sed 's/.*/2026-12-{:02} 03:14:15 host app[123]: GET \\/orders\\/& 200 in 12 ms/' >app.log",
        day + 1
    );
    let upgrade = "cd /usr/lib && find . -type f -name '*.so*' | while read -r file; do
         cp -p $file $file.new && mv $file.new $file; done";
    for command in [log.as_str(), if day == 5 { upgrade } else { "true" }, "sync"] {
        let ran = guest.guest.agent_exec(command);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

#[test]
#[ignore = "soak: ten days of a guest with a database, beside virtnbdbackup"]
fn ten_days_of_a_guest_take_less_space_than_with_virtnbdbackup() {
    let lab = Lab::new();
    let guest = lab.database_guest("ten-days", Database::PostgreSql);
    guest.sql("CREATE TABLE orders (id int PRIMARY KEY, customer text, at timestamptz, price float)");
    // The checkpoints of virtnbdbackup are left alone, and it refuses ours. What is stored is the same.
    let mut program = Program::new(&lab).domain("ten-days", json!({"incremental": "never"})).in_repository();
    let folder = |size: &str| lab.path(&format!("blobs-{size}"));
    let repository = |size: &str| {
        json!({"url": folder(size), "password_file": lab.path("repository.password"), "blob_size": size,
            "cache_dir": lab.path(&format!("cache-{size}"))})
    };
    let peer = lab.path("virtnbdbackup");
    let mut sizes = Vec::new();
    for day in 0..10 {
        live(&guest, day);
        let level = if day == 0 { "full" } else { "inc" };
        run("virtnbdbackup", &["-d", "ten-days", "-l", level, "-z", "-o", peer.to_str().unwrap()]);
        for size in SIZES {
            program = program.set("repository", repository(size));
            if day == 0 {
                assert_eq!(program.run(&["repository", "init"]).code, 0);
            }
            let ran = program.run(&["backup", "--force"]);
            assert_eq!(ran.code, 0, "{ran:#?}");
        }
        sizes.push([size(&peer), size(&folder(SIZES[0])), size(&folder(SIZES[1])), size(&folder(SIZES[2]))]);
        println!("day {day}: virtnbdbackup, {SIZES:?}: {:?}", sizes.last().unwrap());
    }
    let [theirs, ours @ ..] = sizes[9];
    assert!(ours.iter().all(|ours| *ours < theirs), "{sizes:?}");
}
