//! Multiple choice: what is read, what is asked, and who wins.

use crate::common;

use std::path::Path;

use common::{HEADER, negative_log_likelihood, opened, shared, write};
use danlu_eval::multiple_choice::{Options, Questions, Scoring, Selection, answers, evaluate, prompts};
use danlu_model::Opened;
use danlu_tokenizer::{ChatTemplate, SpecialTokens};

const TEXT: Options =
    Options { scoring: Scoring::Text, template: None, server_chat: false, one_turn: false, reasoning: None };
const LETTER: Options = Options {
    scoring: Scoring::LmEval,
    template: None,
    server_chat: false,
    one_turn: false,
    reasoning: None,
};

fn read(path: &Path, selection: &Selection) -> Questions {
    Questions::read(path, selection).unwrap()
}

/// Twelve questions in two subjects of C-Eval's layout, with examples.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, rows) in [("val/law_val", 5), ("val/自定_val", 7), ("dev/law_dev", 2), ("dev/自定_dev", 2)]
    {
        let mut text = HEADER.to_owned();
        for row in 0..rows {
            let answer = ["A", "B", "C", "D"][row % 4];
            text += &format!(
                "{row},{file} 第{row}题的密度是多少？,{row}.5,NA,{row}00 钢,铝的密度是{row},{answer}\n"
            );
        }
        write(folder.path(), &format!("{file}.csv"), &text);
    }
    folder
}

#[test]
fn real_c_eval_is_read_whole() {
    let Some(data) = shared() else { return };
    let ceval = data.join("benchmarks/ceval");
    let all = read(&ceval, &Selection { shots: 5, ..Selection::default() });
    assert_eq!((all.subjects.len(), all.len()), (52, 1346));
    assert!(all.subjects.iter().all(|subject| subject.examples.len() == 5 && subject.name != subject.key));
    let law = &all.subjects.iter().find(|subject| subject.key == "law").unwrap();
    assert_eq!(law.name, "法学");
    let part =
        Selection {
            subjects: vec!["逻辑学".into(), "law".into()], limit: Some(3), ..Selection::default()
        };
    let part = read(&ceval, &part);
    let keys: Vec<&str> = part.subjects.iter().map(|subject| subject.key.as_str()).collect();
    assert_eq!((keys, part.len()), (vec!["law", "logic"], 6));
    let withheld = Selection { split: Some("test".into()), shots: 5, ..Selection::default() };
    let withheld = read(&ceval, &withheld);
    assert_eq!((withheld.subjects.len(), withheld.len()), (52, 12342));
    assert!(
        withheld
            .subjects
            .iter()
            .flat_map(|subject| &subject.questions)
            .all(|question| question.right.is_none())
    );
}

#[test]
fn numbers_and_missing_value_words_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "钢材.csv",
        "\u{feff}id,question,A,B,C,D,answer,explanation\r\n0,\"多行\r\n题目\",nan,NA,1.50,\"a,b\",C,x\r\n",
    );
    for path in [&file, folder.path()] {
        let questions = read(path, &Selection::default());
        let subject = &questions.subjects[0];
        assert_eq!((subject.key.as_str(), subject.name.as_str()), ("钢材", "钢材"));
        let question = &subject.questions[0];
        assert_eq!(question.options, ["nan", "NA", "1.50", "a,b"]);
        assert_eq!((question.question.as_str(), question.right), ("多行\n题目", Some(2)));
    }
}

#[test]
fn bad_input_is_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let message = |text: &str, selection: &Selection| {
        let file = write(folder.path(), "bad.csv", text);
        Questions::read(&file, selection).unwrap_err().to_string()
    };
    let plain = Selection::default();
    let row = |answer: &str| format!("{HEADER}0,问,1,2,3,4,A\n1,问,1,2,3,4,{answer}\n");
    assert!(
        message(&row("E"), &plain).ends_with("bad.csv:3: column `answer`: expected A, B, C or D, found `E`")
    );
    assert!(
        message(&row(""), &plain)
            .ends_with("bad.csv:3: column `answer` is empty: expected A, B, C or D, as the other rows have")
    );
    assert!(
        message(&format!("{HEADER}0,问,1,,3,4,A\n"), &plain)
            .ends_with("bad.csv:2: column `B` is empty: expected a text")
    );
    let lacks = message("id,question,A,B,C,answer\n0,问,1,2,3,A\n", &plain);
    assert!(
        lacks.contains("bad.csv:1: the header lacks the column `D`") && lacks.contains("`C`, `answer`"),
        "{lacks}"
    );
    assert!(
        message(&format!("{HEADER}0,问,1,2\n"), &plain).contains("bad.csv:2: found 4 fields: expected 7")
    );
    for empty in ["", HEADER] {
        assert!(message(empty, &plain).contains("bad.csv`: is empty"));
    }
    assert!(message(&row("A"), &Selection { shots: 2, ..plain.clone() }).contains("no examples for 2 shots"));
    assert!(message(&row("A"), &Selection { limit: Some(0), ..plain.clone() }).starts_with("`limit`"));

    let layout = self::folder();
    let message =
        |path: &Path, selection: Selection| Questions::read(path, &selection).unwrap_err().to_string();
    let subjects = |name: &str| Selection { subjects: vec![name.into()], ..Selection::default() };
    assert!(message(layout.path(), subjects("laws")).ends_with("did you mean `law`?"));
    assert!(message(layout.path(), subjects("法律学")).ends_with("did you mean `法学`?"));
    let shots = Selection { shots: 3, ..Selection::default() };
    assert!(
        message(layout.path(), shots)
            .contains("law_dev.csv`: expected at least 3 examples of `law` for 3 shots, found 2")
    );
    let split = Selection { split: Some("test".into()), ..Selection::default() };
    let unknown = message(layout.path(), split);
    assert!(
        unknown.contains("expected the folders `test` and `dev`")
            && unknown.contains("found the splits `dev`, `val`")
    );
    assert!(
        message(&layout.path().join("nowhere"), Selection::default()).contains("nowhere`: does not exist")
    );
    std::fs::remove_file(layout.path().join("dev/law_dev.csv")).unwrap();
    let shots = Selection { shots: 1, ..Selection::default() };
    assert!(
        message(layout.path(), shots).contains("expected at least 1 examples of `law` for 1 shots, found 0")
    );
}

#[test]
fn text_scores_are_log_likelihoods_per_character() {
    let opened = opened(512, true);
    let folder = tempfile::tempdir().unwrap();
    let options = ["铝", "铝的密度是多少", "7.85 g/cm³", "是"];
    let file = write(folder.path(), "a.csv", &format!("{HEADER}0,钢的密度？,{},A\n", options.join(",")));
    let questions = read(&file, &Selection::default());
    let tokenizer = opened.tokenizer().unwrap();
    let encode = |text: &str, special| tokenizer.encode(text, special).unwrap();
    let template = ChatTemplate::builtin("chatml").unwrap();
    let chat = "<|im_start|>user\n钢的密度？<|im_end|>\n<|im_start|>assistant\n";
    let bos = tokenizer.bos_id().unwrap();
    let prompts = [
        (None, [vec![bos], encode("钢的密度？\n答案：", SpecialTokens::AsText)].concat()),
        (Some(&template), encode(chat, SpecialTokens::Parse)),
    ];
    for (template, prompt) in prompts {
        let answer =
            answers(&opened, &questions, &Options { template, ..TEXT }, |_, _| {}).unwrap().remove(0);
        let mut best = (f64::MIN, 0);
        for (index, option) in options.iter().enumerate() {
            let ids = [&prompt[..], &encode(option, SpecialTokens::AsText)].concat();
            let expected = -negative_log_likelihood(&opened.model, &ids, prompt.len());
            let found = answer.scores.unwrap()[index];
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{option}: {found} against {expected}");
            let normalised = expected / option.chars().count() as f64;
            if normalised > best.0 {
                best = (normalised, index);
            }
        }
        assert_eq!(answer.chosen, Some(best.1));
        assert!(!answer.shortened);
    }
}

#[test]
fn letters_are_asked_as_lm_eval_asks_them() {
    let opened = opened(512, false);
    let folder = folder();
    let selection = Selection { shots: 1, subjects: vec!["法学".into()], ..Selection::default() };
    let questions = read(folder.path(), &selection);
    let block = |file: &str, row: usize| {
        format!(
            "{file} 第{row}题的密度是多少？\nA. {row}.5\nB. NA\nC. {row}00 钢\nD. 铝的密度是{row}\n答案："
        )
    };
    let prompt = format!(
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n{} A\n\n{}",
        block("dev/law_dev", 0),
        block("val/law_val", 2)
    );
    let tokenizer = opened.tokenizer().unwrap();
    let prompt = tokenizer.encode(&prompt, SpecialTokens::AsText).unwrap();
    let answer = answers(&opened, &questions, &LETTER, |_, _| {}).unwrap().remove(2);
    for (letter, found) in [" A", " B", " C", " D"].iter().zip(answer.scores.unwrap()) {
        let ids = [&prompt[..], &tokenizer.encode(letter, SpecialTokens::AsText).unwrap()].concat();
        let expected = -negative_log_likelihood(&opened.model, &ids, prompt.len());
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{letter}: {found} against {expected}");
    }
    // In a chat the example is an earlier turn, the description is the system message, and the line break at the prompt's end
    // belongs to the answer.
    let template = ChatTemplate::builtin("chatml").unwrap();
    let options = Options { template: Some(&template), ..LETTER };
    let prompt = format!(
        "<|im_start|>system\n以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n<|im_end|>\n\
         <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n\
         <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant",
        block("dev/law_dev", 0),
        block("val/law_val", 2)
    );
    let prompt = tokenizer.encode(&prompt, SpecialTokens::Parse).unwrap();
    let answer = answers(&opened, &questions, &options, |_, _| {}).unwrap().remove(2);
    for (letter, found) in ["\nA", "\nB", "\nC", "\nD"].iter().zip(answer.scores.unwrap()) {
        let ids = [&prompt[..], &tokenizer.encode(letter, SpecialTokens::AsText).unwrap()].concat();
        let expected = -negative_log_likelihood(&opened.model, &ids, prompt.len());
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{letter}: {found} against {expected}");
    }
}

#[test]
fn questions_scored_together_get_the_scores_they_get_alone() {
    let opened = opened(512, false);
    let folder = folder();
    let questions = read(folder.path(), &Selection { shots: 2, ..Selection::default() });
    for options in [TEXT, LETTER] {
        let mut last = (0, 0);
        let together = answers(&opened, &questions, &options, |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (48, 48));
        assert_eq!(together, answers(&opened, &questions, &options, |_, _| {}).unwrap(), "deterministic");
        let mut index = 0;
        for subject in &questions.subjects {
            for question in &subject.questions {
                let mut alone = questions.clone();
                alone.subjects.truncate(1);
                alone.subjects[0] = danlu_eval::multiple_choice::Subject {
                    questions: vec![question.clone()],
                    ..subject.clone()
                };
                let alone = answers(&opened, &alone, &options, |_, _| {}).unwrap().remove(0);
                for (together, alone) in together[index].scores.unwrap().iter().zip(alone.scores.unwrap()) {
                    assert!((together - alone).abs() < 1e-5 * alone.abs(), "{together} against {alone}");
                }
                assert_eq!(together[index].chosen, alone.chosen);
                index += 1;
            }
        }
    }
}

#[test]
fn the_order_of_options_does_not_change_which_text_wins() {
    let opened = opened(512, false);
    let folder = folder();
    let questions = read(folder.path(), &Selection::default());
    let mut turned = questions.clone();
    for question in turned.subjects.iter_mut().flat_map(|subject| &mut subject.questions) {
        question.options.rotate_left(1);
        question.right = question.right.map(|right| (right + 3) % 4);
    }
    let texts = |questions: &Questions| -> Vec<String> {
        let answers = answers(&opened, questions, &TEXT, |_, _| {}).unwrap();
        let all = questions.subjects.iter().flat_map(|subject| &subject.questions);
        all.zip(answers).map(|(question, answer)| question.options[answer.chosen.unwrap()].clone()).collect()
    };
    assert_eq!(texts(&questions), texts(&turned));
    let [summary, turned] =
        [&questions, &turned].map(|all| evaluate(&opened, all, &TEXT, |_, _| {}).unwrap());
    assert_eq!(summary.correct, turned.correct);
}

#[test]
fn a_short_context_loses_examples_first_and_says_so() {
    let folder = folder();
    let with = |shots| {
        let selection =
            Selection { shots, subjects: vec!["law".into()], limit: Some(1), ..Selection::default() };
        read(folder.path(), &selection)
    };
    let scores = |opened: &Opened, questions: &Questions| {
        answers(opened, questions, &TEXT, |_, _| {}).unwrap().remove(0)
    };
    // Tokens of the question and its longest option; both examples are about as long as the question.
    let long = opened(512, true);
    let alone = scores(&long, &with(0));
    let tokens = long.tokenizer().unwrap();
    let tokens = tokens.encode("val/law_val 第0题的密度是多少？\n答案：铝的密度是0", SpecialTokens::AsText);
    let tokens = tokens.unwrap().len();
    let short = scores(&opened(tokens, true), &with(2));
    assert!(short.shortened && !alone.shortened);
    for (short, alone) in short.scores.unwrap().iter().zip(alone.scores.unwrap()) {
        assert!((short - alone).abs() < 1e-5 * alone.abs(), "{short} against {alone}");
    }
    // The oldest example goes first.
    let example = prompts(&long, &with(2), &TEXT).unwrap()[0].1.unwrap()
        - prompts(&long, &with(1), &TEXT).unwrap()[0].1.unwrap();
    let one = prompts(&opened(tokens + example + 5, true), &with(2), &TEXT).unwrap().remove(0).0;
    assert!(one.starts_with("dev/law_dev 第1题") && one.contains("val/law_val 第0题"), "{one}");
    // A question that alone is too long is not cut: it has no scores, and is not right.
    let cut = opened(tokens - 5, true);
    let unasked = scores(&cut, &with(2));
    assert_eq!((unasked.scores, unasked.chosen, unasked.shortened), (None, None, true));
    let summary = evaluate(&cut, &with(0), &TEXT, |_, _| {}).unwrap();
    assert_eq!((summary.questions, summary.correct, summary.unasked), (1, 0, 1));
}

#[test]
fn the_summary_counts_and_serialises() {
    let opened = opened(512, false);
    let folder = folder();
    let questions = read(folder.path(), &Selection::default());
    let answers = answers(&opened, &questions, &TEXT, |_, _| {}).unwrap();
    let rights: Vec<Option<usize>> = questions
        .subjects
        .iter()
        .flat_map(|subject| &subject.questions)
        .map(|question| question.right)
        .collect();
    let correct = answers.iter().zip(&rights).filter(|(answer, right)| answer.chosen == **right).count();
    let unnormalized =
        answers.iter().zip(&rights).filter(|(answer, right)| answer.most_likely == **right).count();
    let summary = evaluate(&opened, &questions, &TEXT, |_, _| {}).unwrap();
    assert_eq!((summary.questions, summary.correct), (12, correct));
    assert_eq!(summary.accuracy, correct as f64 / 12.0);
    assert_eq!(summary.accuracy_unnormalized, Some(unnormalized as f64 / 12.0));
    let expected = (summary.accuracy * (1.0 - summary.accuracy) / 12.0).sqrt();
    assert!((summary.standard_error - expected).abs() < 1e-12);
    assert_eq!(summary.subjects.iter().map(|subject| subject.questions).collect::<Vec<_>>(), [5, 7]);
    assert_eq!(summary.subjects.iter().map(|subject| subject.correct).sum::<usize>(), correct);
    let json = summary.to_json();
    assert_eq!(json["chance"], 0.25);
    assert_eq!(json["scoring"], "text");
    assert_eq!(json["subjects"]["law"]["name"], "法学");
    let table = summary.table();
    assert_eq!((table.rows.len(), table.rows[2][0].as_str(), table.rows[2][1].as_str()), (3, "All", "12"));
    let letters = evaluate(&opened, &questions, &LETTER, |_, _| {}).unwrap();
    assert!(!letters.to_json().contains_key("accuracy_unnormalized"));
}
