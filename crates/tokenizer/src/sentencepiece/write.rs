//! Writing a `.model` file of one's own: pieces from training, from a GGUF file, from llama2.c's `tokenizer.bin`.

use prost::Message;

use super::proto::{ModelProto, NormalizerSpec, Piece, TrainerSpec};
use super::{Algorithm, NORMAL};

/// A piece as a `.model` file has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewPiece {
    pub text: String,
    pub score: f32,
    pub kind: i32,
}

impl NewPiece {
    pub(crate) fn normal(text: String, score: f32) -> Self {
        Self { text, score, kind: NORMAL }
    }
}

/// What a `.model` file says besides its pieces.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewModel {
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub unk: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    /// Name of the normalization, and its map in sentencepiece's own form; `identity` has none.
    pub normalization: (&'static str, Option<Vec<u8>>),
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    /// Share of the characters of the training text that are pieces, where it was trained.
    pub character_coverage: Option<f32>,
    /// Characters of the longest piece, where it was trained.
    pub max_piece_length: Option<u32>,
}

impl Default for NewModel {
    /// BPE with bytes and without normalization, as Llama's.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Bpe,
            byte_fallback: true,
            unk: Some(0),
            bos: Some(1),
            eos: Some(2),
            pad: None,
            normalization: ("identity", None),
            add_dummy_prefix: true,
            remove_extra_whitespaces: false,
            character_coverage: None,
            max_piece_length: None,
        }
    }
}

impl NewModel {
    /// The bytes of a `.model` file with `pieces`, by id.
    pub(crate) fn write(&self, pieces: &[NewPiece]) -> Vec<u8> {
        let id = |id: Option<u32>| Some(id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1));
        let text = |id: Option<u32>| Some(pieces.get(id? as usize)?.text.clone());
        let count = |count: usize| i32::try_from(count).ok();
        let trainer = TrainerSpec {
            model_type: Some(match self.algorithm {
                Algorithm::Unigram => 1,
                Algorithm::Bpe => 2,
            }),
            vocab_size: count(pieces.len()),
            character_coverage: self.character_coverage,
            max_sentencepiece_length: self.max_piece_length.and_then(|length| count(length as usize)),
            byte_fallback: Some(self.byte_fallback),
            unk_id: id(self.unk),
            bos_id: id(self.bos),
            eos_id: id(self.eos),
            pad_id: id(self.pad),
            unk_piece: text(self.unk),
            bos_piece: text(self.bos),
            eos_piece: text(self.eos),
            pad_piece: text(self.pad),
            ..TrainerSpec::default()
        };
        let (name, characters) = &self.normalization;
        let normalizer = NormalizerSpec {
            name: Some((*name).to_owned()),
            precompiled_charsmap: characters.clone(),
            add_dummy_prefix: Some(self.add_dummy_prefix),
            remove_extra_whitespaces: Some(self.remove_extra_whitespaces),
            escape_whitespaces: Some(true),
        };
        let piece = |NewPiece { text, score, kind }: &NewPiece| Piece {
            piece: Some(text.clone()),
            score: Some(*score),
            kind: Some(*kind).filter(|&kind| kind != NORMAL),
        };
        let pieces = pieces.iter().map(piece).collect();
        ModelProto { pieces, trainer_spec: Some(trainer), normalizer_spec: Some(normalizer) }.encode_to_vec()
    }
}
