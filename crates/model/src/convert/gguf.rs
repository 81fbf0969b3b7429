//! GGUF files: types by llama.cpp's mixtures, its keys, and what it would compute otherwise.

use std::path::Path;

use danlu_formats::{Dtype, TensorInfo, write_gguf};
use danlu_kernels::blocks::BlockType;
use danlu_tokenizer::Tokenizer;

use super::Work;
use crate::families::GGUF_NAMES;
use crate::layout::file_tensors;
use crate::mixture::Mixture;
use crate::names::{self, Role};
use crate::save::little_endian;
use crate::source::dtype_of;
use crate::{Config, Result, RopeScaling, gguf_out};

impl Work<'_> {
    pub(super) fn gguf(
        &mut self,
        output: &Path,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        let config = self.config;
        let mixture = match mixture {
            Some(mixture) => mixture,
            None if self.checkpoint.source().gptq().is_some() => Mixture::F16,
            None => Mixture::plain(self.base_kind()).unwrap_or(Mixture::F16),
        };
        if self.base_kind().block_elements() > 1 && mixture.base().block_elements() > 1 {
            let (from, to) = (self.base_kind().name(), mixture.name());
            self.notes
                .push(format!("it was quantized before ({from}), so {to} loses more than from the original"));
        }
        if self.checkpoint.source().gptq().is_some() && mixture.base().block_elements() > 1 {
            let to = mixture.name();
            self.notes
                .push(format!("it was quantized before (GPTQ), so {to} loses more than from the original"));
        }
        if let RopeScaling::Dynamic { .. } = config.rope_scaling {
            let context = config.max_position_embeddings;
            self.notes
                .push(format!("llama.cpp has no dynamic scaling: there it is good up to {context} tokens"));
        }
        if let Some(window) = config.sliding_window.filter(|window| *window < config.max_position_embeddings)
        {
            self.notes.push(format!(
                "llama.cpp has no sliding window in models of this architecture: there it is good up to {window} tokens"
            ));
        }
        if tokenizer.is_none() {
            self.notes.push(
                "it holds no tokenizer, so that llama.cpp takes ids but no text: give one with `--tokenizer`"
                    .into(),
            );
        }
        let vocabulary = tokenizer.map(|tokenizer| tokenizer.to_gguf(config.vocab_size)).transpose()?;
        let name = self.checkpoint.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let metadata = gguf_out::metadata(config, mixture, vocabulary, self.importance, &name)?;
        self.neighbours = gguf_out::has_neighbouring_pairs(gguf_out::architecture(config)?);
        self.unit_head = config.normalized_head;
        let files = file_tensors(config, self.specs, &GGUF_NAMES);
        let mut infos: Vec<TensorInfo> = files
            .iter()
            .map(|file| {
                let kind =
                    mixture.kind(config, &self.specs[file.pieces[0].tensor], self.importance.is_some());
                TensorInfo { name: file.name.clone(), dtype: dtype_of(kind), shape: file.shape.clone() }
            })
            .collect();
        let factors = gguf_out::rope_factors(config);
        if let Some(factors) = &factors {
            let (name, shape) = ("rope_freqs.weight".to_owned(), vec![factors.len()]);
            infos.push(TensorInfo { name, dtype: Dtype::F32, shape });
        }
        write_gguf(output, &metadata, &infos, |place, sink| match (files.get(place), &factors) {
            (Some(file), _) => self.give(file, &infos[place], sink),
            (None, factors) => Ok(sink.write(&little_endian(factors.as_deref().unwrap_or_default()))?),
        })?;
        if let Some(matrix) = self.importance {
            let matrices = self
                .specs
                .iter()
                .filter(|spec| matches!(spec.role, Role::Block(..)) && !spec.kind.is_vector());
            let (known, all) = matrices.fold((0, 0), |(known, all), spec| {
                (known + usize::from(matrix.tensors.contains_key(&GGUF_NAMES.of(spec.role))), all + 1)
            });
            self.notes.push(format!("the importance matrix weighs the columns of {known} of {all} matrices"));
        }
        let changed = infos.iter().zip(&files).filter(|(info, file)| {
            let spec = &self.specs[file.pieces[0].tensor];
            !spec.kind.is_vector()
                && !spec.width().is_multiple_of(mixture.base().block_elements())
                && info.dtype != dtype_of(mixture.base())
        });
        let (changed, block) = (changed.count(), mixture.base().block_elements());
        if changed > 0 {
            self.notes.push(format!(
                "{changed} tensors have rows that are not whole blocks of {block} and are of another type than {} has",
                mixture.name()
            ));
        }
        Ok(config.clone())
    }

    /// The type of the model's own first matrix within a block.
    fn base_kind(&self) -> BlockType {
        let query = names::block_tensor(self.config, 0, names::Part::Query);
        self.checkpoint.kind(self.layout, query).unwrap_or(BlockType::F32)
    }
}
