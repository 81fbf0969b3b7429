"""Record what transformers' `apply_chat_template` makes of 20 conversations with the real templates of ../shared/data: the
hashes of the texts and of their ids, whole texts of a few, and where `{% generation %}` marks the assistant's tokens.

    python tools/golden/conversations.py ../shared/data > crates/tokenizer/tests/golden/conversation_renderings.json

The conversations are those of `crates/tokenizer/tests/golden/conversations.json`. A vocabulary that belongs to a template is not always
there; then the ids are those of another one with the same control tokens. Today's date, where a template
writes it, stands as `TODAY` in the hashed text. Needs: transformers (recorded with 5.x).
"""

import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path

from jinja2.exceptions import TemplateError, UndefinedError
from transformers import PreTrainedTokenizerFast

GOLDEN = Path(__file__).parents[2] / "crates/tokenizer/tests/golden"
# File, or folder with a tokenizer_config.json -> vocabulary that makes the ids.
TEMPLATES = {
    "chat-templates/HuggingFaceTB-SmolLM3-3B.jinja": "smollm",
    "chat-templates/Qwen-Qwen2.5-7B-Instruct.jinja": "minimind",
    "chat-templates/Qwen-Qwen3-0.6B.jinja": "minimind",
    "chat-templates/meta-llama-Llama-3.1-8B-Instruct.jinja": "llama3",
    "chat-templates/meta-llama-Llama-3.2-3B-Instruct.jinja": "llama3",
    "chat-templates/meta-llama-Llama-3.3-70B-Instruct.jinja": "llama3",
    "tokenizers/llama3": "llama3",
    "tokenizers/minimind": "minimind",
    "tokenizers/qwen3": "minimind",
    "tokenizers/smollm": "smollm",
}
# Variables, by the part of a template's name that they are also recorded for.
VARIABLES = {"Qwen3": {"enable_thinking": False}, "SmolLM3": {"enable_thinking": False}, "minimind": {"open_thinking": True}}
WHOLE = ["system and two turns", "tools, a call and its result"]
# The same format in three ways of writing it, with marks around what is learned.
MARKED = {
    "around the answer and its end": "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' %}{% generation %}{{- m.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "thought and text apart": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{%- generation -%}<think>{{ m.reasoning_content }}</think>{%- endgeneration -%}{{ '\\n' }}"
    "{% endif %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ m.content }}<|im_end|>{{ '\\n' }}{% endif %}{% endfor %}",
    "only the last answer": "{% for m in messages %}<|im_start|>{{ m.role }}{{ '\\n' }}{% if loop.last and m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main() -> None:
    data = Path(sys.argv[1])
    conversations = json.loads((GOLDEN / "conversations.json").read_text())
    # Not AutoTokenizer: the class that it chooses for GPT-2 vocabularies sets the pre-tokenizer of the file aside.
    tokenizers = {name: PreTrainedTokenizerFast.from_pretrained(data / "tokenizers" / name) for name in set(TEMPLATES.values())}
    recorded = []
    for path, vocabulary in TEMPLATES.items():
        file = data / path
        source = file.read_text() if file.is_file() else json.loads((file / "tokenizer_config.json").read_text())["chat_template"]
        tokenizer = tokenizers[vocabulary]
        variants = [{}] + [variables for part, variables in VARIABLES.items() if part in path]
        for variables in variants:
            results = []
            for conversation in conversations:
                for prompt in (False, True):
                    arguments = dict(
                        tools=conversation.get("tools"), chat_template=source, add_generation_prompt=prompt, **variables
                    )
                    try:
                        text = tokenizer.apply_chat_template(conversation["messages"], tokenize=False, **arguments)
                    except (TemplateError, UndefinedError, TypeError) as error:
                        results.append({"error": str(error)})
                        continue
                    ids = tokenizer.apply_chat_template(conversation["messages"], return_dict=True, **arguments)["input_ids"]
                    for form in ("%d %b %Y", "%d %B %Y"):
                        text = text.replace(datetime.now().strftime(form), "TODAY")
                    result = {"text": digest(text.encode())}
                    if "TODAY" not in text:
                        result["ids"] = digest(b"".join(id.to_bytes(4, "little") for id in ids))
                    if conversation["name"] in WHOLE and prompt and not variables and path.startswith("chat-"):
                        result["whole"] = text
                    results.append(result)
            recorded.append({"template": path, "vocabulary": vocabulary, "variables": variables, "results": results})
    masks = []
    tokenizer = tokenizers["minimind"]
    for name, source in MARKED.items():
        results = []
        for conversation in conversations:
            encoded = tokenizer.apply_chat_template(
                conversation["messages"], chat_template=source, return_dict=True, return_assistant_tokens_mask=True
            )
            mask = encoded["assistant_masks"]
            results.append({"tokens": len(mask), "trained": sum(mask), "mask": digest(bytes(mask))})
        masks.append({"name": name, "source": source, "vocabulary": "minimind", "results": results})
    json.dump({"renderings": recorded, "masks": masks}, sys.stdout, ensure_ascii=False, indent=None, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
