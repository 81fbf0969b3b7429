//! What multiple choice leaves behind: the folder of takes, the search in training data, the report.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_eval::Error;
use danlu_eval::multiple_choice::{
    Backend, Contamination, EvaluationFolder, MOST_BYTES, OPTIONS, Options, Questions, Summary, Take, Takes,
    evaluate, look_for, run_of, settings, settings_of, write_csv, write_report, write_submission,
    write_summary,
};
use danlu_tokenizer::ChatTemplate;
use serde_json::{Map, Value, json};

use super::server::with_advice;
use crate::printer::Printer;
use crate::stop;

/// What is kept.
#[derive(Debug, clap::Args)]
pub struct KeepArgs {
    /// Folder for scores, answers and a report; a run that was stopped goes on there
    ///
    /// zh: 保存分数、作答与报告的文件夹；中断的运行会从中继续
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Write so many folders take0, take1, …; they are equal, since log-likelihoods know no chance, but for --cot with a
    /// --temperature, where each has the next seed, and mean and spread are told
    ///
    /// zh: 写出多少个文件夹 take0、take1……；对数似然没有随机性，因此内容相同；用 --cot 与 --temperature 时各次的随机种子依次加一，并给出均值与离散程度
    #[arg(long, value_name = "N", requires = "output_dir", default_value = "1")]
    n_times: NonZeroUsize,
    /// Write a CSV file for each subject: its questions, the model's answers, and whether they are right
    ///
    /// zh: 为每个科目写出 CSV 文件：题目、模型的作答及是否正确
    #[arg(long, requires = "output_dir")]
    save_csv: bool,
    /// Write the prompt of each question and its number of tokens
    ///
    /// zh: 写出每道题的提示文本及其词元数
    #[arg(long, requires = "output_dir")]
    log_samples: bool,
    /// Write no report.html, report.md and report.tex
    ///
    /// zh: 不写 report.html、report.md 与 report.tex
    #[arg(long, requires = "output_dir")]
    no_report: bool,
    /// Look for the questions in the training data of this run folder (default: that of the model or adapter, up to 256 MB)
    ///
    /// zh: 在此训练运行文件夹的训练数据中查找题目（默认：模型或适配器所属的运行，至多 256 MB）
    #[arg(long, value_name = "RUN")]
    train_run: Option<PathBuf>,
}

/// What is evaluated.
pub struct Asked<'a> {
    pub backend: Backend<'a>,
    /// What decides what the model says, but for the questions.
    pub model: Map<String, Value>,
    /// The model and its adapters, whose runs may have seen the questions.
    pub places: Vec<&'a Path>,
    pub data: &'a Path,
    pub questions: &'a Questions,
    pub options: Options<'a>,
}

/// What came of it.
pub struct Evaluated {
    /// Of the first take.
    pub summary: Summary,
    /// Of all takes, where each drew its own answers.
    pub takes: Option<Takes>,
    /// What `summary.json` holds: of all takes where there are such, else of the first.
    pub json: Map<String, Value>,
}

impl Asked<'_> {
    fn told(&self, error: Error) -> anyhow::Error {
        with_advice(
            error,
            match self.options.reasoning {
                Some(_) => "lower `--shots` or `--max-new-tokens`, or serve the model with a longer context",
                None => "lower `--shots`, or serve the model with a longer context",
            },
        )
    }
}

impl KeepArgs {
    /// A template that writes the date writes that of the evaluation which goes on.
    ///
    /// # Errors
    /// A folder whose record is damaged.
    pub fn on_its_day(&self, template: ChatTemplate) -> Result<ChatTemplate> {
        let earlier = self.output_dir.as_deref().map(settings_of).transpose()?.flatten();
        let day = earlier.and_then(|settings| settings.get("template")?.get("day")?.as_u64());
        Ok(match day.and_then(|day| u32::try_from(day).ok()) {
            Some(day) => template.on_day(day),
            None => template,
        })
    }

    /// Asks, or goes on asking, and writes what is wanted.
    ///
    /// # Errors
    /// A model or questions that do not fit, a folder of another evaluation, a full disk.
    pub fn evaluate(&self, asked: &Asked, printer: &Printer) -> Result<Evaluated> {
        let Asked { backend, questions, options, .. } = asked;
        let settings = self.settings(asked)?;
        let folder = self.output_dir.as_deref().map(|path| EvaluationFolder::open(path, &settings));
        let folder = folder.transpose()?;
        let found = self.look_for_questions(asked, printer)?;
        let (Some(folder), Some(path)) = (folder, &self.output_dir) else {
            let mut bar = printer.progress("options", (OPTIONS * questions.len()) as u64);
            let summary = evaluate(*backend, questions, options, |done, _| bar.set(done as u64, ""));
            let summary = summary.map_err(|error| asked.told(error))?;
            let json = with_settings(summary.to_json(), &settings);
            return Ok(Evaluated { summary, takes: None, json });
        };
        stop::answer_with(format!(
            "stopped; what is answered stands in `{}`, and the same command goes on from there",
            path.display()
        ));
        let first = self.take(0, &folder, asked, &settings, printer)?;
        let mut summaries = vec![first];
        let times = self.n_times.get();
        if options.reasoning.is_some_and(|reasoning| reasoning.sampling.temperature > 0.0) {
            // Reasons are drawn anew each time; takes of an earlier run count too.
            for number in 1..times.max(folder.takes()) {
                summaries.push(self.take(number, &folder, asked, &settings, printer)?);
            }
        } else {
            folder.repeat_first(times)?;
            if times > 1 {
                printer.note("the takes are equal: nothing is drawn at random");
            }
        }
        let takes = Takes::of(&summaries).filter(|takes| takes.all.questions > 0);
        let summary = summaries.swap_remove(0);
        let json = takes.as_ref().map_or_else(|| summary.to_json(), |takes| takes.to_json(&summary));
        let json = with_settings(json, &settings);
        if takes.is_some() {
            write_summary(path, &json)?;
        }
        if !self.no_report {
            write_report(path, &summary, takes.as_ref(), &settings, found.as_ref())?;
        }
        printer.note(format_args!("written to `{}`", path.display()));
        Ok(Evaluated { summary, takes, json })
    }

    /// Asks everything once, or goes on asking, and writes what came of it.
    fn take(
        &self,
        number: usize,
        folder: &EvaluationFolder,
        asked: &Asked,
        settings: &Map<String, Value>,
        printer: &Printer,
    ) -> Result<Summary> {
        let Asked { backend, questions, options, .. } = asked;
        let reasoning = options.reasoning.map(|reasoning| reasoning.of_take(number));
        let options = Options { reasoning: reasoning.as_ref(), ..*options };
        let mut bar = printer.progress("options", (OPTIONS * questions.len()) as u64);
        let mut take = folder.take(number, *backend, questions, &options)?;
        let kept = take.answers().len();
        let answered = |take: &Take, end: &str| {
            let (kept, all, path) = (take.answers().len(), questions.len(), take.path().display());
            format!("{kept} of {all} questions are answered in `{path}`{end}")
        };
        if kept > 0 {
            bar.skip((OPTIONS * kept) as u64);
            bar.note(answered(&take, " already"));
        }
        let gone_on =
            take.go_on(*backend, questions, &options, self.log_samples, |done, _| bar.set(done as u64, ""));
        drop(bar);
        if let Err(error) = gone_on {
            if !take.answers().is_empty() {
                printer.note(answered(&take, ", and the same command goes on from there"));
            }
            return Err(asked.told(error));
        }
        let summary = Summary::new(questions, &options, take.answers());
        let json = with_settings(summary.to_json(), settings);
        self.write(&take, questions, &json)?;
        Ok(summary)
    }

    fn write(&self, take: &Take, questions: &Questions, json: &Map<String, Value>) -> danlu_eval::Result<()> {
        let mut all = questions.subjects.iter().flat_map(|subject| &subject.questions);
        if all.any(|question| question.right.is_none()) {
            write_submission(take.path(), questions, take.answers())?;
        }
        if self.save_csv {
            write_csv(take.path(), questions, take.answers())?;
        }
        write_summary(take.path(), json)
    }

    fn settings(&self, asked: &Asked) -> Result<Map<String, Value>> {
        let Asked { backend, model, data, questions, options, .. } = asked;
        let mut all = settings(*backend, questions, options)?;
        all.extend(model.clone());
        all.extend([("data".into(), json!(data)), ("log_samples".into(), self.log_samples.into())]);
        Ok(all)
    }

    fn look_for_questions(&self, asked: &Asked, printer: &Printer) -> Result<Option<Contamination>> {
        let (runs, most) = match &self.train_run {
            Some(run) => (vec![run.clone()], u64::MAX),
            None => (asked.places.iter().filter_map(|path| run_of(path)).collect(), MOST_BYTES),
        };
        let Some(first) = runs.first() else { return Ok(None) };
        let mut bar = printer.progress("searching training data, bytes", None);
        let found = look_for(asked.questions, &runs, most, |bytes| bar.set(bytes, ""));
        drop(bar);
        let found = match found {
            Ok(found) => found,
            // Nobody asked for the search, which is but a notice.
            Err(error) if self.train_run.is_none() => {
                printer.warning(format_args!("the training data is not searched for the questions: {error}"));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let searched = found.files.iter().filter(|file| file.searched).count();
        let files =
            format!("{searched} of {} files of training data of `{}`", found.files.len(), first.display());
        let list = match &self.output_dir {
            Some(folder) => {
                found.write(folder)?;
                format!("`{}` lists them", folder.join("contamination.json").display())
            }
            None => "`--output-dir` lists them".to_owned(),
        };
        let questions = found.questions;
        match found.overlapping {
            0 => printer.note(format_args!("none of {questions} questions stands in {files}")),
            overlapping => printer.warning(format_args!(
                "{overlapping} of {questions} questions stand in {files}, so that the score may be learned by heart; {list}"
            )),
        }
        tell_incomplete(&found, printer);
        Ok(Some(found))
    }
}

fn with_settings(mut json: Map<String, Value>, settings: &Map<String, Value>) -> Map<String, Value> {
    json.insert("evaluation".into(), settings.clone().into());
    json
}

/// What the search did not look at.
fn tell_incomplete(found: &Contamination, printer: &Printer) {
    if found.too_short > 0 {
        printer.note(format_args!(
            "{} questions are too short to be told from harmless texts and were not looked for",
            found.too_short
        ));
    }
    if let Some(files) = found.incomplete() {
        printer.warning(format_args!("not all of the training data was searched: {files}"));
    }
}
