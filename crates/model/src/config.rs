//! The configuration of a model: its shapes and the options of its decoder block, whatever family it is of.

use std::path::Path;

use danlu_kernels::attention::Heads;
use danlu_kernels::rope::RopeLayout;
use fs_err as fs;
use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::names::{self, TensorSpec};
use crate::{Error, Family, Result, RopeScaling};

/// Shapes, constants and options of a dense decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Whose names and fields its files have.
    pub family: Family,
    /// V.
    pub vocab_size: usize,
    /// D.
    pub hidden_size: usize,
    /// F.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// H.
    pub num_attention_heads: usize,
    /// K; divides H.
    pub num_key_value_heads: usize,
    /// E; even.
    pub head_dim: usize,
    /// Longest sequence, in tokens; before it is stretched, with [`RopeScaling::Dynamic`].
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Which elements of a head are rotated together.
    pub rope_layout: RopeLayout,
    /// How the frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// ε of every norm.
    pub rms_norm_eps: f64,
    /// Whether scores fall with the distance of the keys (ALiBi), and nothing is rotated (Baichuan-13B).
    pub alibi: bool,
    /// A query sees only so many tokens, its own the last (Mistral).
    pub sliding_window: Option<usize>,
    /// Biases of the attention's linear layers.
    pub attention_bias: AttentionBias,
    /// Whether the feed-forward's linear layers have biases.
    pub mlp_bias: bool,
    /// Whether every head of queries and keys is normed before it is rotated (Qwen3).
    pub query_key_norm: bool,
    /// Whether the head's rows are divided by their length before they are used (Baichuan 2).
    pub normalized_head: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The token before a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The padding token, kept for other tools.
    pub pad_token_id: Option<u32>,
    /// Fields of the `config.json` that was read which mean nothing here; they are written again.
    pub other_fields: Map<String, Value>,
}

/// Which linear layers of the attention have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionBias {
    /// None.
    #[default]
    None,
    /// Queries, keys and values (Qwen2).
    QueryKeyValue,
    /// These and the output (Llama's `attention_bias`).
    All,
}

impl Default for Config {
    /// A Llama without shapes: all sizes are zero, which [`Config::check`] refuses.
    fn default() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            max_position_embeddings: 2048,
            rope_theta: 10_000.0,
            rope_layout: RopeLayout::HalfSplit,
            rope_scaling: RopeScaling::None,
            rms_norm_eps: 1e-6,
            alibi: false,
            sliding_window: None,
            attention_bias: AttentionBias::None,
            mlp_bias: false,
            query_key_norm: false,
            normalized_head: false,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            other_fields: Map::new(),
        }
    }
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that is missing or not JSON, a field that is missing or of a wrong type, and any setting that this
    /// program would have to ignore (another architecture, experts, another activation).
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_beside(path, &|_| false)
    }

    /// The same beside a file of which is known what tensors it has: some families tell a variant by nothing else.
    pub(crate) fn read_beside(path: &Path, has_tensor: &dyn Fn(&str) -> bool) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let json = |reason: String| Error::Json { path: path.into(), reason };
        let value: Value = serde_json::from_str(&text).map_err(|error| json(error.to_string()))?;
        let object = value.as_object().ok_or_else(|| json("expected an object".into()))?;
        let fields = Fields::new(path, object);
        let mut config = Family::of(&fields)?.read(&fields, has_tensor)?;
        config.check(path)?;
        config.other_fields = config.family.other_fields(&config, object);
        Ok(config)
    }

    /// Refuses shapes that cannot be computed; `path` is named in the error.
    pub fn check(&self, path: &Path) -> Result<()> {
        let fail = |field: &str, reason: String| {
            Err(Error::Config { path: path.into(), field: field.into(), reason })
        };
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 || value > 1 << 24 {
                return fail(field, format!("expected a number from 1 to {}, found {value}", 1 << 24));
            }
        }
        let (d, q, kv) = (self.hidden_size as u128, self.query_size() as u128, self.key_value_size() as u128);
        let block = 2 * d * q + 2 * d * kv + 3 * d * self.intermediate_size as u128;
        let elements = 2 * self.vocab_size as u128 * d + self.num_hidden_layers as u128 * block;
        if elements > 1 << 40 {
            return fail(
                "num_hidden_layers",
                format!("these shapes make {elements} parameters, which no machine holds"),
            );
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return fail("rope_theta", format!("expected a number above 0, found {}", self.rope_theta));
        }
        if let Some((field, reason)) = self.rope_scaling.problem() {
            return fail(&format!("rope_scaling.{field}"), reason);
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let reason = format!(
                "expected a divisor of `num_attention_heads` ({}), found {}",
                self.num_attention_heads, self.num_key_value_heads
            );
            return fail("num_key_value_heads", reason);
        }
        let fewest = if self.dynamic_beyond().is_some() { 4 } else { 2 };
        if !self.head_dim.is_multiple_of(2) || self.head_dim < fewest {
            return fail(
                "head_dim",
                format!("expected an even number from {fewest}, found {}", self.head_dim),
            );
        }
        if self.sliding_window == Some(0) {
            return fail("sliding_window", "expected null or a number above 0, found 0".into());
        }
        if self.normalized_head && self.tie_word_embeddings {
            return fail("tie_word_embeddings", "expected false: a normalised head is no embedding".into());
        }
        if !self.family.can_say(self) {
            let reason = format!(
                "files of the family {:?} have no fields for some options of this model: its biases, norms of heads, \
                 rotary positions or head",
                self.family
            );
            return fail("model_type", reason);
        }
        Ok(())
    }

    /// The content of `config.json`, for weights stored as `dtype` (`float32` or `bfloat16`): what the family writes,
    /// and the fields of the file that was read.
    ///
    /// `rope_theta` and `torch_dtype` stand in their older places, which every version of the field's tools reads.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut fields = self.family.usual_fields(self);
        fields.extend(self.other_fields.clone());
        fields.extend(self.family.fields(self));
        fields.insert("torch_dtype".into(), dtype.into());
        Value::Object(fields)
    }

    /// `eos_token_id` as files have it: null, a number, or a list.
    pub(crate) fn eos_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }

    /// The heads of every attention layer.
    pub fn heads(&self) -> Heads {
        Heads {
            query_heads: self.num_attention_heads,
            key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }

    /// ALiBi's slopes of the heads, empty without: 2^(−8i/n) for i = 1 … n, and where n is no power of two, those of the
    /// power below it, then every second one of the power above.
    pub(crate) fn alibi_slopes(&self) -> Vec<f32> {
        if !self.alibi {
            return Vec::new();
        }
        let heads = self.num_attention_heads;
        let of_power = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2() as f32);
        let below = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        of_power(below).chain(of_power(2 * below).step_by(2).take(heads - below)).collect()
    }

    /// H · E: width of the queries.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// K · E: width of the keys, and of the values.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Bytes of the keys and values of so many tokens in all blocks, as they are cached while text is generated.
    pub fn key_value_bytes(&self, tokens: usize) -> u64 {
        let values = 2 * self.num_hidden_layers * self.key_value_size();
        (tokens as u64).saturating_mul((values * size_of::<f32>()) as u64)
    }

    /// Longest sequence that it runs, in tokens.
    pub fn context_length(&self) -> usize {
        match self.rope_scaling {
            RopeScaling::Dynamic { factor } => (self.max_position_embeddings as f64 * factor) as usize,
            _ => self.max_position_embeddings,
        }
    }

    /// Number of elements of all tensors, a tied head once.
    pub fn parameter_count(&self) -> usize {
        names::tensors(self).iter().map(TensorSpec::elements).sum()
    }
}
