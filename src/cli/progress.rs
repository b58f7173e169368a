//! Shows progress on a terminal, with one bar per domain. Must not be used without a terminal, because cron mails all
//! output.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::Monitor;
use crate::model::DomainOutcome;

/// Bars on standard error.
pub struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// Has no bars yet; a domain gets one with its first stage.
    pub fn new() -> Bars {
        Bars { all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), bars: Mutex::default() }
    }

    fn with(&self, domain: &str, change: impl FnOnce(&ProgressBar)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(domain.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            bar.set_style(style());
            bar.set_prefix(domain.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        change(bar);
    }
}

impl Default for Bars {
    fn default() -> Bars {
        Bars::new()
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:20!} {msg:9} {wide_bar:.cyan/dim} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Monitor for Bars {
    fn stage(&self, domain: &str, stage: &str) {
        self.with(domain, |bar| bar.set_message(stage.to_owned()));
    }

    fn expect(&self, domain: &str, bytes: u64) {
        self.with(domain, |bar| bar.set_length(bytes));
    }

    fn advance(&self, domain: &str, bytes: u64) {
        self.with(domain, |bar| bar.inc(bytes));
    }

    fn done(&self, outcome: &DomainOutcome) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.remove(&outcome.domain) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }
}
