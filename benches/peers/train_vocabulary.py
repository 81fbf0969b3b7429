#!/usr/bin/env python3
"""A vocabulary trained with sentencepiece or with Hugging Face's tokenizers on a text, and measured on another one.

Beside it: `danlu tokenizer train TEXT --type TYPE --vocab-size N --held-out HELD --template llama2 --json`. Both get the
normalization `identity` and write what is in no piece byte by byte. HF's byte-level BPE is given the pattern of Qwen2,
as danlu's vocabularies have it; HF's `bpe` is over characters, with spaces as sentencepiece has them. Needs
`pip install sentencepiece tokenizers`. Prints one JSON line last."""
import argparse, json, os, resource, tempfile, time

ap = argparse.ArgumentParser()
ap.add_argument("text", help="training text, or JSON lines with `text`")
ap.add_argument("--tool", choices=["sentencepiece", "hf"], required=True)
ap.add_argument("--type", choices=["byte-bpe", "bpe", "unigram"], required=True)
ap.add_argument("--vocab-size", type=int, default=6400)
ap.add_argument("--character-coverage", type=float, default=0.9995)
ap.add_argument("--held-out", help="text to measure on")
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(a.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "true"


def lines():
    with open(a.text, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"] if a.text.endswith(".jsonl") else line


QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
start = time.perf_counter()
if a.tool == "sentencepiece":
    import sentencepiece

    prefix = os.path.join(tempfile.mkdtemp(), "trained")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_prefix=prefix, vocab_size=a.vocab_size, model_type=a.type,
        character_coverage=a.character_coverage, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, num_threads=a.threads, minloglevel=2, train_extremely_large_corpus=True,
    )
    model = sentencepiece.SentencePieceProcessor(prefix + ".model")
    encode = lambda text: len(model.encode(text))
else:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    if a.type == "byte-bpe":
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=a.vocab_size, special_tokens=special, show_progress=False, min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    else:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        characters = {}
        for line in lines():
            for character in line.rstrip("\n"):
                characters[character] = characters.get(character, 0) + 1
        total, seen, kept = sum(characters.values()), 0, set()
        for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
            if seen / total >= a.character_coverage:
                break
            seen += count
            kept.add(character)
        if a.type == "bpe":
            model = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
            trainer = trainers.BpeTrainer(
                vocab_size=a.vocab_size, special_tokens=special, show_progress=False, limit_alphabet=len(kept), max_token_length=16
            )
        else:
            model = Tokenizer(models.Unigram(byte_fallback=True))
            trainer = trainers.UnigramTrainer(vocab_size=a.vocab_size, special_tokens=special, show_progress=False, unk_token="<unk>")
        model.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.UnicodeScripts()])
    model.train_from_iterator((line.rstrip("\n") for line in lines()) if a.type != "byte-bpe" else lines(), trainer)
    encode = lambda text: len(model.encode(text, add_special_tokens=False))
seconds = time.perf_counter() - start
result = {"tool": a.tool, "type": a.type, "vocab_size": a.vocab_size, "seconds": round(seconds, 2)}
result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
if a.held_out:
    with open(a.held_out, encoding="utf-8") as file:
        held = file.read().splitlines(keepends=a.type == "byte-bpe")
    result["tokens_per_character"] = sum(map(encode, held)) / sum(map(len, held))
print(json.dumps(result))
