//! Tests the positions of parts in the tar stream and which of them are lost, at every boundary.

use super::State::{Good, Guessed, Lost};
use super::*;

fn entry(packed: u32, unpacked: u32) -> Entry {
    Entry { packed, unpacked, check: packed ^ unpacked }
}

/// Consecutive parts of these lengths.
fn parts(list: &[(u32, State)]) -> Parts {
    let mut parts = Parts::default();
    list.iter().for_each(|&(length, state)| parts.push(0, entry(1, length), state));
    parts
}

fn states(parts: &Parts) -> Vec<(u64, State)> {
    let mut end = 0;
    let states = parts.ranges().map(|(range, state)| {
        assert_eq!(range.offset, end, "the parts must be consecutive");
        end = range.end();
        (range.length, state)
    });
    let states = states.collect();
    assert_eq!(parts.length(), end);
    states
}

#[test]
fn lost_ranges_are_relative_to_the_outer_range() {
    let parts = parts(&[(10, Good), (5, Lost), (5, Guessed), (10, Good), (3, Lost), (2, Good)]);
    for (from, until, lost) in [
        (0, 10, &[][..]),
        (0, 35, &[(10, 10), (30, 3)]),
        (9, 11, &[(1, 1)]),
        (12, 32, &[(0, 8), (18, 2)]),
        (20, 30, &[]),
        // Everything after the end is lost.
        (33, 35, &[]),
        (33, 36, &[(2, 1)]),
        (32, 40, &[(0, 1), (3, 5)]),
        (35, 40, &[(0, 5)]),
        (50, 53, &[(0, 3)]),
        (50, 50, &[]),
    ] {
        let found: Vec<_> = parts.lost_in(Extent { offset: from, length: until - from });
        let found: Vec<_> = found.iter().map(|lost| (lost.offset, lost.length)).collect();
        assert_eq!(found, lost, "{from} to {until}");
    }
}

#[test]
fn loss_at_the_end_continues_after_it() {
    let parts = parts(&[(10, Good), (5, Lost)]);
    assert_eq!(parts.lost_in(Extent { offset: 4, length: 16 }), [Extent { offset: 6, length: 10 }]);
}

#[test]
fn guessed_length_is_stretched_only_to_possible_piece_boundaries() {
    let piece = PIECE as u32;
    let whole = u64::from(piece);
    let list = [(10, Good), (piece, Guessed), (20, Good), (30, Good)];
    let behind = 10 + whole;
    for (from, until, by, stretched) in [
        // Up to the very next part by any length; otherwise by whole pieces.
        (10, behind, -5, Some(whole - 5)),
        (10, behind, 7, Some(whole + 7)),
        (0, behind + 20, whole.into(), Some(2 * whole)),
        (0, behind + 20, 0, Some(whole)),
        (0, behind + 20, -5, None),
        (0, behind + 1, 7, None),
        (10, behind, -i128::from(whole) - 1, None),
    ] {
        let mut parts = parts(&list);
        assert_eq!(parts.stretch(from, until, by), stretched.is_some(), "{from} to {until} by {by}");
        let expected = match stretched {
            Some(length) => vec![(10, Good), (length, Lost), (20, Good), (30, Good)],
            None => list.map(|(length, state)| (length.into(), state)).to_vec(),
        };
        assert_eq!(states(&parts), expected, "{from} to {until} by {by}");
    }
    // Without a guess there is nothing to stretch.
    for (from, until) in [(0, 10), (11, behind + 20)] {
        let mut parts = parts(&list);
        assert!(parts.stretch(from, until, 0) && !parts.stretch(from, until, 1), "{from} to {until}");
        assert!(!parts.stretch(from, until, -1), "{from} to {until}");
    }
    // Its length becomes zero.
    let mut parts = parts(&list);
    assert!(parts.stretch(10, behind, -i128::from(whole)));
    assert_eq!(states(&parts), [(10, Good), (20, Good), (30, Good)]);
}

#[test]
fn everything_between_several_guesses_is_lost() {
    let piece = PIECE as u32;
    let whole = u64::from(piece);
    let list = [(piece, Guessed), (10, Good), (piece, Guessed), (20, Good), (piece, Guessed), (piece, Guessed)];
    let mut parts = parts(&list);
    let (from, until) = (whole, 3 * whole + 30);
    assert!(parts.stretch(from, until, -4));
    assert_eq!(states(&parts), [(whole, Guessed), (10, Good), (2 * whole + 20 - 4, Lost), (whole, Guessed)]);
}

#[test]
fn settling_and_losing_a_range_excludes_its_end() {
    let list = [(5, Guessed), (5, Guessed), (5, Good), (5, Guessed), (5, Guessed)];
    let mut settled = parts(&list);
    settled.settle(5, 20);
    assert_eq!(states(&settled), [(5, Guessed), (5, Lost), (5, Good), (5, Lost), (5, Guessed)]);
    let mut lost = parts(&list);
    lost.lose(5, 20);
    assert_eq!(states(&lost), [(5, Guessed), (5, Lost), (5, Lost), (5, Lost), (5, Guessed)]);
    let guesses = |from, until| settled.has_guess(from, until);
    assert_eq!((guesses(0, 5), guesses(4, 5), guesses(5, 20), guesses(5, 21)), (true, true, false, true));
    assert!(!guesses(25, 26));
}

#[test]
fn long_losses_keep_their_length() {
    let most = MAX_PIECE as u64;
    let mut parts = Parts::default();
    parts.push_lost(7, 3 * most + 1, Lost);
    assert_eq!(states(&parts), [(most, Lost), (most, Lost), (most, Lost), (1, Lost)]);
    assert!(!parts.has_any());
}

#[test]
fn absurd_length_in_the_table_is_a_guess() {
    let good = entry(10, 100);
    let entries = [good, entry(5, MAX_PIECE as u32), entry(5, MAX_PIECE as u32 + 1)];
    let parts = by_table(&entries, &[Found::Frame(0, good)], Lost).unwrap();
    assert_eq!(states(&parts), [(100, Good), (MAX_PIECE as u64, Lost), (PIECE as u64, Guessed)]);
    assert!(by_table(&entries, &[Found::Frame(0, entry(10, 101))], Lost).is_none());
}

#[test]
fn frames_without_entries_fill_a_hole_only_if_they_fit_exactly() {
    let frame = |offset, length| (offset, entry(length, 1));
    for (before, left, behind, fit) in [
        (Some(frame(0, 10)), vec![frame(10, 10), frame(20, 5)], Some(frame(25, 1)), true),
        // A frame before the hole belongs elsewhere.
        (Some(frame(20, 10)), vec![frame(0, 20), frame(30, 10), frame(40, 10)], Some(frame(50, 1)), true),
        (None, vec![frame(0, 10), frame(10, 5)], Some(frame(15, 1)), true),
        (Some(frame(0, 10)), vec![frame(10, 10), frame(20, 5)], None, true),
        // A gap between, before or after them; too few of them.
        (Some(frame(0, 10)), vec![frame(10, 10), frame(21, 4)], Some(frame(25, 1)), false),
        (Some(frame(0, 10)), vec![frame(11, 9), frame(20, 5)], Some(frame(25, 1)), false),
        (Some(frame(0, 10)), vec![frame(10, 10), frame(20, 5)], Some(frame(26, 1)), false),
        (Some(frame(0, 10)), vec![frame(10, 15)], Some(frame(25, 1)), false),
    ] {
        let mut placed = vec![before, None, None, behind];
        let end = if behind.is_some() { 4 } else { 3 };
        placed.truncate(end);
        if before.is_none() {
            placed.remove(0);
        }
        fill(&mut placed, &left);
        let filled: Vec<_> = placed.into_iter().flatten().collect();
        let known = before.into_iter().chain(behind);
        let mut expected: Vec<_> = known.chain(left.iter().rev().take(2).copied().filter(|_| fit)).collect();
        expected.sort_by_key(|(offset, _)| *offset);
        assert_eq!(filled, expected, "{left:?}");
    }
}

#[test]
fn gap_without_a_table_has_the_length_in_its_header_or_of_one_piece() {
    let found = [Found::Gap(0, 5, Some(70)), Found::Frame(5, entry(10, 100)), Found::Gap(15, 5, None)];
    assert_eq!(states(&in_a_row(&found)), [(70, Guessed), (100, Good), (PIECE as u64, Guessed)]);
    assert_eq!(found.map(|found| found.end()), [5, 15, 20]);
}
