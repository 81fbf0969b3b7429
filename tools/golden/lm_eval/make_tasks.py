"""Writes ceval.yaml, cmmlu.yaml and mmlu.yaml beside this: lm-eval's own tasks, asked of files on this disk.

    python make_tasks.py

Read from the installed lm_eval package: every subject's description and what the tasks of a benchmark have in common, unchanged but for
the data, which `tables.py` reads instead of a hub. Names of tasks and subjects are those of the package.
"""

from pathlib import Path

import lm_eval.tasks
import yaml

HERE = Path(__file__).resolve().parent
PACKAGE = Path(lm_eval.tasks.__file__).parent
# Folder of the package, file that its tasks include, beginning of the tasks' names.
BENCHMARKS = {
    "ceval": ("ceval", "_default_ceval_yaml", "ceval-valid_"),
    "cmmlu": ("cmmlu", "_default_template_yaml", "cmmlu_"),
    "mmlu": ("mmlu/default", "_default_template_yaml", "mmlu_"),
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def group(benchmark):
    folder, common, prefix = BENCHMARKS[benchmark]
    settings = read(PACKAGE / folder / common)
    version = settings.pop("metadata")["version"]
    assert "!function" not in str(settings) and settings.pop("dataset_path")
    tasks = []
    for path in sorted((PACKAGE / folder).glob(f"{prefix}*.yaml")):
        task = read(path)
        assert task["include"] == common and task["task"] == prefix + task["dataset_name"], path
        unknown = set(task) - {"dataset_name", "description", "include", "task", "task_alias", "tag"}
        assert not unknown, f"{path}: {unknown} would be lost"
        tasks.append({"task": task["task"], "description": task["description"], "dataset_kwargs": {"subject": task["dataset_name"]}})
    of_acc = [{"metric": metric["metric"], "aggregation": "mean", "weight_by_size": True} for metric in settings["metric_list"]]
    return {"group": f"local-{benchmark}", "metadata": {"version": version}, "aggregate_metric_list": of_acc, **settings,
            "custom_dataset": f"!function tables.{benchmark}", "task": tasks}


def main():
    for benchmark in BENCHMARKS:
        text = yaml.safe_dump(group(benchmark), allow_unicode=True, sort_keys=False, width=1000)
        text = text.replace(f"'!function tables.{benchmark}'", f"!function tables.{benchmark}")
        path = HERE / f"{benchmark}.yaml"
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
