//! Multiple choice beside lm-eval: prompts to the byte, log-likelihoods, and the letters that win.
//!
//! What lm-eval says was recorded by `tools/golden/lm_eval_prompts.py` and `lm_eval_smollm2.py`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use danlu_eval::multiple_choice::{
    Answer, Benchmark, LETTERS, OPTIONS, Options, Question, Questions, Scoring, Selection, answers, prompts,
};
use danlu_model::{Opened, Precision, Rest, open};
use danlu_tokenizer::ChatTemplate;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::common::{HEADER, shared, write};

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Ceval,
    Cmmlu,
    Mmlu,
}

impl Of {
    fn folder(&self) -> (Benchmark, &'static str) {
        match self {
            Self::Ceval => (Benchmark::Ceval, "ceval"),
            Self::Cmmlu => (Benchmark::Cmmlu, "cmmlu"),
            Self::Mmlu => (Benchmark::Mmlu, "mmlu"),
        }
    }
}

#[derive(Deserialize)]
struct Recorded {
    descriptions: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
    asked: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    benchmark: Of,
    subject: String,
    shots: usize,
    form: Form,
    before: String,
    questions: Vec<Asking>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    Raw,
    Chat,
    ChatOneTurn,
}

#[derive(Deserialize)]
struct Asking {
    after: String,
    #[serde(flatten)]
    answered: Answered,
}

#[derive(Deserialize)]
struct Answered {
    log_likelihoods: [f64; OPTIONS],
    chosen: String,
    right: String,
}

impl Answered {
    fn is(&self, question: &Question, answer: &Answer, tolerance: f64, at: &str) {
        let found = answer.scores.unwrap();
        for (found, expected) in found.iter().zip(self.log_likelihoods) {
            assert!((found - expected).abs() < tolerance, "{at}: {found} against {expected}");
        }
        assert_eq!(answer.chosen.map(|option| LETTERS[option]), Some(self.chosen.as_str()), "{at}");
        assert_eq!(question.right.map(|option| LETTERS[option]), Some(self.right.as_str()), "{at}");
    }
}

#[derive(Deserialize)]
struct OfShared {
    benchmark: Of,
    subject: String,
    shots: usize,
    prompts: Vec<String>,
    answers: Vec<Answered>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn recorded<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn tiny() -> Opened {
    open(&golden("tiny"), Precision::F32, Rest::Frozen).unwrap()
}

fn selection(benchmark: Benchmark, subject: &str, shots: usize, limit: Option<usize>) -> Selection {
    Selection { benchmark, subjects: vec![subject.into()], shots, limit, ..Selection::default() }
}

#[test]
fn prompts_and_answers_are_those_of_lm_eval() {
    let opened = tiny();
    let template = opened.tokenizer().unwrap().chat_template().unwrap();
    let template = ChatTemplate::from_source(template).unwrap();
    let recorded: Recorded = recorded("lm_eval.json");
    assert_eq!(recorded.asked.len(), 3 * 3 * 5);
    for asked in &recorded.asked {
        let (benchmark, folder) = asked.benchmark.folder();
        let of_subject = selection(benchmark, &asked.subject, asked.shots, None);
        let questions = Questions::read(&golden("questions").join(folder), &of_subject).unwrap();
        let options = Options {
            scoring: Scoring::LmEval,
            template: Some(&template).filter(|_| asked.form != Form::Raw),
            one_turn: asked.form == Form::ChatOneTurn,
            ..Options::default()
        };
        let prompts = prompts(&opened, &questions, &options).unwrap();
        let answers = answers(&opened, &questions, &options, |_, _| {}).unwrap();
        assert_eq!((prompts.len(), answers.len()), (6, 6));
        for (index, asking) in asked.questions.iter().enumerate() {
            let at = format!(
                "{folder} {} {:?} {} shots, question {index}",
                asked.subject, asked.form, asked.shots
            );
            assert_eq!(prompts[index].0, format!("{}{}", asked.before, asking.after), "{at}");
            asking.answered.is(&questions.subjects[0].questions[index], &answers[index], 1e-4, &at);
        }
    }
}

#[test]
fn every_subject_is_described_as_lm_eval_describes_it() {
    let opened = tiny();
    let recorded: Recorded = recorded("lm_eval.json");
    let options = Options { scoring: Scoring::LmEval, ..Options::default() };
    let counts = [(Of::Ceval, 52), (Of::Cmmlu, 67), (Of::Mmlu, 57)];
    for (of, count) in counts {
        let (benchmark, name) = of.folder();
        let descriptions = &recorded.descriptions[name];
        assert_eq!(descriptions.len(), count);
        let folder = tempfile::tempdir().unwrap();
        for subject in descriptions.keys() {
            match of {
                Of::Ceval => {
                    let file = format!("val/{subject}_val.csv");
                    write(folder.path(), &file, &format!("{HEADER}0,问,1,2,3,4,A\n"))
                }
                Of::Cmmlu => {
                    let file = format!("test/{subject}.csv");
                    write(folder.path(), &file, ",Question,A,B,C,D,Answer\n0,问,1,2,3,4,A\n")
                }
                Of::Mmlu => write(folder.path(), &format!("test/{subject}_test.csv"), "问,1,2,3,4,A\n"),
            };
        }
        let selection = Selection { benchmark, ..Selection::default() };
        let questions = Questions::read(folder.path(), &selection).unwrap();
        let prompts = prompts(&opened, &questions, &options).unwrap();
        assert_eq!(prompts.len(), count);
        for (subject, (prompt, _)) in questions.subjects.iter().zip(prompts) {
            let description = &descriptions[&subject.key];
            assert!(
                prompt.starts_with(&format!("{description}问\nA. 1\n")),
                "{name} {}: {prompt}",
                subject.key
            );
        }
    }
}

#[test]
fn smollm2_is_asked_and_answers_as_in_lm_eval() {
    let Some(data) = shared() else { return };
    let file = data.join("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let opened = open(&file, Precision::F32, Rest::Frozen).unwrap();
    let recorded: Vec<OfShared> = recorded("lm_eval_smollm2.json");
    assert_eq!(recorded.len(), 3 * 10 * 2);
    let options = Options { scoring: Scoring::LmEval, ..Options::default() };
    for (index, asked) in recorded.iter().enumerate() {
        let (benchmark, folder) = asked.benchmark.folder();
        let read = |limit| {
            let selection = selection(benchmark, &asked.subject, asked.shots, Some(limit));
            Questions::read(&data.join("benchmarks").join(folder), &selection).unwrap()
        };
        let at = format!("{folder} {} {} shots", asked.subject, asked.shots);
        let questions = read(asked.prompts.len());
        let prompts = prompts(&opened, &questions, &options).unwrap();
        let hashes: Vec<String> = prompts.iter().map(|(prompt, _)| sha256(prompt)).collect();
        assert_eq!(hashes, asked.prompts, "{at}");
        // Prompts with examples are long: of those only one of MMLU's is answered, without examples two of each benchmark.
        if index == 50 || (asked.shots == 0 && index % 5 == 0) {
            let first = read(1);
            let answers = answers(&opened, &first, &options, |_, _| {}).unwrap();
            asked.answers[0].is(&first.subjects[0].questions[0], &answers[0], 1e-3, &at);
        }
    }
}

fn sha256(text: &str) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(text) {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}
