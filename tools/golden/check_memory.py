"""Measures what danlu takes of memory with a model of Llama-2-7B's shape: quantized while loading, and converted.

    python check_memory.py DANLU [FOLDER]

Writes the model (float16, zeros) as holes in files, 13.5 GB that take no disk, into a temporary folder in FOLDER, and
runs there, one after the other:

- `danlu generate --quantization-bit 8` and `4` for one token. The peak has to stay below the quantized size + 1 GB: the
  matrices of the blocks with 8.5 bits a weight (Q8_0) or 4.127 (NF4 with double quantization), the rest with 16.
- `danlu convert --quant q4_k_m`. The peak has to stay below two of the largest tensors + 200 MB.

The peak is the largest resident set that the kernel counted, with mapped pages of files. Some minutes, 8 GB of memory,
4 GB of disk. Exit code 1 where a bound is passed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32000
LAYERS_A_FILE = 11
MATRICES = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


def elements(shape):
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def write_model(folder):
    folder.mkdir()
    files = [[("model.embed_tokens.weight", (VOCABULARY, HIDDEN))]]
    for layer in range(LAYERS):
        if layer % LAYERS_A_FILE == 0 and layer:
            files.append([])
        for name, shape in MATRICES.items():
            files[-1].append((f"model.layers.{layer}.{name}.weight", shape))
        for name in ["input_layernorm", "post_attention_layernorm"]:
            files[-1].append((f"model.layers.{layer}.{name}.weight", (HIDDEN,)))
    files[-1] += [("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCABULARY, HIDDEN))]
    weight_map = {}
    for index, tensors in enumerate(files):
        name = f"model-{index + 1:05}-of-{len(files):05}.safetensors"
        header, end = {}, 0
        for tensor, shape in tensors:
            start, end = end, end + 2 * elements(shape)
            header[tensor] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
            weight_map[tensor] = name
        header = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }))


def run(folder, arguments):
    """Largest resident set in bytes, and seconds."""
    start = time.monotonic()
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments} ended with {status}")
    return usage.ru_maxrss * 1024, time.monotonic() - start


def main():
    danlu = str(Path(sys.argv[1]).resolve())
    matrices = LAYERS * sum(map(elements, MATRICES.values()))
    rest = 2 * (2 * VOCABULARY * HIDDEN + (2 * LAYERS + 1) * HIDDEN)
    generate = [danlu, "generate", "--model", "model", "--raw", "--prompt-ids", "1,2,3", "--max-new-tokens", "1"]
    failed = False
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        folder = Path(place)
        write_model(folder / "model")
        for name, arguments, limit in [
            ("generate in 8 bit", [*generate, "--quantization-bit", "8"], matrices * 8.5 / 8 + rest + 1e9),
            ("generate in 4 bit", [*generate, "--quantization-bit", "4"], matrices * 4.127 / 8 + rest + 1e9),
            ("convert to Q4_K_M", [danlu, "convert", "model", "m.gguf", "--quant", "q4_k_m"],
             2 * 2 * VOCABULARY * HIDDEN + 200e6),
        ]:
            peak, seconds = run(folder, arguments)
            print(f"{name}: {peak / 1e9:.2f} GB of {limit / 1e9:.2f} allowed, {seconds:.0f} s", flush=True)
            failed |= peak >= limit
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: check_memory.py DANLU [FOLDER]")
    main()
