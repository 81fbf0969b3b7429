"""Records a tiny random Llama with a vocabulary of its own, which is asked the questions of crates/eval/tests/golden/questions.

crates/eval/tests/golden/tiny/
    config.json, generation_config.json, model.safetensors (float32): as transformers saves them
    tokenizer.json, tokenizer_config.json: byte-level BPE trained on the questions, `<s>` before raw text, ChatML as chat template

Its weights are wide enough that no two letters are equally likely. It knows nothing.
"""

import json
import shutil

import torch
from recording import EVAL_GOLDEN, generator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL.index("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)])
    return tokenizer


def main():
    folder = EVAL_GOLDEN / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    files = sorted((EVAL_GOLDEN / "questions").rglob("*.csv"))
    texts = [file.read_text(encoding="utf-8").replace(",", "\nA. ") + "\n答案： A\nAnswer: B" for file in files]
    tokenizer = vocabulary(texts)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=1,
        eos_token_id=4, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32",
    )
    model, source = LlamaForCausalLM(config), generator(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.copy_(1.0 + 0.1 * noise if name.endswith("norm.weight") else 0.3 * noise)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "bos_token": "<s>", "eos_token": "<|im_end|>",
        "unk_token": "<unk>", "pad_token": "</s>", "clean_up_tokenization_spaces": False, "model_max_length": 4096,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    for file in sorted(folder.iterdir()):
        print(f"{file.name}  {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
