//! Which kind of tensor file a file is, by its content; its name says nothing.

use std::path::Path;

use crate::mapped_file::MappedFile;
use crate::{Result, llama2c, pytorch_file};

/// The kinds of files that are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Safetensors,
    /// Of `torch.save`.
    Pytorch,
    Gguf,
    Llama2c,
}

impl Container {
    /// The kind of the file, which need not be whole; `None` if it is none of them.
    pub fn of(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let file = MappedFile::open(path.as_ref())?;
        let bytes = file.bytes();
        Ok(if bytes.starts_with(b"GGUF") {
            Some(Self::Gguf)
        } else if pytorch_file::is_pytorch(bytes) {
            Some(Self::Pytorch)
        } else if bytes.get(8) == Some(&b'{') {
            // Behind the length of the header.
            Some(Self::Safetensors)
        } else if llama2c::is_llama2c(&file) {
            Some(Self::Llama2c)
        } else {
            None
        })
    }
}
