"""Checks that GGUF files written by danlu give the same greedy tokens in llama.cpp as in danlu.

    python check_gguf.py DANLU FILE.gguf [FILE.gguf ...]

DANLU is the program. Both continue the same prompt ids by 32 tokens, danlu in f32 and llama.cpp with its own arithmetic on
the blocks, which rounds activations to 8 bits for quantized matrices: where the two best tokens are nearly equal they may
part. Then the probability that danlu gives llama.cpp's token must be within 0.3 nats of its best. Also compares the ids of
a text that both tokenize. Exit code 1 if anything differs. Needs `llama-cpp-python`.
"""

import json
import subprocess
import sys

from llama_cpp import Llama

PROMPT = "The capital of France is"
TEXT = "数控机床 1234 it's\n\n  a test, isn't it?"
COUNT = 32
NEARLY = 0.3


def danlu(program, *arguments):
    """The object on the last line of a command's output."""
    output = subprocess.run([program, *arguments, "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def continuation(program, path, ids):
    """danlu's greedy ids behind `ids`, and for each step its best tokens with their log-probabilities."""
    listed = ",".join(map(str, ids))
    found = danlu(program, "generate", "--model", path, "--prompt-ids", listed, "--max-new-tokens", str(COUNT),
                  "--temperature", "0", "--top-logprobs", "10", "--precision", "f32")
    return found["ids"], found["top_logprobs"]


def check(program, path):
    """True if both programs agree on this file."""
    llama = Llama(path, n_ctx=256, seed=0, verbose=False, logits_all=False)
    text = danlu(program, "tokenizer", "encode", "--tokenizer", path, "--text", TEXT, "--no-special-tokens")["ids"]
    other = llama.tokenize(TEXT.encode(), add_bos=False, special=False)
    if text != other:
        print(f"{path}: ids of a text differ: {text} and {other}")
        return False
    ids = danlu(program, "tokenizer", "encode", "--tokenizer", path, "--text", PROMPT, "--no-special-tokens")["ids"]
    mine, steps = continuation(program, path, ids)
    theirs = []
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0, top_k=1):
        if len(theirs) == len(mine):
            break
        theirs.append(token)
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
    program, *paths = sys.argv[1:]
    sys.exit(0 if all([check(program, path) for path in paths]) else 1)
