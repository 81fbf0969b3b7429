//! How many floating-point operations training needs, to judge and to expect its speed.

use std::collections::HashSet;

use danlu_model::Model;

/// The share of the best arithmetic that a training step is expected to reach.
pub const EXPECTED_SHARE: f64 = 0.6;

/// Operations that forward and backward need for a token in sequences of `sequence_tokens`: the products of linear layers
/// and of causal attention. A frozen weight has no gradient; nothing that is computed again counts, nor does what lies
/// between the products.
pub fn flops_per_token(model: &Model, sequence_tokens: usize) -> f64 {
    let config = model.config();
    let trained: HashSet<&str> =
        model.parameters().list().iter().map(|parameter| parameter.name.as_str()).collect();
    let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    // Forward, gradient of the input, gradient of the weight: two operations each for every element.
    let products = |name: &str| if trained.contains(name) { 6 } else { 4 };
    let own: usize = model
        .tensors()
        .filter(|(name, _)| name.ends_with("proj.weight") || *name == head)
        .map(|(name, shape)| products(name) * shape.iter().product::<usize>())
        .sum();
    let adapters: usize = model
        .parameters()
        .list()
        .iter()
        .filter(|parameter| parameter.name.contains(".lora_"))
        .map(|parameter| 6 * parameter.range.len())
        .sum();
    // A query sees half of the sequence on average; there are two products forward and five backward.
    let product = 2.0 * config.query_size() as f64 * (sequence_tokens + 1) as f64 / 2.0;
    (own + adapters) as f64 + 7.0 * product * config.num_hidden_layers as f64
}

/// Operations that the forward alone needs, of a model of which nothing is trained.
pub fn forward_flops_per_token(model: &Model, sequence_tokens: usize) -> f64 {
    let config = model.config();
    let attention = 2.0 * config.query_size() as f64 * (sequence_tokens + 1) as f64 / 2.0
        * config.num_hidden_layers as f64;
    // Two products of attention, and half of what linear layers need with the gradients of their inputs.
    2.0 * attention + (flops_per_token(model, sequence_tokens) - 7.0 * attention) / 2.0
}

#[cfg(test)]
mod tests {
    use danlu_formats::{AdapterConfig, ModuleSelection};
    use danlu_model::{Config, Precision};

    use super::*;

    fn config() -> Config {
        Config {
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
            max_position_embeddings: 64,
            ..Config::default()
        }
    }

    #[test]
    fn frozen_weights_need_two_products_and_trained_ones_three() {
        // q and o 8 × 8, k and v 4 × 8, three of the feed-forward 8 × 12, in 2 blocks; the head 11 × 8.
        let weights = 2 * (2 * 64 + 2 * 32 + 3 * 96) + 88;
        let attention = 2.0 * 7.0 * 2.0 * 8.0 * 10.0 / 2.0;
        let full = Model::zeros(config(), Precision::F32);
        assert_eq!(flops_per_token(&full, 9), (6 * weights) as f64 + attention);
        let tied = Model::zeros(Config { tie_word_embeddings: true, ..config() }, Precision::F32);
        assert_eq!(flops_per_token(&tied, 9), flops_per_token(&full, 9));

        let mut lora = Model::frozen_zeros(config(), Precision::F32, None);
        assert_eq!(flops_per_token(&lora, 9), (4 * weights) as f64 + attention);
        assert_eq!(forward_flops_per_token(&lora, 9), (2 * weights) as f64 + attention * 2.0 / 7.0);
        let target_modules = Some(ModuleSelection::Names(vec!["q_proj".into()]));
        let options = AdapterConfig { r: 3, target_modules, ..AdapterConfig::default() };
        lora.add_adapter(&options, None).unwrap();
        let adapters = 2 * 3 * (8 + 8);
        assert_eq!(flops_per_token(&lora, 9), (4 * weights + 6 * adapters) as f64 + attention);
    }
}
