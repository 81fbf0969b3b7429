//! `danlu data`: what training will see of a dataset, before it sees it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_data::dataset_format::{Layout, Purpose, Tags};
use danlu_data::{Columns, Content, DataOptions, Records, inspect};
use danlu_hub::Want;
use danlu_model::{Precision, Rest, open_shape, open_tokenizer};
use danlu_train::prepare::{Load, Prepared, Samples, prepare, samples};
use danlu_train::recipe::{Loaded, Recipe, embedded};
use serde_json::json;

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::{ModelArgs, PrecisionChoice};
use crate::printer::Printer;

/// What to do with data.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show samples with what is learned in ⟦…⟧, and count what is dropped or cut
    ///
    /// zh: 显示样本（学习的部分在 ⟦…⟧ 中），并统计丢弃与截断
    Inspect(InspectArgs),
}

/// What to inspect.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A recipe (file or built-in name), or data files; then key=value of the recipe
    ///
    /// zh: 配方（文件或内置名称）或数据文件；其后是配方的 key=value
    #[arg(required = true, value_name = "RECIPE|FILE|KEY=VALUE")]
    inputs: Vec<String>,
    /// Samples to show
    ///
    /// zh: 显示的样本数
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
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
}

/// Runs `danlu data`.
///
/// # Errors
/// A recipe, model or dataset that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let Args::Inspect(args) = args;
    let mut inputs = args.inputs;
    inputs.extend(args.model.map(|model| format!("model_name_or_path={}", model.display())));
    let loaded = recipe(&inputs, args.tokenizer.as_deref(), printer)?;
    loaded.notices.iter().for_each(|notice| printer.note(notice));
    let mut recipe = loaded.recipe;
    hub::settle_data(&mut recipe, printer)?;
    let Samples { tokenizer, training, validation, report } = match &args.tokenizer {
        Some(path) => {
            let path = hub::place(path, Want::Tokenizer, Fetch::Allowed, printer)?;
            samples(&recipe, open_tokenizer(&path)?)?
        }
        None => {
            hub::settle_models(&mut recipe, Fetch::Never, printer)?;
            let Prepared { tokenizer, training, validation, report, notices, .. } =
                prepare(recipe, Load::Shapes)?;
            notices.iter().for_each(|notice| printer.note(notice));
            Samples { tokenizer, training, validation, report }
        }
    };
    let mut shown = Vec::new();
    for sample in training.iter().chain(&validation).take(args.samples) {
        printer.line(inspect::render(sample, &tokenizer, printer.color())?)?;
        shown.push(json!({
            "source": sample.source.to_string(),
            "ids": sample.ids,
            "loss_weights": sample.loss_weights,
            "text": inspect::render(sample, &tokenizer, false)?,
        }));
    }
    printer.line(&report)?;
    if !validation.is_empty() {
        let (training, validation) = (training.len(), validation.len());
        printer.line(format_args!("{training} samples to train on, {validation} to validate with"))?;
    }
    Ok(printer.json(&json!({
        "report": report,
        "training_samples": training.len(),
        "validation_samples": validation.len(),
        "samples": shown,
    }))?)
}

/// The recipe that is meant; for mere files one that trains the newest result on them.
fn recipe(inputs: &[String], tokenizer: Option<&Path>, printer: &Printer) -> Result<Loaded> {
    let is_override = |input: &String| input.contains('=') && !Path::new(input).exists();
    let (overrides, names): (Vec<String>, Vec<String>) = inputs.iter().cloned().partition(is_override);
    let is_recipe = |name: &String| {
        let is_yaml = Path::new(name).extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        is_yaml || embedded().iter().any(|recipe| recipe.name == name)
    };
    match names.as_slice() {
        [name] if is_recipe(name) => Ok(Recipe::load(name, &overrides)?),
        [] => Err(wrong_input(
            "give a recipe or data files before the keys; `danlu recipes list` shows recipes",
        )),
        files if files.iter().any(is_recipe) => {
            Err(wrong_input("give one recipe, or data files; set the data of a recipe with `dataset=FILE`"))
        }
        files => {
            let stage = if is_corpus(Path::new(&files[0]))? { "pt" } else { "sft" };
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
pub fn is_corpus(path: &Path) -> Result<bool> {
    // What is not there, or cannot be read, is told when the dataset is loaded.
    if !path.exists() {
        return Ok(false);
    }
    let Some(Ok(record)) = Records::open(path)?.next() else { return Ok(false) };
    let is_text = match &record.content {
        Content::Text(_) => true,
        Content::Fields(fields) => fields.contains_key("text"),
    };
    let layout =
        Layout::detect(&record.content, Purpose::Conversation, &Columns::default(), &Tags::default());
    Ok(is_text && layout.is_err())
}
