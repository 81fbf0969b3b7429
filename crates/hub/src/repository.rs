//! What is asked for: a model or a data set by its id, at a revision.

use std::fmt;

use crate::{Error, Result};

/// Longest id that Hugging Face allows.
const LONGEST: usize = 96;

/// What a repository holds; hubs keep the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Weights, configuration, tokenizer.
    Model,
    /// Rows.
    Dataset,
}

impl Kind {
    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// Its name in addresses.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Model => Self::Dataset,
            Self::Dataset => Self::Model,
        }
    }
}

/// A repository of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Model or data set.
    pub kind: Kind,
    /// `org/name`.
    pub id: String,
    /// Branch, tag or commit; without one the hub's main branch.
    pub revision: Option<String>,
}

impl Repository {
    /// Reads `org/name` or `org/name@revision`.
    ///
    /// # Errors
    /// Anything else; an address of a page is answered with the id that it contains.
    pub fn parse(kind: Kind, text: &str) -> Result<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let words = id.split_once('/');
        let is_id = id.len() <= LONGEST && words.is_some_and(|(owner, name)| is_word(owner) && is_word(name));
        if !is_id || revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(Error::Id { text: text.to_owned(), meant: within_address(text) });
        }
        Ok(Self { kind, id: id.to_owned(), revision: revision.map(str::to_owned) })
    }

    /// The same at another revision.
    ///
    /// # Errors
    /// A revision that no branch, tag or commit can be named.
    pub fn at(mut self, revision: Option<String>) -> Result<Self> {
        if let Some(revision) = revision {
            if !is_revision(&revision) {
                return Err(Error::Id { text: format!("{}@{revision}", self.id), meant: None });
            }
            self.revision = Some(revision);
        }
        Ok(self)
    }

    /// Whether the revision is a whole commit hash, which never means anything else.
    pub(crate) fn commit(&self) -> Option<&str> {
        let is_hash = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.revision.as_deref().filter(|revision| is_hash(revision))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.id)?;
        self.revision.iter().try_for_each(|revision| write!(formatter, "@{revision}"))
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with(['.', '-'])
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// It becomes a path below `refs/`.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_word)
}

/// The id in the address of a page of a hub.
fn within_address(text: &str) -> Option<String> {
    let (_, path) = text.split_once("://")?.1.split_once('/')?;
    let words: Vec<&str> =
        path.split('/').filter(|word| !["models", "datasets", ""].contains(word)).take(2).collect();
    (words.len() == 2 && words.iter().all(|word| is_word(word))).then(|| words.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_two_words_and_maybe_a_revision() {
        let parse = |text| Repository::parse(Kind::Model, text);
        let plain = parse("Qwen/Qwen2.5-0.5B").unwrap();
        assert_eq!((plain.id.as_str(), plain.revision.as_deref()), ("Qwen/Qwen2.5-0.5B", None));
        let at = parse("a/b@refs/pr/1").unwrap();
        assert_eq!((at.id.as_str(), at.revision.as_deref()), ("a/b", Some("refs/pr/1")));
        assert_eq!(at.to_string(), "a/b@refs/pr/1");
        for wrong in
            ["a", "a/b/c", "/a/b", "../b", "a/..", "a/.b", "-a/b", "a b/c", "模型/七", "a/b@", "a/b@../x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_answered_with_the_id_in_it() {
        let message = |text| Repository::parse(Kind::Model, text).unwrap_err().to_string();
        for address in ["https://hub.example/a/b", "https://hub.example/datasets/a/b/tree/main"] {
            assert_eq!(
                message(address),
                format!(
                    "`{address}` is no id of a hub: expected `org/name` or `org/name@revision`; give `a/b`"
                )
            );
        }
    }

    #[test]
    fn only_whole_hashes_are_commits() {
        let commit = |revision: &str| {
            let at = Repository::parse(Kind::Model, &format!("a/b@{revision}")).unwrap();
            at.commit().is_some()
        };
        assert!(commit("0123456789abcdef0123456789abcdef01234567"));
        assert!(!commit("0123456") && !commit("main"));
    }
}
