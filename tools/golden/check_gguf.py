"""Checks that GGUF files written by danlu are the same model in llama.cpp as in danlu.

    python check_gguf.py DANLU FILE.gguf [FILE.gguf ...]

DANLU is the program. For each file:

- llama.cpp's own quantizer writes the file's values as f32. llama.cpp on that copy, with keys and values in f32, and danlu
  on the file itself must continue every prompt by the same 32 greedy tokens: then the file says in llama.cpp what it says
  here, and both programs compute the same model.
- llama.cpp on the file itself rounds the activations to 8 bits before every product with a quantized matrix, which is its
  arithmetic and not the file's. How far that takes it from its own f32 copy is printed, the mean Kullback-Leibler divergence
  over a text in nats a token, and bounded; and how many of the tokens are the same.
- both programs give the same ids for a text.

Exit code 1 if anything differs. Needs `llama-cpp-python` and `gguf`.
"""

import sys
import tempfile
from pathlib import Path

import numpy

import llama_cpp_files as peer
from of_danlu import COUNT, PROMPTS, common, continuation, encode

TEXT = "数控机床 1234 it's\n\n  a test, isn't it?"
# Nats a token that rounding activations may take llama.cpp from its own result.
NEARLY = 0.02


def check(program, path, folder):
    """True if both programs agree on this file."""
    copy = folder / "exact.gguf"
    peer.quantize(path, copy, "f32")
    exact, own = (peer.load(each, 512, logits_all=True) for each in (copy, path))
    if encode(program, path, TEXT) != own.tokenize(TEXT.encode(), add_bos=False, special=False):
        print(f"{path}: ids of a text differ")
        return False
    agree, same, total, text = True, 0, 0, []
    for prompt in PROMPTS:
        ids = encode(program, path, prompt)
        mine = continuation(program, path, ids)
        theirs = peer.greedy(exact, ids, COUNT)
        if mine != theirs:
            print(f"{path}: behind {prompt!r} danlu and llama.cpp on the values in f32 part at token {common(mine, theirs)}")
            agree = False
        same += common(mine, peer.greedy(own, ids, COUNT))
        total += len(mine)
        text += ids + mine
    reference = peer.log_probabilities(exact, text)
    divergence = (numpy.exp(reference) * (reference - peer.log_probabilities(own, text))).sum(axis=1).mean()
    verdict = "the same tokens" if agree else "OTHER TOKENS"
    print(f"{path}: {verdict} as llama.cpp on its values in f32; llama.cpp's own arithmetic: {same} of {total} tokens before "
          f"each prompt's first other one, mean divergence {divergence:.5f} nats", flush=True)
    return agree and divergence < NEARLY


if __name__ == "__main__":
    program, *paths = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if all([check(program, path, Path(folder)) for path in paths]) else 1)
