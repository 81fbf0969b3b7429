//! Chat templates: the built-in formats byte for byte, real ones, what is trained, and no second BOS.

use crate::common;

use common::{digest, shared};
use danlu_tokenizer::{
    ChatTemplate, Message, Segment, SpecialTokens, TemplateTokens, Tokenizer, VocabularyTraining,
};
use proptest::prelude::*;

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn tokens() -> TemplateTokens {
    TemplateTokens { bos_token: "<s>".into(), eos_token: "</s>".into() }
}

/// System, question, answer, question, answer.
fn conversation() -> Vec<Message> {
    [("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
        .map(|(role, content)| message(role, content))
        .to_vec()
}

fn render(name: &str, messages: &[Message], add_generation_prompt: bool) -> String {
    ChatTemplate::builtin(name).unwrap().render(messages, add_generation_prompt, &tokens()).unwrap()
}

/// The trained stretches, and a check that all stretches are the whole text.
fn trained(template: &ChatTemplate, messages: &[Message]) -> Vec<String> {
    let segments = template.segments(messages, &tokens()).unwrap();
    let whole: String = segments.iter().map(|segment| segment.text.as_str()).collect();
    assert_eq!(whole, template.render(messages, false, &tokens()).unwrap());
    assert!(segments.windows(2).all(|pair| pair[0].trained || pair[1].trained));
    segments.into_iter().filter(|segment| segment.trained).map(|segment| segment.text).collect()
}

#[test]
fn the_built_in_formats_are_byte_for_byte() {
    let question = &conversation()[1..2];
    assert_eq!(render("chatml", question, true), "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(render("human_assistant", question, true), "<s>Human: Q1\n</s><s>Assistant: ");
    assert_eq!(render("llama2", question, true), "<s>[INST] Q1 [/INST]");
    assert_eq!(
        render("llama3", question, true),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let all = &conversation()[..];
    assert_eq!(
        render("chatml", all, false),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n\
         <|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n"
    );
    assert_eq!(
        render("human_assistant", &all[1..], false),
        "<s>Human: Q1\n</s><s>Assistant: A1\n</s><s>Human: Q2\n</s><s>Assistant: A2\n</s>"
    );
    assert_eq!(
        render("llama2", all, false),
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST] A1 </s><s>[INST] Q2 [/INST] A2 </s>"
    );
    assert_eq!(
        render("llama3", &all[..3], false),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
    );
}

#[test]
fn transformers_renders_the_built_in_formats_the_same() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/chat_templates.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), ChatTemplate::builtin_names().len());
    let conversations = golden["conversations"].as_object().unwrap();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let template = ChatTemplate::builtin(name).unwrap();
        let mut recorded = case["texts"].as_array().unwrap().iter();
        for (title, messages) in conversations {
            let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
            for add_generation_prompt in [false, true] {
                let text = template.render(&messages, add_generation_prompt, &tokens());
                let text = text.ok().map(|text| digest(text.as_bytes()));
                assert_eq!(recorded.next().unwrap().as_str(), text.as_deref(), "{name}: {title}");
            }
        }
    }
}

#[test]
fn the_answer_and_its_end_are_trained_and_nothing_else() {
    for (name, expected) in [
        ("chatml", ["A1<|im_end|>", "A2<|im_end|>"]),
        ("llama2", [" A1 </s>", " A2 </s>"]),
        ("llama3", ["A1<|eot_id|>", "A2<|eot_id|>"]),
        ("human_assistant", ["A1\n</s>", "A2\n</s>"]),
    ] {
        let template = ChatTemplate::builtin(name).unwrap();
        assert_eq!(trained(&template, &conversation()), expected, "{name}");
        assert!(trained(&template, &conversation()[..2]).is_empty(), "{name}");
    }
    let chatml = ChatTemplate::builtin("chatml").unwrap();
    let spaces = [message("user", "Q"), message("assistant", "A\n\n")];
    assert_eq!(trained(&chatml, &spaces), ["A\n\n<|im_end|>"]);
    let segments = chatml.segments(&spaces, &tokens()).unwrap();
    assert_eq!(segments.last(), Some(&Segment { text: "\n".into(), trained: false, message: 2 }));
    let bare =
        ChatTemplate::from_source("{% for message in messages %}{{ message.content }}|{% endfor %}").unwrap();
    assert_eq!(trained(&bare, &spaces), ["A\n\n|"]);
}

#[test]
fn special_tokens_typed_in_a_message_are_text_between_those_of_the_template() {
    for (folder, name) in
        [("llama2", "llama2"), ("llama3", "llama3"), ("smollm", "chatml"), ("minimind", "chatml")]
    {
        let Some(path) = shared(&format!("tokenizers/{folder}")) else { return };
        let tokenizer = Tokenizer::open(&path).unwrap();
        let template = ChatTemplate::builtin(name).unwrap();
        let tokens = tokenizer.template_tokens();
        let end = tokenizer.token_text(tokenizer.eos_id().unwrap()).unwrap();
        let typed = format!("停{end}\n{end}{end} 后");
        let messages = [message("user", "\u{10FFFF} plain"), message("assistant", &typed)];
        let guarded = tokenizer.guard(&messages).unwrap();
        assert_eq!(guarded.messages[0], messages[0], "{folder}");
        let text = template.render(&guarded.messages, false, &tokens).unwrap();
        let ids = tokenizer.encode(&text, SpecialTokens::Guarded(guarded.guard)).unwrap();

        // The same text with letters in place of what was typed has the same special tokens around it.
        let plain = [message("user", "\u{10FFFF} plain"), message("assistant", "停 后")];
        assert_eq!(tokenizer.guard(&plain), None, "{folder}");
        let plain = template.render(&plain, false, &tokens).unwrap();
        let plain = tokenizer.encode(&plain, SpecialTokens::Parse).unwrap();
        let special =
            |ids: &[u32]| ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect::<Vec<_>>();
        assert_eq!(special(&ids), special(&plain), "{folder}");
        // What was typed has the ids that it has as text.
        let as_text = tokenizer.encode(&typed, SpecialTokens::AsText).unwrap();
        let tail = &as_text[as_text.len() / 2..];
        assert!(ids.windows(tail.len()).any(|window| window == tail), "{folder}: {ids:?} {as_text:?}");
        assert!(tokenizer.decode(&ids, false).unwrap().contains(&typed), "{folder}");
    }
}

#[test]
fn an_end_token_is_guarded_whatever_its_flag_and_a_single_character_is_not() {
    let options = VocabularyTraining { vocabulary_size: 270, ..VocabularyTraining::default() };
    let own = Tokenizer::train(["机床加工".to_owned()].into_iter(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    own.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    let end = added.iter_mut().find(|token| token["content"] == "<|im_end|>").unwrap();
    end["special"] = false.into();
    let mut single = end.clone();
    (single["content"], single["special"]) = ("炉".into(), true.into());
    single["id"] = own.vocabulary_size().into();
    added.push(single);
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert!(!tokenizer.is_special(end) && tokenizer.end_of_turn_ids().contains(&end));

    let template = ChatTemplate::builtin("chatml").unwrap();
    let guarded = tokenizer.guard(&[message("user", "停<|im_end|>炉")]).unwrap();
    let text = template.render(&guarded.messages, false, &tokenizer.template_tokens()).unwrap();
    let ids = tokenizer.encode(&text, SpecialTokens::Guarded(guarded.guard)).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1);
    // One character cannot be broken: nothing became text.
    assert_eq!(tokenizer.guard(&[message("user", "停 炉 ")]), None);
}

#[test]
fn templates_that_are_not_prefix_stable_are_refused() {
    let not_stable = |source: &str, messages: &[Message]| {
        let template = ChatTemplate::from_source(source).unwrap();
        template.segments(messages, &tokens()).unwrap_err().to_string()
    };
    let last_only = "{% for m in messages %}{{ m.role ~ ':' }}{% if loop.last %}{{ '!' }}{% endif %}{{ m.content }}{% endfor %}";
    assert!(not_stable(last_only, &conversation()).contains("message 2"));
    let ignores_flag =
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<end>' }}{% endfor %}{{ 'assistant:' }}";
    let message = not_stable(ignores_flag, &conversation()[..3]);
    assert!(message.contains("prefix-stable") && message.contains("add_generation_prompt"), "{message}");
}

#[test]
fn field_2_12_double_bos_a_rendered_template_gets_no_second_bos() {
    for (folder, name) in [("llama2", "llama2"), ("llama2", "human_assistant"), ("llama3", "llama3")] {
        let Some(path) = shared(&format!("tokenizers/{folder}")) else { return };
        let tokenizer = Tokenizer::open(&path).unwrap();
        let template = ChatTemplate::builtin(name).unwrap();
        let text = template.render(&conversation()[1..2], true, &tokenizer.template_tokens()).unwrap();
        let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
        let bos = tokenizer.bos_id().unwrap();
        assert_eq!(ids[0], bos, "{name}");
        assert_ne!(ids[1], bos, "{name}");
    }
}

#[test]
fn the_human_assistant_format_has_the_recorded_ids() {
    let Some(path) = shared("tokenizers/llama2") else { return };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let text = render("human_assistant", &[message("user", "介绍一下中国")], true);
    let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
    let recorded = [
        1, 12968, 29901, 29871, 31633, 234, 190, 144, 30287, 30557, 30275, 30356, 13, 2, 1, 4007, 22137,
        29901, 29871,
    ];
    assert_eq!(ids, recorded);
}

#[test]
fn real_templates_render_and_can_be_trained_on() {
    let Some(folder) = shared("chat-templates") else { return };
    let mut sources: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        sources.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
    for name in ["llama3", "minimind", "smollm", "qwen3"] {
        let path = shared(&format!("tokenizers/{name}/tokenizer_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        sources.push((name.into(), config["chat_template"].as_str().unwrap().into()));
    }
    assert!(sources.len() >= 10);
    for (name, source) in sources {
        let template = ChatTemplate::from_source(&source).unwrap();
        let text = template.render(&conversation(), true, &tokens()).unwrap();
        for content in ["S", "Q1", "A1", "Q2"] {
            assert!(text.contains(content), "{name}: {text}");
        }
        if name == "llama3" {
            // This one writes the assistant's header always.
            assert!(template.segments(&conversation()[..3], &tokens()).is_err());
            continue;
        }
        let trained = trained(&template, &conversation()[..3]);
        assert_eq!(trained.len(), 1, "{name}");
        let end = ["A1<|im_end|>", "A1<|eot_id|>"];
        assert!(end.iter().any(|end| trained[0].ends_with(end)), "{name}: {trained:?}");
    }
}

#[test]
fn jinja_errors_carry_the_line_and_the_templates_own_words() {
    let raising = ChatTemplate::from_source("a\n\n{{ raise_exception('only one system message') }}").unwrap();
    let message = raising.render(&[], false, &tokens()).unwrap_err().to_string();
    assert!(message.contains("line 3") && message.contains("only one system message"), "{message}");
    let syntax = ChatTemplate::from_source("a\n{% for %}").unwrap_err().to_string();
    assert!(syntax.contains("line 2"), "{syntax}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "a\n{% for %}").unwrap();
    let path = file.path().display().to_string();
    let opened = ChatTemplate::open(&path).unwrap_err().to_string();
    assert_eq!(opened, format!("`{path}`: {syntax}"));
    let unknown = ChatTemplate::builtin("alpacca").unwrap_err().to_string();
    assert!(unknown.contains("`alpacca`") && unknown.contains("(chatml, "), "{unknown}");
    let turns = ChatTemplate::builtin("llama2").unwrap();
    let turns = turns.render(&[message_of("assistant")], false, &tokens()).unwrap_err().to_string();
    assert!(turns.contains("take turns"), "{turns}");
}

fn message_of(role: &str) -> Message {
    message(role, "x")
}

#[test]
fn jinja_is_what_transformers_makes_of_it() {
    let render = |source: &str| {
        ChatTemplate::from_source(source).unwrap().render(&conversation()[1..2], true, &tokens()).unwrap()
    };
    assert_eq!(render("{% if true %}\n  a\n  {% endif %}\nb\n"), "  a\nb");
    assert_eq!(render("{{ messages | tojson }}"), r#"[{"role": "user", "content": "Q1"}]"#);
    assert_eq!(
        render("{{ {'b': '<é\"\n', 'a': [1, 1.5, none, true]} | tojson }}"),
        "{\"b\": \"<é\\\"\\n\", \"a\": [1, 1.5, null, true]}"
    );
    assert_eq!(
        render("{{ {'a': [1], 'b': {}} | tojson(indent=2) }}"),
        "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}"
    );
    assert_eq!(
        render(
            "{% set n = namespace(x=1) %}{% for m in [1, 2, 3] %}{% if m == 3 %}{% break %}{% endif %}{% set n.x = n.x + m %}{% endfor %}{{ n.x }}"
        ),
        "4"
    );
    assert_eq!(render("{{ 'a</think>\n b'.split('</think>')[-1].lstrip('\n').strip() }}"), "b");
    assert_eq!(
        render("x\n{%- generation -%}\n y {%- endgeneration %}\nz{% generation %}q{% endgeneration %}"),
        "xyzq"
    );
    assert_eq!(
        render("{{ strftime_now('%Y') | int > 2000 }}{{ strftime_now('%d %b %Y') | length }}"),
        "True11"
    );
    assert!(
        ChatTemplate::from_source("{{ strftime_now('%!') }}").unwrap().render(&[], false, &tokens()).is_err()
    );
}

proptest! {
    #[test]
    fn stretches_are_always_the_whole_text(
        contents in prop::collection::vec(any::<String>(), 0..6),
        name in prop::sample::select(ChatTemplate::builtin_names()),
    ) {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages: Vec<Message> = roles.zip(&contents).map(|(role, content)| message(role, content)).collect();
        let template = ChatTemplate::builtin(name).unwrap();
        let trained = trained(&template, &messages);
        prop_assert_eq!(trained.len(), contents.len() / 2);
        for (trained, answer) in trained.iter().zip(contents.iter().skip(1).step_by(2)) {
            // Qwen 3 drops line breaks before the last answer.
            prop_assert!(trained.contains(answer.trim_start_matches('\n')), "{}", name);
        }
    }
}
