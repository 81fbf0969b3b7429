//! Writing the tokenizer files of a Hugging Face folder, such that transformers gives the same ids.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde_json::{Map, Value, json};
use tokenizers::tokenizer::AddedToken;

use crate::files::{CONFIG, MADE_FROM, SENTENCEPIECE, SPECIAL_TOKENS, TOKENIZER, file, malformed};
use crate::{Error, Result, SpecialTokens, Tokenizer};

/// transformers' class that takes `tokenizer.json` as it is.
const TAKES_JSON: &str = "PreTrainedTokenizerFast";
/// transformers' class for sentencepiece's `tokenizer.model`.
const TAKES_SENTENCEPIECE: &str = "LlamaTokenizer";
/// What Hugging Face writes for "no limit".
const NO_LIMIT: f64 = 1e30;

impl Tokenizer {
    /// Writes the tokenizer files into `folder`, which is created. Files that were opened are written back byte for
    /// byte; a vocabulary from a GGUF file or from training gets files that `transformers.AutoTokenizer` loads
    /// (`tokenizer.model` where it is sentencepiece, with a `tokenizer.json` where one can say the same), and a `.model`
    /// file the configuration that it lacks.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if file(&self.files, CONFIG).is_none() {
            return self.save_for_transformers(folder).map(drop);
        }
        self.save_as_opened(folder)
    }

    /// As [`Tokenizer::save`], and such that transformers takes a `tokenizer.json` as it is: its classes for single
    /// families cut texts in ways of their own. The value says why there is no `tokenizer.json` where none gives the same
    /// ids; then transformers reads sentencepiece's file, by rules of its own too.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_for_transformers(&self, folder: &Path) -> Result<Option<String>> {
        self.save_as_opened(folder)?;
        let mut config: Map<String, Value> = match file(&self.files, CONFIG) {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|error| malformed(Path::new(CONFIG), error))?
            }
            None => self.config(),
        };
        let is_there = self.model_file().is_none() || file(&self.files, TOKENIZER).is_some();
        let made = if is_there { Ok(None) } else { self.to_tokenizer_json().map(Some) };
        let refused = match made {
            Ok(None) => None,
            Ok(Some(json)) => {
                write(&folder.join(TOKENIZER), &json)?;
                // What the class that read the other file knew by itself.
                let known = self.config().into_iter().filter(|(key, _)| key != "chat_template");
                known.for_each(|(key, value)| _ = config.entry(key).or_insert(value));
                config.insert(MADE_FROM.into(), json!(SENTENCEPIECE));
                None
            }
            Err(Error::Json(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        if refused.is_none() {
            config.insert("tokenizer_class".into(), json!(TAKES_JSON));
            config.remove("auto_map");
        } else {
            config.remove(MADE_FROM);
            let class = config.entry("tokenizer_class").or_insert_with(|| json!(TAKES_SENTENCEPIECE));
            if class == TAKES_JSON {
                *class = json!(TAKES_SENTENCEPIECE);
            }
        }
        write(&folder.join(CONFIG), &pretty(&Value::Object(config))?)?;
        if file(&self.files, SPECIAL_TOKENS).is_none() {
            write(&folder.join(SPECIAL_TOKENS), &pretty(&Value::Object(self.special_tokens_map()))?)?;
        }
        Ok(refused)
    }

    fn save_as_opened(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        if self.model_file().is_none() {
            write(&folder.join(TOKENIZER), &self.tokenizer_json()?)?;
        }
        let written = |name: &str| name != TOKENIZER || self.model_file().is_some();
        self.files
            .iter()
            .filter(|(name, _)| written(name))
            .try_for_each(|(name, bytes)| write(&folder.join(name), bytes))
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("add_bos_token".into(), json!(self.settings.add_bos));
        config.insert("add_eos_token".into(), json!(self.settings.add_eos));
        config.append(&mut self.special_tokens_map());
        if let Some(template) = &self.settings.chat_template {
            config.insert("chat_template".into(), json!(template));
        }
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        config.insert("model_max_length".into(), json!(NO_LIMIT));
        let class = if self.model_file().is_some() {
            config.insert("legacy".into(), json!(true));
            config.insert("added_tokens_decoder".into(), self.added_tokens_json());
            TAKES_SENTENCEPIECE
        } else {
            TAKES_JSON
        };
        config.insert("tokenizer_class".into(), json!(class));
        config
    }

    /// What says which tokens are special, for a vocabulary that came without such files.
    pub(crate) fn config_files(&self) -> Result<[(String, Vec<u8>); 2]> {
        let map = Value::Object(self.special_tokens_map());
        Ok([
            (CONFIG.to_owned(), pretty(&Value::Object(self.config()))?),
            (SPECIAL_TOKENS.to_owned(), pretty(&map)?),
        ])
    }

    /// A configuration that also says what only `tokenizer.json` beside it said: BOS and EOS around a text, and which texts
    /// get a space before them.
    pub(crate) fn config_with_ends(&self, config: &[u8]) -> Result<Vec<u8>> {
        let mut config: Map<String, Value> =
            serde_json::from_slice(config).map_err(|error| malformed(Path::new(CONFIG), error))?;
        if self.sentencepiece.is_none() {
            config.insert("add_bos_token".into(), json!(self.settings.add_bos));
            config.insert("add_eos_token".into(), json!(self.settings.add_eos));
            let special = (0..self.vocabulary_size() as u32).find(|&id| self.is_special(id));
            if let Some(special) = special.filter(|_| !self.decoding.is_byte_level()) {
                let behind_special = self.encode_after(&[special], "a", SpecialTokens::Parse)?;
                let gets_space = behind_special != self.encode_within("a", SpecialTokens::Parse)?;
                config.insert("legacy".into(), json!(gets_space));
            }
        }
        pretty(&Value::Object(config))
    }

    /// The added tokens as `tokenizer_config.json` has them.
    fn added_tokens_json(&self) -> Value {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let added: BTreeMap<u32, &AddedToken> = added.iter().map(|(id, token)| (*id, token)).collect();
        let entry = |(id, token): (u32, &AddedToken)| (id.to_string(), json!(token));
        Value::Object(added.into_iter().map(entry).collect())
    }

    fn special_tokens_map(&self) -> Map<String, Value> {
        let settings = &self.settings;
        let roles = [
            ("bos_token", settings.bos),
            ("eos_token", settings.eos),
            ("unk_token", settings.unk),
            ("pad_token", settings.pad),
            ("eot_token", settings.end_of_turn),
        ];
        let text = |(key, id): (&str, Option<u32>)| Some((key.to_owned(), json!(self.token_text(id?)?)));
        roles.into_iter().filter_map(text).collect()
    }
}

pub(crate) fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes beside and renames, so that a full disk never leaves half a file under the name.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let written = fs::write(&name, bytes).and_then(|()| fs::rename(&name, path));
    if written.is_err() {
        let _ = fs::remove_file(&name);
    }
    Ok(written?)
}
