//! Does many small waits at once. Must not know what is waited for.

use rayon::prelude::*;

/// The results for all items, in their order. May use more threads than cores, because they wait for a target.
pub fn at_once<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    match rayon::ThreadPoolBuilder::new().num_threads(threads.min(items.len())).build() {
        Ok(pool) if items.len() > 1 => pool.install(|| items.par_iter().map(work).collect()),
        _ => items.iter().map(work).collect(),
    }
}
