//! Writing files that `torch.load(path, weights_only=True)` reads: one file, or shards with their index, tensor by
//! tensor. It converts no element types.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::pickle_globals::torch_names;
use crate::safetensors_writer::{checked_sizes, tensor_error};
use crate::zip_writer::ZipWriter;
use crate::{AtomicFile, Error, Result, TensorInfo, TensorSink, WriteOptions, shards};

const EXTENSION: &str = "bin";
/// The folder within the archive; PyTorch takes any.
const PREFIX: &str = "archive";

/// A second name of a tensor, whose storage it shares, as a tied output head shares that of the embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    pub name: String,
    /// Place of the tensor in the list that is written.
    pub of: usize,
}

/// Writes one file, as `torch.save` does with a flat dictionary: first `tensors` in their order, then `aliases`.
///
/// `give_bytes` is called once for each place in `tensors`, in order, and may stop with its own error. The file appears
/// when it is complete.
pub fn write_pth<E: From<Error>>(
    path: impl AsRef<Path>,
    tensors: &[TensorInfo],
    aliases: &[Alias],
    mut give_bytes: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let plan = Plan::new(path, tensors, aliases)?;
    let all: Vec<usize> = (0..tensors.len()).collect();
    plan.write(path, &all, &mut give_bytes)
}

/// Writes `tensors` into `folder` as `BASE.bin`, or in shards with `BASE.bin.index.json`, in their order; see
/// [`write_pth`]. An alias lies in the file of its tensor.
///
/// Each file appears when it is complete, the index last. A folder that may hold an older model is better replaced
/// whole with [`AtomicFolder`](crate::AtomicFolder).
pub fn write_pytorch<E: From<Error>>(
    folder: impl AsRef<Path>,
    options: &WriteOptions,
    tensors: &[TensorInfo],
    aliases: &[Alias],
    mut give_bytes: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let folder = folder.as_ref();
    let plan = Plan::new(folder, tensors, aliases)?;
    let shards = shards::cut(plan.sizes.iter().copied(), options.max_shard_bytes);
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let file_name = options.file_name(index, shards.len(), EXTENSION);
        plan.write(&folder.join(&file_name), shard, &mut give_bytes)?;
        for place in shard {
            weight_map.insert(tensors[*place].name.as_str(), file_name.clone());
            for alias in plan.aliases_of(*place) {
                weight_map.insert(alias, file_name.clone());
            }
        }
    }
    if shards.len() > 1 {
        options.write_index(folder, EXTENSION, plan.sizes.iter().sum(), weight_map)?;
    }
    Ok(())
}

/// What is to be written, checked.
struct Plan<'a> {
    tensors: &'a [TensorInfo],
    sizes: Vec<usize>,
    aliases: HashMap<usize, Vec<&'a str>>,
}

impl<'a> Plan<'a> {
    fn new(path: &Path, tensors: &'a [TensorInfo], aliases: &'a [Alias]) -> Result<Self> {
        let sizes = checked_sizes(path, tensors)?;
        if let Some(info) = tensors.iter().find(|info| torch_names(info.dtype).is_none()) {
            let reason = format!("is of type {}, which PyTorch does not have; convert it first", info.dtype);
            return Err(tensor_error(path, info, reason));
        }
        let mut names: HashMap<&str, &TensorInfo> =
            tensors.iter().map(|info| (info.name.as_str(), info)).collect();
        let mut by_tensor: HashMap<usize, Vec<&str>> = HashMap::new();
        for alias in aliases {
            let error = |reason: &str| Error::Tensor {
                path: path.to_path_buf(),
                name: alias.name.clone(),
                reason: reason.to_string(),
            };
            let info = tensors.get(alias.of).ok_or_else(|| error("is an alias of no tensor"))?;
            if names.insert(&alias.name, info).is_some() {
                return Err(error("is listed twice"));
            }
            by_tensor.entry(alias.of).or_default().push(&alias.name);
        }
        Ok(Self { tensors, sizes, aliases: by_tensor })
    }

    fn aliases_of(&self, place: usize) -> impl Iterator<Item = &'a str> {
        self.aliases.get(&place).into_iter().flatten().copied()
    }

    fn write<E: From<Error>>(
        &self,
        path: &Path,
        places: &[usize],
        give_bytes: &mut impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut file = AtomicFile::create(path)?;
        let mut zip = ZipWriter::default();
        zip.entry(&mut file, format!("{PREFIX}/data.pkl"), &self.pickle(places))?;
        zip.entry(&mut file, format!("{PREFIX}/byteorder"), b"little")?;
        for (key, place) in places.iter().enumerate() {
            let (info, size) = (&self.tensors[*place], self.sizes[*place]);
            zip.start_entry(&mut file, format!("{PREFIX}/data/{key}"), size)?;
            let mut sink = TensorSink::new(&mut file, path, info, size).with_checksum();
            give_bytes(*place, &mut sink)?;
            let checksum = sink.finish()?;
            zip.finish_entry(&mut file, checksum)?;
        }
        zip.entry(&mut file, format!("{PREFIX}/version"), b"3\n")?;
        zip.finish(&mut file)?;
        file.commit()?;
        Ok(())
    }

    /// The dictionary of the tensors at `places`, whose storages are numbered, then of their aliases.
    fn pickle(&self, places: &[usize]) -> Vec<u8> {
        let mut pickle = Pickler::default();
        for (key, place) in places.iter().enumerate() {
            pickle.tensor(&self.tensors[*place].name, &self.tensors[*place], key);
        }
        for (key, place) in places.iter().enumerate() {
            for alias in self.aliases_of(*place) {
                pickle.tensor(alias, &self.tensors[*place], key);
            }
        }
        pickle.finish()
    }
}

/// Writes a dictionary of tensors in protocol 2.
struct Pickler {
    bytes: Vec<u8>,
}

impl Default for Pickler {
    fn default() -> Self {
        let mut pickler = Self { bytes: b"\x80\x02".to_vec() };
        pickler.ordered_dict();
        pickler.bytes.push(b'(');
        pickler
    }
}

impl Pickler {
    fn finish(mut self) -> Vec<u8> {
        self.bytes.extend(b"u.");
        self.bytes
    }

    fn tensor(&mut self, name: &str, info: &TensorInfo, key: usize) {
        let Some((dtype, storage_type)) = torch_names(info.dtype) else { return };
        let rebuild = if storage_type.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
        self.text(name);
        self.global("torch._utils", rebuild);
        self.bytes.extend(b"((");
        self.text("storage");
        let elements = info.elements().unwrap_or(0);
        match storage_type {
            Some(storage_type) => self.global("torch", storage_type),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        self.text(&key.to_string());
        self.text("cpu");
        let is_typed = storage_type.is_some();
        self.int(if is_typed { elements } else { elements * info.dtype.block_bytes() });
        self.bytes.extend(b"tQ");
        self.int(0);
        self.ints(&info.shape);
        self.ints(&row_major_strides(&info.shape));
        // No gradient, no hooks.
        self.bytes.push(0x89);
        self.ordered_dict();
        if !is_typed {
            self.global("torch", dtype);
        }
        self.bytes.extend(b"tR");
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")R");
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.bytes());
    }

    fn ints(&mut self, values: &[usize]) {
        self.bytes.push(b'(');
        values.iter().for_each(|value| self.int(*value));
        self.bytes.push(b't');
    }

    /// As PyTorch's own reader wants it: a 32-bit integer where it fits, else a long one of nine bytes.
    fn int(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 9]);
                self.bytes.extend((value as u64).to_le_bytes());
                self.bytes.push(0);
            }
        }
    }
}

fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for dimension in (1..shape.len()).rev() {
        // Only a tensor without elements could overflow; its strides mean nothing.
        strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension].max(1));
    }
    strides
}
