"""From a torch classifier to an OpenVINO network that was compared with it.

Shapes: B texts, L tokens, T real tokens, E experts, K experts per token, C classes.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import ConversionError
from ..moe import MoE, RealTokens, RoutingCall
from ..upcycle import is_ordinal, label_type, moe_layers
from .lengths import position_limit
from .openvino import OpenVINOClassifier, import_openvino
from .precision import in_precision
from .tracing import openvino_network

TOLERANCE = 1e-3  # of logits in float32, and between the router logits of two experts that tie
BFLOAT16_FACTOR, BFLOAT16_FLOOR = 4.0, 0.02  # how much further from float32 than torch in bfloat16 a network may be
PROBE_TOKENS = 1024
WINDOWS = ("sliding_window", "local_attention", "attention_window", "attention_chunk_size")


@dataclass(frozen=True)
class Comparison:
    """A network beside the model that it was made from, on padded texts of random tokens.

    precision: what the network computed in. texts, lengths: how many, and their tokens. max_abs_logit_diff: with each
    token read by the experts that the network chose; allowed: how large it may be. routed_tokens: tokens, counted once
    a MoE layer. flipped_tokens: those that other experts read than in the model. widest_tie: the largest difference
    of two router logits of the model, of which the network chose the lower.
    """

    precision: str
    texts: int
    lengths: list[int]
    max_abs_logit_diff: float
    allowed: float
    routed_tokens: int
    flipped_tokens: int
    widest_tie: float

    def __str__(self) -> str:
        summary = (
            f"{self.precision}: {self.texts} padded texts of {min(self.lengths)} to {max(self.lengths)} random tokens, "
            f"logits differ by at most {self.max_abs_logit_diff:.1e} (allowed: {self.allowed:.1g})"
        )
        if self.flipped_tokens:
            summary += (
                f"; {self.flipped_tokens} of {self.routed_tokens} routings took another expert, at router logits that "
                f"tie within {self.widest_tie:.1e}"
            )
        return summary


class ExportWrapper(nn.Module):
    """The classifier's forward without bookkeeping: padding runs through the experts, and nothing reads it.

    routing: answer, beside the logits, the experts `[B * L, K]` that each MoE layer chose.
    """

    def __init__(self, model: PreTrainedModel, routing: bool = False):
        super().__init__()
        self.model, self.routing = model, routing
        self.classify = getattr(model, "classify", model.forward)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if not self.routing:
            return self.classify(input_ids=input_ids, attention_mask=attention_mask).logits
        with _EveryToken(attention_mask.bool()) as call:
            logits = self.classify(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, *(layer.experts for layer in call.result(0.0, 0.0).layers)


class _EveryToken(RoutingCall):
    """Padding is routed like real tokens: no size depends on the mask."""

    def real_tokens(self, layer: nn.Module, hidden: torch.Tensor) -> RealTokens:
        self._parts.append((layer, []))
        return RealTokens(self.mask.flatten(), None, None)


def convert(model: PreTrainedModel, max_length: int, file: Path, dtypes: Sequence[torch.dtype]) -> list[Comparison]:
    """Write an OpenVINO network (`file` ends in `.xml`) with dynamic batch and length, and compare it with the model.

    It is read back from the file and compared in each of the precisions, on padded texts of several shapes; the longest
    has `max_length` tokens (1,024 or twice the model's attention window if that is less) beside one of a single token.

    Raises ConversionError when the model cannot be traced, or the logits differ with either of the two ways in which a
    model can mask its attention: in float32 by more than 1e-3 with the network's choice of experts, or where experts
    were chosen whose router logits differ by more than 1e-3; in bfloat16 by more than four times what torch's do.
    Raises ConfigError when OpenVINO is not installed.
    """
    exported = exportable(model)
    probes = [padded_probe(exported, *lengths) for lengths in probe_lengths(exported, max_length)]
    found = []
    for attention in dict.fromkeys((exported.config._attn_implementation, "eager")):
        exported.set_attn_implementation(attention)
        network = _trace(exported)
        network.set_rt_info(str(max_length), ["sentimoe", "max_length"])
        import_openvino().save_model(network, file, compress_to_fp16=False)
        # read back, because OpenVINO recognises more in it: in memory, rotary angles would be computed in bfloat16
        network = import_openvino().Core().read_model(file)
        try:
            comparisons = [_compared(exported, OpenVINOClassifier(network, dtype), probes, dtype) for dtype in dtypes]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what OpenVINO raises, which is no failure of a writer
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ConversionError(
                f"OpenVINO cannot run the exported {type(model).__name__} ({reason}); use the torch backend for it"
            ) from error
        if not any(reasons := [reason for _, reason in comparisons if reason]):
            return [comparison for comparison, _ in comparisons]
        found += reasons
    raise ConversionError(
        f"the exported {type(model).__name__} answers differently ({'; '.join(dict.fromkeys(found))}); use the torch "
        "backend for this model"
    )


def exportable(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that a tracer can follow, in float32 on the processor: no size in it depends on the data."""
    exported = copy.deepcopy(model).float().cpu().eval()
    exported.config.get_text_config().use_cache = False  # what a decoder keeps for the next token cannot be exported
    for layer in moe_layers(exported):
        layer.base_experts.backend = "gathered"
    for module in exported.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0  # the same result in one piece, whose routing is in text order
    if _windows(exported):  # a row that sees only masked positions, as padding does past a window, would be NaN
        exported.set_attn_implementation("eager")
    return exported


def compiled(model: PreTrainedModel, dtype: torch.dtype, max_length: int) -> OpenVINOClassifier:
    """A model in memory, compiled for texts of up to `max_length` tokens. Raises as `convert` does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        convert(model, max_length, file, [dtype])
        core = import_openvino().Core()
        core.set_property({"ENABLE_MMAP": False})  # the file is about to go
        return OpenVINOClassifier(core.read_model(file), dtype)


def padded_probe(model: PreTrainedModel, *lengths: int) -> dict[str, torch.Tensor]:
    """Texts of random ids, padded, where the model is; of very different lengths unless these are given."""
    config = model.config.get_text_config()
    limit = position_limit(model)
    width = min(40, (80 if limit is None else limit) // 2)
    sizes = torch.tensor(lengths or (width, width // 2, 3, 1))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(config.vocab_size, 1000), (len(sizes), int(sizes.max())), generator=generator)
    mask = (torch.arange(ids.shape[1]) < sizes[:, None]).long()
    padding = 0 if config.pad_token_id is None else config.pad_token_id
    probe = {"input_ids": ids.where(mask.bool(), torch.tensor(padding)), "attention_mask": mask}
    return {name: each.to(model.device) for name, each in probe.items()}


def probe_lengths(model: PreTrainedModel, max_length: int) -> list[tuple[int, ...]]:
    """Of texts that probe: sizes that the tracer saw, others, where one that it fixed is wrong, and the full length."""
    width = min(max_length, max([PROBE_TOKENS, *(2 * size for size in _windows(model))]))
    return [(), (7,), (3, 2, 1), (width, 1)]


def _windows(model: PreTrainedModel) -> list[int]:
    """Tokens that a model's attention sees at once, where that is not all."""
    config = model.config.get_text_config()
    used = getattr(config, "use_sliding_window", True)
    given = [getattr(config, name, None) for name in WINDOWS] if used else []
    return [size for each in given for size in (each if isinstance(each, (list, tuple)) else [each]) if size]


def _trace(exported: PreTrainedModel) -> Any:
    wrapped = ExportWrapper(exported, routing=True)
    shapes = [[-1, -1], [-1, -1]]
    network = openvino_network(wrapped, type(exported).__name__, padded_probe(exported), shapes)
    labels = [exported.config.id2label[index] for index in range(exported.config.num_labels)]
    network.set_rt_info(json.dumps(labels), ["sentimoe", "labels"])
    network.set_rt_info(label_type(exported.config), ["sentimoe", "label_type"])
    network.set_rt_info(str(is_ordinal(exported.config)), ["sentimoe", "ordinal"])
    return network


def _compared(
    exported: PreTrainedModel,
    network: OpenVINOClassifier,
    probes: Sequence[dict[str, torch.Tensor]],
    dtype: torch.dtype,
) -> tuple[Comparison, str]:
    """How the network differs from the model, and what is wrong with that, if anything is."""
    precision, exact = str(dtype).removeprefix("torch."), dtype == torch.float32
    same = in_precision(exported, dtype)
    moved, theirs, gaps = [], [], [torch.zeros(0)]
    for probe in probes:
        answer = network(**probe)
        chosen = [_of_real_tokens(experts, probe["attention_mask"]) for experts in answer.experts]
        expected, margins = _following(exported, chosen, probe)
        moved.append((answer.logits - expected).abs().max())
        theirs.append((_following(same, chosen, probe)[0] - expected).abs().max())
        gaps += margins
    difference, routed = float(torch.stack(moved).max()), torch.cat(gaps)
    ties = routed[routed > 0]
    widest = float(ties.max()) if len(ties) else 0.0
    lengths = [int(length) for probe in probes for length in probe["attention_mask"].sum(dim=1)]
    allowed = TOLERANCE if exact else max(BFLOAT16_FACTOR * float(torch.stack(theirs).max()), BFLOAT16_FLOOR)
    comparison = Comparison(precision, len(lengths), lengths, difference, allowed, len(routed), len(ties), widest)
    if not difference <= allowed:  # NaN neither
        return comparison, f"in {precision} its logits moved by {difference:.2g}, more than {allowed:.2g}"
    if exact and widest > TOLERANCE:
        return comparison, f"it chose experts whose router logits are lower by {widest:.2g}, which is no tie"
    return comparison, ""


def _of_real_tokens(experts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of what was chosen for all positions `[B * L', K]`, that for the real ones `[T, K]`; `L' > L` of a Longformer."""
    size, length = mask.shape
    return experts.view(size, -1, experts.shape[-1])[:, :length][mask.bool()]


@torch.no_grad()
def _following(
    model: PreTrainedModel, chosen: Sequence[torch.Tensor], probe: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The model's logits `[B, C]`, its tokens read by these experts, `[T, K]` a layer.

    And by how much the best router logit of the others is above the least of these, `[T]` a layer: 0 or less where the
    model would choose the same.
    """
    layers = moe_layers(model)
    for layer, experts in zip(layers, chosen, strict=True):
        layer.choose = partial(_choose_among, layer, experts)  # type: ignore[method-assign]
    try:
        output = model(**probe)
    finally:
        for layer in layers:
            del layer.choose
    gaps = []
    for logits, experts in zip(output.routing.router_logits if layers else [], chosen, strict=True):
        others = logits.scatter(-1, experts, -torch.inf).amax(dim=-1)
        gaps.append(others - logits.gather(-1, experts).amin(dim=-1))
    return output.logits.float(), gaps


def _choose_among(layer: MoE, experts: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """What the layer chooses when each token may only be read by its experts `[T, K]`."""
    closed = torch.ones_like(logits, dtype=torch.bool).scatter(-1, experts, False)
    return type(layer).choose(layer, logits.masked_fill(closed, -torch.inf))
