"""Records what Python's packages say of 200 pairs of texts, Chinese, English and code, ordinary and odd.

crates/eval/tests/golden/metrics.json: {"cases": [{"reference", "prediction", "classes", "scores": {name: number}}],
    "corpora": {"13a": {"bleu", "chrf"}, "zh": {"bleu", "chrf"}}, "words": [[text, [word, ...]]], "tokenized": [[text, 13a, zh]]}

A corpus is all cases in their order. python-Levenshtein must not be installed: `fuzzywuzzy` uses it where it is there, and LongBench does
not ask for it. The scores of LongBench are written here from the definitions in its `metrics.py`; scores of the original are in a test
beside the recorded ones. `rouge` calls itself: as deep as it may when LongBench's `eval.py` calls it on Python 3.11.
"""

import json
import random
import re
import string
import sys
import warnings
from collections import Counter
from pathlib import Path

warnings.filterwarnings("ignore")

import jieba
import rouge
import rouge_chinese
import sacrebleu
from fuzzywuzzy import fuzz
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

GOLDEN = Path(__file__).resolve().parents[2] / "crates/eval/tests/golden/metrics.json"
CASES = 200
# Frames on the stack above `Rouge.get_scores` in LongBench's script: the module, `scorer`, `rouge_score`; for Chinese `rouge_zh_score` too.
FRAMES = {"rouge": 3, "rouge_zh": 4}
RECURSION_LIMIT = 1000
CHINESE_PUNCTUATION = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."

jieba.setLogLevel(60)


def depth():
    frame, count = sys._getframe(1), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


def rouge_l(prediction, answer, frames):
    """ROUGE-L of `rouge`, with as much of the stack as LongBench's script leaves."""
    try:
        sys.setrecursionlimit(RECURSION_LIMIT + depth() - frames)
        return rouge.Rouge().get_scores([prediction], [answer], avg=True)["rouge-l"]["f"]
    except (RecursionError, ValueError):
        return 0.0
    finally:
        sys.setrecursionlimit(100_000)


def cut(text):
    return list(jieba.cut(text, cut_all=False))


def f1(prediction, answer):
    common = sum((Counter(prediction) & Counter(answer)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def qa_words(text):
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def qa_words_zh(text):
    left_out = set(string.punctuation + CHINESE_PUNCTUATION)
    words = ("".join("".join(c for c in word.lower() if c not in left_out).split()) for word in cut(text))
    return [word for word in words if word]


def numbers_equal(prediction, number):
    numbers = re.findall(r"\d+", prediction)
    return sum(found == number for found in numbers) / len(numbers) if numbers else 0.0


def retrieval(prediction, answer, pattern):
    found = re.findall(pattern, answer)
    return numbers_equal(prediction, found[0]) if found else 0.0


def code_similarity(prediction, answer):
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return fuzz.ratio(line, answer) / 100


def classification(prediction, answer, classes):
    named = [name for name in classes if name in prediction]
    for name in named:
        if name in answer and name != answer:
            named.remove(name)
    return 1.0 / len(named) if answer in named else 0.0


def rouge_of_words(prediction, answer):
    """As LLaMA-Factory calls it."""
    prediction, answer = " ".join(cut(prediction)), " ".join(cut(answer))
    if not prediction.split() or not answer.split():
        return {name: {"f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    return rouge_chinese.Rouge().get_scores(prediction, answer)[0]


def scores(prediction, answer, classes):
    of_words = rouge_of_words(prediction, answer)
    smoothing = SmoothingFunction().method3
    return {
        "bleu_4": sentence_bleu([list(answer)], list(prediction), smoothing_function=smoothing),
        "rouge_1": of_words["rouge-1"]["f"],
        "rouge_2": of_words["rouge-2"]["f"],
        "rouge_l": of_words["rouge-l"]["f"],
        "chrf": sacrebleu.corpus_chrf([prediction], [[answer]]).score,
        "bleu_13a": sacrebleu.corpus_bleu([prediction], [[answer]], tokenize="13a").score,
        "bleu_zh": sacrebleu.corpus_bleu([prediction], [[answer]], tokenize="zh").score,
        "fuzzy_ratio": fuzz.ratio(prediction, answer),
        "qa_f1": f1(qa_words(prediction), qa_words(answer)),
        "qa_f1_zh": f1(qa_words_zh(prediction), qa_words_zh(answer)),
        "rouge": rouge_l(prediction, answer, FRAMES["rouge"]),
        "rouge_zh": rouge_l(" ".join(cut(prediction)), " ".join(cut(answer)), FRAMES["rouge_zh"]),
        "retrieval": retrieval(prediction, answer, r"Paragraph (\d+)"),
        "retrieval_zh": retrieval(prediction, answer, r"段落(\d+)"),
        "count": numbers_equal(prediction, answer),
        "code_sim": code_similarity(prediction, answer),
        "classification": classification(prediction, answer, classes),
    }


CHINESE = [
    "车削是工件旋转作主运动、车刀移动作进给运动的切削加工方法。",
    "铣刀是多刃刀具，每个刀齿只在一段弧上切削，因此切削力是断续的。",
    "切削速度每分钟120米，主轴转速约为每分钟955转！你同意吗？他说：“同意。”然后离开了。",
    "热处理后硬度达到HRC58-62，变形量控制在0.02mm以内。",
    "我们在北京大学的实验室里用扫描电镜观察了磨损表面的形貌",
    "丝杠螺母副的预紧力过大会发热，过小则产生反向间隙；应按说明书调整。",
    "会议讨论了年度预算问题，王芳和李建国分别作了发言。",
    "注塑件出现缩痕，多半是保压不足或冷却时间太短造成的……需要逐项排查。",
    "長江後浪推前浪，一代新人換舊人。",
    "他来到了网易杭研大厦，小明硕士毕业于中国科学院计算所。",
]
ENGLISH = [
    "The lathe turns the workpiece while the tool moves along the bed.",
    "A cutting speed of 120 m/min gives about 955 rpm; is that the limit? It's fine.",
    "Paragraph 12 tells how an engineer measured the wear of the tool. The result was clear.",
    "Don't use coolant with ceramic inserts - they may crack (thermal shock), says the U.S. handbook.",
    "state-of-the-art machines cost $1,250,000.50 & more",
    "Quality control found 3 defects in 1,000 parts, i.e. 0.3%.",
    "the cat is on the mat",
]
CODE = [
    "return x + 1",
    "def area(width, height):\n    # both in mm\n    return width * height",
    "for (int i = 0; i < n; ++i) { sum += values[i]; } // total",
    "```python\nspindle = 1000 * speed / (math.pi * diameter)\n```",
    "if error > tolerance and not stopped: raise ValueError(f\"out of tolerance: {error:.3f}\")",
]

# Prediction, reference.
ODD = [
    ("", ""), ("", "车床"), ("车床", ""), (" ", " "), ("\n", "\n"), (" \t\n", "a"), ("\u3000", "\u3000车\u3000"),
    ("。", "。"), ("。。。", "。"), ("...", "."), ("., .", "a. b"), ("a. . b", "a b"), ("!?", "?!"), ("，、；", "，"),
    ("“好。”他说", "“好。”她说"), ("好！？”“对", "好！”对"), ("……好", "…好"), ("等......等", "等......又等"), ("等……等", "等……又等"),
    ("😀", "😀"), ("😀😃", "😃😀"), ("👩‍🔧修车", "👨‍🔧修车"), ("车 👍🏽 床", "车床👍"),
    ("the", "a"), ("The answer is Paris, France.", "Paris"), ("an apple a day", "the apple: a day!"), ("_a_ the_ an", "_a_ an"),
    ("é a è", "e"), ("naïve café", "NAÏVE CAFÉ"), ("İstanbul", "istanbul"), ("ΣΑΣ", "σας"), ("straße", "STRASSE"),
    ("答案是北京大学。", "北京大学"), ("会议讨论了预算问题", "会议讨论了年度预算问题"), ("the cat sat on the mat", "the cat is on the mat"),
    ("Paragraph 3 or 12", "Paragraph 12"), ("段落3和段落１２", "段落12"), ("段落12", "第段落 5，段落12"), ("12 12 13", "Paragraph 12 Paragraph 13"),
    ("There are 5 of 10", "5"), ("５", "5"), ("٣ 3 ३", "3"), ("1.5", "1"), ("²", "2"), ("none", "5"),
    ("# c\n```\nreturn x+1", "return x + 1"), ("\n\n  x = 1\ny", "  x = 1"), ("// a\n# b", "a"), ("`a`\n\nb", ""), ("return x", "return x"),
    ("a\nb\nc", "a\nb\nd"), ("行一。\n行二。", "行一。\n\n行二。"), ("一。\n\n \n二？\n", "一。二？"), ("a\r\nb", "a\nb"),
    ("a\x1cb\x1dc", "a b c"), ("a\x85b\xa0c", "a b c"), ("x y", "x\u2028y"),
    ("<skipped> &quot;hi&quot; &amp; &lt;b&gt;", "\"hi\" & <b>"), ("well-\nknown", "wellknown"), ("5-axis 3-2=1", "5 -axis 3 - 2 = 1"),
    ("1,000.5, .5 5.", "1,000.5,.5 5 ."), ("a.b,c", "a . b , c"), ("[x]{y}~`^", "[ x ] { y } ~ ` ^"), ("a/b@c:d;e", "a / b @ c : d ; e"),
    ("①②③㎡℃", "①②③m²°C"), ("ﬁne", "fine"), ("Ａ１，ｂ", "A1,b"), ("\u2001\u2014\u2a6d\u2a6e", "— \u2a6d"), ("\U00020000\U0002f800", "\U00020000"),
    ("⾀⿰㇀ㄅㆠ㈠㌀", "㈠⾀"), ("鿕鿿㐀", "鿿"), ("鿖鿗鿘铣鿙鿚", "鿖鿘"), ("㐀㐁㐂好㐃", "㐀㐁"), ("𠀀𠀁𠀂车", "𠀀车"), ("𠮷野家", "吉野家"), ("C++和C#、.NET", "C#和C++"), ("3.14%", "3.14"), ("GPT-4o_mini", "GPT 4o mini"),
    ("aaaa", "aa"), ("ab" * 150, "ba" * 120), ("x = 1; " * 40, "y = 1; " * 35 + "x"), ("切" * 250, "切" * 201 + "削"),
    (" ".join(f"w{n}" for n in range(495)), " ".join(f"v{n}" for n in range(494))),
    (" ".join(f"w{n}" for n in range(495)), " ".join(f"v{n}" for n in range(495))),
    (" ".join(f"w{n}" for n in range(495)), " ".join(f"v{n}" for n in range(496))),
    (" ".join(f"w{n}" for n in range(495)), " ".join(f"v{n}" for n in range(497))),
    (" ".join(f"w{n}" for n in range(496)), " ".join(f"v{n}" for n in range(493)) + " w3"),
    (" ".join(["磨"] * 600), " ".join(["磨"] * 700)), (" ".join(["磨"] * 995), " ".join(["磨"] * 989)), (" ".join(["磨"] * 995), " ".join(["磨"] * 991)),
    (" ".join(["磨"] * 995), " ".join(["磨"] * 990)), (" ".join(["磨"] * 995), " ".join(["磨"] * 992)),
    (" ".join(["g"] * 995), " ".join(["g"] * 989)), (" ".join(["g"] * 995), " ".join(["g"] * 990)),
    (" ".join(["g"] * 995), " ".join(["g"] * 991)), (" ".join(["g"] * 995), " ".join(["g"] * 992)),
]

# Prediction, reference, classes.
CLASSES = [
    ("娱乐新闻 体育", "体育", ["体育", "娱乐", "财经"]), ("体育", "体育", ["体育", "娱乐"]), ("足球", "体育", ["体育", "娱乐"]),
    ("体育新闻", "体育新闻", ["体育", "新闻", "体育新闻"]), ("体育新闻", "体育新闻", ["体育", "育新", "新闻", "体育新闻"]),
    ("体育新闻 体育", "体育新闻", ["体育", "体育", "体育新闻"]), ("Disease and medicine", "Disease", ["Disease", "and", "medicine"]),
    ("Type: Number", "Number", ["Number", "Type", "Num", "ber"]), ("", "体育", ["体育"]), ("体育", "体育", []), ("abc", "abc", ["a", "b", "c", "ab", "abc"]),
    ("Date\nQuestion: x", "Date", ["Date", "Question"]),
]


def changed(text, source):
    """The text with some of its words left out, doubled or changed for others."""
    words = cut(text)
    for _ in range(source.randint(1, 6)):
        place = source.randrange(len(words) + 1)
        kind = source.randrange(4)
        if kind == 0 and words:
            del words[place:place + source.randint(1, 3)]
        elif kind == 1:
            words[place:place] = words[:source.randint(1, 3)]
        elif kind == 2:
            words.insert(place, source.choice(["了", "不", " the ", "。", ". ", "7", "：", "\n", "🔧", "x_1", "加工中心"]))
        elif words:
            other = source.randrange(len(words))
            words[place % len(words)], words[other] = words[other], words[place % len(words)]
    return "".join(words)


def pairs():
    yield from ((prediction, answer, []) for prediction, answer in ODD)
    yield from CLASSES
    source = random.Random(8)
    texts = CHINESE + ENGLISH + CODE
    while True:
        text = source.choice(texts)
        longer = " ".join([text, source.choice(texts)]) if source.random() < 0.3 else text
        yield changed(longer, source), text, []


if __name__ == "__main__":
    sys.setrecursionlimit(100_000)
    jieba.initialize()
    cases = []
    for prediction, answer, classes in pairs():
        cases.append({"prediction": prediction, "reference": answer, "classes": classes,
                      "scores": scores(prediction, answer, classes)})
        if len(cases) == CASES:
            break
    predictions, answers = [case["prediction"] for case in cases], [case["reference"] for case in cases]
    # One text a case: a line break would part it.
    corpora = {
        name: {
            "bleu": sacrebleu.corpus_bleu(predictions, [answers], tokenize=name).score,
            "chrf": sacrebleu.corpus_chrf(predictions, [answers]).score,
        }
        for name in ("13a", "zh")
    }
    texts = sorted(set(predictions + answers), key=lambda text: (len(text), text))
    words = [[text, cut(text)] for text in texts if len(text) < 80]
    tokenizers = [sacrebleu.metrics.bleu._get_tokenizer(name)() for name in ("13a", "zh")]
    tokenized = [[text, *(tokenizer(text) for tokenizer in tokenizers)] for text in texts if len(text) < 80]
    lines = ",\n".join(f" {json.dumps(case, ensure_ascii=False)}" for case in cases)
    rows = [",\n".join(f" {json.dumps(row, ensure_ascii=False)}" for row in table) for table in (words, tokenized)]
    text = (f'{{"cases": [\n{lines}\n],\n"corpora": {json.dumps(corpora)},\n"words": [\n{rows[0]}\n],\n'
            f'"tokenized": [\n{rows[1]}\n]}}\n')
    GOLDEN.write_text(text, encoding="utf-8")
    print(f"{GOLDEN.name}: {len(cases)} cases, {len(text.encode())} bytes")
