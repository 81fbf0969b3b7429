//! llama2.c's `tokenizer.bin`: the scores and texts of sentencepiece's pieces, with spaces as spaces.
//!
//! The file says nothing else, so what llama2.c takes for granted holds: BPE with bytes, `<unk>`, BOS and EOS first, and
//! a space before each text.

use crate::bytes::fallback_byte;
use crate::sentencepiece::{BYTE, CONTROL, NORMAL, NewModel, NewPiece, SPACE, UNKNOWN};
use crate::{Error, Result, Tokenizer};

/// BOS and EOS as the file writes them, by id.
const MARKS: [(usize, &str, &str); 2] = [(1, "\n<s>\n", "<s>"), (2, "\n</s>\n", "</s>")];
/// A file that states a longer token is of another kind.
const LONGEST: u32 = 1 << 16;
/// Of tokens that are no pieces: nothing is joined to become one.
const LOWEST_SCORE: f32 = -1e9;
/// Where llama2.c looks for the byte 0.
const FIRST_BYTE: u32 = 3;

/// Whether the bytes begin with the length of the longest token, and a token that is no longer.
pub(crate) fn is_llama2c(bytes: &[u8]) -> bool {
    let [longest, score, length] = [0, 4, 8].map(|at| bytes.get(at..)?.first_chunk::<4>().copied());
    let (Some(longest), Some(score), Some(length)) = (longest, score, length) else { return false };
    let (longest, length) = (u32::from_le_bytes(longest), u32::from_le_bytes(length));
    let text = bytes.get(12..).unwrap_or_default();
    let text = text.get(..length as usize).unwrap_or(text);
    (1..=LONGEST).contains(&longest)
        && (1..=longest).contains(&length)
        && f32::from_le_bytes(score).is_finite()
        && std::str::from_utf8(text).is_ok()
}

/// The same vocabulary as the bytes of a sentencepiece `.model` file.
pub(crate) fn model_of_llama2c(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (longest, mut rest) = bytes.split_first_chunk::<4>().ok_or("llama2.c's tokenizer is empty")?;
    let longest = u32::from_le_bytes(*longest);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let id = pieces.len();
        let cut = || format!("llama2.c's tokenizer ends in the middle of token {id}");
        let (score, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let (length, tail) = tail.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length);
        if length > longest {
            return Err(format!("token {id} has {length} bytes, but the longest of the file has {longest}"));
        }
        let (text, tail) = tail.split_at_checked(length as usize).ok_or_else(cut)?;
        rest = tail;
        let text = std::str::from_utf8(text).map_err(|error| format!("token {id} is not UTF-8: {error}"))?;
        let score = f32::from_le_bytes(*score);
        if score.is_nan() {
            return Err(format!("the score of token {id} is not a number"));
        }
        let mark = MARKS.iter().find(|mark| mark.0 == id && [mark.1, mark.2].contains(&text));
        let (text, kind) = match mark {
            Some((_, _, name)) => ((*name).to_owned(), CONTROL),
            None if id == 0 => (text.to_owned(), UNKNOWN),
            None if fallback_byte(text).is_some() => (text.to_owned(), BYTE),
            None => (text.replace(' ', SPACE), NORMAL),
        };
        pieces.push(NewPiece { text, score, kind });
    }
    name_bytes(&mut pieces);
    let is_mark = |id: u32| pieces.get(id as usize).is_some_and(|piece| piece.kind == CONTROL).then_some(id);
    let byte_fallback = pieces.iter().any(|piece| piece.kind == BYTE);
    Ok(NewModel { bos: is_mark(1), eos: is_mark(2), byte_fallback, ..NewModel::default() }.write(&pieces))
}

/// Some programs write the byte tokens as the characters of these numbers, which other tokens are too.
fn name_bytes(pieces: &mut [NewPiece]) {
    let is_character =
        |(byte, piece): (u8, &NewPiece)| piece.text.replace(SPACE, " ").chars().eq([byte.into()]);
    let are_bytes = |pieces: &[NewPiece]| (0..=u8::MAX).zip(pieces).all(is_character);
    if pieces.iter().any(|piece| piece.kind == BYTE) {
        return;
    }
    if let Some(start) = pieces.windows(256).position(are_bytes) {
        for (byte, piece) in (0..=u8::MAX).zip(&mut pieces[start..]) {
            (piece.text, piece.kind) = (format!("<0x{byte:02X}>"), BYTE);
        }
    }
}

impl Tokenizer {
    /// The bytes of llama2.c's `tokenizer.bin` for a model with `rows` rows of embeddings; ids without a token get one
    /// that no text becomes.
    ///
    /// # Errors
    /// A vocabulary that llama2.c cannot cut text with: it is not sentencepiece BPE with BOS 1, EOS 2 and bytes from 3.
    pub fn to_llama2c(&self, rows: usize) -> Result<Vec<u8>> {
        let vocabulary = self.to_gguf(rows)?;
        let token = |id: u32| vocabulary.tokens.get(id as usize).map(String::as_str);
        let has_bytes = (0..=u8::MAX).all(|byte| {
            token(FIRST_BYTE + u32::from(byte)).and_then(fallback_byte).is_some_and(|found| found == byte)
        });
        if vocabulary.model != "llama"
            || !has_bytes
            || (vocabulary.bos_id, vocabulary.eos_id) != (Some(1), Some(2))
        {
            let reason =
                "llama2.c reads sentencepiece vocabularies only, BPE with BOS 1, EOS 2 and the bytes from 3";
            return Err(Error::Llama2C(reason.into()));
        }
        let mut texts = Vec::with_capacity(rows);
        for (id, text) in vocabulary.tokens.iter().enumerate() {
            let mark = MARKS.iter().find(|mark| mark.0 == id);
            texts.push(mark.map_or_else(|| text.replace(SPACE, " "), |mark| mark.1.to_owned()));
        }
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let mut bytes = (longest as u32).to_le_bytes().to_vec();
        for (id, text) in (0..).zip(&texts) {
            let is_piece = self.sentencepiece.as_ref().is_none_or(|pieces| pieces.kind(id).is_some());
            let score = vocabulary.scores.get(id as usize).copied().filter(|_| is_piece);
            bytes.extend(score.unwrap_or(LOWEST_SCORE).to_le_bytes());
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Ok(bytes)
    }
}
