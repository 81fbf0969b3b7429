"""Records how lm-eval asks ten subjects of each benchmark of ../shared, as hashes, and what SmolLM2 says to some of it in float32.

    python lm_eval_smollm2.py ../shared/data/benchmarks FOLDER

FOLDER is what `danlu convert SmolLM2-135M-Instruct.Q4_1.gguf FOLDER --dtype f32` writes: the file's own values.

crates/eval/tests/golden/lm_eval_smollm2.json
    [{"benchmark", "subject", "shots", "prompts": [sha256 of the prompt in UTF-8 of each of the first questions, no chat template],
      "answers": [{"log_likelihoods": [4 of 4 decimals], "chosen", "right"} of as many of them from the first on as were asked]}]
"""

import hashlib
import sys
from pathlib import Path

from of_lm_eval import answers, backend, prompts, tasks
from recording import EVAL_GOLDEN, write_json

SUBJECTS = {
    "ceval": ["accountant", "college_physics", "computer_network", "high_school_chinese", "law", "logic", "mao_zedong_thought",
              "metrology_engineer", "middle_school_mathematics", "teacher_qualification"],
    "cmmlu": ["agronomy", "ancient_chinese", "chinese_driving_rule", "chinese_food_culture", "college_law", "electrical_engineering",
              "elementary_mathematics", "machine_learning", "traditional_chinese_medicine", "world_history"],
    "mmlu": ["abstract_algebra", "anatomy", "college_computer_science", "formal_logic", "global_facts", "high_school_geography",
             "machine_learning", "moral_scenarios", "philosophy", "us_foreign_policy"],
}
PROMPTS = 3
ASKED = {0: 3, 5: 1}


def main(data, folder):
    model, recorded = backend(folder, batch=1), []
    for benchmark, subjects in SUBJECTS.items():
        for shots, limit in ASKED.items():
            found = answers(model, benchmark, Path(data) / benchmark, subjects, shots, limit=limit)
            for task, (subject, of_subject) in zip(tasks(benchmark, Path(data) / benchmark, subjects), found.items(), strict=True):
                recorded.append({
                    "benchmark": benchmark, "subject": subject, "shots": shots,
                    "prompts": [hashlib.sha256(prompt.encode()).hexdigest() for prompt, *_ in prompts(task, shots, limit=PROMPTS)],
                    "answers": [{"log_likelihoods": [round(value, 4) for value in one["log_likelihoods"]],
                                 "chosen": one["chosen"], "right": one["right"]} for one in of_subject],
                })
    write_json(EVAL_GOLDEN / "lm_eval_smollm2.json", recorded)


if __name__ == "__main__":
    main(*sys.argv[1:])
