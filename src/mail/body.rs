//! Renders the two parts of an email from a report and additional information. It must not send mail.

mod example;
mod view;

use std::path::Path;

use handlebars::{Handlebars, no_escape};

use self::view::View;
use super::{Error, Gist};
use crate::config::Settings;
use crate::ledger::{Survey, Untold};
use crate::model::RunReport;
use crate::sys::{opened, trust};

const TEXT: (&str, &str) = ("report.txt.hbs", include_str!("templates/report.txt.hbs"));
const HTML: (&str, &str) = ("report.html.hbs", include_str!("templates/report.html.hbs"));
/// The largest HTML part, in bytes. Both parts in base64 stay below 64 kB, because some gateways reject or truncate longer emails.
const HTML_LIMIT: usize = 24_000;
/// The longest report in the text part, in bytes.
const TEXT_LIMIT: usize = 20_000;
/// Maximum size of an operator's template, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;
/// Maximum number of domains and hook outputs; fewer if they do not fit.
const SHOWN: [usize; 5] = [60, 25, 10, 3, 0];

/// Information in addition to the report.
#[derive(Debug, Clone, Copy)]
pub struct Background<'a> {
    /// The summary of the run.
    pub gist: &'a Gist,
    /// The settings, to compute what is due next; `None` if they cannot be read.
    pub settings: Option<&'a Settings>,
    /// The last survey, for the free space.
    pub survey: Option<&'a Survey>,
    /// Guests that should have been due; see [`late`](super::late).
    pub late: &'a [String],
    /// Earlier runs that were not mailed.
    pub untold: &'a [Untold],
}

/// The parts of an email.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bodies {
    /// The text part; `kvmbackup report` prints the end of a long report.
    pub text: String,
    /// The HTML part, limited in size with the built-in template.
    pub html: String,
    /// Errors of operator templates; the built-in ones are used instead.
    pub complaints: Vec<String>,
}

/// Renders both parts. `templates` is a directory that may contain `report.txt.hbs` and `report.html.hbs`.
///
/// # Errors
/// A built-in template cannot be rendered.
pub fn bodies(report: &RunReport, facts: Background<'_>, templates: Option<&Path>) -> Result<Bodies, Error> {
    let mut complaints = Vec::new();
    let full = View::new(report, facts, usize::MAX);
    let text = render(TEXT, &full, templates, &mut complaints)?;
    let mut html = String::new();
    for shown in SHOWN {
        complaints.retain(|complaint: &String| !complaint.contains(HTML.0));
        html = render(HTML, &View::new(report, facts, shown), templates, &mut complaints)?;
        if html.len() <= HTML_LIMIT {
            break;
        }
    }
    Ok(Bodies { text, html, complaints })
}

/// The HTML part alone, with the built-in template.
///
/// # Errors
/// The template cannot be rendered.
pub fn html(report: &RunReport, facts: Background<'_>) -> Result<String, Error> {
    Ok(bodies(report, facts, None)?.html)
}

/// Renders the templates of a directory with a run that has every field, and returns their errors.
///
/// # Errors
/// A built-in template cannot be rendered.
pub fn check_templates(templates: &Path) -> Result<Vec<String>, Error> {
    let mut complaints = Vec::new();
    for template in [TEXT, HTML] {
        render(template, &example::view(), Some(templates), &mut complaints)?;
    }
    Ok(complaints)
}

fn read(template: &Path) -> std::io::Result<String> {
    opened::read_followed(template, MAX_TEMPLATE).and_then(opened::text).map(|text| text.replace("\r\n", "\n"))
}

fn render(
    (name, built_in): (&str, &str),
    view: &View,
    templates: Option<&Path>,
    complaints: &mut Vec<String>,
) -> Result<String, Error> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    if name == TEXT.0 {
        registry.register_escape_fn(no_escape);
    }
    if let Some(path) = templates.map(|folder| folder.join(name)).filter(|path| path.exists()) {
        // Its contents are mailed, and a link could point to any file that root can read.
        let own = trust::file(&path).map_err(|refused| refused.to_string());
        let own = own.and_then(|()| read(&path).map_err(|error| error.to_string()));
        match own.and_then(|own| registry.render_template(&own, view).map_err(|error| error.to_string())) {
            Ok(text) => return Ok(text),
            Err(error) => complaints.push(format!(
                "cannot use the template {}, using the built-in one: {}",
                path.display(),
                error.split_whitespace().collect::<Vec<_>>().join(" ")
            )),
        }
    }
    Ok(registry.render_template(built_in, view).map_err(Box::new)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::mail::gist;
    use crate::report::sample;

    #[test]
    fn template_that_others_can_change_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TEXT.0);
        std::fs::write(&path, "theirs").unwrap();
        for (mode, own) in [(0o644, true), (0o666, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let made = of(&sample::good(), Some(dir.path()));
            assert_eq!(made.text == "theirs", own, "{mode:o}");
            assert_eq!(made.complaints.is_empty(), own, "{:?}", made.complaints);
        }
    }

    #[test]
    fn template_with_windows_line_endings_makes_normal_lines() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TEXT.0), "{{#each domains}}\r\n{{name}}\r\n{{/each}}\r\nend\r\n").unwrap();
        let made = of(&sample::good(), Some(dir.path()));
        assert!(made.text.ends_with("\nend\n") && !made.text.contains('\r'), "{:?}", made.text);
    }

    fn of(report: &RunReport, templates: Option<&Path>) -> Bodies {
        let gist = gist(report, report.result(), &[]);
        let facts = Background { gist: &gist, settings: None, survey: None, late: &[], untold: &[] };
        bodies(report, facts, templates).unwrap()
    }

    #[test]
    fn text_contains_the_whole_report_and_a_footer() {
        let report = sample::bad();
        let text = of(&report, None).text;
        assert!(text.starts_with(&crate::report::text(&report, false, crate::report::WIDTH)), "{text}");
        for words in ["\n-- \nhost     cloud1, kvmbackup 0.1.0\n", "kvmbackup list", "journalctl", "cannot be read"] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
    }

    #[test]
    fn html_lists_failures_first_and_loads_no_external_content() {
        let html = of(&sample::bad(), None).html;
        let at = |word: &str| html.find(word).unwrap_or_else(|| panic!("{word} is not in {html}"));
        assert!(at(">db1<") < at(">files<") && at(">files<") < at(">DockerNode1<"));
        for word in ["No space left on device", "Free space on", "the ping was not taken", "lang=\"en\"", "crash"] {
            at(word);
        }
        for word in ["<script", "src=", "url(", "<link", "<style", "http"] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn mails_of_long_runs_stay_small_and_hostile_names_are_escaped() {
        let mut report = sample::bad();
        report.domains[1].domain = "<script>alert(1)</script>&\u{202e}\0".to_owned();
        for n in 0..900 {
            let mut domain = report.domains[n % 3].clone();
            domain.domain = format!("guest-{n}");
            if let Some(hook) = domain.hooks.last_mut() {
                hook.output = Some("\"'<>&".repeat(13_000));
            }
            report.domains.push(domain);
        }
        let bodies = of(&report, None);
        assert!(bodies.html.len() <= HTML_LIMIT, "{}", bodies.html.len());
        assert!(bodies.html.contains("more domains"));
        assert!(bodies.text.len() <= TEXT_LIMIT + 2000 && bodies.text.contains("kvmbackup report"), "{}", bodies.text);
        assert!(!bodies.html.contains("<script") && !bodies.html.contains(['\0', '\u{202e}']));
    }

    #[test]
    fn each_template_can_be_replaced_separately_and_invalid_ones_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let built_in = of(&sample::good(), None);
        std::fs::write(dir.path().join(TEXT.0), "{{status}} & on {{host}}").unwrap();
        let own = of(&sample::good(), Some(dir.path()));
        assert_eq!((own.text.as_str(), &own.html), ("OK & on cloud1", &built_in.html));
        for bad in ["{{nosuch}}", "{{#each", "{{status"] {
            std::fs::write(dir.path().join(TEXT.0), bad).unwrap();
            let own = of(&sample::good(), Some(dir.path()));
            assert_eq!(own.text, built_in.text);
            assert_eq!(own.complaints.len(), 1);
            assert!(own.complaints[0].contains("report.txt.hbs"), "{:?}", own.complaints);
        }
    }
}
