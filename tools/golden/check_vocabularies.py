"""Whether vocabularies that danlu writes give the same ids in sentencepiece, transformers, tokenizers and llama.cpp.

    python check_vocabularies.py ../target/release/danlu ../shared/data/tokenizers

Each vocabulary is converted with `danlu tokenizer convert` to a Hugging Face folder, `.json`, `.model` and `.gguf`, as far
as its kind allows, and each of these is loaded by the program it is for. The ids of the first strings of
`random_strings.py` must be those of the file that was converted. Needs `sentencepiece`, `transformers`,
`llama-cpp-python` and `tiktoken`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from random_strings import gguf_ids, json_ids, sentencepiece_ids, strings, tiktoken_ids

COUNT = 5_000
KNOWN = {
    # llama.cpp normalizes no texts, also where it converted the vocabulary itself.
    ("baichuan-7b/tokenizer.model", "x.gguf"), ("qwen/qwen.tiktoken", "x.gguf"),
    # A handful of strings, with `<unk>` and with combining marks; the folder is a copy of the original.
    ("smollm", "folder"), ("smollm", "x.gguf"),
}


def transformers_ids(folder):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    return lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def main():
    """Prints a line for each file that was written."""
    danlu, data = sys.argv[1], Path(sys.argv[2])
    sources = {
        "llama2/tokenizer.model": sentencepiece_ids,
        "chatglm2-3/tokenizer.model": sentencepiece_ids,
        "baichuan-7b/tokenizer.model": sentencepiece_ids,
        "literary-alpaca2": lambda path: sentencepiece_ids(path / "tokenizer.model"),
        "chinese-alpaca-2": lambda path: sentencepiece_ids(path / "tokenizer.model"),
        "llama2/tokenizer.bin": lambda path: sentencepiece_ids(path.with_suffix(".model")),
        "minimind": lambda path: json_ids(path / "tokenizer.json"),
        "smollm": lambda path: json_ids(path / "tokenizer.json"),
        "llama3/tokenizer.model": lambda path: tiktoken_ids(path, False),
        "qwen/qwen.tiktoken": lambda path: tiktoken_ids(path, True),
        "llama.cpp-vocabs/ggml-vocab-qwen2.gguf": gguf_ids,
        "llama.cpp-vocabs/ggml-vocab-llama-spm.gguf": gguf_ids,
    }
    readers = {"folder": transformers_ids, "x.json": json_ids, "x.model": sentencepiece_ids, "x.gguf": gguf_ids}
    texts = [text for text, _ in zip(strings(), range(COUNT))]
    failed = False
    for name, reference in sources.items():
        path = data / name
        encode = reference(path)
        expected = [encode(text) for text in texts]
        with tempfile.TemporaryDirectory() as folder:
            alone = path
            if path.is_file():
                # Without what lies beside it.
                alone = Path(folder) / "alone" / path.name
                alone.parent.mkdir()
                alone.write_bytes(path.read_bytes())
            for written, reader in readers.items():
                out = Path(folder) / written
                done = subprocess.run([danlu, "tokenizer", "convert", alone, out], capture_output=True, text=True)
                if done.returncode:
                    print(f"{name} -> {written}: refused: {done.stderr.strip().splitlines()[-1]}")
                    continue
                encode = reader(out)
                wrong = [text for text, ids in zip(texts, expected) if list(encode(text)) != list(ids)]
                # transformers converts a lone `.model` in its own way.
                own = written == "folder" and not (out / "tokenizer.json").exists()
                failed |= bool(wrong) and not own and (name, written) not in KNOWN
                print(f"{name} -> {written}: {len(wrong)} of {COUNT} differ" + (f", first {wrong[0]!r}" if wrong else ""), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
