"""Record what transformers' own Jinja renders for danlu's built-in templates and these conversations: hashes of the texts.

    python tools/golden/chat_templates.py > crates/tokenizer/tests/golden/chat_templates.json

The templates come from `cargo run -p danlu-tokenizer --example builtin_templates`, so that the golden file fails when a
template changes. Needs: transformers (recorded with 5.x), jinja2.
"""

import hashlib
import json
import subprocess
import sys

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

CONVERSATIONS = {
    "one question": [{"role": "user", "content": "铝合金的密度是多少？"}],
    "question and answer": [
        {"role": "user", "content": "介绍一下数控加工："},
        {"role": "assistant", "content": "数控加工用程序控制机床。\n\n它的公差小。"},
    ],
    "system and two turns": [
        {"role": "system", "content": "你是一名工艺工程师。"},
        {"role": "user", "content": "What is extrusion?"},
        {"role": "assistant", "content": "  Pressing <b>plastic</b> & \"metal\" through a die. 🏭 "},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
        {"role": "assistant", "content": "</s>'\\n"},
    ],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def main() -> None:
    command = ["cargo", "run", "--quiet", "-p", "danlu-tokenizer", "--example", "builtin_templates"]
    templates = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    cases = []
    for name, source in templates.items():
        texts = []
        for messages in CONVERSATIONS.values():
            for prompt in (False, True):
                try:
                    rendered, _ = render_jinja_template(
                        conversations=[messages], chat_template=source, add_generation_prompt=prompt, **TOKENS
                    )
                    texts.append(hashlib.sha256(rendered[0].encode()).hexdigest()[:16])
                except TemplateError:
                    texts.append(None)
        cases.append({"template": name, "texts": texts})
    json.dump({"conversations": CONVERSATIONS, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()
