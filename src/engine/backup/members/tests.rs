//! Tests that files other than disks are collected from the paths in the definition.

use super::*;
use crate::hypervisor::domain_xml;
use crate::model::{DomainState, DomainXml};

#[test]
fn tpm_state_is_collected_from_the_paths_in_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, file] = ["folder", "file"].map(|name| dir.path().join(name));
    fs::create_dir(&folder).unwrap();
    for (path, text) in [(folder.join("tpm2-00.permall"), "state"), (folder.join(".lock"), ""), (file.clone(), "all")] {
        fs::write(path, text).unwrap();
    }
    let collected = |kind: &str, path: &Path| {
        let xml = format!(
            "<domain><name>a</name><uuid>11111111-2222-4333-8444-555555555555</uuid><devices><tpm>\
             <backend type='emulator'><source type='{kind}' path='{}'/></backend></tpm></devices></domain>",
            path.display()
        );
        let xml = DomainXml { live: xml.clone(), inactive: xml.clone(), migratable: xml };
        let domain = domain_xml::read(xml, DomainState::Off, true).unwrap().domain;
        let collected = collect(&domain);
        let files = collected.tpm.iter().map(|extra| (extra.member.clone(), extra.original.clone(), extra.length));
        (files.collect::<Vec<_>>(), collected.warnings.len())
    };
    let state = ("tpm/tpm2-00.permall".to_owned(), folder.join("tpm2-00.permall"), 5);
    assert_eq!(collected("dir", &folder), (vec![state], 0));
    assert_eq!(collected("file", &file), (vec![("tpm/state".to_owned(), file, 3)], 0));
    assert_eq!(collected("dir", &dir.path().join("nowhere")), (vec![], 1));
}
