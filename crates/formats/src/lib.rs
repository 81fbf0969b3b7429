//! Tensor files: names → type, shape, bytes. This room does not know what a name means.
//!
//! | read | write |
//! |---|---|
//! | [`SafetensorsFolder`]: one file or shards, mapped | [`write_safetensors`]: streaming, in shards |
//! | [`Gguf`]: metadata and tensors, mapped | [`write_gguf`]: streaming |
//! | [`AdapterConfig`]: PEFT's `adapter_config.json` | [`AdapterConfig`] |
//!
//! Whole folders and single files are replaced by [`AtomicFolder`] and [`write_file_atomically`],
//! so that a full disk or a kill leaves what was there before.

mod adapter_config;
mod atomic;
mod dtype;
mod error;
mod gguf;
mod gguf_writer;
mod mapped_file;
mod safetensors_folder;
mod safetensors_writer;
mod tensor;
mod tensor_table;

pub use adapter_config::{AdapterConfig, Bias, InitLoraWeights, ModuleSelection, TokenIndices};
pub use atomic::{AtomicFile, AtomicFolder, write_file_atomically};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use gguf::{Array, Gguf, Strings, Value};
pub use gguf_writer::write_gguf;
pub use safetensors_folder::SafetensorsFolder;
pub use safetensors_writer::{DEFAULT_MAX_SHARD_BYTES, TensorSink, WriteOptions, write_safetensors};
pub use tensor::{Tensor, TensorInfo};
