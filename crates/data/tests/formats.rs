//! Every form of rows with its exact text, ids and mask; preference pairs; token files.

use crate::common;

use std::collections::BTreeMap;

use common::{Folder, shared, tokenizer};
use danlu_data::conversion::{Form, convert};
use danlu_data::dataset_format::{Layout, Purpose, Row, Tags};
use danlu_data::{
    Columns, Content, DataOptions, Dataset, Records, Task, TokenFileUnit, encode_corpus, inspect,
};
use danlu_tokenizer::{ChatTemplate, SpecialTokens, Tokenizer};
use serde_json::{Value, json};

pub(crate) fn options(dataset: String) -> DataOptions {
    DataOptions {
        dataset: vec![dataset],
        dataset_dir: "/nowhere".into(),
        cutoff_len: 100_000,
        ..DataOptions::default()
    }
}

pub(crate) fn load(
    options: &DataOptions,
    template: Option<&str>,
    tokenizer: &Tokenizer,
) -> Result<Dataset, String> {
    let tokens = tokenizer.template_tokens();
    let template = template.map(|name| ChatTemplate::builtin(name).unwrap());
    let task = match &template {
        Some(template) => Task::Conversation { template, tokens: &tokens },
        None => Task::Pretraining,
    };
    Dataset::load(options, tokenizer, task).map_err(|error| error.to_string())
}

/// The text of each sample with what is learned in ⟦…⟧; its ids are those of the whole text.
pub(crate) fn shown(options: &DataOptions, template: Option<&str>) -> Vec<String> {
    let tokenizer = tokenizer();
    let dataset = load(options, template, &tokenizer).unwrap();
    let show = |sample: danlu_data::Sample| {
        let rendered = inspect::render(&sample, &tokenizer, false, false).unwrap();
        let text = rendered.split_once('\n').unwrap().1.strip_suffix('\n').unwrap();
        let plain = text.replace(['⟦', '⟧'], "");
        assert_eq!(tokenizer.encode(&plain, SpecialTokens::Parse).unwrap(), sample.ids, "{text}");
        // ChatML ends with a line break, which is not learned.
        text.trim_end().to_owned()
    };
    dataset.samples.iter().map(show).collect()
}

pub(crate) const ASKED: &str = "<|im_start|>user\n";
pub(crate) const ANSWER: &str = "<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn every_form_of_conversations_has_its_text_ids_and_mask() {
    let folder = Folder::new();
    let turn = |question: &str, answer: &str| format!("{ASKED}{question}{ANSWER}⟦{answer}<|im_end|>⟧");
    let two = format!("{}\n{}", turn("问", "答"), turn("再问", "再答"));
    let system = "<|im_start|>system\n你是助手<|im_end|>\n";
    // file, its content, text of its first sample
    let cases: Vec<(&str, String, String)> = vec![
        ("alpaca.json", r#"[{"instruction": "翻译", "input": "你好", "output": "hello"}]"#.into(), turn("翻译\n你好", "hello")),
        (
            "history.json",
            r#"[{"instruction": "再问", "input": "", "output": "再答", "history": [["问", "答"]], "system": "你是助手"}]"#.into(),
            format!("{system}{two}"),
        ),
        ("belle.json", "{\"instruction\": \"问\\n\", \"input\": \"\", \"output\": \"答\"}\n".repeat(2), turn("问\n", "答")),
        ("stem_zh.json", "{\"instruction\": \"问\", \"input\": \"\", \"output\": \"答\"}\n".repeat(2), turn("问", "答")),
        ("prompt_answer.csv", "prompt,answer\n\"问，\n问\",NA\n".into(), turn("问，\n问", "NA")),
        ("two_columns.csv", "input,target\n问,答\n".into(), turn("问", "答")),
        ("ner.jsonl", r#"{"instruct": "提取实体", "query": "文本：北京", "answer": "北京_地名"}"#.into(), turn("提取实体\n文本：北京", "北京_地名")),
        (
            "text.csv",
            "text\n\"<s>Human: 问\n</s><s>Assistant: 答\n</s><s>Human: 再问\n</s><s>Assistant: 再答\n</s>\"\n".into(),
            two.clone(),
        ),
        // The README of the same project ends without the last mark.
        ("readme.csv", "text\n\"<s>Human: 问\n</s><s>Assistant: 答\"\n".into(), turn("问", "答")),
        (
            "math23k.json",
            "{\n  \"id\": \"1\",\n  \"original_text\": \"镇海雅乐学校二年级的小朋友\",\n  \"equation\": \"x=1+1\",\n  \"ans\": \"2\"\n}\n".repeat(2),
            turn("镇海雅乐学校二年级的小朋友", "根据方程式x=1+1解得:\n2"),
        ),
        ("lccc.json", r#"[["问", "答", "再问", "再答", "没有回答"]]"#.into(), two.clone()),
        ("lccc.jsonl", r#"{"dialog": ["问", "答"]}"#.into(), turn("问", "答")),
        // As it is published: no array around its dialogues.
        ("lccc_base_test.jsonl", "[\"问\", \"答\"]\n".repeat(2), turn("问", "答")),
        (
            "openai.jsonl",
            r#"{"messages": [{"role": "developer", "content": "你是助手"}, {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}"#.into(),
            format!("{system}{}", turn("问", "答")),
        ),
        (
            "sharegpt.json",
            r#"[{"system": "你是助手", "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}]"#.into(),
            format!("{system}{}", turn("问", "答")),
        ),
        (
            "minimind.jsonl",
            r#"{"conversations": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}"#.into(),
            turn("问", "答"),
        ),
        ("trl_strings.jsonl", r#"{"prompt": "问", "completion": "答"}"#.into(), turn("问", "答")),
        (
            // Only the completion is learned.
            "trl_lists.jsonl",
            r#"{"prompt": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}, {"role": "user", "content": "再问"}],
                "completion": [{"role": "assistant", "content": "再答"}]}"#.replace('\n', ""),
            format!("{ASKED}问{ANSWER}答<|im_end|>\n{}", turn("再问", "再答")),
        ),
        (
            // AgentInstruct
            "loss.jsonl",
            r#"{"conversations": [{"from": "human", "loss": null, "value": "问"}, {"from": "gpt", "loss": false, "value": "答"},
                {"from": "human", "value": "再问"}, {"from": "gpt", "loss": true, "value": "再答"}]}"#.replace('\n', ""),
            format!("{ASKED}问{ANSWER}答<|im_end|>\n{}", turn("再问", "再答")),
        ),
    ];
    for (name, content, expected) in cases {
        let options = options(folder.write(name, content));
        assert_eq!(shown(&options, Some("chatml"))[0], expected, "{name}");
    }
}

#[test]
fn every_form_of_corpora_has_its_text_ids_and_mask() {
    let folder = Folder::new();
    let cases = [
        ("wiki.json", json!([{"completion": "词条", "source": "wikipedia"}]).to_string(), "词条"),
        ("medical.jsonl", json!({"text": "病理"}).to_string(), "病理"),
        (
            "baike.jsonl",
            json!({"title": "红茶", "summary": "一种茶", "sections": [{"title": "产地", "content": "福建"}, {"title": "冲泡", "content": "热水"}]}).to_string(),
            "红茶：一种茶产地：福建。冲泡：热水。",
        ),
        (
            "baike_null.jsonl",
            json!({"title": "红茶", "summary": null, "sections": [{"title": "产地", "content": "福建"}]}).to_string(),
            "产地：福建。",
        ),
        ("wudao.json", json!([{"id": 1, "title": "标题", "content": "正文", "dataType": "百科"}]).to_string(), "标题\n正文"),
        ("c4.jsonl", json!({"text": "网页", "timestamp": "t", "url": "u"}).to_string(), "网页"),
        (
            "mnbvc.jsonl",
            json!({"文件名": "a.txt", "段落": [{"行号": 1, "内容": "一"}, {"行号": 2, "内容": "二"}]}).to_string(),
            "一\n二",
        ),
        (
            "webtext2019zh.json",
            json!({"qid": 1, "title": "问题", "desc": "", "topic": "生活", "star": 3, "content": "回答"}).to_string(),
            "问题\n回答",
        ),
        (
            "baike2018qa.json",
            json!({"qid": "1", "category": "c", "title": "问题", "desc": "说明", "answer": "回答"}).to_string(),
            "问题\n说明\n回答",
        ),
        ("mlx.jsonl", json!({"text": "文本"}).to_string(), "文本"),
    ];
    for (name, content, expected) in cases {
        let shown = shown(&options(folder.write(name, content)), None);
        assert_eq!(shown, [format!("<s>⟦{expected}</s>⟧")], "{name}");
    }
    // Fine-tuning rows as text (`sft_to_pretrain`), and paths into objects and lists.
    let given = |name: &str, content: Value, columns: Value| {
        let columns: Columns = serde_json::from_value(columns).unwrap();
        shown(&DataOptions { columns, ..options(folder.write(name, content.to_string())) }, None)
    };
    let row = json!({"instruction": "问", "input": "", "output": "答"});
    assert_eq!(
        given("sft.jsonl", row, json!({"text": ["instruction", "input", "output"]})),
        ["<s>⟦问\n答</s>⟧"]
    );
    let nested = json!({"meta": {"parts": [{"text": "一"}, {"text": ["二", "三"]}]}});
    assert_eq!(given("nested.jsonl", nested, json!({"text": "meta.parts.text"})), ["<s>⟦一\n二\n三</s>⟧"]);
}

#[test]
fn seed_000_the_last_partial_batch_of_baike_is_kept() {
    let folder = Folder::new();
    // One more than two batches of the reader.
    let row = |index: usize| {
        json!({"title": index.to_string(), "summary": "一种茶", "sections": []}).to_string() + "\n"
    };
    let rows: String = (0..4097).map(row).collect();
    let dataset = load(&options(folder.write("563w_baidubaike.json", rows)), None, &tokenizer()).unwrap();
    assert_eq!((dataset.report.rows, dataset.report.samples), (4097, 4097));
}

#[test]
fn seed_001_text_csv_sft() {
    let Some(data) = shared("datasets/sft-zh/dev_sft.csv") else { return };
    let tokenizer = tokenizer();
    let fixed = options(data.display().to_string());
    let of = |options: &DataOptions| load(options, Some("human_assistant"), &tokenizer).unwrap();
    let dataset = of(&fixed);
    assert_eq!(dataset.report.samples, 200);
    for (sample, record) in dataset.samples.iter().zip(Records::open(&data).unwrap()) {
        let Content::Fields(fields) = record.unwrap().content else { panic!() };
        let text = fields["text"].as_str().unwrap();
        // The row's own text, byte for byte; of it the answers with their end marks are learned.
        assert_eq!(tokenizer.decode(&sample.ids, false).unwrap(), text);
        let shown = inspect::render(&sample, &tokenizer, false, false).unwrap();
        let learned: Vec<&str> =
            shown.split('⟦').skip(1).map(|part| part.split('⟧').next().unwrap()).collect();
        let answers: Vec<&str> =
            text.split("<s>Assistant: ").skip(1).map(|part| part.split("<s>").next().unwrap()).collect();
        assert_eq!(learned, answers);
    }
    // The older project learned all of it, which is an option.
    let all = of(&DataOptions { train_on_prompt: true, ..fixed });
    assert!(all.samples.iter().all(|sample| sample.loss_weights[1..].iter().all(|&weight| weight == 1.0)));
}

#[test]
fn seed_000_sft_vector_in_its_right_form() {
    let Some(model) = shared("tokenizers/chatglm2-3/tokenizer.model") else { return };
    let tokenizer = Tokenizer::open(&model).unwrap();
    let folder = Folder::new();
    let rows = folder.write("sft.csv", "prompt,answer\n问题是什么？,答案\n");
    let dataset =
        load(&DataOptions { cutoff_len: 12, ..options(rows) }, Some("baby_llama2"), &tokenizer).unwrap();
    let sample = dataset.samples.get(0);
    assert_eq!(sample.ids, [30910, 31639, 32664, 31514, 1, 30910, 33161, 2]);
    // As the mask of the next tokens: 0 0 0 0 1 1 1.
    assert_eq!(sample.loss_weights, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
}

#[test]
fn seed_004_ner_rows_keep_prompt_and_answer_apart() {
    let Some(data) = shared("datasets/msra/eval.txt") else { return };
    let text = std::fs::read_to_string(&data).unwrap();
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let part = |name: &str| row[name].as_str().unwrap().to_owned();
    let rows =
        shown(&DataOptions { max_samples: Some(1), ..options(data.display().to_string()) }, Some("chatml"));
    let expected =
        format!("{ASKED}{}\n{}{ANSWER}⟦{}<|im_end|>⟧", part("instruct"), part("query"), part("answer"));
    assert_eq!(rows, [expected]);
}

/// The row as any purpose sees it.
pub(crate) fn read_any(row: Value) -> Result<Row, String> {
    read_any_with(row, json!({}))
}

fn read_any_with(row: Value, columns: Value) -> Result<Row, String> {
    let Value::Object(fields) = row else { panic!("{row}") };
    let (content, columns) = (Content::Fields(fields), serde_json::from_value(columns).unwrap());
    let read = |content: Content| {
        Layout::detect(&content, Purpose::Any, &columns, &Tags::default())?.read(content, None)
    };
    read(content).map_err(|problem| problem.to_string())
}

/// `prompt | chosen | rejected`, messages as `role: text`.
fn pair(row: Value) -> Result<[String; 3], String> {
    let Row::Pair(pair) = read_any(row)? else { panic!("no pair") };
    Ok([pair.prompt, pair.chosen, pair.rejected].map(|messages| {
        let texts: Vec<String> =
            messages.iter().map(|message| format!("{}: {}", message.role, message.content)).collect();
        texts.join(", ")
    }))
}

#[test]
fn preference_pairs_are_read_in_every_form() {
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let (ask, good, bad) = (said("user", "问"), said("assistant", "好"), said("assistant", "坏"));
    let from = |role: &str, text: &str| json!({"from": role, "value": text});
    let hh = |answer: &str| format!("\n\nHuman: 问\n\nAssistant: {answer}");
    let rows = [
        json!({"prompt": "问", "chosen": "好", "rejected": "坏"}),
        json!({"instruction": "问", "input": "", "chosen": "好", "rejected": "坏"}),
        json!({"question": "问", "answer_zh": "好", "answer_en": "坏"}),
        json!({"conversations": [from("human", "问")], "chosen": from("gpt", "好"), "rejected": from("gpt", "坏")}),
        json!({"messages": [ask], "chosen": good, "rejected": bad}),
        json!({"prompt": [ask], "chosen": [good], "rejected": [bad]}),
        // The prompt inside of both: MiniMind, TRL, LLaMA-Factory v1, and beside them.
        json!({"chosen": [ask, good], "rejected": [ask, bad]}),
        json!({"chosen_messages": [ask, good], "rejected_messages": [ask, bad]}),
        json!({"prompt": "问", "chosen": [ask, good], "rejected": [ask, bad]}),
        json!({"chosen": hh("好"), "rejected": hh("坏")}),
    ];
    for row in rows {
        assert_eq!(pair(row.clone()).unwrap(), ["user: 问", "assistant: 好", "assistant: 坏"], "{row}");
    }
    let same = json!({"system": "你是助手", "chosen": [ask, good], "rejected": [ask, good]});
    assert_eq!(pair(same).unwrap(), ["system: 你是助手, user: 问", "assistant: 好", "assistant: 好"]);
    let error = |row: Value| pair(row).unwrap_err();
    assert_eq!(
        error(json!({"chosen": [said("user", "一"), good], "rejected": [said("user", "二"), bad]})),
        "`chosen` and `rejected` do not answer the same messages: expected two answers to one prompt"
    );
    assert_eq!(
        error(json!({"chosen": "好", "rejected": "坏"})),
        "missing column `prompt`: the row has `chosen`, `rejected`; correct the file or `columns`"
    );
    assert_eq!(
        error(json!({"prompt": "问", "chosen": [], "rejected": "坏"})),
        "field `chosen`: expected an answer, found none"
    );
}

#[test]
fn judged_answers_and_prompts_are_read() {
    let judged = [
        (json!({"prompt": "问", "completion": "答", "label": true}), json!({})),
        (json!({"instruction": "问", "output": "答", "kto_tag": "True"}), json!({})),
        (
            json!({"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}], "good": true}),
            json!({"kto_tag": "good"}),
        ),
    ];
    for (row, columns) in judged {
        let Row::Judged(judged) = read_any_with(row, columns).unwrap() else { panic!() };
        assert!(judged.is_wanted);
        assert_eq!(judged.conversation.messages[1].content, "答");
    }
    let message =
        read_any_with(json!({"prompt": "问", "answer": "答", "good": 1}), json!({"kto_tag": "good"}))
            .unwrap_err();
    assert_eq!(message, "field `good`: expected `true` or `false`, found a number `1`");
    let Row::Prompt(prompt) = read_any(json!({"prompt": "问"})).unwrap() else { panic!() };
    assert_eq!(prompt.messages.len(), 1);
    // Neither is learned as if every answer were wanted.
    let refused = |row: Value| {
        let Value::Object(fields) = row else { panic!() };
        let (columns, tags) = (Columns::default(), Tags::default());
        Layout::detect(&Content::Fields(fields), Purpose::Conversation, &columns, &tags)
            .unwrap_err()
            .to_string()
    };
    assert!(
        refused(json!({"prompt": "问", "chosen": "好", "rejected": "坏"}))
            .contains("set `stage: dpo` to learn from both")
    );
    assert!(
        refused(json!({"prompt": "问", "completion": "答", "label": true}))
            .contains("set `stage: kto` to learn from it")
    );
}

#[test]
fn calls_of_functions_are_one_form_whatever_they_were() {
    let call = json!([{"type": "function", "function": {"name": "天气", "arguments": {"city": "北京"}}}]);
    let tool = json!({"name": "天气", "description": "查天气", "parameters": {"type": "object"}});
    let sharegpt = json!({"tools": json!([tool]).to_string(), "conversations": [
        {"from": "human", "value": "问"}, {"from": "function_call", "value": "{\"name\": \"天气\", \"arguments\": {\"city\": \"北京\"}}"},
        {"from": "observation", "value": "晴"}, {"from": "gpt", "value": "晴天"}]});
    let openai = json!({"tools": [{"type": "function", "function": tool}], "messages": [
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "天气", "arguments": "{\"city\": \"北京\"}"}}]},
        {"role": "tool", "content": "晴"}, {"role": "assistant", "content": "晴天"}]});
    let minimind = json!({"conversations": [
        {"role": "user", "content": "问", "tools": json!([tool]).to_string()},
        {"role": "assistant", "content": "", "tool_calls": "[{\"name\": \"天气\", \"arguments\": {\"city\": \"北京\"}}]"},
        {"role": "tool", "content": "晴"}, {"role": "assistant", "content": "晴天"}]});
    for row in [sharegpt, openai, minimind] {
        let Row::Conversation(conversation) = read_any(row.clone()).unwrap() else { panic!() };
        let roles: Vec<&str> = conversation.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"], "{row}");
        assert_eq!(conversation.messages[1].fields["tool_calls"], call, "{row}");
        assert_eq!(conversation.tools, [json!({"type": "function", "function": tool})], "{row}");
        assert_eq!(conversation.loss_weights, [0.0, 1.0, 0.0, 1.0]);
    }
    let thinking = json!({"conversations": [{"role": "user", "content": "问"},
        {"role": "assistant", "content": "答", "reasoning_content": "想"}]});
    let Row::Conversation(conversation) = read_any(thinking).unwrap() else { panic!() };
    assert_eq!(conversation.messages[1].fields["reasoning_content"], "想");
    let wrong = json!({"conversations": [{"from": "human", "value": "问"}, {"from": "function_call", "value": "天气()"}]});
    assert_eq!(
        read_any(wrong).unwrap_err(),
        "field `conversations[1].value`: expected JSON objects with `name` and `arguments`, found a text `\"天气()\"`"
    );
    let wrong = json!({"messages": [{"role": "user", "content": "问"}], "tools": "天气"});
    assert_eq!(
        read_any(wrong).unwrap_err(),
        "field `tools`: expected a JSON list of functions, found a text `\"天气\"`"
    );
}

#[test]
fn llama_factorys_own_data_sets_load_unchanged() {
    let Some(folder) = shared("datasets/llama-factory") else { return };
    let info: BTreeMap<String, Value> =
        serde_json::from_slice(&std::fs::read(folder.join("dataset_info.json")).unwrap()).unwrap();
    let output = Folder::new();
    let mut seen = Vec::new();
    for (name, entry) in info {
        let Some(file) = entry["file_name"].as_str().filter(|file| folder.join(file).exists()) else {
            continue;
        };
        let options = DataOptions { dataset_dir: folder.clone(), ..options(name.clone()) };
        let is_pair = entry["ranking"] == true;
        let form = match (is_pair, name.as_str()) {
            (true, _) => Form::Dpo,
            (false, "kto_en_demo") => Form::Kto,
            (false, "wiki_demo") => Form::Text,
            _ => Form::Openai,
        };
        let converted = convert(&options, form, None, &output.path("rows.jsonl")).unwrap();
        assert_eq!(converted.written, converted.report.rows, "{file}");
        assert!(converted.report.notices.is_empty(), "{name}: {:?}", converted.report.notices);
        seen.push((name, converted.written));
    }
    let seen: Vec<(&str, u64)> = seen.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
    assert_eq!(
        seen,
        [
            ("alpaca_en_demo", 999),
            ("alpaca_zh_demo", 1000),
            ("dpo_en_demo", 300),
            ("dpo_zh_demo", 300),
            ("glaive_toolcall_zh_demo", 300),
            ("identity", 91),
            ("kto_en_demo", 300),
            ("wiki_demo", 1),
        ]
    );
    for (file, form, rows) in [("v1_sft_demo.jsonl", Form::Openai, 500), ("v1_dpo_demo.jsonl", Form::Dpo, 10)]
    {
        let options = options(folder.join(file).display().to_string());
        assert_eq!(convert(&options, form, None, &output.path("rows.jsonl")).unwrap().written, rows);
    }
}

#[test]
fn token_files_give_the_samples_of_their_texts() {
    let folder = Folder::new();
    let tokenizer = tokenizer();
    let corpus = folder.write(
        "corpus.jsonl",
        "{\"text\": \"数控加工\"}\n{\"text\": \"用挤出机挤塑生产塑料制品\"}\n{\"text\": \"短\"}\n",
    );
    let texts = DataOptions { cutoff_len: 8, ..options(corpus.clone()) };
    let expected = load(&texts, None, &tokenizer).unwrap();
    for (name, headerless) in [("shards", false), ("flat.bin", true)] {
        let encoding = danlu_data::CorpusTokens {
            files: vec![corpus.clone().into()],
            columns: Columns::default(),
            tokenizer: &tokenizer,
            reading: danlu_data::ReadOptions::default(),
            end_of_document: tokenizer.eos_id(),
            min_tokens: 0,
            threads: 1,
        };
        let output = folder.path(name);
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        encode_corpus(&encoding, &output, headerless, 8, go_on).unwrap();
        let of_tokens = DataOptions { dataset: vec![output.display().to_string()], ..texts.clone() };
        let dataset = load(&of_tokens, None, &tokenizer).unwrap();
        let pieces = |dataset: &Dataset| -> Vec<(Vec<u32>, Vec<f32>)> {
            dataset.samples.iter().map(|sample| (sample.ids.clone(), sample.loss_weights.clone())).collect()
        };
        assert_eq!(pieces(&dataset), pieces(&expected), "{name}");
        assert_eq!(dataset.report.rows, 3);
        let refused = load(&of_tokens, Some("chatml"), &tokenizer).unwrap_err();
        assert!(
            refused.contains("it holds token ids: expected rows with columns, or `stage: pt`"),
            "{refused}"
        );
    }
    // A document is found by its number.
    let one = DataOptions {
        dataset: vec![folder.path("flat.bin").display().to_string()],
        max_samples: Some(1),
        ..texts
    };
    assert_eq!(load(&one, None, &tokenizer).unwrap().report.rows, 1);
}

#[test]
fn seed_000_bin_dataset() {
    let folder = Folder::new();
    let tokenizer = tokenizer();
    let ids: Vec<u16> = (0..1030).map(|index| 10 + index % 300).collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let file = folder.write("pretrain.bin", &bytes);
    let rows = DataOptions { cutoff_len: 512, token_files: TokenFileUnit::Rows, ..options(file) };
    let dataset = load(&rows, None, &tokenizer).unwrap();
    let wide: Vec<u32> = ids.iter().map(|&id| u32::from(id)).collect();
    assert_eq!(dataset.samples.len(), 2);
    for (sample, row) in dataset.samples.iter().zip(wide.chunks(512)) {
        // X is all ids but the last, Y all but the first.
        assert_eq!(sample.ids, row);
        assert_eq!(sample.trained_tokens(), 511);
    }
    assert!(dataset.report.notices[0].starts_with("the last 6 ids of"), "{:?}", dataset.report.notices);

    let error =
        |name: &str, bytes: &[u8]| load(&options(folder.write(name, bytes)), None, &tokenizer).unwrap_err();
    assert!(error("odd.bin", &bytes[..7]).ends_with("odd.bin`: found 7 bytes: expected ids of 2 bytes"));
    assert!(error("foreign.bin", &[5, 0, 0xff, 0xff]).ends_with(
        "foreign.bin`: id 65535 at position 2 is outside of the vocabulary of 320: expected ids that this vocabulary has cut"
    ));
    assert!(error("empty.bin", &[]).contains("no sample is left of 0 rows"));
}
