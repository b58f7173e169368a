//! Selects a random sample that can be selected again. Must not read the clock, or know what is sampled.

use super::PointId;

/// Which part of something large to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// Percentage of the items, 1 to 100.
    pub percent: u32,
    /// The same seed selects the same items.
    pub seed: u32,
}

impl Sample {
    /// The sample for this restore point. Each point has a different one, because points share most of their data.
    pub fn of(self, domain: &str, id: PointId) -> Sample {
        let mix = |state: u64, byte: u8| next(&mut (state ^ u64::from(byte)));
        let seed = format!("{id} {domain}").bytes().fold(u64::from(self.seed), mix);
        Sample { seed: seed as u32, ..self }
    }

    /// Whether each of this many items is selected. The number of selected ones is rounded up, so at least one of any
    /// is.
    pub fn picks(self, all: usize) -> impl Iterator<Item = bool> {
        let mut wanted = (all as u64 * u64::from(self.percent)).div_ceil(100);
        let mut state = u64::from(self.seed);
        // Selection sampling: every set of this size is equally likely.
        (0..all as u64).map(move |at| {
            let is_picked = next(&mut state) % (all as u64 - at) < wanted;
            wanted -= u64::from(is_picked);
            is_picked
        })
    }
}

/// The next number of the generator SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(percent: u32, seed: u32, all: usize) -> Vec<usize> {
        Sample { percent, seed }.picks(all).enumerate().filter_map(|(at, is_picked)| is_picked.then_some(at)).collect()
    }

    #[test]
    fn sample_has_its_size_and_at_least_one_item() {
        for (percent, all, expected) in
            [(5, 0, 0), (1, 1, 1), (1, 99, 1), (1, 101, 2), (50, 9, 5), (100, 7, 7), (5, 1000, 50)]
        {
            for seed in 0..20 {
                assert_eq!(picked(percent, seed, all).len(), expected, "{percent}% of {all}");
            }
        }
    }

    #[test]
    fn seed_decides_the_sample_and_other_seeds_cover_other_items() {
        assert_eq!(picked(10, 7, 1000), picked(10, 7, 1000));
        assert_ne!(picked(10, 7, 1000), picked(10, 8, 1000));
        let mut counts = [0_u32; 20];
        (0..2000).for_each(|seed| picked(10, seed, 20).into_iter().for_each(|at| counts[at] += 1));
        assert!(counts.iter().all(|count| (130..270).contains(count)), "each is picked about 200 times: {counts:?}");
    }

    #[test]
    fn points_have_different_samples() {
        let (sample, id) = (Sample { percent: 5, seed: 1 }, |id: &str| id.parse::<PointId>().unwrap());
        let one = sample.of("a", id("20261122T020000Z"));
        assert_eq!(one, sample.of("a", id("20261122T020000Z")));
        for other in [sample.of("b", id("20261122T020000Z")), sample.of("a", id("20261123T020000Z"))] {
            assert_ne!(one.seed, other.seed);
        }
    }
}
