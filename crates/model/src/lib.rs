//! The Llama family: configuration, weights, forward, backward, generation, loading and saving.
//!
//! A model is opened from a file ([`open`]) or made ([`Model::zeros`]), runs packed slices of tokens forward and
//! backward ([`Model`]), generates ([`Generator`]) and is saved in Hugging Face's layout ([`save_folder`]). This room
//! knows no optimizers and no data sets: it reports gradients to a [`GradientSink`].

mod activations;
mod adapter;
mod adapter_folder;
mod adapter_patterns;
mod adapter_set;
mod backward;
mod bitsandbytes;
mod checkpoint;
mod config;
mod convert;
mod describe;
mod error;
mod families;
mod fields;
mod forward;
mod generate;
mod gguf;
mod gguf_adapter;
mod gguf_out;
mod gptq;
mod gptq_solver;
mod gradients;
mod growth;
mod hooks;
mod importance;
mod initialize;
mod layout;
mod lora;
mod merge;
mod meta;
mod mixture;
mod model;
mod modelfile;
mod names;
mod open;
mod parameters;
mod presets;
mod projection;
mod rope_scaling;
mod rotary;
mod sampling;
mod save;
mod scoring;
mod source;
mod tokens;
mod unit_head;
mod verify;

pub use activations::{Activations, Keep};
pub use adapter::{apply_adapters, is_hub_id, read_adapter, save_adapter};
pub use config::{AttentionBias, Config};
pub use convert::gptq::{GptqOptions, quantize_gptq};
pub use convert::{ConvertOptions, Converted, Form, TypeShare, convert, convert_grown};
pub use describe::{Description, describe};
pub use error::{Error, Result};
pub use families::Family;
pub use generate::{FinishReason, Generated, GenerationOptions, Generator, TokenProbability};
pub use gguf_adapter::write_gguf_adapter;
pub use gguf_out::write_gguf_vocabulary;
pub use gptq::Gptq;
pub use gradients::Gradients;
pub use growth::{GrowthOptions, RowInit};
pub use hooks::{GradientSink, ParameterSource, Resident};
pub use importance::measure_importance;
pub use lora::{LoraOptions, Module};
pub use merge::{MergeOptions, Merged, merge};
pub use mixture::Mixture;
pub use model::Model;
pub use modelfile::{adapter_modelfile, modelfile, modelfile_path};
pub use open::{Opened, Rest, check_vocabulary, open, open_grown, open_shape, open_tokenizer};
pub use parameters::{Parameter, ParameterId, Parameters};
pub use presets::PRESETS;
pub use rope_scaling::{RopeScaling, Yarn};
pub use sampling::{Sampler, Sampling};
pub use save::{save_folder, save_pth};
pub use tokens::{PackedTokens, Target};
pub use verify::{Comparison, compare_merged};

pub use danlu_kernels::Precision;
pub use danlu_kernels::rope::RopeLayout;
