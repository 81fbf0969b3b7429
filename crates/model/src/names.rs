//! The tensors of a dense Llama in Hugging Face's names, and the same in GGUF's.

use crate::Config;

/// Place of a tensor in [`tensors`].
pub(crate) type TensorId = usize;

/// One tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    /// [outputs, inputs] of a matrix, [D] of a norm.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
}

/// What a tensor is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedding,
    Norm,
    Linear,
    /// A linear layer whose output is added to the residual stream.
    Residual,
}

impl TensorSpec {
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The tensors of one decoder block, in order, behind the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Part {
    InputNorm,
    Query,
    Key,
    Value,
    Output,
    PostNorm,
    Gate,
    Up,
    Down,
}

const PARTS: [(Part, &str, &str, Kind); 9] = [
    (Part::InputNorm, "input_layernorm", "attn_norm", Kind::Norm),
    (Part::Query, "self_attn.q_proj", "attn_q", Kind::Linear),
    (Part::Key, "self_attn.k_proj", "attn_k", Kind::Linear),
    (Part::Value, "self_attn.v_proj", "attn_v", Kind::Linear),
    (Part::Output, "self_attn.o_proj", "attn_output", Kind::Residual),
    (Part::PostNorm, "post_attention_layernorm", "ffn_norm", Kind::Norm),
    (Part::Gate, "mlp.gate_proj", "ffn_gate", Kind::Linear),
    (Part::Up, "mlp.up_proj", "ffn_up", Kind::Linear),
    (Part::Down, "mlp.down_proj", "ffn_down", Kind::Residual),
];

pub(crate) const EMBEDDING: TensorId = 0;

/// The tensor `part` of block `layer`.
pub(crate) fn block_tensor(layer: usize, part: Part) -> TensorId {
    1 + layer * PARTS.len() + part as usize
}

/// The last norm.
pub(crate) fn final_norm(config: &Config) -> TensorId {
    1 + config.num_hidden_layers * PARTS.len()
}

/// The head: the embedding itself when they are tied.
pub(crate) fn head(config: &Config) -> TensorId {
    if config.tie_word_embeddings { EMBEDDING } else { final_norm(config) + 1 }
}

/// Every tensor of the model, in the order of the forward.
pub(crate) fn tensors(config: &Config) -> Vec<TensorSpec> {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.query_size(), config.key_value_size());
    let table = vec![config.vocab_size, d];
    let spec = |name: String, shape: Vec<usize>, kind| TensorSpec { name, shape, kind };
    let mut specs = vec![spec("model.embed_tokens.weight".into(), table.clone(), Kind::Embedding)];
    for layer in 0..config.num_hidden_layers {
        for (part, name, _, kind) in PARTS {
            let shape = match part {
                Part::InputNorm | Part::PostNorm => vec![d],
                Part::Query => vec![q, d],
                Part::Key | Part::Value => vec![kv, d],
                Part::Output => vec![d, q],
                Part::Gate | Part::Up => vec![f, d],
                Part::Down => vec![d, f],
            };
            specs.push(spec(format!("model.layers.{layer}.{name}.weight"), shape, kind));
        }
    }
    specs.push(spec("model.norm.weight".into(), vec![d], Kind::Norm));
    if !config.tie_word_embeddings {
        specs.push(spec("lm_head.weight".into(), table, Kind::Linear));
    }
    specs
}

/// GGUF's name of the tensor that Hugging Face calls `name`.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?.split_once('.')?;
    let (_, _, gguf, _) = PARTS.into_iter().find(|(_, hugging_face, _, _)| *hugging_face == part)?;
    Some(format!("blk.{layer}.{gguf}.weight"))
}

/// Tensors that older checkpoints carry and that are computed here.
pub(crate) fn is_computed(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}
