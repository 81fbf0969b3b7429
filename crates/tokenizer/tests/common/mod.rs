//! Finding the real files, and reading the metadata of a GGUF file.

use danlu_tokenizer::GgufVocabulary;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A path in the folder of real files, or `None` (said on standard output) where that folder is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if folder.is_dir() {
        return Some(folder.join(path));
    }
    println!("skipped: ../shared/data is not there");
    None
}

/// One metadata value; only what tokenizers use is kept apart.
#[derive(Debug, Clone)]
enum Value {
    Bool(bool),
    Integer(i64),
    Float(f32),
    Text(String),
    List(Vec<Value>),
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N);
        self.0 = tail;
        head.try_into().unwrap()
    }

    fn text(&mut self) -> String {
        let length = u64::from_le_bytes(self.take()) as usize;
        let (head, tail) = self.0.split_at(length);
        self.0 = tail;
        String::from_utf8(head.to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::Integer(i64::from(self.take::<1>()[0])),
            1 => Value::Integer(i64::from(self.take::<1>()[0] as i8)),
            2 => Value::Integer(i64::from(u16::from_le_bytes(self.take()))),
            3 => Value::Integer(i64::from(i16::from_le_bytes(self.take()))),
            4 => Value::Integer(i64::from(u32::from_le_bytes(self.take()))),
            5 => Value::Integer(i64::from(i32::from_le_bytes(self.take()))),
            6 => Value::Float(f32::from_le_bytes(self.take())),
            7 => Value::Bool(self.take::<1>()[0] != 0),
            8 => Value::Text(self.text()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let count = u64::from_le_bytes(self.take());
                Value::List((0..count).map(|_| self.value(kind)).collect())
            }
            10 | 11 => Value::Integer(i64::from_le_bytes(self.take())),
            12 => Value::Float(f64::from_le_bytes(self.take()) as f32),
            other => panic!("metadata type {other}"),
        }
    }
}

/// The vocabulary in the metadata of a GGUF file.
pub fn gguf_vocabulary(path: &Path) -> GgufVocabulary {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader(&bytes);
    assert_eq!(&reader.take::<4>(), b"GGUF");
    reader.take::<4>();
    reader.take::<8>();
    let count = u64::from_le_bytes(reader.take());
    let mut metadata = HashMap::new();
    for _ in 0..count {
        let key = reader.text();
        let kind = u32::from_le_bytes(reader.take());
        metadata.insert(key, reader.value(kind));
    }
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}")).cloned();
    let text = |value: Option<Value>| match value {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    };
    let id = |key: &str| match get(key) {
        Some(Value::Integer(id)) => Some(id as u32),
        _ => None,
    };
    let flag = |key: &str| match get(key) {
        Some(Value::Bool(flag)) => Some(flag),
        _ => None,
    };
    let list = |key: &str| match get(key) {
        Some(Value::List(list)) => list,
        _ => Vec::new(),
    };
    let texts = |key: &str| list(key).into_iter().filter_map(|value| text(Some(value))).collect();
    GgufVocabulary {
        model: text(get("model")).unwrap(),
        pre: text(get("pre")),
        tokens: texts("tokens"),
        scores: list("scores")
            .iter()
            .map(|value| if let Value::Float(score) = value { *score } else { 0.0 })
            .collect(),
        token_types: list("token_type")
            .iter()
            .map(|value| if let Value::Integer(kind) = value { *kind as i32 } else { 0 })
            .collect(),
        merges: texts("merges"),
        bos_id: id("bos_token_id"),
        eos_id: id("eos_token_id"),
        unk_id: id("unknown_token_id"),
        pad_id: id("padding_token_id"),
        eot_id: id("eot_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        chat_template: text(metadata.get("tokenizer.chat_template").cloned()),
    }
}
