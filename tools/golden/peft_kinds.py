"""Records small adapters of PEFT of every kind that a dense Llama can have: logits of base and adapter together.

crates/model/tests/golden/peft/NAME/
    adapter_config.json, adapter_model.safetensors (adapter_model.bin of one): as PEFT saves them, all values random
    golden.json: {"base": folder beside, "sequences": [{"ids": [T], "positions": [N], "logits": [N][V]}]}
crates/model/tests/golden/peft/sum.json: the same for two of them active at once, {"adapters": [NAME, NAME]}
"""

import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from recording import MODEL_GOLDEN, generator, random_ids, shortest, write_json
from tiny_lora import plain_config

FOLDER = MODEL_GOLDEN / "peft"
KINDS = {
    # Several rows of each pattern match; the first by name counts.
    "patterns": ("gqa-untied", dict(
        r=3, lora_alpha=5, use_rslora=True, target_modules=r".*\.(self_attn\.[qk]_proj|mlp\.(up|down)_proj)",
        rank_pattern={"layers.1.mlp.up_proj": 2, r"^model.*\.k_proj": 1},
        alpha_pattern={"down_proj": 7, r"0\.self_attn\..*": 2},
    )),
    "all-linear": ("gqa-untied", dict(
        r=1, lora_alpha=2, target_modules="all-linear", exclude_modules=["k_proj", "layers.0.mlp.gate_proj"],
    )),
    "layers": ("mha-untied", dict(
        r=2, lora_alpha=3, target_modules=["v_proj", "o_proj"], layers_to_transform=[1], layers_pattern="layers",
        fan_in_fan_out=True,
    )),
    "dora": ("gqa-untied", dict(r=2, lora_alpha=3, target_modules=["q_proj", "o_proj", "up_proj"], use_dora=True)),
    "saved-modules": ("gqa-tied", dict(
        r=1, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "input_layernorm", "model.norm"],
    )),
    "saved-head": ("gqa-tied", dict(
        r=1, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["lm_head"],
    )),
    "tied-modules": ("gqa-tied", dict(
        r=1, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True,
    )),
    "tokens": ("gqa-tied", dict(r=1, lora_alpha=2, target_modules=["q_proj"], trainable_token_indices=[3, 96])),
    "tokens-untied": ("gqa-untied", dict(
        r=1, lora_alpha=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 96], "lm_head": [7]},
    )),
    "embedding": ("gqa-tied", dict(r=2, lora_alpha=5, target_modules=["embed_tokens", "v_proj"])),
    "head": ("gqa-tied", dict(r=2, lora_alpha=5, target_modules=["lm_head", "v_proj"])),
    "grown": ("gqa-untied", dict(r=1, lora_alpha=2, target_modules=["v_proj"])),
    "grown-tied": ("gqa-tied", dict(r=1, lora_alpha=2, target_modules=["v_proj"])),
    "biases": ("families/qwen2", dict(r=1, lora_alpha=2, target_modules=["q_proj", "down_proj"], bias="all")),
}
GROWN_VOCABULARY = 101
SUM = ["dora", "patterns"]


def load_base(name):
    return AutoModelForCausalLM.from_pretrained(MODEL_GOLDEN / name, dtype=torch.float32, attn_implementation="eager")


def random_adapter(model, options, source):
    """Everything that is trained is random; magnitudes stay positive, full copies near what they were."""
    model = get_peft_model(model, LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=source)
            if "lora_magnitude" in name:
                parameter.mul_(1.0 + 0.2 * noise.clamp(-2, 2))
            elif "lora_" in name:
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model


def sequences(model, source):
    recorded = []
    for length, positions in [(3, [2]), (11, [10])]:
        ids = random_ids(source, length, model.config.vocab_size)
        logits = model(input_ids=torch.tensor([ids])).logits[0, positions]
        recorded.append({"ids": ids, "positions": positions, "logits": shortest(logits)})
    return recorded


def record(name, base, options, source):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model = load_base(base)
    if name.startswith("grown"):
        model.resize_token_embeddings(GROWN_VOCABULARY, mean_resizing=False)
        with torch.no_grad():
            for table in {id(t): t for t in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}.values():
                table[97:] = 0.2 * torch.randn(GROWN_VOCABULARY - 97, table.shape[1], generator=source)
    adapter = random_adapter(model, options, source)
    adapter.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    plain_config(folder / "adapter_config.json", f"../../{base}")
    weights = load_file(folder / "adapter_model.safetensors")
    if name == "all-linear":
        (folder / "adapter_model.safetensors").unlink()
        torch.save(weights, folder / "adapter_model.bin")
    print(name, {key: list(value.shape) for key, value in weights.items()})
    with torch.no_grad():
        write_json(folder / "golden.json", {"base": base, "sequences": sequences(adapter, source)})


def record_sum(source):
    base, _ = KINDS[SUM[0]]
    model = PeftModel.from_pretrained(load_base(base), FOLDER / SUM[0], adapter_name=SUM[0])
    model.load_adapter(FOLDER / SUM[1], adapter_name=SUM[1])
    model.base_model.set_adapter(SUM)
    with torch.no_grad():
        write_json(FOLDER / "sum.json", {"base": base, "adapters": SUM, "sequences": sequences(model.eval(), source)})


if __name__ == "__main__":
    for seed, (kind, (base_name, settings)) in enumerate(KINDS.items()):
        record(kind, base_name, dict(settings), generator(60 + seed))
    record_sum(generator(90))
