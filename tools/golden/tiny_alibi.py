"""Records a tiny random Baichuan-13B, computed by the NumPy lines below: transformers has no class for it.

crates/model/tests/golden/families/baichuan-alibi/
    model.safetensors: float32, config.json
    golden.json: {"sequences": [{"ids": [T], "positions": [T], "logits": [T][V]}]}

The number of heads, 6, is no power of two, so that slopes come from two series.
"""

import json

import numpy
from safetensors.numpy import save_file

from recording import MODEL_GOLDEN, write_json

FOLDER = MODEL_GOLDEN / "families" / "baichuan-alibi"
VOCAB, HIDDEN, INNER, LAYERS, HEADS = 31, 48, 40, 2, 6
SIZE = HIDDEN // HEADS
EPSILON = 1e-6


def slopes(heads):
    """As the ALiBi paper's code: a geometric series for powers of two, else with every second one of the next."""
    def power_of_two(n):
        start = 2 ** (-(2 ** -(numpy.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    below = 2 ** int(numpy.floor(numpy.log2(heads)))
    if below == heads:
        return power_of_two(heads)
    return power_of_two(below) + power_of_two(2 * below)[0::2][: heads - below]


def weights(random):
    def matrix(rows, columns):
        return (0.2 * random.standard_normal((rows, columns))).astype(numpy.float32)

    def norm():
        return (1 + 0.3 * random.standard_normal(HIDDEN)).astype(numpy.float32)

    named = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        named |= {
            block + "input_layernorm.weight": norm(),
            block + "self_attn.W_pack.weight": matrix(3 * HIDDEN, HIDDEN),
            block + "self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            block + "post_attention_layernorm.weight": norm(),
            block + "mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            block + "mlp.up_proj.weight": matrix(INNER, HIDDEN),
            block + "mlp.down_proj.weight": matrix(HIDDEN, INNER),
        }
    return named | {"model.norm.weight": norm(), "lm_head.weight": matrix(VOCAB, HIDDEN)}


def logits(named, ids):
    w = {name: value.astype(numpy.float64) for name, value in named.items()}

    def norm(x, weight):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight

    x = w["model.embed_tokens.weight"][ids]
    tokens = len(ids)
    hidden = numpy.triu(numpy.full((tokens, tokens), -numpy.inf), 1)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        packed = norm(x, w[block + "input_layernorm.weight"]) @ w[block + "self_attn.W_pack.weight"].T
        q, k, v = (part.reshape(tokens, HEADS, SIZE).swapaxes(0, 1) for part in numpy.split(packed, 3, -1))
        # The published code adds slope · (place of the key), which differs by a constant in each row.
        bias = numpy.array(slopes(HEADS))[:, None, None] * numpy.arange(tokens)
        scores = q @ k.swapaxes(1, 2) / numpy.sqrt(SIZE) + bias + hidden
        p = numpy.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + (p @ v).swapaxes(0, 1).reshape(tokens, HIDDEN) @ w[block + "self_attn.o_proj.weight"].T
        m = norm(x, w[block + "post_attention_layernorm.weight"])
        gate = m @ w[block + "mlp.gate_proj.weight"].T
        product = gate / (1 + numpy.exp(-gate)) * (m @ w[block + "mlp.up_proj.weight"].T)
        x = x + product @ w[block + "mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


if __name__ == "__main__":
    random = numpy.random.default_rng(60)
    named = weights(random)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(named, FOLDER / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "model_max_length": 64,
        "rms_norm_eps": EPSILON, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }
    (FOLDER / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sequences = []
    for length in (1, 9, 20):
        ids = random.integers(0, VOCAB, length).tolist()
        rows = logits(named, ids).astype(numpy.float32)
        sequences.append({"ids": ids, "positions": list(range(length)), "logits": [[float(str(x)) for x in row] for row in rows]})
    write_json(FOLDER / "golden.json", {"sequences": sequences})
