//! Opening everything that a recipe names: model, vocabulary, chat template, samples, schedule.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::slices::SLICE_TOKENS;
use danlu_data::{
    Dataset, DatasetReport, Inspection, Packing, SampleSet, StepOrder, Task, Watch, slice_sizes,
};
use danlu_formats::AdapterConfig;
use danlu_kernels::{cpu, team};
use danlu_model::{
    Config, FreezeOptions, GrowthOptions, Model, Precision, Rest, RowInit, check_vocabulary, merge_adapter,
    open, open_grown, open_shape, open_tokenizer, quantization, read_adapter,
};
use danlu_tokenizer::{ChatTemplate, Tokenizer, VocabularyTraining};

use crate::checkpoint;
use crate::error::{Result, TrainError};
use crate::machine;
use crate::objective::kto;
use crate::objective::reference::SetReference;
use crate::objective::step::Steps;
use crate::objective::teacher::{self, Teacher};
use crate::plan::{choose_recompute, trainable_line, training_bytes};
use crate::recipe::{
    self, FinetuningType, Preference, Recipe, Recompute, ResizeVocabInit, ResumeFrom, Stage,
};
use crate::samples::Prompts;
use crate::schedule::Schedule;

/// Whether weights are read, or only their shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// For a run.
    Weights,
    /// For a plan.
    Shapes,
}

/// A recipe with everything it names.
pub struct Prepared {
    /// The recipe.
    pub recipe: Recipe,
    /// The model, with adapters if they are what is trained.
    pub model: Model,
    /// What the adapters are like.
    pub adapter: Option<AdapterConfig>,
    /// The vocabulary, with the chat template that the samples were rendered with.
    pub tokenizer: Tokenizer,
    /// Samples to train on.
    pub training: SampleSet,
    /// Samples to validate with.
    pub validation: SampleSet,
    /// The samples of each step, from its beginning.
    pub order: StepOrder,
    /// How rows became samples.
    pub report: DatasetReport,
    /// What is in each data set, where that was asked for.
    pub inspections: Vec<Inspection>,
    /// What the model answers at each validation.
    pub(crate) prompts: Prompts,
    /// Optimizer steps of the run.
    pub total_steps: u64,
    /// Learning rates of the run.
    pub schedule: Schedule,
    /// What the backward computes again.
    pub recompute: Recompute,
    /// The checkpoint to continue from.
    pub resume_from: Option<PathBuf>,
    /// Steps behind it that are not taken, each time more.
    pub passed_over: Vec<PassedOver>,
    /// As [`Samples::day`].
    pub day: Option<u32>,
    /// What the user should know, one sentence each.
    pub notices: Vec<String>,
    /// Whose most probable tokens are learned too. Until it has read, the model is a shape without weights.
    pub teacher: Option<Teacher>,
}

/// Steps that a run leaves out because it could not take them.
#[derive(Clone, Debug, PartialEq)]
pub struct PassedOver {
    /// The last of the steps.
    pub until: u64,
    /// Why, in a sentence.
    pub told: String,
}

impl Prepared {
    /// What is trained, in the line that PEFT prints, with the precision.
    pub fn trainable_line(&self) -> String {
        trainable_line(self.model.parameters().len(), self.model.parameter_count(), self.precision())
    }

    /// How operands of matrix products are rounded: `f32` or `bf16`.
    pub fn precision(&self) -> &'static str {
        match self.model.precision() {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// How steps are taken of these samples, as long as their reference is not known.
    pub fn steps(&self, samples: &SampleSet) -> Steps {
        Steps {
            samples: samples.clone(),
            preference: self.recipe.preference(),
            cutoff_len: self.recipe.data.cutoff_len,
            reference: Arc::new(SetReference::default()),
        }
    }

    /// Whether log-probabilities are compared with those at the beginning of the run.
    pub fn needs_reference(&self) -> bool {
        self.recipe.preference().is_some_and(Preference::needs_reference)
    }

    /// Tokens whose log-probabilities are computed before the first step.
    pub fn reference_tokens(&self) -> u64 {
        if !self.needs_reference() || self.resume_from.is_some() {
            return 0;
        }
        let tokens = |samples: &SampleSet| -> u64 {
            let all: Vec<usize> = (0..samples.len()).collect();
            self.steps(samples).sizes(&all).iter().map(|size| size.tokens as u64).sum()
        };
        tokens(&self.training) + tokens(&self.validation)
    }
}

/// Opens what `recipe` names.
///
/// # Errors
/// Anything that is missing, damaged or does not go together, before any step is taken.
pub fn prepare(recipe: Recipe, load: Load) -> Result<Prepared> {
    prepare_watched(recipe, load, Watch { progress: &mut |_| ControlFlow::Continue(()), inspect: None })
}

/// As [`prepare`], with `watch` beside the loading of the data.
///
/// # Errors
/// As for `prepare`, and [`DataError::Stopped`](danlu_data::DataError::Stopped).
pub fn prepare_watched(recipe: Recipe, load: Load, watch: Watch<'_>) -> Result<Prepared> {
    let mut notices = Vec::new();
    if let Some(threads) = recipe.training.threads
        && !team::set_threads(threads)
        && team::threads() != threads
    {
        notices.push(format!("`threads: {threads}` is without effect: {} run already", team::threads()));
    }
    let resume_from = match (checkpoint::find(&recipe), load) {
        // A plan writes nothing, so it only says what would stop the run.
        (Err(error), Load::Shapes) => {
            notices.push(format!("a run would stop: {error}"));
            None
        }
        (found, _) => found?,
    };
    if resume_from.is_none() && recipe.output.resume_from_checkpoint == Some(ResumeFrom::Newest(true)) {
        notices.push(format!(
            "no checkpoint in `{}`: the run starts at step 1",
            recipe.output.output_dir.display()
        ));
    }
    if let Some(checkpoint) = &resume_from {
        let changes = checkpoint::changes(checkpoint, &recipe);
        if !changes.is_empty() {
            notices.push(format!("the recipe is not that of the checkpoint: {}", changes.join(", ")));
        }
    }
    let precision = precision(&recipe);
    // The weights come when the teacher has read.
    let weights = if recipe.distillation.teacher_model_name_or_path.is_some() { Load::Shapes } else { load };
    let (model, own_tokenizer) = open_model(&recipe, resume_from.as_deref(), precision, weights)?;
    let tokenizer = tokenizer(&recipe, own_tokenizer, &mut notices)?;
    let is_new = model.is_none();
    let mut model = match model {
        Some(model) => model,
        None => new_model(&recipe, &tokenizer, precision)?,
    };
    match (check_memory(&recipe, &model), load) {
        (Err(error), Load::Shapes) => notices.push(format!("a run would stop: {error}")),
        (checked, _) => checked?,
    }
    let rows = model.config().vocab_size;
    let named = recipe.model.model_name_or_path.as_deref().unwrap_or_default();
    check_vocabulary(&tokenizer, rows, Path::new(named))?;
    let teacher = teacher::shape(&recipe, &tokenizer, precision)?;
    if is_new && weights == Load::Weights {
        model = model.initialize(recipe.training.seed);
    }
    let adapter = adapters(&recipe, &mut model, resume_from.as_deref(), weights, &mut notices)?;
    model.set_noise(recipe.training.seed, recipe.adapter.neftune_noise_alpha.unwrap_or(0.0));
    check_length(&recipe, &model)?;

    let day = resume_from.as_deref().and_then(checkpoint::day);
    let Samples { tokenizer, training, validation, order, report, inspections, day } =
        samples(&recipe, tokenizer, day, watch)?;
    if let Some(day) = day {
        notices.push(format!(
            "the chat template writes the date (`strftime_now`): the samples have that of {day}, which a continued run \
             keeps"
        ));
    }
    let unknown = training
        .iter()
        .chain(validation.iter())
        .flat_map(|sample| sample.ids)
        .find(|&id| id as usize >= rows);
    if let Some(id) = unknown {
        return Err(danlu_model::Error::TokenOutOfRange { id, vocabulary_size: rows }.into());
    }
    notices.extend(kto::imbalance(&recipe, &training));
    let template = template(&recipe, &tokenizer, day)?;
    let prompts = Prompts::new(&recipe, &tokenizer, template.as_ref(), &model)?;
    let mut prepared = Prepared {
        model,
        adapter,
        tokenizer,
        training,
        validation,
        order,
        report,
        inspections,
        prompts,
        total_steps: 0,
        schedule: recipe.schedule(1),
        recompute: Recompute::Cheap,
        resume_from,
        passed_over: Vec::new(),
        day,
        notices,
        teacher: None,
        recipe,
    };
    if let Some(shape) = teacher {
        let steps = prepared.steps(&prepared.training);
        let teacher = Teacher::new(&prepared.recipe, &shape, &steps, rows)?;
        if let Some(why) = teacher.reading.anew {
            let folder = prepared.recipe.output.output_dir.join(teacher::FOLDER);
            let notice =
                format!("what `{}` holds is not used, and the teacher reads anew: {why}", folder.display());
            prepared.notices.push(notice);
        }
        prepared.teacher = Some(teacher);
    }
    prepared.total_steps = total_steps(&prepared.recipe, &prepared.order);
    prepared.schedule = prepared.recipe.schedule(prepared.total_steps);
    match (choose_recompute(&prepared), load) {
        (Err(error), Load::Shapes) => {
            let asked = prepared.recipe.training.recompute;
            prepared.recompute = if asked == Recompute::Auto { Recompute::Block } else { asked };
            prepared.notices.push(format!("a run would stop: {error}"));
        }
        (chosen, _) => prepared.recompute = chosen?,
    }
    match (check_slices(&prepared), load) {
        (Err(error), Load::Shapes) => prepared.notices.push(format!("a run would stop: {error}")),
        (checked, _) => checked?,
    }
    Ok(prepared)
}

impl Prepared {
    /// Reads the weights that were left out for the teacher's sake.
    ///
    /// # Errors
    /// As [`prepare`], of the model.
    pub(crate) fn load_weights(&mut self) -> Result<()> {
        let (recipe, resume_from) = (&self.recipe, self.resume_from.as_deref());
        let precision = self.model.precision();
        let (model, _) = open_model(recipe, resume_from, precision, Load::Weights)?;
        let mut model = match model {
            Some(model) => model,
            None => new_model(recipe, &self.tokenizer, precision)?.initialize(recipe.training.seed),
        };
        // What there is to say was said of the shape.
        self.adapter = adapters(recipe, &mut model, resume_from, Load::Weights, &mut Vec::new())?;
        model.set_noise(recipe.training.seed, recipe.adapter.neftune_noise_alpha.unwrap_or(0.0));
        self.model = model;
        Ok(())
    }
}

/// Optimizer steps of a run that takes its samples in this order.
pub fn total_steps(recipe: &Recipe, order: &StepOrder) -> u64 {
    match u64::try_from(recipe.training.max_steps) {
        Ok(steps) if steps > 0 => steps,
        _ => (order.steps_per_epoch() as f64 * recipe.training.num_train_epochs).ceil().max(1.0) as u64,
    }
}

/// With `fused_backward` a gradient is gone after one backward, so that a step can have one slice only.
fn check_slices(prepared: &Prepared) -> Result<()> {
    if !prepared.recipe.training.fused_backward {
        return Ok(());
    }
    let mut order = prepared.order.clone();
    let group = prepared.recipe.preference().map_or(1, Preference::group);
    for step in 0..prepared.total_steps {
        let samples = order.step(step).iter().map(|&index| prepared.training.size(index));
        let count = slice_sizes(samples, group).len();
        if count > 1 {
            let problem = format!(
                "step {} has {count} slices (of {SLICE_TOKENS} tokens, or one longer sample), and a gradient that is used \
                 at once cannot be summed over them; lower `per_device_train_batch_size` times \
                 `gradient_accumulation_steps` (now {}) or `cutoff_len`, or set `fused_backward: false`",
                step + 1,
                prepared.recipe.training.samples_per_step()
            );
            return Err(TrainError::Option { key: "fused_backward", problem });
        }
    }
    Ok(())
}

/// The data of a recipe, and the vocabulary that cut it.
pub struct Samples {
    /// The vocabulary, with the chat template that the samples were rendered with.
    pub tokenizer: Tokenizer,
    /// Samples to train on.
    pub training: SampleSet,
    /// Samples to validate with.
    pub validation: SampleSet,
    /// Which of them each step takes.
    pub order: StepOrder,
    /// How rows became samples.
    pub report: DatasetReport,
    /// What is in each data set, where that was asked for.
    pub inspections: Vec<Inspection>,
    /// The day that the chat template writes into them (`20260131`), where it writes one.
    pub day: Option<u32>,
}

/// Cuts the data of `recipe` with `tokenizer`, without the model; a template that writes the date writes that of `day`, or
/// today's.
///
/// # Errors
/// No chat template for conversations, or data that cannot be used.
pub fn samples(recipe: &Recipe, tokenizer: Tokenizer, day: Option<u32>, watch: Watch<'_>) -> Result<Samples> {
    let template = template(recipe, &tokenizer, day)?;
    let tokenizer = match &template {
        // The vocabulary will carry it.
        Some(template) if tokenizer.chat_template() != Some(template.source()) => {
            tokenizer.with_chat_template(template.source().to_owned())
        }
        _ => tokenizer,
    };
    let day = template.as_ref().and_then(ChatTemplate::day);
    let tokens = tokenizer.template_tokens();
    let Watch { progress, inspect } = watch;
    let tokens = &tokens;
    let task = match (&template, recipe.preference()) {
        (Some(template), Some(Preference::Pairs(_))) => Task::Preference { template, tokens },
        (Some(template), Some(Preference::Judged)) => Task::Judged { template, tokens },
        (Some(template), None) => Task::Conversation { template, tokens },
        (None, _) => Task::Pretraining,
    };
    let dataset =
        Dataset::load_watched(&recipe.data, &tokenizer, task, Watch { progress: &mut *progress, inspect })?;
    let evaluation = Dataset::load_eval(&recipe.data, &tokenizer, task, progress)?;
    let split = dataset.split(&recipe.data, recipe.training.seed)?;
    let validation = evaluation.map_or(split.validation, |evaluation| evaluation.samples);
    let order = order(recipe, &split.training);
    let mut report = dataset.report;
    report.packing = order.packing();
    let inspections = dataset.inspections;
    Ok(Samples { tokenizer, training: split.training, validation, order, report, inspections, day })
}

/// Which samples each step takes: blocks that samples fill, or samples.
fn order(recipe: &Recipe, training: &SampleSet) -> StepOrder {
    let Recipe { data, training: options, .. } = recipe;
    let (per_step, seed) = (options.samples_per_step(), options.data_seed());
    let is_packed = data.packing.unwrap_or(recipe.method.stage == Stage::Pt && !data.group_by_length);
    let group = recipe.preference().map_or(1, Preference::group);
    let lengths: Vec<u32> = training.lengths().chunks(group).map(|together| together.iter().sum()).collect();
    if is_packed {
        StepOrder::packed(Packing::best_fit(&lengths, data.cutoff_len, seed), per_step, seed)
    } else if data.group_by_length {
        StepOrder::by_length(&lengths, per_step, seed).of_groups(group)
    } else {
        StepOrder::new(lengths.len(), per_step, seed).of_groups(group)
    }
}

/// bf16 where the processor multiplies it, unless the recipe says otherwise.
fn precision(recipe: &Recipe) -> Precision {
    match recipe.training.precision() {
        recipe::Precision::F32 => Precision::F32,
        recipe::Precision::Bf16 => Precision::Bf16,
        recipe::Precision::Auto if cpu::level() == cpu::Level::Avx512Bf16 => Precision::Bf16,
        recipe::Precision::Auto => Precision::F32,
    }
}

type ModelAndTokenizer = (Option<Model>, Option<Tokenizer>);

/// The model of the recipe, or that of the checkpoint where the weights themselves are trained; none if a new one is to
/// be made.
fn open_model(
    recipe: &Recipe,
    resume_from: Option<&Path>,
    precision: Precision,
    load: Load,
) -> Result<ModelAndTokenizer> {
    let named = recipe.model.model_name_or_path.as_deref().map(|name| recipe.model.place(name));
    let named = named.as_deref();
    let (path, rest) = match recipe.method.finetuning_type {
        FinetuningType::Full => (resume_from.or(named), Rest::Trained),
        FinetuningType::Freeze => (resume_from.or(named), Rest::Frozen),
        FinetuningType::Lora => {
            (named, recipe.model.quantization_bit.and_then(Rest::of_bits).unwrap_or(Rest::Stored))
        }
    };
    let Some(path) = path else { return Ok((None, None)) };
    if rest == Rest::Trained || rest == Rest::Frozen {
        refuse_quantized(path)?;
    }
    let growth = recipe.model.tokenizer_name_or_path.as_deref().filter(|_| recipe.model.resize_vocab);
    let opened = match load {
        _ if growth.is_some() => {
            let tokenizer = open_tokenizer(&recipe.model.place(growth.unwrap_or_default()))?;
            let init = match recipe.model.resize_vocab_init {
                ResizeVocabInit::Pieces => RowInit::Pieces,
                ResizeVocabInit::Mean => RowInit::Mean,
                ResizeVocabInit::Random => RowInit::Random,
            };
            let options = GrowthOptions { init, multiple: None, seed: recipe.training.seed };
            open_grown(path, precision, rest, load == Load::Weights, &tokenizer, options)?
        }
        Load::Weights => open(path, precision, rest)?,
        Load::Shapes => open_shape(path, precision, rest)?,
    };
    Ok((Some(opened.model), opened.tokenizer))
}

/// Refuses to train the weights of a quantized model themselves.
fn refuse_quantized(path: &Path) -> Result<()> {
    let Some(kind) = quantization(path)? else { return Ok(()) };
    let problem = format!(
        "`{path}` is quantized ({kind}), and its weights have lost what a step would change; `finetuning_type: lora` trains \
         beside them, and `danlu convert {path} FOLDER --dtype bf16` makes a model whose weights can be trained",
        path = path.display()
    );
    Err(TrainError::Option { key: "finetuning_type", problem })
}

/// Refuses a training whose weights, gradients and optimizer alone are more than the machine's memory.
fn check_memory(recipe: &Recipe, model: &Model) -> Result<()> {
    let [gradients, optimizer] = training_bytes(&recipe.training, model);
    let needed = (model.weight_bytes() + gradients + optimizer) as u64;
    match machine::memory() {
        Some(memory) if needed > memory => {
            let [needed, memory] = [needed, memory].map(|bytes| bytes.div_ceil(1_000_000_000));
            Err(TrainError::Memory { needed, memory })
        }
        _ => Ok(()),
    }
}

/// The vocabulary: named, the model's own, or of a new model its teacher's, or learned from the dataset.
fn tokenizer(recipe: &Recipe, own: Option<Tokenizer>, notices: &mut Vec<String>) -> Result<Tokenizer> {
    if let Some(path) = &recipe.model.tokenizer_name_or_path {
        return Ok(open_tokenizer(&recipe.model.place(path))?);
    }
    if let Some(own) = own {
        return Ok(own);
    }
    if let Some(path) = &recipe.model.model_name_or_path {
        let problem = format!("`{path}` has no tokenizer.json or tokenizer.model; name one");
        return Err(TrainError::Option { key: "tokenizer_name_or_path", problem });
    }
    if let (Some(teacher), None) = (&recipe.distillation.teacher_model_name_or_path, recipe.model.vocab_size)
    {
        return Ok(open_tokenizer(&recipe.model.place(teacher))?);
    }
    let texts = danlu_data::texts(&recipe.data, recipe.purpose())?;
    let options = VocabularyTraining {
        vocabulary_size: recipe.model.vocab_size.unwrap_or(VocabularyTraining::default().vocabulary_size),
        ..VocabularyTraining::default()
    };
    let tokenizer = Tokenizer::train(texts.into_iter(), &options)?;
    notices.push(format!("learned a vocabulary of {} tokens from the dataset", tokenizer.vocabulary_size()));
    Ok(tokenizer)
}

/// A new model of the recipe's shape, its weights still zero.
fn new_model(recipe: &Recipe, tokenizer: &Tokenizer, precision: Precision) -> Result<Model> {
    let shape = &recipe.model;
    let needed = |key: &'static str, value: Option<usize>| {
        let problem = "missing: a new model needs its shape; or name a model with `model_name_or_path`";
        value.ok_or_else(|| TrainError::Option { key, problem: problem.into() })
    };
    if recipe.method.finetuning_type != FinetuningType::Full {
        let problem = "a new model has nothing to adapt or to freeze; set `finetuning_type: full`, or name a model with \
                       `model_name_or_path`";
        return Err(TrainError::Option { key: "finetuning_type", problem: problem.into() });
    }
    let shape = match shape.model_preset.as_deref().map(Config::preset) {
        Some(Some(preset)) => preset,
        _ => {
            let hidden_size = needed("hidden_size", shape.hidden_size)?;
            let num_attention_heads = needed("num_attention_heads", shape.num_attention_heads)?;
            Config {
                hidden_size,
                intermediate_size: needed("intermediate_size", shape.intermediate_size)?,
                num_hidden_layers: needed("num_hidden_layers", shape.num_hidden_layers)?,
                num_attention_heads,
                num_key_value_heads: shape.num_key_value_heads.unwrap_or(num_attention_heads),
                head_dim: hidden_size / num_attention_heads.max(1),
                max_position_embeddings: shape.max_position_embeddings,
                rope_theta: shape.rope_theta,
                rms_norm_eps: shape.rms_norm_eps,
                tie_word_embeddings: shape.tie_word_embeddings,
                initializer_range: shape.initializer_range,
                ..Config::default()
            }
        }
    };
    let config = Config {
        vocab_size: tokenizer.vocabulary_size(),
        bos_token_id: tokenizer.bos_id(),
        eos_token_ids: tokenizer.eos_id().into_iter().collect(),
        pad_token_id: tokenizer.pad_id(),
        ..shape
    };
    config.check(Path::new("recipe"))?;
    Ok(Model::zeros(config, precision))
}

/// What of a model that exists is trained: adapters, fresh, continued or those of the checkpoint, or a few layers.
fn adapters(
    recipe: &Recipe,
    model: &mut Model,
    resume_from: Option<&Path>,
    load: Load,
    notices: &mut Vec<String>,
) -> Result<Option<AdapterConfig>> {
    let options = &recipe.adapter;
    let named = &recipe.model.adapter_name_or_path.0;
    let kind = recipe.method.finetuning_type;
    if kind != FinetuningType::Lora && !named.is_empty() {
        let problem =
            "an adapter goes with `finetuning_type: lora`; merge it first to train weights of the model";
        return Err(TrainError::Option { key: "adapter_name_or_path", problem: problem.into() });
    }
    match kind {
        FinetuningType::Full => return Ok(None),
        FinetuningType::Freeze => {
            let layers = FreezeOptions {
                layers: options.freeze_trainable_layers,
                modules: options.freeze_trainable_modules.0.clone(),
                extra: options.freeze_extra_modules.0.clone(),
            };
            let named = recipe.model.model_name_or_path.as_deref().map(|name| recipe.model.place(name));
            let path = resume_from.or(named.as_deref()).filter(|_| load == Load::Weights);
            return Ok(model.train_layers(&layers, path).map(|()| None)?);
        }
        FinetuningType::Lora => {}
    }
    let (merged, continued) = match named.split_last() {
        Some((last, others)) if !options.create_new_adapter => (others, Some(recipe.model.place(last))),
        _ => (&named[..], None),
    };
    for name in merged {
        merge_adapter(model, &recipe.model.place(name), load == Load::Weights)?;
    }
    if !merged.is_empty() {
        notices.push(format!(
            "merged into the model before training: {}; use the result together with them, `--adapter {},{}`",
            merged.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            merged.join(","),
            recipe.output.output_dir.display()
        ));
    }
    if let Some(folder) = resume_from.or(continued.as_deref()) {
        let mut config = read_adapter(model, folder)?;
        let is_fresh_pissa = continued.is_none() && options.starts_from_singular_values();
        if resume_from.is_some() && is_fresh_pissa {
            config = model.continue_pissa(&config, load == Load::Weights)?;
        }
        let tables = model.config().family.table_modules();
        let holds =
            |table: &String| config.modules_to_save.iter().flatten().any(|saved| saved.ends_with(table));
        if recipe.model.resize_vocab && !tables.iter().all(holds) {
            let problem = format!(
                "the adapter of `{}` does not hold `{}` whole, so new rows could be neither trained nor saved in it; \
                 grow the model first (`danlu tokenizer extend --model`), or train a fresh adapter with \
                 `create_new_adapter: true`",
                folder.display(),
                tables.join("` and `")
            );
            return Err(TrainError::Option { key: "resize_vocab", problem });
        }
        let (r, alpha, dropout) = (config.r, config.lora_alpha, config.lora_dropout);
        let mut notice = format!(
            "the adapter of `{}` keeps its own rank {r}, alpha {alpha}, dropout {dropout} and layers",
            folder.display()
        );
        if resume_from.is_none() {
            let target = model.config().family.target_modules(&options.lora_target.0).ok();
            let unused = options.unused_beside(&config, target);
            if !unused.is_empty() {
                let unused: Vec<String> = unused.into_iter().map(|key| format!("`{key}`")).collect();
                notice = format!(
                    "{notice}; its `adapter_config.json` decides, and not the recipe's {}",
                    unused.join(", ")
                );
            }
        }
        notices.push(notice);
        return Ok(Some(config));
    }
    let target = model.config().family.target_modules(&options.lora_target.0);
    let target = target.map_err(|problem| TrainError::Option { key: "lora_target", problem })?;
    let mut config = options.adapter_config(target);
    if recipe.model.resize_vocab {
        let tables = model.config().family.table_modules();
        let saved = config.modules_to_save.get_or_insert_with(|| {
            notices.push(format!("`additional_target` is `{}`, which have new rows", tables.join(",")));
            tables.clone()
        });
        let is_saved = |table: &&String| saved.iter().any(|name| table.ends_with(name.as_str()));
        if let Some(missing) = tables.iter().find(|table| !is_saved(table)) {
            let problem = format!(
                "`{missing}` has new rows by `resize_vocab`, which would be neither trained nor saved in the adapter; add it, \
                 or leave `additional_target` out"
            );
            return Err(TrainError::Option { key: "additional_target", problem });
        }
    }
    model.add_adapter(&config, (load == Load::Weights).then_some(recipe.training.seed))?;
    Ok(Some(config))
}

fn check_length(recipe: &Recipe, model: &Model) -> Result<()> {
    let (cutoff_len, context) = (recipe.data.cutoff_len, model.config().context_length());
    if cutoff_len <= context {
        return Ok(());
    }
    let problem = format!(
        "{cutoff_len} is more than the model's context of {context} tokens; set it to {context} or less"
    );
    Err(TrainError::Option { key: "cutoff_len", problem })
}

/// The template that conversations are rendered with, none for documents; where it writes the date, that of `day`, or today's.
fn template(recipe: &Recipe, tokenizer: &Tokenizer, day: Option<u32>) -> Result<Option<ChatTemplate>> {
    if recipe.method.stage == Stage::Pt {
        return Ok(None);
    }
    let template = match (&recipe.method.template, tokenizer.chat_template()) {
        (Some(name), _) => ChatTemplate::open(name)?,
        (None, Some(own)) => ChatTemplate::from_source(own)?,
        (None, None) => {
            let names = ChatTemplate::builtin_names().join(", ");
            let problem =
                format!("missing: the vocabulary has no chat template of its own; set it to one of {names}");
            return Err(TrainError::Option { key: "template", problem });
        }
    };
    let template = match recipe.method.enable_thinking {
        Some(thinks) => template.with_thinking(thinks),
        None => template,
    };
    Ok(Some(match template.day() {
        Some(today) => template.on_day(day.unwrap_or(today)),
        None => template,
    }))
}
