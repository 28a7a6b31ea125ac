"""Tiny causal language models of every family, with a tokenizer and the chat template of its instruct models."""

import copy

from tiny import CONFIGS, widen
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

HEADERS = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
TEMPLATES = {
    "llama": "{{ bos_token }}" + HEADERS,
    "mistral": "{{ bos_token }}{% for message in messages %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% endfor %}",
    "qwen2": CHATML,
    "qwen3": CHATML,
    "gemma3": "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "base": None,
}
CONTROL = ["<bos>", "<eos>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"]
CONTROL += ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<start_of_turn>", "<end_of_turn>"]
MERGES = [("g", "o"), ("o", "d"), ("go", "od"), ("b", "a"), ("ba", "d"), ("Ġ", "bad"), ("Ġ", "good")]


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Bytes, a few merges and the control tokens of all families."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in MERGES:
        vocabulary[left + right] = len(vocabulary)
    built = Tokenizer(models.BPE(vocabulary, MERGES))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(CONTROL)
    fast = PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")
    fast.chat_template = TEMPLATES[family]
    return fast


def language_model(family: str) -> PreTrainedModel:
    """Three layers, hidden size 32, weights large enough that every token matters."""
    config = copy.deepcopy(CONFIGS["llama" if family == "base" else family])
    config.update({"vocab_size": 300, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": None})
    model = AutoModelForCausalLM.from_config(config)
    widen(model, 0.2)
    return model.eval()
