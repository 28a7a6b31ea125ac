"""Tiny classifiers of every family, built from configs: three layers, hidden size 32, nothing downloaded.

Their weights are large (deviation 0.3), so that a wrong formula moves the logits: with the 0.02 of the library even an
FFN that is left out would pass.
"""

import copy
import inspect

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from sentimoe import MoEConfig, upcycle
from sentimoe.upcycle import moe_layers, with_mean_head

D, F, C, PAD = 32, 48, 3, 1  # MPNet counts positions from id 1, whatever its config says
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}

COMMON = {
    "vocab_size": 99,
    "hidden_size": D,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": F,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
}
DECODER = COMMON | {"num_key_value_heads": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**COMMON),
    "roberta": RobertaConfig(**COMMON),
    "xlm-roberta": XLMRobertaConfig(**COMMON),
    "distilbert": DistilBertConfig(
        vocab_size=99, dim=D, n_layers=3, n_heads=4, hidden_dim=F, max_position_embeddings=64, pad_token_id=PAD
    ),
    "mpnet": MPNetConfig(**COMMON),
    "electra": ElectraConfig(**COMMON, embedding_size=16),
    "deberta-v2": DebertaV2Config(
        **COMMON, relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"]
    ),
    "modernbert": ModernBertConfig(
        **COMMON, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, local_attention=8, mlp_dropout=0.1
    ),
    "nomicbert": NomicBertConfig(**COMMON),
    "gpt2": GPT2Config(
        vocab_size=99,
        n_embd=D,
        n_layer=3,
        n_head=4,
        n_inner=F,
        n_positions=64,
        pad_token_id=PAD,
        bos_token_id=0,
        eos_token_id=2,
    ),
    "llama": LlamaConfig(**DECODER),
    "mistral": MistralConfig(**DECODER, sliding_window=6),
    "qwen2": Qwen2Config(**DECODER),
    "qwen3": Qwen3Config(**DECODER, head_dim=8),
    "gemma3": Gemma3TextConfig(**DECODER, head_dim=8, sliding_window=6),
}
FAMILIES = list(CONFIGS)
NATIVELY_GATED = {"modernbert", "nomicbert", "llama", "mistral", "qwen2", "qwen3", "gemma3"}
PLAIN_FFN = [family for family in FAMILIES if family not in NATIVELY_GATED]
MEAN = [f"{family}-mean" for family in ("bert", "mpnet", "distilbert", "modernbert", "nomicbert", "gpt2", "llama")]
CASES = [*FAMILIES, *MEAN]  # with the family's own head; with mean pooling


def widen(model: nn.Module, std: float = 0.3) -> None:
    """Make every weight large enough to be seen in the logits, biases and norms too."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def dense(case: str = "bert", dtype: torch.dtype = torch.float32, **changes) -> PreTrainedModel:
    """A dense classifier in evaluation mode; `case` is a family, or `family-mean` for the mean-pooling head."""
    config = copy.deepcopy(CONFIGS[case.removesuffix("-mean")])
    config.update(LABELS | changes)
    if case.endswith("-mean"):
        body_class = AutoModel._model_mapping[type(config)]
        pooler = "add_pooling_layer" in inspect.signature(body_class.__init__).parameters
        body = body_class._from_config(config, dtype=dtype, **({"add_pooling_layer": False} if pooler else {}))
        model = with_mean_head(body, LABELS)
    else:
        # not .to(dtype), which would round the rotary frequencies: from_pretrained keeps them in float32
        model = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    widen(model)
    return model.eval()


def sparse(case: str = "bert", dtype: torch.dtype = torch.float32, changes: dict | None = None, **moe):
    """A converted classifier whose experts differ, whose gates are not the identity and whose router is decided."""
    return scatter(upcycle(dense(case, dtype, **(changes or {})), MoEConfig(**moe)))


def scatter(model: PreTrainedModel) -> PreTrainedModel:
    """Move every expert, gate and router away from where the conversion put it."""
    with torch.no_grad():
        for moe in moe_layers(model):
            moe.router.weight.normal_(std=0.3)
            for parameter in moe.experts.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def texts(*lengths: int) -> list[torch.Tensor]:
    """Random ids without padding or special tokens."""
    return [torch.randint(5, 99, (length,)) for length in lengths]


def batch(rows: list[torch.Tensor], extra: int = 0, left: bool = False) -> dict[str, torch.Tensor]:
    """Pad to the longest text plus `extra` columns."""
    width = max(map(len, rows)) + extra
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, text in enumerate(rows):
        where = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, where], mask[row, where] = text, 1
    return {"input_ids": ids, "attention_mask": mask}
