//! JSON files of many objects: an array, or objects one after another (as in Math23K).
//!
//! Values are cut out of the stream by their brackets and quotes and parsed one by one, never as one tree. A broken
//! object whose brackets still match is a bad row like any other. Where they do not, reading goes on at the next line
//! that opens an object with the indentation of the first one; where there is none, the rest of the file cannot be
//! read, and that is an error that cannot be skipped.
//!
//! Such a line may also lie within a good object. What is read beyond it in vain, to see whether the object ends, is
//! read again, and all of that together is a few times the file, so that any file is read in linear time.

use std::io::BufRead;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::encoding::{Utf8Reader, utf8};
use super::{Content, FileText, RawRecord, RawRow, Record, Source, kind_of};
use crate::error::{DataError, Result, RowProblem};

/// Bytes that are read beyond the next line that could open a value, to find the end of one that is right so far.
const LONGEST_DOUBT: usize = 64 << 20;
/// Bytes that may be read in vain in any file, and for each byte of it.
const DOUBT: usize = 1 << 20;
const DOUBT_PER_BYTE: usize = 4;
/// Bytes that are looked at together: what is read behind a broken value is read again.
const PIECE: usize = 4 << 10;

/// What the first line of a file says about the rest.
pub(super) enum Shape {
    Array,
    /// A whole object, or one too long to be seen whole: the first of JSON Lines.
    Object,
    /// An object that goes on on the next line.
    OpenObject,
    /// A whole list of texts: the first dialogue of JSON Lines.
    Texts,
    Other,
}

pub(super) fn shape(line: &[u8]) -> Shape {
    match line.first() {
        Some(b'[') => match serde_json::from_slice::<Vec<String>>(line) {
            Ok(texts) if !texts.is_empty() => Shape::Texts,
            _ => Shape::Array,
        },
        Some(b'{') => match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(_) => Shape::Object,
            Err(error) if error.is_eof() && line.len() < 1 << 20 => Shape::OpenObject,
            Err(error) if error.is_eof() => Shape::Object,
            Err(_) => Shape::Other,
        },
        _ => Shape::Other,
    }
}

/// Parses the bytes of one value, which begins after `before` bytes of its first line.
pub(super) fn parse(
    bytes: &[u8],
    before: usize,
    expected: &'static str,
    file: &FileText,
    source: Source,
) -> Result<Record> {
    match value(bytes, before, expected, file) {
        Ok(Value::Object(fields)) => Ok(Record { content: Content::Fields(fields), source }),
        // A dialogue without a name for its utterances, as in LCCC.
        Ok(Value::Array(items)) if !items.is_empty() && items.iter().all(Value::is_string) => {
            let fields = Map::from_iter([("dialogue".to_owned(), Value::Array(items))]);
            Ok(Record { content: Content::Fields(fields), source })
        }
        Ok(other) => {
            Err(DataError::Row { at: source, problem: RowProblem::NotAnObject { found: kind_of(&other) } })
        }
        Err((lines, problem)) => {
            Err(DataError::Row { at: Source { line: source.line + lines, ..source }, problem })
        }
    }
}

/// The value, or the problem and the number of lines before it.
fn value(
    bytes: &[u8],
    before: usize,
    expected: &'static str,
    file: &FileText,
) -> Result<Value, (u64, RowProblem)> {
    let text = match utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let mut valid = &bytes[..error.valid_up_to()];
            let lines = newlines(valid);
            if lines > 0 {
                valid = &valid[valid.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)..];
            }
            let spaces = vec![b' '; if lines == 0 { before } else { 0 }];
            return Err((lines, file.problem(&[&spaces, valid].concat(), None)));
        }
    };
    serde_json::from_str(text).map_err(|error| {
        let lines = error.line().saturating_sub(1) as u64;
        let problem = RowProblem::InvalidJson {
            column: (error.column() + if lines == 0 { before } else { 0 }).max(1),
            message: message(&error),
            expected,
            rest_is_readable: true,
        };
        (lines, problem)
    })
}

/// Whether no continuation could make JSON of these bytes.
fn is_wrong(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_err_and(|error| !error.is_eof())
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The parser's message without the place, which is told apart.
fn message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    }
}

pub(super) struct JsonValues {
    reader: Utf8Reader,
    file: Arc<FileText>,
    is_array: bool,
    /// Before the array's bracket.
    is_before: bool,
    is_done: bool,
    /// 1-based line of the next byte.
    line: u64,
    /// Bytes before the next one on its line.
    column: usize,
    /// What precedes the next byte on its line, as far as it is white space.
    margin: Option<Vec<u8>>,
    /// Margin of the first object, if it begins its line.
    indentation: Option<Option<Vec<u8>>>,
    /// Bytes taken from the reader in vain, to be read again: what follows a broken value.
    again: Vec<u8>,
    again_from: usize,
    /// Bytes that may still be read in vain.
    doubt: usize,
}

/// A value cut out of the stream.
struct Cut {
    bytes: Vec<u8>,
    is_whole: bool,
    /// The bytes that tell what is wrong with it.
    judged: usize,
    /// Where a line within it opens an object as the first one did.
    next_object: Option<usize>,
}

impl JsonValues {
    pub(super) fn array(reader: Utf8Reader, file: Arc<FileText>) -> Self {
        Self::new(reader, file, true)
    }

    pub(super) fn stream(reader: Utf8Reader, file: Arc<FileText>) -> Self {
        Self::new(reader, file, false)
    }

    fn new(reader: Utf8Reader, file: Arc<FileText>, is_array: bool) -> Self {
        Self {
            reader,
            file,
            is_array,
            is_before: is_array,
            is_done: false,
            line: 1,
            column: 0,
            margin: Some(Vec::new()),
            indentation: None,
            again: Vec::new(),
            again_from: 0,
            doubt: DOUBT,
        }
    }

    fn expected(&self) -> &'static str {
        if self.is_array { "an array of JSON objects" } else { "JSON objects one after another" }
    }

    fn fill(&mut self) -> std::io::Result<&[u8]> {
        if self.again_from < self.again.len() {
            Ok(&self.again[self.again_from..])
        } else {
            self.reader.fill_buf()
        }
    }

    fn consume(&mut self, length: usize) {
        if self.again_from < self.again.len() {
            self.again_from += length;
        } else {
            self.doubt += DOUBT_PER_BYTE * length;
            self.reader.consume(length);
        }
    }

    /// Moves the place over bytes that are done with.
    fn pass(&mut self, bytes: &[u8]) {
        let line_start = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => {
                self.line += newlines(bytes);
                self.column = 0;
                self.margin = Some(Vec::new());
                newline + 1
            }
            None => 0,
        };
        let rest = &bytes[line_start..];
        self.column += rest.len();
        match &mut self.margin {
            Some(margin) if rest.iter().all(u8::is_ascii_whitespace) => margin.extend_from_slice(rest),
            margin => *margin = None,
        }
    }

    /// The next byte that is no separator, which is not consumed.
    fn next_byte(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let is_array = self.is_array;
            let available = self.fill()?;
            if available.is_empty() {
                return Ok(None);
            }
            let separators = available
                .iter()
                .position(|&byte| !(byte.is_ascii_whitespace() || is_array && byte == b','))
                .unwrap_or(available.len());
            let byte = available.get(separators).copied();
            let passed = available[..separators].to_vec();
            self.pass(&passed);
            self.consume(separators);
            if byte.is_some() {
                return Ok(byte);
            }
        }
    }

    /// Reads a value to its end, or to the end of the file.
    fn cut(&mut self) -> std::io::Result<Cut> {
        let opening = self.indentation.clone().flatten().map(|margin| [&b"\n"[..], &margin, b"{"].concat());
        let mut cut = Cut { bytes: Vec::new(), is_whole: false, judged: 0, next_object: None };
        let mut scan = Scan::default();
        let mut tested = 0;
        loop {
            let available = self.fill()?;
            let available = &available[..available.len().min(PIECE)];
            let is_last = available.is_empty();
            let end = scan.end(available);
            let length = end.unwrap_or(available.len());
            // Enough of what is there already to see a line's start across two pieces.
            let seen = cut.bytes.len().saturating_sub(opening.as_ref().map_or(0, Vec::len));
            cut.bytes.extend_from_slice(&available[..length]);
            self.consume(length);
            cut.judged = cut.bytes.len();
            if let (None, Some(opening)) = (cut.next_object, &opening) {
                cut.next_object = find(&cut.bytes[seen..], opening).map(|at| seen + at + 1);
            }
            if end.is_some() {
                cut.is_whole = !scan.is_broken;
                return Ok(cut);
            }
            if let Some(next) = cut.next_object {
                // Half of what is left, so that the rows behind have some too.
                let is_last = is_last || cut.bytes.len() - next > LONGEST_DOUBT.min(self.doubt / 2);
                if is_last || cut.bytes.len() >= 2 * tested {
                    tested = cut.bytes.len();
                    // A piece may end inside a character.
                    cut.judged = cut.bytes.iter().rposition(u8::is_ascii).map_or(0, |at| at + 1);
                    if is_wrong(&cut.bytes[..cut.judged]) {
                        return Ok(cut);
                    }
                }
                if is_last {
                    cut.judged = next;
                    return Ok(cut);
                }
            }
            if is_last {
                return Ok(cut);
            }
        }
    }

    /// Gives bytes that belong to later values back.
    fn give_back(&mut self, bytes: &[u8]) {
        if self.again[..self.again_from].ends_with(bytes) {
            self.again_from -= bytes.len();
        } else {
            self.again = [bytes, &self.again[self.again_from..]].concat();
            self.again_from = 0;
        }
    }

    /// Reads on to the next line that opens an object like the first one; false where there is none.
    fn find_next_object(&mut self) -> std::io::Result<bool> {
        let Some(margin) = self.indentation.clone().flatten() else { return Ok(false) };
        let opening = [&margin[..], b"{"].concat();
        loop {
            let mut line = Vec::new();
            loop {
                let available = self.fill()?;
                if available.is_empty() {
                    break;
                }
                let newline = available.iter().position(|&byte| byte == b'\n');
                let length = newline.map_or(available.len(), |newline| newline + 1);
                line.extend_from_slice(&available[..length]);
                self.consume(length);
                if newline.is_some() {
                    break;
                }
            }
            if line.is_empty() {
                return Ok(false);
            }
            if self.column == 0 && line.starts_with(&opening) {
                self.give_back(&line);
                return Ok(true);
            }
            self.pass(&line);
        }
    }

    fn invalid(&mut self, line: u64, column: usize, message: String) -> DataError {
        self.is_done = true;
        let problem = RowProblem::InvalidJson {
            column: column.max(1),
            message,
            expected: self.expected(),
            rest_is_readable: false,
        };
        DataError::Row { at: Source { path: self.file.path.clone(), line }, problem }
    }

    fn row(&self, bytes: Vec<u8>, before: usize) -> RawRow {
        RawRow::Json { bytes, file: self.file.clone(), before, expected: self.expected() }
    }

    fn read(&mut self) -> Result<Option<RawRecord>> {
        if std::mem::take(&mut self.is_before) {
            self.next_byte()?;
            self.pass(b"[");
            self.consume(1);
        }
        let Some(byte) = self.next_byte()? else {
            self.is_done = true;
            return match self.is_array {
                true => {
                    Err(self.invalid(self.line, self.column, "the file ends inside the array".to_owned()))
                }
                false => Ok(None),
            };
        };
        if self.is_array && byte == b']' {
            self.consume(1);
            self.pass(b"]");
            self.is_done = true;
            self.is_array = false;
            return match self.next_byte()? {
                None => Ok(None),
                Some(_) => {
                    self.is_array = true;
                    Err(self.invalid(
                        self.line,
                        self.column + 1,
                        "text after the end of the array".to_owned(),
                    ))
                }
            };
        }
        if self.indentation.is_none() {
            self.indentation = Some(self.margin.clone());
        }
        let source = Source { path: self.file.path.clone(), line: self.line };
        let before = self.column;
        let Cut { mut bytes, is_whole, judged, next_object } = self.cut()?;
        if is_whole && next_object.is_none() {
            self.pass(&bytes);
            return Ok(Some(RawRecord { row: self.row(bytes, before), source }));
        }
        // Either an object with another one's start inside, or one that does not end where it should.
        let (lines, problem) = match value(&bytes[..judged], before, self.expected(), &self.file) {
            Ok(Value::Object(_)) => {
                self.pass(&bytes);
                return Ok(Some(RawRecord { row: self.row(bytes, before), source }));
            }
            Ok(other) => (0, RowProblem::NotAnObject { found: kind_of(&other) }),
            Err(problem) => problem,
        };
        if let Some(next_object) = next_object {
            let rest = bytes.split_off(next_object);
            self.give_back(&rest);
            self.doubt = self.doubt.saturating_sub(rest.len().saturating_sub(PIECE));
        }
        self.pass(&bytes);
        let is_readable = next_object.is_some() || self.find_next_object()?;
        let at = Source { line: source.line + lines, ..source };
        if is_readable {
            return Err(DataError::Row { at, problem });
        }
        let (column, message) = match problem {
            RowProblem::InvalidJson { column, message, .. } => (column, message),
            RowProblem::InvalidUtf8 { byte, .. } => (byte, "invalid UTF-8".to_owned()),
            problem => (before + 1, problem.to_string()),
        };
        Err(self.invalid(at.line, column, message))
    }
}

impl Iterator for JsonValues {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let record = self.read();
        if matches!(record, Err(DataError::Io(_))) {
            self.is_done = true;
        }
        record.transpose()
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(newline) = bytes[from..].iter().position(|&byte| byte == pattern[0]) {
        let at = from + newline;
        if bytes[at..].starts_with(pattern) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Follows brackets and quotes to the end of a value.
#[derive(Default)]
struct Scan {
    depth: usize,
    is_text: bool,
    is_escaped: bool,
    has_begun: bool,
    /// A line ended within a text, or a bracket closed that was not open.
    is_broken: bool,
}

impl Scan {
    /// The length of `bytes` up to the end of the value, if it lies within.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.is_text {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => {
                        self.is_text = false;
                        if self.depth == 0 {
                            return Some(index + 1);
                        }
                    }
                    // JSON has no line break in a text: a quote is missing.
                    b'\n' => {
                        self.is_broken = true;
                        return Some(index);
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => (self.is_text, self.has_begun) = (true, true),
                b'{' | b'[' => (self.depth, self.has_begun) = (self.depth + 1, true),
                b'}' | b']' if self.depth == 0 => {
                    self.is_broken = !self.has_begun;
                    return Some(if self.has_begun { index } else { index + 1 });
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                byte if self.depth == 0 && self.has_begun && (byte.is_ascii_whitespace() || byte == b',') => {
                    return Some(index);
                }
                byte if !byte.is_ascii_whitespace() => self.has_begun = true,
                _ => {}
            }
        }
        None
    }
}
