"""Checks the families of models against llama.cpp: tiny random weights as each family's own files, converted to GGUF.

    python check_gguf_families.py DANLU [FAMILY ...]

DANLU is the program. For each family a Hugging Face folder with its names, its packing and its fields is made, `danlu convert`
writes it as GGUF in f32, and the log-probabilities of all tokens behind several prefixes of one text must be the same within
1e-2 in llama.cpp, which reads the GGUF, and in danlu, which reads the folder. Exit code 1 if not. Needs `llama-cpp-python`,
`safetensors` and `numpy`.

llama.cpp takes the size of a Baichuan from its number of blocks: 32 have rotary positions, 40 have ALiBi. It has no sliding
window in models of `llama`'s architecture, as which it takes Mistral: prefixes longer than the window are left out.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy
from safetensors.numpy import save_file

import llama_cpp_files as peer
from of_danlu import danlu

HIDDEN, INTERMEDIATE, HEADS = 64, 96, 4
IDS = [3, 17, 5, 22, 9, 9, 28, 1, 14, 2, 30, 11, 44, 7, 61, 12]
PREFIXES = [1, 3, 8, 16]
CLOSE = 1e-2

LLAMA = {"model_type": "llama", "num_key_value_heads": 2}
# Fields of config.json, and whose names the tensors have.
FAMILIES = {
    "llama": (LLAMA, "llama"),
    "llama, linear rope": (LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "llama"),
    "llama, yarn": (LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                              "original_max_position_embeddings": 16}}, "llama"),
    "llama 3.1": (LLAMA | {"rope_theta": 500000.0, "max_position_embeddings": 131072, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}}, "llama"),
    "baichuan-7b": ({"model_type": "baichuan", "architectures": ["BaiChuanForCausalLM"], "num_hidden_layers": 32}, "baichuan"),
    "baichuan-13b": ({"model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "num_hidden_layers": 40,
                      "max_position_embeddings": None, "model_max_length": 64}, "baichuan"),
    "baichuan2-13b": ({"model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "num_hidden_layers": 40,
                       "max_position_embeddings": None, "model_max_length": 64, "vocab_size": 125696, "z_loss_weight": 0}, "baichuan"),
    "baichuan2-7b": ({"model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "num_hidden_layers": 32,
                      "vocab_size": 125696, "z_loss_weight": 0}, "baichuan"),
    "internlm2": ({"model_type": "internlm2", "num_key_value_heads": 2, "bias": False}, "internlm2"),
    "minimind": ({"model_type": "minimind", "num_key_value_heads": 2, "tie_word_embeddings": True}, "llama"),
    "minimind, third": ({"model_type": "minimind", "num_key_value_heads": 2, "tie_word_embeddings": True}, "norms"),
    "qwen2": ({"model_type": "qwen2", "num_key_value_heads": 2}, "biases"),
    "qwen3": ({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32}, "norms"),
    "mistral": ({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}, "llama"),
    "mistral, window of 6": ({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 6}, "llama"),
}


def write(folder, fields, names):
    """A folder with this config and random weights under these names."""
    config = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_attention_heads": HEADS, "num_hidden_layers": 2,
              "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": 96,
              "tie_word_embeddings": False, "hidden_act": "silu"} | fields
    config = {key: value for key, value in config.items() if value is not None or key == "sliding_window"}
    random = numpy.random.default_rng(1)
    head = config.get("head_dim", HIDDEN // HEADS)
    q, kv = HEADS * head, config.get("num_key_value_heads", HEADS) * head

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) * 1.5 / columns**0.5).astype(numpy.float32)

    def vector(length, middle):
        return (middle + 0.3 * random.standard_normal(length)).astype(numpy.float32)

    own = names == "internlm2"
    tensors = {"model.tok_embeddings.weight" if own else "model.embed_tokens.weight": matrix(config["vocab_size"], HIDDEN),
               "model.norm.weight": vector(HIDDEN, 1)}
    if not config["tie_word_embeddings"]:
        tensors["output.weight" if own else "lm_head.weight"] = matrix(config["vocab_size"], HIDDEN)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        norms = ("attention_norm", "ffn_norm") if own else ("input_layernorm", "post_attention_layernorm")
        tensors |= {f"{block}{name}.weight": vector(HIDDEN, 1) for name in norms}
        attention = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)]
        if own:
            attention = [("attention.wqkv", q + 2 * kv)]
        elif names == "baichuan":
            attention = [("self_attn.W_pack", q + 2 * kv)]
        for name, rows in attention:
            tensors[f"{block}{name}.weight"] = matrix(rows, HIDDEN)
            if names == "biases":
                tensors[f"{block}{name}.bias"] = vector(rows, 0)
        if names == "norms":
            tensors |= {f"{block}self_attn.{name}_norm.weight": vector(head, 1) for name in "qk"}
        modules = ("attention.wo", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if own else (
            "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        shapes = (HIDDEN, q), (INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)
        tensors |= {f"{block}{name}.weight": matrix(*shape) for name, shape in zip(modules, shapes)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return config


def mine(program, model, prefix, count):
    """danlu's log-probabilities of the `count` best tokens behind a prefix, by id."""
    found = danlu(program, "generate", "--model", model, "--prompt-ids", ",".join(map(str, prefix)), "--max-new-tokens", "1",
                  "--temperature", "0", "--precision", "f32", "--top-logprobs", str(count))
    return {entry["id"]: entry["logprob"] for entry in found["top_logprobs"][0]}


def check(program, name, folder):
    fields, names = FAMILIES[name]
    config = write(folder / "model", fields, names)
    gguf = folder / "model.gguf"
    danlu(program, "convert", folder / "model", gguf, "--dtype", "f32")
    theirs = peer.log_probabilities(peer.load(gguf, 64, logits_all=True), IDS)
    errors, prefixes = [], [length for length in PREFIXES if length <= (config.get("sliding_window") or length)]
    for length in prefixes:
        expected = mine(program, folder / "model", IDS[:length], min(96, config["vocab_size"]))
        errors.append(max(abs(value - theirs[length - 1, token]) for token, value in expected.items()))
    said = ", ".join(f"{error:.1e}" for error in errors)
    holds = max(errors) <= CLOSE
    print(f"{name}: largest difference behind {prefixes} tokens {said}: {'holds' if holds else 'DIFFERS'}", flush=True)
    return holds


if __name__ == "__main__":
    program, *chosen = sys.argv[1:]
    results = []
    for name in chosen or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(program, name, Path(folder)))
    sys.exit(not all(results))
