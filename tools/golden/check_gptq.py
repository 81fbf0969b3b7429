"""Checks that GPTQ folders written by danlu give the same greedy tokens in GPTQModel as in danlu.

    python check_gptq.py DANLU FOLDER [FOLDER ...]

DANLU is the program. Both continue the same prompt ids by 32 tokens, danlu in f32 and GPTQModel's plain PyTorch kernel in
float16, float32 being none that it has: where the two best tokens are nearly equal they may part. Then the probability that danlu gives
GPTQModel's token must be within 0.05 nats of its best. Exit code 1 if anything differs. Needs `gptqmodel`.
"""

import sys

import torch
from gptqmodel import BACKEND, GPTQModel

from check_gguf import COUNT, PROMPT, continuation, danlu

NEARLY = 0.05


def check(program, path):
    """True if both programs agree on this folder."""
    model = GPTQModel.load(path, backend=BACKEND.TORCH, device="cpu")
    ids = danlu(program, "tokenizer", "encode", "--tokenizer", path, "--text", PROMPT, "--no-special-tokens")["ids"]
    mine, steps = continuation(program, path, ids)
    prompt = torch.tensor([ids])
    with torch.no_grad():
        output = model.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=COUNT, do_sample=False,
        )
    theirs = output[0, len(ids):].tolist()
    same = next((place for place, pair in enumerate(zip(mine, theirs)) if pair[0] != pair[1]), len(mine))
    if same == len(mine):
        print(f"{path}: {same} tokens are the same")
        return True
    best = steps[same][0]["logprob"]
    here = [entry["logprob"] for entry in steps[same] if entry["id"] == theirs[same]]
    gap = best - here[0] if here else float("inf")
    print(f"{path}: the first {same} of {len(mine)} tokens are the same, then the two best are {gap:.3f} nats apart")
    return gap < NEARLY


if __name__ == "__main__":
    sys.exit(0 if all([check(sys.argv[1], path) for path in sys.argv[2:]]) else 1)
