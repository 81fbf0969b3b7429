//! Training of a sentencepiece vocabulary, and its `.model` file.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::Map;

use super::bpe::{self, Ties};
use super::symbols::SymbolWords;
use super::word_splitter::{LONGEST_PIECE, WordRule, WordSplitter};
use super::{
    TextNormalization, Tokens, TrainingProgress, VocabularyKind, VocabularyTraining, check_size, count,
    nmt_nfkc, report, unigram,
};
use crate::Tokenizer;
use crate::files::SENTENCEPIECE;
use crate::model_file::sentencepiece_vocabulary;
use crate::sentencepiece::{
    Algorithm, BYTE, CONTROL, ModelFile, NewModel, NewPiece, SPACE, UNKNOWN, USER_DEFINED,
};
use crate::tokenizer::Settings;

/// Trains BPE or Unigram on `texts`.
pub(super) fn train(
    texts: impl Iterator<Item = String>,
    options: &VocabularyTraining,
    given: Tokens,
) -> Result<Tokenizer, String> {
    /// What a byte of different words takes: a third of a character.
    const BPE_COST: u64 = 8;
    const UNIGRAM_COST: u64 = 24;
    let (model, mut pieces) = empty_model(options, &given);
    let own = pieces.len();
    let normalizer = Box::new(ModelFile::parse(&model.write(&pieces))?.sentencepiece);
    let whole = given.texts(options).iter().map(|text| text.replace(' ', SPACE)).collect();
    let splitter = WordSplitter { rule: WordRule::SentencePiece(normalizer), whole };
    let is_bpe = options.kind == VocabularyKind::Bpe;
    let words = count(texts, options, &splitter, if is_bpe { BPE_COST } else { UNIGRAM_COST })?;
    let words = {
        let mut all = Vec::with_capacity(words.len());
        words.drain(|word, count| all.push((Box::<str>::from(word), count)));
        all
    };
    let characters = covered(&words, options.character_coverage);
    let least = own + characters.len();
    let wanted = options.vocabulary_size;
    if wanted < least {
        return Err(format!(
            "a vocabulary of {wanted} is too small: {own} special, user-defined and byte tokens and the {} characters of \
             the text need {least}; ask for more, or lower the character coverage",
            characters.len()
        ));
    }
    let ids: HashMap<char, u32> = characters.iter().copied().zip(0..).collect();
    let piece = |text: String, score: f64| NewPiece::normal(text, score as f32);
    let mut symbols = SymbolWords::default();
    for (word, count) in words {
        covered_parts(&word, &ids, |part| symbols.push(part.iter().copied(), count));
    }
    if is_bpe {
        let mut tokens: Vec<String> = characters.iter().map(char::to_string).collect();
        bpe::merge(symbols, &mut tokens, wanted - own, 1, Ties::Text, &mut |now| {
            _ = report(options, TrainingProgress::Tokens { now: own + now, wanted });
        });
        check_size(own + tokens.len(), options)?;
        // The rank is the score; characters come behind what was merged.
        let merged = tokens.split_off(characters.len());
        let ranked = merged.into_iter().chain(tokens).zip(0_u32..);
        pieces.extend(ranked.map(|(text, rank)| piece(text, -f64::from(rank))));
    } else {
        let found = unigram::train(&symbols, characters.len(), wanted - own, &mut |now| {
            _ = report(options, TrainingProgress::Tokens { now: own + now, wanted });
        });
        check_size(own + found.len(), options)?;
        let text = |symbols: &[u32]| symbols.iter().map(|&symbol| characters[symbol as usize]).collect();
        pieces.extend(found.iter().map(|(symbols, score)| piece(text(symbols), *score)));
    }
    let bytes = model.write(&pieces);
    let vocabulary = sentencepiece_vocabulary(&bytes, &Map::new(), &Map::new())?;
    let files = vec![(SENTENCEPIECE.to_owned(), bytes)];
    Tokenizer::new(vocabulary.inner, vocabulary.sentencepiece, given.settings, files)
}

/// What the file says, and the pieces that training does not find.
fn empty_model(options: &VocabularyTraining, given: &Tokens) -> (NewModel, Vec<NewPiece>) {
    let piece = |text: String, kind| NewPiece { text, score: 0.0, kind };
    let Settings { unk, bos, eos, pad, .. } = given.settings;
    let control = |(id, text): (u32, String)| piece(text, if Some(id) == unk { UNKNOWN } else { CONTROL });
    let special = (0..).zip(given.special.iter().map(|token| token.text.clone())).map(control);
    let user_defined = options.user_defined.iter().map(|text| piece(text.replace(' ', SPACE), USER_DEFINED));
    let bytes =
        (0..=u8::MAX).filter(|_| options.byte_fallback).map(|byte| piece(format!("<0x{byte:02X}>"), BYTE));
    let is_identity = options.normalization == TextNormalization::Identity;
    let model = NewModel {
        algorithm: if options.kind == VocabularyKind::Bpe { Algorithm::Bpe } else { Algorithm::Unigram },
        byte_fallback: options.byte_fallback,
        unk,
        bos,
        eos,
        // A token with two roles is padding only to the files beside this one.
        pad: pad.filter(|&pad| ![unk, bos, eos].contains(&Some(pad))),
        normalization: match is_identity {
            true => ("identity", None),
            false => ("nmt_nfkc", Some(nmt_nfkc::character_map())),
        },
        add_dummy_prefix: true,
        remove_extra_whitespaces: !is_identity,
        character_coverage: Some(options.character_coverage as f32),
        max_piece_length: Some(LONGEST_PIECE as u32),
    };
    (model, special.chain(user_defined).chain(bytes).collect())
}

/// The most frequent characters, as many as make up the share `coverage` of the text, most frequent first.
fn covered(words: &[(Box<str>, u64)], coverage: f64) -> Vec<char> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        word.chars().for_each(|character| *counts.entry(character).or_default() += count);
    }
    let all: u64 = counts.values().sum();
    let mut counts: Vec<(char, u64)> = counts.into_iter().collect();
    counts.sort_unstable_by_key(|&(character, count)| (Reverse(count), character));
    let mut before = 0;
    let is_needed = |&(_, count): &(char, u64)| {
        // In single precision, as sentencepiece computes it.
        let is_needed = ((before as f64 / all as f64) as f32) < coverage as f32;
        before += count;
        is_needed
    };
    counts.into_iter().take_while(is_needed).map(|(character, _)| character).collect()
}

/// The parts of a word between characters that are not covered.
fn covered_parts(word: &str, ids: &HashMap<char, u32>, mut each: impl FnMut(&[u32])) {
    let symbols: Vec<Option<u32>> = word.chars().map(|character| ids.get(&character).copied()).collect();
    for part in symbols.split(Option::is_none).filter(|part| !part.is_empty()) {
        let part: Vec<u32> = part.iter().flatten().copied().collect();
        each(&part);
    }
}
