//! Reading the tokenizer files of a Hugging Face folder: `tokenizer.json`, or sentencepiece's `tokenizer.model`, tiktoken's
//! rank files, llama2.c's `tokenizer.bin`.

use crate::files_out::pretty;
use crate::llama2c::{is_llama2c, model_of_llama2c};
use crate::model_file::{Vocabulary, sentencepiece_vocabulary};
use crate::tiktoken::{is_tiktoken, tiktoken_vocabulary};
use crate::tokenizer::Settings;
use crate::{Error, Result, Tokenizer};
use fs_err as fs;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use tokenizers::tokenizer::AddedToken;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const SENTENCEPIECE: &str = "tokenizer.model";
pub(crate) const CONFIG: &str = "tokenizer_config.json";
pub(crate) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const LLAMA2C: &str = "tokenizer.bin";
const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";
/// Files that other programs expect beside `tokenizer.json`; kept although nothing here reads them.
const COMPANIONS: [&str; 4] = [SENTENCEPIECE, "vocab.json", "merges.txt", ADDED_TOKENS];
/// Says in [`CONFIG`] that [`TOKENIZER`] was made from [`SENTENCEPIECE`], which is the one to read.
pub(crate) const MADE_FROM: &str = "tokenizer_json_made_from";
/// The `model.type` that is read.
const BPE: &str = "BPE";
/// Above all ids of the field's vocabularies, so that no file makes anybody reserve room for more.
const MOST_IDS: u32 = 1 << 24;

/// The parts of `tokenizer.json` that the library trusts without looking.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<OutlineToken<'a>>,
    #[serde(borrow)]
    model: OutlineModel<'a>,
}

#[derive(Deserialize)]
struct OutlineToken<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

#[derive(Deserialize)]
struct OutlineModel<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    vocab: HashMap<Cow<'a, str>, u32>,
    #[serde(borrow, default)]
    merges: Vec<OutlineMerge<'a>>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OutlineMerge<'a> {
    #[serde(borrow)]
    Pair((Cow<'a, str>, Cow<'a, str>)),
    #[serde(borrow)]
    Line(Cow<'a, str>),
}

/// What kind of model a `tokenizer.json` holds.
#[derive(Deserialize)]
struct Kind {
    model: KindOfModel,
}

#[derive(Deserialize)]
struct KindOfModel {
    #[serde(rename = "type")]
    kind: String,
}

fn other_kind(kind: &str) -> String {
    format!(
        "`model.type` is `{kind}`; only {BPE} is read, and other kinds from sentencepiece's own `.model` files"
    )
}

impl Outline<'_> {
    /// Merges must build known tokens: the library would index past its buffer on others.
    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.model.kind.as_deref().filter(|kind| *kind != BPE) {
            return Err(other_kind(kind));
        }
        if self.model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()) {
            return Err("`model.continuing_subword_prefix` is not supported".into());
        }
        let mut by_id: HashMap<u32, &str> = HashMap::with_capacity(self.model.vocab.len());
        for (token, &id) in &self.model.vocab {
            if id >= MOST_IDS {
                return Err(format!("`model.vocab` gives `{token}` the id {id}; ids end below {MOST_IDS}"));
            }
            if let Some(other) = by_id.insert(id, token) {
                return Err(format!("`model.vocab` gives `{token}` and `{other}` the same id {id}"));
            }
        }
        for (index, merge) in self.model.merges.iter().enumerate() {
            let (left, right) = match merge {
                OutlineMerge::Pair((left, right)) => (left.as_ref(), right.as_ref()),
                OutlineMerge::Line(line) => line.split_once(' ').ok_or_else(|| {
                    format!("`model.merges[{index}]` is `{line}`, not two tokens with a space")
                })?,
            };
            let merged = format!("{left}{right}");
            for token in [left, right, &merged] {
                if !self.model.vocab.contains_key(token) {
                    return Err(format!(
                        "`model.merges[{index}]` needs `{token}`, which is not in `model.vocab`"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Tokenizer {
    /// Whether [`Tokenizer::open`] finds a vocabulary in `folder`.
    pub fn is_in(folder: &Path) -> bool {
        main_file(folder).is_ok_and(|main| main != folder && main.is_file())
    }

    /// Opens a `tokenizer.json` file, a sentencepiece `.model` file, tiktoken's ranks, llama2.c's `tokenizer.bin`, or a
    /// folder with one (and `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
    /// `chat_template.jinja` where they are). What a file is, its content tells. One of a usual name is read with its
    /// neighbours; of several in a folder `tokenizer.json` counts first, then `tokenizer.model`.
    ///
    /// # Errors
    /// A missing, unreadable or inconsistent file, each with its path.
    pub fn open(path: &Path) -> Result<Self> {
        let main = main_file(path)?;
        let bytes = fs::read(&main)?;
        let format = Format::of(&bytes);
        let has_neighbours = is_usual_name(&main);
        let bytes = match format {
            Format::Llama2C => model_of_llama2c(&bytes).map_err(|message| malformed(&main, message))?,
            _ => bytes,
        };
        let name = if format == Format::Json { TOKENIZER } else { SENTENCEPIECE };
        let mut files = vec![(name.to_owned(), bytes)];
        if has_neighbours {
            for companion in [CONFIG, SPECIAL_TOKENS, TEMPLATE].into_iter().chain(COMPANIONS) {
                let beside = main.with_file_name(companion);
                if companion != name && beside.is_file() {
                    files.push((companion.to_owned(), fs::read(&beside)?));
                }
            }
            let made = main.with_file_name(TOKENIZER);
            if name == SENTENCEPIECE && is_made_from_sentencepiece(file(&files, CONFIG)) && made.is_file() {
                files.push((TOKENIZER.to_owned(), fs::read(&made)?));
            }
        }
        let beside = |name: &str| main.with_file_name(name);
        let object = |name: &str| -> Result<Map<String, Value>> {
            match file(&files, name) {
                Some(bytes) => serde_json::from_slice(bytes).map_err(|error| malformed(&beside(name), error)),
                None => Ok(Map::new()),
            }
        };
        let (config, map) = (object(CONFIG)?, object(SPECIAL_TOKENS)?);
        let chat_template = match file(&files, TEMPLATE) {
            Some(bytes) => {
                let source =
                    std::str::from_utf8(bytes).map_err(|error| malformed(&beside(TEMPLATE), error))?;
                Some(source.to_owned())
            }
            None => config_template(&config).map_err(|message| malformed(&beside(CONFIG), message))?,
        };
        let vocabulary = match format {
            Format::SentencePiece | Format::Llama2C => {
                sentencepiece_vocabulary(&files[0].1, &config, &object(ADDED_TOKENS)?)
            }
            Format::Tiktoken => tiktoken_vocabulary(&files[0].1, &config),
            Format::Json => json_vocabulary(&files[0].1),
        };
        let Vocabulary { inner, sentencepiece, own, before, after } =
            vocabulary.map_err(|message| malformed(&main, message))?;
        if format == Format::Tiktoken {
            // Its files are for a program of their own; what is saved is tokenizer.json.
            files.clear();
        }
        let special = |key: &str| {
            let entry = config.get(key).filter(|entry| !entry.is_null()).or_else(|| map.get(key))?;
            inner.token_to_id(entry.as_str().or_else(|| entry["content"].as_str())?)
        };
        let bos = special("bos_token").or(before).or(own.bos);
        let eos = special("eos_token").or(after).or(own.eos);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let settings = Settings {
            bos,
            eos,
            pad: special("pad_token").or(own.pad),
            unk: special("unk_token").or(own.unk),
            end_of_turn: special("eot_token"),
            add_bos: bos.is_some() && flag("add_bos_token").unwrap_or(before.is_some()),
            add_eos: eos.is_some() && flag("add_eos_token").unwrap_or(after.is_some()),
            chat_template,
        };
        let named = named_special_tokens(&[&config, &map]);
        let inner =
            with_special_tokens(inner, &settings, &named).map_err(|message| malformed(&main, message))?;
        Self::new(inner, sentencepiece, settings, files).map_err(|message| malformed(&main, message))
    }

    /// The same vocabulary with another chat template.
    #[must_use]
    pub fn with_chat_template(mut self, source: String) -> Self {
        self.settings.chat_template = Some(source);
        let files = std::mem::take(&mut self.files);
        let keep = |(name, bytes): (String, Vec<u8>)| match name.as_str() {
            TEMPLATE => None,
            CONFIG => {
                let mut config: Map<String, Value> = serde_json::from_slice(&bytes).ok()?;
                config.insert("chat_template".into(), json!(self.settings.chat_template));
                Some((name, pretty(&Value::Object(config)).ok()?))
            }
            _ => Some((name, bytes)),
        };
        self.files = files.into_iter().filter_map(keep).collect();
        self.fingerprint = OnceLock::new();
        self
    }

    /// `tokenizer.json` as it was opened, or as it would be written.
    pub(crate) fn tokenizer_json(&self) -> Result<Cow<'_, [u8]>> {
        match file(&self.files, TOKENIZER) {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => {
                let text =
                    self.inner.to_string(false).map_err(|error| malformed(Path::new(TOKENIZER), error))?;
                Ok(Cow::Owned(text.into_bytes()))
            }
        }
    }

    /// The sentencepiece `.model` file that was opened, or that holds the pieces of a GGUF file.
    pub(crate) fn model_file(&self) -> Option<&[u8]> {
        let main = self.files.first().filter(|(name, _)| name == SENTENCEPIECE)?;
        Some(&main.1)
    }
}

pub(crate) fn malformed(path: &Path, message: impl ToString) -> Error {
    Error::Malformed { path: path.to_path_buf(), message: message.to_string() }
}

pub(crate) fn file<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
}

/// The formats that are told apart by how a file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    SentencePiece,
    Tiktoken,
    Llama2C,
}

impl Format {
    fn of(bytes: &[u8]) -> Self {
        if is_sentencepiece(bytes) {
            Self::SentencePiece
        } else if is_tiktoken(bytes) {
            Self::Tiktoken
        } else if is_llama2c(bytes) {
            Self::Llama2C
        } else {
            Self::Json
        }
    }
}

/// Whether programs look for a vocabulary under this name, with its configuration beside it.
fn is_usual_name(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| [TOKENIZER, SENTENCEPIECE, LLAMA2C].iter().any(|usual| name == *usual))
        || file.extension().is_some_and(|end| end == "tiktoken")
}

/// The file with the vocabulary of `path`.
fn main_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let mut usual = [TOKENIZER, SENTENCEPIECE].map(|name| path.join(name));
    if usual.iter().all(|file| file.is_file()) {
        let config = fs::read(path.join(CONFIG)).ok();
        if is_made_from_sentencepiece(config.as_deref()) {
            usual.reverse();
        }
    }
    if let Some(file) = usual.iter().find(|file| file.is_file()) {
        return Ok(file.clone());
    }
    let mut ranks = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if !file.is_file() {
            continue;
        }
        if file.extension().is_some_and(|end| end == "tiktoken") {
            ranks.push(file);
        } else if file.extension().is_some_and(|end| end == "model") && is_sentencepiece(&head(&file)?) {
            let message = format!(
                "a sentencepiece vocabulary of another name than `{SENTENCEPIECE}`: give it by its own path"
            );
            return Err(malformed(&file, message));
        }
    }
    let bin = path.join(LLAMA2C);
    match <[PathBuf; 1]>::try_from(ranks) {
        Ok([ranks]) => Ok(ranks),
        Err(_) if bin.is_file() && is_llama2c(&head(&bin)?) => Ok(bin),
        Err(ranks) => {
            let found = if ranks.is_empty() { "no vocabulary" } else { "several files of ranks" };
            let expected =
                "tokenizer.json, tokenizer.model, one file of tiktoken's ranks, or llama2.c's tokenizer.bin";
            let problem = format!("`{}` holds {found}: expected {expected}", path.display());
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, problem).into())
        }
    }
}

/// Whether a configuration says that the `tokenizer.json` beside it was made from the `tokenizer.model` there.
fn is_made_from_sentencepiece(config: Option<&[u8]>) -> bool {
    let config = config.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    config.is_some_and(|config| config[MADE_FROM] == SENTENCEPIECE)
}

/// The start of a file.
fn head(path: &Path) -> Result<Vec<u8>> {
    const HEAD: u64 = 4096;
    let mut head = Vec::new();
    fs::File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether the bytes begin with a piece (field 1) with a text (field 1), behind which its score (field 2, four bytes)
/// stands.
pub(crate) fn is_sentencepiece(bytes: &[u8]) -> bool {
    // The length of field 1, and what follows the number.
    fn length(field: &[u8]) -> Option<(usize, &[u8])> {
        let bytes = field.strip_prefix(&[0x0a])?;
        let end = bytes.iter().take(4).position(|byte| *byte < 0x80)?;
        let number =
            bytes[..=end].iter().rev().fold(0, |number, byte| number << 7 | usize::from(byte & 0x7f));
        Some((number, &bytes[end + 1..]))
    }
    let text = length(bytes).and_then(|(_, piece)| length(piece));
    text.is_some_and(|(length, text)| text.get(length) == Some(&0x15))
}

/// The vocabulary of a `tokenizer.json`.
fn json_vocabulary(bytes: &[u8]) -> Result<Vocabulary, String> {
    let is_json = bytes.trim_ascii_start().first() == Some(&b'{');
    if !is_json {
        return Err(
            "neither tokenizer.json nor a sentencepiece model, tiktoken's ranks or llama2.c's tokenizer"
                .into(),
        );
    }
    let inner = parse_tokenizer(bytes)?;
    let post_processor =
        serde_json::to_value(inner.get_post_processor()).map_err(|error| error.to_string())?;
    let (before, after) = added_around(&post_processor);
    Ok(Vocabulary { inner, sentencepiece: None, own: Settings::default(), before, after })
}

/// Parses `tokenizer.json`; truncation and padding, which some files ask for, are not applied here.
fn parse_tokenizer(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    let not_bpe = |error: serde_json::Error| {
        if let Ok(Kind { model: KindOfModel { kind } }) = serde_json::from_str(text)
            && kind != BPE
        {
            return other_kind(&kind);
        }
        let message = error.to_string();
        let is_half = message.contains("surrogate") || message.contains("hex escape");
        let why = if is_half { "a lone surrogate, which is half a character: " } else { "" };
        format!("not a BPE tokenizer.json: {why}{message}")
    };
    let outline: Outline = serde_json::from_str(text).map_err(not_bpe)?;
    outline.check()?;
    let inner = tokenizers::Tokenizer::from_str(text).map_err(|error| error.to_string())?;
    for token in &outline.added_tokens {
        let id = inner.token_to_id(&token.content);
        if id != Some(token.id) {
            let (content, stated) = (&token.content, token.id);
            return Err(format!(
                "`added_tokens` gives `{content}` the id {stated}, but the vocabulary makes it {id:?}"
            ));
        }
    }
    Ok(inner)
}

/// Tokens that have a role or are `named` special are so even where `added_tokens` forgot to say it.
fn with_special_tokens(
    mut inner: tokenizers::Tokenizer,
    settings: &Settings,
    named: &[&str],
) -> Result<tokenizers::Tokenizer, String> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let roles = [settings.bos, settings.eos, settings.pad, settings.unk];
    let without_place = roles.into_iter().flatten().filter(|id| !added.contains_key(id));
    let mut tokens: Vec<AddedToken> = without_place
        .filter_map(|id| inner.id_to_token(id))
        .map(|text| AddedToken::from(text, true))
        .collect();
    for text in named {
        let Some(id) = inner.token_to_id(text) else { continue };
        match added.get(&id) {
            Some(token) if token.special => {}
            Some(token) => tokens.push(AddedToken { special: true, ..token.clone() }),
            None => tokens.push(AddedToken::from(*text, true)),
        }
    }
    if !tokens.is_empty() {
        inner.add_special_tokens(tokens).map_err(|error| error.to_string())?;
    }
    Ok(inner)
}

/// The texts that configurations list as special without a role.
fn named_special_tokens<'a>(configurations: &[&'a Map<String, Value>]) -> Vec<&'a str> {
    let lists = configurations.iter().flat_map(|configuration| {
        ["additional_special_tokens", "extra_special_tokens"].map(|key| configuration.get(key))
    });
    let entries = lists.flatten().flat_map(|list| match list {
        Value::Array(entries) => entries.iter().collect(),
        Value::Object(by_role) => by_role.values().collect(),
        _ => Vec::new(),
    });
    entries.filter_map(|entry| entry.as_str().or_else(|| entry["content"].as_str())).collect()
}

/// `chat_template` of `tokenizer_config.json`: one source, or a list of named ones of which `default` counts.
fn config_template(config: &Map<String, Value>) -> Result<Option<String>, String> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default").or_else(|| named.first());
            Ok(default.and_then(|entry| entry["template"].as_str()).map(str::to_owned))
        }
        Some(other) => {
            Err(format!("`chat_template` is {other}; expected a string or a list of named templates"))
        }
    }
}

/// The ids that a post-processor puts before and after a text.
fn added_around(post_processor: &Value) -> (Option<u32>, Option<u32>) {
    match post_processor["type"].as_str() {
        Some("Sequence") => {
            let parts = post_processor["processors"].as_array().into_iter().flatten().map(added_around);
            parts.fold((None, None), |(before, after), part| (before.or(part.0), after.or(part.1)))
        }
        Some("TemplateProcessing") => {
            let (mut before, mut after, mut seen_text) = (None, None, false);
            for piece in post_processor["single"].as_array().into_iter().flatten() {
                if let Some(name) = piece["SpecialToken"]["id"].as_str() {
                    let id = post_processor["special_tokens"][name]["ids"][0].as_u64().map(|id| id as u32);
                    *(if seen_text { &mut after } else { &mut before }) = id;
                } else {
                    seen_text = true;
                }
            }
            (before, after)
        }
        _ => (None, None),
    }
}
