//! `danlu data inspect`: what training will see of a dataset, before it sees it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use danlu_data::contamination::{NGRAM, Questions, SHARE};
use danlu_data::dataset_format::{Layout, Purpose, Tags};
use danlu_data::records::split_sheet;
use danlu_data::token_files::is_token_file;
use danlu_data::{Columns, DataOptions, Found, Inspect, LengthBin, Records, inspect};
use danlu_hub::Want;
use danlu_model::{Precision, Rest, open_shape, open_tokenizer};
use danlu_train::prepare::{Load, Prepared, Samples, prepare_watched, samples, total_steps};
use danlu_train::recipe::{Loaded, Preference, Recipe, embedded};
use serde_json::{Value, json};

use super::page;
use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::{ModelArgs, PrecisionChoice};
use crate::printer::Printer;
use crate::tokenizing::watched;

/// Which data, and how it is cut.
#[derive(Debug, clap::Args)]
pub struct Data {
    /// A recipe (file or built-in name), or data files; then key=value of the recipe
    ///
    /// zh: 配方（文件或内置名称）或数据文件；其后是配方的 key=value
    #[arg(required = true, value_name = "RECIPE|FILE|KEY=VALUE")]
    inputs: Vec<String>,
    /// Vocabulary that cuts the data, in place of a model's: a folder, tokenizer.json, tokenizer.model, or
    /// GGUF file
    ///
    /// zh: 用于切分数据的词表，代替模型的词表：文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(long, value_name = "PATH", conflicts_with = "model")]
    tokenizer: Option<PathBuf>,
    /// Model whose vocabulary cuts the data and whose context limits it, as `model_name_or_path=PATH`
    ///
    /// zh: 以其词表切分数据、以其上下文长度为限的模型，同 `model_name_or_path=PATH`
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Questions that should not be in the data, such as a benchmark's: a file or folder, as of `danlu data dedup`;
    /// several times for several
    ///
    /// zh: 数据中不应出现的题目，例如评测集：文件或文件夹，同 `danlu data dedup`；可多次给出
    #[arg(long, value_name = "PATH")]
    against: Vec<PathBuf>,
}

/// What to inspect.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: Data,
    /// Samples to show
    ///
    /// zh: 显示的样本数
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
    /// Also write a page with everything, in Chinese and English, that needs no network
    ///
    /// zh: 另外生成一个包含全部内容的网页，中英双语，无需联网
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What was seen of the data.
pub(super) struct Seen {
    pub recipe: Recipe,
    pub samples: Samples,
}

/// Runs `danlu data inspect`.
///
/// # Errors
/// A recipe, model or dataset that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let seen = look(args.data, printer)?;
    let Samples { tokenizer, training, validation, .. } = &seen.samples;
    let is_judged = seen.recipe.preference().is_some();
    let mut shown = Vec::new();
    let mut stretches = Vec::new();
    for sample in training.iter().chain(validation.iter()).take(args.samples) {
        printer.line(inspect::render(&sample, tokenizer, is_judged, printer.color())?)?;
        shown.push(json!({
            "source": sample.source.to_string(),
            "ids": sample.ids,
            "loss_weights": sample.loss_weights,
            "wanted": is_judged.then(|| !sample.is_unwanted()),
            "text": inspect::render(&sample, tokenizer, is_judged, false)?,
        }));
        let text = inspect::stretches(&sample, tokenizer)?;
        stretches.push((sample, text));
    }
    seen.describe(printer)?;
    if let Some(path) = &args.html {
        page::page(&seen, &stretches).write(path)?;
        printer.note(format_args!("written: `{}`", path.display()));
    }
    let mut object = seen.json();
    object["samples"] = shown.into();
    Ok(printer.json(&object)?)
}

/// Cuts the data as training would, and looks at each data set.
///
/// # Errors
/// A recipe, model or dataset that cannot be used.
pub(super) fn look(data: Data, printer: &Printer) -> Result<Seen> {
    let mut inputs = data.inputs;
    inputs.extend(data.model.map(|model| format!("model_name_or_path={}", model.display())));
    let loaded = recipe(&inputs, data.tokenizer.as_deref(), printer)?;
    loaded.notices.iter().for_each(|notice| printer.note(notice));
    let against = match data.against.as_slice() {
        [] => None,
        paths => Some(Questions::open(paths, NGRAM, SHARE)?),
    };
    if let Some(questions) = &against {
        let (count, too_short) = (questions.count(), questions.too_short());
        printer.note(format_args!("{count} questions are looked for, {too_short} are too short for it"));
    }
    let mut recipe = loaded.recipe;
    hub::settle_data(&mut recipe, printer)?;
    let inspect = Some(Inspect { against: against.as_ref() });
    let Some(path) = &data.tokenizer else {
        hub::settle_models(&mut recipe, Fetch::Never, printer)?;
        let prepared = watched(inspect, printer, |watch| prepare_watched(recipe, Load::Shapes, watch))?;
        let Prepared {
            recipe,
            tokenizer,
            training,
            validation,
            order,
            report,
            inspections,
            day,
            notices,
            ..
        } = prepared;
        notices.iter().for_each(|notice| printer.note(notice));
        let samples = Samples { tokenizer, training, validation, order, report, inspections, day };
        return Ok(Seen { recipe, samples });
    };
    let path = hub::place(path, Want::Tokenizer, Fetch::Allowed, printer)?;
    let tokenizer = open_tokenizer(&path)?;
    let samples = watched(inspect, printer, |watch| samples(&recipe, tokenizer, None, watch))?;
    Ok(Seen { recipe, samples })
}

impl Seen {
    /// Optimizer steps of a pass and of the run.
    pub fn steps(&self) -> (u64, u64) {
        let order = &self.samples.order;
        (order.steps_per_epoch(), total_steps(&self.recipe, order))
    }

    /// What a step counts, and how many samples that is.
    fn unit(&self) -> (&'static str, usize) {
        match self.recipe.preference() {
            Some(Preference::Pairs(_)) => ("pairs", 2),
            _ if self.samples.report.packing.is_some() => ("blocks", 1),
            _ => ("samples", 1),
        }
    }

    /// The numbers, readable.
    pub fn describe(&self, printer: &Printer) -> Result<()> {
        let Samples { training, validation, report, .. } = &self.samples;
        let (unit, group) = self.unit();
        printer.line(report)?;
        if !validation.is_empty() {
            let (training, validation) = (training.len() / group, validation.len() / group);
            let things = if group == 1 { "samples" } else { unit };
            printer.line(format_args!("{training} {things} to train on, {validation} to validate with"))?;
        }
        let ((per_epoch, run), per_step) = (self.steps(), self.recipe.training.samples_per_step());
        printer.line(format_args!("{run} steps of {per_step} {unit}, {per_epoch} a pass"))?;
        for inspection in &self.samples.inspections {
            printer.line(format_args!("\n{}", inspection.name))?;
            let header =
                ["rows", "samples", "tokens", "trained", "share", "half up to", "99 % up to", "longest"];
            let report = &inspection.report;
            let lengths = &report.lengths;
            let counts = [report.rows, report.samples, report.tokens, report.trained_tokens];
            let mut row: Vec<String> = counts.iter().map(u64::to_string).collect();
            row.push(format!("{:.1} %", 100.0 * report.trained_share()));
            row.extend([lengths.p50, lengths.p99, lengths.longest].iter().map(usize::to_string));
            printer.table(&header, &[row])?;
            let most = inspection.length_histogram.iter().map(|bin| bin.rows).max().unwrap_or(1).max(1);
            for LengthBin { up_to, rows } in &inspection.length_histogram {
                let bar = "━".repeat((rows * 40).div_ceil(most) as usize);
                printer.line(format_args!("{up_to:>8} tokens {rows:>8} {bar}"))?;
            }
            for (option, rows) in &report.filtered {
                printer.line(format_args!("outside of `{option}`, left out: {rows} rows"))?;
            }
            for (finding, Found { rows, examples }) in &inspection.findings {
                printer.line(format_args!("{}: {rows} rows", page::finding(*finding).en))?;
                examples.iter().try_for_each(|example| printer.line(format_args!("  {example}")))?;
            }
        }
        Ok(())
    }

    /// The numbers, for programs.
    pub fn json(&self) -> Value {
        let Samples { training, validation, report, .. } = &self.samples;
        let datasets = self.samples.inspections.iter().map(|inspection| {
            let mut object = json!(inspection);
            object["trained_share"] = inspection.report.trained_share().into();
            object
        });
        let (steps_per_epoch, steps) = self.steps();
        json!({
            "report": report,
            "training_samples": training.len(),
            "validation_samples": validation.len(),
            "samples_per_step": self.recipe.training.samples_per_step(),
            "steps_per_epoch": steps_per_epoch,
            "steps": steps,
            "datasets": datasets.collect::<Vec<_>>(),
        })
    }
}

/// The recipe that is meant; for mere files one that trains the newest result on them.
fn recipe(inputs: &[String], tokenizer: Option<&Path>, printer: &Printer) -> Result<Loaded> {
    let is_override = |input: &String| input.contains('=') && !Path::new(input).exists();
    let (overrides, names): (Vec<String>, Vec<String>) = inputs.iter().cloned().partition(is_override);
    let is_recipe = |name: &String| is_recipe(Path::new(name));
    match names.as_slice() {
        [name] if is_recipe(name) => {
            let loaded = Recipe::load(name, &overrides);
            let (Err(error), Some(path)) = (&loaded, tokenizer) else { return Ok(loaded?) };
            // With `--tokenizer` no model is opened, and a recipe need not name one.
            let model = format!("model_name_or_path={}", path.display());
            Recipe::load(name, &[overrides, vec![model]].concat()).map_err(|_| anyhow!(error.to_string()))
        }
        [] => Err(wrong_input(
            "give a recipe or data files before the keys; `danlu recipes list` shows recipes",
        )),
        files if files.iter().any(is_recipe) => {
            Err(wrong_input("give one recipe, or data files; set the data of a recipe with `dataset=FILE`"))
        }
        files => {
            let stage = stage(Path::new(&files[0]))?;
            let given =
                |key: &str| overrides.iter().find_map(|text| text.strip_prefix(key)?.strip_prefix('='));
            // With `--tokenizer` no model is opened, and none limits the length.
            let (model, context) = match (given("model_name_or_path"), tokenizer) {
                (_, Some(path)) => (path.to_owned(), usize::MAX),
                (Some(path), None) => {
                    let model = hub::place(Path::new(path), Want::Model, Fetch::Never, printer)?;
                    (path.into(), context(&model)?)
                }
                (None, None) => {
                    let model = newest_model(printer)?;
                    let context = context(&model)?;
                    (model, context)
                }
            };
            let mut all = vec![
                format!("dataset={}", json!(files)),
                format!("model_name_or_path={}", json!(model)),
                format!("cutoff_len={}", context.min(DataOptions::default().cutoff_len)),
                format!("stage={stage}"),
                "finetuning_type=full".to_owned(),
                "output_dir=inspected".to_owned(),
            ];
            all.extend(overrides);
            Ok(Recipe::parse("command line", "", &all)?)
        }
    }
}

fn context(model: &Path) -> Result<usize> {
    Ok(open_shape(model, Precision::F32, Rest::Frozen)?.model.config().context_length())
}

/// The model whose tokenizer cuts the data where none is named.
fn newest_model(printer: &Printer) -> Result<PathBuf> {
    let newest = ModelArgs {
        model: None,
        adapter: Vec::new(),
        tokenizer: None,
        quantization_bit: None,
        precision: PrecisionChoice::Auto,
    };
    let located = newest.locate(printer).map_err(|_| {
        wrong_input(
            "files are shown as a model's tokenizer cuts them: set `model_name_or_path=PATH` behind them, give a \
             vocabulary with `--tokenizer PATH`, or make a model with `danlu quickstart`",
        )
    })?;
    Ok(located.model)
}

/// Whether a file holds documents, rather than rows for fine-tuning.
pub(in crate::commands) fn is_corpus(path: &Path) -> Result<bool> {
    Ok(is_token_file(path) || layout(path)?.is_some_and(|layout| layout.is_document()))
}

/// The stage that a file is for.
fn stage(path: &Path) -> Result<&'static str> {
    if is_corpus(path)? {
        return Ok("pt");
    }
    Ok(match layout(path)? {
        Some(Layout::Pair(_)) => "dpo",
        Some(Layout::Judged { .. }) => "kto",
        _ => "sft",
    })
}

fn is_recipe(path: &Path) -> bool {
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    is_yaml || embedded().iter().any(|recipe| path == Path::new(&recipe.name))
}

/// What the first row of a file says of its columns.
fn layout(path: &Path) -> Result<Option<Layout>> {
    // What is not there, or cannot be read, is told when the dataset is loaded.
    if !split_sheet(path).0.exists() {
        return Ok(None);
    }
    let Some(Ok(record)) = Records::open(path)?.next() else { return Ok(None) };
    Ok(Layout::detect(&record.content, Purpose::Any, &Columns::default(), &Tags::default()).ok())
}
