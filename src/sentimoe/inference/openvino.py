"""The second backend: a classifier compiled by OpenVINO.

Experts stay sparse: they are exported in their `gathered` form, in which each one reads the rows that chose it.
"""

from __future__ import annotations

import copy
import json
import warnings
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import ConfigError, ConversionError
from ..upcycle import moe_layers

TOLERANCE = 1e-3
HINTS = {torch.bfloat16: "bf16", torch.float32: "f32"}


class OpenVINOClassifier:
    """Called like the model it was made from: `input_ids` and `attention_mask` `[B, L]` -> `.logits` `[B, C]`.

    config: `num_labels`, `id2label` and `label_type`, as of a model. device: the processor. Threads may share one.
    """

    def __init__(self, network: Any, dtype: torch.dtype):
        openvino = import_openvino()
        labels = json.loads(network.get_rt_info(["sentimoe", "labels"]).value)
        kind = ["sentimoe", "label_type"]
        label_type = network.get_rt_info(kind).value if network.has_rt_info(kind) else "str"
        self.config = SimpleNamespace(num_labels=len(labels), id2label=dict(enumerate(labels)), label_type=label_type)
        self.device = torch.device("cpu")
        told = {"INFERENCE_PRECISION_HINT": HINTS[dtype], "PERFORMANCE_HINT": "LATENCY"}
        told["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
        self._compiled = openvino.Core().compile_model(network, "CPU", told)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: torch.Tensor) -> SimpleNamespace:
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        # a request of its own for each call: calling what was compiled shares one among all threads
        return SimpleNamespace(logits=torch.from_numpy(self._compiled.create_infer_request().infer(given)[0]))


class Bare(nn.Module):
    """The classifier's forward without bookkeeping: padding runs through the experts, and nothing reads it."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.classify = getattr(model, "classify", model.forward)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.classify(input_ids=input_ids, attention_mask=attention_mask).logits


def convert(model: PreTrainedModel) -> Any:
    """An OpenVINO network with dynamic batch and length, whose logits were compared with those of the model.

    Raises ConversionError when it cannot be traced, or they differ by more than 1e-3 in float32 on padded texts of
    three shapes, with either of the two ways in which a model can mask its attention, and ConfigError when OpenVINO is
    not installed.
    """
    exported = copy.deepcopy(model).float().cpu().eval()
    exported.config.get_text_config().use_cache = False  # what a decoder keeps for the next token cannot be exported
    for layer in moe_layers(exported):
        layer.bare_experts.backend = "gathered"
    whole = padded_probe(exported)
    width = whole["input_ids"].shape[1]
    # sizes that the tracer did not see, too: one that it fixed is wrong there
    probes = [{key: value[:rows, :size] for key, value in whole.items()} for rows, size in ((4, width), (1, 7), (3, 3))]
    with torch.no_grad():
        expected = [exported(**probe).logits for probe in probes]
    found = []
    # the model's own attention, then eager: a row that sees only masked positions is NaN in one and not in the other
    for attention in dict.fromkeys((exported.config._attn_implementation, "eager")):
        exported.set_attn_implementation(attention)
        network = _trace(exported)
        answers = OpenVINOClassifier(network, torch.float32)
        pairs = zip(probes, expected, strict=True)
        difference = max(float((answers(**probe).logits - logits).abs().max()) for probe, logits in pairs)
        if difference <= TOLERANCE:
            network.set_rt_info(str(difference), ["sentimoe", "max_abs_logit_diff"])
            return network
        found.append(difference)
    raise ConversionError(
        f"the exported {type(model).__name__} answers differently: its logits moved by {found}, "
        f"more than {TOLERANCE}; use the torch backend for this model"
    )


def _trace(exported: PreTrainedModel) -> Any:
    openvino = import_openvino()
    shape = [-1, -1]
    with torch.no_grad(), warnings.catch_warnings():
        # the tracer warns of every size that it fixes; what it made is compared with the model
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        # and reads every property, renamed ones of transformers too
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
        try:
            network = openvino.convert_model(
                Bare(exported),
                example_input=padded_probe(exported),
                input=[("input_ids", shape, openvino.Type.i64), ("attention_mask", shape, openvino.Type.i64)],
            )
        except (RuntimeError, openvino.frontend.OpConversionFailure) as error:
            raise ConversionError(
                f"OpenVINO cannot convert this {type(exported).__name__} ({str(error).strip().splitlines()[0]}); use "
                "the torch backend for it, or merge its adapter first if it has one"
            ) from error
    labels = [exported.config.id2label[index] for index in range(exported.config.num_labels)]
    network.set_rt_info(json.dumps(labels), ["sentimoe", "labels"])
    network.set_rt_info(getattr(exported.config, "label_type", "str"), ["sentimoe", "label_type"])
    return network


def padded_probe(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Texts of very different lengths, padded: random ids."""
    config = model.config.get_text_config()
    width = min(40, config.max_position_embeddings // 2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(config.vocab_size, 1000), (4, width), generator=generator)
    mask = (torch.arange(width) < torch.tensor([width, width // 2, 3, 1])[:, None]).long()
    padding = 0 if config.pad_token_id is None else config.pad_token_id
    return {"input_ids": ids.where(mask.bool(), torch.tensor(padding)), "attention_mask": mask}


def compiled(model: PreTrainedModel, dtype: torch.dtype) -> OpenVINOClassifier:
    """A model in memory, compiled."""
    return OpenVINOClassifier(convert(model), dtype)


def import_openvino() -> Any:
    if find_spec("openvino") is None:
        raise ConfigError("backend 'openvino' is not installed: pip install 'sentimoe[openvino]'")
    import openvino

    return openvino
