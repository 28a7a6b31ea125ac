"""`collapse`: a mixture of experts becomes a plain dense model again, exactly where that is possible."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import ConversionError, NotSupportedError
from ..moe import MoE, SplitMoE, expert_load
from .discarded import refuse_discarded_result
from .layout import DenseFFN
from .modeling import SentiMoEForSequenceClassification
from .recording import mask_of, recorded
from .split import read_neurons
from .structure import moe_layers, put_dense_ffn

RIDGE = 1e-3
Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class CollapseReport:
    """What a collapse cost.

    exact: the dense model computes the same function as before, or as `expert` on its own where one was chosen.
    max_abs_logit_diff, mean_abs_logit_diff: against the model before, over the given texts; None without texts.
    f1_before, f1_after: weighted F1 on the given labels; without labels against the predictions of the model before.
    """

    exact: bool
    expert: int | None = None
    max_abs_logit_diff: float | None = None
    mean_abs_logit_diff: float | None = None
    f1_before: float | None = None
    f1_after: float | None = None

    def __str__(self) -> str:
        kind = "exact" if self.exact else "an APPROXIMATION, fitted on the given texts"
        kind += "" if self.expert is None else f" for expert {self.expert} alone, the others are dropped"
        if self.f1_before is None or self.f1_after is None:
            return f"collapse: {kind}; Δlogit and ΔF1 not measured (no texts given)"
        return (
            f"collapse: {kind}; Δlogit max {self.max_abs_logit_diff:.3g}, mean {self.mean_abs_logit_diff:.3g}; "
            f"ΔF1 {self.f1_after - self.f1_before:+.4f} ({self.f1_before:.4f} -> {self.f1_after:.4f})"
        )


def collapse(model: PreTrainedModel, batches: Iterable[Batch] = (), *, expert: int | None = None) -> PreTrainedModel:
    """Make a plain dense copy of a model with experts; the given model is not changed.

    A divided FFN (`init="split"`) is put together again: the function with all experts active, exactly. Exact also when
    the experts of every layer are equal and their added gate is still the identity (just converted), or
    when `expert` names one plain or natively gated expert that stands for all in every layer. Otherwise the dense FFN
    is fitted on `batches`: it starts as the mean of the experts weighted by load, and its output matrix is solved by
    ridge regression onto what the experts compute, layer by layer.

    Args:
        model: what `upcycle` returned, trained or not.
        batches: tokenised texts: `input_ids` and `attention_mask` `[B, L]`, optionally `labels` `[B]`.
        expert: the expert that stands for all.

    Returns:
        A model of the library's own class (with a mean head: ours, without experts). What the collapse cost is printed
        and kept as its `collapse_report`.

    Raises:
        ConversionError: the model has no experts, a fit is needed but no texts are given, or `expert` cannot stand for
            a dense FFN.
        ConfigError: the call throws the new model away.
    """
    refuse_discarded_result("collapse")
    with torch.no_grad():
        return _collapsed(model, batches, expert)


def _collapsed(model: PreTrainedModel, batches: Iterable[Batch], expert: int | None) -> PreTrainedModel:
    config = model.moe_config if isinstance(model, SentiMoEForSequenceClassification) else None
    if config is None or config.ffn is None:
        raise ConversionError("the model has no experts to collapse")
    texts = [{name: value.to(model.device) for name, value in batch.items()} for batch in batches]
    moes, native = moe_layers(model), config.ffn.gated
    if expert is not None and not 0 <= expert < config.num_experts:
        raise ConversionError(f"expert={expert} does not exist; choose 0 to {config.num_experts - 1}")
    if isinstance(moes[0], SplitMoE) and expert is not None:
        raise ConversionError(f"expert {expert} is a part of a divided FFN and cannot stand for it; leave `expert` out")
    exact = [read_neurons(moe) if isinstance(moe, SplitMoE) else _exact(moe, native, expert) for moe in moes]
    if expert is not None and None in exact:
        raise ConversionError(
            f"expert {expert} has a gate that upcycling added and training moved: no plain FFN computes the same. "
            "Leave `expert` out and give texts, to fit an approximation"
        )
    if None in exact and not texts:
        raise ConversionError(
            "the experts differ, so the dense model can only be an approximation: give tokenised texts to fit it on: "
            "collapse(model, [tokenizer(texts, padding=True, return_tensors='pt')])"
        )
    dense = copy.deepcopy(model).eval()
    before = [dense(**_inputs(batch)).logits.float() for batch in texts]
    for position, moe in enumerate(moe_layers(dense)):
        put_dense_ffn(dense, position, exact[position] or _fitted(dense, moe, texts, native))
    dense = dense.without_experts()
    after = [dense(**_inputs(batch)).logits.float() for batch in texts]
    same = None not in exact and not (config.init == "split" and config.num_experts_per_tok < config.num_experts)
    dense.collapse_report = _report(CollapseReport(same, expert), before, after, texts)
    print(dense.collapse_report)
    return dense.train(model.training)


def _exact(moe: MoE, native: bool, expert: int | None) -> DenseFFN | None:
    """The dense FFN that computes what the layer (or its one expert) computes; None when there is none."""
    experts = moe.experts
    parts = [experts.in_proj, experts.in_proj_bias, experts.down_proj]
    parts.append(experts.down_proj_bias if experts.has_bias else None)
    equal = all(part is None or bool((part == part[:1]).all()) for part in parts)
    if expert is None and not equal:
        return None
    if experts.has_gate and not native:
        assert experts.in_proj_bias is not None
        chosen = slice(None) if expert is None else slice(expert, expert + 1)
        up, bias = (part.chunk(2, dim=1)[1][chosen] for part in (experts.in_proj, experts.in_proj_bias))
        if bool(up.any()) or bool((bias != 1).any()):
            return None
    return _as_dense(moe, F.one_hot(torch.tensor(expert or 0), experts.num_experts).float(), native)


def _as_dense(moe: MoE, share: torch.Tensor, native: bool) -> DenseFFN:
    """The mean of the experts weighted by `share` `[E]`; a gate that upcycling added is dropped."""
    experts = moe.experts

    def mean(stacked: torch.Tensor | None) -> torch.Tensor | None:
        return None if stacked is None else torch.einsum("e,e...->...", share.to(stacked), stacked)

    first: Any = mean(experts.in_proj)
    first_bias: Any = mean(experts.in_proj_bias)
    down: Any = mean(experts.down_proj)
    down_bias = mean(experts.down_proj_bias) if experts.has_bias else None
    gate = gate_bias = None
    up, up_bias = first, first_bias
    if experts.has_gate:
        upper = first.chunk(2)
        biases = (None, None) if first_bias is None else first_bias.chunk(2)
        if native:
            (gate, up), (gate_bias, up_bias) = upper, biases
        else:
            up, up_bias = upper[0], biases[0]
    return DenseFFN(up, up_bias, down, down_bias, gate, gate_bias, experts.act_fn, 0.0, 0.0)


def _fitted(model: Any, moe: MoE, batches: Sequence[Batch], native: bool) -> DenseFFN:
    """The load-weighted mean of the experts, with `down` solved by ridge regression towards that mean.

    With hidden activations `H` `[T, F]` and residuals `R = Y - H mean^T` `[T, D]` of the experts' output `Y`:
    `down = mean + R^T H (H^T H + r I)^-1`, where `r` is a thousandth of the mean diagonal of `H^T H`.
    """
    with recorded([moe]) as calls:
        for batch in batches:
            model(**_inputs(batch))
    if len(calls[0]) != len(batches):
        raise NotSupportedError("the model feeds its FFNs in chunks; set config.chunk_size_feed_forward = 0")
    masks = [
        mask_of(hidden, batch["attention_mask"].bool()) if "attention_mask" in batch else ...
        for (hidden, _), batch in zip(calls[0], batches, strict=True)
    ]
    pairs = [(hidden[mask], output[mask]) for (hidden, output), mask in zip(calls[0], masks, strict=True)]
    tokens = torch.cat([hidden.flatten(0, -2) for hidden, _ in pairs])
    share = expert_load(moe.router(tokens).argmax(dim=-1, keepdim=True), moe.experts.num_experts)
    dense = _as_dense(moe, share, native)
    gram = torch.zeros(dense.down.shape[1], dense.down.shape[1], device=dense.down.device)
    cross = torch.zeros(dense.down.shape, device=dense.down.device)
    for hidden, output in pairs:
        inner = dense.inner(hidden).flatten(0, -2).float()
        gram += inner.T @ inner
        cross += (output - dense(hidden)).flatten(0, -2).float().T @ inner
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    step = torch.linalg.solve(gram + ridge, cross.T).T
    return replace(dense, down=dense.down + step.to(dense.down))


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


def _report(
    report: CollapseReport, before: list[torch.Tensor], after: list[torch.Tensor], batches: Sequence[Batch]
) -> CollapseReport:
    if not before:
        return report
    old, new = torch.cat(before), torch.cat(after)
    difference = (new - old).abs()
    labelled = all("labels" in batch for batch in batches)
    truth = torch.cat([batch["labels"] for batch in batches]) if labelled else old.argmax(dim=-1)
    from sklearn.metrics import f1_score  # slow to import, and only this function needs it

    scores = [
        float(f1_score(truth.cpu(), logits.argmax(dim=-1).cpu(), average="weighted", zero_division=0))
        for logits in (old, new)
    ]
    return replace(
        report,
        max_abs_logit_diff=float(difference.max()),
        mean_abs_logit_diff=float(difference.mean()),
        f1_before=scores[0],
        f1_after=scores[1],
    )
