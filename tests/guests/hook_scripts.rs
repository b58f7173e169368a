//! The hooks in `hooks/` as files: valid shell, with safe modes, installed and documented. The templates work.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::{Session, hook, hook_path, run, run_hook};

#[test]
fn shellcheck_finds_nothing() {
    let mut arguments = vec![PathBuf::from("--external-sources"), "--source-path=SCRIPTDIR".into()];
    arguments.extend(scripts());
    arguments.push(hook_path("session.bash"));
    run("shellcheck", &arguments);
}

#[test]
fn every_script_is_executable_safe_documented_and_installed() {
    let readme = std::fs::read_to_string(hook_path("README.md")).unwrap();
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan =
        run("make", &["--dry-run", "-C", makefile.to_str().unwrap(), "install", "DESTDIR=/there", "PREFIX=/usr"]);
    let installed = |path: &str| {
        let folder = Path::new("/there/usr/share/kvmbackup/hooks").join(path);
        let folder = folder.parent().unwrap().display().to_string();
        plan.lines().any(|line| {
            let mut words = line.split(' ');
            line.starts_with("install -m 755")
                && words.any(|word| word == format!("hooks/{path}"))
                && line.ends_with(&format!(" {folder}/"))
        })
    };
    for script in scripts() {
        let name = script.strip_prefix(hook_path("")).unwrap().to_str().unwrap();
        let mode = script.metadata().unwrap().permissions().mode() & 0o777;
        assert!(mode & 0o111 == 0o111 && mode & 0o022 == 0, "{name}: {mode:o}");
        let in_table = name.starts_with("guest/fsfreeze-hook.d/") || readme.contains(&format!("`{name}"));
        assert!(in_table, "hooks/README.md does not mention {name}");
        assert!(installed(name), "make install omits {name}");
    }
    assert!(plan.contains("hooks/session.bash"), "the hooks need it");
}

#[test]
fn command_template_runs_skips_and_leaves_an_artifact() {
    let artifacts = tempfile::tempdir().unwrap();
    let mut command = hook("template-command", &[]);
    command.env("KVMBACKUP_PHASE", "pre-snapshot").env("KVMBACKUP_ARTIFACT_DIR", artifacts.path());
    let ended = run_hook(&mut command);
    ended.assert_good();
    assert!(ended.stdout.contains("db1"));
    assert!(artifacts.path().join("begun").exists());
    run_hook(hook("template-command", &[]).env("KVMBACKUP_PHASE", "post-snapshot").env("KVMBACKUP_STATUS", "ok"))
        .assert_good();
}

#[test]
fn session_template_locks_releases_and_notices_a_loss() {
    let lock = Path::new("/run/my-application.lock");
    for end in [Session::release, Session::release_in_parts, Session::abandon, Session::terminate] {
        let session = Session::held(hook("template-session", &[]));
        assert!(lock.exists());
        run_hook(&mut hook("template-session", &[])).assert_failed("cannot lock");
        assert!(lock.exists());
        end(session);
        assert!(!lock.exists());
    }
    let mut session = Session::held(hook("template-session", &[]));
    std::fs::remove_dir(lock).unwrap();
    session.end().assert_failed("the lock was lost");
}

/// Every script that can be run, sorted.
fn scripts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "guest", "guest/fsfreeze-hook.d"] {
        for entry in std::fs::read_dir(hook_path(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.extension().is_none() {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 8, "this test looks for hooks in the wrong place");
    found
}
