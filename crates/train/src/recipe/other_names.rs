//! What other programs call the options: for the hint beside a key that there is not, and for `docs/*/migrate.md`.
//!
//! They are not accepted, because beside the name the meaning of a value may differ.

/// Their key, and the key here.
#[rustfmt::skip]
pub const OTHER_NAMES: &[(&str, &str)] = &[
    // Luban, baby-llama2-chinese: constants of the scripts
    ("max_epoch", "num_train_epochs"), ("warmup_iters", "warmup_steps"), ("lr_decay_iters", "lr_scheduler_kwargs"), ("beta1", "adam_beta1"),
    ("beta2", "adam_beta2"), ("eval_interval", "eval_steps"), ("out_dir", "output_dir"), ("init_from", "model_name_or_path"),
    ("dim", "hidden_size"), ("n_layers", "num_hidden_layers"), ("n_heads", "num_attention_heads"), ("n_kv_heads", "num_key_value_heads"),
    ("norm_eps", "rms_norm_eps"),
    // literary-alpaca2, Llama2-Chinese, Chinese-LLaMA-Alpaca-3
    ("pretrained_model_name", "model_name_or_path"), ("tokenizer_name", "tokenizer_name_or_path"), ("train_files", "dataset"),
    ("validation_files", "eval_dataset"), ("train_file", "dataset"), ("validation_file", "eval_dataset"), ("dataset_name", "dataset"),
    ("block_size", "cutoff_len"), ("max_seq_length", "cutoff_len"), ("max_train_samples", "max_samples"), ("max_eval_samples", "val_size"),
    ("data_cache_dir", "tokenized_path"), ("validation_split_percentage", "val_size"), ("peft_path", "adapter_name_or_path"),
    ("trainable", "lora_target"), ("target_modules", "lora_target"), ("modules_to_save", "additional_target"), ("lora_r", "lora_rank"),
    ("full_finetuning", "finetuning_type"), ("config_name", "model_preset"), ("config_overrides", "model_preset"), ("model_type", "model_preset"),
    ("debug_mode", "max_samples"),
    // baichuan-Qlora-Tuning: class Args
    ("model_path", "model_name_or_path"), ("train_path", "dataset"), ("eval_path", "eval_dataset"), ("instruct_column", "columns"),
    ("query_column", "columns"), ("response_column", "columns"),
    // Firefly
    ("template_name", "template"), ("train_mode", "finetuning_type"), ("task_type", "stage"), ("beta", "pref_beta"), ("max_prompt_length", "cutoff_len"),
    ("tokenize_num_workers", "threads"),
    // axolotl
    ("base_model", "model_name_or_path"), ("tokenizer_config", "tokenizer_name_or_path"), ("lora_model_dir", "adapter_name_or_path"),
    ("adapter", "finetuning_type"), ("datasets", "dataset"), ("test_datasets", "eval_dataset"), ("dataset_prepared_path", "tokenized_path"),
    ("sequence_len", "cutoff_len"), ("excess_length_strategy", "overlong"), ("sample_packing", "packing"), ("micro_batch_size", "per_device_train_batch_size"),
    ("num_epochs", "num_train_epochs"), ("val_set_size", "val_size"), ("lora_target_modules", "lora_target"), ("lora_target_linear", "lora_target"),
    ("lora_modules_to_save", "additional_target"), ("peft_use_dora", "use_dora"), ("peft_use_rslora", "use_rslora"), ("optimizer", "optim"),
    ("lr_scheduler", "lr_scheduler_type"), ("cosine_min_lr_ratio", "min_lr_rate"), ("train_on_inputs", "train_on_prompt"),
    ("chat_template", "template"), ("saves_per_epoch", "save_steps"), ("evals_per_epoch", "eval_steps"), ("loss_watchdog_threshold", "loss_spike_factor"),
    ("loss_watchdog_patience", "max_skipped_steps"), ("rl", "stage"), ("auto_resume_from_checkpoints", "resume_from_checkpoint"),
    ("kd_trainer", "teacher_model_name_or_path"), ("kd_alpha", "distillation_alpha"), ("kd_ce_alpha", "distillation_alpha"),
    ("kd_temperature", "distillation_temperature"), ("kd_online_topk", "distillation_top_k"),
    // MiniMind
    ("epochs", "num_train_epochs"), ("batch_size", "per_device_train_batch_size"), ("accumulation_steps", "gradient_accumulation_steps"),
    ("grad_clip", "max_grad_norm"), ("log_interval", "logging_steps"), ("save_interval", "save_steps"), ("save_dir", "output_dir"),
    ("save_weight", "output_dir"), ("max_seq_len", "cutoff_len"), ("data_path", "dataset"), ("from_weight", "model_name_or_path"),
    ("from_resume", "resume_from_checkpoint"), ("dtype", "precision"), ("lora_name", "output_dir"), ("use_wandb", "report_to"),
    ("num_workers", "threads"),
    // older names of the Hugging Face Trainer
    ("per_gpu_train_batch_size", "per_device_train_batch_size"),
];

/// The option here that this key of another program is.
pub(super) fn option_of(key: &str) -> Option<&'static str> {
    OTHER_NAMES.iter().find(|(other, _)| *other == key).map(|(_, here)| *here)
}
