//! Does many small waits at once. Must not know what is waited for.

use rayon::prelude::*;

/// Number of threads. More than cores, because the threads wait for a target.
const THREADS: usize = 16;

/// The results for all items, in their order.
pub fn at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    match rayon::ThreadPoolBuilder::new().num_threads(THREADS.min(items.len())).build() {
        Ok(pool) if items.len() > 1 => pool.install(|| items.par_iter().map(work).collect()),
        _ => items.iter().map(work).collect(),
    }
}
