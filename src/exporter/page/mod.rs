//! The status page: renders a ledger and a survey as HTML, worst problems first. The page loads no resources and runs no script.
//!
//! It is a pure function: the time is an argument. It must not read files, and names of guests, hooks and jobs must never become
//! markup.

mod charts;
mod guest;
mod headline;
mod others;
mod rows;
mod trouble;
mod words;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use handlebars::{Handlebars, RenderError, html_escape};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::ledger::{Ledger, Survey};
use crate::model::printable;
use guest::Guest;
use headline::Headline;
use others::{HookRow, JobRow, Left, ReportRow, Repository};
use rows::Row;
use trouble::Trouble;
use words::Moment;

/// The style sheet.
const STYLE: &str = include_str!("style.css");
/// The parsed template.
static TEMPLATE: LazyLock<Handlebars<'_>> = LazyLock::new(|| {
    let mut page = Handlebars::new();
    page.set_strict_mode(true);
    page.register_escape_fn(escape);
    if let Err(error) = page.register_template_string("page", include_str!("page.html.hbs")) {
        tracing::error!("the template of the status page cannot be read: {error}");
    }
    page
});

/// The input of all parts of the page.
struct View<'a> {
    ledger: &'a Ledger,
    survey: Option<&'a Survey>,
    /// A run is in progress.
    running: bool,
    now: DateTime<Utc>,
    guests: Vec<Guest<'a>>,
}

/// The severity of a state. Each has a symbol and a word, because not every reader can distinguish the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Tone {
    /// Unknown.
    Idle,
    /// Good.
    Good,
    /// A warning.
    Note,
    /// Critical.
    Bad,
}

/// A word with the symbol of its tone.
#[derive(Serialize)]
struct Badge {
    tone: Tone,
    word: String,
}

impl Badge {
    fn new(tone: Tone, word: &str) -> Badge {
        Badge { tone, word: word.to_owned() }
    }
}

/// The input of the template, which escapes every text.
#[derive(Serialize)]
struct Page<'a> {
    version: &'static str,
    style: &'static str,
    now: String,
    host: &'a str,
    running: bool,
    /// The time of the survey.
    looked: Option<Moment>,
    headline: Headline,
    troubles: Vec<Trouble>,
    guests: Vec<Row<'a>>,
    targets: Vec<Repository>,
    jobs: Vec<JobRow<'a>>,
    unprotected: Vec<&'a str>,
    excluded: Vec<&'a str>,
    left: Vec<Left<'a>>,
    hooks: Vec<HookRow<'a>>,
    reports: Vec<ReportRow>,
}

/// Renders the page. `running`: whether a run has the lock.
///
/// # Errors
/// The template cannot be rendered.
pub fn html(
    ledger: &Ledger,
    survey: Option<&Survey>,
    running: bool,
    now: DateTime<Utc>,
) -> Result<String, Box<RenderError>> {
    let guests = guest::all(ledger, survey, running, now);
    let view = View { ledger, survey, running, now, guests };
    let troubles = trouble::all(&view);
    let names =
        |is: fn(&Guest<'_>) -> bool| view.guests.iter().filter(|guest| is(guest)).map(|guest| guest.name).collect();
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        style: STYLE,
        now: words::full(now),
        host: survey.map_or("", |survey| survey.host.as_str()),
        running,
        looked: survey.map(|survey| Moment::of(now, survey.time)),
        headline: headline::of(&view, &troubles),
        troubles,
        guests: rows::all(&view),
        targets: survey
            .iter()
            .flat_map(|survey| survey.targets())
            .map(|seen| others::repository(&view, seen))
            .collect(),
        jobs: others::jobs(&view),
        unprotected: names(|guest| guest.is_unprotected()),
        excluded: names(|guest| guest.is_excluded() && guest.is_defined()),
        left: others::left(&view),
        hooks: others::hooks(&view),
        reports: others::reports(&view),
    };
    Ok(TEMPLATE.render("page", &page)?)
}

/// The hash of the style for the content security policy: <https://www.w3.org/TR/CSP3/#grammardef-hash-source>.
pub fn style_hash() -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(STYLE)))
}

fn escape(text: &str) -> String {
    html_escape(&printable(text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_escaped() {
        assert_eq!(
            super::escape("<a href=\"x\" b='c'>&\0\n\u{202e}ü"),
            "&lt;a href&#x3D;&quot;x&quot; b&#x3D;&#x27;c&#x27;&gt;&amp;\u{fffd} \u{fffd}ü"
        );
    }
}
