//! A model file, whatever its container: its configuration and its tensors as the model has them.
//!
//! What one tensor of the file holds may be several of the model ([`crate::layout`]). GGUF and Meta's files store the
//! rows of q and k so that rotated pairs are neighbours; they are put back into two halves here, unless the model itself
//! has them so.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use danlu_formats::TensorFolder;
use danlu_kernels::Grouped;
use danlu_kernels::blocks::{BlockType, dequantize, quantize_in_parallel};
use danlu_kernels::rope::RopeLayout;
use danlu_kernels::team::parallel_chunks;
use danlu_tokenizer::Tokenizer;
use serde_json::Value;

use crate::families::{GGUF_NAMES, META_NAMES, Names, infer, is_computed};
use crate::gguf::{gguf_config, gguf_vocabulary, has_neighbouring_pairs};
use crate::growth::{Growth, GrowthOptions, RowInit};
use crate::layout::{FileTensor, file_tensors};
use crate::names::{self, Extra, Part, Role, TensorId, TensorSpec};
use crate::source::{Source, Stored};
use crate::{Config, Error, Family, Module, Result, gguf, meta};

pub(crate) use crate::source::block_type;

/// Elements that are put together at once of a tensor that lies in parts, about.
const PIECE: usize = 1 << 24;
/// So that a stretch of a vector is whole blocks.
const PIECE_ROWS: usize = 256;

/// Elements that one task dequantizes; a multiple of every block.
const CHUNK: usize = 1 << 16;

/// The opened file or folder and where it is.
pub(crate) struct Checkpoint {
    path: PathBuf,
    source: Source,
    growth: Option<Growth>,
}

/// The model in a checkpoint.
pub(crate) struct Contents {
    pub(crate) config: Config,
    /// Its tensors.
    pub(crate) specs: Vec<TensorSpec>,
    /// Those of the file, which are all of them and nothing else.
    pub(crate) layout: Vec<FileTensor>,
}

impl Contents {
    /// Values of all tensors.
    pub(crate) fn elements(&self) -> u64 {
        self.specs.iter().map(|spec| spec.elements() as u64).sum()
    }
}

impl Checkpoint {
    /// Opens what is at `path`, by content; see [`Source::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), source: Source::open(path)?, growth: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// What the model is, after all tensors of the file were found to be its own, and none to be missing.
    pub(crate) fn contents(&self) -> Result<Contents> {
        let config = self.config()?;
        self.check_layers(&config)?;
        let specs = names::tensors(&config);
        let layout = self.layout(&config, &specs);
        self.check(&config, &layout)?;
        let Some(growth) = &self.growth else { return Ok(Contents { config, specs, layout }) };
        // The layout stays that of the file, whose rows are the first ones.
        let config = Config { vocab_size: growth.rows, ..config };
        Ok(Contents { specs: names::tensors(&config), config, layout })
    }

    /// From now on the model has rows for all tokens of `tokenizer`.
    ///
    /// # Errors
    /// A vocabulary that is no extension of the model's own.
    pub(crate) fn grow(&mut self, tokenizer: &Tokenizer, options: GrowthOptions) -> Result<()> {
        let Contents { config, specs, layout } = self.contents()?;
        let own = self.tokenizer()?;
        let rows = config.vocab_size;
        let growth = Growth::new(rows, config.initializer_range, own.as_ref(), tokenizer, options)?;
        let Some(mut growth) = growth else { return Ok(()) };
        for (id, spec) in specs.iter().enumerate() {
            let which = match spec.role {
                Role::Embedding => 0,
                Role::Head => 1,
                _ => continue,
            };
            if options.init == RowInit::Random && growth.rows == tokenizer.vocabulary_size() {
                continue;
            }
            let width = spec.width();
            let (mut sums, mut row) = (vec![0.0_f64; width], vec![0.0; width]);
            for place in 0..growth.first {
                self.read(&layout, id, spec, &config, place..place + 1, &mut row)?;
                sums.iter_mut().zip(&row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            growth.means[which] = sums.iter().map(|sum| (sum / growth.first.max(1) as f64) as f32).collect();
        }
        self.growth = Some(growth);
        Ok(())
    }

    /// Rows of the embedding and head in the file.
    fn file_rows(layout: &[FileTensor], id: TensorId) -> usize {
        let pieces = layout.iter().flat_map(|file| &file.pieces).filter(|piece| piece.tensor == id);
        pieces.map(|piece| piece.rows.end).max().unwrap_or(0)
    }

    /// Calls `put(place among the wanted rows, values)` for each row that is not the file's own.
    fn for_each_new_row(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        rows: &Range<usize>,
        mut put: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let is_table = matches!(spec.role, Role::Embedding | Role::Head);
        let Some(growth) = self.growth.as_ref().filter(|growth| is_table && rows.end > growth.first) else {
            return Ok(());
        };
        let (file_rows, width) = (Self::file_rows(layout, id), spec.width());
        let mut values = vec![0.0; width];
        for row in rows.clone().filter(|&row| growth.makes(row, file_rows)) {
            growth.row(spec.role, row, &mut values, |part, out| {
                self.for_each_piece(layout, id, &(part..part + 1), width, |file, stored, kind, _| {
                    to_f32(kind, stored, out).map_err(|reason| self.tensor_error(file, reason))
                })
            })?;
            put(row - rows.start, &values)?;
        }
        Ok(())
    }

    /// Where its companions lie: `config.json`, the tokenizer.
    pub(crate) fn folder(&self) -> &Path {
        match self.path.is_dir() {
            true => &self.path,
            // Of a bare file name the parent is no path that can be opened.
            false => match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            },
        }
    }

    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = match &self.source {
            Source::Folder { .. } => self.folder_config()?,
            Source::Meta { tensors, .. } => {
                meta::meta_config(tensors, &self.path.join("params.json"), &self.shapes())?
            }
            Source::Llama2c(file) => meta::llama2c_config(file.config(), &self.path)?,
            Source::Gguf(gguf) => gguf_config(gguf, &self.path)?,
        };
        let mut seen = HashSet::new();
        config.eos_token_ids.retain(|id| seen.insert(*id));
        Ok(config)
    }

    /// From `config.json`, or for a single file from what lies beside it or is in it, or from its shapes.
    fn folder_config(&self) -> Result<Config> {
        let has_tensor = |name: &str| self.source.tensor(name).is_some();
        let is_native = has_tensor(META_NAMES.embedding);
        let own = self.path.with_extension("json");
        let shared = self.folder().join("config.json");
        let path = if self.path.is_file() && own.is_file() { own } else { shared };
        let mut config = if path.is_file() || !is_native {
            Config::read_beside(&path, &has_tensor)?
        } else {
            match &self.source {
                Source::Folder { tensors: TensorFolder::Pytorch(file), .. }
                    if file.metadata().contains_key(meta::ARGUMENTS) =>
                {
                    meta::config_of_arguments(file.metadata(), &self.path)?
                }
                _ => infer(&self.path, &self.shapes())?,
            }
        };
        if is_native && config.tie_word_embeddings && self.has_own_head() {
            // Its families tie the two; with a head of its own it is a Llama whose pairs lie side by side.
            config = Config {
                family: Family::Llama,
                rope_layout: RopeLayout::HalfSplit,
                tie_word_embeddings: false,
                other_fields: serde_json::Map::new(),
                ..config
            };
        }
        config.eos_token_ids.extend(self.generation_eos()?);
        Ok(config)
    }

    fn shapes(&self) -> impl Fn(&str) -> Option<Vec<usize>> {
        |name| Some(self.source.get(name)?.shape().to_vec())
    }

    /// Whether a file with Meta's names has a head that is not the embedding.
    fn has_own_head(&self) -> bool {
        match (self.source.tensor(META_NAMES.head), self.source.tensor(META_NAMES.embedding)) {
            (Some(head), Some(embedding)) => head.bytes != embedding.bytes,
            _ => false,
        }
    }

    /// End tokens of `generation_config.json`, if there is one.
    fn generation_eos(&self) -> Result<Vec<u32>> {
        let path = self.folder().join("generation_config.json");
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let error = |reason: String| Error::Json { path: path.clone(), reason };
        let text = fs_err::read_to_string(&path)?;
        let value: Value = serde_json::from_str(&text).map_err(|cause| error(cause.to_string()))?;
        let ids = match &value["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
    }

    /// The vocabulary of the file, or of the folder that it is or lies in, if there is one.
    pub(crate) fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        if let Source::Gguf(gguf) = &self.source {
            let named = |error| Error::Message(format!("`{}`: {error}", self.path.display()));
            let vocabulary = gguf_vocabulary(gguf)?;
            return vocabulary.map(|vocabulary| Tokenizer::from_gguf(vocabulary).map_err(named)).transpose();
        }
        match Tokenizer::is_in(self.folder()) {
            true => Ok(Some(Tokenizer::open(self.folder())?)),
            false => Ok(None),
        }
    }

    /// Refuses a number of blocks that the file cannot hold, before anything of that size is made.
    fn check_layers(&self, config: &Config) -> Result<()> {
        let (layers, tensors) = (config.num_hidden_layers, self.source.names().len());
        if layers <= tensors {
            return Ok(());
        }
        let reason = format!("{layers} blocks, but the file holds {tensors} tensors");
        Err(Error::Config { path: self.path.clone(), field: "num_hidden_layers".into(), reason })
    }

    /// The tensors that a file of this container and family holds.
    fn layout(&self, config: &Config, specs: &[TensorSpec]) -> Vec<FileTensor> {
        file_tensors(config, specs, self.names(config))
    }

    /// What the file calls its tensors.
    fn names(&self, config: &Config) -> &'static Names {
        match &self.source {
            Source::Gguf(_) => &GGUF_NAMES,
            Source::Meta { .. } | Source::Llama2c(_) => &META_NAMES,
            Source::Folder { .. } if self.source.tensor(META_NAMES.embedding).is_some() => &META_NAMES,
            Source::Folder { .. } => config.family.names(),
        }
    }

    /// Fails unless the file holds exactly the tensors of `layout`, in these shapes and in types that can be read.
    fn check(&self, config: &Config, layout: &[FileTensor]) -> Result<()> {
        self.check_names(config, layout)?;
        layout.iter().try_for_each(|file| self.checked(file).map(|_| ()))
    }

    fn check_names(&self, config: &Config, layout: &[FileTensor]) -> Result<()> {
        let expected: HashSet<&str> = layout.iter().map(|file| file.name.as_str()).collect();
        let missing = layout.iter().map(|file| &file.name).filter(|name| self.source.get(name).is_none());
        let missing: Vec<String> = missing.cloned().collect();
        if !missing.is_empty() {
            return Err(Error::MissingTensors { path: self.path.clone(), names: missing });
        }
        let is_known = |name: &str| {
            let computed = match &self.source {
                Source::Gguf(_) => gguf::is_computed(name),
                Source::Meta { .. } => is_computed(name) || name == meta::FREQUENCIES,
                Source::Folder { .. } | Source::Llama2c(_) => is_computed(name),
            };
            let is_gptq = self.source.is_gptq_part(name, |weight| expected.contains(weight));
            expected.contains(name) || computed || is_gptq || self.is_same_as_embedding(config, name)
        };
        let leftover = self.source.names().into_iter().filter(|name| !is_known(name));
        let leftover: Vec<String> = leftover.map(str::to_owned).collect();
        if leftover.is_empty() {
            return Ok(());
        }
        Err(Error::LeftoverTensors { path: self.path.clone(), names: leftover })
    }

    /// Whether this is a tied head that was stored once more.
    fn is_same_as_embedding(&self, config: &Config, name: &str) -> bool {
        let names = self.names(config);
        let same =
            |head: &str, embedding: &str| match (self.source.tensor(head), self.source.tensor(embedding)) {
                (Some(head), Some(embedding)) => head.bytes == embedding.bytes,
                _ => false,
            };
        name == names.head && same(name, names.embedding)
    }

    /// The tensor of this shape and its type.
    fn checked(&self, file: &FileTensor) -> Result<(Stored<'_>, BlockType)> {
        let error = |reason| self.tensor_error(file, reason);
        let tensor = self.source.get(&file.name).ok_or_else(|| error("missing".into()))?;
        if let Stored::Gptq(linear) = &tensor {
            let named = |(name, reason)| Error::Tensor { path: self.path.clone(), name, reason };
            linear.check().map_err(named)?;
        }
        if tensor.shape() != file.shape {
            let reason =
                format!("expected shape {:?} from the configuration, found {:?}", file.shape, tensor.shape());
            return Err(error(reason));
        }
        let kind = tensor.kind().map_err(|dtype| {
            error(format!("type `{dtype}` is neither F32, F16 or BF16 nor a block type (Q…) of weights"))
        })?;
        Ok((tensor, kind))
    }

    /// The type that a tensor is stored in.
    pub(crate) fn kind_of(&self, file: &FileTensor) -> Result<BlockType> {
        Ok(self.checked(file)?.1)
    }

    fn tensor_error(&self, file: &FileTensor, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: file.name.clone(), reason }
    }

    /// Reads `rows` of one of the model's tensors as f32; whole heads, where rotated rows are neighbours in the file.
    pub(crate) fn read(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        config: &Config,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let width = spec.width();
        self.for_each_piece(layout, id, &rows, width, |file, stored, kind, place| {
            let out = &mut out[place.start * width..place.end * width];
            to_f32(kind, stored, out).map_err(|reason| self.tensor_error(file, reason))
        })?;
        self.for_each_new_row(layout, id, spec, &rows, |place, values| {
            out[place * width..][..width].copy_from_slice(values);
            Ok(())
        })?;
        if self.has_pairs(spec, config) {
            pairs_to_halves(out, config.head_dim, width);
        }
        Ok(())
    }

    /// The type of all parts of one of the model's tensors, if it is the same.
    pub(crate) fn kind(&self, layout: &[FileTensor], id: TensorId) -> Option<BlockType> {
        let of_tensor = |file: &&FileTensor| file.pieces.iter().any(|piece| piece.tensor == id);
        let mut kinds = layout.iter().filter(of_tensor).map(|file| Some(self.checked(file).ok()?.1));
        let first = kinds.next()??;
        kinds.all(|kind| kind == Some(first)).then_some(first)
    }

    /// The type of one of the model's matrices if it is quantized, and rows of it are whole blocks.
    pub(crate) fn blocks(&self, layout: &[FileTensor], id: TensorId, spec: &TensorSpec) -> Option<BlockType> {
        // New rows of a table are no blocks of the file.
        if self.growth.is_some() && matches!(spec.role, Role::Embedding | Role::Head) {
            return None;
        }
        let block = |kind: &BlockType| kind.block_elements();
        self.kind(layout, id).filter(|kind| block(kind) > 1 && spec.width().is_multiple_of(block(kind)))
    }

    /// How the model's matrices are quantized, if they are.
    pub(crate) fn quantization(&self, layout: &[FileTensor], specs: &[TensorSpec]) -> Option<String> {
        let own = |(id, spec)| self.blocks(layout, id, spec).map(|kind| kind.name().to_owned());
        self.source.quantization().or_else(|| specs.iter().enumerate().find_map(own))
    }

    /// Refuses to quantize what is quantized, and what has no rows of whole blocks.
    pub(crate) fn check_can_be_quantized(
        &self,
        layout: &[FileTensor],
        specs: &[TensorSpec],
        kind: BlockType,
    ) -> Result<()> {
        let path = self.path.display();
        if let Some(name) = self.quantization(layout, specs) {
            return Err(Error::Message(format!(
                "`{path}` is quantized already ({name}), and quantizing it again would lose more; leave `quantization_bit` \
                 out: it is used as it is"
            )));
        }
        if !specs.iter().any(|spec| is_quantizable(spec, kind)) {
            let (name, block) = (kind.name(), kind.block_elements());
            return Err(Error::Message(format!(
                "no layer of `{path}` has rows that are whole blocks of {block}, as {name} needs them; leave \
                 `quantization_bit` out"
            )));
        }
        Ok(())
    }

    /// Reads `rows` of a tensor of one [`Checkpoint::kind`] as they are stored; whole heads, as [`Checkpoint::read`].
    pub(crate) fn read_stored(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        config: &Config,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = out.len() / rows.len().max(1);
        self.for_each_piece(layout, id, &rows, spec.width(), |_, stored, _, place| {
            out[place.start * row_bytes..place.end * row_bytes].copy_from_slice(stored);
            Ok(())
        })?;
        let kind = self.kind(layout, id).unwrap_or(BlockType::F32);
        self.for_each_new_row(layout, id, spec, &rows, |place, values| {
            let row = &mut out[place * row_bytes..][..row_bytes];
            let error =
                |reason: String| Error::Tensor { path: self.path.clone(), name: spec.name.clone(), reason };
            quantize_in_parallel(kind, values, spec.width(), None, row)
                .map_err(|cause| error(cause.to_string()))
        })?;
        if self.has_pairs(spec, config) {
            pairs_to_halves(out, config.head_dim, row_bytes);
        }
        Ok(())
    }

    /// One of the model's matrices as GPTQ has it, if it does; zeros in its place where weights are not read.
    pub(crate) fn grouped(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        config: &Config,
        read_weights: bool,
    ) -> Result<Option<Grouped>> {
        let of_tensor = |file: &&FileTensor| file.pieces.iter().any(|piece| piece.tensor == id);
        let Some(file) = layout.iter().find(of_tensor) else { return Ok(None) };
        let (Stored::Gptq(linear), _) = self.checked(file)? else { return Ok(None) };
        if !read_weights {
            return Ok(Some(linear.empty(spec.shape[0])));
        }
        // Where each of the matrix's rows lies in the file.
        let (mut rows, mut start) = (vec![0; spec.shape[0]], 0);
        for piece in &file.pieces {
            let count = piece.rows.len();
            if piece.tensor == id {
                rows[piece.rows.clone()].iter_mut().zip(start..).for_each(|(row, place)| *row = place);
            }
            start += count;
        }
        if self.has_pairs(spec, config) {
            pairs_to_halves(&mut rows, config.head_dim, 1);
        }
        Ok(Some(linear.grouped(&rows)))
    }

    /// Says that a tensor's bytes are not needed soon.
    pub(crate) fn drop_pages(&self, layout: &[FileTensor], id: TensorId) {
        for file in layout.iter().filter(|file| file.pieces.iter().any(|piece| piece.tensor == id)) {
            self.source.drop_pages(&file.name);
        }
    }

    /// Calls `take(file tensor, bytes, their type, which of the wanted rows they are)` for each stretch of `rows` of a
    /// tensor, none of many elements.
    fn for_each_piece(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        rows: &Range<usize>,
        width: usize,
        mut take: impl FnMut(&FileTensor, &[u8], BlockType, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let at_once = (PIECE / width).next_multiple_of(PIECE_ROWS);
        for file in layout.iter().filter(|file| file.pieces.iter().any(|piece| piece.tensor == id)) {
            let (tensor, kind) = self.checked(file)?;
            // The first row of the piece within the file.
            let mut start = 0;
            for piece in &file.pieces {
                let wanted = piece.rows.start.max(rows.start)..piece.rows.end.min(rows.end);
                if piece.tensor == id {
                    for first in wanted.clone().step_by(at_once) {
                        let part = first..wanted.end.min(first + at_once);
                        let in_file = |row: usize| row - piece.rows.start + start;
                        let bytes = tensor.rows(in_file(part.start)..in_file(part.end));
                        let bytes = bytes.map_err(|reason| self.tensor_error(file, reason))?;
                        take(file, &bytes, kind, part.start - rows.start..part.end - rows.start)?;
                    }
                }
                start += piece.rows.len();
            }
        }
        Ok(())
    }

    /// Whether rotated rows of this tensor are neighbours in the file, but halves in the model.
    fn has_pairs(&self, spec: &TensorSpec, config: &Config) -> bool {
        is_rotated(spec)
            && match &self.source {
                Source::Gguf(_) => has_neighbouring_pairs(config.family),
                _ => {
                    std::ptr::eq(self.names(config), &META_NAMES)
                        && config.rope_layout == RopeLayout::HalfSplit
                }
            }
    }
}

/// Whether a tensor is a matrix within a block whose rows are whole blocks of `kind`.
pub(crate) fn is_quantizable(spec: &TensorSpec, kind: BlockType) -> bool {
    matches!(spec.role, Role::Block(..))
        && !spec.kind.is_vector()
        && spec.width().is_multiple_of(kind.block_elements())
}

/// Whether the rows of a tensor are rotated.
pub(crate) fn is_rotated(spec: &TensorSpec) -> bool {
    matches!(
        spec.role,
        Role::Block(_, Part::Query | Part::Key) | Role::Extra(_, Extra::Bias(Module::Query | Module::Key))
    )
}

/// Dequantizes in parallel; the error is a reason.
pub(crate) fn to_f32(kind: BlockType, bytes: &[u8], out: &mut [f32]) -> std::result::Result<(), String> {
    let (elements, block) = (kind.block_elements(), kind.block_bytes());
    if !out.len().is_multiple_of(elements) || bytes.len() != out.len() / elements * block {
        return Err(format!("{} bytes of {} do not hold {} values", bytes.len(), kind.name(), out.len()));
    }
    let failed = std::sync::Mutex::new(None);
    parallel_chunks(out, CHUNK, |task, out| {
        let start = task * CHUNK / elements * block;
        let bytes = &bytes[start..start + out.len() / elements * block];
        if let (Err(cause), Ok(mut failed)) = (dequantize(kind, bytes, out), failed.lock()) {
            *failed = Some(cause.to_string());
        }
    });
    match failed.into_inner() {
        Ok(Some(reason)) => Err(reason),
        _ => Ok(()),
    }
}

/// Rows i and E/2 + i of every head become rows 2i and 2i + 1.
pub(crate) fn halves_to_pairs<T: Copy>(rows: &mut [T], head_dim: usize, width: usize) {
    for head in rows.chunks_exact_mut(head_dim * width) {
        let halves = head.to_vec();
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let source = (half * head_dim / 2 + pair) * width;
                head[(2 * pair + half) * width..][..width].copy_from_slice(&halves[source..source + width]);
            }
        }
    }
}

/// Rows 2i and 2i + 1 of every head become rows i and E/2 + i.
pub(crate) fn pairs_to_halves<T: Copy>(rows: &mut [T], head_dim: usize, width: usize) {
    for head in rows.chunks_exact_mut(head_dim * width) {
        let paired = head.to_vec();
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let source = (2 * pair + half) * width;
                head[(half * head_dim / 2 + pair) * width..][..width]
                    .copy_from_slice(&paired[source..source + width]);
            }
        }
    }
}
