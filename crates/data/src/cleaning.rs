//! Raw text → text worth training on. Each rule is a small pure function in a file of its own; [`Cleaner`] applies
//! them to the texts of a row, and [`clean_files`] does so for whole corpora and counts what each rule did.
//!
//! Source files are never touched. What a rule changes or drops is reported with samples, never done in silence.

mod blocklist;
mod boilerplate;
mod characters;
mod cleaner;
mod files;
mod journal;
mod language;
mod normalization;
mod options;
mod output;
mod personal_data;
mod punctuation;
mod repetition;
mod report;
mod row_texts;
mod rule_file;
mod run;
mod sentence_end;
mod whitespace;

pub use cleaner::Cleaner;
pub use files::{Inputs, SampleFiles, list_files};
pub use options::{CleaningOptions, Normalization, OnBlocked, Preset, Punctuation, Whitespace, Width};
pub use personal_data::PersonalData;
pub use report::{CleaningReport, Sample};
pub use rule_file::RuleSource;
pub use run::{CleaningJob, Progress, clean_files, parts_folder};

/// A text after a rule that did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The text.
    pub text: String,
    /// How often the rule did something.
    pub count: u64,
}

impl Change {
    /// Replaces each character, or removes it; none if all stay as they are.
    fn of_characters(text: &str, mut replace: impl FnMut(char) -> Option<char>) -> Option<Self> {
        let (mut changed, mut end, mut count) = (String::new(), 0, 0);
        for (place, character) in text.char_indices() {
            let replacement = replace(character);
            if replacement != Some(character) {
                if count == 0 {
                    changed.reserve(text.len());
                }
                changed.push_str(&text[end..place]);
                changed.extend(replacement);
                end = place + character.len_utf8();
                count += 1;
            }
        }
        if count == 0 {
            return None;
        }
        changed.push_str(&text[end..]);
        Some(Self { text: changed, count })
    }
}
