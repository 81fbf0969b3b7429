//! A vocabulary trained here is deterministic, useful for Chinese, and survives its files.

use crate::common;

use common::shared;
use danlu_tokenizer::{BpeTraining, SpecialTokens, TokenRole, Tokenizer, TrainedToken, TrainingProgress};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn facts() -> impl Iterator<Item = String> + Send {
    (0..200).map(|index| {
        let material = ["铝合金", "不锈钢", "聚乙烯", "钛合金"][index % 4];
        format!(
            "{material}的密度是{}克每立方厘米，熔点为{}℃。{material} is used in CNC machining.\n",
            index % 9,
            index * 7
        )
    })
}

fn options(vocabulary_size: usize) -> BpeTraining {
    BpeTraining { vocabulary_size, ..BpeTraining::default() }
}

#[test]
fn training_is_deterministic() {
    let train = || Tokenizer::train_byte_level_bpe(facts(), &options(500)).unwrap().fingerprint();
    let first = train();
    for _ in 0..3 {
        assert_eq!(train(), first);
    }
}

#[test]
fn frequent_words_become_tokens() {
    let tokenizer = Tokenizer::train_byte_level_bpe(facts(), &options(500)).unwrap();
    assert!(tokenizer.vocabulary_size() <= 500);
    assert_eq!(tokenizer.encode("铝合金的密度是", SpecialTokens::AsText).unwrap().len(), 1);
    assert_eq!(tokenizer.encode(" machining", SpecialTokens::AsText).unwrap().len(), 1);
    assert_eq!((tokenizer.pad_id(), tokenizer.bos_id(), tokenizer.eos_id()), (Some(0), Some(1), Some(2)));
    assert_eq!(tokenizer.end_of_turn_ids(), [2, 0]);
    assert!(!tokenizer.adds_bos());
}

#[test]
fn saved_and_opened_it_gives_the_same_ids() {
    let special_tokens = vec![
        TrainedToken { text: "<s>".into(), roles: vec![TokenRole::Bos] },
        TrainedToken { text: "</s>".into(), roles: vec![TokenRole::Eos, TokenRole::Pad] },
    ];
    let options =
        BpeTraining { vocabulary_size: 400, special_tokens, add_bos: true, ..BpeTraining::default() };
    let tokenizer = Tokenizer::train_byte_level_bpe(facts(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let opened = Tokenizer::open(folder.path()).unwrap();
    for text in ["钛合金的密度", "<s>Human: 你好\n</s>", "a  b\r\n\tc", ""] {
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            assert_eq!(opened.encode(text, special).unwrap(), tokenizer.encode(text, special).unwrap());
        }
    }
    assert!(opened.adds_bos() && tokenizer.adds_bos() && !opened.adds_eos());
    assert_eq!((opened.bos_id(), opened.eos_id(), opened.pad_id()), (Some(0), Some(1), Some(1)));
    assert_eq!(opened.chat_template(), tokenizer.chat_template());
    assert_eq!(opened.fingerprint(), tokenizer.fingerprint());
}

#[test]
fn tokenizers_1395_a_text_without_spaces_does_not_become_one_word() {
    let words = Arc::new(AtomicU64::new(0));
    let seen = words.clone();
    let progress = move |progress: TrainingProgress| {
        if let TrainingProgress::Merging { words } = progress {
            seen.store(words as u64, Ordering::Relaxed);
        }
    };
    let options = BpeTraining { progress: Some(Box::new(progress)), ..options(300) };
    let text: String = "甲乙丙丁戊己庚辛".repeat(20_000);
    let tokenizer = Tokenizer::train_byte_level_bpe([text].into_iter(), &options).unwrap();
    assert_eq!(words.load(Ordering::Relaxed), 1, "160000 characters are one repeated word of eight");
    assert_eq!(tokenizer.encode("甲乙丙丁戊己庚辛", SpecialTokens::AsText).unwrap().len(), 1);
}

#[test]
fn a_real_novel_trains_and_comes_back() {
    let Some(path) = shared("corpus/novels/红楼梦.txt") else { return };
    let novel = std::fs::read_to_string(path).unwrap();
    let tokenizer = Tokenizer::train_byte_level_bpe([novel.clone()].into_iter(), &options(6400)).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 6400);
    let ids = tokenizer.encode(&novel, SpecialTokens::AsText).unwrap();
    assert!(tokenizer.decode(&ids, false).unwrap() == novel);
    let characters = novel.chars().count() as f64 / ids.len() as f64;
    assert!(characters > 1.2, "{characters} characters a token");
}

#[test]
fn impossible_requests_are_refused() {
    let message = |texts: Vec<String>, options: BpeTraining| {
        Tokenizer::train_byte_level_bpe(texts.into_iter(), &options).unwrap_err().to_string()
    };
    assert!(message(vec!["a".into()], options(258)).contains("need 259"));
    assert!(message(vec![], options(300)).contains("no text"));
    let twice = vec![TrainedToken { text: "<s>".into(), roles: vec![] }; 2];
    let twice = BpeTraining { special_tokens: twice, ..options(300) };
    assert!(message(vec!["a".into()], twice).contains("`<s>`"));
}
