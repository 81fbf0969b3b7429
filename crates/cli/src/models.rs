//! Which model a command uses, and opening it: a path, or the newest result under the current folder.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::Result;
use clap::ValueEnum;
use danlu_hub::Want;
use danlu_kernels::cpu::{Level, level};
use danlu_model::{
    Opened, Precision, Rest, apply_adapters, check_vocabulary, is_hub_id, model_files, open, open_tokenizer,
};
use danlu_tokenizer::Tokenizer;
use danlu_train::machine;
use fs_err as fs;
use serde_json::{Map, Value, json};

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::Printer;

/// How deep below the current folder results are looked for: `runs/NAME/checkpoint-N` and one more.
const DEPTH: usize = 4;
/// Weights of fewer bytes on disk are computed with in f32: rounding them saves no time.
const SMALL: u64 = 64 << 20;
const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Which model.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Model folder or file of any kind, adapter folder, or id of a hub such as org/name (default: the adapter's own, or the
    /// newest result under the current folder)
    ///
    /// zh: 任何格式的模型文件夹或文件、适配器文件夹，或 org/name 形式的模型名（默认：适配器所属的模型，或当前文件夹下最新的结果）
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// PEFT adapter folder to put on the model; several, separated by commas or given again, are added up
    ///
    /// zh: 加在模型上的 PEFT 适配器文件夹；可给出多个（以逗号分隔或重复此项），效果相加
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub adapter: Vec<PathBuf>,
    /// Tokenizer, in place of the model's own: a folder, tokenizer.json, tokenizer.model, or a GGUF file
    ///
    /// zh: 分词器，代替模型自带的：文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Quantize a 16- or 32-bit model while it is loaded: 4 is NF4, 8 is Q8_0; less memory, a little slower
    ///
    /// zh: 加载 16 或 32 位模型时即量化：4 为 NF4，8 为 Q8_0；省内存，稍慢
    #[arg(long, value_enum, value_name = "BITS")]
    pub quantization_bit: Option<Bits>,
    /// Arithmetic: auto is bf16 where the processor has it and the model is not small, else f32
    ///
    /// zh: 运算精度：auto 在处理器支持且模型不太小时用 bf16，否则用 f32
    #[arg(long, value_enum, default_value_t)]
    pub precision: PrecisionChoice,
}

/// What generation rounds activations to.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ActivationArgs {
    /// What activations are rounded to in matrix products: int8 (two digits of 8 bits, for quantized weights only), bf16 or
    /// f32 (default: int8 with quantized weights unless `--precision` is given, else as `--precision` says)
    ///
    /// zh: 矩阵乘法中激活的舍入方式：int8（两位 8 比特数字，仅用于量化权重）、bf16 或 f32（默认：量化权重且未给出 `--precision` 时用 int8，否则同 `--precision`）
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "precision")]
    pub activations: Option<Activations>,
}

/// What activations are rounded to in matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    Int8,
    Bf16,
    F32,
}

/// How matrix products are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PrecisionChoice {
    #[default]
    Auto,
    F32,
    Bf16,
}

/// Bits that a weight is quantized to while it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bits {
    #[value(name = "4")]
    Four,
    #[value(name = "8")]
    Eight,
}

impl Bits {
    pub fn number(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Where a model is.
pub struct Located {
    /// The model folder or file.
    pub model: PathBuf,
    /// The adapters to put on it.
    pub adapters: Vec<PathBuf>,
}

impl ModelArgs {
    /// Opens the model for use without training, and says in one line what it is.
    ///
    /// # Errors
    /// No model is there, or it cannot be opened.
    pub fn open(&self, printer: &Printer) -> Result<Opened> {
        self.open_located(&self.locate(printer)?, printer)
    }

    /// What decides what the model says: its files and how it computes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn files(&self, located: &Located, opened: &Opened) -> Result<Map<String, Value>> {
        let named = |path: &PathBuf| -> Result<Value> {
            let files = model_files(path)?
                .into_iter()
                .map(|(name, bytes, modified)| json!({"name": name, "bytes": bytes, "modified": modified}));
            Ok(json!({"path": path, "files": files.collect::<Vec<_>>()}))
        };
        let adapters = located.adapters.iter().map(named).collect::<Result<Vec<_>>>()?;
        let mut files = Map::from_iter([
            ("model".into(), named(&located.model)?),
            ("adapters".into(), adapters.into()),
            ("precision".into(), json!(format!("{:?}", opened.model.precision()).to_lowercase())),
            ("quantization_bit".into(), json!(self.quantization_bit.map(Bits::number))),
        ]);
        if opened.model.is_repacked() {
            files.insert("activations".into(), "int8".into());
        }
        Ok(files)
    }

    /// [`open`](Self::open) of what [`locate`](Self::locate) has found.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_located(&self, located: &Located, printer: &Printer) -> Result<Opened> {
        self.open_rounding(located, None, printer)
    }

    /// The same for generation: quantized weights are repacked for products of integers where `activations` says so.
    ///
    /// # Errors
    /// As [`open_located`](Self::open_located), and integers for weights that are not quantized.
    pub fn open_to_generate(
        &self,
        located: &Located,
        ActivationArgs { activations }: ActivationArgs,
        printer: &Printer,
    ) -> Result<Opened> {
        let chosen = activations.or((self.precision == PrecisionChoice::Auto).then_some(Activations::Int8));
        let opened = self.open_rounding(located, chosen, printer)?;
        if activations == Some(Activations::Int8) && !opened.model.is_repacked() {
            return Err(wrong_input(format!(
                "`--activations int8` needs quantized weights (Q4_0 to Q8_0 or Q2_K to Q6_K), and none of `{}` can be used: \
                 leave it out, load with `--quantization-bit 8`, or quantize with `danlu convert`",
                located.model.display()
            )));
        }
        Ok(opened)
    }

    fn open_rounding(
        &self,
        Located { model: path, adapters }: &Located,
        activations: Option<Activations>,
        printer: &Printer,
    ) -> Result<Opened> {
        let start = Instant::now();
        let precision = match activations {
            Some(Activations::Bf16) => Precision::Bf16,
            Some(Activations::F32) => Precision::F32,
            Some(Activations::Int8) | None => self.precision.resolve(path),
        };
        let bits = self.quantization_bit.map(Bits::number);
        let at_rest = if activations == Some(Activations::Int8) { Rest::ToRepack } else { Rest::Frozen };
        let mut opened = open(path, precision, bits.and_then(Rest::of_bits).unwrap_or(at_rest))?;
        if !adapters.is_empty() {
            apply_adapters(&mut opened.model, &adapters.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        }
        let of_adapter = adapters.iter().find(|adapter| Tokenizer::is_in(adapter));
        let given = self.given_tokenizer(printer)?;
        if let Some(owner) = given.as_ref().or(of_adapter) {
            let tokenizer = open_tokenizer(owner)?;
            check_vocabulary(&tokenizer, opened.model.config().vocab_size, owner)?;
            opened.tokenizer = Some(tokenizer);
        }
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.display().to_string()).collect();
        let with = if names.is_empty() { String::new() } else { format!(" with {}", names.join(" and ")) };
        let is_repacked = activations == Some(Activations::Int8) && opened.model.repack();
        let precision = match precision {
            _ if is_repacked => "int8",
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        let bits = bits.map(|bits| format!(", weights in {bits} bits")).unwrap_or_default();
        printer.note(format_args!(
            "{}{with} · {} parameters · {precision}{bits} · loaded in {:.1} s · {} resident",
            path.display(),
            count(opened.model.parameter_count()),
            start.elapsed().as_secs_f64(),
            resident(),
        ));
        Ok(opened)
    }

    /// Where the tokenizer of `--tokenizer` is.
    ///
    /// # Errors
    /// It is not there.
    pub fn given_tokenizer(&self, printer: &Printer) -> Result<Option<PathBuf>> {
        let place = |path: &PathBuf| hub::place(path, Want::Tokenizer, Fetch::Allowed, printer);
        self.tokenizer.as_ref().map(place).transpose()
    }

    /// The model and adapters that are meant.
    ///
    /// # Errors
    /// No result under the current folder, or an adapter whose base model is not known.
    pub fn locate(&self, printer: &Printer) -> Result<Located> {
        let place = |path: &PathBuf| hub::place(path, Want::Model, Fetch::Allowed, printer);
        let mut adapters = self.adapter.iter().map(place).collect::<Result<Vec<_>>>()?;
        let path = match (&self.model, adapters.first()) {
            (Some(path), _) => place(path)?,
            (None, Some(adapter)) => base_of(adapter)?,
            (None, None) => {
                let path = newest_result(Path::new("."))?.ok_or_else(|| {
                    wrong_input(
                        "there is no model under the current folder: give one with `--model PATH`, or make one with \
                         `danlu quickstart`",
                    )
                })?;
                printer.note(format_args!("using the newest result, {}", path.display()));
                path
            }
        };
        let is_adapter = path.join(ADAPTER_CONFIG).is_file() && !path.join(CONFIG).is_file();
        let model = if is_adapter { base_of(&path)? } else { path.clone() };
        if is_adapter {
            adapters.insert(0, path);
        }
        Ok(Located { model, adapters })
    }
}

impl PrecisionChoice {
    /// The precision for the model at `path`.
    pub fn resolve(self, path: &Path) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Auto if level() == Level::Avx512Bf16 && weight_bytes(path) >= SMALL => Precision::Bf16,
            Self::Auto => Precision::F32,
        }
    }
}

/// 134515008 → `134.5M`.
pub fn count(number: usize) -> String {
    match number as f64 {
        number if number >= 1e9 => format!("{:.2}B", number / 1e9),
        number if number >= 1e6 => format!("{:.1}M", number / 1e6),
        number if number >= 1e4 => format!("{:.0}K", number / 1e3),
        number => format!("{number}"),
    }
}

/// Memory of this process, where the system tells it.
fn resident() -> String {
    machine::resident().map_or_else(|| "unknown".into(), |bytes| format!("{} MB", bytes >> 20))
}

/// The model that an adapter was trained on: by the path that it names, from the current folder or from its own.
///
/// # Errors
/// No adapter, or a model that is not there; the sentence says where it was looked for and how to get it.
pub fn base_of(adapter: &Path) -> Result<PathBuf> {
    let path = adapter.join(ADAPTER_CONFIG);
    let config: Value = serde_json::from_str(&fs::read_to_string(&path)?)
        .map_err(|error| wrong_input(format!("`{}`: {error}", path.display())))?;
    let base = config["base_model_name_or_path"].as_str().unwrap_or_default();
    let folder = adapter.display();
    if base.is_empty() {
        return Err(wrong_input(format!(
            "`{folder}` is an adapter that does not name its model: give the model with `--model` and this folder with \
             `--adapter`"
        )));
    }
    let places = [PathBuf::from(base), adapter.join(base)];
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(found.clone());
    }
    if let Some(found) = hub::downloaded(base) {
        return Ok(found);
    }
    let get = match is_hub_id(base) {
        true => format!("get it with `danlu download model {base}`, or "),
        false => String::new(),
    };
    let looked = if Path::new(base).is_absolute() {
        String::new()
    } else {
        format!(" (looked for `{base}` and `{}`)", places[1].display())
    };
    Err(wrong_input(format!(
        "`{folder}` is an adapter of `{base}`, which is not here{looked}: {get}give that model with `--model MODEL \
         --adapter {folder}`"
    )))
}

/// The newest model or adapter folder under `root`, by the time of its weights; of equals the one nearer to `root`.
fn newest_result(root: &Path) -> Result<Option<PathBuf>> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    let mut level = vec![root.to_owned()];
    for _ in 0..=DEPTH {
        let mut next = Vec::new();
        for folder in level {
            // The user may not be allowed to look into every folder.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let mut weights = None;
            let mut is_result = false;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(kind) = entry.file_type() else { continue };
                let passed_over =
                    name.starts_with('.') || ["target", "node_modules"].contains(&name.as_str());
                if kind.is_dir() && !passed_over {
                    next.push(entry.path());
                }
                is_result |= name == CONFIG || name == ADAPTER_CONFIG;
                let is_weights = name == "adapter_model.safetensors"
                    || (name.starts_with("model") && name.ends_with(".safetensors"));
                if is_weights && let Ok(time) = entry.metadata().and_then(|metadata| metadata.modified()) {
                    weights = weights.max(Some(time));
                }
            }
            if let Some(time) = weights.filter(|_| is_result)
                && newest.as_ref().is_none_or(|(newest, _)| time > *newest)
            {
                newest = Some((time, folder));
            }
        }
        level = next;
    }
    let clean = |path: PathBuf| path.strip_prefix("./").map(Path::to_owned).unwrap_or(path);
    Ok(newest.map(|(_, path)| clean(path)))
}

/// Bytes of the weights on disk.
fn weight_bytes(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    if path.is_file() {
        return size(path);
    }
    let files = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_weights = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "safetensors" || end == "bin" || end == "pth")
    };
    let weights = files.filter(is_weights);
    weights.map(|path| size(&path)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_result_is_found_and_half_written_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(newest_result(root.path()).unwrap(), None);
        let make = |name: &str, weights: &str, config: &str, age: u64| {
            let folder = root.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(config), "{}").unwrap();
            let file = fs::File::create(folder.join(weights)).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age);
            file.file().set_modified(time).unwrap();
            folder
        };
        let old = make("runs/a", "model.safetensors", CONFIG, 50);
        assert_eq!(newest_result(root.path()).unwrap(), Some(old));
        let new = make("runs/b/model", "model-00001-of-00002.safetensors", CONFIG, 10);
        make("target/x", "model.safetensors", CONFIG, 1);
        make("runs/.c.tmp-1-0", "model.safetensors", CONFIG, 1);
        make("runs/d", "optimizer.safetensors", CONFIG, 1);
        make("runs/b/checkpoint-9", "model.safetensors", CONFIG, 11);
        assert_eq!(newest_result(root.path()).unwrap(), Some(new));
        let adapter = make("runs/e", "adapter_model.safetensors", ADAPTER_CONFIG, 5);
        assert_eq!(newest_result(root.path()).unwrap(), Some(adapter));
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(
            [count(97), count(260_000), count(134_515_008), count(7_000_559_616)],
            ["97", "260K", "134.5M", "7.00B"]
        );
    }
}
