//! Whether a merged model computes what its base and adapters compute together.

use std::path::Path;

use danlu_kernels::Buffer;
use danlu_kernels::linear::linear;
use danlu_kernels::matmul::Output;
use danlu_tokenizer::SpecialTokens;

use crate::activations::with_buffers;
use crate::{
    Activations, Keep, Model, PackedTokens, Precision, Resident, Rest, Result, Target, apply_adapters, open,
};

/// Some of everything, for logits that depend on all weights.
const TEXT: &str = "工件装夹的第一条原则是定位可靠。The capital of France is Paris; 1 + 1 = 2.";
const MOST_TOKENS: usize = 48;

/// Logits of one text by base with adapters, and by the merged model.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Tokens of the text.
    pub tokens: usize,
    /// Largest difference of two logits.
    pub largest_difference: f32,
    /// Largest logit, by its absolute value.
    pub largest_logit: f32,
    /// Tokens after which both find the same next token most probable.
    pub same_best: usize,
}

/// Compares the model in `merged` with `base` and the `adapters`, one after the other, both computed in f32.
///
/// # Errors
/// A model or adapter that cannot be opened.
pub fn compare_merged(base: &Path, adapters: &[&Path], merged: &Path) -> Result<Comparison> {
    let opened = open(merged, Precision::F32, Rest::Stored)?;
    let vocab_size = opened.model.config().vocab_size;
    let text = opened.tokenizer.as_ref().map(|tokenizer| tokenizer.encode(TEXT, SpecialTokens::AsText));
    let mut ids = text.transpose()?.filter(|ids| !ids.is_empty()).unwrap_or_else(|| {
        // Without a vocabulary, ids all over it.
        (0..MOST_TOKENS).map(|index| (index * 7919 % vocab_size) as u32).collect()
    });
    ids.truncate(MOST_TOKENS.min(opened.model.config().context_length()));
    let after = opened.model.logits(&ids)?;
    drop(opened);
    let mut applied = open(base, Precision::F32, Rest::Stored)?.model;
    apply_adapters(&mut applied, adapters)?;
    let before = applied.logits(&ids)?;
    let pairs = before.host().iter().zip(after.host());
    let largest = |value: f32, other: f32| if other.is_nan() { f32::INFINITY } else { value.max(other) };
    let rows = before.host().chunks_exact(vocab_size).zip(after.host().chunks_exact(vocab_size));
    Ok(Comparison {
        tokens: ids.len(),
        largest_difference: pairs.map(|(before, after)| (before - after).abs()).fold(0.0, largest),
        largest_logit: before.host().iter().map(|logit| logit.abs()).fold(0.0, largest),
        same_best: rows.filter(|(before, after)| best(before) == best(after)).count(),
    })
}

fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

impl Model {
    /// The logits [T, V] after each token of one sequence.
    ///
    /// # Errors
    /// An id outside the vocabulary, a sequence longer than the context.
    pub fn logits(&self, ids: &[u32]) -> Result<Buffer<f32>> {
        let tokens = PackedTokens::new([ids]);
        let mut activations = Activations::new(self, ids.len(), Keep::Nothing);
        self.forward(&tokens, &mut activations, &mut Resident)?;
        let targets: Vec<Target> =
            ids.iter().enumerate().map(|(place, id)| Target { position: place as u32, id: *id }).collect();
        let mut logits = Buffer::zeros(ids.len() * self.config.vocab_size);
        let all = logits.len();
        with_buffers!(&mut activations.0, buffers => {
            self.head_input(ids.len(), &targets, buffers);
            let hidden = buffers.head.hidden.first(ids.len() * self.config.hidden_size);
            linear(self.precision, hidden, self.head(), Output::Overwrite, logits.first_mut(all));
        });
        Ok(logits)
    }
}
