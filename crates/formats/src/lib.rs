//! Tensor files: names → type, shape, bytes. This room does not know what a name means.
//!
//! | read | write |
//! |---|---|
//! | [`SafetensorsFolder`]: one file or shards, mapped | [`write_safetensors`]: streaming, in shards |
//! | [`PytorchFolder`]: `.bin`, `.pth`, `.pt`; one file or shards, mapped, nothing executed | [`write_pytorch`], [`write_pth`]: streaming |
//! | [`TensorFolder`]: the first two, whichever is there | |
//! | [`Llama2c`]: versions 0, 1 and 2 | [`write_llama2c`] |
//! | [`ConsolidatedFolder`]: Meta's files and `params.json`; [`JoinedTensor`] | [`write_pth`] of each [`TensorPart`] |
//! | [`Gguf`]: metadata and tensors, mapped | [`write_gguf`]: streaming |
//! | [`ImportanceMatrix`]: llama.cpp's, both forms | [`ImportanceMatrix::write`] |
//! | [`AdapterConfig`]: PEFT's `adapter_config.json` | [`AdapterConfig`] |
//!
//! [`Container`] tells what a file is.
//!
//! Whole folders and single files are replaced by [`AtomicFolder`] and [`write_file_atomically`],
//! so that a full disk or a kill leaves what was there before.

mod adapter_config;
mod atomic;
mod consolidated_folder;
mod container;
mod dtype;
mod error;
mod gguf;
mod gguf_writer;
mod importance_matrix;
mod llama2c;
mod llama2c_writer;
mod mapped_file;
mod pickle;
mod pickle_globals;
mod pytorch_file;
mod pytorch_folder;
mod pytorch_writer;
mod safetensors_folder;
mod safetensors_writer;
mod shards;
mod tensor;
mod tensor_folder;
mod tensor_table;
mod token_shards;
mod zip_archive;
mod zip_writer;

pub use adapter_config::{AdapterConfig, Bias, InitLoraWeights, ModuleSelection, TokenIndices};
pub use atomic::{AtomicFile, AtomicFolder, write_file_atomically};
pub use consolidated_folder::{ConsolidatedFolder, JoinedTensor, TensorPart};
pub use container::Container;
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use gguf::{Array, Gguf, Strings, Value};
pub use gguf_writer::write_gguf;
pub use importance_matrix::{Importance, ImportanceMatrix};
pub use llama2c::{Llama2c, Llama2cConfig, Llama2cVersion};
pub use llama2c_writer::{Llama2cSink, write_llama2c};
pub use pytorch_file::Scalar;
pub use pytorch_folder::PytorchFolder;
pub use pytorch_writer::{Alias, write_pth, write_pytorch};
pub use safetensors_folder::SafetensorsFolder;
pub use safetensors_writer::{TensorSink, write_safetensors};
pub use shards::{DEFAULT_MAX_SHARD_BYTES, WriteOptions};
pub use tensor::{Tensor, TensorInfo};
pub use tensor_folder::TensorFolder;
pub use token_shards::{TokenFiles, TokenIndex, TokenShard, TokenShardOptions, TokenShardWriter};
