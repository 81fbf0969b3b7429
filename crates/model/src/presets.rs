//! Shapes of known models, for training from scratch, for plans and for measurements.

use danlu_kernels::rope::RopeLayout;

use crate::{Config, Family};

/// Names of the presets.
pub const PRESETS: [&str; 12] = [
    "luban-1b",
    "luban-10b",
    "llama2-chinese-92m",
    "llama2-chinese-218m",
    "minimind-26m",
    "minimind-64m",
    "minimind-110m",
    "llama2-7b",
    "llama2-13b",
    "llama3-8b",
    "baichuan-7b",
    "smollm2-135m",
];

impl Config {
    /// The shape of a known model.
    ///
    /// `luban-10b` is this project's own: its authors speak of a 10B model and published no shape. `minimind-26m` and
    /// `minimind-110m` have the shapes of MiniMind2-Small and MiniMind-V1 and are Llamas, as the first is published;
    /// `minimind-64m` is MiniMind-3, shaped as Qwen3.
    pub fn preset(name: &str) -> Option<Self> {
        let config = match name {
            "luban-1b" => baby_llama2([2048, 5472, 18, 8, 8], 2048),
            "luban-10b" => baby_llama2([5120, 13_824, 35, 40, 8], 4096),
            "llama2-chinese-92m" => baby_llama2([512, 1376, 8, 8, 8], 512),
            "llama2-chinese-218m" => baby_llama2([1024, 2752, 12, 8, 8], 1024),
            "minimind-26m" => minimind([512, 1408, 8, 8, 2]),
            "minimind-64m" => Config {
                family: Family::Qwen3,
                query_key_norm: true,
                rms_norm_eps: 1e-6,
                ..minimind([768, 2432, 8, 8, 4])
            },
            "minimind-110m" => minimind([768, 2048, 16, 16, 8]),
            "llama2-7b" => llama2([4096, 11_008, 32, 32, 32]),
            "llama2-13b" => llama2([5120, 13_824, 40, 40, 40]),
            "llama3-8b" => Config {
                vocab_size: 128_256,
                max_position_embeddings: 8192,
                rope_theta: 500_000.0,
                bos_token_id: Some(128_000),
                eos_token_ids: vec![128_001],
                ..llama2([4096, 14_336, 32, 32, 8])
            },
            "baichuan-7b" => Config {
                family: Family::Baichuan,
                vocab_size: 64_000,
                rms_norm_eps: 1e-6,
                pad_token_id: Some(0),
                ..llama2([4096, 11_008, 32, 32, 32])
            },
            "smollm2-135m" => Config {
                vocab_size: 49_152,
                max_position_embeddings: 8192,
                rope_theta: 100_000.0,
                tie_word_embeddings: true,
                bos_token_id: Some(0),
                eos_token_ids: vec![0],
                ..llama2([576, 1536, 30, 9, 3])
            },
            _ => return None,
        };
        Some(config)
    }
}

/// Hidden and intermediate size, layers, heads and key heads.
fn shaped([hidden, intermediate, layers, heads, key_value_heads]: [usize; 5]) -> Config {
    Config {
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads,
        head_dim: hidden / heads,
        rms_norm_eps: 1e-5,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        ..Config::default()
    }
}

/// With ChatGLM2's vocabulary, as its authors count it.
fn baby_llama2(shape: [usize; 5], max_position_embeddings: usize) -> Config {
    Config {
        family: Family::BabyLlama2,
        vocab_size: 64_793,
        max_position_embeddings,
        rope_layout: RopeLayout::Interleaved,
        tie_word_embeddings: true,
        pad_token_id: Some(0),
        ..shaped(shape)
    }
}

fn llama2(shape: [usize; 5]) -> Config {
    Config { vocab_size: 32_000, max_position_embeddings: 4096, ..shaped(shape) }
}

fn minimind(shape: [usize; 5]) -> Config {
    Config {
        vocab_size: 6400,
        max_position_embeddings: 32_768,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        pad_token_id: Some(0),
        ..shaped(shape)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_preset_has_its_number_of_parameters() {
        // The first three and Baichuan as their projects print them; the others follow from their published files.
        let counts = [
            ("luban-1b", 1_039_921_152),
            ("llama2-chinese-92m", 58_479_616),
            ("llama2-chinese-218m", 218_155_008),
            ("baichuan-7b", 7_000_559_616),
            ("llama2-7b", 6_738_415_616),
            ("llama2-13b", 13_015_864_320),
            ("llama3-8b", 8_030_261_248),
            ("smollm2-135m", 134_515_008),
            ("minimind-26m", 25_829_888),
            ("minimind-64m", 63_912_192),
            ("minimind-110m", 108_749_568),
        ];
        for (name, expected) in counts {
            assert_eq!(Config::preset(name).unwrap().parameter_count(), expected, "{name}");
        }
        let own = Config::preset("luban-10b").unwrap().parameter_count() as f64;
        assert!((own - 10e9).abs() < 0.02 * 10e9, "{own}");
    }

    #[test]
    fn every_preset_can_be_computed() {
        for name in PRESETS {
            Config::preset(name).unwrap().check(Path::new(name)).unwrap();
        }
        assert_eq!(Config::preset("luban"), None);
    }
}
