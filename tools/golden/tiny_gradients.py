"""Records loss and gradients of one batch of three sequences of different lengths, on two of tiny_llama.py's models.

crates/model/tests/golden/gradients/{gqa-untied,mha-tied}.json:
    {"loss": number, "sequences": [{"ids": [T], "loss_weights": [T] of 0 and 1, "token_nll": [T - 1]}]}
    loss = sum of weight * nll / sum of weights over the batch, each sequence computed alone;
    `loss_weights[i]` and `token_nll[i - 1]` belong to the prediction of `ids[i]`
crates/model/tests/golden/gradients/{gqa-untied,mha-tied}.safetensors: the gradient of each parameter, float32, under
    the parameter's name (a tied head has none of its own: its part is in model.embed_tokens.weight)
"""

from safetensors.torch import save_file

from recording import MODEL_GOLDEN, batch_loss, generator, load_variant, random_ids, shortest, token_losses, write_json


def batch(source, vocab_size):
    """A prompt and its answer; text trained from its second id on; single trained ids with gaps."""
    loss_weights = [[0] * 5 + [1] * 4, [0] + [1] * 12, [0, 1, 0, 0, 1, 0]]
    return [{"ids": random_ids(source, len(row), vocab_size), "loss_weights": row} for row in loss_weights]


def record(variant, seed):
    model = load_variant(variant)
    sequences = batch(generator(seed), model.config.vocab_size)
    loss = batch_loss(model, sequences)
    loss.backward()
    for sequence in sequences:
        sequence["token_nll"] = shortest(token_losses(model, sequence["ids"]))
    write_json(MODEL_GOLDEN / f"gradients/{variant}.json", {"loss": shortest(loss), "sequences": sequences})
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    save_file(gradients, MODEL_GOLDEN / f"gradients/{variant}.safetensors")


if __name__ == "__main__":
    record("gqa-untied", 11)
    record("mha-tied", 12)
