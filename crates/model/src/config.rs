//! `config.json` of a dense Llama: reading it strictly and writing it so that every tool of the field loads it.

use std::path::Path;

use danlu_kernels::attention::Heads;
use danlu_kernels::rope::RopeTable;
use fs_err as fs;
use serde_json::{Value, json};

use crate::{Error, Result};

/// Shapes and constants of a dense Llama.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
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
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// ε of every norm.
    pub rms_norm_eps: f64,
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
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that is missing or not JSON, a field that is missing or of a wrong type, and any setting that this
    /// program would have to ignore (another architecture, biases, rope scaling).
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Json { path: path.into(), reason: error.to_string() })?;
        let fields = Fields { path, value: &value };
        fields.refuse_what_is_not_llama()?;
        let hidden_size = fields.required("hidden_size")?;
        let num_attention_heads = fields.required("num_attention_heads")?;
        let config = Self {
            vocab_size: fields.required("vocab_size")?,
            hidden_size,
            intermediate_size: fields.required("intermediate_size")?,
            num_hidden_layers: fields.required("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: fields.optional("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim: fields.optional("head_dim")?.unwrap_or(hidden_size / num_attention_heads.max(1)),
            max_position_embeddings: fields.optional("max_position_embeddings")?.unwrap_or(2048),
            rope_theta: fields.rope_theta()?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            initializer_range: fields.number("initializer_range")?.unwrap_or(0.02),
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.ids("eos_token_id")?,
            pad_token_id: fields.ids("pad_token_id")?.first().copied(),
        };
        config.check(path)?;
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
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let reason = format!(
                "expected a divisor of `num_attention_heads` ({}), found {}",
                self.num_attention_heads, self.num_key_value_heads
            );
            return fail("num_key_value_heads", reason);
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail("head_dim", format!("expected an even number, found {}", self.head_dim));
        }
        Ok(())
    }

    /// The content of `config.json`, for weights stored as `dtype` (`float32` or `bfloat16`).
    ///
    /// `rope_theta` and `torch_dtype` stand in their older places, which every version of the field's tools reads.
    pub fn to_json(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
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

    /// H · E: width of the queries.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// K · E: width of the keys, and of the values.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Angles of the first `positions` positions with the frequencies rope_theta^(−2i/E) of the E/2 pairs.
    pub(crate) fn rope_table(&self, positions: usize) -> RopeTable {
        let pair = |i: usize| self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64) as f32;
        RopeTable::new(positions, &(0..self.head_dim / 2).map(pair).collect::<Vec<_>>())
    }
}

struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Fields<'_> {
    fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::Config { path: self.path.into(), field: field.into(), reason: reason.into() }
    }

    /// The field, unless it is missing or null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    fn required(&self, field: &str) -> Result<usize> {
        self.optional(field)?.ok_or_else(|| self.error(field, "missing; expected a whole number"))
    }

    fn optional(&self, field: &str) -> Result<Option<usize>> {
        self.get(field)
            .map(|value| {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.ok_or_else(|| self.error(field, format!("expected a whole number, found `{value}`")))
            })
            .transpose()
    }

    fn number(&self, field: &str) -> Result<Option<f64>> {
        self.get(field)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
                number.ok_or_else(|| {
                    self.error(field, format!("expected a number of 0 or more, found `{value}`"))
                })
            })
            .transpose()
    }

    fn flag(&self, field: &str) -> Result<bool> {
        self.get(field).map_or(Ok(false), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("expected true or false, found `{value}`")))
        })
    }

    /// One id or a list of ids.
    fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| {
            self.error(field, format!("expected a token id or a list of them, found `{value}`"))
        })
    }

    /// From its older place at the top or its newer one in `rope_parameters`; scaled variants are refused.
    fn rope_theta(&self) -> Result<f64> {
        for field in ["rope_parameters", "rope_scaling"] {
            let Some(settings) = self.get(field) else { continue };
            let kind = settings.get("rope_type").or_else(|| settings.get("type")).and_then(Value::as_str);
            if kind.is_some_and(|kind| kind != "default") || kind.is_none() && field == "rope_scaling" {
                return Err(
                    self.error(field, format!("expected the plain rotary embedding, found `{settings}`"))
                );
            }
            if let Some(theta) = settings.get("rope_theta").and_then(Value::as_f64) {
                return Ok(theta);
            }
        }
        Ok(self.number("rope_theta")?.unwrap_or(10_000.0))
    }

    fn refuse_what_is_not_llama(&self) -> Result<()> {
        if let Some(kind) = self.get("model_type")
            && kind != "llama"
        {
            return Err(self.error("model_type", format!("expected `llama`, found {kind}")));
        }
        for field in ["attention_bias", "mlp_bias"] {
            if self.flag(field)? {
                return Err(self.error(field, "expected false: this program runs Llama without biases"));
            }
        }
        match self.get("hidden_act") {
            Some(activation) if activation != "silu" => {
                Err(self.error("hidden_act", format!("expected `silu`, found {activation}")))
            }
            _ => Ok(()),
        }
    }
}
