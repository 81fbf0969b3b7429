//! `danlu convert`: a model from one container into another.

mod gptq;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_eval::perplexity;
use danlu_formats::{ImportanceMatrix, write_file_atomically};
use danlu_hub::{Want, size};
use danlu_model::{
    ConvertOptions, Form, Mixture, adapter_modelfile, convert, describe, measure_importance, modelfile,
    modelfile_path, open_tokenizer, quantize_gptq, write_gguf_adapter,
};
use danlu_train::machine;
use fs_err as fs;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::{ModelArgs, PrecisionChoice, base_of, count};
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
    /// Number of consolidated.NN.pth in Meta's folder, one for each process that is to run in parallel (Llama 2: 1 for
    /// 7B, 2 for 13B, 8 for 70B)
    ///
    /// zh: Meta 文件夹中 consolidated.NN.pth 的个数，每个并行进程一个（Llama 2：7B 为 1，13B 为 2，70B 为 8）
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    parts: Option<u8>,
    /// Type of the weights (default: as they are; f32 where they are quantized)
    ///
    /// zh: 权重类型（默认：保持原样；量化的权重写成 f32）
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Quantization of a GGUF file, as llama.cpp names it; llama2c takes q8_0; gptq-4bit and gptq-8bit make a folder of
    /// GPTQ, with `--calibration`, nf4 one of bitsandbytes
    ///
    /// zh: GGUF 文件的量化方式，名称同 llama.cpp；llama2c 可用 q8_0；gptq-4bit 和 gptq-8bit 写出 GPTQ 文件夹，需要
    /// `--calibration`；nf4 写出 bitsandbytes 文件夹
    #[arg(long, value_name = "TYPE", conflicts_with = "dtype", value_parser = quant)]
    quant: Option<Quant>,
    #[command(flatten)]
    gptq: gptq::GptqArgs,
    /// Tokenizer for a model that has none: its folder, tokenizer.json, tokenizer.model, or a GGUF file
    ///
    /// zh: 为没有分词器的模型指定分词器：文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Where IN is an adapter: its model (default: the one that the adapter names)
    ///
    /// zh: IN 为适配器时：它所属的模型（默认：适配器中记录的模型）
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// Importance matrix of llama.cpp (.gguf or .dat), by which the quantizer weighs its errors
    ///
    /// zh: llama.cpp 的重要性矩阵（.gguf 或 .dat），量化时按其加权误差
    #[arg(long, value_name = "FILE", requires = "quant", conflicts_with = "calibration")]
    imatrix: Option<PathBuf>,
    /// Text such as the model will see: the model runs on it, and what matters there is kept best (GGUF: by an importance
    /// matrix; GPTQ, which needs it, takes data sets too)
    ///
    /// zh: 校准文本，应与模型将处理的内容相近：先在其上运行模型，量化时优先保住其中重要的部分（GGUF 用重要性矩阵；GPTQ
    /// 必须给出，也可用数据集）
    #[arg(long, value_name = "FILE", requires = "quant")]
    calibration: Option<PathBuf>,
    /// Write the importance matrix of the calibration text to this file too, as llama.cpp reads it
    ///
    /// zh: 将校准文本的重要性矩阵另存为此文件，llama.cpp 可直接读取
    #[arg(long, value_name = "FILE", requires = "calibration")]
    write_imatrix: Option<PathBuf>,
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

/// What `--quant` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quant {
    Mixture(Mixture),
    /// GPTQ with so many bits.
    Gptq(usize),
    /// NF4 of bitsandbytes.
    Nf4,
}

fn quant(name: &str) -> Result<Quant, String> {
    match name.to_ascii_lowercase().as_str() {
        "gptq-4bit" => Ok(Quant::Gptq(4)),
        "gptq-8bit" => Ok(Quant::Gptq(8)),
        "nf4" => Ok(Quant::Nf4),
        _ => Mixture::of_name(name)
            .map(Quant::Mixture)
            .ok_or_else(|| format!("it can be {}, nf4, gptq-4bit, gptq-8bit", Mixture::names().join(", "))),
    }
}

/// Runs `danlu convert`.
///
/// # Errors
/// A model that cannot be read or that the form cannot hold, an output that is there already or cannot be written.
pub fn run(mut args: Args, printer: &Printer) -> Result<()> {
    let form = match (form(args.to, &args.output)?, args.quant) {
        (Form::Safetensors, Some(Quant::Nf4)) => Form::Nf4,
        (form, Some(Quant::Nf4)) => return Err(no_nf4(form)),
        (form, _) => form,
    };
    let form = match args.parts {
        None => form,
        Some(parts) if form == Form::Pth && args.output.extension().is_none_or(|end| end != "pth") => {
            Form::PthParts(parts.into())
        }
        Some(_) => {
            return Err(wrong_input(
                "`--parts` is for Meta's folder: give `--to pth`, and a folder's name as OUT",
            ));
        }
    };
    let output = args.output.clone();
    let output = output.as_path();
    check_outputs(&args, form)?;
    let is_gptq = matches!(args.quant, Some(Quant::Gptq(_)));
    let imatrix = args.imatrix.is_some() || args.write_imatrix.is_some();
    if (imatrix || args.calibration.is_some() && !is_gptq) && form != Form::Gguf {
        return Err(wrong_input("an importance matrix is for GGUF files: give an OUT that ends in `.gguf`"));
    }
    args.input = hub::place(&args.input, Want::Model, Fetch::Allowed, printer)?;
    if args.input.join("adapter_config.json").is_file() && !args.input.join("config.json").is_file() {
        return adapter(&args, form, printer);
    }
    if args.base.is_some() {
        return Err(wrong_input(
            "`--base` is the model of an adapter, and IN is a model itself: leave it out",
        ));
    }
    let mixture = match (args.quant, args.dtype) {
        (Some(Quant::Mixture(mixture)), _) => Some(mixture),
        (None, Some(Dtype::F32)) => Some(Mixture::F32),
        (None, Some(Dtype::F16)) => Some(Mixture::F16),
        (None, Some(Dtype::Bf16)) => Some(Mixture::Bf16),
        (Some(Quant::Gptq(_) | Quant::Nf4) | None, _) => None,
    };
    if let Some(path) = &mut args.tokenizer {
        *path = hub::place(path, Want::Tokenizer, Fetch::Allowed, printer)?;
    }
    let tokenizer = args.tokenizer.as_deref().map(open_tokenizer).transpose()?;
    let gptq = match args.quant {
        Some(Quant::Gptq(_)) if form != Form::Safetensors => {
            return Err(wrong_input(
                "GPTQ is a folder of safetensors: give a folder's name as OUT, and no other `--to`",
            ));
        }
        Some(Quant::Gptq(bits)) => {
            Some(args.gptq.options(bits, args.calibration.as_deref(), &args.input, tokenizer.as_ref())?)
        }
        _ => args.gptq.refuse().map(|()| None)?,
    };
    let start = Instant::now();
    let importance = match (&args.imatrix, &args.calibration) {
        (Some(path), _) => Some(ImportanceMatrix::open(path)?),
        (None, Some(text)) if gptq.is_none() => Some(calibrate(&args, text, printer)?),
        (None, _) => None,
    };
    let verb = if is_gptq { "quantizing" } else { "converting" };
    let mut bar = None;
    let mut progress = |done: u64, total: u64| {
        if is_gptq {
            // Its steps are of many kinds.
            let bar = bar.get_or_insert_with(|| printer.progress(verb, 100));
            bar.set(100 * done / total.max(1), "%");
        } else {
            let bar = bar.get_or_insert_with(|| printer.progress(verb, total));
            bar.set(done, format_args!("{} of {}", count(done as usize), count(total as usize)));
        }
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // From here on Ctrl-C ends the work in order, and removes what is half written.
    if stop::requested() {
        return Err(Interrupted.into());
    }
    let converted = match &gptq {
        Some(gptq) => quantize_gptq(&args.input, output, gptq, tokenizer, &mut progress),
        None => {
            let options = ConvertOptions { form, mixture, tokenizer, importance };
            convert(&args.input, output, options, &mut progress)
        }
    };
    drop(bar);
    let converted = match converted {
        Err(danlu_model::Error::Cancelled) => return Err(Interrupted.into()),
        converted => converted?,
    };
    let mut notes = converted.notes;
    if form == Form::Gguf {
        let differences =
            converted.tokenizer.iter().flat_map(|tokenizer| tokenizer.differences_in_llama_cpp());
        notes.extend(differences.map(str::to_owned));
        notes.push(write_modelfile(output, &modelfile(output, converted.tokenizer.as_ref()))?);
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
        "peak_rss_mb": machine::peak().map(|bytes| bytes >> 20),
    }))?)
}

/// Writes an adapter as the GGUF file that `llama-cli --lora` and Ollama take.
fn adapter(args: &Args, form: Form, printer: &Printer) -> Result<()> {
    let (input, output) = (&args.input, &args.output);
    let path = input.display();
    if form != Form::Gguf {
        return Err(wrong_input(format!(
            "`{path}` is an adapter: give an OUT that ends in `.gguf` for llama.cpp and Ollama, or put it into its model \
             with `danlu merge` first"
        )));
    }
    if args.quant.is_some() || args.dtype.is_some() || args.tokenizer.is_some() {
        return Err(wrong_input(
            "an adapter is written in f32, without a tokenizer: leave out `--quant`, `--dtype` and `--tokenizer`",
        ));
    }
    let base = match &args.base {
        Some(base) => hub::place(base, Want::Model, Fetch::Allowed, printer)?,
        None => base_of(input)?,
    };
    let described = describe(&base)?;
    let text = adapter_modelfile(&base, output, described.tokenizer?.as_ref())?;
    write_gguf_adapter(&described.config?, input, output)?;
    let note = write_modelfile(output, &text)?;
    let bytes = fs::metadata(output)?.len();
    printer.line(format_args!(
        "{path} (adapter of {}) → {} · {}",
        base.display(),
        output.display(),
        size(bytes)
    ))?;
    printer.note("for llama.cpp: `llama-cli -m MODEL.gguf --lora` and this file, with its model as GGUF");
    printer.note(note);
    let modelfile = modelfile_path(output);
    Ok(printer.json(&json!({ "path": output, "base": base, "bytes": bytes, "modelfile": modelfile }))?)
}

/// The importance matrix of the model on a text.
fn calibrate(args: &Args, text: &Path, printer: &Printer) -> Result<ImportanceMatrix> {
    let model = ModelArgs {
        model: Some(args.input.clone()),
        adapter: Vec::new(),
        tokenizer: args.tokenizer.clone(),
        quantization_bit: None,
        precision: PrecisionChoice::Auto,
    };
    let opened = model.open(printer)?;
    let tokenizer = opened.tokenizer()?;
    let ids = perplexity::read_ids(tokenizer, text)?;
    let bos = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    let mut bar = printer.progress("calibrating", ids.len() as u64);
    let measured = measure_importance(&opened.model, &ids, bos, &mut |done, total| {
        bar.set(done as u64, format_args!("{done} of {total} tokens"));
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    let mut matrix = match measured {
        Err(danlu_model::Error::Cancelled) => return Err(Interrupted.into()),
        measured => measured?,
    };
    matrix.datasets = vec![text.display().to_string()];
    if let Some(path) = &args.write_imatrix {
        matrix.write(path)?;
        matrix.path = Some(path.clone());
        printer.note(format_args!("the importance matrix of {} tokens is in {}", ids.len(), path.display()));
    }
    Ok(matrix)
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

/// Refuses to write over what is there already, or twice to one place. An older Modelfile is kept instead.
fn check_outputs(args: &Args, form: Form) -> Result<()> {
    let is_free = |path: &Path| fs::symlink_metadata(path).is_err();
    let imatrix = args.write_imatrix.as_deref();
    let taken = (Some(&*args.output).filter(|path| !is_free(path) && !is_empty_folder(path)))
        .or(imatrix.filter(|path| !is_free(path)));
    if let Some(path) = taken {
        let path = path.display();
        return Err(wrong_input(format!("`{path}` is there already: remove it, or give another name")));
    }
    let modelfile = (form == Form::Gguf).then(|| modelfile_path(&args.output));
    let mut written = Vec::new();
    for path in [Some(&*args.output), modelfile.as_deref(), imatrix].into_iter().flatten() {
        let whole = std::path::absolute(path)?;
        // Two ways to the same folder are one place.
        let whole = match whole.parent().and_then(|folder| fs::canonicalize(folder).ok()) {
            Some(folder) => folder.join(whole.file_name().unwrap_or_default()),
            None => whole,
        };
        if written.contains(&whole) {
            let path = path.display();
            return Err(wrong_input(format!("`{path}` would be written twice: give another name")));
        }
        written.push(whole);
    }
    Ok(())
}

/// Writes the file for Ollama beside a GGUF file, unless there is one; says what to do with it.
fn write_modelfile(gguf: &Path, text: &str) -> Result<String> {
    let path = modelfile_path(gguf);
    let kept = fs::symlink_metadata(&path).is_ok();
    if !kept {
        write_file_atomically(&path, text.as_bytes())?;
    }
    let path = path.display();
    let what = if kept { format!(" (`{path}` was there already and is kept)") } else { String::new() };
    Ok(format!("for Ollama: `ollama create NAME -f {path}`{what}"))
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
