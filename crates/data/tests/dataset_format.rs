//! Columns → documents and conversations, for every known layout, and what the messages say about wrong columns.

use danlu_data::dataset_format::{Layout, Purpose, Row, Tags};
use danlu_data::{Columns, Content};
use serde_json::{Value, json};

fn content(value: Value) -> Content {
    match value {
        Value::Object(fields) => Content::Fields(fields),
        Value::String(text) => Content::Text(text),
        other => panic!("{other}"),
    }
}

fn columns(value: Value) -> Columns {
    serde_json::from_value(value).unwrap()
}

/// The document, or the turns as `role: text`.
fn read_as(purpose: Purpose, columns: &Columns, tags: &Tags, row: Value) -> Result<Vec<String>, String> {
    let content = content(row);
    let layout = Layout::detect(&content, purpose, columns, tags).map_err(|problem| problem.to_string())?;
    match layout.read(content, None).map_err(|problem| problem.to_string())? {
        Row::Document(text) => Ok(vec![text]),
        Row::Conversation(conversation) => Ok(conversation
            .messages
            .iter()
            .map(|message| format!("{}: {}", message.role, message.content))
            .collect()),
        other => panic!("{other:?}"),
    }
}

fn document(given: Value, row: Value) -> Result<String, String> {
    read_as(Purpose::Pretraining, &columns(given), &Tags::default(), row).map(|texts| texts.concat())
}

fn conversation(row: Value) -> Result<Vec<String>, String> {
    read_as(Purpose::Conversation, &Columns::default(), &Tags::default(), row)
}

fn conversation_with(given: Value, row: Value) -> Result<Vec<String>, String> {
    read_as(Purpose::Conversation, &columns(given), &Tags::default(), row)
}

#[test]
fn documents_are_text_columns_and_lists_of_lines() {
    assert_eq!(document(json!({}), json!("全文")).unwrap(), "全文");
    assert_eq!(document(json!({}), json!({"text": "全文", "id": 3})).unwrap(), "全文");
    let poem = json!({"title": "度关山", "author": null, "paragraphs": ["天地间，人为贵。", "立君牧民，为之轨则。"]});
    assert_eq!(
        document(json!({"text": "paragraphs"}), poem.clone()).unwrap(),
        "天地间，人为贵。\n立君牧民，为之轨则。"
    );
    assert_eq!(
        document(json!({"text": ["title", "author", "content", "paragraphs"]}), poem).unwrap(),
        "度关山\n天地间，人为贵。\n立君牧民，为之轨则。"
    );
    assert_eq!(document(json!({"prompt": "completion"}), json!({"completion": "百科"})).unwrap(), "百科");
}

#[test]
fn firefly_has_question_and_answer_in_one_object() {
    let row = json!({"conversation_id": 7, "category": "Brainstorming", "conversation": [
        {"human": "车床是什么？", "assistant": "一种机床。"},
        {"human": "铣床呢？", "assistant": "也是机床。", "loss_weight": 0},
    ]});
    let expected = ["user: 车床是什么？", "assistant: 一种机床。", "user: 铣床呢？", "assistant: 也是机床。"];
    assert_eq!(conversation(row.clone()).unwrap(), expected);
    let content = content(row);
    let detect = |purpose| Layout::detect(&content, purpose, &Columns::default(), &Tags::default()).unwrap();
    let Row::Conversation(read) = detect(Purpose::Any).read(content.clone(), None).unwrap() else { panic!() };
    assert_eq!(read.loss_weights, [0.0, 1.0, 0.0, 0.0]);
    let wrong = json!({"conversation": [{"human": "车床？", "assistant": ["一种"]}]});
    assert!(conversation(wrong).unwrap_err().starts_with("field `conversation[0].assistant"));
    for (half, missing) in
        [(json!({"human": "车床？"}), "assistant"), (json!({"assistant": "机床。"}), "human")]
    {
        let error = conversation(json!({"conversation": [half]})).unwrap_err();
        assert!(error.ends_with(&format!("expected a question and its answer, add `{missing}`")), "{error}");
    }
}

#[test]
fn alpaca_joins_instruction_and_input_and_learns_history() {
    assert_eq!(
        conversation(json!({"instruction": "翻译", "input": "你好", "output": "hello"})).unwrap(),
        ["user: 翻译\n你好", "assistant: hello"]
    );
    assert_eq!(
        conversation(json!({"instruction": "hi", "input": "", "output": "hello"})).unwrap(),
        ["user: hi", "assistant: hello"]
    );
    assert_eq!(
        conversation(json!({"instruction": "hi", "output": 5})).unwrap(),
        ["user: hi", "assistant: 5"]
    );
    let row = json!({"instruction": "三", "input": null, "output": "3", "system": "数数",
                     "history": [["一", "1"], ["二", "2"]]});
    assert_eq!(
        conversation(row).unwrap(),
        ["system: 数数", "user: 一", "assistant: 1", "user: 二", "assistant: 2", "user: 三", "assistant: 3"]
    );
}

#[test]
fn prompt_answer_and_its_relatives_are_known() {
    for row in [
        json!({"prompt": "问", "answer": "答"}),
        json!({"prompt": "问", "response": "答"}),
        json!({"prompt": "问", "completion": "答"}),
        json!({"question": "问", "answer": "答"}),
        json!({"query": "问", "response": "答"}),
        json!({"instruct": "问", "answer": "答"}),
        json!({"instruct": "问", "query": "", "answer": "答"}),
    ] {
        assert_eq!(conversation(row).unwrap(), ["user: 问", "assistant: 答"]);
    }
    assert_eq!(
        conversation(json!({"instruct": "提取实体", "query": "文本：北京", "answer": "北京_地名"})).unwrap(),
        ["user: 提取实体\n文本：北京", "assistant: 北京_地名"]
    );
}

#[test]
fn messages_take_both_spellings_and_end_with_an_answer() {
    let expected = ["system: 你是助手", "user: 问", "assistant: 答"];
    let openai = json!({"messages": [{"role": "system", "content": "你是助手"}, {"role": "user", "content": "问"},
                                     {"role": "assistant", "content": [{"type": "text", "text": "答"}]}]});
    assert_eq!(conversation(openai).unwrap(), expected);
    let sharegpt = json!({"system": "你是助手", "conversations": [{"from": "human", "value": "问"},
                          {"from": "gpt", "value": "答"}, {"from": "human", "value": "还有？"}]});
    assert_eq!(conversation(sharegpt).unwrap(), expected);
    let tags = Tags {
        role: Some("who".to_owned()),
        content: Some("says".to_owned()),
        user: Some("客户".to_owned()),
        assistant: Some("客服".to_owned()),
        ..Tags::default()
    };
    let tagged = json!({"turns": [{"who": "客户", "says": "问"}, {"who": "客服", "says": "答"}]});
    assert_eq!(
        read_as(Purpose::Conversation, &columns(json!({"messages": "turns"})), &tags, tagged).unwrap(),
        expected[1..]
    );
}

#[test]
fn columns_go_before_the_usual_names() {
    let row = json!({"指令": "翻译", "输入": "你好", "答案": "hello", "output": "no"});
    assert_eq!(
        conversation_with(json!({"prompt": "指令", "query": "输入", "response": "答案"}), row.clone())
            .unwrap(),
        ["user: 翻译\n你好", "assistant: hello"]
    );
    assert_eq!(conversation_with(json!({"prompt": "指令"}), row).unwrap(), ["user: 翻译", "assistant: no"]);
    let row = json!({"instruction": "翻译", "input": "你好", "好答案": "hello", "output": "no"});
    assert_eq!(
        conversation_with(json!({"response": "好答案"}), row).unwrap(),
        ["user: 翻译", "assistant: hello"]
    );
}

#[test]
fn the_default_system_fills_only_rows_without_one() {
    let read = |row: Value| {
        let content = content(row);
        let layout =
            Layout::detect(&content, Purpose::Conversation, &Columns::default(), &Tags::default()).unwrap();
        let Row::Conversation(conversation) = layout.read(content, Some("默认")).unwrap() else { panic!() };
        conversation.messages[0].content.clone()
    };
    assert_eq!(read(json!({"prompt": "问", "answer": "答"})), "默认");
    assert_eq!(read(json!({"instruction": "问", "output": "答", "system": "自己的"})), "自己的");
    assert_eq!(
        read(
            json!({"messages": [{"role": "system", "content": "自己的"}, {"role": "assistant", "content": "答"}]})
        ),
        "自己的"
    );
}

#[test]
fn wrong_columns_list_what_is_there_and_the_nearest() {
    assert_eq!(
        document(json!({"text": "paragraph"}), json!({"title": "a", "paragraphs": ["b"]})).unwrap_err(),
        "missing column `paragraph`: the row has `title`, `paragraphs`; did you mean `paragraphs`?; \
         correct the file or `columns`"
    );
    assert_eq!(
        document(json!({}), json!({})).unwrap_err(),
        "missing column `text`: the row has no columns; correct the file or `columns`"
    );
    assert_eq!(
        conversation(json!({"id": 1, "instruction": "a", "outptu": "b"})).unwrap_err(),
        "the row has the columns `id`, `instruction`, `outptu`: expected `instruction` and `output`, `prompt` and \
         `answer`, `instruct`, `query` and `answer`, or `messages`; did you mean `output` by `outptu`?; \
         name your columns with `columns`"
    );
    assert_eq!(
        conversation(json!("全文")).unwrap_err(),
        "found a plain text document: expected rows with columns, such as `instruction` and `output`"
    );
}

#[test]
fn wrong_values_name_their_field() {
    let message = |content: Value, role: &str| {
        let answer = json!({"role": role, "content": content});
        conversation(json!({"messages": [{"role": "user", "content": "问"}, answer]})).unwrap_err()
    };
    assert_eq!(message(json!(null), "assistant"), "field `messages[1].content`: expected text, found null");
    assert_eq!(
        message(json!([{"type": "image"}]), "assistant"),
        "field `messages[1].content[0]`: expected a part of type `text`, found an object `{\"type\":\"image\"}`"
    );
    assert_eq!(
        message(json!("答"), "观察"),
        "field `messages[1].role`: unknown role `观察`, expected `system`, `user` (`human`), `assistant` (`gpt`) or \
         `tool`; name your roles with `tags` in `dataset_info.json`"
    );
    assert_eq!(
        conversation(json!({"messages": [{"role": "user", "content": "问"}]})).unwrap_err(),
        "the conversation has no answer: expected at least one message by `assistant` after one by `user`"
    );
    assert_eq!(
        conversation(json!({"instruction": "a", "output": ["b", "c"]})).unwrap_err(),
        "field `output`: expected text, found a list `[\"b\",\"c\"]`"
    );
    assert_eq!(
        conversation(json!({"instruction": "a", "output": "b", "history": [["x"]]})).unwrap_err(),
        "field `history[0]`: expected a list of pairs of question and answer, found a list `[\"x\"]`"
    );
    assert_eq!(
        document(json!({}), json!({"text": ["a", {"b": 1}]})).unwrap_err(),
        "field `text[1]`: expected text, found an object `{\"b\":1}`"
    );
}
