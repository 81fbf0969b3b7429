//! What can be wrong with a recipe, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a recipe file, counted from 1.
    Line {
        /// The file, or the name of an embedded recipe.
        file: String,
        /// Line of the key.
        line: u64,
    },
    /// An override `key=value`, as it was typed.
    Override(String),
    /// Nowhere: the default or a missing value of this recipe.
    Recipe(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(formatter, "`{file}` line {line}"),
            Self::Override(text) => write!(formatter, "override `{text}`"),
            Self::Recipe(name) => write!(formatter, "`{name}`"),
        }
    }
}

/// A recipe that cannot be used. All of these are wrong input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read; the message carries its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Neither a file nor an embedded recipe has this name.
    #[error("there is no file `{}` and no recipe of this name{}; `danlu recipes list` shows all", name.display(), did_you_mean(nearest))]
    NotFound {
        /// What was asked for.
        name: PathBuf,
        /// The nearest recipe name.
        nearest: Option<String>,
    },
    /// The text is not YAML.
    #[error("{place}: not valid YAML: {problem}")]
    Yaml {
        /// Line of the problem.
        place: Place,
        /// What the parser says.
        problem: String,
    },
    /// An override without `=`.
    #[error("override `{text}`: expected `key=value`, such as `learning_rate=1e-4`")]
    Override {
        /// What was typed.
        text: String,
    },
    /// A key that nobody knows.
    #[error("{place}: there is no option `{key}`{}", did_you_mean(nearest))]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// The nearest known one.
        nearest: Option<String>,
    },
    /// A key of another program that would change the result.
    #[error("{place}: `{key}: {value}` is not supported: {reason}; remove the line")]
    Unsupported {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What this program does instead.
        reason: &'static str,
    },
    /// A key or value that asks for what this program does not do.
    #[error("{place}: `{key}: {value}` asks for {topic}, which danlu does not do: {reason}")]
    NotDone {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it asks for.
        topic: &'static str,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// A value of the wrong type, or not among the known names.
    #[error("{place}: `{key}` must be {expected}, found `{found}`{}", did_you_mean(nearest))]
    Type {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// The type or the names.
        expected: Box<str>,
        /// The value.
        found: String,
        /// The nearest known name.
        nearest: Option<String>,
    },
    /// A value that is out of range or does not fit the others.
    #[error("{place}: {problem}")]
    Value {
        /// Where the value stands.
        place: Place,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The candidate that looks most like `text`, if any looks like it.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(text, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate.to_owned())
}
