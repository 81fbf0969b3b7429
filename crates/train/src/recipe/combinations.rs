//! Values that must fit each other, one function for each thing that they are about.

use super::validate::Problem;
use super::{Clip, FinetuningType, IntervalStrategy, LrSchedulerType, Preference, Recipe};

/// The first that do not.
pub(super) fn combinations(recipe: &Recipe) -> Option<Problem> {
    let about = [missing, preferences, adapters, frozen_weights, best_state, learning_rate, updates];
    about.into_iter().find_map(|problem| problem(recipe))
}

/// `key` and the sentence, if something is `wrong`.
fn problem(wrong: bool, key: &'static str, sentence: impl Into<String>) -> Option<Problem> {
    wrong.then(|| (key, sentence.into()))
}

/// What no recipe can be without.
fn missing(recipe: &Recipe) -> Option<Problem> {
    let (data, adapter, output) = (&recipe.data, &recipe.adapter, &recipe.output);
    problem(
        data.dataset.is_empty(),
        "dataset",
        "`dataset` is missing: set it to a file, a folder or a name in `dataset_info.json`",
    )
    .or_else(|| {
        let sentence = "`output_dir` is missing: set it to the folder for the results";
        problem(output.output_dir.as_os_str().is_empty(), "output_dir", sentence)
    })
    .or_else(|| {
        let sentence = "`lora_target` is empty: set it to `all` or to names such as `q_proj,v_proj`";
        problem(adapter.lora_target.0.is_empty(), "lora_target", sentence)
    })
}

/// Stages that compare or judge answers.
fn preferences(recipe: &Recipe) -> Option<Problem> {
    recipe.preference()?;
    let (model, data) = (&recipe.model, &recipe.data);
    let stage = |sentence: &str| format!("`stage: {}` {sentence}", recipe.method.stage.name());
    problem(
        data.packing == Some(true),
        "packing",
        stage("compares answers to blocks of tokens: `packing` goes with `stage: pt` and `sft`"),
    )
    .or_else(|| {
        let sentence = "weighs the prompt, which is the same for both answers: leave `train_on_prompt` out";
        problem(data.train_on_prompt, "train_on_prompt", stage(sentence))
    })
    .or_else(|| {
        let sentence = "starts from a model that answers: set `model_name_or_path`";
        problem(model.model_name_or_path.is_none(), "stage", stage(sentence))
    })
}

/// What goes with adapters, and what adapters go with.
fn adapters(recipe: &Recipe) -> Option<Problem> {
    let (model, adapter) = (&recipe.model, &recipe.adapter);
    let is_named = !model.adapter_name_or_path.0.is_empty();
    problem(
        is_named && model.model_name_or_path.is_none(),
        "adapter_name_or_path",
        "`adapter_name_or_path` needs `model_name_or_path`, the model that the adapter belongs to",
    )
    .or_else(|| {
        let sentence =
            "`create_new_adapter` needs `adapter_name_or_path`, the adapters that are merged first";
        problem(adapter.create_new_adapter && !is_named, "create_new_adapter", sentence)
    })
    .or_else(|| {
        let of_adapters = [
            ("loraplus_lr_ratio", adapter.loraplus_lr_ratio.is_some()),
            ("pissa_init", adapter.pissa_init),
            ("use_dora", adapter.use_dora),
            ("trainable_token_indices", adapter.trainable_token_indices.is_some()),
        ];
        let (key, _) = of_adapters.into_iter().find(|(_, is_set)| *is_set)?;
        let has_none = recipe.method.finetuning_type != FinetuningType::Lora;
        problem(has_none, key, format!("`{key}` goes with `finetuning_type: lora`"))
    })
}

/// Weights that rest in few bits or get new rows, by how they are trained.
fn frozen_weights(recipe: &Recipe) -> Option<Problem> {
    let (model, kind) = (&recipe.model, recipe.method.finetuning_type);
    problem(
        model.quantization_bit.is_some() && kind != FinetuningType::Lora,
        "quantization_bit",
        "`quantization_bit` goes with `finetuning_type: lora`: weights that are trained must keep their precision, because a \
         step changes them by less than quantization rounds away",
    )
    .or_else(|| {
        let fits = model.tokenizer_name_or_path.is_some() && kind != FinetuningType::Freeze;
        let sentence = "`resize_vocab` needs `tokenizer_name_or_path`, the larger vocabulary, and `finetuning_type: full` or \
                        `lora`; grow the model first with `danlu tokenizer extend --model` to train a few layers";
        problem(model.resize_vocab && !fits, "resize_vocab", sentence)
    })
}

/// What goes by validations: there are some, and they have the metric.
fn best_state(recipe: &Recipe) -> Option<Problem> {
    let (data, evaluation, output) = (&recipe.data, &recipe.evaluation, &recipe.output);
    let names: &[&str] = match recipe.preference() {
        None => &["eval_loss", "eval_perplexity", "eval_accuracy"],
        // Judged answers are not compared.
        Some(Preference::Judged) => &["eval_loss", "eval_rewards/margins"],
        Some(_) => &["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"],
    };
    let metric = evaluation.metric();
    let short: Vec<String> = names.iter().map(|name| name.replace("eval_", "`") + "`").collect();
    let sentence = format!("`metric_for_best_model` must be one of {}, found `{metric}`", short.join(", "));
    problem(!names.contains(&metric.as_str()), "metric_for_best_model", sentence).or_else(|| {
        let key = if evaluation.load_best_model_at_end { "load_best_model_at_end" } else { "early_stopping_steps" };
        let has_none =
            output.eval_strategy == IntervalStrategy::No || data.val_size == 0.0 && data.eval_dataset.is_empty();
        let sentence = format!(
            "`{key}` goes by validations: set `eval_strategy` to `steps` or `epoch`, and `val_size` or `eval_dataset`"
        );
        problem(evaluation.needs_validation() && has_none, key, sentence)
    })
}

/// The schedule and where it ends.
fn learning_rate(recipe: &Recipe) -> Option<Problem> {
    let training = &recipe.training;
    let (kind, rate) = (training.lr_scheduler_type, training.learning_rate);
    let has_minimum = training.min_lr.is_some() || training.min_lr_rate.is_some();
    let needs_minimum = kind == LrSchedulerType::CosineWithMinLr;
    problem(
        needs_minimum && !has_minimum,
        "lr_scheduler_type",
        "`cosine_with_min_lr` needs `min_lr` or `min_lr_rate`",
    )
    .or_else(|| {
        let key = if training.min_lr.is_some() { "min_lr" } else { "min_lr_rate" };
        let kind = kind.name();
        let sentence =
            format!("`{key}` is the end of `cosine_with_min_lr`, and `lr_scheduler_type: {kind}` has none");
        problem(has_minimum && !needs_minimum, key, sentence)
    })
    .or_else(|| {
        let found = training.lr_scheduler_kwargs.problem(kind, rate)?;
        Some(("lr_scheduler_kwargs", format!("`lr_scheduler_kwargs`: {found}")))
    })
    .or_else(|| {
        let has_both = training.min_lr.is_some() && training.min_lr_rate.is_some();
        problem(has_both, "min_lr", "set `min_lr` or `min_lr_rate`, not both")
    })
    .or_else(|| {
        let is_above = training.min_lr.is_some_and(|min| min > rate);
        problem(is_above, "min_lr", "`min_lr` is above `learning_rate`")
    })
}

/// Updates that are made before the whole step is known.
fn updates(recipe: &Recipe) -> Option<Problem> {
    let training = &recipe.training;
    problem(
        training.fused_backward && training.loss_spike_factor.is_some(),
        "loss_spike_factor",
        "`loss_spike_factor` cannot leave out an update that `fused_backward` has made before the loss is known; leave one \
         of the two out",
    )
    .or_else(|| {
        let needs_norm = training.clip == Clip::Global && training.max_grad_norm > 0.0;
        let sentence = "`fused_backward` updates parameters before the norm of the whole gradient is known: set `clip: \
                        per_tensor` or `max_grad_norm: 0`";
        problem(training.fused_backward && needs_norm, "fused_backward", sentence)
    })
}
