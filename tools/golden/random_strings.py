"""Records what the field's own libraries make of 100,000 random strings: crates/tokenizer/tests/golden/random_strings.json.

    python random_strings.py ../shared/data/tokenizers

The strings are those of `crates/tokenizer/tests/common/mod.rs`, drawn in the same way there: words, common and rare
Chinese, emoji, combining marks, controls, spaces of all kinds. For each vocabulary file the recording has the SHA-256 of
all ids (per string their count and the ids, as little-endian 32-bit numbers), of the first 2,000 strings and of all.
Special tokens that a string spells out are text. References: `sentencepiece` for `.model`, `tokenizers` for
`tokenizer.json`, `tiktoken` for rank files (Qwen composes its texts before), `llama-cpp-python` for GGUF.
Needs these four.
"""

import base64
import hashlib
import json
import struct
import sys
import unicodedata
from pathlib import Path

from recording import ROOT

OUT = ROOT / "crates/tokenizer/tests/golden/random_strings.json"
COUNT, FIRST, SEED = 100_000, 2_000, 20_251
MASK = (1 << 64) - 1
COMMON = "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手用主行方又如前所本见经头面公同已老从动两长数控机床加工，。：；？！“”《》、"
WORDS = ["the ", " a", "don't", "'RE", "1234", "<s>", "</s>", "<unk>", "<0x41>", "  ", "\r\n", "\n\n", "\t", "▁", "aaaa", "====",
         "👨‍👩‍👧", "❤️", "ing", "Hello", "。\n", "e\u0301"]
RANGES = [(0x61, 0x7A), (0x61, 0x7A), (0x20, 0x20), (0x20, 0x7E), (0x4E00, 0x9FA5), (0x1F300, 0x1F64F), (0x300, 0x36F),
          (0xFF01, 0xFF5E), (0x00, 0x20), (0x7F, 0x17F), (0x2000, 0x206F), (0x3000, 0x30FF), (0xE01, 0xE3A), (0xAC00, 0xD7A3),
          (0x20000, 0x2A6D6), (0x400, 0x44F), (0x621, 0x64A)]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def strings():
    """The strings, from splitmix64."""
    state = SEED

    def draw():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    for _ in range(COUNT):
        text = ""
        for _ in range(1 + draw() % 24):
            drawn = draw()
            kind, pick = drawn % (len(RANGES) + 9), drawn >> 8
            if kind < len(RANGES):
                first, last = RANGES[kind]
                text += chr(first + pick % (last - first + 1))
            elif kind < len(RANGES) + 5:
                text += COMMON[pick % len(COMMON)]
            else:
                text += WORDS[pick % len(WORDS)]
        yield text


def sentencepiece_ids(path):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return processor.encode


def json_ids(path):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def tiktoken_ids(path, compose):
    import tiktoken

    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    pattern = LLAMA3.replace("{1,3}", "") if compose else LLAMA3
    encoding = tiktoken.Encoding("recorded", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    if compose:
        return lambda text: encoding.encode_ordinary(unicodedata.normalize("NFC", text))
    return encoding.encode_ordinary


def gguf_ids(path):
    import llama_cpp

    model = llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)
    return lambda text: model.tokenize(text.encode(), add_bos=False, special=False)


def main():
    """Writes the hashes of every file."""
    folder = Path(sys.argv[1])
    encoders = {}
    for name in sorted(json.loads((folder / "golden_ids.json").read_text(encoding="utf-8"))["by"]):
        path = folder / name
        if name.endswith(".json"):
            encoders[name] = json_ids(path)
        elif name.startswith("llama3/") or name.endswith(".tiktoken"):
            encoders[name] = tiktoken_ids(path, name.startswith("qwen"))
        else:
            encoders[name] = sentencepiece_ids(path)
    for path in sorted((folder / "llama.cpp-vocabs").glob("*.gguf")):
        encoders[f"llama.cpp-vocabs/{path.name}"] = gguf_ids(path)
    texts = list(strings())
    recorded = {}
    for name, encode in encoders.items():
        digest = hashlib.sha256()
        for index, text in enumerate(texts):
            if index == FIRST:
                first = digest.hexdigest()
            ids = encode(text)
            digest.update(struct.pack(f"<{len(ids) + 1}I", len(ids), *ids))
        recorded[name] = {"first": first, "all": digest.hexdigest()}
        print(name, recorded[name]["all"], flush=True)
    text = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    OUT.write_text(json.dumps({"strings": text, "ids": recorded}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
