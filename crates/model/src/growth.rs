//! Growing a model for a larger vocabulary: which rows its embedding and head get for the new tokens. The rows that were
//! there, and all else, stay as they are; nothing shrinks.

use danlu_kernels::random::Random;
use danlu_tokenizer::{SpecialTokens, Tokenizer};

use crate::names::Role;
use crate::{Error, Result};

/// The stream of random numbers of new rows.
const GROWTH: u64 = 3;

/// What the row of a new token is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowInit {
    /// The mean of the rows of the tokens that its text used to be cut into.
    #[default]
    Pieces,
    /// The mean of all rows.
    Mean,
    /// Normal with `initializer_range`, as transformers draws it.
    Random,
}

/// How to grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrowthOptions {
    /// What new rows are made of.
    pub init: RowInit,
    /// The number of rows is made a multiple of this.
    pub multiple: Option<usize>,
    /// Key of the random numbers.
    pub seed: u64,
}

/// Rows for the tokens that a model does not know yet.
pub(crate) struct Growth {
    /// Rows of the grown model.
    pub(crate) rows: usize,
    /// The first row that is made here.
    pub(crate) first: usize,
    options: GrowthOptions,
    deviation: f32,
    /// For each token from the first on the ids that its text had before.
    parts: Vec<Vec<u32>>,
    /// The mean rows of the embedding and of the head, where they are needed.
    pub(crate) means: [Vec<f32>; 2],
}

impl Growth {
    /// What a model of `rows` rows with the vocabulary `old` needs for `new`; `None` where all tokens have rows.
    ///
    /// # Errors
    /// A new vocabulary that gives known ids to other tokens, or no old one to cut new tokens with; bare reasons.
    pub(crate) fn new(
        rows: usize,
        deviation: f64,
        old: Option<&Tokenizer>,
        new: &Tokenizer,
        options: GrowthOptions,
    ) -> Result<Option<Self>> {
        let known = old.map_or(rows, |old| old.vocabulary_size().min(rows));
        let wanted = new.vocabulary_size().max(rows).next_multiple_of(options.multiple.unwrap_or(1).max(1));
        if new.vocabulary_size() <= known && wanted == rows {
            return Ok(None);
        }
        if old.is_none() && options.init == RowInit::Pieces && new.vocabulary_size() > known {
            return Err(Error::Message(
                "the model has no tokenizer of its own, which says what the pieces of a new token were: start new rows \
                 with the mean of all (`mean`) or with random numbers"
                    .into(),
            ));
        }
        if let Some(old) = old {
            check_extends(old, new, known)?;
        }
        let cut = |id: usize| match old.filter(|_| options.init == RowInit::Pieces) {
            Some(old) => parts(old, new, id as u32, known),
            None => Ok(Vec::new()),
        };
        let parts = (known..new.vocabulary_size()).map(cut).collect::<Result<_>>()?;
        let means = Default::default();
        Ok(Some(Self { rows: wanted, first: known, options, deviation: deviation as f32, parts, means }))
    }

    /// Whether a row is made here; rows of the file that have no token keep what they are.
    pub(crate) fn makes(&self, row: usize, file_rows: usize) -> bool {
        row >= file_rows || (self.first..self.first + self.parts.len()).contains(&row)
    }

    /// Makes one row; `read` gives a row of the file.
    pub(crate) fn row(
        &self,
        role: Role,
        row: usize,
        out: &mut [f32],
        mut read: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let which = usize::from(role == Role::Head);
        let parts = self.parts.get(row - self.first).map(Vec::as_slice);
        match (parts, self.options.init) {
            (Some(_), RowInit::Random) => {
                let mut random = Random::new(&[self.options.seed, GROWTH, which as u64, row as u64]);
                out.iter_mut().for_each(|value| *value = random.normal() * self.deviation);
            }
            (Some(parts @ [_, ..]), RowInit::Pieces) => {
                out.fill(0.0);
                let mut part = vec![0.0; out.len()];
                for &id in parts {
                    read(id as usize, &mut part)?;
                    out.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value / parts.len() as f32);
                }
            }
            // Padding, which no text becomes, and tokens of no text.
            _ => out.copy_from_slice(&self.means[which]),
        }
        Ok(())
    }
}

/// What a new token's text was cut into: inside of a text, because that is where tokens stand.
fn parts(old: &Tokenizer, new: &Tokenizer, id: u32, known: usize) -> Result<Vec<u32>> {
    let bytes = new.token_bytes(id).unwrap_or_default();
    let ids = match std::str::from_utf8(&bytes) {
        Ok(text) => old.encode_within(text, SpecialTokens::AsText)?,
        // Parts of a character are no text: bytes are tokens.
        Err(_) => bytes.iter().filter_map(|&byte| old.byte_id(byte)).collect(),
    };
    Ok(ids.into_iter().filter(|&id| (id as usize) < known).collect())
}

/// Refuses a vocabulary that gives an id of the model to another token.
fn check_extends(old: &Tokenizer, new: &Tokenizer, known: usize) -> Result<()> {
    for id in 0..known as u32 {
        let (before, after) = (old.token_text(id), new.token_text(id));
        if before != after && before.is_some() && !old.is_special(id) {
            let text = |text: Option<String>| text.unwrap_or_else(|| "nothing".into());
            return Err(Error::Message(format!(
                "the new vocabulary is no extension of the model's: id {id} is `{}` there and `{}` here",
                text(before),
                text(after)
            )));
        }
    }
    Ok(())
}
