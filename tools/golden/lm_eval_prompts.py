"""Records how lm-eval asks the questions of crates/eval/tests/golden/questions, and what the tiny model beside them says in float32.

    python lm_eval_prompts.py

crates/eval/tests/golden/lm_eval.json
    {"lm_eval": version,
     "descriptions": {benchmark: {subject: what stands before the questions}}: of all subjects that lm-eval has,
     "asked": [{"benchmark", "subject", "shots",
                "form": "raw" | "chat" (examples are earlier turns) | "chat-one-turn" (all is one message),
                "continuations": what is scored behind a prompt, from A to D,
                "before": what all prompts begin with,
                "questions": [{"after": the prompt's rest, "log_likelihoods": [4], "chosen", "right"}]}]}

A prompt is `before` and `after` joined. Needs `tiny_chooser.py` first, and the package `lm_eval`.
"""

import os.path

import lm_eval
from of_lm_eval import FORMS, all_subjects, answers, backend, settings
from recording import EVAL_GOLDEN, shortest, write_json


def descriptions(benchmark):
    return {task["dataset_kwargs"]["subject"]: task["description"] for task in settings(benchmark)["task"]}


def asked(model, benchmark, subjects, form, shots):
    found = answers(model, benchmark, EVAL_GOLDEN / "questions" / benchmark, subjects, shots, form)
    for subject, questions in found.items():
        before = os.path.commonprefix([question["prompt"] for question in questions])
        continuations = questions[0]["continuations"]
        assert all(question["continuations"] == continuations for question in questions)
        yield {
            "benchmark": benchmark, "subject": subject, "shots": shots, "form": form, "continuations": continuations, "before": before,
            "questions": [{
                "after": question["prompt"][len(before):], "log_likelihoods": [shortest(value) for value in question["log_likelihoods"]],
                "chosen": question["chosen"], "right": question["right"],
            } for question in questions],
        }


def main():
    model = backend(EVAL_GOLDEN / "tiny", batch=1)
    recorded = []
    for benchmark in ("ceval", "cmmlu", "mmlu"):
        files = sorted((EVAL_GOLDEN / "questions" / benchmark / "dev").glob("*.csv"))
        subjects = [file.stem.removesuffix("_dev") for file in files]
        assert set(subjects) <= set(all_subjects(benchmark))
        for form in FORMS:
            # Without examples both chat forms are the same.
            for shots in (0, 5) if form != "chat-one-turn" else (5,):
                recorded.extend(asked(model, benchmark, subjects, form, shots))
    write_json(EVAL_GOLDEN / "lm_eval.json", {
        "lm_eval": lm_eval.__version__,
        "descriptions": {benchmark: descriptions(benchmark) for benchmark in ("ceval", "cmmlu", "mmlu")},
        "asked": recorded,
    })


if __name__ == "__main__":
    main()
