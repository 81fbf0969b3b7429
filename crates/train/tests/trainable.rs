//! How many parameters each method trains of models of known shapes, against the numbers of the projects that trained them.

use danlu_model::{Config, FreezeOptions, Model, Precision};
use danlu_train::Recipe;

/// The model of this preset with a vocabulary of its own, its weights never touched.
fn frozen(preset: &str, vocab_size: Option<usize>) -> Model {
    let config = Config::preset(preset).unwrap();
    let vocab_size = vocab_size.unwrap_or(config.vocab_size);
    Model::frozen_zeros(Config { vocab_size, ..config }, Precision::Bf16, None)
}

fn trainable(preset: &str, vocab_size: Option<usize>, keys: &str) -> usize {
    let text = format!("dataset: rows.json\noutput_dir: out\nmodel_name_or_path: model\n{keys}");
    let recipe = Recipe::parse("trainable.yaml", &text, &[] as &[&str]).unwrap().recipe;
    let mut model = frozen(preset, vocab_size);
    let target = model.config().family.target_modules(&recipe.adapter.lora_target.0).unwrap();
    model.add_adapter(&recipe.adapter.adapter_config(target), None).unwrap();
    model.parameters().len()
}

#[test]
fn seeds_trainable_counts_are_those_of_the_projects() {
    let chinese = "lora_target: q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj\nlora_rank: 64\nlora_alpha: 128\n\
                   lora_dropout: 0.05\nadditional_target: embed_tokens,lm_head\n";
    for (what, preset, vocab_size, keys, expected) in [
        ("003: Llama-3-8B, LoRA and embeddings", "llama3-8b", None, chinese, 1_218_445_312),
        ("003: its LoRA alone", "llama3-8b", None, "lora_rank: 64\n", 167_772_160),
        ("001: 13B with 74,674 tokens", "llama2-13b", Some(74_674), chinese, 1_015_009_280),
        ("001: Llama-2-7B, rank 8", "llama2-7b", None, "lora_rank: 8\n", 19_988_480),
        ("004: Baichuan-7B, W_pack", "baichuan-7b", None, "lora_target: W_pack\nlora_rank: 8\n", 4_194_304),
        ("the same named as a regular expression", "baichuan-7b", None, "lora_target: .*W_pack\n", 4_194_304),
        // One length for each row of the seven layers: 4 × 4096 and 3 of the feed-forward.
        (
            "Llama-2-7B with DoRA",
            "llama2-7b",
            None,
            "use_dora: true\n",
            19_988_480 + 32 * (4 * 4096 + 2 * 11_008 + 4096),
        ),
        ("PiSSA trains as much as LoRA", "llama2-7b", None, "pissa_init: true\n", 19_988_480),
        (
            "two rows of embedding and one of the head",
            "llama2-7b",
            None,
            "trainable_token_indices: {embed_tokens: [3, 7], lm_head: [3]}\n",
            19_988_480 + 3 * 4096,
        ),
        (
            "half of the rank for queries",
            "llama2-7b",
            None,
            "rank_pattern: {q_proj: 4}\n",
            19_988_480 - 32 * 4 * 8192,
        ),
    ] {
        assert_eq!(trainable(preset, vocab_size, keys), expected, "{what}");
    }
}

#[test]
fn freezing_all_but_two_blocks_and_the_head_counts_them() {
    let mut model = frozen("llama2-7b", None);
    let options = FreezeOptions { layers: 2, modules: vec!["all".into()], extra: vec!["lm_head".into()] };
    model.train_layers(&options, None).unwrap();
    let block = 4 * 4096 * 4096 + 3 * 4096 * 11_008 + 2 * 4096;
    assert_eq!(model.parameters().len(), 2 * block + 32_000 * 4096);
}
