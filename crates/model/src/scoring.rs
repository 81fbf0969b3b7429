//! Log-probabilities of given tokens: what evaluation and preference objectives need of a model.

use danlu_kernels::cross_entropy::{Score, linear_cross_entropy};

use crate::names;
use crate::{Activations, Model, PackedTokens, Target};

impl Model {
    /// The log-probability of every target, after [`Model::forward`] on the same tokens.
    pub fn score(
        &self,
        tokens: &PackedTokens,
        targets: &[Target],
        activations: &mut Activations,
    ) -> Vec<Score> {
        self.head_input(tokens.len(), targets, activations);
        let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
        let mut scores = vec![Score::default(); ids.len()];
        let hidden = activations.head.hidden.first(ids.len() * self.config.hidden_size);
        let head = self.matrix(names::head(&self.config));
        linear_cross_entropy(self.precision, hidden, head, &ids, &mut scores);
        scores
    }
}
