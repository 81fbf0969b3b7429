"""Records tiny random models of the families beside plain Llama, with the logits and some gradients of transformers.

crates/model/tests/golden/families/NAME/
    model.safetensors: bfloat16, so that the files are small; transformers computed with these values in float32
    config.json, or for rope-scaled Llamas config-VARIANT.json each, over one set of weights
    golden.json: {VARIANT: {"sequences": [{"ids": [T], "positions": [N], "logits": [N][V]}]}}
    gradients.json, gradients.safetensors: as tiny_gradients.py writes them, but only for vectors and the first block's
        q and k, whose gradients pass through the family's own operations
"""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config,
)

from recording import MODEL_GOLDEN, batch_loss, generator, random_ids, shortest, write_json

FOLDER = MODEL_GOLDEN / "families"
VOCAB_SIZE = 31
SHAPE = dict(
    vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
)
# Contexts before the scaling are short, so that every part of each formula is used.
ROPE_VARIANTS = {
    "linear": dict(rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0}),
    "dynamic": dict(
        rope_theta=10000.0, rope_scaling={"rope_type": "dynamic", "factor": 4.0}, max_position_embeddings=16,
    ),
    "llama3": dict(
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "yarn": dict(
        rope_theta=100.0, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    ),
    "yarn-mscale": dict(
        rope_theta=100.0,
        rope_scaling={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 16, "beta_slow": 2,
            "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False,
        },
    ),
    "yarn-factor": dict(
        rope_theta=100.0,
        rope_scaling={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.5,
        },
    ),
}
# Fields that files of these families have and that mean nothing to a program that runs them.
KEPT = {"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}, "a_field_of_somebody": [1, {"two": 2}]}
FAMILIES = {
    "llama-bias": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": MistralConfig(**SHAPE, head_dim=16, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral-window": MistralConfig(**SHAPE, head_dim=16, sliding_window=6),
}


def random_weights(config, source):
    """Weights large enough that logits differ clearly, and values that bfloat16 holds."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            values = 1.0 + 0.3 * noise if name.endswith("norm.weight") else 0.2 * noise
            parameter.copy_(values.to(torch.bfloat16).to(torch.float32))
    return model


def logits(model, ids, positions):
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([ids])).logits[0]
    return {"ids": ids, "positions": positions, "logits": shortest(rows[positions])}


def save_weights(model, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items() if name not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def write_config(path, fields):
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(path.name)


def record_gradients(model, folder, source):
    weights = [[0] * 5 + [1] * 4, [0] + [1] * 12]
    sequences = [{"ids": random_ids(source, len(row), VOCAB_SIZE), "loss_weights": row} for row in weights]
    loss = batch_loss(model, sequences)
    loss.backward()
    write_json(folder / "gradients.json", {"loss": shortest(loss), "sequences": sequences})

    def is_kept(name, parameter):
        return parameter.dim() == 1 or name.endswith(("layers.0.self_attn.q_proj.weight", "layers.0.self_attn.k_proj.weight"))

    kept = {name: value.grad for name, value in model.named_parameters() if is_kept(name, value)}
    save_file(kept, folder / "gradients.safetensors")


def record_family(name, config, source):
    folder = FOLDER / name
    model = random_weights(config, source)
    save_weights(model, folder)
    # As the field's files are: rope_theta on its own.
    fields = config.to_diff_dict()
    fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
    fields["architectures"] = [type(model).__name__]
    write_config(folder / "config.json", fields | KEPT)
    sequences = [logits(model, random_ids(source, length, VOCAB_SIZE), list(range(length))) for length in (1, 9, 20)]
    write_json(folder / "golden.json", {"sequences": sequences})
    if name != "mistral":
        record_gradients(model, folder, source)


def record_ropes(source):
    folder = FOLDER / "llama-rope"
    model = random_weights(LlamaConfig(**SHAPE, head_dim=16), source)
    save_weights(model, folder)
    golden = {}
    for variant, options in ROPE_VARIANTS.items():
        fields = SHAPE | dict(head_dim=16, model_type="llama", rms_norm_eps=1e-6, tie_word_embeddings=False) | options
        write_config(folder / f"config-{variant}.json", fields)
        config = AutoConfig.for_model(**fields)
        scaled = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        scaled.load_state_dict(model.state_dict())
        sequences = []
        # From short to long: `dynamic` keeps the frequencies of the longest sequence so far.
        for length in (9, 16, 17, 40):
            sequences.append(logits(scaled, random_ids(source, length, VOCAB_SIZE), [0, length // 2, length - 1]))
        golden[variant] = {"sequences": sequences}
    write_json(folder / "golden.json", golden)


if __name__ == "__main__":
    record_ropes(generator(40))
    for seed, (name, config) in enumerate(FAMILIES.items()):
        record_family(name, config, generator(41 + seed))
