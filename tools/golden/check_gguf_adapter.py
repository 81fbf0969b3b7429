"""Checks that an adapter that danlu writes as GGUF does in llama.cpp what it does in danlu.

    python check_gguf_adapter.py DANLU MODEL ADAPTER_FOLDER

DANLU is the program, MODEL any model that the adapter fits. The model becomes a GGUF file in f32 and the adapter one of its
own; llama.cpp with both and danlu with `--adapter` must continue every prompt by the same 32 greedy tokens. Also says in how
many prompts the adapter makes a difference, which must not be none. Needs `llama-cpp-python` and `gguf`.
"""

import sys
import tempfile
from pathlib import Path

import llama_cpp_files as peer
from of_danlu import COUNT, PROMPTS, continuation, danlu, encode

PROMPTS = [*PROMPTS, "What are the symptoms of diabetes?", "The patient has a fever and a cough."]


def main(program, model, adapter):
    with tempfile.TemporaryDirectory() as name:
        base, lora = (str(Path(name) / file) for file in ("base.gguf", "adapter.gguf"))
        danlu(program, "convert", model, base, "--dtype", "f32")
        danlu(program, "convert", adapter, lora, "--base", model)
        llama = peer.load(base, 512, lora_path=lora)
        agree = changed = 0
        for prompt in PROMPTS:
            ids = encode(program, base, prompt)
            mine, theirs = continuation(program, base, ids, "--adapter", adapter), peer.greedy(llama, ids, COUNT)
            agree += mine == theirs
            changed += mine != continuation(program, base, ids)
            if mine != theirs:
                print(f"behind {prompt!r}: {mine} and {theirs}")
        print(f"{agree} of {len(PROMPTS)} prompts go on the same with the adapter, which changes {changed}")
    return agree == len(PROMPTS) and changed > 0


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
