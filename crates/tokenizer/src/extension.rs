//! Extending a vocabulary: pieces of another one, or words, appended so that each is really reached, while every id that
//! was there keeps its meaning. It knows nothing of the models whose embeddings must grow with it.

mod joins;
mod merges;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use serde_json::Value;
use tokenizers::tokenizer::{Normalizer, PreTokenizer};
use tokenizers::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString};

use crate::files::{CONFIG, SENTENCEPIECE, TOKENIZER, is_sentencepiece};
use crate::files_out::write;
use crate::sentencepiece::{BYTE, CONTROL, ModelFile, NewPiece, SentencePiece, USER_DEFINED, append};
use crate::{Error, Result, SpecialTokens, Tokenizer};
use joins::{Joins, Plan, append_all};
use merges::{Merges, append_to_json};

/// Files that say what the vocabulary was before it was extended.
const OUTDATED: [&str; 4] = [TOKENIZER, SENTENCEPIECE, "vocab.json", "merges.txt"];
/// Whole numbers below this magnitude are all different as f32.
const WHOLE: f32 = 16_777_216.0;
/// Characters of the longest text that becomes a piece.
const LONGEST: usize = 64;
const TOO_LONG: &str = "longer than 64 characters";

/// A vocabulary with more pieces.
#[derive(Debug)]
pub struct Extension {
    files: Vec<(String, Vec<u8>)>,
    /// Pieces that were asked for, with their ids.
    pub appended: Vec<(String, u32)>,
    /// Pieces that were appended because others are made of them.
    pub intermediate: Vec<(String, u32)>,
    /// Pieces that the base has already.
    pub known: usize,
    /// Pieces that no text could ever become, and why.
    pub refused: Vec<(String, &'static str)>,
}

impl Extension {
    /// Writes the files of the extended vocabulary into `folder`, which is created.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        self.files.iter().try_for_each(|(name, bytes)| write(&folder.join(name), bytes))
    }

    /// How many of the pieces that were asked for occur when `extended`, which these files are opened as, encodes their
    /// own text.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn reached(&self, extended: &Tokenizer) -> Result<Reached> {
        let mut reached = Reached::default();
        for &(_, id) in &self.appended {
            let text = extended.token_bytes(id).and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.unwrap_or_default();
            let within = extended.encode_within(&text, SpecialTokens::AsText)?;
            reached.inside += usize::from(within.contains(&id));
            // The space that the vocabulary itself puts before a text.
            let bare = text.strip_prefix(' ').filter(|_| extended.decoding.strips_start());
            let alone = extended.encode(bare.unwrap_or(&text), SpecialTokens::AsText)?;
            if alone.contains(&id) {
                reached.alone += 1;
            } else if let Some(first) = alone.first().and_then(|&first| extended.token_bytes(first)) {
                reached.behind_space += usize::from(first.len() > 1 && first.starts_with(b" "));
            }
        }
        Ok(reached)
    }
}

/// How many new pieces texts become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// Inside of a text, where no space is put before it.
    pub inside: usize,
    /// As a whole text.
    pub alone: usize,
    /// Not as a whole text, because its beginning is joined to the space that the vocabulary puts before it.
    pub behind_space: usize,
}

impl Tokenizer {
    /// What the tokens stand for in a text, in the order of their ids; not special tokens, single bytes, and bytes that
    /// are no whole characters.
    pub fn texts(&self) -> Vec<String> {
        let kind = |id| self.sentencepiece.as_ref().and_then(|pieces| pieces.kind(id));
        let ids = 0..self.vocabulary_size() as u32;
        let ids = ids.filter(|&id| !self.is_special(id) && kind(id) != Some(BYTE));
        let text = |id| String::from_utf8(self.token_bytes(id)?).ok().filter(|text| !text.is_empty());
        ids.filter_map(text).collect()
    }

    /// This vocabulary with `texts`, as they stand in texts, behind its own pieces. Sentencepiece BPE: a `.model` file
    /// whose new scores are all different and below the others. Unigram: one where each new piece is by 1 more probable
    /// than the pieces that it used to be cut into. Byte-level BPE: a `tokenizer.json` with new merges behind the others.
    ///
    /// # Errors
    /// A vocabulary of another kind, or files beside each other that are two vocabularies.
    pub fn extend(&self, texts: &[String]) -> Result<Extension> {
        let extended = match self.model_to_extend() {
            _ if self.decoding.is_byte_level() => self.extend_merges(texts),
            Ok(Some(model)) => self.extend_sentencepiece(model, texts),
            Ok(None) => Err("it is neither a sentencepiece `.model` nor byte-level BPE".into()),
            Err(differing) => Err(differing),
        };
        extended.map_err(Error::Extension)
    }

    /// What the scripts of older projects make (Chinese-LLaMA-Alpaca, literary-alpaca2): the pieces of `new` that are not
    /// in this `.model` behind its own, all of score 0, and no space before texts. The new pieces tie with each other and
    /// win over all others.
    ///
    /// # Errors
    /// A vocabulary that is not sentencepiece.
    pub fn extend_as_older_projects(&self, new: &[Self]) -> Result<Extension> {
        let failed = |reason: &str| Error::Extension(reason.into());
        let base = self.model_to_extend().map_err(Error::Extension)?;
        let base = base.ok_or_else(|| failed("the base is no sentencepiece `.model`"))?;
        let mut ids = ModelFile::parse(base).map_err(Error::Extension)?.vocabulary;
        if self.vocabulary_size() > ids.len() {
            return Err(failed(
                "the base has tokens behind its pieces, whose ids older projects give to the new pieces: extend without that form",
            ));
        }
        let (first, mut appended, mut known) = (ids.len() as u32, Vec::new(), 0);
        for new in new {
            let new = new.model_to_extend().map_err(Error::Extension)?;
            let new = new.ok_or_else(|| failed("the new one is no sentencepiece `.model`"))?;
            let new = ModelFile::parse(new).map_err(Error::Extension)?.vocabulary;
            let mut texts: Vec<(u32, String)> = new.into_iter().map(|(text, id)| (id, text)).collect();
            texts.sort_unstable();
            for (_, text) in texts {
                let id = first + appended.len() as u32;
                if ids.contains_key(&text) {
                    known += 1;
                } else {
                    ids.insert(text.clone(), id);
                    appended.push((text, id));
                }
            }
        }
        let pieces: Vec<NewPiece> =
            appended.iter().map(|(text, _)| NewPiece::normal(text.clone(), 0.0)).collect();
        let model = append(base, &pieces, false).map_err(Error::Extension)?;
        let files = self.files_around(SENTENCEPIECE, model)?;
        Ok(Extension { files, appended, intermediate: Vec::new(), known, refused: Vec::new() })
    }

    /// The `.model` file of a sentencepiece vocabulary, also where it was opened as the `tokenizer.json` that says the same;
    /// then the error tells where they differ.
    fn model_to_extend(&self) -> Result<Option<&[u8]>, String> {
        let model = self.files.iter().find(|(name, bytes)| name == SENTENCEPIECE && is_sentencepiece(bytes));
        let Some((_, model)) = model else { return Ok(None) };
        if self.sentencepiece.is_none() {
            let pieces = ModelFile::parse(model)?.vocabulary;
            let differs = |(text, id): &(&String, &u32)| {
                let own = self.token_text(**id);
                // A token may have taken the place of a piece that was kept free.
                own.as_ref() != Some(text) && self.added_token(**id).is_none()
            };
            if let Some((text, id)) = pieces.iter().filter(differs).min_by_key(|(_, id)| **id) {
                return Err(format!(
                    "`{TOKENIZER}` and `{SENTENCEPIECE}` beside it are two vocabularies: the id {id} is `{}` in one and \
                     `{text}` in the other; give the path of the one to extend, alone in a folder",
                    self.token_text(*id).unwrap_or_else(|| "nothing".into())
                ));
            }
        }
        Ok(Some(model))
    }

    /// The files of this vocabulary with another main one, with which a text begins and ends as before.
    fn files_around(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<(String, Vec<u8>)>> {
        let others = self.files.iter().filter(|(name, _)| !OUTDATED.contains(&name.as_str())).cloned();
        let mut files: Vec<(String, Vec<u8>)> =
            std::iter::once((name.to_owned(), bytes)).chain(others).collect();
        match files.iter_mut().find(|(name, _)| name == CONFIG) {
            Some((_, config)) => *config = self.config_with_ends(config)?,
            None => files.extend(self.config_files()?),
        }
        Ok(files)
    }

    fn extend_sentencepiece(&self, bytes: &[u8], texts: &[String]) -> Result<Extension, String> {
        let model = ModelFile::parse(bytes)?;
        let mut pieces = Vec::new();
        // Tokens of the files beside it have ids behind the pieces, which they keep by becoming pieces.
        for id in model.vocabulary.len() as u32..self.vocabulary_size() as u32 {
            let text = self.token_text(id).ok_or_else(|| format!("id {id} has no token"))?;
            let kind = if self.is_special(id) { CONTROL } else { USER_DEFINED };
            pieces.push(NewPiece { text, score: 0.0, kind });
        }
        let taken: HashSet<String> = pieces.iter().map(|piece| piece.text.clone()).collect();
        let mut scored = Scored::new(model.sentencepiece);
        let (mut wanted, mut seen, mut known, mut refused) = (Vec::new(), HashSet::new(), 0, Vec::new());
        let all: HashSet<&str> = texts.iter().map(String::as_str).collect();
        for text in texts {
            let piece = text.replace(' ', "▁");
            let bare = text.strip_prefix(' ').filter(|_| begins_a_text(&piece));
            if is_too_long(text) {
                refused.push((piece, TOO_LONG));
            } else if model.vocabulary.contains_key(&piece) || taken.contains(&piece) {
                known += 1;
            } else if !seen.insert(piece.clone()) {
                continue;
            } else if bare.is_some_and(|bare| all.contains(bare) || model.vocabulary.contains_key(bare)) {
                refused
                    .push((piece, "the same text without the space is a piece, which does as much and would be lost where this one stands"));
            } else if let Some(reason) = scored.model.never_cuts(text, &piece) {
                refused.push((piece, reason));
            } else {
                wanted.push(piece);
            }
        }
        // Merges of other programs begin with characters that are pieces.
        let alone: HashSet<&str> = wanted.iter().map(String::as_str).collect();
        let characters: BTreeSet<char> = wanted.iter().flat_map(|piece| piece.chars()).collect();
        let characters: Vec<String> = characters
            .into_iter()
            .map(String::from)
            .filter(|text| {
                !model.vocabulary.contains_key(text) && !taken.contains(text) && !alone.contains(&**text)
            })
            .collect();
        characters.iter().for_each(|text| scored.join(text, &[]));
        let mut plan = append_all(&mut scored, &wanted, begins_a_text);
        plan.intermediate.splice(0..0, characters);
        let [appended, intermediate] = number(wanted, plan, self.vocabulary_size() as u32, &mut refused);
        for (text, _) in appended.iter().chain(&intermediate) {
            let score = scored.scores.get(text).copied().unwrap_or(scored.lowest);
            pieces.push(NewPiece::normal(text.clone(), score));
        }
        if appended.is_empty() {
            pieces.clear();
        }
        let files = self
            .files_around(SENTENCEPIECE, append(bytes, &pieces, true)?)
            .map_err(|error| error.to_string())?;
        Ok(Extension { files, appended, intermediate, known, refused })
    }

    fn extend_merges(&self, texts: &[String]) -> Result<Extension, String> {
        let json = self.tokenizer_json().map_err(|error| error.to_string())?;
        let mut tokenizer: Value = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        let mut merges = Merges::of_json(&tokenizer["model"], self.vocabulary_size() as u32)?;
        let (mut wanted, mut seen, mut known, mut refused) = (Vec::new(), HashSet::new(), 0, Vec::new());
        for text in texts {
            if is_too_long(text) {
                refused.push((text.clone(), TOO_LONG));
                continue;
            }
            match self.one_word(text)? {
                None => refused
                    .push((text.clone(), "the vocabulary cuts texts within it before it looks for pieces")),
                Some(token) if merges.id(&token).is_some() || self.token_id(&token).is_some() => known += 1,
                Some(token) if seen.insert(token.clone()) => wanted.push(token),
                Some(_) => {}
            }
        }
        let plan = append_all(&mut merges, &wanted, |_| false);
        let [appended, intermediate] = number(wanted, plan, self.vocabulary_size() as u32, &mut refused);
        let tokens: Vec<(String, u32)> = appended.iter().chain(&intermediate).cloned().collect();
        if !tokens.is_empty() {
            append_to_json(&mut tokenizer, &tokens, &merges.appended)?;
        }
        let bytes = if tokens.is_empty() { json.into_owned() } else { tokenizer.to_string().into_bytes() };
        let files = self.files_around(TOKENIZER, bytes).map_err(|error| error.to_string())?;
        Ok(Extension { files, appended, intermediate, known, refused })
    }

    /// A text in the alphabet of the tokens, if it is not cut before merges apply.
    fn one_word(&self, text: &str) -> Result<Option<String>, String> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(|error| error.to_string())?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(|error| error.to_string())?;
        }
        let words = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Ok(match words.as_slice() {
            [(word, _, _)] => Some((*word).to_owned()),
            _ => None,
        })
    }
}

/// Whether a piece has a space before what is no Latin word: in such writing it only stands where a text begins, and what
/// stands everywhere must be joined before it.
fn begins_a_text(piece: &str) -> bool {
    let behind = piece.strip_prefix('▁').and_then(|rest| rest.chars().next());
    behind.is_some_and(|character| !character.is_ascii_alphabetic())
}

fn is_too_long(text: &str) -> bool {
    text.chars().nth(LONGEST).is_some()
}

/// Gives ids: to the wanted pieces in their order, then to the intermediate ones.
fn number(
    wanted: Vec<String>,
    plan: Plan,
    first: u32,
    refused: &mut Vec<(String, &'static str)>,
) -> [Vec<(String, u32)>; 2] {
    let mut ids = first..;
    let mut appended = Vec::with_capacity(wanted.len());
    for (place, text) in wanted.into_iter().enumerate() {
        if plan.unreachable.contains(&place) {
            refused.push((text, "no joining of pieces leads to it"));
        } else {
            appended.extend(ids.next().map(|id| (text, id)));
        }
    }
    let intermediate = plan.intermediate.into_iter().zip(ids).collect();
    [appended, intermediate]
}

/// A sentencepiece vocabulary whose new scores are below all others.
struct Scored {
    model: SentencePiece,
    lowest: f32,
    scores: HashMap<String, f32>,
}

impl Scored {
    fn new(model: SentencePiece) -> Self {
        let lowest = model.lowest_score();
        Self { model, lowest, scores: HashMap::new() }
    }
}

impl Joins for Scored {
    fn cut(&self, text: &str) -> Vec<Range<usize>> {
        // Unigram needs no way to a piece: it only has to be more probable than its parts.
        let whole = || std::iter::once(0..text.len()).collect();
        if self.model.is_bpe() { self.model.ranges(text) } else { whole() }
    }

    fn join(&mut self, text: &str, _parts: &[Range<usize>]) {
        let score = match self.model.best_score(text) {
            Some(best) => best + 1.0,
            None => {
                let below = (self.lowest - 1.0).floor();
                self.lowest = if below > -WHOLE { below } else { self.lowest.next_down() };
                self.lowest
            }
        };
        self.scores.insert(text.to_owned(), score);
        self.model.add(text, score);
    }
}
