//! Vocabularies from files: recorded ids, text that comes back, streaming, special tokens, damage.

use crate::common;

use common::{assert_random_strings, gguf_vocabulary, recorded_names, shared};
use danlu_tokenizer::{SpecialTokens, Tokenizer, VocabularyTraining};
use proptest::prelude::*;
use std::path::Path;
use std::sync::LazyLock;

/// A small vocabulary of our own, so that these tests need no other files.
static OWN: LazyLock<Tokenizer> = LazyLock::new(|| {
    let texts = [
        "数控加工是用数字控制的机床加工零件。",
        "挤出机把塑料熔化后挤出成型。",
        "Extrusion of plastics, 12 mm.",
    ];
    let texts = texts.into_iter().cycle().take(30).map(str::to_owned);
    let options = VocabularyTraining { vocabulary_size: 300, ..VocabularyTraining::default() };
    Tokenizer::train(texts, &options).unwrap()
});

/// The tokenizers of `golden_ids.json`, for each of which there is a test.
const GOLDEN: [&str; 14] = [
    "baichuan-7b/tokenizer.model",
    "chatglm2-3/tokenizer.model",
    "chinese-alpaca-2/tokenizer.model",
    "chinese-llama-1/chinese_sp.model",
    "literary-alpaca2/tokenizer.model",
    "llama2/tokenizer.model",
    "tinyllm-zh-merge/chinese_spm_20000.model",
    "tinyllm-zh-merge/merged/tokenizer.model",
    "llama2/tokenizer.json",
    "llama3/tokenizer.json",
    "minimind/tokenizer.json",
    "smollm/tokenizer.json",
    "llama3/tokenizer.model",
    "qwen/qwen.tiktoken",
];

fn golden() -> Option<serde_json::Value> {
    let golden = std::fs::read(shared("tokenizers/golden_ids.json")?).unwrap();
    Some(serde_json::from_slice(&golden).unwrap())
}

/// All texts become the recorded ids, and these the recorded or the same texts, whole and as a stream.
fn golden_ids(name: &str) {
    let Some(golden) = golden() else { return };
    let texts = golden["texts"].as_array().unwrap();
    let recorded = &golden["by"][name];
    let tokenizer = Tokenizer::open(&shared(&format!("tokenizers/{name}")).unwrap()).unwrap();
    assert_eq!((texts.len(), recorded["ids"].as_array().unwrap().len()), (14, 14));
    for (index, text) in texts.iter().enumerate() {
        let expected: Vec<u32> = serde_json::from_value(recorded["ids"][index].clone()).unwrap();
        let text = text.as_str().unwrap();
        assert_eq!(tokenizer.encode(text, SpecialTokens::AsText).unwrap(), expected, "{name}: {text:?}");
        assert_eq!(tokenizer.encode(text, SpecialTokens::Parse).unwrap(), expected, "{name}: {text:?}");
        // Sentencepiece shows what is unknown in its own way; here, as in transformers, it is a special token.
        let decoded = recorded["decoded"][index].as_str().unwrap_or(text).replace(" ⁇ ", "<unk>");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), decoded, "{name}");
        let mut stream = tokenizer.decode_stream(false);
        let streamed: String = expected.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(streamed + &stream.finish(), decoded, "{name}");
    }
    assert_random_strings(name, &tokenizer, false);
}

/// The other tests take the first 2,000.
#[test]
#[ignore = "takes half a minute; run with `cargo test --workspace --test all -- --ignored a_hundred_thousand`"]
fn a_hundred_thousand_random_strings_have_the_ids_of_their_own_libraries() {
    let Some(folder) = shared("tokenizers") else { return };
    let mut wrong = Vec::new();
    for name in recorded_names() {
        let path = folder.join(&name);
        let tokenizer = match name.ends_with(".gguf") {
            true => Tokenizer::from_gguf(gguf_vocabulary(&path)).unwrap(),
            false => Tokenizer::open(&path).unwrap(),
        };
        if std::panic::catch_unwind(|| assert_random_strings(&name, &tokenizer, true)).is_err() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_sentencepiece_model_gives_the_golden_ids() {
    let Some(golden) = golden() else { return };
    let mut names: Vec<&str> = golden["by"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut known = GOLDEN.to_vec();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known);
    for name in &GOLDEN[..8] {
        golden_ids(name);
    }
}

#[test]
fn llama2_and_minimind_and_smollm_give_the_golden_ids() {
    for name in ["llama2/tokenizer.json", "minimind/tokenizer.json", "smollm/tokenizer.json"] {
        golden_ids(name);
    }
}

#[test]
fn llama3_gives_the_golden_ids() {
    golden_ids("llama3/tokenizer.json");
}

#[test]
fn llama3_ranks_give_the_golden_ids() {
    golden_ids("llama3/tokenizer.model");
}

#[test]
fn qwen_ranks_give_the_golden_ids() {
    golden_ids("qwen/qwen.tiktoken");
}

#[test]
fn qwen_ranks_are_saved_for_transformers() {
    let Some(file) = shared("tokenizers/qwen/qwen.tiktoken") else { return };
    let tokenizer = Tokenizer::open(file.parent().unwrap()).unwrap();
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.adds_bos()), (151_851, false));
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(151_645));
    assert_eq!(tokenizer.eos_id(), Some(151_643));
    // The tokenizer of these files composes what it reads.
    let text = "e\u{301}<|im_start|>";
    assert_eq!(tokenizer.encode(text, SpecialTokens::Parse).unwrap(), [963, 151_644]);
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    assert!(!copy.path().join("tokenizer.model").exists());
    let again = Tokenizer::open(copy.path()).unwrap();
    assert_eq!(again.encode(text, SpecialTokens::Parse).unwrap(), [963, 151_644]);
    assert_eq!((again.eos_id(), again.vocabulary_size()), (tokenizer.eos_id(), 151_851));
}

#[test]
fn llama_3_ranks_have_the_special_tokens_of_its_tokenizer_json() {
    let Some(folder) = shared("tokenizers/llama3") else { return };
    let ranks = Tokenizer::open(&folder.join("tokenizer.model")).unwrap();
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("tokenizer.model"), alone.path().join("tokenizer.model")).unwrap();
    let alone = Tokenizer::open(alone.path()).unwrap();
    let json = Tokenizer::open(&folder).unwrap();
    for tokenizer in [&ranks, &alone] {
        for id in 128_000..128_256 {
            assert_eq!(tokenizer.token_text(id), json.token_text(id));
            assert!(tokenizer.is_special(id));
        }
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (json.bos_id(), json.eos_id()));
        assert_eq!(tokenizer.end_of_turn_ids(), json.end_of_turn_ids());
    }
    assert!(alone.adds_bos());
    let prompt = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n车床？<|eot_id|>";
    let ids = |tokenizer: &Tokenizer| tokenizer.encode(prompt, SpecialTokens::Parse).unwrap();
    assert_eq!(ids(&alone), ids(&json));
    assert_eq!(ids(&json)[..2], [128_000, 128_006]);
}

#[test]
fn a_rank_file_of_another_kind_or_a_damaged_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.tiktoken");
    let message = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Tokenizer::open(folder.path()).unwrap_err().to_string()
    };
    for (text, expected) in [
        ("IQ== 0\nIg== 1\n", "a tiktoken vocabulary of 2 ranks"),
        ("IQ== 0\nIg== 2\n", "line 2 has the rank 2; expected 1"),
        ("IQ== 0\nIg= 1\n", "line 2 is no token in base64"),
        ("IQ== 0\n\u{0}\n", "line 2 is no token in base64"),
        ("IQ== 99999999999999999999999\n", "neither tokenizer.json nor a sentencepiece model"),
        ("", "neither tokenizer.json nor a sentencepiece model"),
    ] {
        let message = message(text);
        assert!(message.contains("x.tiktoken") && message.contains(expected), "{text:?}: {message}");
    }
    let Some(qwen) = shared("tokenizers/qwen/qwen.tiktoken") else { return };
    let qwen = std::fs::read_to_string(qwen).unwrap();
    let cut = message(&qwen[..qwen.len() / 2]);
    assert!(cut.contains("x.tiktoken") && (cut.contains("base64") || cut.contains("ranks")), "{cut}");
    let twice = message(&qwen.replacen("Ig== 1\n", "IQ== 1\n", 1));
    assert!(twice.contains("the token of rank 1 stands twice"), "{twice}");
}

#[test]
fn lone_surrogates_and_ids_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |vocab: &str| {
        let json = format!(
            r#"{{"version":"1.0","added_tokens":[],"model":{{"type":"BPE","vocab":{vocab},"merges":[]}}}}"#
        );
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        Tokenizer::open(folder.path()).unwrap_err().to_string()
    };
    for (vocab, expected) in [
        (r#"{"\ud83d":0}"#, "surrogate"),
        (r#"{"a":0,"b":4294967295}"#, "`b` the id 4294967295"),
        (r#"{"a":0,"b":4294967296}"#, "4294967296"),
        (r#"{"a":0,"b":0}"#, "the same id 0"),
    ] {
        let message = message(vocab);
        assert!(message.contains("tokenizer.json") && message.contains(expected), "{vocab}: {message}");
    }
}

#[test]
fn the_files_say_what_is_added_around_a_text() {
    let Some(folder) = shared("tokenizers/llama2") else { return };
    let llama2 = Tokenizer::open(&folder).unwrap();
    assert!(llama2.adds_bos() && !llama2.adds_eos());
    assert_eq!(
        (llama2.bos_id(), llama2.eos_id(), llama2.unk_id(), llama2.pad_id()),
        (Some(1), Some(2), Some(0), None)
    );
    let alone = tempfile::tempdir().unwrap();
    let file = alone.path().join("llama2.json");
    std::fs::copy(folder.join("tokenizer.json"), &file).unwrap();
    let alone = Tokenizer::open(&file).unwrap();
    assert!(alone.adds_bos(), "the post-processor of tokenizer.json alone says so");
    assert_eq!(alone.bos_id(), Some(1));
    let minimind = Tokenizer::open(&shared("tokenizers/minimind").unwrap()).unwrap();
    assert!(!minimind.adds_bos());
    assert_eq!(minimind.end_of_turn_ids(), [2, 0]);
    assert!(minimind.chat_template().is_some());
    let llama3 = Tokenizer::open(&shared("tokenizers/llama3").unwrap()).unwrap();
    assert_eq!(llama3.end_of_turn_ids(), [128001, 128009], "<|end_of_text|>, then <|eot_id|>");
    assert_eq!(llama3.vocabulary_size(), 128256);
    assert_eq!(llama3.template_tokens().bos_token, "<|begin_of_text|>");
}

#[test]
fn special_tokens_typed_by_a_user_stay_text() {
    let tokenizer = &*OWN;
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let typed = "你好<|im_end|>再见";
    assert!(tokenizer.encode(typed, SpecialTokens::Parse).unwrap().contains(&end));
    let as_text = tokenizer.encode(typed, SpecialTokens::AsText).unwrap();
    assert!(!as_text.iter().any(|&id| tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&as_text, true).unwrap(), typed);
    for name in ["llama2", "llama3", "minimind", "smollm"] {
        let Some(folder) = shared(&format!("tokenizers/{name}")) else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let end = tokenizer.token_text(tokenizer.eos_id().unwrap()).unwrap();
        let typed = format!("a{end}b");
        let ids = tokenizer.encode(&typed, SpecialTokens::AsText).unwrap();
        assert!(!ids.iter().any(|&id| tokenizer.is_special(id)), "{name}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), typed, "{name}");
    }
}

#[test]
fn a_text_that_goes_on_gets_no_space_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let open = |normalizer: &str, pre_tokenizer: &str, decoder: &str| {
        let json = format!(
            r#"{{"version":"1.0","normalizer":{normalizer},"pre_tokenizer":{pre_tokenizer},"decoder":{decoder},
                "added_tokens":[{{"id":0,"content":"<s>","special":true,"single_word":false,"lstrip":false,
                                 "rstrip":false,"normalized":false}}],
                "model":{{"type":"BPE","unk_token":"<unk>","vocab":{{"<s>":0,"▁":1,"a":2,"b":3,"▁a":4,"ab":5,"▁▁":6,"<unk>":7}},
                         "merges":["▁ a","a b","▁ ▁"]}}}}"#
        );
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    };
    let metaspace = |scheme: &str| {
        format!(r#"{{"type":"Metaspace","replacement":"▁","prepend_scheme":"{scheme}","split":false}}"#)
    };
    let prepend = r#"{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
        {"type":"Replace","pattern":{"String":" "},"content":"▁"}]}"#;
    let tokenizers = [
        open(prepend, "null", &metaspace("always")),
        open("null", &metaspace("always"), &metaspace("always")),
        open("null", &metaspace("first"), &metaspace("first")),
        open("null", &metaspace("never"), &metaspace("never")),
    ];
    let text = "<s>ab a<s>b a b<s> a  b";
    for (index, tokenizer) in tokenizers.iter().enumerate() {
        let encode = |text: &str| tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        let whole = encode(text);
        // Not inside of a special token, of which there is no half.
        let cuts =
            (0..=text.len()).filter(|&cut| !["<", "<s"].iter().any(|half| text[..cut].ends_with(half)));
        let mut joined = 0;
        for (before, after) in cuts.map(|cut| text.split_at(cut)) {
            let before = encode(before);
            let after = tokenizer.encode_after(&before, after, SpecialTokens::Parse).unwrap();
            if whole.starts_with(&before) {
                assert_eq!([before, after].concat(), whole, "{index}");
            } else {
                joined += 1;
                assert_eq!(
                    tokenizer.decode(&[before, after].concat(), false).unwrap(),
                    tokenizer.decode(&whole, false).unwrap()
                );
            }
        }
        assert!((1..8).contains(&joined), "{index}: {joined}");
    }
}

#[test]
fn vllm_931_chinese_is_not_split_while_streaming() {
    let text = "挤出机🦙龘鱻𰻝，é";
    let ids = OWN.encode(text, SpecialTokens::AsText).unwrap();
    assert!(ids.len() > text.chars().count(), "some characters must need several tokens for this test");
    let mut stream = OWN.decode_stream(true);
    let mut streamed = String::new();
    for &id in &ids {
        let piece = stream.push(id).unwrap();
        assert!(!piece.contains('\u{FFFD}'), "{piece:?} after {streamed:?}");
        streamed += &piece;
    }
    assert_eq!(stream.finish(), "");
    assert_eq!(streamed, text);
    let Some(folder) = shared("tokenizers/llama2") else { return };
    let llama2 = Tokenizer::open(&folder).unwrap();
    let ids = llama2.encode(text, SpecialTokens::AsText).unwrap();
    let mut stream = llama2.decode_stream(true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')));
    assert_eq!(pieces.concat(), text);
}

#[test]
fn a_broken_character_is_shown_once_and_at_the_end() {
    let half = OWN.encode("龘", SpecialTokens::AsText).unwrap()[0];
    let letter = OWN.encode("a", SpecialTokens::AsText).unwrap()[0];
    assert_eq!(OWN.decode(&[half, letter], false).unwrap(), "\u{FFFD}a");
    let mut stream = OWN.decode_stream(false);
    assert_eq!(stream.push(half).unwrap(), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    let message = OWN.decode(&[letter, 70000], false).unwrap_err().to_string();
    assert!(message.contains("70000"), "{message}");
}

#[test]
fn token_bytes_concatenate_to_the_text() {
    let text = "数控 CNC 🦙";
    let ids = OWN.encode(text, SpecialTokens::AsText).unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| OWN.token_bytes(id).unwrap()).collect();
    assert_eq!(bytes, text.as_bytes());
    assert_eq!(OWN.token_bytes(OWN.vocabulary_size() as u32), None);
    let Some(folder) = shared("tokenizers/llama2") else { return };
    let llama2 = Tokenizer::open(&folder).unwrap();
    assert_eq!(llama2.token_bytes(13), Some(b"\n".to_vec()));
    assert_eq!(llama2.token_bytes(15043), Some(b" Hello".to_vec()));
}

#[test]
fn opened_files_are_saved_byte_for_byte() {
    let Some(folder) = shared("tokenizers/minimind") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&folder) == read(copy.path()), "{name}");
    }
    let opened = Tokenizer::open(&copy.path().join("tokenizer.json")).unwrap();
    assert_eq!(opened.fingerprint(), tokenizer.fingerprint());
    let before = tokenizer.fingerprint();
    let other = opened.with_chat_template("{{ messages[0].content }}".into());
    assert_ne!(other.fingerprint(), before);
    other.save(copy.path()).unwrap();
    let opened = Tokenizer::open(copy.path()).unwrap();
    assert_eq!(opened.chat_template(), Some("{{ messages[0].content }}"));
    assert_eq!(opened.fingerprint(), other.fingerprint());
    assert_eq!(opened.eos_id(), tokenizer.eos_id());
}

#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str, content: &[u8]| {
        std::fs::write(folder.path().join(name), content).unwrap();
        Tokenizer::open(folder.path()).unwrap_err().to_string()
    };
    let missing = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
    let model = |model: &str| {
        format!(
            r#"{{"version":"1.0","added_tokens":[],"decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}},"model":{model}}}"#
        )
    };
    let good = model(r#"{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}"#);
    for (content, expected) in [
        ("{".to_owned(), "line 1"),
        ("\u{0}".to_owned(), "neither tokenizer.json"),
        (model(r#"{"type":"WordPiece","vocab":{}}"#), "WordPiece"),
        (model(r#"{"type":"BPE","vocab":{"a":0},"merges":["a b"]}"#), "merges[0]"),
        (model(r#"{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}"#), "`ab`"),
        (model(r#"{"type":"BPE","vocab":{"a":0,"b":1},"merges":["ab"]}"#), "merges[0]"),
        (model(r#"{"type":"BPE","vocab":{"a":0,"b":-1},"merges":[]}"#), "-1"),
        (good.replace(r#""added_tokens":[]"#, r#""added_tokens":[{"id":9,"content":"<s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}]"#), "`<s>`"),
        (good.replace("ByteLevel", "WordPiece"), "tokenizer.json"),
    ] {
        let message = message("tokenizer.json", content.as_bytes());
        assert!(message.contains("tokenizer.json") && message.contains(expected), "{content}: {message}");
    }
    let message_utf8 = message("tokenizer.json", b"{\xFF}");
    assert!(message_utf8.contains("UTF-8"), "{message_utf8}");
    std::fs::write(folder.path().join("tokenizer.json"), &good).unwrap();
    assert_eq!(Tokenizer::open(folder.path()).unwrap().encode("ab", SpecialTokens::AsText).unwrap(), [2]);
    let config = message("tokenizer_config.json", b"[1");
    assert!(config.contains("tokenizer_config.json"), "{config}");
    let config = message("tokenizer_config.json", br#"{"chat_template": 5}"#);
    assert!(config.contains("chat_template"), "{config}");
}

proptest! {
    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            let ids = OWN.encode(&text, special).unwrap();
            prop_assert_eq!(OWN.decode(&ids, false).unwrap(), text.clone());
        }
    }

    #[test]
    fn any_ids_stream_to_what_they_decode_to(ids in prop::collection::vec(0u32..300, 0..60), skip in any::<bool>()) {
        let ids: Vec<u32> = ids.into_iter().filter(|&id| (id as usize) < OWN.vocabulary_size()).collect();
        let kept = ids.iter().filter(|&&id| !skip || !OWN.is_special(id));
        let bytes: Vec<u8> = kept.flat_map(|&id| OWN.token_bytes(id).unwrap()).collect();
        let mut stream = OWN.decode_stream(skip);
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text += &stream.finish();
        prop_assert_eq!(&text, &OWN.decode(&ids, skip).unwrap());
        prop_assert_eq!(&text, &*String::from_utf8_lossy(&bytes));
    }
}
