//! Ranges of values, and values that must fit each other.

use danlu_model::PRESETS;

use super::{Clip, FinetuningType, IntervalStrategy, LrSchedulerType, ModelOptions, Preference, Recipe};

/// The first problem: the key to blame, and a sentence.
pub(super) fn first_problem(recipe: &Recipe) -> Option<(&'static str, String)> {
    let Recipe { method, preference, distillation, .. } = recipe;
    ranges(recipe)
        .or_else(|| preference.first_problem(method))
        .or_else(|| distillation.first_problem(method))
        .or_else(|| shape(recipe))
        .or_else(|| combinations(recipe))
}

fn ranges(recipe: &Recipe) -> Option<(&'static str, String)> {
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
        positive_count("save_steps", Some(output.save_steps)),
        positive_count("save_total_limit", count(output.save_total_limit)),
    ]
    .into_iter()
    .flatten()
    .next()
}

/// A new model needs its sizes, and they must divide.
fn shape(recipe: &Recipe) -> Option<(&'static str, String)> {
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

fn vocabulary(recipe: &Recipe) -> Option<(&'static str, String)> {
    let Recipe { model, distillation, .. } = recipe;
    let has_own = model.tokenizer_name_or_path.is_some() || model.vocab_size.is_some();
    let is_missing = !has_own && distillation.teacher_model_name_or_path.is_none();
    let problem =
        "a new model needs `tokenizer_name_or_path`, or `vocab_size` to train a tokenizer on the dataset";
    is_missing.then(|| ("vocab_size", problem.into()))
}

/// A preset is known, and nothing beside it says what it says.
fn preset(model: &ModelOptions) -> Option<(&'static str, String)> {
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

fn combinations(recipe: &Recipe) -> Option<(&'static str, String)> {
    let Recipe { model, method, adapter, data, training, evaluation, output, .. } = recipe;
    let has_minimum = training.min_lr.is_some() || training.min_lr_rate.is_some();
    let needs_minimum = training.lr_scheduler_type == LrSchedulerType::CosineWithMinLr;
    let problem = |wrong: bool, key, problem: &str| wrong.then(|| (key, problem.to_owned()));
    problem(
        data.dataset.is_empty(),
        "dataset",
        "`dataset` is missing: set it to a file, a folder or a name in `dataset_info.json`",
    )
    .or_else(|| {
        problem(
            output.output_dir.as_os_str().is_empty(),
            "output_dir",
            "`output_dir` is missing: set it to the folder for the results",
        )
    })
    .or_else(|| {
        problem(
            adapter.lora_target.0.is_empty(),
            "lora_target",
            "`lora_target` is empty: set it to `all` or to names such as `q_proj,v_proj`",
        )
    })
    .or_else(|| {
        let problem = "compares answers to blocks of tokens: `packing` goes with `stage: pt` and `sft`";
        let wrong = recipe.preference().is_some() && data.packing == Some(true);
        wrong.then(|| ("packing", format!("`stage: {}` {problem}", method.stage.name())))
    })
    .or_else(|| {
        let problem = "weighs the prompt, which is the same for both answers: leave `train_on_prompt` out";
        let wrong = recipe.preference().is_some() && data.train_on_prompt;
        wrong.then(|| ("train_on_prompt", format!("`stage: {}` {problem}", method.stage.name())))
    })
    .or_else(|| {
        let problem = "starts from a model that answers: set `model_name_or_path`";
        let wrong = recipe.preference().is_some() && model.model_name_or_path.is_none();
        wrong.then(|| ("stage", format!("`stage: {}` {problem}", method.stage.name())))
    })
    .or_else(|| {
        let wrong = !model.adapter_name_or_path.0.is_empty() && model.model_name_or_path.is_none();
        problem(
            wrong,
            "adapter_name_or_path",
            "`adapter_name_or_path` needs `model_name_or_path`, the model that the adapter belongs to",
        )
    })
    .or_else(|| {
        problem(
            adapter.create_new_adapter && model.adapter_name_or_path.0.is_empty(),
            "create_new_adapter",
            "`create_new_adapter` needs `adapter_name_or_path`, the adapters that are merged first",
        )
    })
    .or_else(|| {
        let of_adapters = [
            ("loraplus_lr_ratio", adapter.loraplus_lr_ratio.is_some()),
            ("pissa_init", adapter.pissa_init),
            ("use_dora", adapter.use_dora),
            ("trainable_token_indices", adapter.trainable_token_indices.is_some()),
        ];
        let (key, _) = of_adapters.into_iter().find(|(_, is_set)| *is_set)?;
        let text = format!("`{key}` goes with `finetuning_type: lora`");
        problem(method.finetuning_type != FinetuningType::Lora, key, &text)
    })
    .or_else(|| {
        problem(
            model.quantization_bit.is_some() && method.finetuning_type != FinetuningType::Lora,
            "quantization_bit",
            "`quantization_bit` goes with `finetuning_type: lora`: weights that are trained must keep their precision, \
             because a step changes them by less than quantization rounds away",
        )
    })
    .or_else(|| {
        problem(
            model.resize_vocab
                && (model.tokenizer_name_or_path.is_none() || method.finetuning_type == FinetuningType::Freeze),
            "resize_vocab",
            "`resize_vocab` needs `tokenizer_name_or_path`, the larger vocabulary, and `finetuning_type: full` or `lora`; grow \
             the model first with `danlu tokenizer extend --model` to train a few layers",
        )
    })
    .or_else(|| {
        let names: &[&str] = match recipe.preference() {
            None => &["eval_loss", "eval_perplexity", "eval_accuracy"],
            // Judged answers are not compared.
            Some(Preference::Judged) => &["eval_loss", "eval_rewards/margins"],
            Some(_) => &["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"],
        };
        let metric = evaluation.metric();
        let short: Vec<String> = names.iter().map(|name| name.replace("eval_", "`") + "`").collect();
        let text = format!("`metric_for_best_model` must be one of {}, found `{metric}`", short.join(", "));
        problem(!names.contains(&metric.as_str()), "metric_for_best_model", &text)
    })
    .or_else(|| {
        let key = if evaluation.load_best_model_at_end { "load_best_model_at_end" } else { "early_stopping_steps" };
        let has_none = output.eval_strategy == IntervalStrategy::No || data.val_size == 0.0 && data.eval_dataset.is_empty();
        let text = format!(
            "`{key}` goes by validations: set `eval_strategy` to `steps` or `epoch`, and `val_size` or `eval_dataset`"
        );
        problem(evaluation.needs_validation() && has_none, key, &text)
    })
    .or_else(|| {
        problem(
            training.loss_spike_factor.is_some() && training.fused_backward,
            "loss_spike_factor",
            "`loss_spike_factor` cannot leave out an update that `fused_backward` has made before the loss is known; leave \
             one of the two out",
        )
    })
    .or_else(|| {
        problem(
            needs_minimum && !has_minimum,
            "lr_scheduler_type",
            "`cosine_with_min_lr` needs `min_lr` or `min_lr_rate`",
        )
    })
    .or_else(|| {
        let key = if training.min_lr.is_some() { "min_lr" } else { "min_lr_rate" };
        let kind = training.lr_scheduler_type.name();
        let text = format!("`{key}` is the end of `cosine_with_min_lr`, and `lr_scheduler_type: {kind}` has none");
        problem(has_minimum && !needs_minimum, key, &text)
    })
    .or_else(|| {
        let (kind, rate) = (training.lr_scheduler_type, training.learning_rate);
        let text = training.lr_scheduler_kwargs.problem(kind, rate)?;
        Some(("lr_scheduler_kwargs", format!("`lr_scheduler_kwargs`: {text}")))
    })
    .or_else(|| {
        problem(
            training.min_lr.is_some() && training.min_lr_rate.is_some(),
            "min_lr",
            "set `min_lr` or `min_lr_rate`, not both",
        )
    })
    .or_else(|| {
        problem(
            training.min_lr.is_some_and(|min| min > training.learning_rate),
            "min_lr",
            "`min_lr` is above `learning_rate`",
        )
    })
    .or_else(|| {
        problem(
            training.fused_backward && training.clip == Clip::Global && training.max_grad_norm > 0.0,
            "fused_backward",
            "`fused_backward` updates parameters before the norm of the whole gradient is known: set \
             `clip: per_tensor` or `max_grad_norm: 0`",
        )
    })
}
