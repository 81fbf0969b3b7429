"""Whether vocabularies that danlu writes give the same ids in sentencepiece, transformers, tokenizers and llama.cpp.

    python check_vocabularies.py ../target/release/danlu ../shared/data [NAME …]

Each vocabulary, and each that danlu makes of them by `tokenizer extend` and `tokenizer train`, is converted with
`danlu tokenizer convert` to a Hugging Face folder, `.json`, `.model` and `.gguf`, as far as its kind allows, and each of
these is loaded by the program it is for; of what danlu made, the folder as it was made is loaded in transformers too. The
ids of the first strings of `random_strings.py` must be those of the file that was converted. Where llama.cpp lacks a
normalization, it is given the normalized strings; where it treats missing bytes otherwise, those without. With names, only
those. Needs `sentencepiece`, `transformers`,
`llama-cpp-python` and `tiktoken`.
"""

import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

from random_strings import gguf_ids, json_ids, sentencepiece_ids, strings, tiktoken_ids

COUNT = 5_000
WORDS = ["数控铣床", "切削用量", "背吃刀量", " lathe tool", "挤出机组", "红楼梦", "the lathe", "——“"]
TRAINED = {
    "byte-bpe": [], "bpe": ["--type", "bpe"], "unigram": ["--type", "unigram"],
    "bpe without bytes": ["--type", "bpe", "--byte-fallback", "false"],
    "bpe normalized": ["--type", "bpe", "--normalization", "nmt_nfkc"],
}


def transformers_ids(folder):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    return lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def composed(text):
    """What a vocabulary of Qwen does first."""
    return unicodedata.normalize("NFC", text)


def normalized_by(path):
    """What the normalization of a `.model` does first, but for spaces; None where a second time it does more, or to nothing."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.escape_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    encode = sentencepiece_ids(path)

    def normalize(text):
        normal = processor.normalize(text)
        return normal if encode(normal) == encode(text) else None

    return normalize


def without_lost_bytes(path):
    """None for texts with a byte that the vocabulary lacks, around which llama.cpp joins nothing."""
    lost = {byte for byte, letter in alphabet().items() if letter not in json.loads(path.read_text())["model"]["vocab"]}
    return lambda text: None if lost & set(text.encode()) else text


def alphabet():
    """The letters that byte-level vocabularies write bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def made(danlu, data, folder):
    """Vocabularies that danlu makes: name, folder, reference."""
    tokenizers = data / "tokenizers"
    words = folder / "words.txt"
    words.write_text("\n".join(WORDS) + "\n")
    lone = folder / "llama2/tokenizer.model"
    lone.parent.mkdir()
    lone.write_bytes((tokenizers / "llama2/tokenizer.model").read_bytes())
    corpus = [data / "corpus/novels/红楼梦.txt", data / "datasets/llama-factory/wiki_demo.txt"]
    commands = {
        f"{base if isinstance(base, str) else 'llama2 alone'} + {new.parent.name if new and new.is_file() else new.name if new else 'words'}":
        ["extend", "--base", tokenizers / base if isinstance(base, str) else base, "--new", new or words]
        for base, new in [
            ("llama2", tokenizers / "chinese-llama-1/chinese_sp.model"),
            ("llama2", tokenizers / "chatglm2-3/tokenizer.model"),
            (lone, None),
            ("chatglm2-3/tokenizer.model", None), ("smollm", None), ("minimind", None), ("llama3", None),
            ("qwen/qwen.tiktoken", tokenizers / "minimind"), ("smollm", tokenizers / "minimind"),
        ]
    }
    for name, options in TRAINED.items():
        commands[f"trained {name}"] = ["train", *corpus, "--vocab-size", "6000", *options]
    for index, (name, command) in enumerate(commands.items()):
        out = folder / f"made-{index}"
        yield name, out, [danlu, "tokenizer", *command, "--out", out]


def reference_of(folder):
    """The ids by sentencepiece where it is sentencepiece's."""
    model = folder / "tokenizer.model"
    return sentencepiece_ids(model) if model.exists() else json_ids(folder / "tokenizer.json")


def main():
    """Prints a line for each file that was written."""
    danlu, data, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
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
    tokenizers = data / "tokenizers"
    # What llama.cpp does not do, done before it, for the vocabulary that stands at a path.
    before = {
        "baichuan-7b/tokenizer.model": normalized_by,
        "trained bpe normalized": lambda path: normalized_by(path / "tokenizer.model"),
        **{f"qwen/qwen.tiktoken{more}": lambda path: composed for more in ("", " + minimind")},
        **{f"smollm{more}": lambda path: without_lost_bytes(tokenizers / "smollm/tokenizer.json") for more in ("", " + words")},
    }
    texts = [text for text, _ in zip(strings(), range(COUNT))]
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(name, tokenizers / name, None, reference) for name, reference in sources.items()]
        jobs += [(name, out, command, reference_of) for name, out, command in made(danlu, data, Path(scratch))]
        wanted = [job for job in jobs if not names or job[0] in names]
        failed = sum([check(danlu, texts, before.get(job[0]), *job) for job in wanted])
    sys.exit(failed > 0)


def check(danlu, texts, before, name, path, command, reference):
    """The number of files of one vocabulary in which ids differ."""
    if command:
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    prepare = before and before(path)
    encode = reference(path)
    expected = [list(encode(text)) for text in texts]
    readers = {"folder": transformers_ids, "x.json": json_ids, "x.model": sentencepiece_ids, "x.gguf": gguf_ids}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        alone = path
        if path.is_file():
            # Without what lies beside it.
            alone = Path(folder) / "alone" / path.name
            alone.parent.mkdir()
            alone.write_bytes(path.read_bytes())
        if command and (path / "tokenizer.json").exists():
            failed += compare(f"{name}, as made", transformers_ids(path), texts, texts, expected)
        for written, reader in readers.items():
            out = Path(folder) / written
            done = subprocess.run([danlu, "tokenizer", "convert", alone, out], capture_output=True, text=True)
            if done.returncode:
                print(f"{name} -> {written}: refused: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            if written == "folder" and not (out / "tokenizer.json").exists():
                print(f"{name} -> {written}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            encode = reader(out)
            if written == "x.gguf" and prepare:
                plain = sum(list(encode(text)) != ids for text, ids in zip(texts, expected))
                print(f"{name} -> {written}: {plain} of {len(texts)} differ, as noted: {done.stderr.strip()}", flush=True)
                failed += compare(f"{name} -> {written}, prepared", encode, [prepare(text) for text in texts], texts, expected)
            else:
                failed += compare(f"{name} -> {written}", encode, texts, texts, expected)
    return failed


def compare(name, encode, given, texts, expected):
    """Whether any of the texts, as given, gets other ids."""
    tried = [(text, own, ids) for text, own, ids in zip(texts, given, expected) if own is not None]
    wrong = [text for text, own, ids in tried if list(encode(own)) != ids]
    print(f"{name}: {len(wrong)} of {len(tried)} differ" + (f", first {wrong[0]!r}" if wrong else ""), flush=True)
    return bool(wrong)


if __name__ == "__main__":
    main()
