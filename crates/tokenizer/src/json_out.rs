//! `tokenizer.json` of any vocabulary, for programs that read nothing else, and a sentencepiece `.model` of one.
//!
//! A sentencepiece BPE has one only where merges in a fixed order say the same as scores: the `tokenizers` crate cannot
//! let places decide between pieces of one score, keep user-defined pieces whole, or leave pieces unused. Runs of one
//! character are the exception, of which Llama's vocabulary has many of one score: that they come out the same is tried
//! before anything is given out. Unigram has one where no text is taken for a special piece that it spells; sums of
//! scores have more digits there, which could decide between two cuts that are equally probable to seven digits.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper,
    sequence::Sequence as PreTokenizerSequence,
    split::{Split, SplitPattern},
};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use crate::gguf::around;
use crate::sentencepiece::{DummyPrefix, NORMAL, SPACE, SentencePiece};
use crate::{Error, Result, SpecialTokens, Tokenizer};

/// The score in Unigram of pieces that stand in no text.
const NEVER: f32 = -1e6;
/// The longest run that is tried, in characters.
const LONGEST_RUN: usize = 200;

/// A piece that two others make.
struct Merge<'a> {
    score: f32,
    id: u32,
    text: &'a str,
    left: &'a str,
    right: &'a str,
}

impl Tokenizer {
    /// The bytes of a `tokenizer.json` that gives the same ids.
    ///
    /// # Errors
    /// A sentencepiece vocabulary whose ids no `tokenizer.json` can give, with the reason.
    pub fn to_tokenizer_json(&self) -> Result<Vec<u8>> {
        match &self.sentencepiece {
            None => Ok(self.tokenizer_json()?.into_owned()),
            Some(sentencepiece) if sentencepiece.is_bpe() => self.merged(sentencepiece).map_err(Error::Json),
            Some(sentencepiece) => self.unigram(sentencepiece).map_err(Error::Json),
        }
    }

    /// The bytes of a sentencepiece `.model` file: the one that was opened, or one with the pieces and the order of merges
    /// of another file that is BPE with bytes. Tokens that are no pieces are not in it.
    ///
    /// # Errors
    /// A vocabulary that is no sentencepiece.
    pub fn to_sentencepiece(&self) -> Result<Vec<u8>> {
        if let Some(model) = self.model_file() {
            return Ok(model.to_vec());
        }
        let vocabulary = self.to_gguf(self.vocabulary_size())?;
        let reason = "it is byte-level BPE, which a sentencepiece model cannot say";
        let other = if vocabulary.model == "llama" {
            Self::from_gguf(vocabulary)?
        } else {
            return Err(Error::SentencePiece(reason.into()));
        };
        let model = other.model_file().ok_or_else(|| Error::SentencePiece(reason.into()))?;
        Ok(model.to_vec())
    }

    fn merged(&self, sentencepiece: &SentencePiece) -> Result<Vec<u8>, String> {
        sentencepiece.is_plain()?;
        let texts = (0..).zip(self.token_texts());
        let texts: Vec<(u32, String)> = texts.filter_map(|(id, text)| Some((id, text?))).collect();
        let normal: BTreeMap<&str, u32> = texts
            .iter()
            .filter(|(id, _)| self.is_normal(*id, sentencepiece))
            .map(|(id, text)| (text.as_str(), *id))
            .collect();
        let joined = sentencepiece.joined_characters();
        if let Some(part) = joined.iter().filter(|part| !sentencepiece.has_piece(**part)).min() {
            return Err(format!("`{part}` is in pieces and no piece itself, so that no merges lead to them"));
        }
        let mut merges: Vec<Merge> = Vec::new();
        for (&text, &id) in &normal {
            let Some(score) = sentencepiece.score(id) else { continue };
            let halves = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            let known =
                halves.filter(|(left, right)| normal.contains_key(left) && normal.contains_key(right));
            merges.extend(known.map(|(left, right)| Merge { score: score + 0.0, id, text, left, right }));
        }
        // Stable, so that of the ways to make one piece the one with the shorter start stays first.
        merges.sort_by(|one, other| other.score.total_cmp(&one.score).then(one.id.cmp(&other.id)));
        let mut runs: BTreeSet<char> = BTreeSet::new();
        for pair in merges.windows(2) {
            let [one, other] = pair else { continue };
            if one.id == other.id || one.score != other.score {
                continue;
            }
            match repeated(one.text).filter(|character| repeated(other.text) == Some(*character)) {
                Some(character) => _ = runs.insert(character),
                None => {
                    return Err(format!(
                        "the pieces `{}` and `{}` have one score, so that their places in a text decide, which \
                         tokenizer.json cannot say",
                        one.text, other.text
                    ));
                }
            }
        }
        let merges = merges.iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect();
        let pieces = texts.iter().filter(|(id, _)| sentencepiece.kind(*id).is_some());
        let vocabulary: Vocab = pieces.map(|(id, text)| (text.clone(), *id)).collect();
        let mut model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .byte_fallback(sentencepiece.has_bytes())
            .fuse_unk(true);
        if let Some(unk) = self.settings.unk.and_then(|unk| self.token_text(unk)) {
            model = model.unk_token(unk);
        }
        let model = model.build().map_err(|error| error.to_string())?;
        let inner = self.with_rest(tokenizers::Tokenizer::new(model), sentencepiece)?;
        for run in runs {
            let character = if SPACE.starts_with(run) { ' ' } else { run };
            for length in 1..=LONGEST_RUN {
                let text = character.to_string().repeat(length);
                let merged = inner.encode_fast(text.as_str(), false).map_err(|error| error.to_string())?;
                let cut = self.encode(&text, SpecialTokens::AsText).map_err(|error| error.to_string())?;
                if merged.get_ids() != cut {
                    return Err(format!(
                        "runs of `{run}` of {length} characters are not cut in the same way by merges"
                    ));
                }
            }
        }
        inner.to_string(false).map(String::into_bytes).map_err(|error| error.to_string())
    }

    fn unigram(&self, sentencepiece: &SentencePiece) -> Result<Vec<u8>, String> {
        sentencepiece.is_plain()?;
        let (mut pieces, mut names) = (Vec::new(), Vec::new());
        for (id, text) in (0..).zip(self.token_texts()) {
            let (Some(text), Some(score)) = (text, sentencepiece.score(id)) else { break };
            let is_normal = self.is_normal(id, sentencepiece);
            if is_normal && score <= NEVER {
                return Err(format!(
                    "the score of `{text}` is {score}, lower than that of pieces that stand in no text"
                ));
            }
            pieces.push((text.clone(), if is_normal { f64::from(score) } else { f64::from(NEVER) }));
            names.extend(Some(text).filter(|_| !is_normal));
        }
        let joined = sentencepiece.joined_characters();
        if let Some(part) = joined.iter().find(|character| !sentencepiece.has_piece(**character)) {
            return Err(format!(
                "`{part}` is in pieces and no piece itself, which tokenizer.json weighs otherwise"
            ));
        }
        let mut cuts: BTreeSet<char> = BTreeSet::new();
        for name in &names {
            let Some(first) = name.chars().next() else { continue };
            let is_cut =
                !joined.contains(&first) && (sentencepiece.has_bytes() || sentencepiece.has_piece(first));
            if is_cut {
                cuts.insert(first);
            } else if !name.chars().all(|character| sentencepiece.has_piece(character)) {
                return Err(format!(
                    "a text that spells `{name}` would become that token, which tokenizer.json cannot prevent"
                ));
            }
        }
        let unk = self.settings.unk.map(|unk| unk as usize);
        let model =
            Unigram::from(pieces, unk, sentencepiece.has_bytes()).map_err(|error| error.to_string())?;
        let mut inner = self.with_rest(tokenizers::Tokenizer::new(model), sentencepiece)?;
        // Behind their first character the names of special pieces are no pieces.
        let cut = |character: char| {
            let character = SplitPattern::String(character.into());
            Split::new(character, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::from)
        };
        let cuts: Result<Vec<_>, _> = cuts.into_iter().map(cut).collect();
        let cuts = cuts.map_err(|error| error.to_string())?;
        inner.with_pre_tokenizer((!cuts.is_empty()).then(|| PreTokenizerSequence::new(cuts)));
        inner.to_string(false).map(String::into_bytes).map_err(|error| error.to_string())
    }

    /// Whether a piece stands in texts for itself.
    fn is_normal(&self, id: u32, sentencepiece: &SentencePiece) -> bool {
        sentencepiece.kind(id) == Some(NORMAL) && self.added_token(id).is_none()
    }

    /// A tokenizer with all but its model: spaces, added tokens, what begins and ends a text.
    fn with_rest(
        &self,
        mut inner: tokenizers::Tokenizer,
        sentencepiece: &SentencePiece,
    ) -> Result<tokenizers::Tokenizer, String> {
        let spaces = Replace::new(" ", SPACE).map_err(|error| error.to_string())?;
        let set = match sentencepiece.dummy_prefix {
            DummyPrefix::Never => inner.with_normalizer(Some(spaces)).map(|_| ()),
            DummyPrefix::Always => {
                let prefix = Prepend::new(SPACE.into());
                inner
                    .with_normalizer(Some(NormalizerSequence::new(vec![prefix.into(), spaces.into()])))
                    .map(|_| ())
            }
            DummyPrefix::First => {
                return Err("only the start of a text gets a space before it (`legacy` is false), which \
                            tokenizer.json cannot say of a text that begins with one"
                    .into());
            }
        };
        set.map_err(|error| error.to_string())?;
        inner.with_decoder(Some(sentencepiece.decoder()?));
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let added: BTreeMap<u32, &AddedToken> = added.iter().map(|(id, token)| (*id, token)).collect();
        for token in added.into_values() {
            inner.add_tokens([token.clone()]).map_err(|error| error.to_string())?;
        }
        let text = |id: Option<u32>| id.and_then(|id| Some((self.token_text(id)?, id)));
        let before = text(self.settings.bos).filter(|_| self.settings.add_bos);
        let after = text(self.settings.eos).filter(|_| self.settings.add_eos);
        inner.with_post_processor(around(before, after)?);
        Ok(inner)
    }

    /// The tokens by id.
    fn token_texts(&self) -> impl Iterator<Item = Option<String>> + '_ {
        (0..self.vocabulary_size() as u32).map(|id| self.token_text(id))
    }
}

/// The character that a text repeats and holds nothing else than.
fn repeated(text: &str) -> Option<char> {
    let first = text.chars().next()?;
    text.chars().all(|character| character == first).then_some(first)
}
