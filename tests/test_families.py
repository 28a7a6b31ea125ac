"""What is promised for every family: preserved, trainable, padding and neighbours change nothing, either head."""

import inspect

import pytest
import torch
from tiny import (
    CASES,
    COMMON,
    FAMILIES,
    LABELS,
    NATIVELY_GATED,
    PLAIN_FFN,
    C,
    batch,
    dense,
    scatter,
    sparse,
    texts,
    widen,
)
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, LongformerConfig

from sentimoe import MoEConfig, collapse, upcycle
from sentimoe.errors import ConfigError, NotSupportedError
from sentimoe.upcycle import divide_logits, moe_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PLAIN_CASES = [case for case in CASES if case.removesuffix("-mean") in PLAIN_FFN]
MEAN_OF_ALL = [f"{family}-mean" for family in FAMILIES]  # first-token heads cannot be padded on the left
FFN_WIDTH = {"distilbert": "hidden_dim", "gpt2": "n_inner"}


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "expert"), [*((case, "gated") for case in CASES), *((case, "plain") for case in PLAIN_CASES)]
)
def test_logits_are_preserved(case, expert):
    original, inputs = dense(case), batch(texts(9, 4, 12), extra=2)
    single = {"input_ids": inputs["input_ids"][:1, :9]}
    expected = [original(**inputs).logits, original(**single).logits]
    assert expected[0].std() > 0.05  # large enough that a wrong formula shows
    model = upcycle(original, MoEConfig(expert=expert))
    assert len(moe_layers(model)) == 2
    assert all(moe.experts.has_gate == (expert == "gated") for moe in moe_layers(model))
    assert_close([model(**inputs).logits, model(**single).logits], expected, **CLOSE)
    receipt = model.moe_receipt
    assert 0 <= receipt.max_abs_logit_diff <= receipt.tolerance == 1e-4
    assert (receipt.noise_abs_logit_diff, receipt.probe) == (0, "random ids")
    scatter(model)
    assert (model(**inputs).logits - expected[0]).abs().max() > 0.05  # the experts do reach the logits
    assert torch.equal(original(**inputs).logits, expected[0]) and not moe_layers(original)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_preserved_when_the_ffn_is_as_wide_as_the_model(family):
    """Then every matrix is square, and shapes alone tell up, gate and down no longer apart."""
    model, inputs = dense(family, **{FFN_WIDTH.get(family, "intermediate_size"): 32}), batch(texts(9, 4, 12))
    expected = model(**inputs).logits
    assert_close(upcycle(model)(**inputs).logits, expected, **CLOSE)


@pytest.mark.parametrize("family", sorted(NATIVELY_GATED))
def test_plain_experts_are_refused_where_the_ffn_is_gated(family):
    model, inputs = dense(family), batch(texts(9, 4))
    with torch.no_grad():
        expected = model(**inputs).logits
        with pytest.raises(ConfigError, match="gated already"):
            model = upcycle(model, MoEConfig(expert="plain"))
        assert torch.equal(model(**inputs).logits, expected)
    assert not moe_layers(model)


@pytest.mark.parametrize(("case", "k"), [(case, k) for case in CASES for k in (1, 2)])
def test_every_parameter_gets_a_gradient(case, k):
    quiet = {"router_aux_loss_coef": 0, "router_z_loss_coef": 0}  # so that the router learns from the task alone
    if (case, k) == ("gemma3", 1):  # its norm after the FFN cancels a factor: with K = 1 only these losses teach it
        quiet = {}
    model = sparse(case, num_experts_per_tok=k, **quiet)
    model(**batch(texts(9, 4, 12), extra=2), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    for moe in moe_layers(model):
        for parameter in moe.parameters():
            assert parameter.grad.abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_padding_and_neighbours_change_nothing(case):
    model, rows = sparse(case, init_noise=0.5, router_aux_loss_coef=0.3, router_z_loss_coef=0.1), texts(9, 4, 12)
    alone = [model(**batch([row])) for row in rows]
    together = model(**batch(rows))
    assert_close(together.logits, torch.cat([single.logits for single in alone]), **CLOSE)
    lengths = torch.tensor([len(row) for row in rows]) / sum(map(len, rows))
    loads = torch.stack([single.expert_load for single in alone])
    assert_close(together.expert_load, (lengths[:, None, None] * loads).sum(dim=0))
    for layer, router_logits in enumerate(together.router_logits):
        assert_close(router_logits, torch.cat([single.router_logits[layer] for single in alone]), **CLOSE)
    assert together.expert_load.std() > 0.01

    order = [2, 0, 1]
    for other, logits in (
        (model(**batch(rows, extra=5)), together.logits),
        (model(**batch([rows[i] for i in order])), together.logits[order]),
    ):
        assert_close(other.logits, logits, **CLOSE)
        assert_close(other.expert_load, together.expert_load)
        assert_close(other.aux_loss, together.aux_loss, **CLOSE)


@torch.no_grad()
def test_a_model_that_pads_texts_itself_keeps_padding_out_of_the_experts():
    """Longformer pads to a multiple of its attention window, here 8, inside its forward."""
    config = LongformerConfig(**COMMON | {"max_position_embeddings": 98}, attention_window=8)
    config.update(LABELS)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    widen(model)
    rows = texts(13, 6)
    expected = model(**batch(rows)).logits
    model = scatter(upcycle(model))
    together, alone = model(**batch(rows)), model(**batch(rows[:1]))
    assert [len(logits) for logits in together.router_logits] == [19, 19]
    assert_close(together.logits[:1], alone.logits, **CLOSE)
    assert (together.logits - expected).abs().max() > 1e-3
    dense_model = AutoModelForSequenceClassification.from_config(config).eval()
    split = MoEConfig(init="split", expert="plain", num_experts=3, num_experts_per_tok=3)
    divided = upcycle(dense_model, split, texts=[batch(texts(*[13, 6] * 30))])  # the texts are padded on their way
    assert_close(divided(**batch(rows)).logits, dense_model(**batch(rows)).logits, **CLOSE)
    assert collapse(model, [batch(rows)]).collapse_report is not None


@torch.no_grad()
@pytest.mark.parametrize("case", MEAN_OF_ALL)
def test_left_padding_changes_nothing(case):
    model, rows = sparse(case), texts(9, 4, 12)
    expected, padded = model(**batch(rows)), batch(rows, extra=2, left=True)
    if "position_ids" in inspect.signature(model.base_model.forward).parameters:
        padded["position_ids"] = (padded["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
    if case in ("roberta-mean", "xlm-roberta-mean", "mpnet-mean"):
        del padded["position_ids"]  # they count from the padding themselves
    found = model(**padded)
    for field in ("logits", "aux_loss", "expert_load", "router_logits"):
        assert_close(getattr(found, field), getattr(expected, field), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_left_padding_with_the_last_token_head(family):
    model, rows = sparse(family), texts(9, 4, 12)
    padded = batch(rows, extra=2, left=True)
    padded["position_ids"] = (padded["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
    assert_close(model(**padded).logits, model(**batch(rows)).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("case", MEAN_OF_ALL)
def test_the_mean_head_pools_real_tokens(case):
    model, inputs = dense(case), batch(texts(9, 4), extra=3)
    hidden = model.base_model(**inputs).last_hidden_state
    pooled = torch.stack([hidden[0, :9].mean(dim=0), hidden[1, :4].mean(dim=0)])
    output = model(**inputs)
    assert_close(output.logits, pooled @ model.classifier.weight.T + model.classifier.bias, **CLOSE)
    assert output.logits.shape == (2, C)
    assert "aux_loss" not in output  # a dense model has nothing to balance


@pytest.mark.parametrize(
    ("family", "inside", "after"),
    [("distilbert", 0.0, 0.3), ("gpt2", 0.0, 0.3), ("modernbert", 0.3, 0.0), ("bert", 0.0, 0.0), ("llama", 0.0, 0.0)],
)
def test_dropout_stays_where_it_was(family, inside, after):
    """ModernBERT drops before `Wo`, DistilBERT and GPT-2 after the FFN; BERT outside of what is replaced."""
    rate = {"distilbert": "dropout", "gpt2": "resid_pdrop", "modernbert": "mlp_dropout"}.get(family)
    model = upcycle(dense(family, **({rate: 0.3} if rate else {})))
    for moe in moe_layers(model):
        assert (moe.experts.dropout.p, moe.dropout.p) == (inside, after)
    moe, hidden = moe_layers(model)[0].train(), torch.randn(1, 64, 32)
    assert torch.equal(moe(hidden), moe(hidden)) == (inside == after == 0)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_temperature_goes_into_the_layer_that_computes_the_logits(case):
    for model in (dense(case), sparse(case, layers_to_transform=[-1])):
        given = batch(texts(9, 4), extra=2)
        before = model(**given).logits.clone()
        divide_logits(model, 2.5)
        torch.testing.assert_close(model(**given).logits * 2.5, before, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_model_whose_logits_no_linear_layer_computes_is_left_as_it_was():
    model, given = dense(), batch(texts(9, 4))
    model.register_forward_hook(lambda module, inputs, output: (output.logits.tanh_(), output)[1])
    before = model(**given).logits
    with pytest.raises(NotSupportedError, match="does not compute its logits"):
        divide_logits(model, 2.0)
    torch.testing.assert_close(model(**given).logits, before)
