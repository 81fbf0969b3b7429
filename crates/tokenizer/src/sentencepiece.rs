//! Sentencepiece: how a text becomes pieces, exactly as its own library does it.
//!
//! The pieces come from a `.model` file or from the metadata of a GGUF file. The `tokenizers` crate keeps the
//! vocabulary and finds special tokens; the cutting is done here, because ranked merges cannot express scores of which
//! several are equal, nor user-defined pieces that survive normalization. Nothing is trained here.

mod append;
mod bpe;
pub(crate) mod character_map;
mod neighbours;
pub(crate) mod proto;
mod unigram;
mod write;

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::ops::Range;

pub(crate) use append::append;
use character_map::CharacterMap;
use neighbours::{Neighbours, PieceHash};
use prost::Message;
use proto::ModelProto;
use tokenizers::decoders::{
    DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as DecoderSequence,
    strip::Strip,
};
use tokenizers::normalizers::Replace;

use crate::GgufVocabulary;
use crate::bytes::fallback_byte;
use crate::id_cache::{IdCache, PerThread};
use crate::pair_table::PairTable;
pub(crate) use write::{NewModel, NewPiece};

pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// A space inside of pieces.
pub(crate) const SPACE: &str = "▁";

/// How the best cut is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Bpe,
    Unigram,
}

/// Which stretches of a text get a space before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DummyPrefix {
    /// None.
    Never,
    /// The text's start, unless a special token stands there.
    First,
    /// That, and what follows each special token.
    Always,
}

/// What is done to a text before it is cut.
#[derive(Debug, Clone, PartialEq)]
struct Normalization {
    characters: Option<CharacterMap>,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// Score and kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    score: f32,
    kind: i32,
}

/// Stands for a character that is in no piece.
const NO_PIECE: u32 = u32::MAX;

/// The pieces and how a text is cut into them.
#[derive(Debug, Clone)]
pub(crate) struct SentencePiece {
    algorithm: Algorithm,
    /// What can stand in a text: normal, user-defined and unused pieces.
    pieces: HashMap<String, u32, BuildHasherDefault<PieceHash>>,
    /// Those of one character below U+10000, by the character; elsewhere [`NO_PIECE`], or what [`bpe::pair_table`] put there.
    characters: Box<[u32]>,
    /// By id.
    table: Vec<Piece>,
    /// How ids are joined; `None` where they do not tell all, and strings are.
    pairs: Option<PairTable>,
    /// Which characters stand beside each other in them.
    neighbours: Neighbours,
    /// Characters of the longest piece.
    longest: usize,
    /// Lowest and highest score of normal pieces.
    bounds: (f32, f32),
    /// User-defined pieces by their first character, longest first.
    user_defined: HashMap<char, Vec<String>>,
    unk: Option<u32>,
    /// The pieces of single bytes, where what is in no piece is written with them.
    bytes: Option<Box<[Option<u32>; 256]>>,
    normalization: Normalization,
    pub(crate) dummy_prefix: DummyPrefix,
    /// What stretches of text became.
    known: PerThread<IdCache>,
}

/// What a `.model` file holds.
pub(crate) struct ModelFile {
    /// Ids by text.
    pub vocabulary: HashMap<String, u32>,
    pub sentencepiece: SentencePiece,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
}

impl ModelFile {
    /// Reads the bytes of a `.model` file; the error is the bare reason.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model =
            ModelProto::decode(bytes).map_err(|error| format!("not a sentencepiece model: {error}"))?;
        let trainer = model.trainer_spec.unwrap_or_default();
        let normalizer = model.normalizer_spec.unwrap_or_default();
        let algorithm = match trainer.model_type() {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            other => {
                return Err(format!(
                    "`trainer_spec.model_type` is {other}; only 1 (unigram) and 2 (BPE) are read"
                ));
            }
        };
        if trainer.treat_whitespace_as_suffix() {
            return Err("`trainer_spec.treat_whitespace_as_suffix` is not supported".into());
        }
        let characters = match normalizer.precompiled_charsmap() {
            [] => None,
            bytes => Some(CharacterMap::parse(bytes)?),
        };
        if model.pieces.is_empty() {
            return Err("it holds no pieces".into());
        }
        let mut vocabulary = HashMap::with_capacity(model.pieces.len());
        for (id, piece) in (0..).zip(&model.pieces) {
            if piece.piece().is_empty() {
                return Err(format!("piece {id} is empty"));
            }
            if let Some(first) = vocabulary.insert(piece.piece().to_owned(), id) {
                return Err(format!("piece `{}` stands twice: {first} and {id}", piece.piece()));
            }
        }
        let table: Vec<Piece> =
            model.pieces.iter().map(|piece| Piece { score: piece.score(), kind: piece.kind() }).collect();
        let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < table.len());
        let (bos, eos, pad) = (id(trainer.bos_id()), id(trainer.eos_id()), id(trainer.pad_id()));
        let unk = id(trainer.unk_id());
        let normalization = Normalization {
            characters,
            remove_extra_whitespaces: normalizer.remove_extra_whitespaces(),
            escape_whitespaces: normalizer.escape_whitespaces(),
        };
        let dummy_prefix =
            if normalizer.add_dummy_prefix() { DummyPrefix::Always } else { DummyPrefix::Never };
        let sentencepiece = SentencePiece::new(
            algorithm,
            &vocabulary,
            table,
            unk,
            trainer.byte_fallback(),
            normalization,
            dummy_prefix,
        );
        Ok(Self { vocabulary, sentencepiece, bos, eos, pad, unk })
    }
}

/// The bytes of a `.model` file with the pieces of a GGUF file, which are BPE: only spaces are normalized.
///
/// `vocabulary` must have a score for each token.
pub(crate) fn model_of_gguf(vocabulary: &GgufVocabulary) -> Vec<u8> {
    let piece = |(id, (token, &score)): (usize, (&String, &f32))| {
        let kind = vocabulary.token_types.get(id).copied().filter(|kind| (NORMAL..=BYTE).contains(kind));
        NewPiece { text: token.clone(), score, kind: kind.unwrap_or(NORMAL) }
    };
    let pieces: Vec<NewPiece> =
        vocabulary.tokens.iter().zip(&vocabulary.scores).enumerate().map(piece).collect();
    let model = NewModel {
        unk: vocabulary.unk_id,
        bos: vocabulary.bos_id,
        eos: vocabulary.eos_id,
        pad: vocabulary.pad_id,
        add_dummy_prefix: vocabulary.add_space_prefix.unwrap_or(true),
        ..NewModel::default()
    };
    model.write(&pieces)
}

impl SentencePiece {
    fn new(
        algorithm: Algorithm,
        vocabulary: &HashMap<String, u32>,
        table: Vec<Piece>,
        unk: Option<u32>,
        byte_fallback: bool,
        normalization: Normalization,
        dummy_prefix: DummyPrefix,
    ) -> Self {
        let mut pieces = HashMap::with_capacity_and_hasher(vocabulary.len(), BuildHasherDefault::default());
        let mut characters: Box<[u32]> = vec![NO_PIECE; 1 << 16].into();
        let mut neighbours = Neighbours::new();
        let mut bytes = byte_fallback.then(|| Box::new([None; 256]));
        let mut user_defined: HashMap<char, Vec<String>> = HashMap::new();
        for (text, &id) in vocabulary {
            match table[id as usize].kind {
                BYTE => {
                    if let (Some(bytes), Some(byte)) = (&mut bytes, fallback_byte(text)) {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                UNKNOWN | CONTROL => {}
                kind => {
                    neighbours.add(text);
                    pieces.insert(text.clone(), id);
                    if let Some(place) = place(&mut characters, text) {
                        *place = id;
                    }
                    if let (USER_DEFINED, Some(first)) = (kind, text.chars().next()) {
                        user_defined.entry(first).or_default().push(text.clone());
                    }
                }
            }
        }
        user_defined.values_mut().for_each(|texts| texts.sort_by_key(|text| std::cmp::Reverse(text.len())));
        let longest = pieces.keys().map(|text| text.chars().count()).max().unwrap_or(0);
        let bounds = unigram::bounds(&table);
        let is_plain = user_defined.is_empty() && !table.iter().any(|piece| piece.kind == UNUSED);
        let pairs = (algorithm == Algorithm::Bpe && is_plain)
            .then(|| bpe::pair_table(&pieces, &table, &mut characters))
            .flatten();
        Self {
            algorithm,
            pieces,
            characters,
            pairs,
            table,
            neighbours,
            longest,
            bounds,
            user_defined,
            unk,
            bytes,
            normalization,
            dummy_prefix,
            known: PerThread::default(),
        }
    }

    /// Adds the ids of a stretch of text to `ids`; the error is the bare reason.
    ///
    /// `is_first` says whether it is the start of the whole text.
    pub(crate) fn encode(&self, text: &str, is_first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        let prefix = match self.dummy_prefix {
            DummyPrefix::Never => false,
            DummyPrefix::First => is_first,
            DummyPrefix::Always => true,
        };
        self.encode_normalized(&self.normalize(text, prefix), ids)
    }

    /// Adds the ids of a text that goes on from another, so that no space is put before it and none is taken from its
    /// start.
    pub(crate) fn encode_within(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        self.encode_normalized(&self.normalize_from(text, false, false), ids)
    }

    fn encode_normalized(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let start = ids.len();
        match self.algorithm {
            Algorithm::Bpe => self.known.with(|known| bpe::encode(self, text, known, ids)),
            Algorithm::Unigram => {
                for (range, id) in unigram::cut(self, text) {
                    self.write(&text[range], id.unwrap_or(NO_PIECE), ids);
                }
            }
        }
        self.settle_unknown(start, text, ids)
    }

    /// The piece of a single character, or what stands for one that is no piece.
    fn id_of(&self, character: char) -> u32 {
        match self.characters.get(character as usize) {
            Some(&id) => id,
            None => self.pieces.get(&*character.encode_utf8(&mut [0; 4])).copied().unwrap_or(NO_PIECE),
        }
    }

    /// Adds the id of a part of a text; if it is no piece, those of its bytes, or else [`NO_PIECE`].
    fn write(&self, part: &str, id: u32, ids: &mut Vec<u32>) {
        if (id as usize) < self.table.len() {
            ids.push(id);
            return;
        }
        let of_byte = |byte: u8| self.bytes.as_ref().and_then(|bytes| bytes[usize::from(byte)]);
        match part.bytes().all(|byte| of_byte(byte).is_some()) {
            true => ids.extend(part.bytes().filter_map(of_byte)),
            false => ids.push(NO_PIECE),
        }
    }

    /// Makes one unknown token of each run of [`NO_PIECE`]: what is unknown is one token, however long.
    fn settle_unknown(&self, start: usize, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if !ids[start..].contains(&NO_PIECE) {
            return Ok(());
        }
        let missing = || {
            let is_unknown = |character: &char| {
                let mut written = Vec::new();
                self.write(character.encode_utf8(&mut [0; 4]), self.id_of(*character), &mut written);
                written == [NO_PIECE]
            };
            let part = text.chars().find(is_unknown).unwrap_or_default();
            format!("`{part}` is in no piece, and there is none for what is unknown")
        };
        let unk = self.unk.ok_or_else(missing)?;
        let mut settled = ids.split_off(start);
        settled.dedup_by(|next, last| *next == NO_PIECE && *last == NO_PIECE);
        ids.extend(settled.into_iter().map(|id| if id == NO_PIECE { unk } else { id }));
        Ok(())
    }

    /// The text as pieces are written.
    pub(crate) fn normalize(&self, text: &str, prefix: bool) -> String {
        self.normalize_from(text, prefix, true)
    }

    fn normalize_from(&self, mut text: &str, prefix: bool, is_start: bool) -> String {
        let Normalization { remove_extra_whitespaces, escape_whitespaces, .. } = self.normalization;
        let space = if escape_whitespaces { SPACE } else { " " };
        if self.normalization.characters.is_none()
            && !remove_extra_whitespaces
            && self.user_defined.is_empty()
        {
            let prefix = if prefix && !text.is_empty() { space } else { "" };
            return format!("{prefix}{}", text.replace(' ', space));
        }
        if remove_extra_whitespaces && is_start {
            while let (length @ 1.., " ") = self.normalize_start(text) {
                text = &text[length..];
            }
        }
        let mut normalized = String::with_capacity(text.len() + text.len() / 4);
        if prefix && !text.is_empty() {
            normalized.push_str(space);
        }
        let mut after_space = remove_extra_whitespaces && is_start;
        while !text.is_empty() {
            let (length, mut part) = self.normalize_start(text);
            text = &text[length..];
            if after_space {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                after_space = remove_extra_whitespaces && part.ends_with(' ');
            }
            for (index, between) in part.split(' ').enumerate() {
                if index > 0 {
                    normalized.push_str(space);
                }
                normalized.push_str(between);
            }
        }
        if remove_extra_whitespaces {
            let end = normalized.trim_end_matches(space).len();
            normalized.truncate(end);
        }
        normalized
    }

    /// How much of a text's start is normalized at once, and to what.
    fn normalize_start<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if let Some(length) = self.user_defined(text) {
            return (length, &text[..length]);
        }
        if let Some((length, replacement)) =
            self.normalization.characters.as_ref().and_then(|map| map.longest_match(text))
        {
            return (length, replacement);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (length, &text[..length])
    }

    /// Bytes of the longest user-defined piece that a text begins with.
    fn user_defined(&self, text: &str) -> Option<usize> {
        let first = text.chars().next().filter(|_| !self.user_defined.is_empty())?;
        let texts = self.user_defined.get(&first)?;
        texts.iter().find(|piece| text.starts_with(piece.as_str())).map(String::len)
    }

    /// Whether it is BPE that writes single bytes, as Llama's: the only kind that llama.cpp calls `llama`.
    pub(crate) fn is_bpe_with_bytes(&self) -> bool {
        self.algorithm == Algorithm::Bpe && self.bytes.is_some()
    }

    /// Whether the ids of two lines are those of each, but for the space before a text.
    pub(crate) fn keeps_lines_apart(&self) -> bool {
        self.is_bpe_with_bytes()
            && !self.normalizes()
            && !self.pieces.keys().any(|piece| piece.len() > 1 && piece.contains('\n'))
    }

    pub(crate) fn is_bpe(&self) -> bool {
        self.algorithm == Algorithm::Bpe
    }

    /// The stretches that a text of pieces is cut into.
    pub(crate) fn ranges(&self, text: &str) -> Vec<Range<usize>> {
        bpe::cut(self, text).into_iter().map(|(range, _)| range).collect()
    }

    /// Unigram: the score of a text's best cut.
    pub(crate) fn best_score(&self, text: &str) -> Option<f32> {
        (self.algorithm == Algorithm::Unigram).then(|| unigram::best_score(self, text))
    }

    /// The lowest score of a piece that stands in texts.
    pub(crate) fn lowest_score(&self) -> f32 {
        self.pieces.values().map(|&id| self.table[id as usize].score).fold(0.0, f32::min)
    }

    /// Adds a normal piece behind the others.
    pub(crate) fn add(&mut self, text: &str, score: f32) {
        self.pieces.insert(text.to_owned(), self.table.len() as u32);
        if let Some(place) = place(&mut self.characters, text) {
            *place = self.table.len() as u32;
        }
        self.pairs = None;
        self.known = PerThread::default();
        self.table.push(Piece { score, kind: NORMAL });
        self.neighbours.add(text);
        self.longest = self.longest.max(text.chars().count());
        self.bounds = (self.bounds.0.min(score), self.bounds.1.max(score));
    }

    /// Why no text is ever cut so that `piece`, which stands for `text`, is a part; `None` if nothing speaks against it.
    pub(crate) fn never_cuts(&self, text: &str, piece: &str) -> Option<&'static str> {
        let trimmed = piece.trim_start_matches(SPACE);
        let spaces = piece.len() - trimmed.len();
        let normalized = self.normalize(text.trim_start_matches(' '), false);
        if normalized != trimmed || (spaces > SPACE.len() && self.normalization.remove_extra_whitespaces) {
            return Some("texts are normalized to something else");
        }
        let has_defined = piece.char_indices().any(|(at, _)| self.user_defined(&piece[at..]).is_some());
        has_defined.then_some("it holds a user-defined piece, which is never joined")
    }

    /// Whether what is in no piece is written byte by byte.
    pub(crate) fn has_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// The user-defined pieces.
    pub(crate) fn user_defined_texts(&self) -> impl Iterator<Item = &str> {
        self.user_defined.values().flatten().map(String::as_str)
    }

    /// The characters of all pieces of several that text is joined to.
    pub(crate) fn joined_characters(&self) -> HashSet<char> {
        let is_joined = |id: u32| self.table[id as usize].kind != USER_DEFINED;
        let pieces = self.pieces.iter().filter(|(_, id)| is_joined(**id)).map(|(text, _)| text);
        pieces.filter(|text| text.chars().nth(1).is_some()).flat_map(|text| text.chars()).collect()
    }

    /// Whether a text is changed before it is cut, but for the spaces.
    pub(crate) fn normalizes(&self) -> bool {
        self.normalization.characters.is_some() || self.normalization.remove_extra_whitespaces
    }

    /// Nothing but pieces with spaces escaped; the error says what else there is.
    pub(crate) fn is_plain(&self) -> Result<(), String> {
        let reason = if self.normalizes() || !self.normalization.escape_whitespaces {
            "it normalizes texts by rules of its own"
        } else if !self.user_defined.is_empty() || self.table.iter().any(|piece| piece.kind == UNUSED) {
            "it has user-defined or unused pieces"
        } else {
            return Ok(());
        };
        Err(format!("{reason}, which is kept exact only in its own format"))
    }

    /// Whether a character is a piece.
    pub(crate) fn has_piece(&self, character: char) -> bool {
        self.pieces.contains_key(character.encode_utf8(&mut [0; 4]) as &str)
    }

    pub(crate) fn has_dummy_prefix(&self) -> bool {
        self.dummy_prefix != DummyPrefix::Never
    }

    /// Score of a piece.
    pub(crate) fn score(&self, id: u32) -> Option<f32> {
        self.table.get(id as usize).map(|piece| piece.score)
    }

    /// Kind of a piece.
    pub(crate) fn kind(&self, id: u32) -> Option<i32> {
        self.table.get(id as usize).map(|piece| piece.kind)
    }

    /// The decoder that turns pieces into text.
    pub(crate) fn decoder(&self) -> Result<DecoderSequence, String> {
        let unescape = Replace::new(SPACE, " ").map_err(|error| error.to_string())?;
        let mut decoders: Vec<DecoderWrapper> =
            vec![unescape.into(), ByteFallback::new().into(), Fuse::new().into()];
        if self.has_dummy_prefix() {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        Ok(DecoderSequence::new(decoders))
    }
}

/// The place of a piece in a table by characters, if it is one character that the table holds.
fn place<'a>(characters: &'a mut [u32], piece: &str) -> Option<&'a mut u32> {
    let mut all = piece.chars();
    let first = all.next()?;
    characters.get_mut(first as usize).filter(|_| all.next().is_none())
}
