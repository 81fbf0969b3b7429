"""Records four tiny random Llamas as Hugging Face folders, each with the logits that transformers gives for it.

crates/model/tests/golden/{mha-tied,mha-untied,gqa-tied,gqa-untied}/
    config.json, generation_config.json, model.safetensors or shards with an index: as transformers saves them, float32
    golden.json: {"sequences": [{"ids": [T], "logits": [T][V], "mean_nll": number or null}],
                  "greedy": {"prompt_ids": [...], "ids": [16]}}

`mean_nll` is the mean negative log-likelihood of ids[1:], null for a single id. `greedy.ids` excludes the prompt.
"""

import json
import shutil

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recording import MODEL_GOLDEN, generator, load_variant, random_ids, shortest, token_losses, write_json

VOCAB_SIZE = 97
SEQUENCE_LENGTHS = [1, 6, 40]
GREEDY_TOKENS = 16

VARIANTS = {
    "mha-tied": dict(
        seed=1, hidden_size=32, num_key_value_heads=4, intermediate_size=64, rope_theta=10000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
    # A head size that no vector width divides, in several files.
    "mha-untied": dict(
        seed=2, hidden_size=40, num_key_value_heads=4, intermediate_size=56, rope_theta=10000.0, rms_norm_eps=1e-6,
        tie_word_embeddings=False, max_shard_size="60KB",
    ),
    # config.json as transformers 4 wrote it.
    "gqa-tied": dict(
        seed=3, hidden_size=32, num_key_value_heads=2, intermediate_size=88, rope_theta=100000.0, rms_norm_eps=1e-6,
        tie_word_embeddings=True, transformers_4_config=True,
    ),
    # head_dim differs from hidden_size / num_attention_heads; two end ids.
    "gqa-untied": dict(
        seed=4, hidden_size=32, num_key_value_heads=2, intermediate_size=72, rope_theta=500000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=False, head_dim=16, eos_token_id=[2, 5],
    ),
}


def random_model(options, source):
    """A Llama with weights large enough that its logits differ clearly."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        bos_token_id=1, rope_parameters={"rope_type": "default", "rope_theta": options.pop("rope_theta")},
        dtype="float32", **options,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.copy_(1.0 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise)
    return model


def rewrite_as_transformers_4(path):
    """Puts `rope_theta` and `torch_dtype` where config.json had them before transformers 5."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def greedy(model, prompt):
    """The most likely continuation, id by id; refuses a recording that a rounding error could change."""
    ids = list(prompt)
    for _ in range(GREEDY_TOKENS):
        best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        assert best.values[0] - best.values[1] > 1e-3, "near tie: choose another seed"
        ids.append(best.indices[0].item())
    return ids[len(prompt):]


def record(variant, options):
    seed, shard_size = options.pop("seed"), options.pop("max_shard_size", "50GB")
    transformers_4_config = options.pop("transformers_4_config", False)
    source = generator(seed)
    folder = MODEL_GOLDEN / variant
    shutil.rmtree(folder, ignore_errors=True)
    random_model(dict(options), source).save_pretrained(folder, max_shard_size=shard_size)
    if transformers_4_config:
        rewrite_as_transformers_4(folder / "config.json")

    model = load_variant(variant).eval()
    assert model.config.rope_parameters["rope_theta"] == options["rope_theta"]
    sequences = []
    for length in SEQUENCE_LENGTHS:
        ids = random_ids(source, length, VOCAB_SIZE)
        sequences.append({
            "ids": ids,
            "logits": shortest(model(input_ids=torch.tensor([ids])).logits[0]),
            "mean_nll": shortest(token_losses(model, ids).mean()) if length > 1 else None,
        })
    prompt = sequences[1]["ids"]
    write_json(folder / "golden.json", {
        "sequences": sequences, "greedy": {"prompt_ids": prompt, "ids": greedy(model, prompt)},
    })


if __name__ == "__main__":
    with torch.no_grad():
        for name, variant_options in VARIANTS.items():
            record(name, dict(variant_options))
