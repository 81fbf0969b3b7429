//! `danlu convert`: a model from one container into another.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_formats::write_file_atomically;
use danlu_model::{ConvertOptions, Form, Mixture, convert, modelfile, modelfile_path, open_tokenizer};
use fs_err as fs;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::models::count;
use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// What to convert, and into what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder or file, of any kind that danlu reads
    ///
    /// zh: 模型文件夹或文件，danlu 能读取的任何格式
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Folder or file to write; it must not be there yet
    ///
    /// zh: 要写出的文件夹或文件；不能已存在
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What to write (default: by the ending of OUT; a folder is safetensors)
    ///
    /// zh: 输出格式（默认：按 OUT 的扩展名；文件夹为 safetensors）
    #[arg(long, value_enum)]
    to: Option<To>,
    /// Type of the weights (default: as they are; f32 where they are quantized)
    ///
    /// zh: 权重类型（默认：保持原样；量化的权重写成 f32）
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Quantization of a GGUF file, as llama.cpp names it; llama2c takes q8_0, a Hugging Face folder nf4 (bitsandbytes)
    ///
    /// zh: GGUF 文件的量化方式，名称同 llama.cpp；llama2c 可用 q8_0，Hugging Face 文件夹可用 nf4（bitsandbytes）
    #[arg(long, value_name = "TYPE", conflicts_with = "dtype", value_parser = quant)]
    quant: Option<Quant>,
    /// Tokenizer for a model that has none: its folder, tokenizer.json, or a GGUF file
    ///
    /// zh: 为没有分词器的模型指定分词器：文件夹、tokenizer.json 或 GGUF 文件
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// Hugging Face folder with safetensors
    Safetensors,
    /// Hugging Face folder with pytorch_model.bin
    Bin,
    /// Meta's names: one .pth file, or a folder with consolidated.00.pth
    Pth,
    /// GGUF file for llama.cpp and Ollama
    Gguf,
    /// File for llama2.c
    Llama2c,
}

/// Plain types of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

/// How to quantize.
#[derive(Debug, Clone, Copy)]
enum Quant {
    Mixture(Mixture),
    Nf4,
}

fn quant(name: &str) -> Result<Quant, String> {
    if name.eq_ignore_ascii_case("nf4") {
        return Ok(Quant::Nf4);
    }
    let mixture = Mixture::of_name(name).map(Quant::Mixture);
    mixture.ok_or_else(|| format!("it can be nf4, {}", Mixture::names().join(", ")))
}

/// Runs `danlu convert`.
///
/// # Errors
/// A model that cannot be read or that the form cannot hold, an output that is there already or cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let (form, mixture) = match (form(args.to, &args.output)?, args.quant) {
        (Form::Safetensors, Some(Quant::Nf4)) => (Form::Nf4, None),
        (form, Some(Quant::Nf4)) => return Err(no_nf4(form)),
        (form, Some(Quant::Mixture(mixture))) => (form, Some(mixture)),
        (form, None) => (form, None),
    };
    let output = &args.output;
    if fs::symlink_metadata(output).is_ok() && !is_empty_folder(output) {
        let path = output.display();
        return Err(wrong_input(format!("`{path}` is there already: remove it, or give another name")));
    }
    if args.input.join("adapter_config.json").is_file() && !args.input.join("config.json").is_file() {
        let path = args.input.display();
        return Err(wrong_input(format!(
            "`{path}` is an adapter: put it into its model with `danlu merge` first"
        )));
    }
    let mixture = mixture.or(args.dtype.map(|dtype| match dtype {
        Dtype::F32 => Mixture::F32,
        Dtype::F16 => Mixture::F16,
        Dtype::Bf16 => Mixture::Bf16,
    }));
    let tokenizer = args.tokenizer.as_deref().map(open_tokenizer).transpose()?;
    let start = Instant::now();
    let mut bar = None;
    let mut progress = |done: u64, total: u64| {
        let bar = bar.get_or_insert_with(|| printer.progress("converting", total));
        bar.set(done, format_args!("{} of {}", count(done as usize), count(total as usize)));
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let converted = convert(&args.input, output, ConvertOptions { form, mixture, tokenizer }, &mut progress);
    drop(bar);
    let converted = match converted {
        Err(danlu_model::Error::Cancelled) => return Err(Interrupted.into()),
        converted => converted?,
    };
    let mut notes = converted.notes;
    if form == Form::Gguf {
        let path = modelfile_path(output);
        write_file_atomically(&path, modelfile(output, converted.tokenizer.as_ref()).as_bytes())?;
        notes.push(format!("for Ollama: `ollama create NAME -f {}`", path.display()));
    }
    let bytes: u64 = converted.types.iter().map(|share| share.bytes).sum();
    let parameters = converted.config.parameter_count();
    printer.line(format_args!(
        "{} ({}) → {} · {} parameters · {} · {:.1} s",
        args.input.display(),
        converted.source,
        output.display(),
        count(parameters),
        size(bytes),
        start.elapsed().as_secs_f64(),
    ))?;
    let row = |share: &danlu_model::TypeShare| {
        vec![share.name.into(), share.tensors.to_string(), size(share.bytes)]
    };
    let rows: Vec<Vec<String>> = converted.types.iter().map(row).collect();
    printer.table(&["type", "tensors", "size"], &rows)?;
    notes.iter().for_each(|note| printer.note(note));
    let types: Vec<Value> = converted
        .types
        .iter()
        .map(|share| json!({ "type": share.name, "tensors": share.tensors, "bytes": share.bytes }))
        .collect();
    Ok(printer.json(&json!({
        "path": output,
        "source": converted.source,
        "parameters": parameters,
        "bytes": bytes,
        "types": types,
        "bits_per_weight": bytes as f64 * 8.0 / parameters.max(1) as f64,
        "notes": notes,
        "seconds": start.elapsed().as_secs_f64(),
    }))?)
}

/// Why a form does not hold NF4, and what to do.
fn no_nf4(form: Form) -> anyhow::Error {
    let why = match form {
        Form::Gguf => "GGUF has no block type for it: take `--quant q4_k_m` there",
        Form::Bin => "transformers reads it from safetensors: leave `--to bin` out",
        _ => "only Hugging Face folders hold it",
    };
    wrong_input(format!("`nf4` is bitsandbytes' type, and {why}; a folder as OUT is written with it"))
}

/// Bytes as people say them.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        bytes => format!("{bytes} bytes"),
    }
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// What is to be written to this path.
fn form(to: Option<To>, output: &Path) -> Result<Form> {
    let ending = output.extension().map(|end| end.to_string_lossy().to_lowercase()).unwrap_or_default();
    let form = match (to, ending.as_str()) {
        (Some(To::Safetensors), _) => Form::Safetensors,
        (Some(To::Bin), _) => Form::Bin,
        (Some(To::Pth), _) | (None, "pth") => Form::Pth,
        (Some(To::Gguf), _) | (None, "gguf") => Form::Gguf,
        (Some(To::Llama2c), _) => Form::Llama2c,
        (None, "bin") => {
            return Err(wrong_input(
                "`.bin` says too little: give `--to bin` and a folder for Hugging Face, or `--to llama2c` for llama2.c",
            ));
        }
        (None, _) => Form::Safetensors,
    };
    if matches!(form, Form::Safetensors | Form::Bin)
        && ["safetensors", "bin", "gguf", "pth"].contains(&ending.as_str())
    {
        let path = output.display();
        return Err(wrong_input(format!(
            "a Hugging Face model is a folder: give its name in the place of `{path}`"
        )));
    }
    Ok(form)
}
