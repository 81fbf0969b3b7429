//! The forms with Meta's names: `.pth` files, Meta's folders, and the files of llama2.c.

use std::ops::Range;
use std::path::Path;

use danlu_formats::{
    Alias, AtomicFolder, Llama2cConfig, Llama2cVersion, TensorInfo, TensorSink, write_llama2c, write_pth,
};
use danlu_kernels::blocks::BlockType;
use danlu_kernels::rope::RopeLayout;
use danlu_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::{Work, add_share};
use crate::families::META_NAMES;
use crate::layout::{FileTensor, file_tensors};
use crate::meta::{cut_along, embedding_cut, guessed_context};
use crate::mixture::Mixture;
use crate::save::write_json;
use crate::source::block_type;
use crate::{AttentionBias, Config, Error, Family, Result, RopeScaling};

impl Work<'_> {
    pub(super) fn pth(&mut self, output: &Path, mixture: Option<Mixture>) -> Result<Config> {
        self.refuse_what_meta_has_not("Meta's files")?;
        self.neighbours = true;
        let (files, infos) = self.plain_tensors(&META_NAMES, mixture)?;
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

    /// One file for each of the processes that are to run in parallel.
    pub(super) fn pth_parts(
        &mut self,
        output: &Path,
        count: usize,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        self.refuse_what_meta_has_not("Meta's files")?;
        self.neighbours = true;
        let (files, infos) = self.plain_tensors(&META_NAMES, mixture)?;
        let cuts = self.cuts(&infos, count)?;
        if self.config.tie_word_embeddings {
            self.notes.push(
                "the head is the embedding, and only there; Meta's own code wants `output.weight` too".into(),
            );
        }
        if !self.config.vocab_size.is_multiple_of(count) {
            self.notes.push(format!(
                "the {} rows of the vocabulary do not divide into {count} parts: the last has the rest, which Meta's own \
                 code does not take",
                self.config.vocab_size
            ));
        }
        // What lies in columns, and what each file has whole, is read once for each file.
        let is_read_again = |(_, cut): &(&TensorInfo, &Option<usize>)| **cut != Some(0);
        let again = infos.iter().zip(&cuts).filter(is_read_again).filter_map(|(info, _)| info.elements());
        self.total += (count as u64 - 1) * again.sum::<usize>() as u64;
        let folder = AtomicFolder::create(output)?;
        for part in 0..count {
            let cut = |place: usize| {
                cuts[place].map(|dimension| (dimension, range_of(infos[place].shape[dimension], part, count)))
            };
            let mut parts = infos.clone();
            for (place, info) in parts.iter_mut().enumerate() {
                if let Some((dimension, range)) = cut(place) {
                    info.shape[dimension] = range.len();
                }
            }
            let path = folder.path().join(format!("consolidated.{part:02}.pth"));
            write_pth(&path, &parts, &[], |place, sink| {
                self.give_part(&files[place], &parts[place], cut(place), sink)
            })?;
        }
        write_json(&folder.path().join("params.json"), &self.meta_parameters())?;
        self.companions(folder.path(), tokenizer, false)?;
        folder.commit()?;
        Ok(self.config.clone())
    }

    /// Along which dimension each tensor is cut.
    ///
    /// # Errors
    /// One that does not divide into `count` parts; of a vocabulary, the last part takes the rest.
    fn cuts(&self, infos: &[TensorInfo], count: usize) -> Result<Vec<Option<usize>>> {
        let config = self.config;
        let refuse = |what: &str, number: usize| {
            Error::Message(format!(
                "the model's {number} {what} do not divide into {count} parts; give a number of parts that divides them"
            ))
        };
        for (what, number) in
            [("heads", config.num_attention_heads), ("key and value heads", config.num_key_value_heads)]
        {
            if !number.is_multiple_of(count) {
                return Err(refuse(what, number));
            }
        }
        let embedding = embedding_cut(config);
        let is_table =
            |info: &TensorInfo| [META_NAMES.embedding, META_NAMES.head].contains(&info.name.as_str());
        let cut = |info: &TensorInfo| match cut_along(&info.name, embedding) {
            Some(0) if is_table(info) => Ok(Some(0)),
            Some(cut) if !info.shape[cut].is_multiple_of(count) => {
                let what = ["rows", "columns"][cut];
                Err(refuse(&format!("{what} of `{}`", info.name), info.shape[cut]))
            }
            cut => Ok(cut),
        };
        infos.iter().map(cut).collect()
    }

    /// Writes a range of rows or of columns of a tensor, which with Meta's names is one of the model's; or all of it.
    fn give_part(
        &mut self,
        file: &FileTensor,
        info: &TensorInfo,
        cut: Option<(usize, Range<usize>)>,
        sink: &mut TensorSink<'_>,
    ) -> Result<()> {
        let kind = block_type(info.dtype).unwrap_or(BlockType::F32);
        let row_bytes = file.shape[1..].iter().product::<usize>() * kind.block_bytes();
        let (rows, columns) = match cut {
            Some((0, rows)) => (rows, None),
            Some((_, columns)) => {
                let bytes = columns.start * kind.block_bytes()..columns.end * kind.block_bytes();
                (0..file.shape[0], Some(bytes))
            }
            None => (0..file.shape[0], None),
        };
        let mut part = Vec::new();
        for piece in &file.pieces {
            self.piece(piece.tensor, rows.clone(), kind, &mut |bytes| {
                let Some(columns) = &columns else { return Ok(sink.write(bytes)?) };
                part.clear();
                let rows = bytes.chunks_exact(row_bytes);
                rows.for_each(|row| part.extend_from_slice(&row[columns.clone()]));
                Ok(sink.write(&part)?)
            })?;
        }
        add_share(&mut self.types, info.dtype.name(), 1, info.byte_length().unwrap_or(0) as u64);
        Ok(())
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
        // Where a reader would guess another. Meta's code wants to be told on its command line, and not here.
        if config.max_position_embeddings != guessed_context(config.rope_theta, &config.rope_scaling) {
            parameters["max_seq_len"] = config.max_position_embeddings.into();
        }
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

/// Even parts of a dimension; the last takes the rest.
fn range_of(length: usize, part: usize, count: usize) -> Range<usize> {
    let even = length / count;
    part * even..if part + 1 == count { length } else { (part + 1) * even }
}
