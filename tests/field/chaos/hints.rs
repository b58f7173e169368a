//! Follows a hint as an operator would: its first option, or the correct one.

use std::process::Output;

use crate::lab::try_run;

/// The programs that hints name.
const PROGRAMS: [&str; 6] = ["virsh ", "qemu-img ", "rm ", "kill ", "losetup ", "qemu-nbd "];
/// What ends a command in a hint.
const ENDS: [&str; 6] = ["; ", ", ", " (", " and ", "`", ")"];

/// The commands of the correct option: if the hint asks for the overlay or its base, the overlay, unless it was
/// committed.
pub fn right_commands(hint: &str, is_committed: impl Fn(&str) -> bool) -> Vec<String> {
    match hint.split_once("; if it is the overlay, ") {
        Some((base, overlay)) if !is_committed(base) => commands(overlay),
        _ => commands(hint),
    }
}

/// The commands of a hint's first option, up to the next option or the call of `recover`.
pub fn commands(hint: &str) -> Vec<String> {
    let way = hint.split("; then: kvmbackup ").next().unwrap_or_default();
    let (mut found, mut rest) = (Vec::new(), way);
    while let Some(at) = PROGRAMS.iter().filter_map(|program| position(rest, program)).min() {
        let (before, from) = rest.split_at(at);
        if !found.is_empty() && ["; if ", "; or", ", or", " or "].iter().any(|another| before.contains(another)) {
            break;
        }
        let end = ENDS.iter().filter_map(|end| from.find(end)).min().unwrap_or(from.len());
        found.push(from[..end].to_owned());
        rest = &from[end..];
    }
    found
}

/// The position where a program's name starts a word.
fn position(text: &str, program: &str) -> Option<usize> {
    let starts = text.match_indices(program).map(|(at, _)| at);
    starts.into_iter().find(|at| *at == 0 || text[..*at].ends_with([' ', '`']))
}

/// Runs a command of a hint.
pub fn run(command: &str) -> Output {
    try_run("sh", &["-c", command])
}

#[test]
fn commands_of_a_hint_are_found() {
    let hint = "If it runs on the other host, commit it there: virsh blockcommit a vda --active --pivot --wait, and rm /v/o; if it does not run anywhere, start it here: virsh start a; then: kvmbackup recover";
    assert_eq!(commands(hint), ["virsh blockcommit a vda --active --pivot --wait", "rm /v/o"]);
    let hint = "Start it: virsh start 'a b'; or discard its saved state: virsh managedsave-remove 'a b'; then: kvmbackup recover";
    assert_eq!(commands(hint), ["virsh start 'a b'"]);
    let hint = "Make sure that no other host runs the domain; qemu-img commit -d -f qcow2 /o && rm /o; then: kvmbackup recover";
    assert_eq!(commands(hint), ["qemu-img commit -d -f qcow2 /o && rm /o"]);
    assert_eq!(commands("Wait until no other program changes the domain; then: kvmbackup recover"), [""; 0]);
    let hint = "Decide which one is correct. If it is the base, remove the overlay: rm /o; if it is the overlay, with the guest off: qemu-img commit -d -f qcow2 /o \
                && rm /o; then: kvmbackup recover";
    assert_eq!(right_commands(hint, |_| false), ["qemu-img commit -d -f qcow2 /o && rm /o"]);
    assert_eq!(right_commands(hint, |_| true), ["rm /o"]);
}
