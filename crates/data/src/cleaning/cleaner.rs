//! The rules of [`CleaningOptions`], in their order, on the texts of one row.
//!
//! Order: line ends, normalization, width, invisible characters, boilerplate lines, rule file, personal data,
//! blocked words, punctuation, unfinished sentences, space; then the rules that drop rows look at what is left.

use serde_json::{Map, Value};

use super::blocklist::Blocklist;
use super::boilerplate::{BoilerplateLines, line_hashes};
use super::personal_data::PersonalData;
use super::report::{CleaningReport, DropReport, RuleReport, around_change, beginning};
use super::row_texts::texts_of;
use super::rule_file::{Pattern, semicolons_to_line_ends};
use super::{
    Change, CleaningOptions, Normalization, OnBlocked, Punctuation, Whitespace, Width, characters, language,
    normalization, punctuation, repetition, sentence_end, whitespace,
};
use crate::error::{Result, RowProblem};
use crate::records::Content;

/// Rules that are ready to be applied.
pub struct Cleaner {
    options: CleaningOptions,
    edits: Vec<(String, Edit)>,
    filters: Vec<(&'static str, Filter)>,
}

/// A rule that changes a text.
enum Edit {
    Characters(fn(&str) -> Option<Change>),
    Boilerplate(BoilerplateLines),
    Pattern(Pattern),
    Mask(PersonalData, String),
    Blocklist(Blocklist),
}

/// A rule that drops a row.
enum Filter {
    Empty,
    Blocked(Blocklist),
    MinChars(u64),
    MaxChars(u64),
    MinShare(fn(&str) -> f64, f64),
    MaxShare(fn(&str) -> f64, f64),
}

/// A row after cleaning.
pub(super) struct CleanedRow {
    /// What each edit did that did something, by its index.
    pub changes: Vec<(usize, RowChange)>,
    pub characters_read: u64,
    pub fate: Fate,
}

#[derive(Default)]
pub(super) struct RowChange {
    pub times: u64,
    pub characters_removed: i64,
    pub sample: Option<(String, String)>,
}

pub(super) enum Fate {
    Kept { row: Map<String, Value>, characters: u64 },
    Dropped { filter: usize, found: String, text: String },
}

impl Cleaner {
    /// Reads the files that the rules name.
    ///
    /// # Errors
    /// A limit that cannot work; a file that cannot be read; a regular expression that is none.
    pub fn new(options: CleaningOptions) -> Result<Self> {
        options.check()?;
        Ok(Self { edits: edits(&options)?, filters: filters(&options)?, options })
    }

    /// The options that it follows.
    pub fn options(&self) -> &CleaningOptions {
        &self.options
    }

    /// Rows are to be written with one column alone, which gets this name.
    pub(super) fn write_single(&mut self, column: &str) {
        self.options.output_column = Some(column.to_owned());
    }

    /// A report in which every rule has its place and nothing is counted.
    pub(super) fn empty_report(&self) -> CleaningReport {
        let changes =
            self.edits.iter().map(|(rule, _)| RuleReport { rule: rule.clone(), ..RuleReport::default() });
        let drops =
            self.filters.iter().map(|(rule, _)| DropReport { rule: (*rule).into(), ..DropReport::default() });
        CleaningReport { changes: changes.collect(), drops: drops.collect(), ..CleaningReport::default() }
    }

    /// The rule that removes boilerplate lines, with its place.
    fn boilerplate(&self) -> Option<usize> {
        self.edits.iter().position(|(_, edit)| matches!(edit, Edit::Boilerplate(_)))
    }

    /// Adds lines that the rule for boilerplate removes.
    pub(super) fn remove_lines(&mut self, hashes: Vec<u64>) {
        for (_, edit) in &mut self.edits {
            if let Edit::Boilerplate(lines) = edit {
                lines.extend(hashes);
                return;
            }
        }
    }

    /// The hashes of the lines of a row as the rule for boilerplate meets them, each once.
    pub(super) fn lines(&self, mut content: Content) -> Result<Vec<u64>, RowProblem> {
        let mut hashes = Vec::new();
        for text in texts_of(&mut content, &self.options.columns)? {
            for (_, edit) in &self.edits[..self.boilerplate().unwrap_or(0)] {
                if let Some(change) = edit.apply(text)? {
                    *text = change.text;
                }
            }
            hashes.extend(line_hashes(text));
        }
        hashes.sort_unstable();
        hashes.dedup();
        Ok(hashes)
    }

    /// Applies the rules. Samples are taken for the edits that `wants_sample` names by their index.
    pub(super) fn clean(
        &self,
        mut content: Content,
        wants_sample: &[bool],
    ) -> Result<CleanedRow, RowProblem> {
        let mut changes = Vec::new();
        let (mut characters_read, mut characters) = (0, 0);
        let mut was_emptied = false;
        let mut texts = texts_of(&mut content, &self.options.columns)?;
        for text in &mut texts {
            let was_blank = is_blank(text);
            characters_read += count(text);
            characters += self.edit(text, wants_sample, &mut changes)?;
            was_emptied |= !was_blank && is_blank(text);
        }
        let joined;
        let whole: &str = match &texts[..] {
            [text] => text,
            texts => {
                joined = texts.iter().map(|text| text.as_str()).collect::<Vec<_>>().join("\n");
                &joined
            }
        };
        let verdicts = self.filters.iter().map(|(_, filter)| filter.finds(whole, characters, was_emptied));
        let fate = match verdicts.enumerate().find_map(|(filter, found)| Some((filter, found?))) {
            Some((filter, found)) => Fate::Dropped { filter, found, text: beginning(whole) },
            None => {
                let single = self.options.output_column.clone().map(|name| (name, whole.to_owned()));
                Fate::Kept { row: output_row(content, single), characters }
            }
        };
        Ok(CleanedRow { changes, characters_read, fate })
    }

    /// Applies the edits to a text, and returns how many characters are left.
    fn edit(
        &self,
        text: &mut String,
        wants_sample: &[bool],
        changes: &mut Vec<(usize, RowChange)>,
    ) -> Result<u64, RowProblem> {
        let mut left = count(text);
        for (rule, (_, edit)) in self.edits.iter().enumerate() {
            let Some(Change { text: changed, count: times }) = edit.apply(text)? else { continue };
            let after = count(&changed);
            let known = changes.iter().position(|(other, _)| *other == rule);
            let index = known.unwrap_or(changes.len());
            if known.is_none() {
                changes.push((rule, RowChange::default()));
            }
            let change = &mut changes[index].1;
            change.times += times;
            change.characters_removed += left as i64 - after as i64;
            if change.sample.is_none() && wants_sample.get(rule) == Some(&true) {
                change.sample = Some(around_change(text, &changed));
            }
            left = after;
            *text = changed;
        }
        Ok(left)
    }
}

fn output_row(content: Content, single: Option<(String, String)>) -> Map<String, Value> {
    match (content, single) {
        (_, Some((name, text))) => Map::from_iter([(name, Value::String(text))]),
        (Content::Text(text), None) => Map::from_iter([("text".to_owned(), Value::String(text))]),
        (Content::Fields(fields), None) => fields,
    }
}

fn edits(options: &CleaningOptions) -> Result<Vec<(String, Edit)>> {
    let mut edits: Vec<(String, Edit)> = Vec::new();
    let named = |name: &str, edit: Edit| (name.to_owned(), edit);
    let characters = |name: &str, rule: Option<fn(&str) -> Option<Change>>| {
        rule.map(|rule| (name.to_owned(), Edit::Characters(rule)))
    };
    edits.extend(characters(
        "line ends",
        (options.whitespace != Whitespace::Keep).then_some(whitespace::line_ends),
    ));
    edits.extend(characters(
        "normalization",
        match options.normalization {
            Normalization::None => None,
            Normalization::Nfc => Some(normalization::nfc),
            Normalization::Nfkc => Some(normalization::nfkc),
        },
    ));
    edits.extend(characters(
        "width",
        match options.width {
            Width::Keep => None,
            Width::Letters => Some(normalization::half_width_letters),
            Width::All => Some(normalization::half_width),
        },
    ));
    edits.extend(characters(
        "invisible characters",
        options.remove_invisible.then_some(characters::remove_invisible),
    ));
    if options.max_line_rows.is_some() || options.boilerplate_lines.is_some() {
        let lines = options.boilerplate_lines.as_deref().map(BoilerplateLines::open).transpose()?;
        edits.push(named("boilerplate lines", Edit::Boilerplate(lines.unwrap_or_default())));
    }
    if let Some(source) = &options.rules {
        edits.extend(source.patterns()?.into_iter().map(|rule| (rule.name.clone(), Edit::Pattern(rule))));
    }
    edits
        .extend(characters("semicolons", options.semicolons_to_line_ends.then_some(semicolons_to_line_ends)));
    for kind in PersonalData::ALL.into_iter().filter(|kind| options.mask.contains(kind)) {
        let placeholder = options.placeholders.get(&kind).map_or(kind.placeholder(), String::as_str);
        edits.push(named(kind.name(), Edit::Mask(kind, placeholder.to_owned())));
    }
    if let (Some(path), OnBlocked::Mask) = (&options.blocklist, options.on_blocked) {
        edits.push(named("blocklist", Edit::Blocklist(Blocklist::open(path)?)));
    }
    edits.extend(characters(
        "punctuation",
        match options.punctuation {
            Punctuation::Keep => None,
            Punctuation::Repeated => Some(punctuation::collapse_repeated),
            Punctuation::Runs => Some(punctuation::collapse_runs),
            Punctuation::RunsAndS => Some(punctuation::collapse_runs_and_s),
        },
    ));
    edits.extend(characters(
        "unfinished sentences",
        options.cut_unfinished.then_some(sentence_end::cut_unfinished),
    ));
    edits.extend(characters(
        "space",
        match options.whitespace {
            Whitespace::Keep | Whitespace::LineEnds => None,
            Whitespace::Trailing => Some(whitespace::trim_ends),
            Whitespace::Collapse => Some(whitespace::collapse),
        },
    ));
    Ok(edits)
}

fn filters(options: &CleaningOptions) -> Result<Vec<(&'static str, Filter)>> {
    let mut filters = Vec::new();
    if options.drop_empty {
        filters.push(("empty", Filter::Empty));
    }
    if let (Some(path), OnBlocked::Drop) = (&options.blocklist, options.on_blocked) {
        filters.push(("blocklist", Filter::Blocked(Blocklist::open(path)?)));
    }
    filters.extend(options.min_chars.map(|least| ("min-chars", Filter::MinChars(least))));
    filters.extend(options.max_chars.map(|most| ("max-chars", Filter::MaxChars(most))));
    let mut share = |name, filter: Option<Filter>| filters.extend(filter.map(|filter| (name, filter)));
    let most =
        |measure: fn(&str) -> f64, limit: Option<f64>| limit.map(|most| Filter::MaxShare(measure, most));
    share("min-cjk-share", options.min_cjk_share.map(|least| Filter::MinShare(language::cjk_share, least)));
    share(
        "max-duplicate-line-share",
        most(repetition::duplicate_line_share, options.max_duplicate_line_share),
    );
    share("max-top-ngram-share", most(repetition::top_ngram_share, options.max_top_ngram_share));
    share(
        "max-duplicate-ngram-share",
        most(repetition::duplicate_ngram_share, options.max_duplicate_ngram_share),
    );
    Ok(filters)
}

impl Edit {
    fn apply(&self, text: &str) -> Result<Option<Change>, RowProblem> {
        Ok(match self {
            Self::Characters(rule) => rule(text),
            Self::Boilerplate(lines) => lines.remove(text),
            Self::Pattern(pattern) => {
                return pattern.remove(text).map_err(|message| RowProblem::Rule { message });
            }
            Self::Mask(kind, placeholder) => kind.mask(text, placeholder),
            Self::Blocklist(list) => list.mask(text),
        })
    }
}

impl Filter {
    /// Why the row is dropped, if it is.
    fn finds(&self, text: &str, characters: u64, was_emptied: bool) -> Option<String> {
        match self {
            Self::Empty if is_blank(text) => Some("no text".to_owned()),
            Self::Empty => was_emptied.then(|| "nothing is left of one of its texts".to_owned()),
            Self::Blocked(list) => list.find(text).map(|word| format!("`{word}`")),
            Self::MinChars(least) => (characters < *least).then(|| format!("{characters} characters")),
            Self::MaxChars(most) => (characters > *most).then(|| format!("{characters} characters")),
            Self::MinShare(measure, least) => Some(measure(text)).filter(|share| share < least).map(told),
            Self::MaxShare(measure, most) => Some(measure(text)).filter(|share| share > most).map(told),
        }
    }
}

fn told(share: f64) -> String {
    format!("{share:.3}")
}

fn is_blank(text: &str) -> bool {
    text.trim_start().is_empty()
}

fn count(text: &str) -> u64 {
    text.chars().count() as u64
}
