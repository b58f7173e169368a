//! Owns: the command `restore --salvage`. Must not: decide what is undamaged.

use std::path::Path;

use super::super::args::{self, Global};
use super::super::{monitor, print, when};
use super::moment;
use crate::app;
use crate::engine::restore::salvage::{self, Part, REPORT, Salvaged, State};
use crate::model::RunResult;
use crate::report::table::printable;
use crate::store::Store;
use crate::sys::signals::Cancel;

/// The number of lost ranges of a disk that are printed; the report has all.
const SHOWN: usize = 20;

pub fn run(
    global: &Global,
    words: &args::Restore,
    to: &Path,
    store: &Store,
    cancel: &Cancel,
) -> Result<RunResult, app::Error> {
    let monitor = monitor(global, false);
    let salvaged = salvage::salvage((&words.domain, when(words.at)), to, store, &*monitor, cancel)?;
    if !global.quiet {
        print(&text(&salvaged, to));
    }
    Ok(if salvaged.is_whole() { RunResult::Good } else { RunResult::Damaged })
}

fn text(salvaged: &Salvaged, to: &Path) -> String {
    let (domain, point) = (printable(&salvaged.domain), salvaged.point);
    let mut text = format!("salvaged {domain} as of {} ({point})\n", moment(point.time()));
    let mut line = |words: String| text.push_str(&format!("  {}\n", printable(&words)));
    for damage in &salvaged.damages {
        line(format!("damage: {damage}"));
    }
    for part in &salvaged.files {
        line(format!("{}: {}", name(part), state(part)));
        for file in &part.files {
            line(format!("  {}", to.join(file).display()));
        }
        let lost = part.disk.iter().flat_map(|disk| &disk.unreadable);
        for range in lost.clone().take(SHOWN) {
            line(format!("  lost, and zeros now: {} bytes at {} of the disk", range.length, range.offset));
        }
        if lost.clone().count() > SHOWN {
            line(format!("  and {} ranges more", lost.count() - SHOWN));
        }
    }
    for member in &salvaged.missing {
        line(format!("{member}: nothing found"));
    }
    line(format!("all of this: {}", to.join(REPORT).display()));
    text
}

fn name(part: &Part) -> &str {
    part.member.as_deref().unwrap_or("a member without a name")
}

fn state(part: &Part) -> String {
    let lost: u64 = part.lost.iter().map(|range| range.length).sum();
    match part.state {
        State::Whole => "whole".to_owned(),
        State::Unchecked => "UNCHECKED: no checksum is left to verify it".to_owned(),
        State::Wrong => "WRONG: its checksum does not match, and the wrong bytes are unknown".to_owned(),
        State::Torn => format!("TORN: {lost} of {} bytes are lost", part.bytes),
    }
}
