//! LongBench's prompts as a model gets them, and when its answers end.

use std::ops::ControlFlow;

use danlu_eval::longbench::{Asking, Instruction, Row, TASKS, Task};
use danlu_model::{GenerationOptions, Generator, Opened, Sampling};
use danlu_tokenizer::ChatTemplate;
use serde_json::Value;

use crate::common::opened;

fn task(name: &str) -> Task {
    TASKS.into_iter().find(|task| task.name == name).unwrap()
}

fn row(context: &str) -> Row {
    let answers = vec!["钢".to_owned()];
    Row {
        input: "钢的密度？".into(),
        context: context.into(),
        answers,
        all_classes: None,
        length: Value::Null,
    }
}

fn asking<'a>(
    opened: &'a Opened,
    instruction: Instruction,
    template: Option<&'a ChatTemplate>,
    max_length: usize,
) -> Asking<'a> {
    Asking { opened, instruction, template, system: "简短", max_length, sampling: Sampling::default() }
}

#[test]
fn a_short_prompt_is_whole_and_a_long_one_loses_its_middle() {
    let opened = opened(2048, true);
    let tokenizer = opened.tokenizer.as_ref().unwrap();
    let whole = "阅读以下文字并用中文简短回答：\n\n铝的密度是多少？\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，\
                 不要输出任何其他字词。\n\n问题：钢的密度？\n回答：";
    let ids = tokenizer.prompt_ids(whole).unwrap();
    let asking = |max_length| asking(&opened, Instruction::False, None, max_length);
    let (task, row) = (task("multifieldqa_zh"), row("铝的密度是多少？"));
    let prompt = asking(3584).prompt(&task, &row).unwrap();
    assert_eq!((prompt.ids.clone(), prompt.is_cut), (ids.clone(), false));
    assert_eq!(asking(ids.len()).prompt(&task, &row).unwrap(), prompt);
    // 25 tokens are two halves of 12. The beginning-of-text token is one of the first half, and is not text.
    let prompt = asking(25).prompt(&task, &row).unwrap();
    let decode = |ids: &[u32]| tokenizer.decode(ids, true).unwrap();
    let expected = decode(&ids[..12]) + &decode(&ids[ids.len() - 12..]);
    assert!(prompt.is_cut && !prompt.is_cut_for_context);
    assert_eq!(prompt.ids, tokenizer.prompt_ids(&expected).unwrap());
    assert_eq!(tokenizer.bos_id(), prompt.ids.first().copied());
}

#[test]
fn a_template_is_put_around_what_is_left_but_not_around_examples_and_code() {
    let opened = opened(2048, false);
    let tokenizer = opened.tokenizer.as_ref().unwrap();
    let template = ChatTemplate::builtin("chatml").unwrap();
    let text = |instruction, name: &str| {
        let asking = asking(&opened, instruction, Some(&template), 40);
        let prompt = asking.prompt(&task(name), &row(&"铝的密度是多少？".repeat(30))).unwrap();
        tokenizer.decode(&prompt.ids, false).unwrap()
    };
    let beginning = "<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n";
    let end = "<|im_end|>\n<|im_start|>assistant\n";
    for name in ["trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"] {
        assert!(!text(Instruction::Auto, name).contains("<|im_start|>"), "{name}");
    }
    for (instruction, name) in [(Instruction::Auto, "dureader"), (Instruction::True, "trec")] {
        let text = text(instruction, name);
        assert!(text.starts_with(beginning) && text.ends_with(end), "{name}: {text}");
    }
    assert!(!text(Instruction::False, "dureader").contains("<|im_start|>"));
}

#[test]
fn a_small_context_takes_more_of_the_middle_and_is_told() {
    let template = ChatTemplate::builtin("chatml").unwrap();
    let row = row(&"铝的密度是多少？".repeat(2000));
    for context in [160, 300, 1000] {
        let opened = opened(context, true);
        let asking = asking(&opened, Instruction::True, Some(&template), 3584);
        let prompt = asking.prompt(&task("multifieldqa_zh"), &row).unwrap();
        assert!(prompt.is_cut_for_context);
        let room = context - 64;
        assert!((room - 8..=room).contains(&prompt.ids.len()), "{} of {room}", prompt.ids.len());
    }
    // No room for a prompt beside an answer of 64 tokens.
    let opened = opened(80, true);
    let prompt =
        asking(&opened, Instruction::True, Some(&template), 3584).prompt(&task("multifieldqa_zh"), &row);
    let prompt = prompt.unwrap();
    assert!(prompt.ids.is_empty() && prompt.is_cut_for_context);
}

#[test]
fn an_answer_does_not_end_before_its_first_token() {
    let opened = opened(64, true);
    let generate = |stop_ids: Vec<u32>, minimum: usize| {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let options =
            GenerationOptions { sampling, max_new_tokens: 4, stop_ids, ..GenerationOptions::default() };
        let mut generator = Generator::new(&opened.model, 64).with_min_new_tokens(minimum);
        generator.generate(&[1, 2, 3], &options, |_| ControlFlow::Continue(())).unwrap().ids
    };
    let first = generate(Vec::new(), 0)[0];
    assert_eq!(generate(vec![first], 0), [first]);
    assert_ne!(generate(vec![first, 99_999], 1)[0], first);
}
