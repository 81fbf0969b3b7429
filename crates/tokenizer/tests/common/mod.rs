//! Finding the real files, reading the metadata of a GGUF file, and random strings with the recorded hash of their ids.

use danlu_tokenizer::{GgufVocabulary, SpecialTokens, Tokenizer};
use sha2::{Digest, Sha256};
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

/// The first 16 hexadecimal digits of the SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Strings in all, and how many of them the quick tests take.
const STRINGS: usize = 100_000;
const FIRST: usize = 2_000;
const COMMON: &str = "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手用主行方又如前所本见经头面公同已老从动两长数控机床加工，。：；？！“”《》、";
const WORDS: [&str; 22] = [
    "the ",
    " a",
    "don't",
    "'RE",
    "1234",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "  ",
    "\r\n",
    "\n\n",
    "\t",
    "▁",
    "aaaa",
    "====",
    "👨\u{200d}👩\u{200d}👧",
    "❤\u{fe0f}",
    "ing",
    "Hello",
    "。\n",
    "e\u{301}",
];
const RANGES: [(u32, u32); 17] = [
    (0x61, 0x7A),
    (0x61, 0x7A),
    (0x20, 0x20),
    (0x20, 0x7E),
    (0x4E00, 0x9FA5),
    (0x1F300, 0x1F64F),
    (0x300, 0x36F),
    (0xFF01, 0xFF5E),
    (0x00, 0x20),
    (0x7F, 0x17F),
    (0x2000, 0x206F),
    (0x3000, 0x30FF),
    (0xE01, 0xE3A),
    (0xAC00, 0xD7A3),
    (0x20000, 0x2A6D6),
    (0x400, 0x44F),
    (0x621, 0x64A),
];

/// The strings of `tools/golden/random_strings.py`.
pub fn random_strings(count: usize) -> Vec<String> {
    let common: Vec<char> = COMMON.chars().collect();
    let mut state: u64 = 20_251;
    let mut draw = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as usize
    };
    let mut string = || {
        let mut text = String::new();
        for _ in 0..1 + draw() % 24 {
            let drawn = draw();
            let (kind, pick) = (drawn % (RANGES.len() + 9), drawn >> 8);
            if let Some((first, last)) = RANGES.get(kind) {
                text.push(char::from_u32(first + (pick % (last - first + 1) as usize) as u32).unwrap());
            } else if kind < RANGES.len() + 5 {
                text.push(common[pick % common.len()]);
            } else {
                text.push_str(WORDS[pick % WORDS.len()]);
            }
        }
        text
    };
    (0..count).map(|_| string()).collect()
}

fn recorded_hashes() -> serde_json::Value {
    serde_json::from_str(include_str!("../golden/random_strings.json")).unwrap()
}

/// The vocabulary files with recorded hashes.
pub fn recorded_names() -> Vec<String> {
    recorded_hashes()["ids"].as_object().unwrap().keys().cloned().collect()
}

/// The strings become the ids that the library which the file `name` is made for gives them.
pub fn assert_random_strings(name: &str, tokenizer: &Tokenizer, all: bool) {
    let recorded = recorded_hashes();
    let strings = random_strings(if all { STRINGS } else { FIRST });
    if all {
        let hash = Sha256::digest(strings.join("\0"));
        assert_eq!(format!("{hash:x}"), recorded["strings"].as_str().unwrap(), "other strings than recorded");
    }
    let mut hash = Sha256::new();
    for text in &strings {
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        hash.update((ids.len() as u32).to_le_bytes());
        ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    let expected = &recorded["ids"][name][if all { "all" } else { "first" }];
    assert_eq!(format!("{:x}", hash.finalize()), expected.as_str().unwrap(), "{name}");
}
