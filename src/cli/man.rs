//! Owns: the manual pages, one per command, made from the definition of the command line. Must not: add anything except files
//! and references.

use std::io;
use std::path::Path;

use clap_mangen::Man;

use super::args;
use crate::model::{EXIT_STATUS, RunResult};
use crate::{app, engine};

/// Writes `kvmbackup.1`, `kvmbackup-backup.1` and so on into a folder that exists.
pub(super) fn run(folder: &Path) -> Result<RunResult, app::Error> {
    let mut definition = args::definition().disable_help_subcommand(true);
    definition.build();
    pages(&definition, &mut |name, page| {
        let path = folder.join(name);
        std::fs::write(&path, page).map_err(engine::Error::file("write", &path))
    })?;
    Ok(RunResult::Good)
}

fn pages(
    command: &clap::Command,
    write: &mut dyn FnMut(String, Vec<u8>) -> Result<(), engine::Error>,
) -> Result<(), engine::Error> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, write)?;
    }
    let version = format!("kvmbackup {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).manual("Backups of libvirt guests").source(version);
    let name = man.get_filename();
    let page = page(&man, command).map_err(engine::Error::file("write", Path::new(&name)))?;
    write(name, page)
}

fn page(man: &Man, command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let example = after.strip_suffix(EXIT_STATUS).and_then(|rest| rest.strip_prefix("Example:\n"));
    if let Some(example) = example {
        page.extend(as_it_stands("EXAMPLE", example.trim_end()).into_bytes());
    }
    let status = EXIT_STATUS.split_once('\n').map_or("", |(_, table)| table);
    page.extend(as_it_stands("EXIT STATUS", status).into_bytes());
    page.extend(as_it_stands("FILES", FILES).into_bytes());
    page.extend(SEE_ALSO.as_bytes());
    Ok(page)
}

const FILES: &str = "\
  /etc/kvmbackup/config.yml    the configuration
  /var/lib/kvmbackup           lock, journal, last report (`state_dir` of the configuration)
  share/doc/kvmbackup          all documents, below /usr or /usr/local";

const SEE_ALSO: &str = "\
.SH \"SEE ALSO\"
.BR kvmbackup (1),
.BR virsh (1),
.BR qemu\\-img (1)
";

/// A section with preserved lines: roff(7), requests `nf` and `fi`.
fn as_it_stands(title: &str, text: &str) -> String {
    let escaped = |line: &str| format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"));
    format!(".SH \"{title}\"\n.nf\n{}.fi\n", text.lines().map(escaped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_command_has_a_page_that_man_reads_without_a_complaint() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path()).unwrap();
        let files: BTreeSet<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for name in ["kvmbackup.1", "kvmbackup-backup.1", "kvmbackup-check.1", "kvmbackup-hooks-test.1"] {
            assert!(files.contains(name), "{files:?}");
        }
        assert!(!files.iter().any(|name| name.contains("-man") || name.contains("help")), "{files:?}");
        for name in files {
            let path = folder.path().join(&name);
            // As lintian looks at pages.
            let read = Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
                .arg(&path)
                .env("LC_ALL", "C.UTF-8")
                .env("MANROFFSEQ", "")
                .env("MANWIDTH", "80")
                .stdout(Stdio::null())
                .output();
            let Ok(read) = read else {
                eprintln!("skipped: there is no man");
                return;
            };
            let complaints = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && complaints.is_empty(), "{name}: {complaints}");
            let page = std::fs::read_to_string(&path).unwrap();
            assert!(page.contains("EXIT STATUS") && page.contains("damage found"), "{name}");
        }
    }

    #[test]
    fn an_example_is_shown_line_by_line() {
        let definition = args::definition();
        let restore = definition.find_subcommand("restore").unwrap();
        let page = String::from_utf8(page(&Man::new(restore.clone()), restore).unwrap()).unwrap();
        assert!(page.contains("\n\\&  kvmbackup restore web\\-1 \\-\\-disk vda=/dev/vg0/web\\-1 "), "{page}");
    }
}
