//! What cleaning does: the rules that are on, with their limits, and the presets that turn on several.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::personal_data::PersonalData;
use super::rule_file::RuleSource;
use crate::error::{DataError, Result};

/// Which spelling of the same characters texts get (UAX #15).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Normalization {
    /// As they are.
    #[default]
    None,
    /// Composed.
    Nfc,
    /// Composed, without compatibility forms.
    Nfkc,
}

/// Which full-width characters become ASCII.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Width {
    /// None.
    #[default]
    Keep,
    /// Letters and digits.
    Letters,
    /// Punctuation and the ideographic space too.
    All,
}

/// What becomes of space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Whitespace {
    /// It stays.
    #[default]
    Keep,
    /// Line ends become LF.
    LineEnds,
    /// Besides, space before them goes.
    Trailing,
    /// Besides, several spaces become one, several blank lines one, ideographic indents go.
    Collapse,
}

/// What becomes of runs of punctuation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Punctuation {
    /// They stay.
    #[default]
    Keep,
    /// The same mark again goes.
    Repeated,
    /// Of each run the first mark stays, and spaces become `，`.
    Runs,
    /// The same, with the letter `s` among the marks.
    RunsAndS,
}

/// What becomes of rows with words of the blocklist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum OnBlocked {
    /// They are dropped.
    #[default]
    Drop,
    /// The words are masked.
    Mask,
}

/// A set of rules under a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preset {
    /// No rule: rows are only brought together.
    None,
    /// What hurts no text.
    #[default]
    Safe,
    /// Chinese prose.
    CorpusZh,
    /// Chinese pages of the web.
    Web,
    /// As Baby-Llama2 cleans, without its defect.
    BabyLlama2,
    /// As literary-alpaca2 cleans books.
    LiteraryAlpaca2,
}

/// Rules and their limits. The default turns nothing on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CleaningOptions {
    /// Columns whose texts are cleaned; where none is named, `text`, else all with usual names.
    pub columns: Vec<String>,
    /// Rows are written with this column alone; the texts of several columns are joined by newlines.
    pub output_column: Option<String>,
    /// Unicode normalization.
    pub normalization: Normalization,
    /// Full-width letters.
    pub width: Width,
    /// Controls, zero-width characters and the like are removed.
    pub remove_invisible: bool,
    /// Space and line ends.
    pub whitespace: Whitespace,
    /// Regular expressions whose matches are removed.
    pub rules: Option<RuleSource>,
    /// `；` becomes a line end, after those.
    pub semicolons_to_line_ends: bool,
    /// Personal data that is masked.
    pub mask: Vec<PersonalData>,
    /// What is written in its place, where it is not the usual placeholder.
    pub placeholders: BTreeMap<PersonalData, String>,
    /// File of words that must not be trained on.
    pub blocklist: Option<PathBuf>,
    /// What becomes of rows with them.
    pub on_blocked: OnBlocked,
    /// Runs of punctuation.
    pub punctuation: Punctuation,
    /// Lines that stand in more rows than this are removed.
    pub max_line_rows: Option<u64>,
    /// File of lines that are removed wherever they stand alone on a line.
    pub boilerplate_lines: Option<PathBuf>,
    /// What follows the last mark that ends a sentence is cut.
    pub cut_unfinished: bool,
    /// Rows of which nothing is left are dropped.
    pub drop_empty: bool,
    /// Rows with fewer characters are dropped.
    pub min_chars: Option<u64>,
    /// Rows with more characters are dropped.
    pub max_chars: Option<u64>,
    /// Rows with a lower share of Chinese characters are dropped.
    pub min_cjk_share: Option<f64>,
    /// Rows with a higher share of repeated lines are dropped.
    pub max_duplicate_line_share: Option<f64>,
    /// Rows with a higher share of one sequence of four words are dropped.
    pub max_top_ngram_share: Option<f64>,
    /// Rows with a higher share of repeated sequences of ten words are dropped.
    pub max_duplicate_ngram_share: Option<f64>,
}

impl Preset {
    /// The rules of the preset.
    pub fn options(self) -> CleaningOptions {
        let none = CleaningOptions::default();
        let safe = CleaningOptions {
            remove_invisible: true,
            whitespace: Whitespace::Trailing,
            drop_empty: true,
            ..none.clone()
        };
        let corpus_zh = CleaningOptions {
            normalization: Normalization::Nfc,
            width: Width::Letters,
            whitespace: Whitespace::Collapse,
            punctuation: Punctuation::Repeated,
            min_chars: Some(20),
            // The values of the paper. Four Chinese characters are about two words, for which it has 0.2; ten are about six,
            // for which it has 0.14.
            max_duplicate_line_share: Some(0.2),
            max_top_ngram_share: Some(0.2),
            max_duplicate_ngram_share: Some(0.14),
            ..safe.clone()
        };
        match self {
            Self::None => none,
            Self::Safe => safe,
            Self::Web => CleaningOptions {
                mask: vec![PersonalData::IdCard, PersonalData::Phone, PersonalData::Email],
                max_line_rows: Some(50),
                min_cjk_share: Some(0.3),
                ..corpus_zh
            },
            Self::CorpusZh => corpus_zh,
            Self::BabyLlama2 => CleaningOptions {
                output_column: Some("response".to_owned()),
                whitespace: Whitespace::LineEnds,
                punctuation: Punctuation::Runs,
                min_chars: Some(15),
                ..none
            },
            Self::LiteraryAlpaca2 => CleaningOptions {
                rules: Some(RuleSource::LiteraryAlpaca2),
                semicolons_to_line_ends: true,
                ..none
            },
        }
    }
}

impl CleaningOptions {
    /// The files that rules are read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let rules = match &self.rules {
            Some(RuleSource::File(path)) => Some(path),
            Some(RuleSource::LiteraryAlpaca2) | None => None,
        };
        let files = [rules, self.blocklist.as_ref(), self.boilerplate_lines.as_ref()];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Whether the values can work.
    ///
    /// # Errors
    /// A share outside 0 to 1; limits that leave nothing.
    pub fn check(&self) -> Result<()> {
        let shares = [
            ("min-cjk-share", self.min_cjk_share),
            ("max-duplicate-line-share", self.max_duplicate_line_share),
            ("max-top-ngram-share", self.max_top_ngram_share),
            ("max-duplicate-ngram-share", self.max_duplicate_ngram_share),
        ];
        for (option, share) in shares {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                let problem = format!("expected a share from 0 to 1, found {share}");
                return Err(DataError::Option { option, problem });
            }
        }
        if let (Some(least), Some(most)) = (self.min_chars, self.max_chars)
            && least > most
        {
            let problem = format!("{most} is below `min-chars`, which is {least}: no row could stay");
            return Err(DataError::Option { option: "max-chars", problem });
        }
        Ok(())
    }
}
