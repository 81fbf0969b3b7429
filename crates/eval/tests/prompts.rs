//! Prompts byte for byte, and what of the model's answer decides.

use crate::common;

use common::{HEADER, negative_log_likelihood, opened, write};
use danlu_eval::multiple_choice::{Benchmark, Options, Questions, Scoring, Selection, answers, prompts};
use danlu_model::Generator;
use danlu_tokenizer::{ChatTemplate, SpecialTokens};

const EXAMPLE: &str = "例题____。\nA. 1.50\nB. NA\nC. 丙\nD. 丁\n答案：";
const QUESTION: &str = " 题目____。 \nA. 甲\nB. 乙 \nC. 3\nD. 4\n答案：";
const STRIPPED: &str = "题目____。\nA. 甲\nB. 乙 \nC. 3\nD. 4\n答案：";

/// One question and one example of one subject; the question has blanks around it.
fn questions(benchmark: Benchmark, subject: &str, shots: usize) -> Questions {
    let folder = tempfile::tempdir().unwrap();
    let header = HEADER;
    let split = benchmark.split();
    write(
        folder.path(),
        &format!("dev/{subject}_dev.csv"),
        &format!("{header}0,例题____。,1.50,NA,丙,丁,C\n"),
    );
    write(
        folder.path(),
        &format!("{split}/{subject}_{split}.csv"),
        &format!("{header}0, 题目____。 ,甲,乙 ,3,4,B\n"),
    );
    Questions::read(folder.path(), &Selection { benchmark, shots, ..Selection::default() }).unwrap()
}

fn prompt(questions: &Questions, options: Options) -> String {
    prompts(&opened(2048, false), questions, &options).unwrap().remove(0).0
}

#[test]
fn seed_003_c_eval_prompts_are_those_of_the_script_in_its_four_modes() {
    let subject = "mao_zedong_thought";
    let llama3 = ChatTemplate::builtin("llama3").unwrap();
    let raw = Options { scoring: Scoring::Seed, ..Options::default() };
    let chat = Options { template: Some(&llama3), ..raw };
    // This subject has a shorter name there.
    let name = "毛泽东思想和中国特色社会主义理论概论";
    let intro = format!("以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n");
    let system = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n\
                  You are a helpful assistant. 你是一个乐于助人的助手。<|eot_id|>";
    let user = "<|start_header_id|>user<|end_header_id|>\n\n";
    let assistant = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

    let [none, one] = [0, 1].map(|shots| questions(Benchmark::Ceval, subject, shots));
    assert_eq!(prompt(&none, raw), format!("{intro}{QUESTION}"));
    assert_eq!(prompt(&one, raw), format!("{intro}{EXAMPLE}C\n\n{QUESTION}"));
    assert_eq!(prompt(&none, chat), format!("{system}{user}{intro}{QUESTION}{assistant}"));
    let with_example = format!(
        "{system}{user}{intro}{assistant}好的，我会结合{name}相关知识回答<|eot_id|>\
         {user}{EXAMPLE}{assistant}C<|eot_id|>{user}{QUESTION}{assistant}"
    );
    assert_eq!(prompt(&one, chat), with_example);
}

#[test]
fn seed_003_cmmlu_and_mmlu_prompts_are_those_of_the_scripts() {
    let raw = Options { scoring: Scoring::Seed, ..Options::default() };
    let cmmlu = questions(Benchmark::Cmmlu, "agronomy", 1);
    let intro = "以下是中国关于农学考试的单项选择题，请选出其中的正确答案。\n\n";
    assert_eq!(prompt(&cmmlu, raw), format!("{intro}{EXAMPLE}C\n\n{QUESTION}"));
    let mmlu = questions(Benchmark::Mmlu, "us_foreign_policy", 1);
    let english = |text: &str| text.replace("答案：", "Answer:");
    // Two blanks before the subject.
    let intro = "The following are multiple choice questions (with answers) about  us foreign policy.\n\n";
    let (example, question) = (english(EXAMPLE), english(QUESTION));
    assert_eq!(prompt(&mmlu, raw), format!("{intro}{example} C\n\n{question}"));
    let chatml = ChatTemplate::builtin("chatml").unwrap();
    let chat = Options { template: Some(&chatml), ..raw };
    let error = prompts(&opened(2048, false), &mmlu, &chat).unwrap_err().to_string();
    assert!(error.starts_with("`scoring`: MMLU is not asked in a chat"), "{error}");
}

#[test]
fn lm_eval_prompts_differ_by_benchmark_and_by_turns() {
    let raw = Options::default();
    let cmmlu = questions(Benchmark::Cmmlu, "agronomy", 1);
    let intro = "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n";
    assert_eq!(prompt(&cmmlu, raw), format!("{intro}{EXAMPLE} C\n\n{STRIPPED}"));
    let chatml = ChatTemplate::builtin("chatml").unwrap();
    let turns = Options { template: Some(&chatml), ..raw };
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let end = "<|im_start|>assistant\n";
    let system = turn("system", intro);
    assert_eq!(
        prompt(&cmmlu, turns),
        format!("{system}{}{}{}{end}", turn("user", EXAMPLE), turn("assistant", "C"), turn("user", STRIPPED))
    );
    let one_turn = Options { one_turn: true, ..turns };
    let all = format!("{EXAMPLE} C\n\n{STRIPPED}");
    assert_eq!(prompt(&cmmlu, one_turn), format!("{system}{}{end}", turn("user", &all)));
    // A template that refuses system messages is asked without one.
    let strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}";
    let strict = ChatTemplate::from_source(strict).unwrap();
    assert_eq!(prompt(&cmmlu, Options { template: Some(&strict), ..one_turn }), all);
}

#[test]
fn a_vocabulary_that_puts_bos_first_does_so_once() {
    let opened = opened(2048, true);
    let tokenizer = opened.tokenizer().unwrap();
    let cmmlu = questions(Benchmark::Cmmlu, "agronomy", 0);
    let without = ChatTemplate::from_source("{{ messages[-1].content }}").unwrap();
    let with = ChatTemplate::from_source("{{ bos_token }}{{ messages[-1].content }}").unwrap();
    let tokens = tokenizer.encode(STRIPPED, SpecialTokens::AsText).unwrap().len();
    for scoring in [Scoring::LmEval, Scoring::Seed] {
        for template in [&with, &without] {
            let options = Options { scoring, template: Some(template), ..Options::default() };
            let found = prompts(&opened, &cmmlu, &options).unwrap()[0].1.unwrap();
            let intro = "以下是中国关于农学考试的单项选择题，请选出其中的正确答案。\n\n";
            let text = if scoring == Scoring::Seed { format!("{intro}{QUESTION}") } else { STRIPPED.into() };
            let expected = tokenizer.encode(&text, SpecialTokens::AsText).unwrap().len();
            assert_eq!(found, expected + 1, "{scoring:?} of {tokens}");
        }
    }
}

#[test]
fn seed_003_the_penalised_logits_of_both_letters_are_summed() {
    let opened = opened(2048, false);
    let tokenizer = opened.tokenizer().unwrap();
    let questions = questions(Benchmark::Ceval, "law", 1);
    let options = Options { scoring: Scoring::Seed, ..Options::default() };
    let answer = answers(&opened, &questions, &options, |_, _| {}).unwrap().remove(0);
    let text = prompt(&questions, options);
    let encode = |text: &str| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
    let ids = encode(&text);
    let logits = Generator::new(&opened.model, ids.len()).next_logits(&ids).unwrap().to_vec();
    let processed = |id: u32| {
        let logit = f64::from(logits[id as usize]);
        let logit = match (ids.contains(&id), logit < 0.0) {
            (false, _) => logit,
            (true, true) => logit * 1.1,
            (true, false) => logit / 1.1,
        };
        logit / 0.2
    };
    let scores = answer.scores.unwrap();
    for (letter, score) in ["A", "B", "C", "D"].iter().zip(scores) {
        let expected =
            processed(encode(letter)[0]) + processed(*encode(&format!("：{letter}")).last().unwrap());
        assert!((score - expected).abs() < 1e-4, "{letter}: {score} against {expected}");
    }
    let best = (0..4).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
    assert_eq!((answer.chosen, answer.most_likely), (Some(best), Some(best)));
}

#[test]
fn seed_003_mmlu_looks_at_the_letter_that_follows_the_colon() {
    let opened = opened(2048, false);
    let tokenizer = opened.tokenizer().unwrap();
    let questions = questions(Benchmark::Mmlu, "virology", 1);
    let options = Options { scoring: Scoring::Seed, ..Options::default() };
    let scores = answers(&opened, &questions, &options, |_, _| {}).unwrap()[0].scores.unwrap();
    let text = prompt(&questions, options);
    let prompt = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
    for (letter, score) in ["A", "B", "C", "D"].iter().zip(scores) {
        let ids = tokenizer.encode(&format!("{text} {letter}"), SpecialTokens::AsText).unwrap();
        let expected = -negative_log_likelihood(&opened.model, &ids, prompt.len());
        assert!((score - expected).abs() < 1e-4 * expected.abs(), "{letter}: {score} against {expected}");
    }
}

#[test]
fn a_letter_of_two_tokens_is_scored_whole() {
    // This vocabulary has no token for a blank and a letter.
    let opened = opened(2048, false);
    let tokenizer = opened.tokenizer().unwrap();
    let questions = questions(Benchmark::Ceval, "law", 0);
    let answer = answers(&opened, &questions, &Options::default(), |_, _| {}).unwrap().remove(0);
    let text = prompt(&questions, Options::default());
    let encode = |text: &str| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
    let prompt = encode(&text);
    assert!(encode(&format!("{text} D")).len() > prompt.len() + 1, "a blank and D became one token");
    for (letter, score) in ["A", "B", "C", "D"].iter().zip(answer.scores.unwrap()) {
        let expected =
            -negative_log_likelihood(&opened.model, &encode(&format!("{text} {letter}")), prompt.len());
        assert!((score - expected).abs() < 1e-4 * expected.abs(), "{letter}: {score} against {expected}");
    }
}
