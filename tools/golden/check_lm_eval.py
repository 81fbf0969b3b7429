"""Checks that danlu asks and answers multiple choice as lm-eval does: every prompt, every log-likelihood, every chosen letter.

    python check_lm_eval.py --danlu DANLU --model FOLDER --benchmark ceval --data ../shared/data/benchmarks/ceval --subjects law,logic \\
        [--shots 5] [--chat | --one-turn] [--limit 20] [--threads 2]

FOLDER is a Hugging Face folder, which both read in float32: lm-eval with its transformers backend. Prompts are compared byte for byte,
the four log-likelihoods within 1e-3, and the chosen letter, acc and acc_norm of each question. A letter may differ where two
log-likelihoods of lm-eval are nearer than that; such questions are counted. --chat asks in the model's own chat template with examples as
earlier turns, lm-eval's default there, --one-turn with all in one message. Without --subjects all are asked that the folder has.

`--benchmark mcq` and `mcq-text` ask questions of one's own in C-Eval's layout, such as those of `danlu quickstart`, by the letter and by
the option's text, whose log-likelihood is then divided by its length (acc_norm). In a chat lm-eval adds to each option the
log-likelihood of the line break that the template writes before an answer, danlu does not: there the four may differ by one number, and
acc is compared alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from of_lm_eval import OWN, all_subjects, answers, backend

TOLERANCE = 1e-3


def of_danlu(given, subjects, out):
    """danlu's questions by subject, in their order, and the object on its last line."""
    scoring = "text" if given.benchmark == "mcq-text" else "lm-eval"
    command = [given.danlu, "eval", given.benchmark.removesuffix("-text"), "--scoring", scoring, "--model", given.model, "--data", given.data, "--shots", str(given.shots),
               "--subject", *subjects, "--precision", "f32", "--threads", str(given.threads), "--output-dir", str(out),
               "--log-samples", "--json", "--chat" if given.chat or given.one_turn else "--raw"]
    if given.one_turn:
        command.append("--one-turn")
    if given.limit:
        command += ["--limit", str(given.limit)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    questions = {}
    for line in (out / "take0/questions.jsonl").read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        questions.setdefault(question["subject"], []).append(question)
    for of_subject in questions.values():
        of_subject.sort(key=lambda question: question["index"])
    return questions, json.loads(ran.stdout.splitlines()[-1])


def share(values):
    return sum(values) / len(values)


class Tally:
    """What was compared, and what differed. With `up_to_a_number` the log-likelihoods of a question may all differ by the same."""

    def __init__(self, up_to_a_number):
        self.up_to_a_number = up_to_a_number
        self.questions, self.furthest, self.near_ties, self.differences = 0, 0.0, 0, []

    def compare(self, subject, mine, theirs):
        where = f"{subject} {theirs['index']}"
        self.questions += 1
        if mine["prompt"] != theirs["prompt"]:
            at = next((place for place, pair in enumerate(zip(mine["prompt"], theirs["prompt"])) if pair[0] != pair[1]), -1)
            self.differences.append(f"{where}: prompts differ from character {at} on: {mine['prompt'][at:at + 40]!r} "
                                    f"against {theirs['prompt'][at:at + 40]!r}")
        distances = [one - other for one, other in zip(mine["log_likelihoods"], theirs["log_likelihoods"], strict=True)]
        distance = max(abs(one - (distances[0] if self.up_to_a_number else 0)) for one in distances)
        self.furthest = max(self.furthest, distance)
        if distance > TOLERANCE:
            self.differences.append(f"{where}: log-likelihoods {mine['log_likelihoods']} against {theirs['log_likelihoods']}")
        if mine["right"] != theirs["right"]:
            self.differences.append(f"{where}: {mine['right']} is right against {theirs['right']}")
        if mine["most_likely"] != theirs["chosen"]:
            first, second, *_ = sorted(theirs["log_likelihoods"], reverse=True)
            if first - second < TOLERANCE:
                self.near_ties += 1
            else:
                self.differences.append(f"{where}: {mine['most_likely']} is most likely against {theirs['chosen']}")
        elif theirs["acc"] != float(mine["most_likely"] == mine["right"]):
            self.differences.append(f"{where}: {mine['most_likely']} is most likely against acc {theirs['acc']}")
        elif not self.up_to_a_number and theirs["acc_norm"] not in (None, float(mine["correct"])):
            self.differences.append(f"{where}: correct is {mine['correct']} against acc_norm {theirs['acc_norm']}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("danlu", "model", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--benchmark", required=True, choices=["ceval", "cmmlu", "mmlu", *OWN])
    parser.add_argument("--subjects")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--one-turn", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    there = {file.stem.removesuffix("_dev") for file in (Path(given.data) / "dev").glob("*.csv")}
    subjects = given.subjects.split(",") if given.subjects else [name for name in all_subjects(given.benchmark, given.data) if name in there]
    with tempfile.TemporaryDirectory() as folder:
        mine, summary = of_danlu(given, subjects, Path(folder) / "out")
    form = "chat-one-turn" if given.one_turn else "chat" if given.chat else "raw"
    theirs = answers(backend(given.model), given.benchmark, given.data, subjects, given.shots, form, given.limit)
    tally = Tally(given.benchmark == "mcq-text" and form != "raw")
    for subject in subjects:
        one, other = mine.get(subject, []), theirs[subject]
        if len(one) != len(other):
            tally.differences.append(f"{subject}: {len(one)} questions against {len(other)}")
        for pair in zip(one, other):
            tally.compare(subject, *pair)
        right = [question["most_likely"] == question["right"] for question in one]
        print(f"{subject}: {len(other)} questions, acc {share(right):.4f} and {share([question['acc'] for question in other]):.4f} of lm-eval")
    print("\n".join(tally.differences))
    print(json.dumps({
        "benchmark": given.benchmark, "shots": given.shots, "form": form, "questions": tally.questions,
        "accuracy": summary["accuracy"],
        **{name: share([question[name] or 0 for of_subject in theirs.values() for question in of_subject]) for name in ("acc", "acc_norm")},
        "furthest_log_likelihood": tally.furthest, "near_ties": tally.near_ties, "differences": len(tally.differences),
    }))
    return not tally.differences


if __name__ == "__main__":
    sys.exit(not main())
