//! Rows written in another form: what survives, what cannot, and the texts of the older projects' converters.

use crate::common;
use crate::formats::{load, options, read_any};

use std::collections::BTreeMap;
use std::path::Path;

use common::{Folder, tokenizer};
use danlu_data::conversion::{Conversion, Form, OlderForm, convert};
use danlu_data::{Content, DataOptions, OnBadRow, Records};
use serde_json::{Value, json};

fn read_json(path: &Path) -> Vec<Value> {
    let record = |record: danlu_data::Result<danlu_data::Record>| match record.unwrap().content {
        Content::Fields(fields) => Value::Object(fields),
        Content::Text(text) => json!(text),
    };
    Records::open(path).unwrap().map(record).collect()
}

fn converted(
    folder: &Folder,
    rows: &str,
    form: Form,
    older: Option<OlderForm>,
) -> Result<(Vec<Value>, Conversion), String> {
    let options = options(folder.write("in.json", rows));
    let output = folder.path("out.jsonl");
    let conversion = convert(&options, form, older, &output).map_err(|error| error.to_string())?;
    Ok((read_json(&output), conversion))
}

#[test]
fn rows_survive_every_form_that_can_hold_them() {
    let folder = Folder::new();
    let sources = [
        (
            r#"[{"instruction": "再问", "input": "细节", "output": "再答", "system": "你是助手", "history": [["问", "答"]]}]"#,
            vec![Form::Alpaca, Form::Sharegpt, Form::Openai, Form::Trl, Form::Minimind, Form::Text],
        ),
        (
            r#"[{"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "loss_weight": 0.1},
                {"role": "user", "content": "再问"}, {"role": "assistant", "content": "再答", "reasoning_content": "想"}]}]"#,
            vec![Form::Sharegpt, Form::Openai, Form::Minimind],
        ),
        (
            r#"[{"prompt": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}, {"role": "user", "content": "再问"}],
                "completion": [{"role": "assistant", "content": "再答"}]}]"#,
            vec![Form::Sharegpt, Form::Openai, Form::Trl, Form::Minimind],
        ),
        (
            r#"[{"tools": [{"type": "function", "function": {"name": "天气"}}], "messages": [{"role": "user", "content": "问"},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "天气", "arguments": {"city": "北京"}}}]},
                {"role": "tool", "content": "晴"}, {"role": "assistant", "content": "晴天"}]}]"#,
            vec![Form::Sharegpt, Form::Openai, Form::Trl, Form::Minimind],
        ),
        (
            r#"[{"system": "你是助手", "instruction": "问", "chosen": "好", "rejected": "坏", "history": [["一", "二"]]}]"#,
            vec![Form::Alpaca, Form::Sharegpt, Form::Openai, Form::Trl, Form::Minimind, Form::Dpo],
        ),
        (
            r#"[{"prompt": "问", "completion": "答", "label": false}]"#,
            vec![Form::Alpaca, Form::Sharegpt, Form::Openai, Form::Trl, Form::Kto],
        ),
        (r#"[{"prompt": "问，\n问", "answer": "NA"}]"#, vec![Form::PromptAnswer, Form::Alpaca, Form::Text]),
        (r#"[{"title": "标题", "content": "正文"}]"#, vec![Form::Text, Form::Trl, Form::Minimind]),
        (r#"[{"prompt": "问"}]"#, vec![Form::Trl]),
    ];
    for (rows, forms) in sources {
        let Content::Fields(fields) = Records::open(Path::new(&folder.write("in.json", rows)))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .content
        else {
            panic!()
        };
        let source = read_any(Value::Object(fields)).unwrap();
        for form in forms {
            let (written, conversion) = converted(&folder, rows, form, None).unwrap();
            assert!(conversion.lost.is_empty(), "{form:?}: {:?}", conversion.lost);
            assert_eq!(read_any(written[0].clone()).unwrap(), source, "{form:?}: {written:?}");
        }
    }
}

#[test]
fn what_a_form_cannot_hold_is_named_with_its_place() {
    let folder = Folder::new();
    let error = |rows: &str, form: Form| {
        let message = converted(&folder, rows, form, None).unwrap_err();
        assert!(!folder.path("out.jsonl").exists());
        message.split_once("in.json:").unwrap_or_else(|| panic!("{message}")).1.to_owned()
    };
    let system = r#"[{"prompt": "问", "answer": "答"}, {"prompt": "问", "answer": "答", "system": "你是"}]"#;
    assert_eq!(
        error(&system.replace("}, ", "},\n"), Form::PromptAnswer),
        "2: the form `prompt-answer-csv` has no place for a system message or more than one turn: choose another one with \
         `--to`, or set `on_bad_row: skip`"
    );
    let one = r#"[{"prompt": "问", "answer": "答"}]"#;
    assert!(
        error(one, Form::Dpo)
            .starts_with("1: the form `dpo` has no place for an answer that nothing judges or rejects")
    );
    assert!(
        error(r#"[{"text": "文"}]"#, Form::Alpaca)
            .starts_with("1: the form `alpaca` has no place for a document without turns")
    );
    let pair = r#"[{"prompt": "问", "chosen": "好", "rejected": "坏"}]"#;
    assert!(error(pair, Form::Text).starts_with("1: the form `text` has no place for a preference pair"));
    let (rows, _) = converted(&folder, pair, Form::Kto, None).unwrap();
    assert_eq!(rows.iter().map(|row| row["label"].clone()).collect::<Vec<_>>(), [json!(true), json!(false)]);
    std::fs::remove_file(folder.path("out.jsonl")).unwrap();

    let weighed = r#"[{"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "loss_weight": 0.5, "reasoning_content": "想"}]}]"#;
    let (_, conversion) = converted(&folder, weighed, Form::Alpaca, None).unwrap();
    assert_eq!(conversion.lost, BTreeMap::from([("loss weights", 1), ("thoughts (`reasoning_content`)", 1)]));

    let options = options(folder.write("same.jsonl", "{\"prompt\": \"问\", \"answer\": \"答\"}\n"));
    let message = convert(&options, Form::Openai, None, &folder.path("same.jsonl")).unwrap_err().to_string();
    assert!(message.contains("would be written into the input"), "{message}");
    let options = DataOptions { dataset: vec![folder.path("").display().to_string()], ..options };
    let message = convert(&options, Form::Openai, None, &folder.path("new.jsonl")).unwrap_err().to_string();
    assert!(message.ends_with("choose a place outside of it"), "{message}");
    // Placeholders stay what they are.
    let (rows, conversion) =
        converted(&folder, r#"[{"prompt": "你是谁", "answer": "我是{{name}}"}]"#, Form::Alpaca, None)
            .unwrap();
    assert_eq!(rows[0]["output"], "我是{{name}}");
    assert!(conversion.report.unfilled_placeholders.is_empty());
}

#[test]
fn seed_000_alpaca_to_csv() {
    let folder = Folder::new();
    let row = |prompt: usize, answer: usize| json!({"instruction": "问".repeat(prompt - 1), "input": "，", "output": "答".repeat(answer)});
    let sizes = [(9, 5), (10, 5), (256, 256), (257, 5), (10, 4), (10, 257), (10, 256)];
    let mut rows: Vec<Value> = sizes.iter().map(|(prompt, answer)| row(*prompt, *answer)).collect();
    rows.push(
        json!({"instruction": "引号\"与,\n换行还有一些字", "input": "NA", "output": "null\nNA, \"答\""}),
    );
    let options = options(folder.write("alpaca.json", json!(rows).to_string()));
    let output = folder.path("sft.csv");
    let conversion = convert(&options, Form::PromptAnswer, Some(OlderForm::BabyLlama2), &output).unwrap();
    assert_eq!(
        (conversion.report.rows, conversion.written, conversion.report.filtered.values().sum::<u64>()),
        (8, 4, 4)
    );
    assert!(std::fs::read_to_string(&output).unwrap().starts_with("prompt,answer\n"));
    let written = read_json(&output);
    let lengths: Vec<(usize, usize)> = written[..3]
        .iter()
        .map(|row| {
            (row["prompt"].as_str().unwrap().chars().count(), row["answer"].as_str().unwrap().chars().count())
        })
        .collect();
    assert_eq!(lengths, [(10, 5), (256, 256), (10, 256)]);
    assert_eq!(written[3], json!({"prompt": "引号\"与,\n换行还有一些字NA", "answer": "null\nNA, \"答\""}));
    // The same limits as keys of a recipe, for the rows as they are trained on.
    let limits = DataOptions {
        min_prompt_chars: Some(11),
        max_prompt_chars: Some(256),
        min_answer_chars: Some(5),
        max_answer_chars: Some(256),
        ..options
    };
    let dataset = load(&limits, Some("chatml"), &tokenizer()).unwrap();
    // The line break between instruction and input counts too.
    assert_eq!((dataset.report.samples, dataset.report.filtered.values().sum::<u64>()), (3, 5));
}

#[test]
fn seed_001_math23k_convert() {
    let folder = Folder::new();
    let good = |id: u32| {
        format!(
            "{{\n  \"id\":\"{id}\",\n  \"original_text\":\"有{id}个\",\n  \"segmented_text\":\"有 {id} 个\",\n  \"equation\":\"x={id}\",\n  \"ans\":\"{id}\"\n}}\n"
        )
    };
    let rows = format!("{}{{\n  \"id\":\"2\",\n  \"original_text\":\n}}\n{}", good(1), good(3));
    let of = |form: Form| {
        let options =
            DataOptions { on_bad_row: OnBadRow::Skip, ..options(folder.write("math23k.json", &rows)) };
        let output = folder.path("out.json");
        let conversion = convert(&options, form, Some(OlderForm::LiteraryAlpaca2), &output).unwrap();
        assert_eq!(conversion.report.skipped["invalid JSON"].rows, 1);
        read_json(&output)
    };
    assert_eq!(
        of(Form::Text),
        [1, 3].map(|id| json!({"text": format!("<s>Human: 有{id}个</s><s>Assistant: 根据方程式x={id}解得:\n{id}</s>")}))
    );
    assert_eq!(
        of(Form::Alpaca),
        [1, 3].map(|id| json!({"instruction": format!("有{id}个"), "input": format!("根据方程式:x={id}"), "output": format!("解得:{id}")}))
    );
}

#[test]
fn seed_001_lccc_convert() {
    let folder = Folder::new();
    let rows = r#"[["你好", "你好呀", "吃了吗"], ["一", "二"]]"#;
    let (older, _) = converted(&folder, rows, Form::Text, Some(OlderForm::LiteraryAlpaca2)).unwrap();
    assert_eq!(older[0]["text"], "<s>Human: 你好\n</s><s>Assistant: 你好呀\n</s><s>Human: 吃了吗\n</s>");
    // The last question has no answer to learn.
    let (text, _) = converted(&folder, rows, Form::Text, None).unwrap();
    assert_eq!(text[0]["text"], "<s>Human: 你好\n</s><s>Assistant: 你好呀\n</s>");
    // Turns, where the older file had a list for an output.
    let (alpaca, _) = converted(&folder, r#"[["一", "二", "三", "四"]]"#, Form::Alpaca, None).unwrap();
    assert_eq!(
        alpaca,
        [json!({"instruction": "三", "input": "", "output": "四", "history": [["一", "二"]]})]
    );
}
