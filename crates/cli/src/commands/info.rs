//! `danlu info`: what a model, adapter or vocabulary is, and what can be done with it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_formats::{AdapterConfig, ModuleSelection, TensorFolder};
use danlu_hub::{Want, size};
use danlu_model::{AttentionBias, Config, Description, RopeScaling, describe, open_tokenizer};
use danlu_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::count;
use crate::printer::Printer;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder or file, adapter folder, tokenizer folder or file
    ///
    /// zh: 模型文件夹或文件、适配器文件夹、分词器文件夹或文件
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// Runs `danlu info`.
///
/// # Errors
/// A path with nothing there, or with a file that is none of these.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let path = &hub::place(&args.path, Want::Any, Fetch::Never, printer)?;
    if !path.exists() {
        return Err(wrong_input(format!("`{}` does not exist", path.display())));
    }
    let has = |name: &str| path.join(name).is_file();
    let (rows, value) = if has("adapter_config.json") && !has("config.json") {
        adapter(path)?
    } else {
        match describe(path) {
            Ok(description) if description.types.is_empty() => vocabulary(path)?,
            Ok(description) => model(path, &description),
            // A folder or file of a vocabulary alone is no model.
            Err(error) => match is_vocabulary(path) {
                true => vocabulary(path)?,
                false => return Err(error.into()),
            },
        }
    };
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in rows {
        printer.line(format_args!("{name:width$}  {text}"))?;
    }
    Ok(printer.json(&value)?)
}

/// Names and texts to show, and the same for programs.
type Found = (Vec<(&'static str, String)>, Value);

fn is_vocabulary(path: &Path) -> bool {
    Tokenizer::is_in(path) || path.extension().is_some_and(|end| end == "json" || end == "model")
}

fn vocabulary(path: &Path) -> Result<Found> {
    let tokenizer = open_tokenizer(path)?;
    let rows = vec![
        ("kind", "tokenizer".into()),
        ("tokenizer", tokenizer_text(&tokenizer)),
        ("template", template_text(&tokenizer)),
        ("use", format!("danlu tokenizer encode --tokenizer {} --text …", path.display())),
    ];
    let value = json!({ "kind": "tokenizer", "path": path, "tokenizer": tokenizer_json(&tokenizer) });
    Ok((rows, value))
}

fn adapter(path: &Path) -> Result<Found> {
    let config = AdapterConfig::read(path)?;
    let tensors = TensorFolder::open_adapter(path)?;
    let (mut parameters, mut bytes) = (0, 0);
    for info in tensors.tensors() {
        parameters += info.elements().unwrap_or(0);
        bytes += info.byte_length().unwrap_or(0);
    }
    let base = config.base_model_name_or_path.clone().unwrap_or_default();
    let targets = match &config.target_modules {
        Some(ModuleSelection::Names(names)) => {
            let mut names = names.clone();
            names.sort();
            names.join(", ")
        }
        Some(ModuleSelection::Pattern(pattern)) => pattern.clone(),
        None => String::new(),
    };
    let mut kind = String::from("LoRA");
    for (is_set, name) in [(config.use_rslora, "rank-stabilized"), (config.use_dora, "DoRA")] {
        if is_set {
            kind += &format!(", {name}");
        }
    }
    let is_here = Path::new(&base).exists();
    let shown = path.display();
    let next = match is_here {
        true => format!("danlu generate --model {shown} --prompt … · danlu merge"),
        false => format!("danlu generate --model BASE --adapter {shown} --prompt … (BASE is `{base}`)"),
    };
    let rows = vec![
        ("kind", format!("adapter ({kind})")),
        ("base", if is_here { base.clone() } else { format!("{base}, not here") }),
        ("rank", format!("{}, alpha {}", config.r, config.lora_alpha)),
        ("targets", targets.clone()),
        (
            "size",
            format!(
                "{} parameters, {}, {} tensors",
                count(parameters),
                size(bytes as u64),
                tensors.tensors().len()
            ),
        ),
        ("use", next),
    ];
    let value = json!({
        "kind": "adapter",
        "path": path,
        "base": base,
        "base_is_here": is_here,
        "rank": config.r,
        "alpha": config.lora_alpha,
        "target_modules": targets,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "parameters": parameters,
        "bytes": bytes,
    });
    Ok((rows, value))
}

fn model(path: &Path, description: &Description) -> Found {
    let bytes: u64 = description.types.iter().map(|share| share.bytes).sum();
    let share =
        |share: &danlu_model::TypeShare| format!("{} {} ({})", share.tensors, share.name, size(share.bytes));
    let types: Vec<String> = description.types.iter().map(share).collect();
    let mut rows = vec![("kind", "model".to_owned()), ("container", description.container.clone())];
    let mut value =
        json!({ "kind": "model", "path": path, "container": description.container, "bytes": bytes });
    value["types"] = Value::from_iter(
        description
            .types
            .iter()
            .map(|share| json!({ "type": share.name, "tensors": share.tensors, "bytes": share.bytes })),
    );
    if let Some(gptq) = description.gptq {
        let group = gptq.group_size.map_or("one group a layer".into(), |size| format!("groups of {size}"));
        let order = if gptq.desc_act { ", act-order" } else { "" };
        let zeros = if gptq.sym { "symmetric" } else { "asymmetric" };
        rows.push(("quantized", format!("GPTQ, {} bits, {group}, {zeros}{order}", gptq.bits)));
        value["quantization"] = json!({
            "method": "gptq",
            "bits": gptq.bits,
            "group_size": gptq.group_size.map_or(-1, |size| size as i64),
            "desc_act": gptq.desc_act,
            "sym": gptq.sym,
        });
    }
    match &description.config {
        Ok(config) => {
            rows.extend(config_rows(config));
            value["config"] = config_json(config);
        }
        Err(error) => value["problem"] = error.to_string().into(),
    }
    rows.push(("weights", format!("{}: {}", size(bytes), types.join(", "))));
    match &description.tokenizer {
        Ok(Some(tokenizer)) => {
            rows.push(("tokenizer", tokenizer_text(tokenizer)));
            let beyond =
                description.config.as_ref().map_or(Vec::new(), |config| beyond_rows(tokenizer, config));
            if !beyond.is_empty() {
                let tokens = beyond.join(", ");
                rows.push(("no row for", format!("{tokens}: refused where it occurs")));
                value["tokens_without_row"] = beyond.into();
            }
            rows.push(("template", template_text(tokenizer)));
            value["tokenizer"] = tokenizer_json(tokenizer);
        }
        Ok(None) => rows.push(("tokenizer", "none that danlu reads".into())),
        Err(error) => rows.push(("tokenizer", error.to_string())),
    }
    let uses = uses(description);
    let shown = match &description.config {
        Ok(_) => uses.iter().map(|verb| format!("danlu {verb}")).collect::<Vec<_>>().join(" · "),
        Err(error) => format!("none: {error}"),
    };
    rows.push(("use", shown));
    value["use"] = uses.into();
    (rows, value)
}

/// The verbs that can take the model.
fn uses(description: &Description) -> Vec<&'static str> {
    let mut uses = Vec::new();
    if description.config.is_err() {
        return uses;
    }
    if let Ok(Some(tokenizer)) = &description.tokenizer {
        if tokenizer.chat_template().is_some() {
            uses.push("chat");
        }
        uses.extend(["generate", "eval", "train"]);
    } else {
        uses.push("generate");
    }
    uses.push("convert");
    uses
}

fn config_rows(config: &Config) -> Vec<(&'static str, String)> {
    let tied = if config.tie_word_embeddings { "tied" } else { "own head" };
    let mut options = Vec::new();
    match config.attention_bias {
        AttentionBias::None => {}
        AttentionBias::QueryKeyValue => options.push("biases of queries, keys and values"),
        AttentionBias::All => options.push("biases of the attention"),
    }
    if config.query_key_norm {
        options.push("norms of query and key heads");
    }
    if config.normalized_head {
        options.push("normalised head");
    }
    let mut rows = vec![
        ("family", [vec![family(config)], options].concat().join(", ")),
        ("parameters", format!("{} ({})", count(config.parameter_count()), config.parameter_count())),
        (
            "shape",
            format!(
                "hidden {}, intermediate {}, layers {}, heads {} of {}, key heads {}",
                config.hidden_size,
                config.intermediate_size,
                config.num_hidden_layers,
                config.num_attention_heads,
                config.head_dim,
                config.num_key_value_heads
            ),
        ),
        ("vocabulary", format!("{} rows, {tied}", config.vocab_size)),
        ("context", format!("{} tokens", config.context_length())),
    ];
    let scaling = scaling(config.rope_scaling);
    let scaling = if scaling == "none" { String::new() } else { format!(", {scaling}") };
    rows.push(("rope", format!("base {}{scaling}", config.rope_theta)));
    rows
}

fn family(config: &Config) -> &'static str {
    use danlu_model::Family::{
        BabyLlama2, Baichuan, InternLm2, Llama, MiniMind, MiniMindV1, Mistral, Qwen2, Qwen3,
    };
    match config.family {
        Llama => "Llama",
        BabyLlama2 => "Baby-Llama2",
        Baichuan => "Baichuan",
        Mistral => "Mistral",
        Qwen2 => "Qwen2",
        Qwen3 => "Qwen3",
        MiniMind => "MiniMind",
        MiniMindV1 => "MiniMind V1",
        InternLm2 => "InternLM2",
    }
}

fn scaling(scaling: RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear × {factor}"),
        RopeScaling::Dynamic { factor } => format!("dynamic × {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3 × {factor}"),
        RopeScaling::Yarn(yarn) => format!("yarn × {}", yarn.factor),
    }
}

fn config_json(config: &Config) -> Value {
    json!({
        "family": family(config),
        "parameters": config.parameter_count(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length(),
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling(config.rope_scaling),
        "tie_word_embeddings": config.tie_word_embeddings,
    })
}

/// Special tokens of the vocabulary that the model has no rows for, with their ids.
fn beyond_rows(tokenizer: &Tokenizer, config: &Config) -> Vec<String> {
    let ids = config.vocab_size as u32..tokenizer.vocabulary_size() as u32;
    ids.filter_map(|id| Some(format!("{} ({id})", tokenizer.token_text(id)?))).collect()
}

fn tokenizer_text(tokenizer: &Tokenizer) -> String {
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
    let mut parts = vec![format!("{} tokens", tokenizer.vocabulary_size())];
    for (name, id) in [("BOS", tokenizer.bos_id()), ("EOS", tokenizer.eos_id())] {
        if let Some(text) = text(id) {
            parts.push(format!("{name} {text}"));
        }
    }
    parts.join(", ")
}

fn template_text(tokenizer: &Tokenizer) -> String {
    match tokenizer.chat_template() {
        None => "none: continues text".into(),
        Some(source) => match source.lines().count() {
            1 => "its own, 1 line".into(),
            lines => format!("its own, {lines} lines"),
        },
    }
}

fn tokenizer_json(tokenizer: &Tokenizer) -> Value {
    json!({
        "vocabulary_size": tokenizer.vocabulary_size(),
        "bos_id": tokenizer.bos_id(),
        "eos_id": tokenizer.eos_id(),
        "adds_bos": tokenizer.adds_bos(),
        "chat_template": tokenizer.chat_template(),
    })
}
