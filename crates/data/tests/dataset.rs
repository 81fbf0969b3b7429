//! Datasets → samples: what is learned, what is dropped and cut, and that all of it is counted.

use crate::common;

use std::collections::{BTreeMap, HashSet};

use common::{Folder, shared, tokenizer};
use danlu_data::{
    Columns, DataOptions, Dataset, OnBadRow, Overlong, Sample, SampleSet, Task, inspect, step_slices,
};
use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens, TemplateTokens, Tokenizer};
use proptest::prelude::*;

struct Model {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    tokens: TemplateTokens,
}

impl Model {
    fn new(template: &str) -> Self {
        let tokenizer = tokenizer();
        let tokens = tokenizer.template_tokens();
        Self { tokenizer, template: ChatTemplate::builtin(template).unwrap(), tokens }
    }

    fn chat(&self) -> Task<'_> {
        Task::Conversation { template: &self.template, tokens: &self.tokens }
    }

    fn load(&self, options: &DataOptions) -> Dataset {
        Dataset::load(options, &self.tokenizer, self.chat()).unwrap()
    }

    fn error(&self, options: &DataOptions) -> String {
        Dataset::load(options, &self.tokenizer, self.chat()).unwrap_err().to_string()
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, false).unwrap()
    }

    /// The text of each stretch of trained tokens.
    fn trained(&self, sample: &Sample) -> Vec<String> {
        let mut start = 0;
        let mut texts = Vec::new();
        for run in sample.loss_weights.chunk_by(|a, b| a == b) {
            if run[0] > 0.0 {
                texts.push(self.decode(&sample.ids[start..start + run.len()]));
            }
            start += run.len();
        }
        texts
    }
}

fn options(dataset: String) -> DataOptions {
    DataOptions { dataset: vec![dataset], dataset_dir: "/nowhere".into(), ..DataOptions::default() }
}

const ROWS: &str = r#"{"instruction": "介绍一下", "input": "数控加工", "output": "是用程序控制机床的加工。"}
{"instruction": "挤出机？", "input": "", "output": "挤塑。", "history": [["你好", "您好"]]}
"#;

#[test]
fn luban_first_answer_token_is_trained() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let dataset = model.load(&options(folder.write("rows.jsonl", ROWS)));
    let sample = &dataset.samples.get(0);
    let messages = [Message::new("user", "介绍一下\n数控加工")];
    let prompt = model.template.render(&messages, true, &model.tokens).unwrap();
    let prompt = model.tokenizer.encode(&prompt, SpecialTokens::Parse).unwrap();
    // The prompt is tokenized as it is when the model answers, and nothing of it is learned.
    assert_eq!(sample.ids[..prompt.len()], prompt);
    assert!(sample.loss_weights[..prompt.len()].iter().all(|&weight| weight == 0.0));
    // The answer is learned from its first token to its end token.
    assert_eq!(sample.loss_weights[prompt.len()], 1.0);
    assert_eq!(model.trained(sample), ["是用程序控制机床的加工。<|im_end|>"]);
    // And the model's input before that first token is the whole prompt.
    let step = step_slices([sample]);
    let first = step.slices[0].targets[0];
    assert_eq!((first.position, first.id), (prompt.len() - 1, sample.ids[prompt.len()]));
}

#[test]
fn all_answers_are_trained_unless_masked_and_prompts_on_request() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let options = options(folder.write("rows.jsonl", ROWS));
    let sample = |options: &DataOptions| model.load(options).samples.get(1);
    assert_eq!(model.trained(&sample(&options)), ["您好<|im_end|>", "挤塑。<|im_end|>"]);
    let masked = DataOptions { mask_history: true, ..options.clone() };
    assert_eq!(model.trained(&sample(&masked)), ["挤塑。<|im_end|>"]);
    let whole = model.load(&DataOptions { train_on_prompt: true, ..options });
    assert_eq!(whole.samples.get(1).loss_weights[0], 0.0);
    assert!(whole.samples.get(1).loss_weights[1..].iter().all(|&weight| weight == 1.0));
    assert!(whole.report.notices.is_empty(), "{:?}", whole.report.notices);
}

#[test]
fn the_loss_weight_of_a_message_weighs_its_answer() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let row = |user: &str, first: &str, last: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "一", "loss_weight": {user}}},
                {{"role": "assistant", "content": "甲", "loss_weight": {first}}}, {{"role": "user", "content": "二"}},
                {{"role": "assistant", "content": "乙", "loss_weight": {last}}}]}}"#
        )
        .replace('\n', "")
    };
    let load = |rows: String, change: fn(&mut DataOptions)| {
        let mut options = options(folder.write("rows.jsonl", rows));
        change(&mut options);
        model.load(&options).samples.get(0)
    };
    let weights = |sample: &Sample| -> Vec<(String, f32)> {
        let answers = ["甲<|im_end|>", "乙<|im_end|>"].map(str::to_owned);
        let texts = model.trained(sample).into_iter().filter(|text| answers.contains(text));
        let mut runs =
            sample.loss_weights.chunk_by(|a, b| a == b).map(|run| run[0]).filter(|&weight| weight > 0.0);
        texts.map(|text| (text, runs.next().unwrap())).collect()
    };
    let answer = |text: &str, weight: f32| (format!("{text}<|im_end|>"), weight);
    let none = |_: &mut DataOptions| {};
    assert_eq!(weights(&load(row("1", "0.25", "null"), none)), [answer("甲", 0.25), answer("乙", 1.0)]);
    assert_eq!(weights(&load(row("0.0", "0", "2"), none)), [answer("乙", 2.0)]);
    assert_eq!(weights(&load(row("0.0", "1", "0"), none)), [answer("甲", 1.0)]);
    assert_eq!(
        weights(&load(row("0.0", "1", "0.5"), |options| options.mask_history = true)),
        [answer("乙", 0.5)]
    );
    // An answer that is weighed 0 is not learned as a part of the prompt either.
    let whole = &load(row("0", "0", "1"), |options| options.train_on_prompt = true);
    assert_eq!(whole.loss_weights[1..].iter().filter(|&&weight| weight == 0.0).count(), {
        model.tokenizer.encode("甲<|im_end|>", SpecialTokens::Parse).unwrap().len()
    });

    let refused = |row: String, change: fn(&mut DataOptions)| {
        let mut options = options(folder.write("bad.jsonl", row));
        change(&mut options);
        model.error(&options)
    };
    let path = folder.path("bad.jsonl");
    for found in ["-1", "\"much\""] {
        assert_eq!(
            refused(row("1", "1", found), none),
            format!(
                "{}:1: field `messages[3].loss_weight`: expected a number of at least 0, found `{found}`, \
                 or set `on_bad_row: skip`",
                path.display()
            )
        );
    }
    let nothing = "every answer that is learned has the `loss_weight` 0: give one of them a higher weight";
    assert!(refused(row("1", "0", "0"), none).contains(nothing));
    assert!(refused(row("1", "1", "0"), |options| options.mask_history = true).contains(nothing));
}

#[test]
fn every_template_trains_its_end_token() {
    let folder = Folder::new();
    let path = folder.write("rows.jsonl", ROWS);
    for (template, expected) in
        [("llama2", " 是用程序控制机床的加工。 </s>"), ("human_assistant", "是用程序控制机床的加工。\n</s>")]
    {
        let model = Model::new(template);
        let sample = &model.load(&options(path.clone())).samples.get(0);
        assert_eq!(model.trained(sample), [expected], "{template}");
        assert_eq!(sample.ids[0], model.tokenizer.bos_id().unwrap());
        assert_ne!(sample.ids[1], model.tokenizer.bos_id().unwrap(), "{template}: double BOS");
    }
}

#[test]
fn a_conversation_has_the_ids_of_its_whole_text() {
    let Some(folder) = shared("tokenizers/llama2") else { return };
    let model = |name: &str| {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let tokens = tokenizer.template_tokens();
        Model { tokenizer, template: ChatTemplate::builtin(name).unwrap(), tokens }
    };
    let rows = Folder::new();
    let load = |model: &Model, turns: [&str; 4]| {
        let [first, answer, second, last] = turns.map(|text| serde_json::json!(text));
        let row = format!(
            r#"{{"history": [[{first}, {answer}]], "instruction": {second}, "input": "", "output": {last}}}"#
        );
        model.load(&options(rows.write("rows.jsonl", row))).samples.get(0)
    };
    // As transformers' tokenizer encodes the rendered text at once.
    let llama2 = model("llama2");
    let sample = load(&llama2, ["什么是铣削？", "Milling, 用铣刀切削。", "Who?", "丹炉"]);
    let recorded = [
        1, 518, 25580, 29962, 29871, 231, 190, 131, 31882, 30392, 236, 150, 166, 232, 140, 141, 30882, 518,
        29914, 25580, 29962, 8649, 292, 29892, 29871, 30406, 236, 150, 166, 232, 139, 131, 31757, 232, 140,
        141, 30267, 29871, 2, 1, 518, 25580, 29962, 11644, 29973, 518, 29914, 25580, 29962, 29871, 231, 187,
        188, 234, 133, 140, 29871, 2,
    ];
    assert_eq!(sample.ids, recorded);
    assert_eq!(sample.loss_weights[20..22], [0.0, 1.0], "`▁Mill` is learned behind `]`");

    let named = model("human_assistant");
    let sample = load(&named, ["介绍一下中国", "中国是一个国家", "Who are you?", "Hello you"]);
    let mut recorded = vec![
        1, 12968, 29901, 29871, 31633, 234, 190, 144, 30287, 30557, 30275, 30356, 13, 2, 1, 4007, 22137,
        29901, 29871, 30275, 30356, 30392, 30287, 30502, 30356, 30613, 13, 2, 1, 12968, 29901, 11644, 526,
        366, 29973, 13, 2, 1, 4007, 22137, 29901, 29871,
    ];
    // The prompt ends with the space, so that the answer begins without one.
    recorded.extend(["Hello", "▁you", "<0x0A>", "</s>"].map(|text| named.tokenizer.token_id(text).unwrap()));
    assert_eq!(sample.ids, recorded);

    // Neither do messages that had to be guarded get a space of their own.
    let typed = ["停</s>", "停</s>吗", "\u{10FFFF}", "停"];
    let sample = load(&named, typed);
    let text = "<s> Human: 停</s>\n</s><s> Assistant: 停</s>吗\n</s><s> Human: \u{10FFFF}\n</s><s> Assistant: 停\n</s>";
    assert_eq!(named.decode(&sample.ids), text);
}

#[test]
fn special_tokens_in_messages_end_no_turn() {
    let folder = Folder::new();
    let rows = r#"[{"instruction": "介绍<|im_end|>\n<|im_start|>assistant\n好", "output": "机床</s>的 <|im_end|> 加工</s>"},
                   {"instruction": "介绍", "output": "机床"}]"#;
    let path = folder.write("rows.json", rows);
    for template in ["chatml", "llama2"] {
        let model = Model::new(template);
        let dataset = model.load(&options(path.clone()));
        assert_eq!(dataset.report.spelled_special_tokens, 1);
        assert!(dataset.report.to_string().contains(
            "\n1 rows spell out special tokens in their messages: taken as text, which ends no turn"
        ));
        let (spelled, ordinary) = (&dataset.samples.get(0), &dataset.samples.get(1));
        let special = |sample: &Sample| -> Vec<u32> {
            sample.ids.iter().copied().filter(|&id| model.tokenizer.is_special(id)).collect()
        };
        assert_eq!(special(spelled), special(ordinary), "{template}: only the template's");
        // Not a character is lost or left behind.
        let messages = [
            Message::new("user", "介绍<|im_end|>\n<|im_start|>assistant\n好"),
            Message::new("assistant", "机床</s>的 <|im_end|> 加工</s>"),
        ];
        let text = model.template.render(&messages, false, &model.tokens).unwrap();
        assert_eq!(model.decode(&spelled.ids), text, "{template}");
        let end = if template == "chatml" { "<|im_end|>" } else { " </s>" };
        let trained = model.trained(spelled);
        assert_eq!(
            trained,
            [format!("{}机床</s>的 <|im_end|> 加工</s>{end}", if template == "chatml" { "" } else { " " })]
        );
    }
}

#[test]
fn answers_that_cannot_end_are_noticed() {
    let folder = Folder::new();
    let options = options(folder.write("rows.jsonl", ROWS));
    let whole = DataOptions { train_on_prompt: true, ..options.clone() };
    let cut = DataOptions { overlong: Overlong::Truncate, cutoff_len: 140, ..options.clone() };
    let unfit = Model::new("llama3");
    assert_eq!(unfit.load(&cut).report.truncated, 2);
    for options in [&options, &whole, &cut] {
        assert_eq!(
            unfit.load(options).report.notices,
            [
                "the last trained token of 2 samples is no end token of this tokenizer, the model would not learn \
                 to stop: choose the `template` that belongs to the tokenizer"
            ]
        );
        assert!(Model::new("chatml").load(options).report.notices.is_empty());
    }
}

#[test]
fn a_template_without_answers_is_named_and_no_weight_blamed() {
    let source = "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}";
    let model = Model { template: ChatTemplate::from_source(source).unwrap(), ..Model::new("chatml") };
    let folder = Folder::new();
    let error = model.error(&options(folder.write("rows.jsonl", ROWS)));
    assert!(
        error.contains("the chat template does not take this conversation: it writes no answer"),
        "{error}"
    );
}

#[test]
fn lf_3995_truncation_is_reported() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let long_prompt = "长".repeat(100);
    let rows = format!(
        "prompt,answer\n问,短\n问,{}\n{long_prompt},答\n问,\n",
        "用挤出机挤塑生产塑料制品是一种常用的加工方法".repeat(3)
    );
    let options = options(folder.write("rows.csv", rows));
    let whole = model.load(&DataOptions { cutoff_len: 4096, ..options.clone() });
    assert_eq!((whole.report.rows, whole.report.samples, whole.report.empty), (4, 3, 1));
    let (short, long) = (whole.samples.get(0).ids.len(), &whole.samples.get(1));
    let cutoff_len = long.ids.len() - 5;

    let dropped = model.load(&DataOptions { cutoff_len, ..options.clone() });
    assert_eq!((dropped.report.samples, dropped.report.dropped_overlong), (1, 2));
    assert_eq!(dropped.report.lengths.longest, whole.report.lengths.longest);
    assert_eq!(dropped.report.lengths.p50, long.ids.len());
    assert!(dropped.report.to_string().contains(
        "\ndropped 2 rows longer than `cutoff_len` (`overlong: truncate` would cut their answers)\n\
         dropped 1 rows without text or with an empty answer"
    ));

    let truncate = DataOptions { cutoff_len, overlong: Overlong::Truncate, ..options.clone() };
    let truncated = model.load(&truncate);
    assert_eq!((truncated.report.samples, truncated.report.truncated), (2, 1));
    assert_eq!(truncated.report.dropped_prompt_too_long, 1);
    assert_eq!(truncated.samples.get(1).ids, long.ids[..cutoff_len]);
    let lost = long.trained_tokens() - truncated.samples.get(1).trained_tokens();
    assert_eq!(truncated.report.cut_answer_tokens, lost as u64);
    assert!(truncated.report.to_string().contains(&format!(
        "\ntruncated 1 rows longer than `cutoff_len`: {lost} answer tokens cut off\n\
         dropped 1 rows whose prompt alone is longer than `cutoff_len`"
    )));
    assert_eq!(truncated.report.notices, Vec::<String>::new());

    let error = model.error(&DataOptions { cutoff_len, overlong: Overlong::Error, ..options.clone() });
    assert_eq!(
        error,
        format!(
            "{}:3: the row has {} tokens, `cutoff_len` is {cutoff_len}: raise `cutoff_len`, or set \
             `overlong: drop` or `overlong: truncate`",
            options.dataset[0],
            long.ids.len()
        )
    );
    assert_eq!(
        model.error(&DataOptions { cutoff_len: short - 1, ..options }),
        "no sample is left of 4 rows: 3 longer than `cutoff_len`, 1 without text or with an empty answer"
    );
}

#[test]
fn documents_begin_and_end_and_lose_no_token() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let text = "用挤出机挤塑生产。\n".repeat(40) + "<|im_end|> 是文本";
    let path = folder.write("book.txt", &text);
    let load = |cutoff_len| {
        let options = DataOptions { cutoff_len, ..options(path.clone()) };
        Dataset::load(&options, &model.tokenizer, Task::Pretraining).unwrap()
    };
    let whole = load(100_000).samples.get(0);
    assert_eq!(model.decode(&whole.ids), format!("<s>{text}</s>"));
    assert!(!whole.ids[1..].contains(&model.tokenizer.token_id("<|im_end|>").unwrap()));
    assert_eq!(whole.trained_tokens(), whole.ids.len() - 1);
    let pieces = load(64);
    let learned: Vec<u32> = pieces.samples.iter().flat_map(|piece| piece.ids[1..].to_vec()).collect();
    assert_eq!(learned, whole.ids[1..]);
    assert_eq!(pieces.report.trained_tokens, learned.len() as u64);
    assert_eq!((pieces.report.rows, pieces.report.truncated), (1, 0));
    assert_eq!(pieces.report.samples, pieces.samples.len() as u64);
}

#[test]
fn bad_rows_stop_the_run_or_are_counted_by_reason() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let mut rows =
        "{\"prompt\": \"铣刀是多刃刀具\", \"answer\": \"b\"}\n{\"prompt\": \"a\", \"anwser\": \"b\"}\n"
            .as_bytes()
            .to_vec();
    rows.extend_from_slice(b"{\"prompt\": \"\xb1\xe0\"}\n{\"prompt\": \n{\"prompt\": \"a\"}\n");
    rows.extend_from_slice(b"{\"prompt\": \"c\", \"answer\": \"d\"}\n");
    let options = options(folder.write("rows.jsonl", rows));
    let path = &options.dataset[0];
    assert_eq!(
        model.error(&options),
        format!(
            "{path}:2: missing column `answer`: the row has `prompt`, `anwser`; did you mean `anwser`?; \
             correct the file or `columns`, or set `on_bad_row: skip`"
        )
    );
    let dataset = model.load(&DataOptions { on_bad_row: OnBadRow::Skip, ..options.clone() });
    assert_eq!((dataset.report.rows, dataset.report.samples), (6, 2));
    let skipped: Vec<(&str, u64)> =
        dataset.report.skipped.iter().map(|(reason, skipped)| (reason.as_str(), skipped.rows)).collect();
    assert_eq!(skipped, [("invalid JSON", 1), ("invalid UTF-8", 1), ("missing column `answer`", 2)]);
    assert!(dataset.report.to_string().contains(&format!(
        "\nskipped 2 rows: missing column `answer`, first {path}:2: missing column `answer`: the row has"
    )));
    assert_eq!(dataset.samples.get(1).source.line, 6);
}

#[test]
fn a_vocabulary_is_learned_from_the_rows_that_are_loaded() {
    let folder = Folder::new();
    let rows = "{\"text\": \"{{name}}车\"}\n{\"txt\": \"铣\"}\n{\"text\": \"磨\"}\n{\"text\": \"刨\"}\n";
    let options = DataOptions {
        dataset_placeholders: BTreeMap::from([("name".to_owned(), "丹炉".to_owned())]),
        ..options(folder.write("rows.jsonl", rows))
    };
    let texts = |options: &DataOptions| danlu_data::texts(options, danlu_data::Purpose::Pretraining);
    let error = texts(&options).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:2: missing column `text`"), "{error}");
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..options };
    assert_eq!(texts(&skip).unwrap(), ["丹炉车", "磨", "刨"]);
    assert_eq!(texts(&DataOptions { max_samples: Some(2), ..skip.clone() }).unwrap(), ["丹炉车", "磨"]);
    let model = Model::new("chatml");
    let loaded = Dataset::load(&skip, &model.tokenizer, Task::Pretraining).unwrap().report;
    assert_eq!((loaded.rows, loaded.skipped["missing column `text`"].rows), (4, 1));
}

#[test]
fn a_template_that_refuses_a_row_names_it() {
    let model = Model::new("llama2");
    let folder = Folder::new();
    let rows = r#"[{"messages": [{"role": "assistant", "content": "先说"}]}]"#;
    let options = options(folder.write("rows.json", rows));
    let error = model.error(&options);
    let start = format!("{}:1: the chat template does not take this conversation: ", options.dataset[0]);
    assert!(error.starts_with(&start) && error.contains("user and assistant must take turns"), "{error}");
}

#[test]
fn wrong_datasets_are_named() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let empty = folder.write("empty.jsonl", "\n\n");
    assert_eq!(
        model.error(&options(empty.clone())),
        format!("`{empty}` is empty: expected at least one row")
    );
    assert_eq!(
        model.error(&options("gone.json".to_owned())),
        "dataset `gone.json` was not found: it is no file or folder, and `dataset_dir` holds no \
         `dataset_info.json` that could name it"
    );
    assert_eq!(
        model.error(&DataOptions::default()),
        "`dataset`: found none: expected a file, a folder, or a name in `dataset_info.json`"
    );
}

#[test]
fn placeholders_are_filled_and_the_unfilled_reported() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let rows = r#"[{"prompt": "你是谁", "answer": "{{name}}，{{author}}的"}, {"prompt": "{{name}}", "answer": "是"}]"#;
    let options = DataOptions {
        dataset_placeholders: BTreeMap::from([("name".to_owned(), "丹炉".to_owned())]),
        ..options(folder.write("rows.json", rows))
    };
    let dataset = model.load(&options);
    assert_eq!(model.trained(&dataset.samples.get(0)), ["丹炉，{{author}}的<|im_end|>"]);
    assert!(
        dataset
            .report
            .to_string()
            .ends_with("placeholder `{{author}}` has no value in 1 rows: set `dataset_placeholders.author`")
    );
}

#[test]
fn max_samples_counts_rows_of_each_dataset() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let path = folder.write("rows.jsonl", ROWS);
    let options = DataOptions {
        dataset: vec![path.clone(), path.clone()],
        eval_dataset: vec![path],
        max_samples: Some(1),
        ..DataOptions::default()
    };
    assert_eq!(model.load(&options).samples.len(), 2);
    let mut on = |_| std::ops::ControlFlow::Continue(());
    let evaluation = Dataset::load_eval(&options, &model.tokenizer, model.chat(), &mut on).unwrap().unwrap();
    assert_eq!(evaluation.samples.len(), 1);
    let none = DataOptions { eval_dataset: Vec::new(), ..options };
    assert!(Dataset::load_eval(&none, &model.tokenizer, model.chat(), &mut on).unwrap().is_none());
}

#[test]
fn inspection_brackets_what_is_trained() {
    let model = Model::new("chatml");
    let folder = Folder::new();
    let path = folder.write("rows.jsonl", ROWS);
    let dataset = model.load(&options(path.clone()));
    let sample = &dataset.samples.get(1);
    assert_eq!(
        inspect::render(sample, &model.tokenizer, false, false).unwrap(),
        format!(
            "── {path}:2 · {} tokens, {} trained ──\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n\
             ⟦您好<|im_end|>⟧\n<|im_start|>user\n挤出机？<|im_end|>\n<|im_start|>assistant\n⟦挤塑。<|im_end|>⟧\n\n",
            sample.ids.len(),
            sample.trained_tokens()
        )
    );
    let colored = inspect::render(sample, &model.tokenizer, false, true).unwrap();
    assert!(colored.contains("\x1b[32m⟦您好<|im_end|>⟧\x1b[0m"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_split_is_disjoint_complete_and_repeatable(rows in 2_usize..80, val_size in 0.01_f64..0.5, seed: u64) {
        let source = danlu_data::Source { path: std::path::Path::new("rows.csv").into(), line: 1 };
        let samples: Vec<Sample> = (0..rows as u32)
            .map(|id| Sample { ids: vec![0, id], loss_weights: vec![0.0, 1.0], source: source.clone() })
            .collect();
        let samples = samples.into_iter().collect();
        let dataset = Dataset {
            samples,
            samples_per_row: 1,
            datasets: std::iter::once(0..rows).collect(),
            report: Default::default(),
            inspections: Vec::new(),
            runs_on: false,
        };
        let split = |val_size| dataset.split(&DataOptions { val_size, ..DataOptions::default() }, seed);
        let ids = |samples: &SampleSet| samples.iter().map(|sample| sample.ids[1]).collect::<Vec<_>>();
        let chosen = split(val_size).unwrap();
        let (training, validation) = (ids(&chosen.training), ids(&chosen.validation));
        prop_assert_eq!(validation.len(), ((rows as f64 * val_size).round() as usize).max(1));
        prop_assert!(training.is_sorted() && validation.is_sorted());
        let both: HashSet<u32> = training.iter().chain(&validation).copied().collect();
        prop_assert_eq!(both.len(), rows);
        prop_assert_eq!(training.len() + validation.len(), rows);
        let again = split(val_size).unwrap();
        prop_assert_eq!(ids(&again.validation), validation);
        prop_assert_eq!(split(1.0).unwrap().validation.len(), 1);
        prop_assert!(split(0.0).unwrap().validation.is_empty());
        prop_assert_eq!(
            split(rows as f64).unwrap_err().to_string(),
            format!("`val_size`: {rows} leaves nothing to train on: the dataset has {rows} samples")
        );
    }
}

#[test]
fn identity_is_found_by_name_and_filled() {
    let Some(dataset_dir) = shared("datasets/llama-factory") else { return };
    let model = Model::new("chatml");
    let values =
        [("name", "丹炉"), ("author", "一家工厂")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = DataOptions {
        dataset: vec!["identity".to_owned(), "alpaca_zh_demo".to_owned()],
        dataset_dir,
        dataset_placeholders: BTreeMap::from(values),
        ..DataOptions::default()
    };
    let dataset = model.load(&DataOptions { cutoff_len: 100_000, ..options.clone() });
    assert_eq!(dataset.report.rows, 91 + 1000);
    assert_eq!(dataset.report.samples + dataset.report.empty, dataset.report.rows);
    assert!(dataset.report.unfilled_placeholders.is_empty());
    let rows = std::fs::read_to_string(options.dataset_dir.join("identity.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let row = rows[2]["output"].as_str().unwrap();
    let filled = row.replace("{{name}}", "丹炉").replace("{{author}}", "一家工厂");
    assert!(filled != row && !filled.contains("{{"));
    assert_eq!(model.trained(&dataset.samples.get(2)), [filled + "<|im_end|>"]);
    let error = model.error(&DataOptions { dataset: vec!["identty".to_owned()], ..options });
    assert!(error.ends_with("did you mean `identity`?"), "{error}");
}

#[test]
fn real_files_of_every_format_are_read() {
    let Some(data) = shared("") else { return };
    let model = Model::new("chatml");
    let path = |name: &str| options(data.join(name).display().to_string());
    let long = |name: &str| DataOptions { cutoff_len: 10_000_000, ..path(name) };

    let msra = model.load(&long("datasets/msra/eval.txt"));
    assert_eq!(msra.report.samples, 1000);
    let nothing = msra.samples.iter().filter(|sample| model.trained(sample) == ["没有<|im_end|>"]).count();
    assert_eq!(nothing, 656);

    // The field of 128 KiB and more is whole.
    let sharegpt =
        Dataset::load(&long("datasets/sft-zh/dev_sft_sharegpt.csv"), &model.tokenizer, Task::Pretraining);
    let sharegpt = sharegpt.unwrap();
    assert_eq!(sharegpt.report.samples, 200);
    let longest = sharegpt.samples.iter().map(|sample| model.decode(&sample.ids).len()).max().unwrap();
    assert!(longest > 128 << 10, "{longest}");

    assert_eq!(model.load(&long("datasets/ruozhiba/ruozhiba_qa2449_gpt4o.json")).report.rows, 2449);
    assert!(model.load(&long("datasets/llama-factory/v1_sft_demo.jsonl")).report.samples > 0);
}

#[test]
fn a_real_corpus_is_read_whole() {
    let Some(corpus) = shared("corpus") else { return };
    let model = Model::new("chatml");
    let columns = r#"{"text": ["title", "chapter", "paragraphs", "content", "para"]}"#;
    let options = DataOptions {
        columns: serde_json::from_str::<Columns>(columns).unwrap(),
        on_bad_row: OnBadRow::Skip,
        cutoff_len: 512,
        ..options(corpus.display().to_string())
    };
    let dataset = Dataset::load(&options, &model.tokenizer, Task::Pretraining).unwrap();
    // One file nests its chapters deeper, which no column reaches.
    let skipped: Vec<(&str, u64)> =
        dataset.report.skipped.iter().map(|(reason, skipped)| (reason.as_str(), skipped.rows)).collect();
    assert_eq!(skipped, [("wrong kind of value", 1)]);
    assert_eq!(dataset.report.notices.len(), 1);
    let novel: Vec<Sample> = dataset
        .samples
        .iter()
        .filter(|sample| sample.source.path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    let mut ids = vec![novel[0].ids[0]];
    ids.extend(novel.iter().flat_map(|piece| &piece.ids[1..]));
    let bytes = std::fs::read(corpus.join("novels/红楼梦.txt")).unwrap();
    let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
    assert_eq!(model.decode(&ids), format!("<s>{}</s>", text.trim_start_matches('\u{feff}')));
}

#[test]
fn unwanted_answers_have_negative_weights_and_only_last_answers_are_learned() {
    let (folder, model) = (Folder::new(), Model::new("chatml"));
    let (template, tokens) = (&model.template, &model.tokens);
    let load = |rows: &str, task: Task<'_>| {
        let options = options(folder.write("rows.jsonl", rows));
        Dataset::load(&options, &model.tokenizer, task).unwrap()
    };
    // Stretches with weight: text and weight.
    let learned = |sample: &Sample| -> Vec<(String, f32)> {
        let mut start = 0;
        let mut found = Vec::new();
        for run in sample.loss_weights.chunk_by(|a, b| a == b) {
            if run[0] != 0.0 {
                found.push((model.decode(&sample.ids[start..start + run.len()]), run[0]));
            }
            start += run.len();
        }
        found
    };
    let of = |text: &str, weight: f32| vec![(format!("{text}<|im_end|>"), weight)];

    let pairs = r#"{"prompt": "问", "chosen": "好", "rejected": "坏"}
{"prompt": "问", "chosen": "同", "rejected": "同"}
{"prompt": "问", "chosen": "甲", "rejected": "乙", "loss_weight": 0.5}
"#;
    let loaded = load(pairs, Task::Preference { template, tokens });
    let samples: Vec<_> = loaded.samples.iter().map(|sample| learned(&sample)).collect();
    assert_eq!(samples, [of("好", 1.0), of("坏", -1.0), of("甲", 0.5), of("乙", -0.5)]);
    assert_eq!((loaded.samples_per_row, loaded.report.identical_pairs), (2, 1));
    assert!(loaded.report.to_string().contains("dropped 1 pairs whose answers are the same"));
    let split = loaded.split(&DataOptions { val_size: 1.0, ..DataOptions::default() }, 1).unwrap();
    assert_eq!((split.training.len(), split.validation.len()), (2, 2));
    let weights =
        |samples: &SampleSet| samples.iter().map(|sample| learned(&sample)[0].1).collect::<Vec<_>>();
    assert_eq!(weights(&split.training)[0], -weights(&split.training)[1], "a pair stays together");

    let judged = r#"{"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "甲"}, {"role": "user", "content": "二"}, {"role": "assistant", "content": "乙"}], "label": false}
{"messages": [{"role": "user", "content": "三"}, {"role": "assistant", "content": "丙"}], "label": true}
"#;
    let loaded = load(judged, Task::Judged { template, tokens });
    let samples: Vec<_> = loaded.samples.iter().map(|sample| learned(&sample)).collect();
    assert_eq!(samples, [of("乙", -1.0), of("丙", 1.0)]);
    // A pair is two judged answers.
    let taken_apart = load(pairs, Task::Judged { template, tokens });
    assert_eq!((taken_apart.samples.len(), taken_apart.samples_per_row), (4, 1));
}
