//! Owns: what is wrong with a configuration file, all of it at once, as people read it. Must not: read the file.

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
    /// What would be right.
    pub valid: Option<String>,
    /// The valid word that is nearest to what was written.
    pub nearest: Option<String>,
}

/// Everything that is wrong with one file; shown as one line each, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file.
    pub file: PathBuf,
    /// Never empty.
    pub problems: Vec<Problem>,
    /// What the operator can type, where the file itself is the problem.
    pub hint: Option<Box<str>>,
    /// What could be read all the same.
    pub salvaged: Salvaged,
}

/// What could be read of a file that is wrong: enough to tell those who watch that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The state folder, where one is named.
    pub state_dir: Option<PathBuf>,
    /// The file for the metrics, where one is named.
    pub textfile: Option<PathBuf>,
    /// How runs are mailed, where that is said without a mistake.
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
    /// A single problem, of which nothing could be salvaged.
    pub fn one(file: &Path, problem: Problem) -> Errors {
        Errors { file: file.to_owned(), problems: vec![problem], hint: None, salvaged: Salvaged::default() }
    }
}

impl Problem {
    /// A problem of the whole file, or of one line of it where no key is known.
    pub fn of_file(line: Option<usize>, message: impl Into<String>) -> Problem {
        Problem { line, key: String::new(), message: message.into(), valid: None, nearest: None }
    }
}

/// Collects problems while a file is checked.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Notes one more.
    pub(super) fn add(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Ends the collection: an error if there is anything in it.
    pub(super) fn finish(mut self, file: &Path, salvaged: Salvaged) -> Result<(), Errors> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|problem| problem.line);
        // What a level says counts for several entries below it, and is wrong once.
        self.0.dedup();
        Err(Errors { file: file.to_owned(), problems: self.0, hint: None, salvaged })
    }
}

/// The one of `words` that is nearest to `word`, in any case, if it is near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// A longer word is no slip of the keys, and comparing it costs its length squared.
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
