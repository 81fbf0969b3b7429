//! Bytes of a text file → UTF-8. A byte order mark, or else the content, tells the encoding: UTF-8, UTF-16, GB18030 (and
//! GBK, GB2312) or Big5; a caller may name any other. UTF-8 is never taken for anything else.
//!
//! Nothing is replaced in silence: what cannot be decoded becomes the byte 0xFF, which is no UTF-8, and so an error of the
//! row that holds it ([`FileText::check`]).

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{BIG5, Decoder, DecoderResult, Encoding, GB18030, GBK, UTF_8, UTF_16BE, UTF_16LE};

use crate::error::RowProblem;

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;
/// Bytes, from the first that is not ASCII on, that tell an encoding.
const WINDOW: usize = 256 << 10;
/// With fewer bytes that are not ASCII, statistics of languages say nothing.
const FEW_BYTES: usize = 32;
/// What stands for bytes that cannot be decoded.
const UNDECODABLE: u8 = 0xff;

/// A text file that is being read.
#[derive(Debug)]
pub(super) struct FileText {
    pub(super) path: Arc<Path>,
    forced: Option<&'static Encoding>,
    /// What it is read as, where that is not UTF-8.
    found: OnceLock<&'static Encoding>,
}

impl FileText {
    pub(super) fn new(path: Arc<Path>, forced: Option<&'static Encoding>) -> Self {
        Self { path, forced, found: OnceLock::new() }
    }

    /// The encoding that the content told, where that is not UTF-8.
    pub(super) fn found(&self) -> Option<&'static Encoding> {
        if self.forced.is_some() { None } else { self.found.get().copied() }
    }

    /// Decoded bytes as text.
    pub(super) fn check<'a>(&self, bytes: &'a [u8], field: Option<&str>) -> Result<&'a str, RowProblem> {
        utf_8(bytes).map_err(|error| self.problem(&bytes[..error.valid_up_to()], field))
    }

    /// The problem of a line or field that can be decoded up to the end of `valid`.
    pub(super) fn problem(&self, valid: &[u8], field: Option<&str>) -> RowProblem {
        let field = field.map(str::to_owned);
        match self.found.get() {
            None => RowProblem::InvalidUtf8 { byte: valid.len() + 1, field },
            Some(encoding) => {
                let text = String::from_utf8_lossy(valid);
                let before = match *encoding {
                    encoding if encoding == UTF_16LE || encoding == UTF_16BE => {
                        2 * text.encode_utf16().count()
                    }
                    encoding => encoding.encode(&text).0.len(),
                };
                RowProblem::Undecodable { encoding: encoding.name(), byte: before + 1, field }
            }
        }
    }
}

/// Bytes as text, looked at many at a time.
pub(super) fn utf_8(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    // Only the standard library says where it is broken.
    simdutf8::basic::from_utf8(bytes).or_else(|_| std::str::from_utf8(bytes))
}

/// The encoding of a label.
pub(super) fn encoding_named(label: &str) -> Result<&'static Encoding, String> {
    match Encoding::for_label(label.as_bytes()) {
        // A superset, whose decoder is the same.
        Some(encoding) if encoding == GBK => Ok(GB18030),
        Some(encoding) => Ok(encoding),
        None => Err(format!(
            "found `{label}`: expected the name of an encoding, such as `utf-8`, `gb18030`, `big5`, `utf-16le` or \
             `shift_jis`"
        )),
    }
}

enum State {
    Start,
    /// Only ASCII so far.
    Undecided,
    Utf8,
    Decoding(Box<Decoder>),
}

/// A reader that gives UTF-8, without a byte order mark.
pub(super) struct Utf8Reader {
    input: Box<dyn Read + Send>,
    file: Arc<FileText>,
    state: State,
    /// Bytes of the file that are not decoded yet.
    raw: Vec<u8>,
    is_end: bool,
    output: Vec<u8>,
    position: usize,
}

impl Utf8Reader {
    pub(super) fn new(input: Box<dyn Read + Send>, file: Arc<FileText>) -> Self {
        Self {
            input,
            file,
            state: State::Start,
            raw: Vec::new(),
            is_end: false,
            output: Vec::new(),
            position: 0,
        }
    }

    /// The first line that is not blank, or as much of it as is read at once; it is not consumed.
    pub(super) fn peek_line(&mut self) -> io::Result<&[u8]> {
        const LONGEST: usize = 1 << 20;
        let is_blank = |byte: &u8| byte.is_ascii_whitespace();
        loop {
            let start = self.output.iter().position(|byte| !is_blank(byte)).unwrap_or(self.output.len());
            let has_end = self.output[start..].contains(&b'\n');
            // Blank lines without an end are a document of their own.
            if has_end || self.output.len() >= start.min(LONGEST) + LONGEST || !self.append()? {
                let line = &self.output[start..];
                let end = line.iter().position(|&byte| byte == b'\n');
                return Ok(&line[..end.map_or(line.len(), |end| end + 1)]);
            }
        }
    }

    /// Reads up to `length` bytes of the file into `raw`.
    fn fill_raw(&mut self, length: usize) -> io::Result<()> {
        while self.raw.len() < length && !self.is_end {
            let start = self.raw.len();
            self.raw.resize(length, 0);
            let read = loop {
                match self.input.read(&mut self.raw[start..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.raw.truncate(start + *read.as_ref().unwrap_or(&0));
            self.is_end = read? == 0;
        }
        Ok(())
    }

    /// Decodes more of the file behind what is decoded; false at its end.
    fn append(&mut self) -> io::Result<bool> {
        let before = self.output.len();
        while self.output.len() == before {
            match &mut self.state {
                State::Start => {
                    self.fill_raw(CHUNK)?;
                    self.start();
                    continue;
                }
                State::Undecided => {
                    if self.raw.is_empty() {
                        self.fill_raw(CHUNK)?;
                    }
                    let ascii = self.raw.iter().position(|byte| !byte.is_ascii()).unwrap_or(self.raw.len());
                    if ascii == self.raw.len() {
                        self.output.append(&mut self.raw);
                    } else {
                        self.fill_raw(ascii + WINDOW)?;
                        self.decide(ascii);
                        continue;
                    }
                }
                State::Utf8 => {
                    if self.raw.is_empty() {
                        self.fill_raw(CHUNK)?;
                    }
                    self.output.append(&mut self.raw);
                }
                State::Decoding(_) => {
                    if self.raw.is_empty() {
                        self.fill_raw(CHUNK)?;
                    }
                    self.decode()?;
                }
            }
            if self.is_end && self.raw.is_empty() {
                break;
            }
        }
        Ok(self.output.len() > before)
    }

    /// Looks for a byte order mark, and for the pattern of UTF-16 without one.
    fn start(&mut self) {
        let (marked, mark) = match Encoding::for_bom(&self.raw) {
            Some((encoding, length)) => (Some(encoding), length),
            None => (utf_16_without_mark(&self.raw), 0),
        };
        // The mark is no text, whatever the encoding.
        self.raw.drain(..mark);
        // A mark says what the file is, whatever the caller thinks of all files.
        let forced = self.file.forced.filter(|_| mark == 0);
        match forced.or(marked) {
            Some(encoding) if encoding == UTF_8 => self.state = State::Utf8,
            Some(encoding) => self.decode_as(encoding),
            None => self.state = State::Undecided,
        }
    }

    fn decode_as(&mut self, encoding: &'static Encoding) {
        _ = self.file.found.set(encoding);
        self.state = State::Decoding(Box::new(encoding.new_decoder_without_bom_handling()));
    }

    fn decide(&mut self, ascii: usize) {
        match guess(&self.raw[ascii..], self.is_end) {
            Some(encoding) => self.decode_as(encoding),
            None => self.state = State::Utf8,
        }
    }

    /// Decodes `raw` to its end.
    fn decode(&mut self) -> io::Result<()> {
        let State::Decoding(decoder) = &mut self.state else { return Ok(()) };
        // The end of the file has its turn even when no byte is left: half a character may wait in the decoder.
        if self.raw.is_empty() && !self.is_end {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.raw);
        let mut read = 0;
        loop {
            let start = self.output.len();
            let room = decoder.max_utf8_buffer_length_without_replacement(raw.len() - read);
            self.output.resize(start + room.ok_or(io::ErrorKind::OutOfMemory)?, 0);
            let (result, used, written) = decoder.decode_to_utf8_without_replacement(
                &raw[read..],
                &mut self.output[start..],
                self.is_end,
            );
            self.output.truncate(start + written);
            read += used;
            match result {
                DecoderResult::InputEmpty => break,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => self.output.push(UNDECODABLE),
            }
        }
        if self.is_end {
            // A decoder that has seen the end must not be asked again.
            self.state = State::Utf8;
        }
        Ok(())
    }
}

impl Read for Utf8Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Utf8Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.output.len() {
            self.output.clear();
            self.position = 0;
            self.append()?;
        }
        Ok(&self.output[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

/// UTF-16 of mostly ASCII characters: every other byte is zero.
fn utf_16_without_mark(start: &[u8]) -> Option<&'static Encoding> {
    let start = &start[..start.len().min(4096)];
    let zeros = |offset: usize| start.iter().skip(offset).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let many = start.len() / 8;
    if start.len() < 8 {
        None
    } else if odd > many && even == 0 {
        Some(UTF_16LE)
    } else if even > many && odd == 0 {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// The encoding of bytes of which the first is not ASCII; `None` for UTF-8, and for what nothing fits.
fn guess(bytes: &[u8], is_end: bool) -> Option<&'static Encoding> {
    match std::str::from_utf8(bytes) {
        Ok(_) => return None,
        // The window ends within a character.
        Err(error) if error.error_len().is_none() && !is_end => return None,
        Err(_) => {}
    }
    // Damaged UTF-8 stays UTF-8, so that the damage is told.
    let characters = |text: &str| text.chars().filter(|character| !character.is_ascii()).count();
    let (valid, invalid) = bytes.utf8_chunks().fold((0, 0), |(valid, invalid), chunk| {
        (valid + characters(chunk.valid()), invalid + usize::from(!chunk.invalid().is_empty()))
    });
    if valid > invalid {
        return None;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    // Without an end, at which half a character would rule its encoding out.
    detector.feed(bytes, false);
    let is_short = bytes.iter().filter(|byte| !byte.is_ascii()).count() < FEW_BYTES;
    let guesses = [
        Some(detector.guess(None, Utf8Detection::Deny)),
        is_short.then(|| detector.guess(Some(b"cn"), Utf8Detection::Deny)),
    ];
    let known = guesses.into_iter().flatten().find_map(|guess| match guess {
        guess if guess == GBK || guess == GB18030 => Some(GB18030),
        guess if guess == BIG5 => Some(BIG5),
        _ => None,
    })?;
    decodes(bytes, known).then_some(known)
}

/// Whether most of the bytes that are not ASCII have a meaning in an encoding.
fn decodes(bytes: &[u8], encoding: &'static Encoding) -> bool {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut output = vec![0; WINDOW];
    let (mut read, mut malformed) = (0, 0);
    loop {
        let (result, used, _) =
            decoder.decode_to_utf8_without_replacement(&bytes[read..], &mut output, false);
        read += used;
        match result {
            DecoderResult::InputEmpty => break,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => malformed += 1,
        }
    }
    let foreign = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    // Damage in a file of this encoding is told row by row, like damage in UTF-8.
    malformed * 20 < foreign
}
