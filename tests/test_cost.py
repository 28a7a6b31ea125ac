"""Costs against closed forms."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from sentimoe import MoEConfig, upcycle
from sentimoe.evaluation import active_parameters, count_flops
from sentimoe.evaluation.cost import ATTENTION, aten

D, F, LAYERS, C, B, L = 32, 48, 3, 4, 2, 10


@pytest.fixture
def model():
    config = BertConfig(
        vocab_size=99,
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=F,
        max_position_embeddings=64,
        num_labels=C,
    )
    return BertForSequenceClassification(config).eval()


def inputs(lengths=(L, L)):
    mask = (torch.arange(L)[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 90, (B, L)), "attention_mask": mask}


@torch.no_grad()
def forward_flops(model, given):
    return count_flops(model, lambda: model(**given))


def dense_flops():
    projections = 4 * 2 * B * L * D * D
    attention = 2 * 2 * B * L * L * D
    ffn = 2 * 2 * B * L * D * F
    return LAYERS * (projections + attention + ffn) + 2 * B * D * D + 2 * B * D * C


def test_dense_forward_is_the_closed_form(model):
    assert forward_flops(model, inputs()) == dense_flops()


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("lengths", [(10, 10), (10, 4)])
def test_sparse_forward_counts_the_rows_that_are_read(model, k, lengths):
    model = upcycle(model, MoEConfig(num_experts_per_tok=k))
    tokens = sum(lengths)
    one_expert = 2 * tokens * D * 2 * F + 2 * tokens * F * D
    router = 2 * tokens * D * 4
    expected = dense_flops() + 2 * (k * one_expert + router - 2 * 2 * B * L * D * F)
    assert forward_flops(model, inputs(lengths)) == expected


def test_backward_of_attention_is_counted(model):
    given = inputs() | {"labels": torch.tensor([0, 1])}
    step = count_flops(model, lambda: model(**given).loss.backward())
    # every matrix product once more for its input and once more for its weight; attention recomputes its scores
    assert 2.9 * dense_flops() < step < 3.2 * dense_flops()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_of_queries_that_share_keys_and_values_are_all_counted(heads):
    """Gemma has four of them to one."""
    query, shared = torch.randn(B, 4, L, 8, requires_grad=True), torch.randn(B, heads, L, 8)
    product = 2 * B * 4 * L * L * 8

    def attend():
        return nn.functional.scaled_dot_product_attention(query, shared, shared, enable_gqa=True)

    assert count_flops(nn.Identity(), attend) == 2 * product
    assert count_flops(nn.Identity(), lambda: attend().sum().backward()) == 7 * product


def test_the_kernels_of_a_gpu_count_alike():
    query, key, value = (B, 4, L, 8), (B, 1, 2 * L, 8), (B, 1, 2 * L, 6)
    given = [torch.empty(shape, device="meta") for shape in (query, key, value)]
    for kernel, more in (("flash", ()), ("efficient", (None, False)), ("cudnn", (None, False))):
        name = f"_scaled_dot_product_{kernel}_attention"
        attend = partial(getattr(aten, name), *given, *more)
        assert getattr(aten, name) in ATTENTION  # torch 2.13 counts these itself, 2.11 does not
        assert count_flops(nn.Identity(), attend) == 2 * B * 4 * L * 2 * L * (8 + 6)
        backward = ATTENTION[getattr(aten, f"{name}_backward")]
        assert backward((B, 4, L, 6), query, key, value) == 2 * B * 4 * L * 2 * L * (3 * 8 + 2 * 6)


@pytest.mark.parametrize("k", [1, 2])
def test_active_parameters(model, k):
    total = sum(p.numel() for p in model.parameters())
    assert active_parameters(model) == total
    model = upcycle(model, MoEConfig(num_experts=4, num_experts_per_tok=k))
    expert = 2 * F * D + 2 * F + D * F + D
    dense = 2 * F * D + F + D
    assert active_parameters(model) == total + 2 * (k * expert - dense + 4 * D)
