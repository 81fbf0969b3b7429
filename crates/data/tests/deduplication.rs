//! Deduplication: which rows stay, whatever the threads, the memory and the number of machines.

use crate::common::Folder;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use danlu_data::contamination::{NGRAM, Questions, SHARE};
use danlu_data::deduplication::{Keep, Method, Outcome, Output, Part, Permutations};
use danlu_data::{DataError, Deduplication, OnBadRow, ReadOptions, Result};
use fs_err as fs;
use proptest::prelude::*;
use serde_json::{Value, json};

const MIN_HASH: Method = Method::MinHash { ngram: 5, threshold: 0.8, num_perm: 128, verify: true };

fn deduplication(inputs: &[PathBuf], method: Method) -> Deduplication {
    Deduplication {
        files: Deduplication::list(inputs).unwrap().0,
        columns: Vec::new(),
        reading: ReadOptions::default(),
        method,
        keep: Keep::First,
        on_bad_row: OnBadRow::Error,
        max_memory: 1 << 20,
        threads: 2,
        questions: None,
    }
}

fn run(work: &Deduplication, out: &Path) -> Result<Outcome> {
    work.run(Output::File(out), None, &[], &mut |_, _, _| ControlFlow::Continue(()))
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A file of these texts, each with its number.
fn corpus(folder: &Folder, name: &str, texts: &[String]) -> PathBuf {
    let lines =
        texts.iter().enumerate().map(|(number, text)| format!("{}\n", json!({"text": text, "n": number})));
    folder.write(name, lines.collect::<String>()).into()
}

/// The numbers of the rows that stay.
fn kept(folder: &Folder, work: &Deduplication) -> Vec<usize> {
    let out = folder.path("kept.jsonl");
    let outcome = run(work, &out).unwrap();
    let kept: Vec<usize> = rows(&out).iter().map(|row| row["n"].as_u64().unwrap() as usize).collect();
    assert_eq!(outcome.kept as usize, kept.len());
    assert_eq!(outcome.rows - outcome.duplicates - outcome.contaminated, outcome.kept);
    kept
}

/// Random numbers that need no library (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    }

    fn character(&mut self) -> char {
        char::from_u32(0x4e00 + self.below(3000) as u32).unwrap()
    }

    fn text(&mut self, length: usize) -> String {
        (0..length).map(|_| self.character()).collect()
    }

    /// A text with some characters replaced.
    fn changed(&mut self, text: &str, changes: usize) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..changes {
            let place = self.below(characters.len());
            characters[place] = self.character();
        }
        characters.into_iter().collect()
    }
}

/// The similarity by its definition, over the characters themselves.
fn jaccard(a: &str, b: &str, ngram: usize) -> f64 {
    let shingles = |text: &str| {
        let characters: Vec<char> = text.chars().collect();
        characters.windows(ngram.min(characters.len())).map(<[char]>::to_vec).collect::<HashSet<_>>()
    };
    let (a, b) = (shingles(a), shingles(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

/// Plants pairs around the threshold; gives the share found of those from 0.05 above it, the share left out of those
/// from 0.05 below it, and how many pairs of each kind there were.
fn planted(pairs: usize, lengths: std::ops::Range<usize>, threshold: f64, seed: u64) -> [(f64, usize); 2] {
    let folder = Folder::new();
    let mut random = Random(seed);
    let (mut texts, mut similarities) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let length = lengths.start + random.below(lengths.len());
        let text = random.text(length);
        // A change touches five runs, so that the similarities lie on both sides of the threshold.
        let most = (length as f64 * (1.0 - threshold) / 5.0) as usize + 1;
        let changes = 1 + random.below(most);
        let other = random.changed(&text, changes);
        similarities.push(jaccard(&text, &other, 5));
        texts.extend([text, other]);
    }
    let input = corpus(&folder, "pairs.jsonl", &texts);
    let method = Method::MinHash { ngram: 5, threshold, num_perm: 128, verify: true };
    let kept: HashSet<usize> = kept(&folder, &deduplication(&[input], method)).into_iter().collect();
    let share_left_out = |wanted: &dyn Fn(f64) -> bool| {
        let wanted = similarities.iter().enumerate().filter(|(_, similarity)| wanted(**similarity));
        let left_out: Vec<bool> = wanted.map(|(pair, _)| !kept.contains(&(2 * pair + 1))).collect();
        let count = left_out.iter().filter(|left_out| **left_out).count();
        (count as f64 / left_out.len().max(1) as f64, left_out.len())
    };
    [
        share_left_out(&|similarity| similarity >= threshold + 0.05),
        share_left_out(&|similarity| similarity < threshold - 0.05),
    ]
}

#[test]
fn planted_near_duplicates_are_found_and_others_stay() {
    let [(found, near), (wrong, far)] = planted(400, 60..200, 0.8, 1);
    assert!(near > 80 && far > 80, "{near} {far}");
    assert!(found >= 0.99, "{found} of {near}");
    assert_eq!(wrong, 0.0, "of {far}");
}

/// The same at scale: `cargo test --release -p danlu-data --test all -- --ignored planted_at_scale --nocapture`.
#[test]
#[ignore = "takes half a minute; run with `cargo test --release -p danlu-data --test all -- --ignored planted_at_scale`"]
fn planted_at_scale() {
    for threshold in [0.5, 0.7, 0.8, 0.9] {
        for lengths in [15..40, 60..200, 400..1500] {
            let [(found, near), (wrong, far)] = planted(20_000, lengths.clone(), threshold, 7);
            println!("{threshold} {lengths:?}: {found:.4} of {near} near, {wrong:.4} of {far} far");
            assert!(found >= 0.99 && wrong <= 0.01, "{threshold} {lengths:?}: {found} {wrong}");
        }
    }
}

#[test]
fn each_method_keeps_its_rows() {
    let folder = Folder::new();
    let mut random = Random(3);
    let text = random.text(200);
    let spaced: String = text.chars().flat_map(|character| [character, '，']).collect();
    let other = random.text(200);
    let near = random.changed(&text, 2);
    let backwards: String = text.chars().rev().collect();
    let texts =
        [text.clone(), text, spaced, near, other, backwards, String::new(), "。".into(), String::new()];
    let input = [corpus(&folder, "rows.jsonl", &texts)];
    let kept = |method| kept(&folder, &deduplication(&input, method));
    assert_eq!(kept(Method::Nothing), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(kept(Method::Exact), [0, 2, 3, 4, 5, 6, 7]);
    assert_eq!(kept(MIN_HASH), [0, 4, 5, 6, 7]);
    let unverified = Method::MinHash { ngram: 5, threshold: 0.8, num_perm: 128, verify: false };
    assert_eq!(kept(unverified), [0, 4, 5, 6, 7]);
    // Sets of characters do not know their order, and every text without characters is the empty set.
    assert_eq!(kept(Method::BabyLlama2(Permutations::Legacy)), [0, 4, 6]);
    assert_eq!(kept(Method::SimHash), [0, 3, 4, 5, 6]);
}

/// Rows of one template, each with `length` characters of its own.
fn templated(random: &mut Random, count: usize, length: usize) -> Vec<String> {
    let (head, tail) = (random.text(45), random.text(46));
    (0..count).map(|_| format!("{head}{}{tail}", random.text(length))).collect()
}

#[test]
fn among_rows_of_a_template_below_the_threshold_true_copies_are_found() {
    let folder = Folder::new();
    let mut random = Random(11);
    let mut texts = templated(&mut random, 3000, 9);
    assert!(jaccard(&texts[0], &texts[1], 5) > 0.75 && jaccard(&texts[0], &texts[1], 5) < 0.8);
    let mut copies = Vec::new();
    for origin in (0..3000).step_by(30) {
        // The last of the nine characters is another one.
        let place = texts[origin].char_indices().nth(53).unwrap().0;
        let copy =
            format!("{}{}{}", &texts[origin][..place], random.character(), &texts[origin][place + 3..]);
        assert!(jaccard(&texts[origin], &copy, 5) > 0.85);
        copies.push(copy);
    }
    texts.extend(copies);
    let input = [corpus(&folder, "rows.jsonl", &texts)];
    let mut work = deduplication(&input, MIN_HASH);
    work.max_memory = 0;
    assert_eq!(kept(&folder, &work), (0..3000).collect::<Vec<_>>());
}

/// Where the rows of a template resemble each other enough, one stays, however many there are.
#[test]
fn of_the_rows_of_a_template_above_the_threshold_one_stays() {
    let folder = Folder::new();
    let texts = templated(&mut Random(12), 500, 3);
    let input = [corpus(&folder, "rows.jsonl", &texts)];
    assert_eq!(kept(&folder, &deduplication(&input, MIN_HASH)), [0]);
}

/// What resembles only a row that is left out stays: a chain of small changes does not carry a text away.
#[test]
fn similarity_is_to_rows_that_are_kept() {
    let folder = Folder::new();
    let mut random = Random(5);
    let whole = random.text(140);
    let window = |from: usize| whole.chars().skip(from).take(100).collect::<String>();
    let texts: Vec<String> = (0..5).map(|step| window(step * 8)).collect();
    assert!(jaccard(&texts[0], &texts[1], 5) > 0.8 && jaccard(&texts[0], &texts[2], 5) < 0.75);
    let input = [corpus(&folder, "chain.jsonl", &texts)];
    assert_eq!(kept(&folder, &deduplication(&input, MIN_HASH)), [0, 2, 4]);
}

#[test]
fn the_longest_of_the_duplicates_stays_if_asked() {
    let folder = Folder::new();
    let mut random = Random(6);
    let text = random.text(100);
    let short: String = text.chars().take(95).collect();
    let texts = [short, random.text(50), text.clone(), text];
    let input = [corpus(&folder, "rows.jsonl", &texts)];
    let mut work = deduplication(&input, MIN_HASH);
    assert_eq!(kept(&folder, &work), [0, 1]);
    work.keep = Keep::Longest;
    assert_eq!(kept(&folder, &work), [1, 2]);
    work.method = Method::BabyLlama2(Permutations::Affine32);
    assert_eq!(kept(&folder, &work), [1, 2]);
}

#[test]
fn seed_000_min_hash_and_sim_hash_leave_out_later_copies() {
    let folder = Folder::new();
    let texts = ["车削是加工回转表面的方法。", "铣刀是多刃刀具", "车削是加工，回转表面的方法！"];
    let input = [corpus(&folder, "rows.jsonl", &texts.map(str::to_owned))];
    for method in [Method::BabyLlama2(Permutations::Legacy), Method::SimHash] {
        assert_eq!(kept(&folder, &deduplication(&input, method)), [0, 1]);
    }
}

/// Texts of which many resemble each other, in clusters.
fn clusters(seed: u64, count: usize) -> Vec<String> {
    let mut random = Random(seed);
    let mut texts: Vec<String> = Vec::new();
    for _ in 0..count {
        let text = match texts.len() {
            0 => random.text(60),
            length if random.below(3) > 0 => {
                let origin = texts[random.below(length)].clone();
                let changes = random.below(4);
                random.changed(&origin, changes)
            }
            _ => {
                let length = 4 + random.below(120);
                random.text(length)
            }
        };
        texts.push(text);
    }
    texts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1))]

    /// The rows that stay are those of the definition, for any threads, memory, files and machines.
    #[test]
    fn the_rows_that_stay_do_not_depend_on_how_it_is_done(seed in any::<u64>(), files in 2usize..5) {
        let folder = Folder::new();
        let texts = clusters(seed, 150);
        let input = [corpus(&folder, "rows.jsonl", &texts)];
        let pieces: Vec<PathBuf> = texts.chunks(150usize.div_ceil(files)).enumerate().map(|(piece, texts)| {
            let lines = texts.iter().enumerate().map(|(n, text)| format!("{}\n", json!({"text": text, "n": piece * 150usize.div_ceil(files) + n})));
            folder.write(&format!("piece-{piece}.jsonl"), lines.collect::<String>()).into()
        }).collect();
        let methods = [
            (MIN_HASH, Keep::First),
            (MIN_HASH, Keep::Longest),
            (Method::SimHash, Keep::First),
            (Method::BabyLlama2(Permutations::Legacy), Keep::First),
        ];
        for (method, keep) in methods {
            let mut work = deduplication(&input, method.clone());
            work.keep = keep;
            let expected = kept(&folder, &work);
            (work.threads, work.max_memory) = (3, 0);
            prop_assert_eq!(&kept(&folder, &work), &expected, "without memory");
            let mut work = deduplication(&pieces, method);
            work.keep = keep;
            prop_assert_eq!(&kept(&folder, &work), &expected, "from several files");
            let parts: Vec<PathBuf> = (1..=2).map(|number| {
                let path = folder.path(&format!("part-{number}"));
                work.sign(Part { number, of: 2 }, &path, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
                path
            }).collect();
            let out = folder.path("joined.jsonl");
            let joined = [parts[1].clone(), parts[0].clone()];
            work.run(Output::File(&out), None, &joined, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
            let joined: Vec<usize> = rows(&out).iter().map(|row| row["n"].as_u64().unwrap() as usize).collect();
            prop_assert_eq!(&joined, &expected, "by parts");
        }
    }

    /// Every row that is left out resembles one that stays, and no two that stay are equal.
    #[test]
    fn every_row_left_out_resembles_one_that_stays(seed in any::<u64>()) {
        let folder = Folder::new();
        let texts = clusters(seed, 120);
        let input = [corpus(&folder, "rows.jsonl", &texts)];
        let kept = kept(&folder, &deduplication(&input, MIN_HASH));
        for (row, text) in texts.iter().enumerate().filter(|(row, _)| !kept.contains(row)) {
            let earlier = kept.iter().take_while(|other| **other < row);
            prop_assert!(earlier.into_iter().any(|other| jaccard(text, &texts[*other], 5) >= 0.8), "{row}");
        }
        let distinct: HashSet<&String> = kept.iter().map(|row| &texts[*row]).collect();
        prop_assert_eq!(distinct.len(), kept.len());
    }
}

#[test]
fn the_report_names_both_rows_and_questions() {
    let folder = Folder::new();
    let question = "下列关于税法基本原则的表述中，不正确的是____。";
    let benchmark =
        folder.write("val.csv", format!("id,question,A,B,C,D,answer\n0,{question},甲,乙,丙,丁,D\n"));
    let mut random = Random(9);
    let text = random.text(100);
    let near = random.changed(&text, 1);
    let similarity = jaccard(&text, &near, 5);
    let messages = |ask: &str, answer: &str| json!({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]});
    let asked = messages(&format!("请回答：{question}"), "丁");
    let lines = [messages(&text, "好"), asked.clone(), messages(&near, "好"), asked];
    let input: PathBuf = folder.write("chat.jsonl", lines.map(|line| format!("{line}\n")).concat()).into();
    let mut work = deduplication(std::slice::from_ref(&input), MIN_HASH);
    work.questions = Some(Questions::open(&[benchmark.clone().into()], NGRAM, SHARE).unwrap());
    let (out, report) = (folder.path("out.jsonl"), folder.path("report.jsonl"));
    let outcome =
        work.run(Output::File(&out), Some(&report), &[], &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((outcome.rows, outcome.kept, outcome.duplicates, outcome.contaminated), (4, 1, 1, 2));
    let place = |line: u32| format!("{}:{line}", input.display());
    let found = rows(&report);
    assert_eq!(found.len(), 3);
    let contamination = json!({"row": place(2), "reason": "contamination", "of": format!("{benchmark}:2"), "similarity": 1.0});
    assert_eq!(found[0], contamination);
    assert_eq!((&found[1]["row"], &found[1]["of"]), (&place(3).into(), &place(1).into()));
    // With the answer of one character, a little less than of the questions alone.
    assert!((found[1]["similarity"].as_f64().unwrap() - similarity).abs() < 0.01);
    assert_eq!(found[2]["row"], place(4));

    // Nothing is written but the report.
    fs::remove_file(&out).unwrap();
    let nowhere = Output::Nowhere(out.parent().unwrap());
    let again = work.run(nowhere, Some(&report), &[], &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(again, outcome);
    assert_eq!(rows(&report), found);
    let left: Vec<_> =
        fs::read_dir(out.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn data_sets_stay_apart_in_a_folder() {
    let folder = Folder::new();
    let mut random = Random(2);
    let text = random.text(80);
    fs::create_dir_all(folder.path("sets/sub")).unwrap();
    folder.write("sets/a.csv", format!("prompt,answer\n问,{text}\n"));
    folder.write(
        "sets/sub/b.jsonl",
        format!("{}\n{}\n", json!({"text": format!("问{text}")}), json!({"text": "乙"})),
    );
    folder.write("sets/c.txt", "一篇文章");
    let work = deduplication(&[folder.path("sets")], MIN_HASH);
    let out = folder.path("clean");
    let outcome =
        work.run(Output::Folder(&out), None, &[], &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((outcome.rows, outcome.kept), (4, 3));
    assert_eq!(rows(&out.join("sub/b.jsonl")), [json!({"text": "乙"})]);
    assert_eq!(rows(&out.join("c.jsonl")), [json!({"text": "一篇文章"})]);
    assert_eq!(fs::read_to_string(out.join("a.csv")).unwrap(), format!("prompt,answer\n问,{text}\n"));
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 2, "the folder of the work is gone");

    let twice = deduplication(&[folder.path("sets/c.txt"), folder.path("sets/c.txt")], MIN_HASH);
    let error =
        twice.run(Output::Folder(&out), None, &[], &mut |_, _, _| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("two files of the inputs are to be written to `c.jsonl`"), "{error}");
    assert!(out.join("a.csv").exists(), "what was there stays");
}

#[test]
fn wrong_inputs_are_said_with_their_place() {
    let folder = Folder::new();
    let out = folder.path("out.jsonl");
    let message = |work: &Deduplication| {
        let error = run(work, &out).unwrap_err().to_string();
        assert!(!out.exists());
        error.replace(&format!("{}/", out.parent().unwrap().display()), "")
    };
    let rows =
        folder.write("rows.jsonl", "{\"text\": \"一\"}\n{\"text\"\n{\"wrong\": 3}\n{\"text\": \"二\"}\n");
    let mut work = deduplication(&[rows.into()], MIN_HASH);
    assert!(message(&work).starts_with("rows.jsonl:2: invalid JSON at column"));
    work.columns = vec!["text".into()];
    work.on_bad_row = OnBadRow::Skip;
    let outcome = run(&work, &out).unwrap();
    assert_eq!((outcome.rows, outcome.kept), (2, 2));
    assert_eq!(outcome.skipped.values().sum::<u64>(), 2, "{:?}", outcome.skipped);
    fs::remove_file(&out).unwrap();
    work.on_bad_row = OnBadRow::Error;
    let other = folder.write("other.jsonl", "{\"txt\": \"一\"}\n");
    work.files = Deduplication::list(&[other.into()]).unwrap().0;
    assert!(message(&work).starts_with("other.jsonl:1: missing column `text`: the row has `txt`"));

    let empty = folder.write("empty.jsonl", "");
    assert_eq!(
        message(&deduplication(&[empty.into()], MIN_HASH)),
        "`empty.jsonl` is empty: expected at least one row"
    );
    let input = [corpus(&folder, "rows.jsonl", &["甲".into(), "乙".into()])];
    let with = |ngram, threshold, num_perm| Method::MinHash { ngram, threshold, num_perm, verify: true };
    for (method, part) in [
        (with(0, 0.8, 128), "`ngram`: found 0: expected 1 to 64 characters"),
        (with(5, f64::NAN, 128), "`threshold`: found NaN"),
        (with(5, 1.5, 128), "`threshold`: found 1.5"),
        (with(5, 0.8, 7), "`num-perm`: found 7: expected 8 to 4096"),
    ] {
        assert!(message(&deduplication(&input, method)).starts_with(part));
    }
    let missing = Deduplication::list(&[folder.path("absent.jsonl")]).unwrap_err().to_string();
    assert!(missing.contains("absent.jsonl"), "{missing}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told() {
    let folder = Folder::new();
    let input = corpus(&folder, "rows.jsonl", &["甲".into(), "乙".into()]);
    let work = deduplication(std::slice::from_ref(&input), MIN_HASH);
    fs::write(&input, "{\"text\": \"甲\"}\n{\"text\": \"乙\"}\n{\"text\": \"丙\"}\n").unwrap();
    let error = run(&work, &folder.path("out.jsonl")).unwrap_err();
    assert!(matches!(&error, DataError::Changed { path } if *path == input), "{error}");
}

#[test]
fn work_that_is_stopped_leaves_nothing() {
    let folder = Folder::new();
    let input = corpus(&folder, "rows.jsonl", &clusters(1, 100));
    let work = deduplication(&[input], MIN_HASH);
    for stop in 0..3 {
        let mut calls = 0;
        let result = work.run(Output::File(&folder.path("out.jsonl")), None, &[], &mut |_, _, _| {
            calls += 1;
            if calls > stop * 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(DataError::Cancelled)), "{stop}");
        assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 1, "{stop}");
    }
}

#[test]
fn parts_of_other_work_are_refused() {
    let folder = Folder::new();
    let files =
        ["a.jsonl", "b.jsonl", "c.jsonl"].map(|name| corpus(&folder, name, &["甲".into(), "乙".into()]));
    let work = deduplication(&files, MIN_HASH);
    let go = |_, _, _| ControlFlow::Continue(());
    let sign = |number, of| {
        let path = folder.path(&format!("{number}-of-{of}"));
        work.sign(Part { number, of }, &path, &mut { go }).map(|_| path)
    };
    assert!(sign(1, 4).unwrap_err().to_string().starts_with("`part`: found 1/4: expected I/N"));
    assert!(sign(3, 2).is_err() && sign(0, 2).is_err());
    let (one, two) = (sign(1, 2).unwrap(), sign(2, 2).unwrap());
    let out = folder.path("out.jsonl");
    let refused = |work: &Deduplication, parts: &[&PathBuf], part: &str| {
        let parts: Vec<PathBuf> = parts.iter().map(|path| (*path).clone()).collect();
        let error = work.run(Output::File(&out), None, &parts, &mut { go }).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&work, &[&one], "is one of 2 parts, but 1 are given");
    refused(&work, &[&one, &one], "is part 1, which is given twice");
    refused(&deduplication(&files, Method::SimHash), &[&one, &two], "was made with other settings");
    refused(&deduplication(&files[..2], MIN_HASH), &[&one, &two], "is part 1 of 2 of other inputs");
    corpus(&folder, "c.jsonl", &["甲".into(), "乙".into(), "丙".into()]);
    refused(&deduplication(&files, MIN_HASH), &[&one, &two], "was made of another file than");
    let bytes = fs::read(&one).unwrap();
    for length in [0, 7, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&one, &bytes[..length]).unwrap();
        refused(&work, &[&one, &two], "is no whole signature file");
    }
    refused(&work, &[&files[0], &two], "is no whole signature file");
}
