//! Generation under a constraint, with biases, and with log-probabilities: what comes out keeps to what was asked.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use danlu_model::{
    BatchGenerator, Constraint, FinishReason, GenerationOptions, Generator, Grammar, Rest, Sampling,
    Vocabulary,
};
use danlu_tokenizer::{SpecialTokens, Tokenizer};

use crate::common::{greedy, load, log_probabilities};

/// Tokens of the tiny model: letters from id 10 on; others have no bytes.
fn vocabulary(size: usize) -> Arc<Vocabulary> {
    Arc::new(Vocabulary::new((0..size).map(|id| match id {
        10..=19 => vec![b'a' + (id - 10) as u8],
        20 => b"ab".to_vec(),
        _ => Vec::new(),
    })))
}

fn constraint(grammar: &str, size: usize) -> Option<Constraint> {
    Some(Constraint::new(&Grammar::from_gbnf(grammar).unwrap(), vocabulary(size)))
}

#[test]
fn a_constraint_decides_what_comes_and_when_it_ends() {
    let model = load("gqa-untied", Rest::Trained);
    let size = model.config().vocab_size;
    let generate = |grammar: &str, stop_ids: Vec<u32>, bias: &[(u32, f32)]| {
        let sampling =
            Sampling { temperature: 1.5, logit_bias: bias.iter().copied().collect(), ..Sampling::default() };
        let constraint = constraint(grammar, size);
        let options = GenerationOptions {
            sampling,
            max_new_tokens: 6,
            stop_ids,
            constraint,
            ..GenerationOptions::default()
        };
        let found = Generator::new(&model, 32).generate(&[1, 2, 3], &options, |_| ControlFlow::Continue(()));
        found.map(|found| (found.ids, found.finish_reason))
    };
    // It ends by itself, with a token's worth of text or two.
    for _ in 0..5 {
        let (ids, reason) = generate("root ::= \"ab\"", vec![2], &[]).unwrap();
        assert!(ids == [10, 11] || ids == [20], "{ids:?}");
        assert_eq!(reason, FinishReason::Stop);
    }
    // A stop token comes only where the text may end, however probable it is.
    let (ids, reason) = generate("root ::= \"a\" \"b\"+", vec![2], &[(2, 100.0)]).unwrap();
    assert!(ids == [10, 11, 2] || ids == [20, 2], "{ids:?}");
    assert_eq!(reason, FinishReason::Stop);
    // A ban does not make the output wrong.
    let (ids, _) = generate("root ::= \"c\" \"d\"", vec![2], &[(12, -100.0)]).unwrap();
    assert_eq!(ids, [12, 13]);
    let (ids, reason) = generate("root ::= \"a\"*", vec![], &[]).unwrap();
    assert_eq!((ids, reason), (vec![10; 6], FinishReason::Length));
    // The vocabulary cannot spell what must follow.
    assert_eq!(generate("root ::= \"a\" \"z\"", vec![2], &[]).unwrap(), (vec![10], FinishReason::Stuck));
    let error = generate("root ::= \"z\"", vec![2], &[]).unwrap_err().to_string();
    assert_eq!(error, "no token of the vocabulary begins what the grammar or JSON schema allows");
}

#[test]
fn sequences_under_different_constraints_grow_side_by_side() {
    let model = load("gqa-untied", Rest::Trained);
    let size = model.config().vocab_size;
    let mut generator = BatchGenerator::new(&model, 3, 32);
    let grammars = [Some("root ::= \"abc\""), None, Some("root ::= \"j\" \"i\"")];
    for grammar in grammars {
        let constraint = grammar.and_then(|grammar| constraint(grammar, size));
        let options = GenerationOptions { constraint, ..greedy(3, Vec::new()) };
        generator.add(&[1, 2, 3], &options).unwrap();
    }
    let mut ended = vec![Vec::new(); 3];
    while !generator.is_idle() {
        for new in generator.step().unwrap() {
            if let Some(generated) = new.finished {
                ended[new.slot] = generated.ids;
            }
        }
    }
    assert!(ended[0] == [10, 11, 12] || ended[0] == [20, 12]);
    let alone = Generator::new(&model, 32)
        .generate(&[1, 2, 3], &greedy(3, Vec::new()), |_| ControlFlow::Continue(()));
    assert_eq!(ended[1], alone.unwrap().ids);
    assert_eq!(ended[2], [19, 18]);
}

#[test]
fn log_probabilities_are_those_before_sampling() {
    let model = load("gqa-untied", Rest::Trained);
    let sampling =
        Sampling { temperature: 2.0, top_k: 3, logit_bias: [(7, 5.0)].into(), ..Sampling::default() };
    let options = GenerationOptions {
        sampling,
        max_new_tokens: 4,
        log_probabilities: true,
        ..GenerationOptions::default()
    };
    let mut generator = BatchGenerator::new(&model, 1, 32);
    generator.add(&[1, 2, 3], &options).unwrap();
    let (mut told, mut whole) = (Vec::new(), None);
    while !generator.is_idle() {
        for new in generator.step().unwrap() {
            assert!(new.top_log_probabilities.is_empty());
            told.push(new.log_probability.unwrap());
            whole = new.finished;
        }
    }
    let whole = whole.unwrap();
    assert_eq!(whole.log_probabilities, told);
    let ids = [&[1, 2, 3], &whole.ids[..]].concat();
    let expected = log_probabilities(&model, &ids);
    for (place, &id) in whole.ids.iter().enumerate() {
        let expected = expected[2 + place][id as usize];
        assert!((told[place] - expected).abs() < 1e-4, "{} against {expected}", told[place]);
    }
    let silent =
        Generator::new(&model, 32).generate(&[1, 2], &greedy(2, Vec::new()), |_| ControlFlow::Continue(()));
    assert!(silent.unwrap().log_probabilities.is_empty());
}

#[test]
fn sequence_breakers_need_a_vocabulary() {
    let model = load("gqa-untied", Rest::Trained);
    let sampling = Sampling { temperature: 0.0, dry_multiplier: 50.0, ..Sampling::default() };
    let generate = |sampling: &Sampling, vocabulary| {
        let options = GenerationOptions {
            sampling: sampling.clone(),
            max_new_tokens: 20,
            vocabulary,
            ..GenerationOptions::default()
        };
        Generator::new(&model, 64).generate(&[1, 2, 3], &options, |_| ControlFlow::Continue(()))
    };
    let error = generate(&sampling, None).unwrap_err().to_string();
    assert!(error.starts_with("`dry_sequence_breakers` are texts"), "{error}");
    let with = generate(&sampling, Some(vocabulary(model.config().vocab_size))).unwrap().ids;
    let without = generate(&Sampling { dry_sequence_breakers: Vec::new(), ..sampling }, None).unwrap().ids;
    assert_eq!(with, without);
    // No three tokens come twice.
    let text = [&[1, 2, 3], &with[..]].concat();
    let triples: Vec<&[u32]> = text.windows(3).collect();
    assert!((1..triples.len()).all(|place| !triples[..place].contains(&triples[place])), "{text:?}");
}

#[test]
fn chinese_json_is_spelled_by_real_vocabularies() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers");
    if !folder.is_dir() {
        println!("skipped: ../shared/data is not there");
        return;
    }
    let schema = serde_json::json!({
        "type": "object",
        "properties": { "名称": { "type": "string", "maxLength": 60 }, "尺寸": { "type": "array", "items": { "type": "number" } } },
        "required": ["名称", "尺寸"],
    });
    let text = r#"{"名称": "硬质合金立铣刀，四刃，涂层 TiAlN，用于淬火钢 😀", "尺寸": [12, 75.5, -3e2]}"#;
    for name in ["smollm", "llama3", "llama2", "baichuan-7b"] {
        let tokenizer = Tokenizer::open(&folder.join(name)).unwrap();
        let size = tokenizer.vocabulary_size() as u32;
        let bytes = |id| {
            if tokenizer.is_special(id) { Vec::new() } else { tokenizer.token_bytes(id).unwrap_or_default() }
        };
        let vocabulary = Arc::new(Vocabulary::new((0..size).map(bytes)));
        let mut state =
            Constraint::new(&Grammar::from_json_schema(&schema).unwrap(), Arc::clone(&vocabulary)).begin();
        let mut masks = 0;
        for id in tokenizer.encode_within(text, SpecialTokens::AsText).unwrap() {
            // A dialect that puts a blank before a text has one that the schema does not.
            if masks == 0 && vocabulary.bytes(id).iter().all(|byte| *byte == b' ') {
                continue;
            }
            assert!(
                state.allowed().contains(id),
                "{name}: {:?}",
                String::from_utf8_lossy(vocabulary.bytes(id))
            );
            assert!(state.accept(id));
            masks += 1;
        }
        assert!(state.may_end());
    }
}
