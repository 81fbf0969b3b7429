"""Checks the folders that `danlu convert --to pth --parts N` writes against Meta's model-parallel code.

    python check_meta.py DANLU

Makes small random Llamas (with Llama 2's base of rotations and with Llama 3's, whose code cuts the embedding otherwise),
lets danlu write each in 1, 2 and 8 parts, and reads `consolidated.*.pth` as the processes of Meta's code do, with
`torch.load`: every part must have the shape of its layer in that process (`ColumnParallelLinear`, `RowParallelLinear`,
`ParallelEmbedding` or `VocabParallelEmbedding`, replicated norms), and the parts gathered, with queries and keys turned
back into halves, must be the tensors of the first folder bit for bit. Exit code 1 on a difference.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

DIM, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS, VOCABULARY = 64, 96, 2, 16, 8, 80
HEAD = DIM // HEADS
# Meta's module, that of Hugging Face, outputs, inputs, and along which dimension it lies in parts.
LAYER = [
    ("attention.wq", "self_attn.q_proj", DIM, DIM, 0),
    ("attention.wk", "self_attn.k_proj", KEY_VALUE_HEADS * HEAD, DIM, 0),
    ("attention.wv", "self_attn.v_proj", KEY_VALUE_HEADS * HEAD, DIM, 0),
    ("attention.wo", "self_attn.o_proj", DIM, DIM, 1),
    ("feed_forward.w1", "mlp.gate_proj", INTERMEDIATE, DIM, 0),
    ("feed_forward.w3", "mlp.up_proj", INTERMEDIATE, DIM, 0),
    ("feed_forward.w2", "mlp.down_proj", DIM, INTERMEDIATE, 1),
]


def modules(rope_theta):
    """Meta's name, Hugging Face's, shape, and the dimension of the cut or None."""
    yield "tok_embeddings", "model.embed_tokens", (VOCABULARY, DIM), 1 if rope_theta == 10000 else 0
    yield "output", "lm_head", (VOCABULARY, DIM), 0
    yield "norm", "model.norm", (DIM,), None
    for layer in range(LAYERS):
        for meta, own, outputs, inputs, cut in LAYER:
            yield f"layers.{layer}.{meta}", f"model.layers.{layer}.{own}", (outputs, inputs), cut
        yield f"layers.{layer}.attention_norm", f"model.layers.{layer}.input_layernorm", (DIM,), None
        yield f"layers.{layer}.ffn_norm", f"model.layers.{layer}.post_attention_layernorm", (DIM,), None


def write_model(folder, rope_theta):
    torch.manual_seed(11)
    tensors = {f"{own}.weight": torch.randn(shape).bfloat16() for _, own, shape, _ in modules(rope_theta)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": DIM, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096 if rope_theta == 10000 else 8192, "rms_norm_eps": 1e-5,
        "rope_theta": rope_theta, "tie_word_embeddings": False, "hidden_act": "silu",
    }))
    return tensors


def halves(weight):
    """Rows of neighbouring pairs in the order of Hugging Face."""
    return weight.view(-1, HEAD // 2, 2, DIM).transpose(1, 2).reshape(weight.shape)


def check(folder, parts, rope_theta, expected):
    parameters = json.loads((folder / "params.json").read_text())
    base = int(8 * parameters["dim"] / 3)
    if "ffn_dim_multiplier" in parameters:
        base = int(parameters["ffn_dim_multiplier"] * base)
    multiple = parameters["multiple_of"]
    assert multiple * ((base + multiple - 1) // multiple) == INTERMEDIATE
    # Meta's code gives it by itself, and would be given it twice.
    assert "max_seq_len" not in parameters
    assert parameters.get("rope_theta", 10000) == rope_theta
    files = sorted(folder.glob("consolidated.*.pth"))
    assert [file.name for file in files] == [f"consolidated.{part:02}.pth" for part in range(parts)]
    shards = [torch.load(file, weights_only=True, mmap=True) for file in files]
    for meta, own, shape, cut in modules(rope_theta):
        found = [shard.pop(f"{meta}.weight") for shard in shards]
        own_shape = list(shape)
        if cut is not None:
            own_shape[cut] //= parts
        assert all(list(part.shape) == own_shape for part in found), (meta, found[0].shape, own_shape)
        if cut is None:
            assert all(torch.equal(part, found[0]) for part in found), meta
        whole = found[0] if cut is None else torch.cat(found, dim=cut)
        if meta.endswith((".wq", ".wk")):
            whole = halves(whole)
        assert whole.dtype == torch.bfloat16 and torch.equal(whole, expected[f"{own}.weight"]), meta
    assert not any(shards), [list(shard) for shard in shards]


def main():
    danlu = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as place:
        for rope_theta in [10000, 500000]:
            model = Path(place) / f"model-{rope_theta}"
            expected = write_model(model, rope_theta)
            for parts in [1, 2, 8]:
                output = Path(place) / f"{rope_theta}-{parts}"
                subprocess.run(
                    [danlu, "convert", model, output, "--to", "pth", "--parts", str(parts)],
                    check=True, stdout=subprocess.DEVNULL,
                )
                try:
                    check(output, parts, rope_theta, expected)
                except AssertionError as error:
                    sys.exit(f"base {rope_theta}, {parts} parts: {error}")
                print(f"base {rope_theta}, {parts} parts: every tensor is equal")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_meta.py DANLU")
    main()
