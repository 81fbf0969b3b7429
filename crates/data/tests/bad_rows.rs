//! Rows and token files that are wrong, or only look so: what is said of them, and the complaints that such files gave
//! rise to elsewhere.

use crate::common;
use crate::formats::{ANSWER, ASKED, load, options, shown};

use common::{Folder, tokenizer};
use danlu_data::conversion::{Form, convert};
use danlu_data::{DataOptions, OnBadRow};
use serde_json::{Value, json};

/// The message for the second row of a file whose first is good.
fn second_row(rows: &str) -> String {
    let folder = Folder::new();
    let message = load(&options(folder.write("rows.jsonl", rows)), Some("chatml"), &tokenizer()).unwrap_err();
    message.split_once("rows.jsonl:").unwrap_or_else(|| panic!("{message}")).1.to_owned()
}

const GOOD: &str = r#"{"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}"#;

#[test]
fn lf_2529_and_glaive_rows_need_no_strict_alternation() {
    let folder = Folder::new();
    let row =
        GOOD.replace(r#"{"from": "gpt""#, r#"{"from": "function_response", "value": "{}"}, {"from": "gpt""#);
    let options = options(folder.write("rows.jsonl", row));
    assert_eq!(
        shown(&options, Some("chatml"))[0],
        format!("{ASKED}问<|im_end|>\n<|im_start|>tool\n{{}}{ANSWER}⟦答<|im_end|>⟧")
    );
}

#[test]
fn lf_2381_and_axolotl_325_a_wrong_role_names_file_line_field_and_the_nearest() {
    let bad = GOOD.replace("human", "humman");
    assert_eq!(
        second_row(&format!("{GOOD}\n{bad}\n")),
        "2: field `conversations[0].from`: unknown role `humman`, expected `system`, `user` (`human`), `assistant` (`gpt`) or \
         `tool`; did you mean `human`?; name your roles with `tags` in `dataset_info.json`, or set `on_bad_row: skip`"
    );
}

#[test]
fn lf_6878_and_pr_10601_one_bad_role_does_not_kill_the_rest() {
    let folder = Folder::new();
    let rows = format!("{GOOD}\n{}\n{GOOD}\n", GOOD.replace("gpt", "bing"));
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..options(folder.write("rows.jsonl", rows)) };
    let report = load(&skip, Some("chatml"), &tokenizer()).unwrap().report;
    assert_eq!((report.samples, report.skipped["unknown role `bing`"].rows), (2, 1));
    // In a preference pair too.
    let pair = r#"{"conversations": [{"from": "human", "value": "问"}], "chosen": {"from": "gpt", "value": "好"}, "rejected": {"from": "gpt", "value": "坏"}}"#;
    let rows = format!(
        "{pair}\n{}\n",
        pair.replace(r#"{"from": "gpt", "value": "坏"}"#, r#"{"from": "bing", "value": "坏"}"#)
    );
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..options(folder.write("pairs.jsonl", rows)) };
    let conversion = convert(&skip, Form::Dpo, None, &folder.path("out.jsonl")).unwrap();
    assert_eq!((conversion.written, conversion.report.skipped["unknown role `bing`"].rows), (1, 1));
    assert!(
        conversion.report.skipped["unknown role `bing`"]
            .first
            .contains("pairs.jsonl:2: field `rejected.from`")
    );
}

#[test]
fn trl_1777_conversations_need_no_text_field() {
    let folder = Folder::new();
    let row = r#"{"id": 7, "messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}"#;
    assert_eq!(shown(&options(folder.write("rows.jsonl", row)), Some("chatml")).len(), 1);
}

#[test]
fn unsloth_337_and_mixed_schemas_name_the_row_that_differs() {
    let rows = "{\"instruction\": \"问\", \"output\": \"答\"}\n{\"prompt\": \"问\", \"answer\": \"答\"}\n";
    assert_eq!(
        second_row(rows),
        "2: missing column `instruction`: the row has `prompt`, `answer`; correct the file or `columns`, or set \
         `on_bad_row: skip`"
    );
    let long = "很".repeat(100);
    assert_eq!(
        second_row(&format!(
            "{GOOD}\n{{\"conversations\": [{{\"from\": \"human\", \"value\": {{\"{long}\": 1}}}}]}}\n"
        )),
        format!(
            "2: field `conversations[0].value`: expected text, found an object `{{\"{}…`, or set `on_bad_row: skip`",
            "很".repeat(38)
        )
    );
    assert_eq!(
        second_row(&format!("{GOOD}\n{{\"conversations\": \"问\"}}\n")),
        "2: field `conversations`: expected a list of messages, found a text `\"问\"`, or set `on_bad_row: skip`"
    );
}

#[test]
fn minimind_empty_answers_are_counted_and_not_learned() {
    let folder = Folder::new();
    let empty = GOOD.replace('答', "");
    let report = load(
        &options(folder.write("rows.jsonl", format!("{GOOD}\n{empty}\n"))),
        Some("chatml"),
        &tokenizer(),
    )
    .unwrap()
    .report;
    assert_eq!((report.rows, report.samples, report.empty), (2, 1, 1));
}

#[test]
fn a_text_that_loses_its_marks_is_shown() {
    let folder = Folder::new();
    let rows = folder.write("rows.csv", "text\n\"<s>Human: 问\n</s>然后呢？\"\n\"<s>Human: </s> 是什么\n</s><s>Assistant: 结束符 </s> 呀\n</s>\"\n");
    let all = load(&options(rows.clone()), Some("human_assistant"), &tokenizer()).unwrap_err();
    // The first turn runs on to the end of the text, for no mark of a turn follows.
    assert!(all.contains("rows.csv:2: the conversation has no answer"), "{all}");
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..options(rows) };
    let samples = load(&skip, Some("human_assistant"), &tokenizer()).unwrap();
    assert_eq!(samples.report.samples, 1);
}

#[test]
fn damaged_token_folders_are_told() {
    let folder = Folder::new();
    let tokenizer = tokenizer();
    let path = folder.path("tokens");
    std::fs::create_dir(&path).unwrap();
    let index = |tokens: u64, file: &str| {
        json!({"key": "k", "dtype": "uint16", "vocabulary_size": 320, "records": 1, "documents": 1, "tokens": tokens,
               "shards": [{"file": file, "tokens": tokens, "documents": 1}]})
    };
    let error = |index: Value, ends: &[u64]| {
        std::fs::write(path.join("index.json"), index.to_string()).unwrap();
        std::fs::write(path.join("shard-00000.bin"), [10, 0, 11, 0]).unwrap();
        let ends: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        std::fs::write(path.join("shard-00000.idx"), ends).unwrap();
        load(&options(path.display().to_string()), None, &tokenizer)
    };
    assert_eq!(error(index(2, "shard-00000.bin"), &[2]).unwrap().report.rows, 1);
    for tokens in [3, u64::MAX] {
        let message = error(index(tokens, "shard-00000.bin"), &[2]).unwrap_err();
        assert!(message.ends_with(&format!("found 4 bytes: expected {tokens} ids of 2 bytes")), "{message}");
    }
    for ends in [&[1][..], &[2, 1, 2], &[9], &[]] {
        assert!(
            error(index(2, "shard-00000.bin"), ends)
                .unwrap_err()
                .contains("the `.idx` file beside it is of another one")
        );
    }
    assert!(error(index(2, "../../../etc/passwd"), &[2]).unwrap_err().contains("passwd"));
}
