//! What can be wrong with a dataset: errors of a row, which `on_bad_row: skip` steps over, and errors of the
//! whole dataset. Every message says where, what was expected and what to do.

use std::io;
use std::path::PathBuf;

use crate::records::Source;

mod reason;

/// Result of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// An error of a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be opened or read; the message carries the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// Token files that cannot be written.
    #[error(transparent)]
    Format(#[from] danlu_formats::Error),

    /// A token file that is damaged, of another vocabulary, or where texts are needed.
    #[error("`{}`: {problem}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// The caller asked the work to end.
    #[error("interrupted")]
    Cancelled,

    /// The caller asked tokenizing to end.
    #[error("stopped after {rows} rows; {}", kept_hint(*.is_kept))]
    Stopped {
        /// Rows that were tokenized.
        rows: u64,
        /// Whether their samples are on disk.
        is_kept: bool,
    },

    /// One row cannot be used.
    #[error("{at}: {problem}{}", skip_hint(problem))]
    Row {
        /// File and line of the row.
        at: Source,
        /// What is wrong with it.
        problem: RowProblem,
    },

    /// A row is longer than `cutoff_len` and `overlong: error` is set.
    #[error(
        "{at}: the row has {length} tokens, `cutoff_len` is {cutoff_len}: \
         raise `cutoff_len`, or set `overlong: drop` or `overlong: truncate`"
    )]
    Overlong {
        /// File and line of the row.
        at: Source,
        /// Tokens of the row.
        length: usize,
        /// The option's value.
        cutoff_len: usize,
    },

    /// A name is neither a path nor in `dataset_info.json`.
    #[error(
        "dataset `{name}` was not found: it is no file or folder{}{}",
        info_hint(info),
        did_you_mean(nearest)
    )]
    UnknownDataset {
        /// The name in the recipe.
        name: String,
        /// The `dataset_info.json` that was searched, if there is one.
        info: Option<PathBuf>,
        /// The nearest name in it.
        nearest: Option<String>,
    },

    /// An entry of `dataset_info.json` cannot be used.
    #[error("{}: dataset `{name}`: {problem}", info.display())]
    DatasetInfo {
        /// The `dataset_info.json`.
        info: PathBuf,
        /// The entry.
        name: String,
        /// What is wrong with it and what to do.
        problem: String,
    },

    /// `dataset_info.json` is no valid JSON of the expected form.
    #[error("{}: {message}; expected an object that maps dataset names to entries with `file_name`", path.display())]
    DatasetInfoFile {
        /// The `dataset_info.json`.
        path: PathBuf,
        /// The parser's message with line and column.
        message: String,
    },

    /// A file's name does not end like one of the formats that are read.
    #[error("`{}`: expected a name ending in {}; {advice}", path.display(), crate::records::READ_ENDINGS)]
    UnknownEnding {
        /// The file.
        path: PathBuf,
        /// What to do with such a file.
        advice: String,
    },

    /// The name of a file to write does not end like one of the formats that are written.
    #[error(
        "`{}`: expected a name ending in `.jsonl`, `.json`, `.csv` (also with `.gz` or `.zst` behind it) or `.parquet`",
        path.display()
    )]
    UnknownOutputEnding {
        /// The file.
        path: PathBuf,
    },

    /// A row does not fit the form of the file that it is written to.
    #[error("`{}`, row {row}: {problem}", path.display())]
    Unwritable {
        /// The file being written.
        path: PathBuf,
        /// 1-based number of the row.
        row: u64,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A folder or archive holds no file that is read.
    #[error("`{}` holds no file ending in {}", path.display(), crate::records::READ_ENDINGS)]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },

    /// A file or folder holds no row.
    #[error("`{}` is empty: expected at least one row", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },

    /// A benchmark without a question that could be looked for.
    #[error("`{}` holds no question of 13 Chinese characters (52 letters) or more: shorter ones stand in many texts by chance", path.display())]
    NoQuestions {
        /// The file or folder.
        path: PathBuf,
    },

    /// A file was written to while it was read.
    #[error("`{}` was changed while it was read: run again when it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// No sample is left after skipping and dropping.
    #[error("no sample is left of {rows} rows: {reasons}")]
    NoSamples {
        /// Rows read.
        rows: u64,
        /// Why rows were not used, with counts.
        reasons: String,
    },

    /// A signature file of a deduplication cannot be used.
    #[error("`{}` {problem}", path.display())]
    Signatures {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },

    /// An option has a value that cannot work.
    #[error("`{option}`: {problem}")]
    Option {
        /// The option's key.
        option: &'static str,
        /// What was expected and what to do.
        problem: String,
    },

    /// A line of a rule file is no regular expression.
    #[error("{}:{line}: `{pattern}` is no regular expression: {message}; correct the line or remove it", path.display())]
    Rule {
        /// The rule file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// The expression.
        pattern: String,
        /// The parser's message.
        message: String,
    },

    /// The output of the work is one of its inputs, or lies among them.
    #[error("`{}` would be written into the input `{}`: choose a place outside of it", output.display(), input.display())]
    OutputInInput {
        /// The output.
        output: PathBuf,
        /// The file or folder.
        input: PathBuf,
    },

    /// Another run writes the same output.
    #[error("`{}` is being written by another run: wait for it, or choose another output", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },

    /// Text could not be turned into ids or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// Bytes that are not UTF-8.
    #[error(
        "invalid UTF-8 at byte {byte} of {}: correct the row, or name the encoding of the file with `encoding`",
        field_or_line(field)
    )]
    InvalidUtf8 {
        /// 1-based byte in the field, or in the line where no field is known.
        byte: usize,
        /// The column, where the format tells it.
        field: Option<String>,
    },

    /// Bytes that the encoding of the file does not know.
    #[error(
        "byte {byte} of {} is no {encoding}, as which the file is read: correct the row, or name another encoding \
         with `encoding`",
        field_or_line(field)
    )]
    Undecodable {
        /// The encoding's name.
        encoding: &'static str,
        /// 1-based byte in the field, or in the line where no field is known.
        byte: usize,
        /// The column, where the format tells it.
        field: Option<String>,
    },

    /// Text that is no JSON.
    #[error("invalid JSON at column {column}: {message}; expected {expected}, correct the row")]
    InvalidJson {
        /// 1-based byte in the line.
        column: usize,
        /// The parser's message.
        message: String,
        /// What the reader was looking for.
        expected: &'static str,
        /// Whether the rows after it can still be found.
        rest_is_readable: bool,
    },

    /// A JSON value that is not an object.
    #[error("found {found}: expected a JSON object with a field for each column")]
    NotAnObject {
        /// Kind of the value.
        found: &'static str,
    },

    /// A CSV row with more or fewer fields than the header.
    #[error("found {found} fields: expected {expected} as in the header, check the quotes and commas")]
    FieldCount {
        /// Fields of the row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },

    /// A CSV field whose quote has no partner, so that it goes on to the end of the file.
    #[error(
        "the quote that opens the field `{field}` has no partner: expected one before the end of the file, close the field, or \
         double the quotes that belong to its text"
    )]
    UnclosedQuote {
        /// Column of the field, or its number.
        field: String,
    },

    /// A CSV header that names a column twice.
    #[error("the header names the column `{name}` twice: expected each name once, rename one")]
    DuplicateColumn {
        /// The column.
        name: String,
    },

    /// A column is not in the row.
    #[error(
        "missing column `{column}`: the row has {}{}; correct the file or `columns`",
        list(available),
        did_you_mean(nearest)
    )]
    MissingColumn {
        /// The column that was looked for.
        column: String,
        /// The columns of the row.
        available: Vec<String>,
        /// The nearest of them.
        nearest: Option<String>,
    },

    /// None of the known sets of columns is in the row.
    #[error(
        "the row has the columns {}: expected {expected}{}; name your columns with `columns`",
        list(available),
        looks_like(nearest)
    )]
    UnknownColumns {
        /// The columns of the row.
        available: Vec<String>,
        /// The known sets.
        expected: &'static str,
        /// A column of the row and the known name it resembles.
        nearest: Option<(String, String)>,
    },

    /// A plain text document where rows with columns are needed.
    #[error("found a plain text document: expected rows with columns, such as `instruction` and `output`")]
    PlainText,

    /// A field holds another kind of value.
    #[error("field `{field}`: expected {expected}, found {found}")]
    WrongType {
        /// The field, with its place inside lists (`messages[2].content`).
        field: String,
        /// The kind that was expected.
        expected: &'static str,
        /// The kind that is there, with the start of the value.
        found: String,
    },

    /// A message with a role that chat templates do not know.
    #[error(
        "field `{field}`: unknown role `{role}`, expected `system`, `user` (`human`), `assistant` (`gpt`) or `tool`{}; \
         name your roles with `tags` in `dataset_info.json`",
        did_you_mean(nearest)
    )]
    UnknownRole {
        /// The field, with its place inside lists.
        field: String,
        /// The role.
        role: String,
        /// The nearest of the roles that are known.
        nearest: Option<String>,
    },

    /// A message without a key.
    #[error(
        "field `{field}`: expected `{key}`, found {}; name the keys of your messages with `tags` in `dataset_info.json`",
        list(available)
    )]
    MissingKey {
        /// The message, with its place inside lists.
        field: String,
        /// The key that was looked for.
        key: String,
        /// The keys of the message.
        available: Vec<String>,
    },

    /// A question without an answer, or an answer without a question, where one object holds both.
    #[error(
        "field `{field}`: found `{found}` without `{missing}`: expected a question and its answer, add `{missing}`"
    )]
    HalfExchange {
        /// The object, with its place inside lists.
        field: String,
        /// The key that is there.
        found: &'static str,
        /// The key that is not.
        missing: &'static str,
    },

    /// A weight that the loss of a message cannot have.
    #[error("field `{field}`: expected a number of at least 0, found `{found}`")]
    LossWeight {
        /// The field, with its place inside lists.
        field: String,
        /// The JSON value.
        found: String,
    },

    /// A conversation of which nothing is learned.
    #[error("every answer that is learned has the `loss_weight` 0: give one of them a higher weight")]
    NoWeight,

    /// A conversation in which the assistant says nothing.
    #[error(
        "the conversation has no answer: expected at least one message by `assistant` after one by `user`"
    )]
    NoAnswer,

    /// A conversation that does not end with what a user says.
    #[error("nothing is asked: expected a conversation whose last message, but for the answer, is by `user`")]
    NoQuestion,

    /// A text with turns that does not go on with one of their marks.
    #[error("field `{field}`: expected `<s>Human: ` or `<s>Assistant: `, found `{found}`")]
    Transcript {
        /// The column.
        field: String,
        /// What is there.
        found: String,
    },

    /// Two answers of which one is to be preferred, where one answer is learned.
    #[error(
        "`{chosen}` and `{rejected}` mark a preference pair: expected one answer; set `stage: dpo` to learn from both, or \
         keep only the wanted one"
    )]
    PreferencePair {
        /// The column of the wanted answer.
        chosen: String,
        /// The column of the unwanted answer.
        rejected: String,
    },

    /// A preference pair without one of its answers.
    #[error("field `{column}`: expected an answer, found none")]
    NoPairAnswer {
        /// The column.
        column: String,
    },

    /// A preference pair whose answers do not follow the same messages.
    #[error(
        "`{chosen}` and `{rejected}` do not answer the same messages: expected two answers to one prompt"
    )]
    DifferentPrompts {
        /// The column of the wanted answer.
        chosen: String,
        /// The column of the unwanted answer.
        rejected: String,
    },

    /// An answer that the row says is wanted or unwanted, where every answer is learned.
    #[error(
        "field `{field}` says whether the answer is wanted: expected wanted answers only; set `stage: kto` to learn from \
         it, or remove the rows where it is false, then the field"
    )]
    JudgedAnswer {
        /// The column.
        field: String,
    },

    /// A row that another form cannot hold.
    #[error("the form `{form}` has no place for {what}: choose another one with `--to`")]
    NoPlace {
        /// The form.
        form: &'static str,
        /// What the row has.
        what: &'static str,
    },

    /// A rule of cleaning could not be applied to the text.
    #[error("the rule {message}")]
    Rule {
        /// The rule and what went wrong.
        message: String,
    },

    /// The chat template refused the conversation.
    #[error("the chat template does not take this conversation: {message}")]
    Template {
        /// The template's message.
        message: String,
    },
}

impl DataError {
    /// Whether `on_bad_row: skip` may step over it.
    pub(crate) fn is_of_one_row(&self) -> bool {
        matches!(self, Self::Row { problem, .. } if problem.can_be_skipped())
    }
}

impl RowProblem {
    /// Whether `on_bad_row: skip` may step over the row: not if the rows after it cannot be found, nor if the
    /// whole file is of the wrong kind.
    pub fn can_be_skipped(&self) -> bool {
        !matches!(
            self,
            Self::InvalidJson { rest_is_readable: false, .. }
                | Self::DuplicateColumn { .. }
                | Self::UnclosedQuote { .. }
                | Self::PreferencePair { .. }
                | Self::JudgedAnswer { .. }
        )
    }
}

/// The candidate that `name` most resembles, if any is near.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a String>,
) -> Option<&'a String> {
    const NEAR: f64 = 0.8;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no columns".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn looks_like(nearest: &Option<(String, String)>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |(found, known)| format!("; did you mean `{known}` by `{found}`?"))
}

fn info_hint(info: &Option<PathBuf>) -> String {
    match info {
        Some(path) => format!(", and no name in `{}`", path.display()),
        None => ", and `dataset_dir` holds no `dataset_info.json` that could name it".to_owned(),
    }
}

fn field_or_line(field: &Option<String>) -> String {
    field.as_ref().map_or_else(|| "the line".to_owned(), |name| format!("the field `{name}`"))
}

fn kept_hint(is_kept: bool) -> &'static str {
    if is_kept {
        "what was tokenized is kept, and the same command goes on behind it"
    } else {
        "nothing was written"
    }
}

fn skip_hint(problem: &RowProblem) -> &'static str {
    if problem.can_be_skipped() { ", or set `on_bad_row: skip`" } else { "" }
}
