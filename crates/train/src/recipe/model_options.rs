//! Which model is trained, or the shape of a new one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NameList;

/// The model: one that exists, or the shape of one that starts from random weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelOptions {
    /// Model to start from: a Hugging Face folder, a GGUF file, or an id of a hub such as `org/name`. Without it a new model
    /// is made from the shape below.
    ///
    /// zh: 起始模型：Hugging Face 文件夹、GGUF 文件，或 `org/name` 形式的模型名。不给出则按下面的尺寸新建模型。
    pub model_name_or_path: Option<String>,
    /// PEFT adapter folder whose training is continued; of several, separated by commas, all but the last are merged into
    /// the model first.
    ///
    /// zh: 要继续训练的 PEFT 适配器文件夹；给出多个（以逗号分隔）时，先把除最后一个以外的合并进模型。
    pub adapter_name_or_path: NameList,
    /// Quantize the frozen layers of a 16- or 32-bit model while it is loaded (QLoRA): `4` is NF4 with double
    /// quantization, `8` is Q8_0. Embedding, head and norms keep their precision. Needs `finetuning_type: lora`.
    ///
    /// zh: 加载 16 或 32 位模型时量化冻结的各层（QLoRA）：`4` 为双重量化的 NF4，`8` 为 Q8_0；词嵌入、输出层与归一化保持原精度。须配合 `finetuning_type: lora`。
    pub quantization_bit: Option<u64>,
    /// Tokenizer of a new model, or another one than the model's own: a folder, `tokenizer.json`,
    /// `tokenizer.model` or GGUF file.
    ///
    /// zh: 新模型的分词器，或替换模型自带的分词器：文件夹、`tokenizer.json`、`tokenizer.model` 或 GGUF 文件。
    pub tokenizer_name_or_path: Option<String>,
    /// Add rows to the model's embedding and head for the tokens that `tokenizer_name_or_path` has beyond the model's own
    /// vocabulary, which it must extend. Beside an adapter both are trained whole then, as `additional_target` says, and lie in
    /// the adapter.
    ///
    /// zh: 按 `tokenizer_name_or_path` 中超出模型词表的词元，为词嵌入与输出层增加行；该词表须是模型词表的扩充。
    /// 训练适配器时两者按 `additional_target` 完整训练，并存入适配器。
    pub resize_vocab: bool,
    /// What rows that `resize_vocab` adds start as.
    ///
    /// zh: `resize_vocab` 新增行的初始值。
    pub resize_vocab_init: ResizeVocabInit,
    /// Where models of a hub that are named above lie on this disk.
    #[serde(skip)]
    pub places: BTreeMap<String, PathBuf>,
    /// New model without a tokenizer: largest vocabulary of the byte-level BPE that is trained on the dataset first.
    ///
    /// zh: 新模型且未给分词器时：先在数据集上训练字节级 BPE，此为词表的最大大小。
    pub vocab_size: Option<usize>,
    /// New model: the shape of a known model in place of the sizes and constants below: `luban-1b`, `luban-10b` (this
    /// project's own shape), `llama2-chinese-92m`, `llama2-chinese-218m`, `minimind-26m`, `minimind-64m`,
    /// `minimind-110m`, `llama2-7b`, `llama2-13b`, `llama3-8b`, `baichuan-7b` or `smollm2-135m`.
    ///
    /// zh: 新模型：采用某个已知模型的尺寸，代替下面的各项尺寸与常数：`luban-1b`、`luban-10b`（本项目自定的尺寸）、`llama2-chinese-92m`、`llama2-chinese-218m`、`minimind-26m`、`minimind-64m`、`minimind-110m`、`llama2-7b`、`llama2-13b`、`llama3-8b`、`baichuan-7b` 或 `smollm2-135m`。
    pub model_preset: Option<String>,
    /// New model: width of the residual stream.
    ///
    /// zh: 新模型：残差流的宽度。
    pub hidden_size: Option<usize>,
    /// New model: width inside the feed-forward part.
    ///
    /// zh: 新模型：前馈层的内部宽度。
    pub intermediate_size: Option<usize>,
    /// New model: number of decoder blocks.
    ///
    /// zh: 新模型：解码层的层数。
    pub num_hidden_layers: Option<usize>,
    /// New model: number of query heads.
    ///
    /// zh: 新模型：查询头的个数。
    pub num_attention_heads: Option<usize>,
    /// New model: number of key and value heads (default: as many as query heads).
    ///
    /// zh: 新模型：键值头的个数（默认与查询头相同）。
    pub num_key_value_heads: Option<usize>,
    /// New model: longest context in tokens.
    ///
    /// zh: 新模型：最长上下文的词元数。
    pub max_position_embeddings: usize,
    /// New model: base of the rotary position frequencies.
    ///
    /// zh: 新模型：旋转位置编码的频率基数。
    pub rope_theta: f64,
    /// New model: epsilon of the RMS norms.
    ///
    /// zh: 新模型：RMS 归一化的 epsilon。
    pub rms_norm_eps: f64,
    /// New model: use the embedding matrix as the output head too.
    ///
    /// zh: 新模型：输出层与词嵌入共用同一矩阵。
    pub tie_word_embeddings: bool,
    /// New model: standard deviation of the random weights.
    ///
    /// zh: 新模型：随机权重的标准差。
    pub initializer_range: f64,
}

/// What new rows of an embedding start as.
///
/// zh: 词嵌入新增行的初始值。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeVocabInit {
    /// The mean of the rows of the tokens that the new token's text used to be cut into.
    ///
    /// zh: 新词元的文本原来切成的各词元所在行的均值。
    #[default]
    Pieces,
    /// The mean of all rows.
    ///
    /// zh: 所有行的均值。
    Mean,
    /// Normal with the model's `initializer_range`.
    ///
    /// zh: 正态分布，标准差为模型的 `initializer_range`。
    Random,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            model_name_or_path: None,
            adapter_name_or_path: NameList::default(),
            quantization_bit: None,
            tokenizer_name_or_path: None,
            resize_vocab: false,
            resize_vocab_init: ResizeVocabInit::default(),
            places: BTreeMap::new(),
            vocab_size: None,
            model_preset: None,
            hidden_size: None,
            intermediate_size: None,
            num_hidden_layers: None,
            num_attention_heads: None,
            num_key_value_heads: None,
            max_position_embeddings: 2048,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }
}

impl ModelOptions {
    /// Where the model, adapter or vocabulary `name` lies: its place if it is an id of a hub, else the path that it is.
    pub fn place(&self, name: &str) -> PathBuf {
        self.places.get(name).cloned().unwrap_or_else(|| name.into())
    }
}
