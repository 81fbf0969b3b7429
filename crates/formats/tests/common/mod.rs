//! What several tests share: where the real files are, and small GGUF files made by hand.

use std::path::PathBuf;

/// A file below the folder of real material, or `None`, said aloud, where it is not checked out.
pub fn shared_data(relative: &str) -> Option<PathBuf> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if root.is_dir() {
        Some(root.join(relative))
    } else {
        println!("skipped: ../shared/data is not there");
        None
    }
}

/// Builds the bytes of a GGUF file; nothing is checked, so that wrong files can be built too.
pub struct GgufBuilder {
    pub version: u32,
    pub tensor_count: u64,
    pub value_count: u64,
    pub values: Vec<u8>,
    pub tensors: Vec<u8>,
    pub data: Vec<u8>,
}

impl GgufBuilder {
    pub fn new() -> Self {
        Self { version: 3, tensor_count: 0, value_count: 0, values: vec![], tensors: vec![], data: vec![] }
    }

    pub fn value(mut self, key: &str, value_type: u32, payload: &[u8]) -> Self {
        self.value_count += 1;
        self.values.extend(string(key.as_bytes()));
        self.values.extend(value_type.to_le_bytes());
        self.values.extend(payload);
        self
    }

    /// `dimensions` in the file's order: innermost first.
    pub fn tensor(mut self, name: &str, dimensions: &[u64], id: u32, offset: u64) -> Self {
        self.tensor_count += 1;
        self.tensors.extend(string(name.as_bytes()));
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        self.tensors.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
        self.tensors.extend(id.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.value_count.to_le_bytes());
        file.extend(&self.values);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

pub fn array(item_type: u32, count: u64, items: &[u8]) -> Vec<u8> {
    let mut out = item_type.to_le_bytes().to_vec();
    out.extend(count.to_le_bytes());
    out.extend(items);
    out
}

/// A file with every kind of thing in it.
pub fn small_gguf() -> GgufBuilder {
    let strings: Vec<u8> = ["a", "", "\u{4e39}"].iter().flat_map(|item| string(item.as_bytes())).collect();
    GgufBuilder::new()
        .value("general.architecture", 8, &string(b"llama"))
        .value("llama.block_count", 4, &2u32.to_le_bytes())
        .value("llama.rope.freq_base", 6, &1e4f32.to_le_bytes())
        .value("tokenizer.ggml.add_bos_token", 7, &[1])
        .value("tokenizer.ggml.tokens", 9, &array(8, 3, &strings))
        .value("tokenizer.ggml.scores", 9, &array(6, 2, &[0, 0, 128, 63, 0, 0, 0, 64]))
        .value("tokenizer.ggml.token_type", 9, &array(5, 1, &3i32.to_le_bytes()))
        .tensor("blk.0.weight", &[32, 2], 8, 0)
        .tensor("norm", &[3], 0, 96)
        .data(&(0..108).collect::<Vec<u8>>())
}
