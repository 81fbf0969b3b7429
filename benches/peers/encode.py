#!/usr/bin/env python3
"""Encoding a corpus of JSON lines: HF tokenizers' `encode_batch` on 2 threads, or sentencepiece's `encode` (with its own threads), against
`danlu tokenizer encode --input`. Reading the rows is not timed; ids are not written. Prints one JSON line last."""
import argparse, json, os, resource, time

ap = argparse.ArgumentParser()
ap.add_argument("tokenizer", help="tokenizer.json, or a sentencepiece .model")
ap.add_argument("corpus", help="JSON lines with `text`")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--batch", type=int, default=10000)
a = ap.parse_args()

os.environ["RAYON_NUM_THREADS"] = str(a.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "true"
texts = [json.loads(line)["text"] for line in open(a.corpus, encoding="utf-8")]
size = sum(len(text.encode()) for text in texts)
if a.tokenizer.endswith(".model"):
    import sentencepiece
    peer, model = "sentencepiece", sentencepiece.SentencePieceProcessor(model_file=a.tokenizer)
    encode = lambda batch: sum(map(len, model.encode(batch, num_threads=a.threads)))
else:
    import tokenizers
    peer, model = "tokenizers", tokenizers.Tokenizer.from_file(a.tokenizer)
    encode = lambda batch: sum(len(one.ids) for one in model.encode_batch(batch, add_special_tokens=False))
encode(texts[:100])
start = time.perf_counter()
tokens = sum(encode(texts[at:at + a.batch]) for at in range(0, len(texts), a.batch))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"peer": peer, "tokens": tokens, "seconds": round(seconds, 3), "mb_per_s": round(size / 1e6 / seconds, 2),
                  "peak_rss_mb": peak}))
