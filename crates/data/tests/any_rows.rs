//! Rows of whatever shape: they are read or refused, and never a reason to panic.

use danlu_data::dataset_format::{Layout, Purpose, Row, Tags};
use danlu_data::{Columns, Content};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Names that mean something somewhere.
const NAMES: [&str; 26] = [
    "text",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "messages",
    "conversations",
    "role",
    "from",
    "content",
    "value",
    "label",
    "tools",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "history",
    "instruction",
    "input",
    "output",
    "dialogue",
    "sections",
    "title",
    "summary",
    "loss_weight",
];
const TEXTS: [&str; 12] = [
    "",
    "user",
    "assistant",
    "system",
    "tool",
    "function_call",
    "true",
    "[]",
    "{}",
    "<s>Human: 问</s>",
    "\n\nHuman: 问",
    "<s>Assistant:",
];

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&TEXTS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let name = prop::sample::select(&NAMES[..]).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_row_is_a_reason_to_panic(rows in prop::collection::vec(anything(), 2)) {
        let (columns, tags) = (Columns::default(), Tags::default());
        let contents: Vec<Content> = rows
            .into_iter()
            .filter_map(|row| match row {
                Value::Object(fields) => Some(Content::Fields(fields)),
                _ => None,
            })
            .collect();
        for purpose in [Purpose::Any, Purpose::Conversation, Purpose::Pretraining] {
            // The layout of one row is that of the next.
            let Some(Ok(layout)) = contents.first().map(|row| Layout::detect(row, purpose, &columns, &tags)) else {
                continue;
            };
            for content in &contents {
                if let Ok(row) = layout.read(content.clone(), Some("系统")) {
                    row.lengths();
                    if let Row::Conversation(conversation) = row {
                        prop_assert_eq!(conversation.messages.last().map(|last| last.role.as_str()), Some("assistant"));
                        prop_assert_eq!(conversation.messages.len(), conversation.loss_weights.len());
                    }
                }
            }
        }
    }
}
