//! `adapter_config.json`: a real one, PEFT's variants, and what is written.

use crate::common;

use common::shared_data;
use danlu_formats::{AdapterConfig, Bias, Error, InitLoraWeights, ModuleSelection, TokenIndices};
use fs_err as fs;

fn read(text: &str) -> Result<AdapterConfig, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("adapter_config.json"), text).unwrap();
    AdapterConfig::read(folder.path())
}

fn written(config: &AdapterConfig) -> String {
    let folder = tempfile::tempdir().unwrap();
    config.write(folder.path()).unwrap();
    assert_eq!(
        AdapterConfig::read(folder.path()).unwrap(),
        AdapterConfig { inference_mode: true, ..config.clone() }
    );
    fs::read_to_string(folder.path().join("adapter_config.json")).unwrap()
}

#[test]
fn a_real_config_is_read() {
    let Some(folder) = shared_data("checkpoints/smollm-135m-lora-medical") else { return };
    let config = AdapterConfig::read(folder).unwrap();
    assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (16, 32.0, 0.05));
    assert_eq!(config.base_model_name_or_path.as_deref(), Some("HuggingFaceTB/SmolLM-135M-Instruct"));
    assert_eq!(config.target_modules, Some(ModuleSelection::Names(vec!["v_proj".into(), "q_proj".into()])));
    assert!(config.inference_mode && !config.use_rslora && config.task_type.is_none());
}

#[test]
fn written_as_peft_writes_it() {
    let config = AdapterConfig {
        task_type: Some("CAUSAL_LM".to_string()),
        base_model_name_or_path: Some("model_hub/baichuan-7B".to_string()),
        lora_alpha: 16.0,
        lora_dropout: 0.05,
        target_modules: Some(ModuleSelection::Names(vec!["W_pack".to_string()])),
        ..AdapterConfig::default()
    };
    // The keys of PEFT 0.7.1 and no others, sorted: older versions refuse keys that they do not know.
    let expected = r#"{
  "alpha_pattern": {},
  "auto_mapping": null,
  "base_model_name_or_path": "model_hub/baichuan-7B",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 16,
  "lora_dropout": 0.05,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 8,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "W_pack"
  ],
  "task_type": "CAUSAL_LM"
}"#;
    assert_eq!(written(&config), expected);
}

#[test]
fn newer_keys_are_written_when_they_say_something() {
    let config = AdapterConfig {
        bias: Bias::LoraOnly,
        lora_alpha: 0.5,
        use_rslora: true,
        use_dora: true,
        target_modules: Some(ModuleSelection::Pattern("all-linear".to_string())),
        exclude_modules: Some(ModuleSelection::Pattern(".*lm_head".to_string())),
        alpha_pattern: [("q_proj".to_string(), 4.0), ("k_proj".to_string(), 1.5)].into(),
        rank_pattern: [("q_proj".to_string(), 4)].into(),
        init_lora_weights: InitLoraWeights::Method("pissa".to_string()),
        layers_to_transform: Some(vec![0, 3]),
        trainable_token_indices: Some(TokenIndices::Modules(
            [("embed_tokens".to_string(), vec![5, 6])].into(),
        )),
        ensure_weight_tying: true,
        ..AdapterConfig::default()
    };
    let text = written(&config);
    for line in [
        "\"bias\": \"lora_only\"",
        "\"ensure_weight_tying\": true",
        "\"init_lora_weights\": \"pissa\"",
        "\"lora_alpha\": 0.5",
        "\"k_proj\": 1.5",
        "\"q_proj\": 4\n",
        "\"target_modules\": \"all-linear\"",
        "\"use_rslora\": true",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(config.target_modules.unwrap().is_all_linear());
    assert!(!config.exclude_modules.unwrap().is_all_linear());
}

#[test]
fn peft_variants_are_read() {
    let config = read(
        r#"{"peft_type": "LORA", "some_new_key": {"a": [1]}, "layers_to_transform": 3,
        "layers_pattern": "layers", "rank_pattern": null, "loftq_config": null, "init_lora_weights": false,
        "trainable_token_indices": [1, 2], "layer_replication": [[0, 4], [2, 5]], "inference_mode": false}"#,
    )
    .unwrap();
    assert_eq!((config.r, config.lora_alpha), (8, 8.0), "PEFT's defaults");
    assert_eq!(config.layers_to_transform, Some(vec![3]));
    assert_eq!(config.layers_pattern, Some(vec!["layers".to_string()]));
    assert_eq!(config.init_lora_weights, InitLoraWeights::Flag(false));
    assert_eq!(config.trainable_token_indices, Some(TokenIndices::Embedding(vec![1, 2])));
    assert_eq!(config.layer_replication, Some(vec![(0, 4), (2, 5)]));
    assert!(config.rank_pattern.is_empty());
}

#[test]
fn what_is_not_lora_or_not_json_is_refused() {
    let error = read(r#"{"peft_type": "IA3"}"#).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json") && error.contains("`peft_type` is `IA3`"), "{error}");
    let error = read("{\"r\": \"eight\"}").unwrap_err().to_string();
    assert!(error.contains("adapter_config.json") && error.contains("line 1"), "{error}");
    assert!(
        AdapterConfig::read("/nowhere").unwrap_err().to_string().contains("/nowhere/adapter_config.json")
    );
}
