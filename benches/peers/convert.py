#!/usr/bin/env python3
"""From a Hugging Face folder to a quantized GGUF file with llama.cpp's own tools: `convert_hf_to_gguf.py` to f16, then its quantizer.

The converter is the script of llama.cpp itself, which is not installed by PyPI's packages but lies in the source of one of them:
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xzf llama_cpp_python-*.tar.gz
and `--llama-cpp llama_cpp_python-*/vendor/llama.cpp`. It is timed as a user starts it. The quantizer is the function behind
`llama-quantize`, through llama-cpp-python, and timed without starting Python. Prints one JSON line last."""
import argparse, ctypes, json, os, resource, subprocess, sys, tempfile, time

ap = argparse.ArgumentParser()
ap.add_argument("model", help="folder with config.json, model.safetensors and the tokenizer's files")
ap.add_argument("--llama-cpp", required=True, help="folder with convert_hf_to_gguf.py")
ap.add_argument("--out", help="folder for both files (default: a temporary one)")
ap.add_argument("--quant", default="q4_k_m")
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()

import llama_cpp as L

quiet = L.llama_log_callback(lambda level, text, data: None)  # kept alive while llama.cpp may call it
L.llama_log_set(quiet, ctypes.c_void_p(0))
FTYPE = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
with tempfile.TemporaryDirectory() as folder:
    f16, out = (os.path.join(a.out or folder, name) for name in ("f16.gguf", "out.gguf"))
    script = os.path.join(a.llama_cpp, "convert_hf_to_gguf.py")
    t0 = time.perf_counter()
    ran = subprocess.run([sys.executable, script, a.model, "--outtype", "f16", "--outfile", f16], capture_output=True, text=True)
    t1 = time.perf_counter()
    if ran.returncode:
        sys.exit(ran.stderr)
    p = L.llama_model_quantize_default_params()
    p.ftype, p.nthread = FTYPE[a.quant], a.threads
    assert L.llama_model_quantize(f16.encode(), out.encode(), p) == 0
    t2 = time.perf_counter()
    size = os.path.getsize(out)
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
print(json.dumps({"peer": "llama.cpp", "quant": a.quant, "seconds": round(t2 - t0, 3), "convert_s": round(t1 - t0, 3),
                  "quantize_s": round(t2 - t1, 3), "bytes": size, "peak_rss_mb": peak}))
