//! `tokenizer.json` of any vocabulary, for programs that read nothing else, and a sentencepiece `.model` of one.
//!
//! A sentencepiece vocabulary has one only where merges in a fixed order say the same as scores: the `tokenizers` crate
//! cannot let places decide between pieces of one score, keep user-defined pieces whole, or leave pieces unused. Runs of
//! one character are the exception, of which Llama's vocabulary has many of one score: that they come out the same is
//! tried before anything is given out.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::tokenizer::AddedToken;

use crate::gguf::around;
use crate::sentencepiece::{DummyPrefix, NORMAL, SPACE, SentencePiece};
use crate::{Error, Result, SpecialTokens, Tokenizer};

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
            Some(sentencepiece) => self.merged(sentencepiece).map_err(Error::Json),
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
        sentencepiece.is_plain_bpe()?;
        let texts = (0..).zip(self.token_texts());
        let texts: Vec<(u32, String)> = texts.filter_map(|(id, text)| Some((id, text?))).collect();
        let is_normal = |id: u32| sentencepiece.kind(id) == Some(NORMAL) && self.added_token(id).is_none();
        let normal: BTreeMap<&str, u32> =
            texts.iter().filter(|(id, _)| is_normal(*id)).map(|(id, text)| (text.as_str(), *id)).collect();
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
        let mut inner = tokenizers::Tokenizer::new(model.build().map_err(|error| error.to_string())?);
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
