//! A vocabulary trained here is deterministic, useful for Chinese, and survives its files.

use crate::common;

use common::{random_strings, shared};
use danlu_tokenizer::{
    SpecialTokens, TextNormalization, TokenRole, Tokenizer, TrainedToken, TrainingProgress, VocabularyKind,
    VocabularyTraining,
};
use std::ops::ControlFlow;
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

fn options(vocabulary_size: usize) -> VocabularyTraining {
    VocabularyTraining { vocabulary_size, ..VocabularyTraining::default() }
}

#[test]
fn training_is_deterministic() {
    let train = || Tokenizer::train(facts(), &options(500)).unwrap().fingerprint();
    let first = train();
    for _ in 0..3 {
        assert_eq!(train(), first);
    }
}

#[test]
fn frequent_words_become_tokens() {
    let tokenizer = Tokenizer::train(facts(), &options(500)).unwrap();
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
    let options = VocabularyTraining {
        vocabulary_size: 400,
        special_tokens,
        add_bos: true,
        ..VocabularyTraining::default()
    };
    let tokenizer = Tokenizer::train(facts(), &options).unwrap();
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
        if let TrainingProgress::Counted { words, .. } = progress {
            seen.store(words as u64, Ordering::Relaxed);
        }
        ControlFlow::Continue(())
    };
    let options = VocabularyTraining { progress: Some(Box::new(progress)), ..options(300) };
    let text: String = "甲乙丙丁戊己庚辛".repeat(20_000);
    let tokenizer = Tokenizer::train([text].into_iter(), &options).unwrap();
    assert_eq!(words.load(Ordering::Relaxed), 1, "160000 characters are one repeated word of eight");
    assert_eq!(tokenizer.encode("甲乙丙丁戊己庚辛", SpecialTokens::AsText).unwrap().len(), 1);
}

#[test]
fn a_real_novel_trains_and_comes_back() {
    let Some(path) = shared("corpus/novels/红楼梦.txt") else { return };
    let novel = std::fs::read_to_string(path).unwrap();
    let tokenizer = Tokenizer::train([novel.clone()].into_iter(), &options(6400)).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 6400);
    let ids = tokenizer.encode(&novel, SpecialTokens::AsText).unwrap();
    assert!(tokenizer.decode(&ids, false).unwrap() == novel);
    let characters = novel.chars().count() as f64 / ids.len() as f64;
    assert!(characters > 1.2, "{characters} characters a token");
}

#[test]
fn impossible_requests_are_refused() {
    let message = |texts: Vec<String>, options: VocabularyTraining| {
        Tokenizer::train(texts.into_iter(), &options).unwrap_err().to_string()
    };
    assert!(message(vec!["a".into()], options(258)).contains("need 259"));
    assert!(message(vec![], options(300)).contains("no text"));
    let twice = vec![TrainedToken { text: "<s>".into(), roles: vec![] }; 2];
    let twice = VocabularyTraining { special_tokens: twice, ..options(300) };
    assert!(message(vec!["a".into()], twice).contains("`<s>`"));
    // Byte-level vocabularies write the byte B7 so.
    let letter = VocabularyTraining { user_defined: vec!["·".into()], ..options(300) };
    assert!(message(vec!["a".into()], letter).contains("`·` cannot be"));
    let reserved = VocabularyTraining { reserved: usize::MAX, ..options(300) };
    assert!(message(vec!["a".into()], reserved).contains("no room"));
}

#[test]
fn vocabularies_with_tokens_behind_their_pieces_are_not_extended_as_by_older_projects() {
    let options = VocabularyTraining { exact_size: false, ..sentencepiece(VocabularyKind::Bpe, 420) };
    let tokenizer = Tokenizer::train(facts(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let added = format!("{{\"<pad>\": {}}}", tokenizer.vocabulary_size());
    std::fs::write(folder.path().join("added_tokens.json"), added).unwrap();
    let base = Tokenizer::open(folder.path()).unwrap();
    assert!(base.extend_as_older_projects(&[]).unwrap_err().to_string().contains("behind its pieces"));
    assert!(tokenizer.extend_as_older_projects(&[]).is_ok());
}

#[test]
fn texts_that_are_too_long_do_not_become_pieces() {
    for kind in [VocabularyKind::ByteLevelBpe, VocabularyKind::Bpe, VocabularyKind::Unigram] {
        let options = VocabularyTraining { exact_size: false, ..sentencepiece(kind, 420) };
        let tokenizer = Tokenizer::train(facts(), &options).unwrap();
        let extension = tokenizer.extend(&["车床".into(), "数".repeat(65)]).unwrap();
        assert_eq!(extension.appended.len(), 1, "{kind:?}");
        assert_eq!(extension.refused, [("数".repeat(65), "longer than 64 characters")], "{kind:?}");
    }
}

/// A passage of Mencius, and the 187 pieces that sentencepiece's own trainer makes of it (BPE, everything else default).
const PASSAGE: &str = "挟太山以超北海，语人曰：‘我不能。’是诚不能也。\n为长者折枝，语人曰：‘我不能。’是不为也，非不能也。\n\
    故王之不王，非挟太山以超北海之类也；王之不王，是折枝之类也。\n老吾老，以及人之老；幼吾幼，以及人之幼。天下可运于掌。\n\
    《诗》云：‘刑于寡妻，至于兄弟，以御于家邦。’\n";
const PIECES: &str = "不能 :‘ 。’ 不王 之类 人之 人曰 以及 以超 北海 太山 折枝 王之 不能也 之类也 我不能 挟太山 语人曰 以及人之 以超北海 王之不王 挟太山以超北海 ▁《 ▁为 ▁故 ▁老 下可 不为 \
    于兄 于家 于寡 于掌 以御 吾幼 吾老 是诚 长者 下可运 不为也 于兄弟 于家邦 于寡妻 幼吾幼 是折枝 ▁为长者 ▁老吾老 刑于寡妻 天下可运 是不为也 至于兄弟 非不能也 以及人之幼 \
    以及人之老 以御于家邦 是诚不能也 ▁为长者折枝 ▁故王之不王 天下可运于掌 是折枝之类也 ▁挟太山以超北海 非挟太山以超北海 非挟太山以超北海之类也 ▁挟 为也 为长 之不 之幼 之老 兄弟 刑于 \
    及人 可运 天下 家邦 寡妻 山以 幼吾 御于 我不 挟太 故王 是不 是折 枝之 海之 类也 老吾 者折 能也 至于 诚不 语人 超北 运于 非不 非挟 ▁为长 ▁老吾 之不王 人之幼 人之老 \
    以超北 刑于寡 及人之 天下可 山以超 御于家 故王之 是不为 枝之类 海之类 者折枝 至于兄 诚不能 运于掌 非不能 ▁挟太山 以御于家 北海之类 太山以超 折枝之类 诚不能也 长者折枝 非挟太山 \
    下可运于掌 北海之类也 折枝之类也 挟太山以超 故王之不王 以超北海之类也 挟太山以超北海之类也 , 。 不 之 ▁ 也 以 于 人 王 能 : ‘ ’ 幼 是 老 ; 为 北 及 吾 太 山 我 折 \
    挟 曰 枝 海 类 语 超 非 《 》 下 云 兄 刑 可 天 妻 家 寡 弟 御 掌 故 者 至 诗 诚 运 邦 长";

fn sentencepiece(kind: VocabularyKind, vocabulary_size: usize) -> VocabularyTraining {
    let token = |text: &str, role| TrainedToken { text: text.into(), roles: vec![role] };
    let special_tokens =
        vec![token("<unk>", TokenRole::Unk), token("<s>", TokenRole::Bos), token("</s>", TokenRole::Eos)];
    VocabularyTraining { kind, special_tokens, exact_size: true, ..options(vocabulary_size) }
}

#[test]
fn bpe_gives_the_pieces_of_sentencepiece_in_its_order() {
    let train = |vocabulary_size| {
        let options = VocabularyTraining {
            byte_fallback: false,
            normalization: TextNormalization::NmtNfkc,
            ..sentencepiece(VocabularyKind::Bpe, vocabulary_size)
        };
        Tokenizer::train([PASSAGE.to_owned()].into_iter(), &options)
    };
    let pieces: Vec<&str> = PIECES.split(' ').collect();
    let tokenizer = train(190).unwrap();
    let found: Vec<String> = (3..190).map(|id| tokenizer.token_text(id).unwrap()).collect();
    assert_eq!(found, pieces);
    // Fewer: the same merges, and then the characters, of which there are 56.
    let smaller = train(100).unwrap();
    let found: Vec<String> = (3..100).map(|id| smaller.token_text(id).unwrap()).collect();
    assert_eq!(found, [&pieces[..41], &pieces[131..]].concat());
    assert!(train(191).unwrap_err().to_string().contains("gives 190 tokens at most"));
}

#[test]
fn sentencepiece_vocabularies_write_every_text_and_come_back() {
    for kind in [VocabularyKind::Bpe, VocabularyKind::Unigram] {
        let options = VocabularyTraining {
            reserved: 3,
            user_defined: vec!["钛合金".into(), "CNC machining".into()],
            exact_size: false,
            ..sentencepiece(kind, 420)
        };
        let train = || Tokenizer::train(facts(), &options).unwrap();
        let tokenizer = train();
        assert_eq!(train().fingerprint(), tokenizer.fingerprint());
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let opened = Tokenizer::open(folder.path()).unwrap();
        for text in ["钛合金的密度是  3", "龘😀\u{0}a\nb\t", "ＡＢ，"] {
            let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            assert_eq!(opened.encode(text, SpecialTokens::AsText).unwrap(), ids);
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{kind:?}");
        }
        let term = tokenizer.token_id("钛合金").unwrap();
        assert_eq!((tokenizer.token_id("<|reserved_2|>"), term), (Some(5), 6));
        assert!(tokenizer.encode("的钛合金的", SpecialTokens::AsText).unwrap().contains(&term));
        let ids = tokenizer.encode("used in CNC machining.", SpecialTokens::AsText).unwrap();
        assert!(ids.contains(&(term + 1)), "a space inside is part of it");
        assert!(
            (8..tokenizer.vocabulary_size() as u32)
                .all(|id| !tokenizer.token_text(id).unwrap().contains("钛合"))
        );
        assert!(tokenizer.encode("铝合金的密度是", SpecialTokens::AsText).unwrap().len() < 5);
    }
}

#[test]
fn a_trained_unigram_has_a_tokenizer_json_with_the_same_ids() {
    for (texts, cut) in [(Vec::new(), true), (vec!["<0x41> s / u n k 123456789ABCDEF\n".repeat(9)], false)] {
        for byte_fallback in [true, false] {
            let options = VocabularyTraining { byte_fallback, ..sentencepiece(VocabularyKind::Unigram, 700) };
            let options = VocabularyTraining { exact_size: false, ..options };
            let tokenizer = Tokenizer::train(facts().chain(texts.clone()), &options).unwrap();
            if cut && !byte_fallback {
                let refused = tokenizer.to_tokenizer_json().unwrap_err().to_string();
                assert!(refused.contains("a text that spells `<unk>`"), "{refused}");
                continue;
            }
            let mut json = tokenizers::Tokenizer::from_bytes(tokenizer.to_tokenizer_json().unwrap()).unwrap();
            json.set_encode_special_tokens(true);
            assert_eq!(json.get_pre_tokenizer().is_some(), cut);
            for text in random_strings(2_000) {
                let found = json.encode_fast(text.as_str(), false).unwrap();
                assert_eq!(
                    found.get_ids(),
                    tokenizer.encode(&text, SpecialTokens::AsText).unwrap(),
                    "{text:?}"
                );
            }
        }
    }
}

#[test]
fn rare_words_are_sampled_where_memory_is_short_and_the_same_ones_each_time() {
    let rare =
        |number: u32| -> String { number.to_string().bytes().map(|digit| char::from(digit + 49)).collect() };
    let text: String = (0..20_000).map(|number| format!("件铝合金零件 {}\n", rare(number * 7919))).collect();
    for (kind, size) in [(VocabularyKind::ByteLevelBpe, 400), (VocabularyKind::Unigram, 500)] {
        let samplings = Arc::new(AtomicU64::new(0));
        let seen = samplings.clone();
        let progress = move |progress: TrainingProgress| {
            if let TrainingProgress::Counted { samplings, .. } = progress {
                seen.store(u64::from(samplings), Ordering::Relaxed);
            }
            ControlFlow::Continue(())
        };
        let options = VocabularyTraining {
            max_memory: 1 << 20,
            progress: Some(Box::new(progress)),
            ..sentencepiece(kind, size)
        };
        let train = || Tokenizer::train([text.clone()].into_iter(), &options).unwrap();
        let tokenizer = train();
        assert!(samplings.load(Ordering::Relaxed) > 1);
        assert_eq!(train().fingerprint(), tokenizer.fingerprint());
        assert!(tokenizer.encode("件铝合金零件", SpecialTokens::AsText).unwrap().len() <= 2, "{kind:?}");
    }
}
