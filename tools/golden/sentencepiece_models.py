"""Records small sentencepiece models and what they make of texts: crates/tokenizer/tests/golden/sentencepiece/.

    python sentencepiece_models.py

Four models are trained: `bpe` (bytes, user-defined pieces, a normalization of its own, extra spaces kept), `ties` (the
pieces of `bpe` and more of one score, as vocabularies are extended), `unused` (some pieces of `bpe` unused) and `unigram`
(no bytes, user-defined pieces, extra spaces removed). `ids.json` has the ids of some hundred texts under each.
Needs `sentencepiece` and `protobuf`.
"""

import io
import json
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from recording import ROOT

FOLDER = ROOT / "crates/tokenizer/tests/golden/sentencepiece"
CORPUS = [
    "车削是在车床上加工回转表面的方法。铣刀是多刃刀具，每个刀齿只在一段弧上切削。",
    "磨削温度可以达到上千摄氏度。工件装夹的第一条原则是定位可靠。",
    "The lathe turns the workpiece; the tool cuts it. 12.5 mm at 1200 rpm, isn't it?",
    "数控加工是用数字控制的机床加工零件。数控机床的主轴转速是 1200 转每分钟。",
    "aaa aaaa aa aaaaa banana bandana ananas",
]
# What is replaced: single characters, several by one, one by several, one by nothing.
RULES = [("Ａ", "A"), ("，", ","), ("ﬁ", "fi"), ("\u3000", " "), ("e\u0301", "é"), ("\u200b", ""), ("①②", "12"), ("①", "1")]
PIECES = ["\n", "\t", "<h2>", "<h2", "数控机"]
TEXTS = [
    "", " ", "  ", "a", " a", "a ", "  a  b  ", "aaaaaaaaaa", "ＡＡ，ﬁ\u3000①②①", "e\u0301\u200b", "\u200b",
    "x<h2>y<h2z", "数控机床数控 机\n\t\n", "<s>a</s><unk><0x41>", "▁ ▁▁a", "😀龘𰻝", "a😀😀b龘 龘", "\u0000\u00a0",
]


def train(name, **options):
    """The model and its processor."""
    lines = io.StringIO("\n".join(CORPUS * 4))
    rules = FOLDER / "rules.tsv"
    text = "".join(
        " ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n" for old, new in RULES
    )
    rules.write_text(text, encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines.read().split("\n")), model_writer=model, normalization_rule_tsv=str(rules),
        user_defined_symbols=PIECES, minloglevel=2, num_threads=1, **options,
    )
    rules.unlink()
    return model.getvalue()


def texts():
    """Fixed texts, and random ones of the characters that matter."""
    choose = random.Random(7)
    alphabet = list("abnlthe  \u3000，。车削数控机床加工Ａﬁ①②\n\t") + ["<h2>", "<s>", "😀", "e\u0301", "▁", "\u200b"]
    made = ["".join(choose.choices(alphabet, k=choose.randrange(1, 30))) for _ in range(150)]
    return TEXTS + CORPUS + made


def main():
    """Writes the models and the ids."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    bpe = train("bpe", model_type="bpe", vocab_size=480, byte_fallback=True, remove_extra_whitespaces=False)
    models = {"bpe": bpe}
    extended = proto.ModelProto.FromString(bpe)
    known = {piece.piece for piece in extended.pieces}
    for piece in ["ana", "nan", "ban", "aaaa", "aa", "車", "床加", "加工零", "车床上", "▁banana", "the▁t"]:
        if piece not in known:
            extended.pieces.add(piece=piece, score=0.0, type=1)
    extended.normalizer_spec.add_dummy_prefix = False
    models["ties"] = extended.SerializeToString()
    unused = proto.ModelProto.FromString(bpe)
    for place, piece in enumerate(unused.pieces):
        if piece.type == 1 and len(piece.piece) > 1 and place % 3 == 0:
            piece.type = 5
    models["unused"] = unused.SerializeToString()
    models["unigram"] = train("unigram", model_type="unigram", vocab_size=150, hard_vocab_limit=False)
    recorded = {"texts": texts(), "ids": {}}
    for name, model in models.items():
        (FOLDER / f"{name}.model").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        recorded["ids"][name] = [processor.encode(text) for text in recorded["texts"]]
    (FOLDER / "ids.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
