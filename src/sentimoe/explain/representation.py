"""What the experts and the model write: similarity of experts, projections, and how well they separate the classes
(Figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from torch import nn

from ..data import clean_text, token_batches
from ..inference import Engine
from ..upcycle import inputs_of_real_tokens, logits_layer, moe_layers, recorded

TOKENS_AT_ONCE = 4096


def expert_similarity(engine: Engine, texts: Sequence[str]) -> np.ndarray:
    """Cosine of what two experts write for the same tokens, mean over the real tokens of the texts: `[N, E, E]`.

    Copies have 1. Nothing is taken off first: less the mean of all experts, even copies would lie at -1 / (E - 1).
    """
    found = []
    for layer, tokens in zip(moe_layers(engine.model), layer_inputs(engine, texts), strict=True):
        total = torch.zeros(layer.experts.num_experts, layer.experts.num_experts, device=tokens.device)
        for part in tokens.split(TOKENS_AT_ONCE):
            unit = nn.functional.normalize(expert_outputs(layer, part), dim=-1)
            total += torch.einsum("ted,tfd->ef", unit, unit)
        found.append(total.div(len(tokens)).cpu().numpy())
    return np.stack(found)


@torch.inference_mode()
def expert_outputs(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What every expert of a layer writes for tokens `[T, D]`, chosen or not: `[T, E, D]`, float32."""
    outputs = []
    for expert in range(layer.experts.num_experts):
        chosen = torch.full((len(tokens), 1), expert, device=tokens.device)
        outputs.append(layer.experts(tokens, chosen, None).float())
    return torch.stack(outputs, dim=1)


@torch.inference_mode()
def layer_inputs(engine: Engine, texts: Sequence[str]) -> list[torch.Tensor]:
    """The hidden states of real tokens that reach each MoE layer, `[T, D]` a layer."""
    given = (batch for batch, _ in batches(engine, texts))
    return inputs_of_real_tokens(engine.model, moe_layers(engine.model), given)


@torch.inference_mode()
def written(engine: Engine, texts: Sequence[str], minimum: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the experts of the last MoE layer write for texts: points `[P, D]` float32, their texts and experts `[P]`.

    A point is the mean of an expert's outputs over the tokens of a text that it read, where `minimum` of them or more.
    """
    layer = moe_layers(engine.model)[-1]
    count, found = layer.experts.num_experts, []
    with recorded([layer]) as (calls,):
        for batch, rows in batches(engine, texts):
            mask = batch["attention_mask"].bool()
            chosen = layer.choose(engine.model(**batch).router_logits[-1])[1]
            tokens, owner = calls.pop()[0][mask], mask.nonzero()[:, 0]
            read = torch.zeros(len(tokens), count, device=tokens.device).scatter_(1, chosen, 1)
            total = tokens.new_zeros(len(rows), count, tokens.shape[-1], dtype=torch.float32)
            for part in torch.arange(len(tokens), device=tokens.device).split(TOKENS_AT_ONCE):
                total.index_add_(0, owner[part], expert_outputs(layer, tokens[part]) * read[part, :, None])
            tokens_read = read.new_zeros(len(rows), count).index_add_(0, owner, read)
            for place, expert in (tokens_read >= minimum).nonzero().tolist():
                mean = total[place, expert] / tokens_read[place, expert]
                found.append((rows[place], expert, mean.cpu().numpy()))
    found.sort(key=lambda each: each[:2])
    points = np.array([point for *_, point in found]).reshape(len(found), layer.router.weight.shape[1])
    return points, np.array([row for row, *_ in found], int), np.array([expert for _, expert, _ in found], int)


def batches(engine: Engine, texts: Sequence[str]) -> Iterator[tuple[Any, list[int]]]:
    """Padded batches under the engine's token budget, and the rows of their texts."""
    encoded = engine.tokenizer([clean_text(text) for text in texts], truncation=True, max_length=engine.max_length)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    for rows in token_batches(lengths, engine.tokens_per_batch):
        part = [{name: values[row] for name, values in encoded.items()} for row in rows]
        yield engine.batch(part), rows


@torch.inference_mode()
def pooled(engine: Engine, texts: Sequence[str]) -> np.ndarray:
    """What the layer that computes the logits reads for each text, `[B, D]` float32."""
    found: dict[int, np.ndarray] = {}
    with recorded([logits_layer(engine.model)]) as (calls,):
        for batch, rows in batches(engine, texts):
            engine.model(**batch)
            states = calls.pop()[0].float().cpu().numpy()
            if states.ndim == 3:  # a decoder scores every token; the answer is that of the last real one
                last = batch["attention_mask"].shape[1] - 1 - batch["attention_mask"].flip(1).argmax(dim=1)
                states = states[np.arange(len(states)), last.cpu().numpy()]
            found.update(zip(rows, states, strict=True))
    return np.stack([found[row] for row in range(len(texts))])


def separation(points: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict[str, float | None]:
    """How well groups are told apart in the space of the points `[B, D]`, not in a projection.

    silhouette: -1 to 1 (Rousseeuw 1987). nmi: of the groups and a k-means with as many clusters, 0 to 1. None where
    there are not two groups.
    """
    if len(set(groups.tolist())) < 2 or len(points) <= len(set(groups.tolist())):
        return {"silhouette": None, "nmi": None}
    clusters = KMeans(len(set(groups.tolist())), n_init=4, random_state=seed).fit_predict(points)
    return {
        "silhouette": float(silhouette_score(points, groups, sample_size=min(2000, len(points)), random_state=seed)),
        "nmi": float(normalized_mutual_info_score(groups, clusters)),
    }


def project(points: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Points `[B, D]` -> `[B, 2]` and the name of the way: openTSNE where it is installed, else PCA.

    Points that are all alike, or a single one, stay where they are: at 0.
    """
    if not np.ptp(points, axis=0).any():
        return np.zeros((len(points), 2)), "none, all texts look alike"
    if find_spec("openTSNE") is None or len(points) < 20:
        return PCA(2, random_state=seed).fit_transform(points), "PCA"
    from openTSNE import TSNE

    perplexity = min(30, (len(points) - 1) // 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=seed).fit(points.astype(np.float64))), "t-SNE (openTSNE)"


def neighbours(profiles: np.ndarray, of: np.ndarray, count: int = 3) -> np.ndarray:
    """For routing profiles `of` `[B, N, E]` the rows of the most similar `profiles` `[M, N, E]`, `[B, count]`.

    A profile is a text's mass per expert divided by its tokens; similarity is the cosine of what differs from the mean.
    """

    def shares(mass: np.ndarray) -> np.ndarray:
        return (mass / np.maximum(mass.sum(axis=-1, keepdims=True), 1e-12)).reshape(len(mass), -1)

    mean = shares(profiles).mean(axis=0)
    ours, theirs = shares(of) - mean, shares(profiles) - mean
    ours, theirs = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (ours, theirs))
    return np.argsort(-(ours @ theirs.T), axis=1, kind="stable")[:, :count]
