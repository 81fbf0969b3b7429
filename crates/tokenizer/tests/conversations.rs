//! Conversations of every kind through the real templates and the named ones: texts, ids, and what is learned of them.

use crate::common;

use common::{digest, shared};
use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens, TemplateTokens, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Value>,
}

#[derive(Deserialize)]
struct Golden {
    renderings: Vec<Rendering>,
    masks: Vec<Masks>,
}

#[derive(Deserialize)]
struct Rendering {
    template: String,
    vocabulary: String,
    variables: Map<String, Value>,
    results: Vec<Rendered>,
}

#[derive(Deserialize)]
struct Rendered {
    error: Option<String>,
    text: Option<String>,
    ids: Option<String>,
    whole: Option<String>,
}

#[derive(Deserialize)]
struct Masks {
    name: String,
    source: String,
    vocabulary: String,
    results: Vec<Mask>,
}

#[derive(Deserialize)]
struct Mask {
    tokens: usize,
    trained: usize,
    mask: String,
}

fn conversations() -> Vec<Conversation> {
    serde_json::from_str(include_str!("golden/conversations.json")).unwrap()
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/conversation_renderings.json")).unwrap()
}

/// The template in a file, or in the `tokenizer_config.json` of a folder.
fn source(path: &Path) -> String {
    if path.is_file() {
        return std::fs::read_to_string(path).unwrap();
    }
    let config = std::fs::read(path.join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    config["chat_template"].as_str().unwrap().to_owned()
}

/// Today's date, as some templates write it, replaced as in the recording.
fn without_today(text: &str) -> String {
    let today = ChatTemplate::from_source("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%d %B %Y') }}");
    let today = today.unwrap().render(&[], false, &TemplateTokens::default()).unwrap();
    today.split('|').fold(text.to_owned(), |text, date| text.replace(date, "TODAY"))
}

#[test]
fn transformers_renders_twenty_conversations_with_every_real_template_the_same() {
    let Some(folder) = shared(".") else { return };
    let conversations = conversations();
    assert_eq!(conversations.len(), 20);
    let mut compared = 0;
    for rendering in golden().renderings {
        let tokenizer = Tokenizer::open(&folder.join("tokenizers").join(&rendering.vocabulary)).unwrap();
        let tokens = tokenizer.template_tokens();
        let mut template = ChatTemplate::from_source(&source(&folder.join(&rendering.template))).unwrap();
        for (name, value) in rendering.variables {
            template = template.with_variable(name, value);
        }
        let mut results = rendering.results.iter();
        for conversation in &conversations {
            for add_generation_prompt in [false, true] {
                let at = format!("{}: {} {add_generation_prompt}", rendering.template, conversation.name);
                let recorded = results.next().unwrap();
                let text = template.render_with_tools(
                    &conversation.messages,
                    &conversation.tools,
                    add_generation_prompt,
                    &tokens,
                );
                if let Err(error) = &text {
                    // transformers drops tools in silence.
                    let is_refused = error.to_string().contains("has no place for `tools`");
                    let is_raised =
                        recorded.error.as_ref().is_some_and(|raised| error.to_string().contains(raised));
                    assert!(is_refused || is_raised, "{at}: {error}");
                    continue;
                }
                let text = text.unwrap();
                if let Some(whole) = &recorded.whole {
                    assert_eq!(&without_today(&text), whole, "{at}");
                }
                let hash = digest(without_today(&text).as_bytes());
                assert_eq!(Some(hash), recorded.text, "{at}: {text}");
                if let Some(recorded) = &recorded.ids {
                    let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
                    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                    assert_eq!(&digest(&bytes), recorded, "{at}: ids {ids:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 400, "{compared}");
}

#[test]
fn transformers_marks_the_same_tokens_as_the_assistants() {
    let Some(folder) = shared("tokenizers") else { return };
    for recorded in golden().masks {
        let tokenizer = Tokenizer::open(&folder.join(&recorded.vocabulary)).unwrap();
        let template = ChatTemplate::from_source(&recorded.source).unwrap();
        for (conversation, recorded_mask) in conversations().iter().zip(&recorded.results) {
            let at = format!("{}: {}", recorded.name, conversation.name);
            // These templates have no place for tools, and transformers does not mind.
            let mut messages = conversation.messages.clone();
            messages.iter_mut().for_each(|message| {
                message.fields.remove("tool_calls");
            });
            let segments = template.segments(&messages, &tokenizer.template_tokens()).unwrap();
            let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            assert_eq!(
                text,
                template.render(&messages, false, &tokenizer.template_tokens()).unwrap(),
                "{at}"
            );
            let (mut ids, mut mask) = (Vec::new(), Vec::new());
            for segment in &segments {
                ids.extend(tokenizer.encode_after(&ids, &segment.text, SpecialTokens::Parse).unwrap());
                mask.resize(ids.len(), u8::from(segment.trained));
                if segment.trained {
                    assert_eq!(messages[segment.message].role, "assistant", "{at}");
                }
            }
            let trained = mask.iter().filter(|&&trained| trained == 1).count();
            if conversation.name == "blanks around texts" {
                // The whole text has a token across the border, which no model writes behind its prompt.
                assert_eq!(trained, recorded_mask.trained, "{at}");
                continue;
            }
            assert_eq!((mask.len(), trained), (recorded_mask.tokens, recorded_mask.trained), "{at}");
            assert_eq!(digest(&mask), recorded_mask.mask, "{at}");
        }
    }
}

#[test]
fn the_named_formats_of_models_are_those_of_the_models() {
    let Some(folder) = shared(".") else { return };
    for (name, path) in [
        ("qwen", "chat-templates/Qwen-Qwen2.5-7B-Instruct.jinja"),
        ("qwen3", "chat-templates/Qwen-Qwen3-0.6B.jinja"),
        ("smollm", "tokenizers/smollm"),
    ] {
        let named = ChatTemplate::builtin(name).unwrap();
        let real = ChatTemplate::from_source(&source(&folder.join(path))).unwrap();
        let pairs = [
            (named, real),
            (
                ChatTemplate::builtin(name).unwrap().with_variable("enable_thinking", false),
                ChatTemplate::from_source(&source(&folder.join(path)))
                    .unwrap()
                    .with_variable("enable_thinking", false),
            ),
        ];
        for (conversation, (named, real)) in
            conversations().iter().flat_map(|conversation| pairs.iter().map(move |pair| (conversation, pair)))
        {
            let Conversation { name: title, messages, tools } = conversation;
            // Only Qwen 3 looks at thoughts.
            for add_generation_prompt in [false, true] {
                let render = |template: &ChatTemplate| {
                    let tokens = TemplateTokens::default();
                    template.render_with_tools(messages, tools, add_generation_prompt, &tokens)
                };
                match (render(named), render(real)) {
                    (Ok(named), Ok(real)) => assert_eq!(named, real, "{name}: {title}"),
                    (Err(_), Err(_)) => assert!(!tools.is_empty(), "{name}: {title}"),
                    (named, real) => panic!("{name}: {title}: {named:?} {real:?}"),
                }
            }
        }
    }
}

fn turns() -> Vec<Message> {
    [("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
        .map(|(role, content)| Message::new(role, content))
        .to_vec()
}

fn tokens() -> TemplateTokens {
    TemplateTokens { bos_token: "<s>".into(), eos_token: "</s>".into() }
}

#[test]
fn every_named_format_is_byte_for_byte() {
    let zh = "You are a helpful assistant. 你是一个乐于助人的助手。";
    let below = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.";
    let vicuna = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                  detailed, and polite answers to the user's questions.";
    let intern = "You are an AI assistant whose name is InternLM (书生·浦语).\n- InternLM (书生·浦语) is a conversational \
                  language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be \
                  helpful, honest, and harmless.\n- InternLM (书生·浦语) can understand and communicate fluently in the \
                  language chosen by the user such as English and 中文.";
    let chatml = "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[A1<|im_end|>]\n\
                  <|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[A2<|im_end|>]\n";
    let system = |text: &str| format!("<|im_start|>system\n{text}<|im_end|>\n{chatml}");
    let llama2_zh = |text: &str| {
        format!("<s>[INST] <<SYS>>\n{text}\n<</SYS>>\n\nQ1 [/INST][ A1</s>]<s>[INST] Q2 [/INST][ A2</s>]")
    };
    let human = "<s>Human: Q1\n</s><s>Assistant: [A1\n</s>]<s>Human: Q2\n</s><s>Assistant: [A2\n</s>]";
    let luban = "Q1<s>[A1</s>]Q2<s>[A2</s>]";
    // What is learned stands in brackets.
    let expected: Vec<(&str, String)> = vec![
        ("chatml", chatml.into()),
        ("yi", chatml.into()),
        ("smollm", chatml.into()),
        ("smollm2", system("You are a helpful AI assistant named SmolLM, trained by Hugging Face.")),
        ("cpm4", format!("<s>{chatml}")),
        ("intern2", format!("<s>{}", system(intern))),
        ("qwen", system("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")),
        (
            "qwen3",
            chatml.replace("assistant\n[A2", "assistant\n[<think>\n\n</think>\n\nA2"),
        ),
        ("qwen3_nothink", chatml.into()),
        ("llama2", "<s>[INST] Q1 [/INST][ A1 </s>]<s>[INST] Q2 [/INST][ A2 </s>]".into()),
        ("llama2_zh", llama2_zh(zh)),
        ("literary_alpaca2", llama2_zh(&format!("{zh}你拥有非常丰富的知识。"))),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n[A1<|eot_id|>]\
             <|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n[A2<|eot_id|>]"
                .into(),
        ),
        ("human_assistant", human.into()),
        ("atom", human.into()),
        ("baby_llama2", luban.into()),
        ("luban", luban.into()),
        ("empty", "<s>Q1[A1</s>]Q2[A2</s>]".into()),
        ("default", "<s>Human: Q1</s>\nAssistant:[A1</s>]\nHuman: Q2</s>\nAssistant:[A2</s>]\n".into()),
        (
            "alpaca",
            format!(
                "<s>{below}\n\n### Instruction:\nQ1\n\n### Response:\n[A1</s>]\n\n\
                 ### Instruction:\nQ2\n\n### Response:\n[A2</s>]\n\n"
            ),
        ),
        ("vicuna", format!("<s>{vicuna} USER: Q1 ASSISTANT:[ A1</s>]USER: Q2 ASSISTANT:[ A2</s>]")),
        ("belle", "<s>Human: Q1\n\nBelle: [A1</s>]\n\nHuman: Q2\n\nBelle: [A2</s>]\n\n".into()),
        (
            "baichuan",
            "<reserved_102>Q1<reserved_103>[A1</s>]<reserved_102>Q2<reserved_103>[A2</s>]".into(),
        ),
        (
            "baichuan2",
            "<reserved_106>Q1<reserved_107>[A1</s>]<reserved_106>Q2<reserved_107>[A2</s>]".into(),
        ),
        (
            "baichuan_qlora",
            "Human: \nQ1\n\nAssistant: \n[<s>A1</s>]Human: \nQ2\n\nAssistant: \n[<s>A2</s>]".into(),
        ),
        (
            "baichuan_qlora_llama",
            format!(
                "{below}\n\n### Instruction:\nQ1\n\n### Response: [<s>A1</s>]\
                 ### Instruction:\nQ2\n\n### Response: [<s>A2</s>]"
            ),
        ),
        (
            "chatglm2",
            "[gMASK]sop[Round 1]\n\n问：Q1\n\n答：[A1</s>]\n\n[Round 2]\n\n问：Q2\n\n答：[A2</s>]\n\n".into(),
        ),
        (
            "chatglm3",
            "[gMASK]sop<|user|>\nQ1<|assistant|>[\nA1</s>]<|user|>\nQ2<|assistant|>[\nA2</s>]".into(),
        ),
        ("deepseek", "<s>User: Q1\n\nAssistant:[ A1</s>]User: Q2\n\nAssistant:[ A2</s>]".into()),
        ("deepseek3", "<s><｜User｜>Q1<｜Assistant｜>[A1</s>]<｜User｜>Q2<｜Assistant｜>[A2</s>]".into()),
        ("mistral", "<s>[INST] Q1[/INST][ A1</s>][INST] Q2[/INST][ A2</s>]".into()),
        ("ministral", "<s>[INST]Q1[/INST][A1</s>][INST]Q2[/INST][A2</s>]".into()),
        (
            "zephyr",
            "<|system|>\nYou are Zephyr, a helpful assistant.</s>\n<|user|>\nQ1</s>\n<|assistant|>\n[A1</s>]\n\
             <|user|>\nQ2</s>\n<|assistant|>\n[A2</s>]\n"
                .into(),
        ),
    ];
    let mut unseen = ChatTemplate::builtin_names().to_vec();
    for (name, expected) in expected {
        unseen.retain(|other| *other != name);
        let template = ChatTemplate::builtin(name).unwrap();
        let segments = template.segments(&turns(), &tokens()).unwrap();
        let shown: String = segments
            .iter()
            .map(|segment| match segment.trained {
                true => format!("[{}]", segment.text),
                false => segment.text.clone(),
            })
            .collect();
        assert_eq!(shown, expected, "{name}");
        // A prompt is the text up to the answer, whatever follows.
        let prompt = template.render(&turns()[..3], true, &tokens()).unwrap();
        assert!(template.render(&turns(), false, &tokens()).unwrap().starts_with(&prompt), "{name}");
    }
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn a_system_message_stands_in_the_place_of_the_formats_own() {
    let messages = [vec![Message::new("system", "系统")], turns()].concat();
    for name in ChatTemplate::builtin_names() {
        let template = ChatTemplate::builtin(name).unwrap();
        let Ok(text) = template.render(&messages, false, &tokens()) else {
            assert!(["baby_llama2", "luban"].contains(name), "{name}");
            continue;
        };
        assert_eq!(text.matches("系统").count(), 1, "{name}: {text}");
        assert!(!text.contains("You are") && !text.contains("A chat between"), "{name}: {text}");
    }
}

#[test]
fn tools_that_a_template_would_drop_are_refused() {
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    let messages = [Message::new("user", "Q"), Message::new("assistant", "").with("tool_calls", call)];
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let chatml = ChatTemplate::builtin("chatml").unwrap();
    let error = |messages: &[Message], tools: &[Value]| {
        chatml.segments_with_tools(messages, tools, &tokens()).unwrap_err().to_string()
    };
    assert_eq!(
        error(&messages[..1], std::slice::from_ref(&tool)),
        "the chat template has no place for `tools` of the conversation: use the model's own template, or one with \
         tools such as `qwen`"
    );
    assert!(error(&messages, &[]).contains("no place for `tool_calls`"));
    let qwen = ChatTemplate::builtin("qwen").unwrap();
    let segments = qwen.segments_with_tools(&messages, &[tool], &tokens()).unwrap();
    let trained: Vec<&str> =
        segments.iter().filter(|segment| segment.trained).map(|segment| segment.text.as_str()).collect();
    assert_eq!(trained, ["<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call><|im_end|>"]);
}

#[test]
fn thoughts_are_learned_where_the_template_keeps_them() {
    let thinking =
        |content: &str, thought: &str| Message::new("assistant", content).with("reasoning_content", thought);
    let messages =
        [Message::new("user", "Q1"), thinking("A1", "T1"), Message::new("user", "Q2"), thinking("A2", "T2")];
    let trained = |template: ChatTemplate| -> Vec<String> {
        let segments = template.segments(&messages, &tokens()).unwrap();
        segments.into_iter().filter(|segment| segment.trained).map(|segment| segment.text).collect()
    };
    let qwen3 = || ChatTemplate::builtin("qwen3").unwrap();
    let expected = ["A1<|im_end|>", "<think>\nT2\n</think>\n\nA2<|im_end|>"];
    assert_eq!(trained(qwen3()), expected);
    // Asked for no thoughts, an answer that has some still goes on from the prompt that asks for them.
    assert_eq!(trained(qwen3().with_variable("enable_thinking", false)), expected);
    let plain = [Message::new("user", "Q1"), Message::new("assistant", "A1")];
    let segments = qwen3().with_variable("enable_thinking", false).segments(&plain, &tokens()).unwrap();
    assert!(segments[0].text.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"), "{segments:?}");
    assert_eq!(segments[1].text, "A1<|im_end|>");

    let Some(folder) = shared("tokenizers/minimind") else { return };
    let minimind = || ChatTemplate::from_source(&source(&folder)).unwrap();
    let expected = ["T1\n</think>\n\nA1<|im_end|>", "T2\n</think>\n\nA2<|im_end|>"];
    assert_eq!(trained(minimind()), expected);
    assert_eq!(trained(minimind().with_variable("open_thinking", true)), expected);
}

#[test]
fn special_tokens_typed_in_a_call_are_text_too() {
    let Some(folder) = shared("tokenizers/minimind") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let call = json!([{"function": {"name": "f", "arguments": {"x": "a<|im_end|>b"}}}]);
    let messages = [Message::new("user", "Q"), Message::new("assistant", "").with("tool_calls", call)];
    let guarded = tokenizer.guard(&messages).unwrap();
    let template = ChatTemplate::builtin("qwen").unwrap();
    let text = template.render(&guarded.messages, false, &tokenizer.template_tokens()).unwrap();
    let ids = tokenizer.encode(&text, SpecialTokens::Guarded(guarded.guard)).unwrap();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 3);
    assert!(tokenizer.decode(&ids, false).unwrap().contains(r#"{"x": "a<|im_end|>b"}"#));
}

proptest! {
    /// Answers and questions of letters that no template writes: each answer is learned whole, and of the questions nothing.
    #[test]
    fn exactly_the_answers_and_their_ends_are_learned(
        questions in prop::collection::vec("[ÀÁÂÃ\n ]{0,12}", 1..5),
        answers in prop::collection::vec("[àáâã\n ]{0,12}", 4),
        system in prop::option::of("[ÅÆ]{1,9}"),
    ) {
        for name in ChatTemplate::builtin_names() {
            let system = system.iter().filter(|_| !["baby_llama2", "luban"].contains(name));
            let mut messages: Vec<Message> = system.map(|text| Message::new("system", text)).collect();
            for (question, answer) in questions.iter().zip(&answers) {
                messages.push(Message::new("user", question));
                messages.push(Message::new("assistant", format!("à{answer}á")));
            }
            let template = ChatTemplate::builtin(name).unwrap();
            let segments = template.segments(&messages, &tokens()).unwrap();
            let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            prop_assert_eq!(&text, &template.render(&messages, false, &tokens()).unwrap());
            let trained: Vec<_> = segments.iter().filter(|segment| segment.trained).collect();
            prop_assert_eq!(trained.len(), questions.len());
            for segment in &segments {
                if segment.trained {
                    prop_assert!(segment.text.contains(&messages[segment.message].content), "{}", name);
                    prop_assert!(!segment.text.contains(['À', 'Á', 'Â', 'Ã', 'Å', 'Æ']), "{}", name);
                    let ends = ["</s>", "<|im_end|>", "<|eot_id|>"];
                    prop_assert!(ends.iter().any(|end| segment.text.ends_with(end)), "{}", name);
                } else {
                    prop_assert!(!segment.text.contains(['à', 'á', 'â', 'ã']), "{}", name);
                }
            }
        }
    }
}
