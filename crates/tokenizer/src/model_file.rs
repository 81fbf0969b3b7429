//! Opening a sentencepiece `.model` file: its pieces, and the special tokens that its neighbours add to them.

use crate::bytes::hexadecimal;
use crate::files::{ADDED_TOKENS, CONFIG};
use crate::sentencepiece::{CONTROL, DummyPrefix, ModelFile, SentencePiece, UNKNOWN};
use crate::tokenizer::Settings;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::AddedToken;

/// What ChatGLM2's tokenizer adds to its sentencepiece model, which every copy of it is known by.
const CHATGLM_TOKENS: [&str; 5] = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"];
const CHATGLM_CLASS: &str = "ChatGLMTokenizer";
const CHATGLM_SHA256: &str = "e7dc4c393423b76e4373e5157ddc34803a0189ba96b21ddbb40269d31468a6f2";

/// A vocabulary and what its own file says about its special tokens.
pub(crate) struct Vocabulary {
    pub inner: tokenizers::Tokenizer,
    pub sentencepiece: Option<SentencePiece>,
    /// Special ids that the file names.
    pub own: Settings,
    /// What is put before a text unless the configuration says otherwise.
    pub before: Option<u32>,
    /// What is put after a text.
    pub after: Option<u32>,
}

/// The vocabulary of a `.model` file with what its neighbours add to it.
pub(crate) fn sentencepiece_vocabulary(
    bytes: &[u8],
    config: &Map<String, Value>,
    added_tokens: &Map<String, Value>,
) -> Result<Vocabulary, String> {
    let ModelFile { vocabulary, mut sentencepiece, bos, eos, pad, unk } = ModelFile::parse(bytes)?;
    let is_chatglm = config.get("tokenizer_class").is_some_and(|class| class == CHATGLM_CLASS)
        || (!config.contains_key("added_tokens_decoder")
            && hexadecimal(&Sha256::digest(bytes)) == CHATGLM_SHA256);
    if sentencepiece.has_dummy_prefix() && config.get("legacy").is_some_and(|legacy| legacy == false) {
        sentencepiece.dummy_prefix = DummyPrefix::First;
    }
    let size = vocabulary.len();
    let is_control = |id: u32| matches!(sentencepiece.kind(id), Some(UNKNOWN | CONTROL));
    let mut control: Vec<(u32, String)> =
        vocabulary.iter().filter(|(_, id)| is_control(**id)).map(|(text, id)| (*id, text.clone())).collect();
    control.sort_unstable();
    // By id; a token of the configuration says more than one of the others.
    let special = |text: String| AddedToken::from(text, true).normalized(false);
    let mut added: BTreeMap<u32, AddedToken> =
        control.into_iter().map(|(id, text)| (id, special(text))).collect();
    if is_chatglm {
        // An extended file has them as pieces.
        let missing = CHATGLM_TOKENS.into_iter().filter(|text| !vocabulary.contains_key(*text));
        added.extend((size as u32..).zip(missing.map(|text| special(text.into()))));
    }
    for (text, id) in added_tokens {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| format!("`{ADDED_TOKENS}`: `{text}` has no id"))?;
        added.insert(id, AddedToken::from(text.clone(), false).normalized(false));
    }
    added.extend(config_tokens(config)?);
    let unknown = unk.and_then(|unk| added.get(&unk)).map(|token| token.content.clone());
    let mut texts: HashMap<u32, String> = vocabulary.into_iter().map(|(text, id)| (id, text)).collect();
    // A token may have taken the place of a piece that was kept free.
    let places = added.iter().filter(|(id, _)| (**id as usize) < size);
    texts.extend(places.map(|(id, token)| (*id, token.content.clone())));
    let vocabulary = texts.into_iter().map(|(id, text)| (text, id)).collect();
    let mut inner = without_merges(vocabulary, unknown, &sentencepiece)?;
    for (id, token) in added {
        let text = token.content.clone();
        inner.add_tokens([token]).map_err(|error| error.to_string())?;
        match inner.token_to_id(&text) {
            Some(found) if found == id => {}
            found => {
                let found = found.map_or("none".into(), |found| found.to_string());
                return Err(format!(
                    "the files beside it give `{text}` the id {id}, but behind {size} pieces it has {found}"
                ));
            }
        }
    }
    let own = Settings { bos, eos, pad: if is_chatglm { unk } else { pad }, unk, ..Settings::default() };
    // As the programs that these files are made for: Llama's tokenizer puts BOS before a text.
    let before = bos.filter(|_| !is_chatglm);
    Ok(Vocabulary { inner, sentencepiece: Some(sentencepiece), own, before, after: None })
}

/// `added_tokens_decoder` of `tokenizer_config.json`, by id.
pub(crate) fn config_tokens(config: &Map<String, Value>) -> Result<BTreeMap<u32, AddedToken>, String> {
    let tokens = config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    let entry = |(id, token): (&String, &Value)| {
        let entry = (id.parse().ok()).zip(serde_json::from_value(token.clone()).ok());
        entry.ok_or_else(|| format!("`{CONFIG}`: `added_tokens_decoder.{id}` is {token}"))
    };
    tokens.map(entry).collect()
}

/// A vocabulary that only knows its tokens: `sentencepiece` cuts.
pub(crate) fn without_merges(
    ids: HashMap<String, u32>,
    unk: Option<String>,
    sentencepiece: &SentencePiece,
) -> Result<tokenizers::Tokenizer, String> {
    let mut model = BPE::builder().vocab_and_merges(ids.into_iter().collect::<Vocab>(), Vec::new());
    if let Some(unk) = unk {
        model = model.unk_token(unk);
    }
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(|error| error.to_string())?);
    inner.with_decoder(Some(sentencepiece.decoder()?));
    Ok(inner)
}
