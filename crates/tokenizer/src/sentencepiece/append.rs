//! Appending pieces to the bytes of a `.model` file. What else stands in it, known here or not, is kept as it is.

use std::ops::Range;

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::proto::Piece;
use super::{NORMAL, NewPiece};

/// Fields of the file, and of its `normalizer_spec`.
const PIECES: u32 = 1;
const NORMALIZER: u32 = 3;
const ADD_DUMMY_PREFIX: u32 = 3;

/// The file with `pieces` behind its own; `keep_dummy_prefix` is false for a file that says that no text gets a space
/// before it.
pub(crate) fn append(model: &[u8], pieces: &[NewPiece], keep_dummy_prefix: bool) -> Result<Vec<u8>, String> {
    let mut appended = Vec::with_capacity(model.len() + 16 * pieces.len());
    let fields = fields(model)?;
    let last = fields.iter().rposition(|(tag, _)| *tag == PIECES).ok_or("it holds no pieces")?;
    for (place, (tag, range)) in fields.into_iter().enumerate() {
        let field = &model[range];
        if tag == NORMALIZER && !keep_dummy_prefix {
            let mut payload = field;
            decode_key(&mut payload).and_then(|_| decode_varint(&mut payload)).map_err(|e| e.to_string())?;
            put(&mut appended, NORMALIZER, &without_dummy_prefix(payload)?);
        } else {
            appended.extend_from_slice(field);
        }
        if place == last {
            for NewPiece { text, score, kind } in pieces {
                let kind = Some(*kind).filter(|&kind| kind != NORMAL);
                let piece = Piece { piece: Some(text.clone()), score: Some(*score), kind };
                put(&mut appended, PIECES, &piece.encode_to_vec());
            }
        }
    }
    Ok(appended)
}

/// A field of bytes.
fn put(out: &mut Vec<u8>, tag: u32, payload: &[u8]) {
    prost::encoding::encode_key(tag, WireType::LengthDelimited, out);
    prost::encoding::encode_varint(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// The fields of a message: their numbers, and where they stand with their keys.
fn fields(message: &[u8]) -> Result<Vec<(u32, Range<usize>)>, String> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = message.len() - rest.len();
        let (tag, wire) = decode_key(&mut rest).map_err(|error| error.to_string())?;
        skip_field(wire, tag, &mut rest, DecodeContext::default()).map_err(|error| error.to_string())?;
        fields.push((tag, start..message.len() - rest.len()));
    }
    Ok(fields)
}

/// A `normalizer_spec` with `add_dummy_prefix: false`.
fn without_dummy_prefix(normalizer: &[u8]) -> Result<Vec<u8>, String> {
    let mut changed = Vec::with_capacity(normalizer.len() + 2);
    let mut is_said = false;
    for (tag, range) in fields(normalizer)? {
        if tag >= ADD_DUMMY_PREFIX && !is_said {
            say_no(&mut changed);
            is_said = true;
        }
        if tag != ADD_DUMMY_PREFIX {
            changed.extend_from_slice(&normalizer[range]);
        }
    }
    if !is_said {
        say_no(&mut changed);
    }
    Ok(changed)
}

fn say_no(out: &mut Vec<u8>) {
    prost::encoding::encode_key(ADD_DUMMY_PREFIX, WireType::Varint, out);
    prost::encoding::encode_varint(0, out);
}
