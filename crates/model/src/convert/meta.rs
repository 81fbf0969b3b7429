//! The forms with Meta's names: `.pth` files, Meta's folders, and the files of llama2.c.

use std::path::Path;

use danlu_formats::{Alias, AtomicFolder, Llama2cConfig, Llama2cVersion, write_llama2c, write_pth};
use danlu_kernels::rope::RopeLayout;
use danlu_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::{Work, add_share};
use crate::families::META_NAMES;
use crate::layout::file_tensors;
use crate::mixture::Mixture;
use crate::save::write_json;
use crate::{AttentionBias, Config, Error, Family, Result, RopeScaling};

impl Work<'_> {
    pub(super) fn pth(
        &mut self,
        output: &Path,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        self.refuse_what_meta_has_not("Meta's files")?;
        self.neighbours = true;
        let (files, infos) = self.plain_tensors(&META_NAMES, mixture)?;
        let is_file = output.extension().is_some_and(|end| end == "pth");
        if !is_file {
            let folder = AtomicFolder::create(output)?;
            let path = folder.path().join("consolidated.00.pth");
            write_pth(&path, &infos, &[], |place, sink| self.give(&files[place], &infos[place], sink))?;
            write_json(&folder.path().join("params.json"), &self.meta_parameters())?;
            self.companions(folder.path(), tokenizer, false)?;
            folder.commit()?;
            return Ok(self.config.clone());
        }
        // As Baby-Llama2 saves it: the head is there by name too.
        let tied = self.config.tie_word_embeddings;
        let alias = Alias { name: META_NAMES.head.into(), of: 0 };
        let aliases = if tied { vec![alias] } else { Vec::new() };
        write_pth(output, &infos, &aliases, |place, sink| self.give(&files[place], &infos[place], sink))?;
        let config = Config {
            family: Family::BabyLlama2,
            rope_layout: RopeLayout::Interleaved,
            other_fields: Map::new(),
            ..self.config.clone()
        };
        if self.config.rope_scaling != RopeScaling::None {
            self.notes.push("the file cannot say how the rotary frequencies are scaled".into());
        }
        let beside = output.with_extension("json");
        write_json(&beside, &config.to_json("float32"))?;
        self.notes.push(format!("`{}` beside it says what its shapes do not", beside.display()));
        Ok(config)
    }

    fn meta_parameters(&self) -> Value {
        const MULTIPLE: usize = 256;
        let config = self.config;
        let (base, found) = (config.hidden_size * 8 / 3, config.intermediate_size);
        let multiple =
            if found.is_multiple_of(MULTIPLE) { MULTIPLE } else { 1 << found.trailing_zeros().min(8) };
        let mut parameters = json!({
            "dim": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "vocab_size": config.vocab_size,
            "multiple_of": multiple,
            "norm_eps": config.rms_norm_eps,
        });
        if base.next_multiple_of(multiple) != found {
            parameters["ffn_dim_multiplier"] = (found as f64 / base as f64).into();
        }
        if config.rope_theta != 10_000.0 {
            parameters["rope_theta"] = config.rope_theta.into();
        }
        // Without it, a reader would have to guess.
        parameters["max_seq_len"] = config.max_position_embeddings.into();
        if let RopeScaling::Llama3 { factor, .. } = config.rope_scaling {
            parameters["use_scaled_rope"] = true.into();
            parameters["rope_scaling_factor"] = factor.into();
        }
        parameters
    }

    pub(super) fn llama2c(&mut self, output: &Path, mixture: Option<Mixture>) -> Result<Config> {
        self.refuse_what_meta_has_not("llama2.c")?;
        let config = self.config;
        let refuse = |what: &str| {
            let message = format!("llama2.c's programs have no way to say {what}; write another form");
            Err(Error::Message(message))
        };
        if config.rope_theta != 10_000.0 || config.rope_scaling != RopeScaling::None {
            return refuse("that rotations have another base than 10000, or are scaled");
        }
        let version = match mixture {
            None | Some(Mixture::F32) => Llama2cVersion::V0,
            Some(Mixture::Q8_0) => Llama2cVersion::V2 {
                group_size: Llama2cConfig::group_size_for(config.hidden_size, config.intermediate_size),
            },
            Some(other) => {
                let name = other.name();
                return Err(Error::Message(format!("llama2.c has f32 and q8_0, but not `{name}`")));
            }
        };
        if (config.rms_norm_eps - 1e-5).abs() > 1e-9 {
            let eps = config.rms_norm_eps;
            self.notes.push(format!("llama2.c's programs add 1e-5 in every norm, and this model adds {eps}"));
        }
        self.neighbours = true;
        let header = Llama2cConfig {
            version,
            dim: config.hidden_size,
            hidden_dim: config.intermediate_size,
            n_layers: config.num_hidden_layers,
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            vocab_size: config.vocab_size,
            max_seq_len: config.max_position_embeddings,
            shared_classifier: config.tie_word_embeddings,
        };
        let files = file_tensors(config, self.specs, &META_NAMES);
        write_llama2c(output, &header, |info, sink| -> Result<()> {
            let file = files.iter().find(|file| file.name == info.name);
            let file = file.ok_or_else(|| Error::Message(format!("the model has no `{}`", info.name)))?;
            for piece in &file.pieces {
                self.values(piece.tensor, piece.rows.clone(), &mut |_, values| Ok(sink.write(values)?))?;
            }
            add_share(&mut self.types, info.dtype.name(), 1, info.byte_length().unwrap_or(0) as u64);
            Ok(())
        })?;
        Ok(config.clone())
    }

    fn refuse_what_meta_has_not(&self, who: &str) -> Result<()> {
        let config = self.config;
        let what = if config.attention_bias != AttentionBias::None || config.mlp_bias {
            "biases"
        } else if config.query_key_norm {
            "norms of query and key heads"
        } else if config.normalized_head {
            "heads of length one"
        } else if config.head_dim * config.num_attention_heads != config.hidden_size {
            "heads that are together not as wide as the model"
        } else if !matches!(config.rope_scaling, RopeScaling::None | RopeScaling::Llama3 { .. }) {
            "scaled rotary frequencies"
        } else {
            return Ok(());
        };
        let message = format!("{who} have no {what}, which this model has; write safetensors or GGUF");
        Err(Error::Message(message))
    }
}
