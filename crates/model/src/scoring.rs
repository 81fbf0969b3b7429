//! Log-probabilities of given tokens: what evaluation and preference objectives need of a model.

use danlu_kernels::cross_entropy::{Score, linear_cross_entropy};

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
}
