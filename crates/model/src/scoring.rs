//! Log-probabilities of given tokens, which evaluation and preference objectives need of a model, and of the most probable
//! tokens, which a student needs of its teacher.

use danlu_kernels::cross_entropy::{Score, linear_cross_entropy, linear_most_probable};

use crate::activations::with_buffers;
use crate::{Activations, Model, PackedTokens, Target};

impl Model {
    /// The log-probability of every target, after [`Model::forward`] on the same tokens.
    pub fn score(
        &self,
        tokens: &PackedTokens,
        targets: &[Target],
        activations: &mut Activations,
    ) -> Vec<Score> {
        let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
        let mut scores = vec![Score::default(); ids.len()];
        let head = self.head();
        with_buffers!(&mut activations.0, buffers => {
            self.head_input(tokens.len(), targets, buffers);
            let hidden = buffers.head.hidden.first(ids.len() * self.config.hidden_size);
            linear_cross_entropy(self.precision, hidden, head, &ids, &mut scores);
        });
        scores
    }

    /// The most probable tokens at the positions of `targets` [N] after [`Model::forward`] on the same tokens, among the first
    /// `among` of the vocabulary: `ids` and `log_probabilities` are [N, K], the most probable first.
    ///
    /// # Panics
    /// If the shapes disagree, or `among` is less than K or more than the vocabulary.
    pub fn most_probable(
        &self,
        tokens: &PackedTokens,
        targets: &[Target],
        among: usize,
        activations: &mut Activations,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) {
        with_buffers!(&mut activations.0, buffers => {
            self.head_input(tokens.len(), targets, buffers);
            let hidden = buffers.head.hidden.first(targets.len() * self.config.hidden_size);
            linear_most_probable(self.precision, hidden, self.head(), among, ids, log_probabilities);
        });
    }
}
