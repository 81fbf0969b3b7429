//! Ranges of values, and the shape of a new model. Values of several groups that must fit each other are in
//! [`combinations`](super::combinations).

use danlu_model::PRESETS;

use super::combinations::combinations;
use super::{ModelOptions, Recipe};

/// The key to blame, and a sentence.
pub(super) type Problem = (&'static str, String);

/// The first problem of a recipe.
pub(super) fn first_problem(recipe: &Recipe) -> Option<Problem> {
    let Recipe { method, preference, distillation, .. } = recipe;
    ranges(recipe)
        .or_else(|| preference.first_problem(method))
        .or_else(|| distillation.first_problem(method))
        .or_else(|| shape(recipe))
        .or_else(|| combinations(recipe))
}

fn ranges(recipe: &Recipe) -> Option<Problem> {
    let Recipe { model, adapter, training, evaluation, output, .. } = recipe;
    let positive_count = |key, value: Option<u64>| {
        (value == Some(0)).then(|| (key, format!("`{key}` must be at least 1, found `0`")))
    };
    let within = |key, value: f64, fits: bool, range: &str| {
        (!fits || !value.is_finite()).then(|| (key, format!("`{key}` must be {range}, found `{value}`")))
    };
    let positive = |key, value: f64| within(key, value, value > 0.0, "above 0");
    let not_negative = |key, value: f64| within(key, value, value >= 0.0, "0 or more");
    let share = |key, value: f64| within(key, value, (0.0..=1.0).contains(&value), "from 0 to 1");
    let below_one = |key, value: f64| within(key, value, (0.0..1.0).contains(&value), "from 0 to below 1");
    let up_to = |key, value: Option<usize>, most: usize| {
        let value = value.filter(|value| !(1..=most).contains(value))?;
        Some((key, format!("`{key}` must be from 1 to {most}, found `{value}`")))
    };
    let count = |value: Option<usize>| value.map(|value| value as u64);

    let bits = model.quantization_bit.filter(|bits| ![4, 8].contains(bits));
    let bits =
        bits.map(|bits| ("quantization_bit", format!("`quantization_bit` must be 4 or 8, found `{bits}`")));
    let max_memory = training.max_memory().err().map(|problem| ("max_memory", problem));

    [
        max_memory,
        bits,
        positive_count("vocab_size", count(model.vocab_size)),
        positive_count("hidden_size", count(model.hidden_size)),
        positive_count("intermediate_size", count(model.intermediate_size)),
        positive_count("num_hidden_layers", count(model.num_hidden_layers)),
        positive_count("num_attention_heads", count(model.num_attention_heads)),
        positive_count("num_key_value_heads", count(model.num_key_value_heads)),
        positive_count("max_position_embeddings", count(Some(model.max_position_embeddings))),
        positive("rope_theta", model.rope_theta),
        positive("rms_norm_eps", model.rms_norm_eps),
        not_negative("initializer_range", model.initializer_range),
        up_to("lora_rank", Some(adapter.lora_rank), 1 << 14),
        positive("lora_alpha", adapter.lora_alpha()),
        below_one("lora_dropout", adapter.lora_dropout),
        adapter.loraplus_lr_ratio.and_then(|value| positive("loraplus_lr_ratio", value)),
        adapter.neftune_noise_alpha.and_then(|value| not_negative("neftune_noise_alpha", value)),
        adapter.rank_pattern.values().find_map(|rank| up_to("rank_pattern", Some(*rank), 1 << 14)),
        adapter.alpha_pattern.values().find_map(|alpha| positive("alpha_pattern", *alpha)),
        positive_count("per_device_train_batch_size", count(Some(training.per_device_train_batch_size))),
        positive_count("gradient_accumulation_steps", count(Some(training.gradient_accumulation_steps))),
        positive("learning_rate", training.learning_rate),
        positive("num_train_epochs", training.num_train_epochs),
        share("warmup_ratio", training.warmup_ratio),
        training.min_lr.and_then(|value| not_negative("min_lr", value)),
        training.min_lr_rate.and_then(|value| share("min_lr_rate", value)),
        not_negative("weight_decay", training.weight_decay),
        below_one("adam_beta1", training.adam_beta1),
        below_one("adam_beta2", training.adam_beta2()),
        positive("adam_epsilon", training.adam_epsilon),
        not_negative("max_grad_norm", training.max_grad_norm),
        training
            .loss_spike_factor
            .and_then(|value| within("loss_spike_factor", value, value > 1.0, "above 1")),
        up_to("threads", training.threads, 1024),
        positive_count("early_stopping_steps", evaluation.early_stopping_steps),
        not_negative("early_stopping_threshold", evaluation.early_stopping_threshold),
        positive_count("sample_max_new_tokens", count(Some(evaluation.sample_max_new_tokens))),
        positive_count("logging_steps", Some(output.logging_steps)),
        positive_count("eval_steps", output.eval_steps),
        not_negative("eval_delay", output.eval_delay),
        positive_count("save_steps", Some(output.save_steps)),
        positive_count("save_total_limit", count(output.save_total_limit)),
    ]
    .into_iter()
    .flatten()
    .next()
}

/// A new model needs its sizes, and they must divide.
fn shape(recipe: &Recipe) -> Option<Problem> {
    let model = &recipe.model;
    if model.model_name_or_path.is_some() {
        return None;
    }
    if model.model_preset.is_some() {
        return preset(model).or_else(|| vocabulary(recipe));
    }
    let missing = [
        ("hidden_size", model.hidden_size),
        ("intermediate_size", model.intermediate_size),
        ("num_hidden_layers", model.num_hidden_layers),
        ("num_attention_heads", model.num_attention_heads),
    ]
    .into_iter()
    .find(|(_, value)| value.is_none());
    if let Some((key, _)) = missing {
        let problem = format!(
            "set `model_name_or_path` to the model to start from, or `model_preset` or `{key}` for a new model"
        );
        return Some((key, problem));
    }
    if let Some(problem) = vocabulary(recipe) {
        return Some(problem);
    }
    let (hidden_size, heads) = (model.hidden_size?, model.num_attention_heads?);
    if hidden_size % heads != 0 || !(hidden_size / heads).is_multiple_of(2) {
        let problem = format!(
            "`hidden_size` must be `num_attention_heads` times an even number, found `{hidden_size}` and `{heads}`"
        );
        return Some(("hidden_size", problem));
    }
    let kv_heads = model.num_key_value_heads.unwrap_or(heads);
    (heads % kv_heads != 0).then(|| {
        let problem =
            format!("`num_attention_heads` must be a multiple of `num_key_value_heads`, found `{heads}` and `{kv_heads}`");
        ("num_key_value_heads", problem)
    })
}

fn vocabulary(recipe: &Recipe) -> Option<Problem> {
    let Recipe { model, distillation, .. } = recipe;
    let has_own = model.tokenizer_name_or_path.is_some() || model.vocab_size.is_some();
    let is_missing = !has_own && distillation.teacher_model_name_or_path.is_none();
    let problem =
        "a new model needs `tokenizer_name_or_path`, or `vocab_size` to train a tokenizer on the dataset";
    is_missing.then(|| ("vocab_size", problem.into()))
}

/// A preset is known, and nothing beside it says what it says.
fn preset(model: &ModelOptions) -> Option<Problem> {
    let name = model.model_preset.as_deref()?;
    if !PRESETS.contains(&name) {
        let problem = format!("`model_preset` must be one of {}, found `{name}`", PRESETS.join(", "));
        return Some(("model_preset", problem));
    }
    let ModelOptions { max_position_embeddings, rope_theta, rms_norm_eps, .. } = ModelOptions::default();
    let ModelOptions { tie_word_embeddings, initializer_range, .. } = ModelOptions::default();
    let (key, _) = [
        ("hidden_size", model.hidden_size.is_some()),
        ("intermediate_size", model.intermediate_size.is_some()),
        ("num_hidden_layers", model.num_hidden_layers.is_some()),
        ("num_attention_heads", model.num_attention_heads.is_some()),
        ("num_key_value_heads", model.num_key_value_heads.is_some()),
        ("max_position_embeddings", model.max_position_embeddings != max_position_embeddings),
        ("rope_theta", model.rope_theta != rope_theta),
        ("rms_norm_eps", model.rms_norm_eps != rms_norm_eps),
        ("tie_word_embeddings", model.tie_word_embeddings != tie_word_embeddings),
        ("initializer_range", model.initializer_range != initializer_range),
    ]
    .into_iter()
    .find(|(_, given)| *given)?;
    Some((key, format!("`{key}` is part of `model_preset: {name}`; leave one of the two out")))
}
