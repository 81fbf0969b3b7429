//! What makes the forward of a training step random: dropout in adapters, and noise on embeddings.
//!
//! Bits are a function of seed, step, sequence, token, layer and place, so that threads, micro-batches and resumes change
//! none. Tokens without a place in a training have neither: evaluation and generation are exact.

use danlu_kernels::ViewMut;
use danlu_kernels::dropout::{add_noise, row_key};

use crate::{Model, PackedTokens};

/// The site of the noise on embeddings; those of adapters follow.
const EMBEDDINGS: u64 = 0;

/// What of a model's training is random.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Noise {
    seed: u64,
    /// α of NEFTune, or 0.
    embeddings: f32,
}

impl Model {
    /// Draws what is random in training from `seed`, with noise of `neftune_alpha` on embeddings (Jain et al. 2023,
    /// arXiv:2310.05914): uniform in ± α / √(L·D) for a sequence of L tokens.
    pub fn set_noise(&mut self, seed: u64, neftune_alpha: f64) {
        self.noise = Noise { seed, embeddings: neftune_alpha as f32 };
    }
}

impl Noise {
    /// The key of each token; none where nothing is random.
    pub(crate) fn keys_of(self, tokens: &PackedTokens, keys: &mut Vec<u64>) {
        keys.clear();
        let Some(place) = tokens.training_place() else { return };
        for (index, sequence) in tokens.sequences().iter().enumerate() {
            let sample = [self.seed, place.step, place.first_sequence + index as u64];
            keys.extend((0..sequence.keys.len() as u64).map(|position| row_key(&sample, position)));
        }
    }

    pub(crate) fn add_to_embeddings(self, tokens: &PackedTokens, keys: &[u64], x: ViewMut<f32>) {
        if self.embeddings == 0.0 || keys.is_empty() {
            return;
        }
        let width = x.len() / keys.len();
        let sequences = tokens.sequences();
        let scale = |row: usize| {
            let sequence = sequences.partition_point(|sequence| sequence.keys.end <= row);
            let length = sequences.get(sequence).map_or(1, |sequence| sequence.keys.len());
            self.embeddings / ((length * width) as f32).sqrt()
        };
        add_noise(keys, EMBEDDINGS, scale, x);
    }
}
