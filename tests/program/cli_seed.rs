//! The configuration and the command line of the legacy script (`kvmBackup`) work unchanged.

use crate::host;
use crate::host::{Host, run};

/// The script's file: one section per host, with `backupdir` and, for each domain, `day_of_week` and `rotate`. It
/// starts with `defaults` here because a test must not use the machine's own libvirt and state directory.
fn seeds_file(host: &Host, name: &str) -> String {
    format!(
        "defaults: {{libvirt_uri: '{uri}', state_dir: {state}}}\n\
         \n\
         {name}:\n    backupdir: {mine}\n    domains:\n        a:\n            day_of_week:\n            - Mon\n            - Tue\n            \
         - Wed\n            - Thu\n            - Fri\n            - Sat\n            - Sun\n            rotate: 2\n        \
         b:\n            day_of_week: [{other_day}]\n            rotate: 4\n\
         \n\
         somebody-else:\n    backupdir: {other}\n    domains:\n        c:\n            day_of_week: [Sun]\n            rotate: 1\n",
        uri = host.uri(),
        state = host.path("state").display(),
        mine = host.path("backups").display(),
        other = host.path("other").display(),
        other_day = host.another_day(),
    )
}

#[test]
fn short_host_name_selects_the_section_and_no_subcommand_is_needed() {
    let host = Host::new(&["a", "b"]);
    let name = run("uname", &["-n"]).trim().split('.').next().unwrap().to_owned();
    host.write_config(&seeds_file(&host, &name));
    let config = host.path("config.yml");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    let ran = host.finish(command.arg("--config").arg(&config)).ends(0);

    ran.tells(&[&format!("1 of 1 good on {name}")]).tells(&["not due today: b"]);
    assert_eq!(host.archives("a").len(), 1);
    assert!(host.archives("b").is_empty());
    assert!(!host.path("other").exists(), "another host's section was used");
}

#[test]
fn options_of_the_legacy_script_work() {
    let host = Host::new(&["a", "b", "c"]);
    host.write_config(
        &seeds_file(&host, host::NAME).replace("        b:", "        c: {day_of_week: daily}\n        b:"),
    );
    let ran = host.run("--force --domains a,b -v").ends(0);

    ran.tells(&["2 of 2 good"]);
    assert_eq!(host.archives("a").len(), 1);
    assert_eq!(host.archives("b").len(), 1, "--force makes a domain due on any day");
    assert!(host.archives("c").is_empty(), "--domains selects");
}
