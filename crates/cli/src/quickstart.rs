//! The whole life of a small model, from text to answers: a sequence over what the other verbs do.
//!
//! Everything is made in one folder: data, vocabulary, recipes, the pretrained and the fine-tuned model, a report.
//! Nothing here trains, scores or generates by itself.

mod folder;
mod knowledge;
mod report;
mod samples;
mod training;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use danlu_data::dataset_format::Purpose;
use danlu_data::{DataOptions, texts};
use danlu_eval::multiple_choice::{OPTIONS, Options, Questions, Scoring, Selection, Summary, evaluate};
use danlu_tokenizer::{Tokenizer, VocabularyTraining};
use serde_json::json;

use self::folder::Folder;
use self::knowledge::Sizes;
use self::samples::{Sample, open_model, samples};
use self::training::Trained;
use crate::models::count;
use crate::printer::Printer;
use crate::prompts::template_of;

pub use self::folder::FULL_MINUTES;

const VOCABULARY: usize = 4096;
const STEPS: usize = 8;
/// Below so many minutes nothing can be learned; then a few questions of each subject are enough for a score.
const MINUTES_FOR_ALL_QUESTIONS: f64 = 1.0;
const FEW_QUESTIONS: usize = 20;

/// What to do.
pub struct Settings {
    /// The folder.
    pub dir: PathBuf,
    /// Size of the training, as minutes on 2 cores.
    pub minutes: f64,
    /// Seed of everything random.
    pub seed: u64,
}

impl Settings {
    /// Whether there is less training than it takes to learn to answer.
    fn is_short(&self) -> bool {
        self.minutes < FULL_MINUTES
    }
}

/// What came of it.
pub struct Outcome {
    /// Share of right answers of the pretrained model, by the text of the options.
    pub score_before: f64,
    /// The same of the fine-tuned model.
    pub score_after: f64,
    /// Time of the whole.
    pub seconds: f64,
    /// The fine-tuned model.
    pub model: PathBuf,
}

/// Everything that the report tells.
struct Figures {
    /// The minutes asked for, where they may be too few.
    short_minutes: Option<f64>,
    seconds: f64,
    facts: usize,
    documents: usize,
    rows: usize,
    vocabulary: usize,
    pretrained: Trained,
    fine_tuned: Trained,
    /// Questions of each subject, where not all are asked.
    limit: Option<usize>,
    before: Scores,
    after: Scores,
    /// The fine-tuned model's score on the questions drawn again, and the seed of that.
    drawn_again: (Summary, u64),
    samples: Vec<Sample>,
}

/// Both forms of the multiple-choice score.
struct Scores {
    text: Summary,
    letter: Summary,
}

/// Runs all steps.
///
/// # Errors
/// A folder that is not the quickstart's, what a step says, or that the user stopped it.
pub fn run(settings: &Settings, printer: &Printer) -> Result<Outcome> {
    let start = Instant::now();
    let folder = Folder::create(settings)?;
    if settings.is_short() {
        let minutes = settings.minutes;
        printer.note(format_args!(
            "`--minutes {minutes}` may be too short to learn to answer; the default is {FULL_MINUTES} minutes"
        ));
    }
    let mut steps = Steps { printer, number: 0, start };

    steps.begin("corpus: facts of mechanical and process engineering as text, in Chinese");
    let sizes = Sizes::default();
    let data = knowledge::write(&folder.path("data"), settings.seed, &sizes)?;
    let again_seed = settings.seed.wrapping_add(1);
    knowledge::write_multiple_choice(&folder.path("data/mcq-again"), again_seed, &sizes)?;
    steps.end(format_args!(
        "{} documents ({:.1} MB), {} questions with answers, {} held-out questions → {}",
        data.corpus_documents,
        data.corpus_bytes as f64 / 1e6,
        data.sft_rows,
        data.val_items,
        folder.text("data"),
    ));

    steps.begin("vocabulary: byte-level BPE, learned from the corpus");
    let vocabulary = vocabulary(&folder)?;
    steps.end(format_args!("{vocabulary} tokens → {}", folder.text("tokenizer")));

    steps.begin(format_args!("pretraining: a new model reads the corpus, {}", folder.text("pretrain.yaml")));
    let pretrained = training::run(&folder.path("pretrain.yaml"), "pretraining", printer)?;
    steps.end(format_args!(
        "{} parameters, {} steps, {} tokens, {} → {}",
        count(pretrained.parameters),
        pretrained.steps,
        count(pretrained.tokens as usize),
        pretrained.losses(),
        folder.text("pretrained"),
    ));

    steps.begin("score: the pretrained model answers the held-out questions");
    let limit = (settings.minutes < MINUTES_FOR_ALL_QUESTIONS).then_some(FEW_QUESTIONS);
    let selection = Selection { shots: 0, limit, ..Selection::default() };
    let questions = Questions::read(&folder.path("data/mcq"), &selection)?;
    let before = Scores::of(&folder.path("pretrained"), &questions, printer)?;
    steps.end(format_args!("{}; chance is 25 %", before.sentence()));

    steps.begin(format_args!("fine-tuning: it learns to answer, {}", folder.text("sft.yaml")));
    let fine_tuned = training::run(&folder.path("sft.yaml"), "fine-tuning", printer)?;
    steps.end(format_args!(
        "{} steps, {} tokens, {} → {}",
        fine_tuned.steps,
        count(fine_tuned.tokens as usize),
        fine_tuned.losses(),
        folder.text("model"),
    ));

    steps.begin("score: the fine-tuned model answers the same questions");
    let after = Scores::of(&folder.path("model"), &questions, printer)?;
    let again = Questions::read(&folder.path("data/mcq-again"), &selection)?;
    let again = score(&folder.path("model"), &again, Scoring::Text, printer)?;
    steps.end(format_args!(
        "{}; with wordings, distractors and order drawn again {}",
        after.sentence(),
        percent(again.accuracy)
    ));

    steps.begin("samples: the same prompts before and after");
    let samples = samples(&folder.path("pretrained"), &folder.path("model"), &questions)?;
    steps.end(format_args!("{} prompts", samples.len()));

    steps.begin("report: curves, scores, samples, what to run next");
    let mut figures = Figures {
        short_minutes: settings.is_short().then_some(settings.minutes),
        seconds: start.elapsed().as_secs_f64(),
        facts: data.facts,
        documents: data.corpus_documents,
        rows: data.sft_rows,
        vocabulary,
        pretrained,
        fine_tuned,
        limit,
        before,
        after,
        drawn_again: (again, again_seed),
        samples,
    };
    report::page(&figures, &folder).write(&folder.path("report.html"))?;
    figures.seconds = start.elapsed().as_secs_f64();
    folder.mark(
        settings,
        &json!({
            "score_before": figures.before.text.accuracy,
            "score_after": figures.after.text.accuracy,
            "score_drawn_again": figures.drawn_again.0.accuracy,
            "letter_score_before": figures.before.letter.accuracy,
            "letter_score_after": figures.after.letter.accuracy,
            "seconds": figures.seconds,
        }),
    )?;
    steps.end(folder.text("report.html"));
    tell(&figures, &folder, printer)?;
    Ok(Outcome {
        score_before: figures.before.text.accuracy,
        score_after: figures.after.text.accuracy,
        seconds: figures.seconds,
        model: folder.path("model"),
    })
}

fn vocabulary(folder: &Folder) -> Result<usize> {
    let options =
        DataOptions { dataset: vec![folder.text("data/corpus/corpus.jsonl")], ..DataOptions::default() };
    let training = VocabularyTraining { vocabulary_size: VOCABULARY, ..VocabularyTraining::default() };
    let texts = texts(&options, Purpose::Pretraining)?;
    let tokenizer = Tokenizer::train(texts.into_iter(), &training)?;
    tokenizer.save(&folder.path("tokenizer"))?;
    Ok(tokenizer.vocabulary_size())
}

/// The share of right answers, asked in the model's own chat template.
fn score(model: &Path, questions: &Questions, scoring: Scoring, printer: &Printer) -> Result<Summary> {
    let opened = open_model(model)?;
    let template = template_of(&opened, None)?;
    let options = Options { scoring, template: template.as_ref(), ..Options::default() };
    let mut bar = printer.progress("scoring", (OPTIONS * questions.len()) as u64);
    Ok(evaluate(&opened, questions, &options, |done, _| bar.set(done as u64, "options"))?)
}

impl Scores {
    fn of(model: &Path, questions: &Questions, printer: &Printer) -> Result<Self> {
        Ok(Self {
            text: score(model, questions, Scoring::Text, printer)?,
            letter: score(model, questions, Scoring::LmEval, printer)?,
        })
    }

    fn sentence(&self) -> String {
        format!(
            "{} right by the options' text, {} by the letters A to D",
            percent(self.text.accuracy),
            percent(self.letter.accuracy)
        )
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The results in short, on standard output.
fn tell(figures: &Figures, folder: &Folder, printer: &Printer) -> Result<()> {
    for sample in &figures.samples {
        let Sample { prompt, right, before, after } = sample;
        let (before, after) = (one_line(before), one_line(after));
        match right {
            None => printer.line(format_args!("\n{prompt}\n  before: {before}\n  after:  {after}"))?,
            Some(right) => printer.line(format_args!("\n{prompt}\n  after:  {after} (right: {right})"))?,
        }
    }
    printer.line(format_args!(
        "\nscore {} → {} in {:.0} s",
        percent(figures.before.text.accuracy),
        percent(figures.after.text.accuracy),
        figures.seconds
    ))?;
    printer.line(format_args!("model   {}", folder.text("model")))?;
    printer.line(format_args!("report  {}", folder.text("report.html")))?;
    printer.line(format_args!("next    danlu chat --model {}", folder.text("model")))?;
    Ok(())
}

fn one_line(text: &str) -> String {
    text.replace('\n', "⏎")
}

/// Announces the steps one by one, each with its time.
struct Steps<'a> {
    printer: &'a Printer,
    number: usize,
    start: Instant,
}

impl Steps<'_> {
    fn begin(&mut self, what: impl Display) {
        self.number += 1;
        self.start = Instant::now();
        self.printer.note(format_args!("[{}/{STEPS}] {what}", self.number));
    }

    fn end(&self, what: impl Display) {
        self.printer.note(format_args!("      {what} · {:.1} s", self.start.elapsed().as_secs_f64()));
    }
}
