"""What the scripts that compare greedy tokens ask of danlu: ids of a text, and the 32 tokens behind a prompt."""

import json
import subprocess
import sys

PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a",
    "Water boils at",
    "def fibonacci(n):",
]
COUNT = 32


def danlu(program, *arguments):
    """The object on the last line of a command's output."""
    ran = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def encode(program, path, text):
    return danlu(program, "tokenizer", "encode", "--tokenizer", path, "--text", text, "--no-special-tokens")["ids"]


def continuation(program, path, ids, *more):
    """danlu's greedy ids behind `ids`."""
    listed = ",".join(map(str, ids))
    return danlu(program, "generate", "--model", path, "--prompt-ids", listed, "--max-new-tokens", str(COUNT),
                 "--temperature", "0", "--precision", "f32", *more)["ids"]


def common(mine, theirs):
    """How many ids are the same from the beginning."""
    return next((place for place, pair in enumerate(zip(mine, theirs)) if pair[0] != pair[1]), min(len(mine), len(theirs)))
