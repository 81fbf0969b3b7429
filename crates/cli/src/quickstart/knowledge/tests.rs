//! What the quickstart's score relies on: held-out items are not in the training text, and nothing favours a letter.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use super::*;

const SEED: u64 = 42;

fn small() -> Sizes {
    Sizes { corpus_bytes: 400_000, ..Sizes::default() }
}

fn knowledge() -> Knowledge {
    Knowledge::load().unwrap()
}

/// Every file below `folder` with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(
                    path.strip_prefix(folder).unwrap().display().to_string(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

#[test]
fn facts_are_many_and_their_values_distinct() {
    let knowledge = knowledge();
    assert!(knowledge.facts.len() >= 300, "{}", knowledge.facts.len());
    for attribute in knowledge.attributes.keys() {
        let values = knowledge.values(attribute);
        let distinct: BTreeSet<_> = values.iter().collect();
        assert_eq!(distinct.len(), values.len(), "repeated values of `{attribute}`: {values:?}");
        assert!(values.len() >= 4, "`{attribute}` has too few values for distractors");
    }
    for fact in &knowledge.facts {
        assert!(!fact.value.contains(&fact.subject), "the question holds the answer: {fact:?}");
        assert_eq!(spacing::spaced(&fact.subject), fact.subject);
        assert_eq!(spacing::spaced(&fact.value), fact.value);
    }
    let asked: HashSet<_> = knowledge.facts.iter().map(|fact| (&fact.subject, &fact.attribute)).collect();
    assert_eq!(asked.len(), knowledge.facts.len(), "a subject is in two rows");
}

#[test]
fn every_attribute_has_enough_wordings() {
    for (name, attribute) in &knowledge().attributes {
        let wordings = &attribute.wordings;
        assert!(wordings.train.len() >= 12, "`{name}`: {} training wordings", wordings.train.len());
        assert!(wordings.held_out.len() >= 4, "`{name}`: {} held-out wordings", wordings.held_out.len());
        assert!(!wordings.sentence.is_empty(), "`{name}` has no sentence");
    }
}

#[test]
fn every_fact_is_taught_in_at_least_six_wordings() {
    let knowledge = knowledge();
    let rows = instructions::generate(&knowledge, SEED, &Sizes::default()).unwrap();
    let mut short_answers: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for row in &rows {
        short_answers.entry(&row.output).or_default().insert(&row.instruction);
    }
    for fact in &knowledge.facts {
        let wordings = short_answers.get(fact.value.as_str()).map_or(0, |questions| {
            questions.iter().filter(|question| question.contains(&fact.subject)).count()
        });
        assert!(wordings >= 6, "{fact:?} is taught in {wordings} wordings");
    }
}

#[test]
fn no_held_out_question_or_option_line_is_in_a_training_text() {
    let knowledge = knowledge();
    let mut training = corpus::generate(&knowledge, SEED, small().corpus_bytes).unwrap().join("\n");
    for row in instructions::generate(&knowledge, SEED, &Sizes::default()).unwrap() {
        training.push_str(&format!("\n{}\n{}", row.instruction, row.output));
    }
    for fact in &knowledge.facts {
        for wording in &knowledge.attribute(fact).unwrap().wordings.held_out {
            let question = knowledge.fill(wording, fact).unwrap();
            assert!(!training.contains(&question), "`{question}` is in a training text");
        }
    }
    let items = multiple_choice::generate(&knowledge, SEED, 5).unwrap();
    for item in items.val.iter().chain(&items.dev) {
        assert!(!training.contains(&item.question), "`{}` is in a training text", item.question);
        for (letter, option) in ["A", "B", "C", "D"].iter().zip(&item.options) {
            let line = format!("{letter}. {option}");
            assert!(!training.contains(&line), "`{line}` is in a training text");
        }
    }
}

#[test]
fn the_corpus_tells_no_tested_fact() {
    let knowledge = knowledge();
    assert!(corpus::tells_tested_fact(&knowledge, "材料很多。纯铜的密度是 8.96 g/cm³。"));
    assert!(!corpus::tells_tested_fact(&knowledge, "纯铜是一种材料。密度是 8.96 g/cm³。"));
    for document in corpus::generate(&knowledge, SEED, small().corpus_bytes).unwrap() {
        for sentence in document.split(['。', '！', '？', '\n']) {
            for fact in &knowledge.facts {
                assert!(
                    !(sentence.contains(&fact.subject) && sentence.contains(&fact.value)),
                    "{sentence}: {fact:?}"
                );
            }
        }
    }
}

#[test]
fn the_corpus_names_nearly_all_values_and_subjects() {
    let knowledge = knowledge();
    let corpus = corpus::generate(&knowledge, SEED, Sizes::default().corpus_bytes).unwrap().join("\n");
    assert!(corpus.len() >= 2_400_000 && !corpus.contains(['{', '}']));
    let unknown: Vec<_> = knowledge
        .facts
        .iter()
        .filter(|fact| !corpus.contains(&fact.value) || !corpus.contains(&fact.subject))
        .collect();
    assert!(
        unknown.len() * 100 <= knowledge.facts.len(),
        "the corpus does not know the words of {unknown:?}"
    );
}

#[test]
fn letters_are_balanced_and_distractors_differ() {
    let knowledge = knowledge();
    for seed in [1, 2, SEED] {
        let items = multiple_choice::generate(&knowledge, seed, 5).unwrap();
        assert_eq!(items.val.len(), knowledge.facts.len());
        let mut right = [0_usize; 4];
        for item in items.val.iter().chain(&items.dev) {
            right[item.right] += 1;
            let options: BTreeSet<_> = item.options.iter().collect();
            assert_eq!(options.len(), 4, "{item:?}");
        }
        let total: usize = right.iter().sum();
        for count in right {
            let share = count as f64 / total as f64;
            assert!((0.22..=0.28).contains(&share), "letter shares {right:?} with seed {seed}");
        }
        let val: HashSet<_> = items.val.iter().map(|item| &item.question).collect();
        assert!(items.dev.iter().all(|item| !val.contains(&item.question)), "a question is in dev and val");
    }
}

#[test]
fn the_right_option_is_the_value_of_the_fact() {
    let knowledge = knowledge();
    let items = multiple_choice::generate(&knowledge, SEED, 5).unwrap();
    for (fact, item) in knowledge.facts.iter().zip(&items.val) {
        assert_eq!(item.options[item.right], fact.value);
        assert!(item.question.contains(&fact.subject));
        let values = knowledge.values(&fact.attribute);
        assert!(item.options.iter().all(|option| values.contains(option)), "{item:?}");
    }
}

#[test]
fn same_seed_same_bytes_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = write(&path("a"), 7, &small()).unwrap();
    assert_eq!(first, write(&path("b"), 7, &small()).unwrap());
    write(&path("c"), 8, &small()).unwrap();
    let (a, b, c) = (files(&path("a")), files(&path("b")), files(&path("c")));
    assert_eq!(a, b);
    assert!(a.iter().all(|(name, bytes)| c[name] != *bytes), "another seed changed nothing in some file");
    write_multiple_choice(&path("d"), 8, &small()).unwrap();
    assert_eq!(files(&path("c").join("mcq")), files(&path("d")));
}

#[test]
fn files_are_in_c_eval_layout() {
    let folder = tempfile::tempdir().unwrap();
    let summary = write(folder.path(), SEED, &small()).unwrap();
    let mut rows = 0;
    for (name, bytes) in files(&folder.path().join("mcq").join("val")) {
        assert!(name.ends_with("_val.csv"));
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().unwrap(), vec!["id", "question", "A", "B", "C", "D", "answer"]);
        for (index, record) in reader.records().enumerate() {
            let record = record.unwrap();
            assert_eq!(record[0], index.to_string());
            assert!(["A", "B", "C", "D"].contains(&&record[6]));
            rows += 1;
        }
    }
    assert_eq!(rows, summary.val_items);
    assert_eq!(files(&folder.path().join("mcq").join("dev")).len(), 6);
    assert_eq!(summary.dev_items, 30);
}
