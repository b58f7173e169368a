//! Owns: the problems of a configuration file and their texts. Must not: read the file.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Mail;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// The key's path (`cloud1.domains.web1.rotate`); empty where no key is meant.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be valid.
    pub valid: Option<String>,
    /// The valid word that is nearest to what was written.
    pub nearest: Option<String>,
}

/// All problems of one file, shown as one line each, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file.
    pub file: PathBuf,
    /// Never empty.
    pub problems: Vec<Problem>,
    /// What to run when the file itself is the problem.
    pub hint: Option<Box<str>>,
    /// What could be read regardless.
    pub salvaged: Salvaged,
}

/// What could be read of an invalid file: enough to report that it is invalid in metrics and by mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The state directory, unless it is the default.
    pub state_dir: Option<PathBuf>,
    /// The textfile for the metrics, if one is configured.
    pub textfile: Option<PathBuf>,
    /// How runs are mailed, if that is configured and valid.
    pub mail: Option<Box<Mail>>,
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(line) = problem.line {
                write!(f, "{line}:")?;
            }
            write!(f, " {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(valid) = &self.valid {
            write!(f, "; valid: {valid}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

impl Errors {
    /// A single problem, with nothing salvaged.
    pub fn one(file: &Path, problem: Problem) -> Errors {
        Errors { file: file.to_owned(), problems: vec![problem], hint: None, salvaged: Salvaged::default() }
    }
}

impl Problem {
    /// A problem of the whole file, or of a line with no key.
    pub fn of_file(line: Option<usize>, message: impl Into<String>) -> Problem {
        Problem { line, key: String::new(), message: message.into(), valid: None, nearest: None }
    }
}

/// Collects problems while a file is checked.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn add(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// An error unless the collection is empty.
    pub(super) fn finish(mut self, file: &Path, salvaged: Salvaged) -> Result<(), Errors> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|problem| problem.line);
        // The hooks of a level are joined for each entry below it, but reported once.
        self.0.dedup();
        Err(Errors { file: file.to_owned(), problems: self.0, hint: None, salvaged })
    }
}

/// The most similar one of `words`, ignoring case, if it is similar enough to be a typing error.
pub(crate) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// Comparing costs the square of the length, and a longer word is no typing error.
    const LONGEST: usize = 256;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let score = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let distance = strsim::damerau_levenshtein(&word, &candidate);
        let length = candidate.chars().count();
        let near = distance <= 1 + length.min(word.chars().count()) / 4 && distance < length;
        // Of two that are as near, the one that begins alike.
        near.then(|| (distance, 1.0 - strsim::jaro_winkler(&word, &candidate)))
    };
    let candidates = words.into_iter().filter(|candidate| candidate.len() <= LONGEST);
    let scored = candidates.filter_map(|candidate| Some((score(candidate)?, candidate)));
    let best = scored.min_by(|((d1, s1), _), ((d2, s2), _)| d1.cmp(d2).then(s1.total_cmp(s2)));
    best.map(|(_, candidate)| candidate.to_owned())
}
