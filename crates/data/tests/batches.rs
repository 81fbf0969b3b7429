//! Between rows and steps: limits, splits, mixtures, blocks, and samples that are kept between runs.

use crate::common;

use std::collections::HashSet;
use std::ops::ControlFlow;

use common::{Folder, shared, tokenizer};
use danlu_data::{
    DataError, DataOptions, Dataset, MixStrategy, OnBadRow, Packing, Sample, SampleSet, Task, ValSplit,
    Watch, step_slices,
};
use danlu_tokenizer::{ChatTemplate, TemplateTokens, Tokenizer};
use fs_err as fs;

struct Model {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    tokens: TemplateTokens,
}

impl Model {
    fn new() -> Self {
        let tokenizer = tokenizer();
        let tokens = tokenizer.template_tokens();
        Self { tokenizer, template: ChatTemplate::builtin("chatml").unwrap(), tokens }
    }

    fn chat(&self) -> Task<'_> {
        Task::Conversation { template: &self.template, tokens: &self.tokens }
    }

    fn load(&self, options: &DataOptions) -> Dataset {
        Dataset::load(options, &self.tokenizer, self.chat()).unwrap()
    }

    fn documents(&self, options: &DataOptions) -> Dataset {
        Dataset::load(options, &self.tokenizer, Task::Pretraining).unwrap()
    }
}

fn options(dataset: &[&str]) -> DataOptions {
    let dataset = dataset.iter().map(|name| (*name).to_owned()).collect();
    DataOptions { dataset, dataset_dir: "/nowhere".into(), ..DataOptions::default() }
}

fn rows(count: usize, name: &str) -> String {
    let row = |index| {
        let answer = "挤塑加工。".repeat(1 + index * 7 % 13);
        format!("{{\"prompt\": \"{name}{index}\", \"answer\": \"{answer}\"}}\n")
    };
    (0..count).map(row).collect()
}

fn all(samples: &SampleSet) -> Vec<Sample> {
    samples.iter().collect()
}

/// Seed 000: 10 to 256 characters of prompt, 5 to 256 of answer.
#[test]
fn limits_on_characters_count_each_drop() {
    let model = Model::new();
    let folder = Folder::new();
    let row = |prompt: usize, answer: usize| {
        format!("{{\"prompt\": \"{}\", \"answer\": \"{}\"}}\n", "问".repeat(prompt), "答".repeat(answer))
    };
    let lengths = [(9, 5), (10, 5), (256, 5), (257, 5), (10, 4), (10, 256), (10, 257), (12, 12)];
    let text: String = lengths.map(|(prompt, answer)| row(prompt, answer)).concat();
    let limited = DataOptions {
        min_prompt_chars: Some(10),
        max_prompt_chars: Some(256),
        min_answer_chars: Some(5),
        max_answer_chars: Some(256),
        cutoff_len: 4096,
        ..options(&[&folder.write("rows.jsonl", text)])
    };
    let dataset = model.load(&limited);
    let lines: Vec<u64> = dataset.samples.iter().map(|sample| sample.source.line).collect();
    assert_eq!(lines, [2, 3, 6, 8]);
    let filtered: Vec<(&str, u64)> =
        dataset.report.filtered.iter().map(|(option, &rows)| (option.as_str(), rows)).collect();
    assert_eq!(
        filtered,
        [("max_answer_chars", 1), ("max_prompt_chars", 1), ("min_answer_chars", 1), ("min_prompt_chars", 1)]
    );
    assert!(dataset.report.to_string().contains("dropped 1 rows outside `min_answer_chars`"));
    assert_eq!(model.load(&DataOptions { max_samples: Some(3), ..limited.clone() }).samples.len(), 3);
    let none = DataOptions { min_prompt_chars: Some(1000), max_prompt_chars: None, ..limited };
    let error = Dataset::load(&none, &model.tokenizer, model.chat()).unwrap_err().to_string();
    assert_eq!(error, "no sample is left of 8 rows: 8 outside `min_prompt_chars`");
}

#[test]
fn a_split_by_hash_is_stable_when_rows_are_added() {
    let model = Model::new();
    let folder = Folder::new();
    let split = |text: String| {
        let options = DataOptions {
            val_size: 0.25,
            val_split: ValSplit::Hash,
            ..options(&[&folder.write("rows.jsonl", text)])
        };
        let split = model.load(&options).split(&options, 1).unwrap();
        assert_eq!(
            model.load(&options).split(&options, 2).unwrap().validation.len(),
            split.validation.len(),
            "the seed has no part in it"
        );
        let ids = |set: &SampleSet| -> HashSet<Vec<u32>> { set.iter().map(|sample| sample.ids).collect() };
        (ids(&split.training), ids(&split.validation))
    };
    let (training, validation) = split(rows(200, "问"));
    assert!((30..70).contains(&validation.len()), "{}", validation.len());
    assert!(training.is_disjoint(&validation));
    let (more_training, more_validation) = split(rows(40, "新") + &rows(200, "问") + &rows(200, "问"));
    assert!(more_training.is_superset(&training) && more_validation.is_superset(&validation));
    assert!(more_training.is_disjoint(&more_validation), "equal rows stay together");
}

/// Lines of the rows of samples.
fn lines(samples: &SampleSet) -> HashSet<u64> {
    samples.iter().map(|sample| sample.source.line).collect()
}

#[test]
fn the_pieces_of_a_row_are_never_on_both_sides_of_a_split() {
    let model = Model::new();
    let folder = Folder::new();
    let document = |row: usize| format!("{{\"text\": \"{row}{}\"}}\n", "挤塑加工".repeat(1 + row * 7 % 5));
    let name = folder.write("rows.jsonl", (0..40).map(document).collect::<String>());
    let of = |val_size| DataOptions { cutoff_len: 9, val_size, ..options(&[&name]) };
    let dataset = model.documents(&of(0.0));
    assert!(dataset.samples.len() > 70, "{}", dataset.samples.len());
    for (seed, val_size) in [(1, 0.2), (2, 0.2), (3, 1.0), (4, 7.0), (5, 0.5)] {
        let split = dataset.split(&of(val_size), seed).unwrap();
        assert!(lines(&split.training).is_disjoint(&lines(&split.validation)), "seed {seed}");
        let wanted = if val_size < 1.0 { dataset.samples.len() as f64 * val_size } else { val_size };
        assert!(
            (split.validation.len() as f64 - wanted).abs() <= 1.0,
            "{} of {wanted}",
            split.validation.len()
        );
        assert_eq!(split.training.len() + split.validation.len(), dataset.samples.len());
    }
    // The rows of a long conversation that is split.
    let turn = |turn| format!("[\"问{turn}\", \"{}\"]", "答".repeat(9));
    let history: Vec<String> = (0..4).map(turn).collect();
    let row = |row| {
        format!("{{\"prompt\": \"{row}\", \"answer\": \"切削\", \"history\": [{}]}}\n", history.join(","))
    };
    let name = folder.write("chats.jsonl", (0..20).map(row).collect::<String>());
    let overlong = danlu_data::Overlong::Split;
    let options = DataOptions { cutoff_len: 120, overlong, val_size: 0.2, ..options(&[&name]) };
    let dataset = model.load(&options);
    let split = dataset.split(&options, 1).unwrap();
    assert!(dataset.samples.len() >= 40 && !split.validation.is_empty(), "{}", dataset.samples.len());
    assert!(lines(&split.training).is_disjoint(&lines(&split.validation)));
}

#[test]
fn a_split_that_one_long_row_makes_impossible_is_refused() {
    let model = Model::new();
    let folder = Folder::new();
    let name = folder.write("book.txt", "挤塑加工。\n".repeat(100));
    let options = DataOptions { cutoff_len: 20, val_size: 0.1, ..options(&[&name]) };
    let message = model.documents(&options).split(&options, 1).unwrap_err().to_string();
    assert!(message.starts_with("`val_size`: asks for "), "{message}");
    assert!(
        message.contains("the pieces of a row stay together") && message.contains("eval_dataset"),
        "{message}"
    );
}

#[test]
fn of_documents_that_run_on_the_last_blocks_are_kept_for_validation() {
    let model = Model::new();
    let folder = Folder::new();
    let text = |name: &str, rows: usize| -> String {
        (0..rows).map(|row| format!("{{\"text\": \"{name}{row}用程序控制机床\"}}\n")).collect()
    };
    let names = [folder.write("a.jsonl", text("甲", 30)), folder.write("b.jsonl", text("乙", 60))];
    let run_on = DataOptions {
        neat_packing: false,
        cutoff_len: 40,
        val_size: 0.2,
        ..options(&[&names[0], &names[1]])
    };
    let dataset = model.documents(&run_on);
    let split = dataset.split(&run_on, 1).unwrap();
    let count = (dataset.samples.len() as f64 * 0.2).round() as usize;
    assert_eq!(split.validation.len(), count);
    let mut expected = Vec::new();
    for (blocks, share) in dataset.datasets.iter().zip([1, 2]) {
        let taken = blocks.len().min((count * share + 1) / 3);
        expected.extend((blocks.end - taken..blocks.end).map(|index| dataset.samples.get(index)));
    }
    assert_eq!(all(&split.validation), expected);
    let hash = DataOptions { val_split: ValSplit::Hash, ..run_on };
    let message = dataset.split(&hash, 1).unwrap_err().to_string();
    assert!(message.starts_with("`val_split`: `hash` chooses whole rows"), "{message}");
    // Conversations are always kept apart.
    let chats = DataOptions { dataset: vec![folder.write("rows.jsonl", rows(50, "问"))], ..hash };
    assert!(!model.load(&chats).split(&chats, 1).unwrap().validation.is_empty());
}

#[test]
fn a_share_by_content_that_chooses_no_row_is_told() {
    let model = Model::new();
    let folder = Folder::new();
    let name = folder.write("rows.jsonl", rows(5, "问"));
    let options = DataOptions { val_size: 1e-9, val_split: ValSplit::Hash, ..options(&[&name]) };
    let message = model.load(&options).split(&options, 1).unwrap_err().to_string();
    assert!(message.starts_with("`val_split`: `hash` chooses none of 5 samples"), "{message}");
}

#[test]
fn datasets_are_mixed_and_validation_is_taken_out_before() {
    let model = Model::new();
    let folder = Folder::new();
    let names = [folder.write("a.jsonl", rows(30, "甲")), folder.write("b.jsonl", rows(300, "乙"))];
    let mixed = |mix_strategy, interleave_probs: &[f64]| {
        let options = DataOptions {
            mix_strategy,
            interleave_probs: interleave_probs.to_vec(),
            val_size: 0.1,
            ..options(&[&names[0], &names[1]])
        };
        let dataset = model.load(&options);
        assert_eq!(dataset.datasets, [0..30, 30..330]);
        let split = dataset.split(&options, 7).unwrap();
        assert_eq!(split.validation.len(), 33);
        let held_out: HashSet<Vec<u32>> = split.validation.iter().map(|sample| sample.ids).collect();
        assert!(split.training.iter().all(|sample| !held_out.contains(&sample.ids)));
        let first = split.training.iter().filter(|sample| sample.source.path.ends_with("a.jsonl")).count();
        (first, split.training.len() - first)
    };
    let (first, second) = mixed(MixStrategy::Concat, &[]);
    assert_eq!(first + second, 297);
    assert_eq!(mixed(MixStrategy::InterleaveUnder, &[]), (first, first));
    assert_eq!(mixed(MixStrategy::InterleaveOver, &[]), (second, second));
    let (few, many) = mixed(MixStrategy::InterleaveUnder, &[0.2, 0.8]);
    assert!(few == first && many > 2 * few, "{few} {many}");
}

/// Seeds 001 and 003: the remainder of each batch of lines was dropped, documents had two BOS and EOS.
#[test]
fn realtapel_group_texts_blocks_carry_their_remainder() {
    let model = Model::new();
    let folder = Folder::new();
    let lines: Vec<String> = (0..40).map(|line| format!("第{line}行。")).collect();
    let text: String = lines.iter().map(|line| format!("{{\"text\": \"{line}\"}}\n")).collect();
    let run_on =
        DataOptions { neat_packing: false, cutoff_len: 64, ..options(&[&folder.write("lines.jsonl", text)]) };
    let blocks = all(&model.documents(&run_on).samples);
    let (last, full) = blocks.split_last().unwrap();
    assert!(full.iter().all(|block| block.ids.len() == 64) && (2..=64).contains(&last.ids.len()));
    let mut ids = blocks[0].ids.clone();
    blocks[1..].iter().for_each(|block| ids.extend(&block.ids[1..]));
    let stream: String = lines.iter().map(|line| format!("<s>{line}</s>")).collect();
    assert_eq!(model.tokenizer.decode(&ids, false).unwrap(), stream);
    let learned: usize = blocks.iter().map(Sample::trained_tokens).sum();
    assert_eq!(learned, ids.len() - 1, "every token but the first is learned once");
    // Kept apart, as is the default, each line is a sample, and blocks hold whole lines.
    let apart = DataOptions { neat_packing: true, ..run_on };
    let dataset = model.documents(&apart);
    assert_eq!(dataset.samples.len(), 40);
    let packing = Packing::best_fit(&dataset.samples.lengths(), 64, 1);
    assert_eq!(packing.report().tokens, ids.len() as u64);
    assert!(packing.report().efficiency > 0.75, "{:?}", packing.report());
}

/// functionary#265, trl#1230, trl#805, LF PR#4224, LF PR#7318: what a block holds together stays apart for the model.
#[test]
fn functionary_265_packed_samples_keep_boundaries() {
    let model = Model::new();
    let folder = Folder::new();
    let samples = model.load(&options(&[&folder.write("rows.jsonl", rows(50, "问"))])).samples;
    let packing = Packing::best_fit(&samples.lengths(), 256, 3);
    assert!(packing.blocks() < 30);
    for block in 0..packing.blocks() {
        let members: Vec<Sample> =
            packing.block(block).iter().map(|&index| samples.get(index as usize)).collect();
        let step = step_slices(&members);
        let sequences: usize = step.slices.iter().map(|slice| slice.sequence_starts.len() - 1).sum();
        assert_eq!(sequences, members.len());
    }
}

#[test]
fn alpaca_zh_is_packed_to_98_percent() {
    let Some(path) = shared("datasets/llama-factory/alpaca_zh_demo.json") else { return };
    let model = Model::new();
    // The small vocabulary of this test makes rows about three times as long as a real one.
    for cutoff_len in [4096, 8192] {
        let options = DataOptions { cutoff_len, ..options(&[&path.display().to_string()]) };
        let lengths = model.load(&options).samples.lengths();
        let report = Packing::best_fit(&lengths, cutoff_len, 42).report();
        assert!(report.efficiency >= 0.98, "{report:?}");
    }
}

#[test]
fn realtapel_cache_is_keyed_by_content_and_never_by_name() {
    let model = Model::new();
    let folder = Folder::new();
    let kept = |name: &str, change: fn(&mut DataOptions)| {
        let mut options = DataOptions { tokenized_path: Some(folder.path("kept")), ..options(&[name]) };
        change(&mut options);
        let dataset = model.load(&options);
        (all(&dataset.samples), dataset.report.cache.unwrap())
    };
    let same = |_: &mut DataOptions| {};
    let name = folder.write("rows.jsonl", rows(20, "问"));
    let (samples, first) = kept(&name, same);
    assert!(!first.reused && first.path.starts_with(folder.path("kept")));
    let (again, second) = kept(&name, same);
    assert!(second.reused && again == samples && second.path == first.path);
    // Another name, the same content: the samples are those of the file that is named now.
    let other = folder.write("other.jsonl", rows(20, "问"));
    let (renamed, third) = kept(&other, same);
    assert!(third.reused && renamed[0].source.path.ends_with("other.jsonl"));
    assert_eq!(renamed[3].ids, samples[3].ids);
    // What does not decide the samples shares them.
    assert!(kept(&name, |options| options.val_size = 0.1).1.reused);
    // The same name with other content, and every option that decides something, are told apart.
    assert!(!kept(&name, |options| options.cutoff_len = 100).1.reused);
    assert!(!kept(&name, |options| options.mask_history = true).1.reused);
    assert!(!kept(&name, |options| options.default_system = Some("好".into())).1.reused);
    assert!(!kept(&name, |options| options.overwrite_cache = true).1.reused);
    assert!(kept(&name, same).1.reused);
    folder.write("rows.jsonl", rows(21, "问"));
    assert!(!kept(&name, same).1.reused);
    let llama = ChatTemplate::builtin("llama2").unwrap();
    let task = Task::Conversation { template: &llama, tokens: &model.tokens };
    let options = DataOptions { tokenized_path: Some(folder.path("kept")), ..options(&[&name]) };
    let dataset = Dataset::load(&options, &model.tokenizer, task).unwrap();
    assert!(!dataset.report.cache.unwrap().reused, "another template");
    let mut masked = Vec::new();
    for thinks in [true, false] {
        let qwen = ChatTemplate::builtin("qwen3").unwrap().with_thinking(thinks);
        let task = Task::Conversation { template: &qwen, tokens: &model.tokens };
        let dataset = Dataset::load(&options, &model.tokenizer, task).unwrap();
        assert!(!dataset.report.cache.unwrap().reused, "the template asked for thoughts: {thinks}");
        masked.push(dataset.samples.trained_tokens());
    }
    assert_ne!(masked[0], masked[1]);

    // A damaged folder is made again.
    fs::write(first.path.join("words.bin"), b"abc").unwrap();
    let (mended, _) = kept(&other, same);
    assert_eq!(mended, renamed);
}

#[test]
fn a_killed_tokenization_goes_on_to_the_result_of_an_uninterrupted_one() {
    let model = Model::new();
    let folder = Folder::new();
    let broken = "{\"prompt\": \"缺\"}\n";
    let names = [
        folder.write("a.jsonl", rows(700, "甲") + broken + &rows(900, "丙")),
        folder.write("b.jsonl", broken.to_owned() + &rows(1500, "乙")),
    ];
    let documents = {
        let line = |line: usize| format!("{{\"text\": \"{}\"}}\n", "挤塑。".repeat(1 + line % 9));
        folder.write("c.jsonl", (0..2500).map(line).collect::<String>())
    };
    let conversations =
        DataOptions { on_bad_row: OnBadRow::Skip, cutoff_len: 100, ..options(&[&names[0], &names[1]]) };
    let run_on = DataOptions { neat_packing: false, cutoff_len: 50, ..options(&[&documents]) };
    for (number, (options, task)) in
        [(conversations, model.chat()), (run_on, Task::Pretraining)].into_iter().enumerate()
    {
        let whole = Dataset::load(&options, &model.tokenizer, task).unwrap();
        let kept = folder.path(&format!("kept-{number}"));
        let options = DataOptions { tokenized_path: Some(kept.clone()), ..options };
        let stopped = |after: u64| {
            let mut progress =
                |rows| if rows >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let watch = Watch { progress: &mut progress, inspect: None };
            Dataset::load_watched(&options, &model.tokenizer, task, watch)
        };
        for after in [1, 1300, 2400] {
            assert!(matches!(stopped(after), Err(DataError::Stopped { is_kept: true, .. })), "{after}");
            let part = fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
            assert!(part.extension().is_some_and(|ending| ending == "part"));
            // A kill leaves more than was noted.
            for name in ["words.bin", "samples.bin"] {
                let mut bytes = fs::read(part.join(name)).unwrap();
                bytes.extend([7; 1000]);
                fs::write(part.join(name), bytes).unwrap();
            }
        }
        let mut first = u64::MAX;
        let mut progress = |rows: u64| {
            first = first.min(rows);
            ControlFlow::Continue(())
        };
        let watch = Watch { progress: &mut progress, inspect: None };
        let resumed = Dataset::load_watched(&options, &model.tokenizer, task, watch).unwrap();
        assert!(first > 2400, "rows that were done are not tokenized again: {first}");
        assert_eq!(all(&resumed.samples), all(&whole.samples));
        assert_eq!(resumed.datasets, whole.datasets);
        let without_cache = danlu_data::DatasetReport { cache: None, ..resumed.report };
        assert_eq!(without_cache, whole.report);
        let reused = Dataset::load(&options, &model.tokenizer, task).unwrap();
        assert!(reused.report.cache.as_ref().unwrap().reused);
        assert_eq!(all(&reused.samples), all(&whole.samples));
    }
}

/// Seed 001: lines joined into blocks of 8, with one BOS and one EOS each; the labels are the ids themselves.
#[test]
fn seed_001_clm_packing_token_by_token() {
    let model = Model::new();
    let folder = Folder::new();
    let lines = ["加工", "数控加工", "塑料"];
    let text: String = lines.iter().map(|line| format!("{{\"text\": \"{line}\"}}\n")).collect();
    let run_on =
        DataOptions { neat_packing: false, cutoff_len: 8, ..options(&[&folder.write("lines.jsonl", text)]) };
    let (bos, eos) = (model.tokenizer.bos_id().unwrap(), model.tokenizer.eos_id().unwrap());
    let mut stream = Vec::new();
    for line in lines {
        stream.push(bos);
        stream.extend(model.tokenizer.encode(line, danlu_tokenizer::SpecialTokens::AsText).unwrap());
        stream.push(eos);
    }
    // A block begins with the id that the one before ends with, so that every id but the first is predicted once.
    let expected: Vec<Vec<u32>> = (0..stream.len() - 1)
        .step_by(7)
        .map(|start| stream[start..stream.len().min(start + 8)].to_vec())
        .collect();
    let blocks = all(&model.documents(&run_on).samples);
    assert_eq!(blocks.iter().map(|block| block.ids.clone()).collect::<Vec<_>>(), expected);
    for block in &blocks {
        assert!(block.loss_weights[0] == 0.0 && block.loss_weights[1..].iter().all(|&weight| weight == 1.0));
    }
}

/// Seed 003: a folder of text files becomes blocks; the remainder is carried from file to file, and the last is kept.
#[test]
fn seed_003_pt_packing_of_a_folder_of_text() {
    let model = Model::new();
    let folder = Folder::new();
    fs::create_dir(folder.path("texts")).unwrap();
    let texts = ["挤塑加工。\n".repeat(30), "数控机床。\n".repeat(3), "介绍。".to_owned()];
    for (number, text) in texts.iter().enumerate() {
        folder.write(&format!("texts/{number}.txt"), text);
    }
    let run_on = DataOptions {
        neat_packing: false,
        cutoff_len: 32,
        ..options(&[&folder.path("texts").display().to_string()])
    };
    let dataset = model.documents(&run_on);
    let blocks = all(&dataset.samples);
    assert!(blocks[..blocks.len() - 1].iter().all(|block| block.ids.len() == 32));
    let mut ids = blocks[0].ids.clone();
    blocks[1..].iter().for_each(|block| ids.extend(&block.ids[1..]));
    let stream: String = texts.iter().map(|text| format!("<s>{text}</s>")).collect();
    assert_eq!(model.tokenizer.decode(&ids, false).unwrap(), stream);
    assert_eq!((dataset.report.rows, dataset.report.samples), (3, blocks.len() as u64));
}

#[test]
fn kept_samples_of_a_token_file_know_the_index_of_its_folder() {
    let model = Model::new();
    let folder = Folder::new();
    let kept = |name: &str| {
        let options = DataOptions { tokenized_path: Some(folder.path("kept")), ..options(&[name]) };
        let dataset = model.documents(&options);
        (dataset.samples.get(0).ids, dataset.report.cache.unwrap().reused)
    };
    let data = folder.write("shard-00000.bin", [10, 0, 0, 0, 11, 0, 0, 0, 12, 0, 0, 0]);
    folder.write("shard-00000.idx", 3_u64.to_le_bytes());
    let index = r#"{"key": "k", "dtype": "uint32", "vocabulary_size": 320, "records": 1, "documents": 1, "tokens": 3,
                    "shards": [{"file": "shard-00000.bin", "tokens": 3, "documents": 1}]}"#;
    folder.write("index.json", index);
    assert_eq!(kept(&data), (vec![0, 10, 11, 12], false));
    // Without the index, its ids are read as uint16.
    fs::remove_file(folder.path("index.json")).unwrap();
    let (ids, is_reused) = kept(&data);
    assert!(!is_reused && ids[..4] == [0, 10, 0, 11], "{ids:?}");
}
