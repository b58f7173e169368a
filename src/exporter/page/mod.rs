//! The status page: what somebody looks at who was woken.
//!
//! Owns: how a ledger and a survey look as HTML, worst first. Pure: the time is an argument. Nothing is loaded from elsewhere
//! and nothing runs. Must not: read files, or let a name of a guest, a hook or a job be more than text.

mod charts;
mod guest;
mod guests;
mod headline;
mod others;
mod trouble;
mod words;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::ledger::{Ledger, Survey};
use guest::Guest;
use headline::Headline;
use words::{symbol, time};

/// The style of the page.
const STYLE: &str = include_str!("style.css");
/// Seconds after which a browser asks again.
const REFRESH: u32 = 60;

/// All that the page is made from.
struct View<'a> {
    ledger: &'a Ledger,
    survey: Option<&'a Survey>,
    /// A run is on.
    running: bool,
    now: DateTime<Utc>,
    guests: Vec<Guest<'a>>,
}

/// How something stands; each has a symbol and a word, for colour alone tells not everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tone {
    /// Nothing can be said.
    Idle,
    /// All is well.
    Good,
    /// Worth a look by day.
    Note,
    /// Look now.
    Bad,
}

/// The page, for the state of now. `running` says whether a run holds the lock.
pub fn html(ledger: &Ledger, survey: Option<&Survey>, running: bool, now: DateTime<Utc>) -> String {
    let guests = guest::all(ledger, survey, running, now);
    let view = View { ledger, survey, running, now, guests };
    let troubles = trouble::all(&view);
    let headline = headline::of(&view, &troubles);
    let parts = [
        header(&view, &headline),
        trouble::section(&troubles),
        guests::section(&view),
        format!("<div class=\"pair\">{}{}</div>", others::repository(&view), others::jobs(&view)),
        others::unprotected(&view),
        others::excluded(&view),
        others::left(&view),
        others::hooks(&view),
        others::reports(&view),
        footer(&view),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"refresh\" content=\"{REFRESH}\">\
         <title>{} – kvmbackup</title><style>{STYLE}</style></head>\n<body>\n{}</body></html>\n",
        words::text(&headline.title),
        parts.concat(),
    )
}

/// The hash of the style, as a content security policy names it: <https://www.w3.org/TR/CSP3/#grammardef-hash-source>.
pub fn style_hash() -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(STYLE)))
}

fn header(view: &View<'_>, headline: &Headline) -> String {
    let host = view.survey.map_or("", |survey| survey.host.as_str());
    let host = if host.is_empty() { String::new() } else { format!(" on {}", words::name(host)) };
    format!(
        "<header class=\"top {}\"><p class=\"brand\">kvmbackup{host}</p><div class=\"headline\">{}<div><h1>{}</h1>\
         <p>{}</p></div></div></header>\n<main>\n",
        headline.tone.class(),
        symbol(headline.tone),
        words::text(&headline.sentence),
        headline.below,
    )
}

fn footer(view: &View<'_>) -> String {
    let looked = match view.survey {
        Some(survey) => format!("libvirt and the repository were looked at {}", time(view.now, survey.time)),
        None => "libvirt and the repository have not been looked at yet".to_owned(),
    };
    format!(
        "</main>\n<footer><p>kvmbackup {} · {} · {looked} · this page renews itself every minute</p>\
         <p><a href=\"/metrics\">metrics</a> <a href=\"/-/ready\">ready</a> <a href=\"/-/healthy\">healthy</a></p></footer>\n",
        env!("CARGO_PKG_VERSION"),
        view.now.format("%a %-d %b %Y %H:%M UTC"),
    )
}

impl Tone {
    /// Its class in the style.
    fn class(self) -> &'static str {
        match self {
            Tone::Idle => "idle",
            Tone::Good => "good",
            Tone::Note => "note",
            Tone::Bad => "bad",
        }
    }
}
