//! Entry points for text from operators and libvirt. Must not check its meaning.

use std::path::{Path, PathBuf};

use kvmbackup::config;
use kvmbackup::hypervisor::domain_xml::{self, Changes};
use kvmbackup::model::{DomainRef, DomainState, DomainXml, Format, Image, Source};

/// Parses a configuration. Every error must have a message.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The program does not read larger files.
    if text.len() > 1 << 20 {
        return;
    }
    match config::parse(text, Path::new("/etc/kvmbackup/config.yml"), "cloud1") {
        Ok(settings) => drop(settings.rule_for("web-1")),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// Reads a definition and rewrites it like each kind of restore. If the original is readable, the result must be, too.
pub fn domain_xml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = |xml: &str, state| {
        let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: xml.to_owned() };
        domain_xml::read(xml, state, true)
    };
    let described = read(text, DomainState::Off);
    drop(read(text, DomainState::Running));
    let flat = Image { source: Source::File("/srv/a & b.qcow2".into()), format: Format::Qcow2 };
    for target in described.iter().flat_map(|described| &described.domain.disks).map(|disk| &disk.target) {
        if let Ok(other) = domain_xml::repoint(text, target, None, &flat) {
            assert!(read(&other, DomainState::Off).is_ok(), "{other}");
        }
    }
    let targets = described.iter().flat_map(|described| &described.domain.disks).map(|disk| disk.target.clone());
    let disks: std::collections::BTreeMap<_, _> = targets.map(|target| (target, flat.clone())).collect();
    let new = DomainRef {
        name: "a <copy> & \"more\"".to_owned(),
        uuid: "4dea22b3-1d52-4d8f-9a3e-5b1c5f0a7b6d".parse().unwrap(),
    };
    for rename in [None, Some(new)] {
        let changes = Changes {
            rename: rename.clone(),
            disks: disks.clone(),
            nvram: Some("/srv/a_VARS.fd".into()),
            boot: [("kernel".to_owned(), PathBuf::from("/srv/kernel"))].into(),
            ..Changes::default()
        };
        let Ok(rewritten) = domain_xml::rewrite(text, &changes) else { continue };
        let again = read(&rewritten.xml, DomainState::Off);
        assert!(described.is_err() || again.is_ok(), "{}", rewritten.xml);
        if let (Some(rename), Ok(again)) = (rename, again) {
            assert_eq!(again.domain.id, rename);
        }
    }
}
