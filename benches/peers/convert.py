#!/usr/bin/env python3
"""From a Hugging Face folder to a quantized GGUF file with llama.cpp's tools: its converter, then its quantizer.

What a user of llama.cpp types is `convert_hf_to_gguf.py MODEL --outtype f16` and `llama-quantize F16 OUT TYPE`. The first is
not on PyPI; here it is the same library (gguf-py's writer and name map, torch and safetensors as it reads them) with the
tensors of a Llama and without a tokenizer, which makes it do less than the real one. The second is llama.cpp's own function
through llama-cpp-python. Times are of the whole processes' work without starting Python: reading, writing both files.
Prints one JSON line last."""
import argparse, ctypes, json, os, resource, tempfile, time
from pathlib import Path

ap = argparse.ArgumentParser()
ap.add_argument("model", help="folder with config.json and model.safetensors")
ap.add_argument("out", nargs="?", help="file to write (default: one that is removed)")
ap.add_argument("--quant", default="q4_k_m")
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()

import gguf, llama_cpp as L, torch
from safetensors import safe_open

quiet = L.llama_log_callback(lambda level, text, data: None)  # kept alive while llama.cpp may call it
L.llama_log_set(quiet, ctypes.c_void_p(0))
FTYPE = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}

def permuted(weights, heads):
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)

def convert(folder, out):
    c = json.loads((Path(folder) / "config.json").read_text())
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    w = gguf.GGUFWriter(out, "llama")
    w.add_block_count(c["num_hidden_layers"]); w.add_context_length(c["max_position_embeddings"]); w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"]); w.add_head_count(heads); w.add_head_count_kv(kv); w.add_vocab_size(c["vocab_size"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"]); w.add_rope_freq_base(c.get("rope_theta") or c["rope_parameters"]["rope_theta"])
    w.add_rope_dimension_count(c["hidden_size"] // heads); w.add_file_type(1)
    w.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    with safe_open(Path(folder) / "model.safetensors", "pt") as f:
        for name in f.keys():
            t = f.get_tensor(name)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                t = permuted(t, heads if "q_proj" in name else kv)
            t = t.to(torch.float32 if t.ndim == 1 else torch.float16)
            w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), t.numpy())
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(a.out or a.model)) if a.out else None) as folder:
    f16, out = os.path.join(folder, "f16.gguf"), a.out or os.path.join(folder, "out.gguf")
    t0 = time.perf_counter()
    convert(a.model, f16)
    t1 = time.perf_counter()
    p = L.llama_model_quantize_default_params()
    p.ftype, p.nthread = FTYPE[a.quant], a.threads
    assert L.llama_model_quantize(f16.encode(), out.encode(), p) == 0
    t2 = time.perf_counter()
    size = os.path.getsize(out)
print(json.dumps({"peer": "llama.cpp", "quant": a.quant, "seconds": round(t2 - t0, 3), "convert_s": round(t1 - t0, 3),
                  "quantize_s": round(t2 - t1, 3), "bytes": size,
                  "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
