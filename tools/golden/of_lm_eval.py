"""What the scripts beside lm-eval ask of it: its tasks on files of this disk, their prompts, and a model's answers.

Compares nothing by itself. The tasks stand in lm_eval/; lm-eval runs as it is, with the network refused.
"""

import logging
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

TASKS = Path(__file__).resolve().parent / "lm_eval"
# How a prompt is asked: without a chat template, with examples as earlier turns (lm-eval's default), with all in one message.
FORMS = {"raw": {}, "chat": {"apply_chat_template": True, "fewshot_as_multiturn": True},
         "chat-one-turn": {"apply_chat_template": True, "fewshot_as_multiturn": False}}


# Questions of one's own in C-Eval's layout: by the letter, and by the option's text.
OWN = ("mcq", "mcq-text")


def settings(benchmark, data=None, form="raw"):
    """The YAML file of a benchmark; for questions of one's own that of C-Eval, with the folder's subjects."""
    if benchmark not in OWN:
        return load_yaml(TASKS / f"{benchmark}.yaml", resolve_func=True)
    group = load_yaml(TASKS / "ceval.yaml", resolve_func=True)
    names = sorted(file.stem.removesuffix("_dev") for file in (Path(data) / "dev").glob("*_dev.csv"))
    described = {task["dataset_kwargs"]["subject"]: task["description"] for task in group["task"]}
    description = "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n"
    group["task"] = [{"task": f"mcq_{name}", "description": described.get(name, description.format(name)),
                      "dataset_kwargs": {"subject": name}} for name in names]
    if benchmark == "mcq-text":
        group |= {"doc_to_text": "{{question.strip()}}" + ("\n答案：" if form == "raw" else ""), "target_delimiter": "",
                  "doc_to_choice": "{{[A.strip(), B.strip(), C.strip(), D.strip()]}}"}
        for task in group["task"]:
            del task["description"]
    return group


def all_subjects(benchmark, data=None):
    return [task["dataset_kwargs"]["subject"] for task in settings(benchmark, data)["task"]]


def subject_of(task):
    return task.config.dataset_kwargs["subject"]


def tasks(benchmark, data, subjects, form="raw"):
    """lm-eval's tasks of these subjects, in their order. `data` is the benchmark's folder."""
    group = settings(benchmark, data, form)
    known = {task["dataset_kwargs"]["subject"]: task for task in group["task"]}
    unknown = [subject for subject in subjects if subject not in known]
    if unknown:
        raise SystemExit(f"`{benchmark}` has no subject `{unknown[0]}`")
    shared = {name: value for name, value in group.items() if name not in ("group", "task", "aggregate_metric_list", "metadata")}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_defaults=False, metadata={"data": str(data)})
    found = manager.load([{**shared, **known[subject]} for subject in subjects])["tasks"].values()
    return sorted(found, key=lambda task: subjects.index(subject_of(task)))


def backend(folder, dtype=torch.float32, batch=8):
    """lm-eval's transformers backend on a Hugging Face folder, on the CPU."""
    return HFLM(pretrained=str(folder), dtype=dtype, device="cpu", batch_size=batch)


def every(asked, step):
    """The tasks that have one of each `step` questions of all, from the first on, and which of theirs these are."""
    chosen, before = {}, 0
    for task in asked:
        chosen[task.task_name] = [place for place in range(len(task.eval_docs)) if (before + place) % step == 0]
        before += len(task.eval_docs)
    return [task for task in asked if chosen[task.task_name]], chosen


def prompts(task, shots, form="raw", limit=None, model=None, samples=None):
    """The exact texts that lm-eval continues for a task's first questions, each with the four continuations and the right one's place."""
    task.set_config("num_fewshot", shots)
    template = model.apply_chat_template if model else None
    task.build_all_requests(limit=limit, samples=samples, chat_template=template, **FORMS[form])
    asked = {}
    for instance in task.instances:
        context, continuation = instance.args
        asked.setdefault(instance.doc_id, (context, [], task.doc_to_target(instance.doc)))[1].append(continuation)
    return [asked[place] for place in sorted(asked)]


def answers(model, benchmark, data, subjects, shots, form="raw", limit=None, step=1):
    """What lm-eval says to each question, by subject: prompt, log_likelihoods, chosen, right, acc and, where it has it, acc_norm."""
    asked, samples = tasks(benchmark, data, subjects, form), None
    if step > 1:
        asked, samples = every(asked, step)
    found = simple_evaluate(model=model, tasks=asked, num_fewshot=shots, limit=limit, samples=samples, bootstrap_iters=0,
                            log_samples=True, **FORMS[form])
    return {subject_of(task): [answer(sample) for sample in sorted(found["samples"][task.task_name], key=lambda one: one["doc_id"])]
            for task in asked}


def answer(sample):
    values = [float(one[0]) for one in sample["filtered_resps"]]
    arguments = sample["arguments"]
    pairs = [(one["arg_0"], one["arg_1"]) for one in arguments.values()] if isinstance(arguments, dict) else arguments
    assert len({context for context, _ in pairs}) == 1
    return {"index": sample["doc_id"], "prompt": pairs[0][0], "continuations": [pair[1] for pair in pairs],
            "log_likelihoods": values, "chosen": "ABCD"[max(range(4), key=values.__getitem__)], "right": "ABCD"[int(sample["target"])],
            "acc": sample["acc"], "acc_norm": sample.get("acc_norm")}
