"""Back to a dense model: exact where it can be, measured where it is not."""

import copy
import sys

import pytest
import torch
from tiny import CASES, NATIVELY_GATED, batch, dense, sparse, texts
from transformers import AutoModelForSequenceClassification

from sentimoe import MoEConfig, collapse, upcycle
from sentimoe.errors import ConversionError
from sentimoe.upcycle import moe_layers

collapse_module = sys.modules["sentimoe.upcycle.collapse"]


def logits(model, given):
    with torch.no_grad():
        return model(**given).logits


@pytest.mark.parametrize("case", CASES)
def test_just_converted_gives_the_dense_model_back(case, tmp_path):
    original = dense(case)
    given, before = batch(texts(9, 6)), original.state_dict()
    expected, experts = logits(original, given), upcycle(original, MoEConfig())
    model = collapse(experts)
    assert type(model) is type(original) and model.config.to_dict() == original.config.to_dict()
    assert model.collapse_report.exact and len(moe_layers(experts)) == 2
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        n: t.shape for n, t in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model, given), expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained(tmp_path), given), expected)


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama", "modernbert"])
def test_one_chosen_expert_is_the_model_that_routes_to_it_alone(case):
    kind = "gated" if case in NATIVELY_GATED else "plain"
    model, given = sparse(case, expert=kind, num_experts=3, num_experts_per_tok=1), batch(texts(9, 6))
    for moe in moe_layers(model):  # every other expert becomes expert 2: whatever is chosen, it is expert 2
        for name, parameter in moe.experts.named_parameters():
            if case in NATIVELY_GATED and "bias" in name and parameter.shape[-1] == 32:
                continue
            parameter.data = parameter.data[2:].expand_as(parameter).contiguous()
    expected = logits(model, given)
    model = collapse(model, [given], expert=2)
    assert model.collapse_report.exact and model.collapse_report.expert == 2
    torch.testing.assert_close(logits(model, given), expected, atol=1e-5, rtol=1e-5)


def test_fit_is_better_than_the_mean_of_the_experts(capsys):
    torch.manual_seed(1)
    given = batch(texts(*[12] * 60))
    model = upcycle(dense("bert"), MoEConfig(init_noise=0.5))
    before = logits(model, given)
    model = collapse(model, [given])
    fitted = (logits(model, given) - before).abs().mean()
    report = model.collapse_report
    assert not report.exact and abs(report.mean_abs_logit_diff - float(fitted)) < 1e-6
    assert "APPROXIMATION" in capsys.readouterr().out
    dense_again = dense("bert")
    mean_only = (logits(dense_again, given) - before).abs().mean()
    assert fitted < 0.5 * mean_only


@torch.no_grad()
def test_a_fit_begins_with_the_mean_of_the_experts_by_how_much_each_reads():
    model, given = sparse("bert", expert="plain", num_experts_per_tok=1, layers_to_transform=[-1]), batch(texts(9, 6))
    load, experts = model(**given).expert_load[0], moe_layers(model)[0].experts
    expected = torch.einsum("e,efd->fd", load, experts.up_proj)
    assert load.max() > 0.3 > load.min()  # the plain mean is another one
    found = collapse(model, [given]).bert.encoder.layer[2].intermediate.dense.weight
    torch.testing.assert_close(found, expected)


def test_padding_takes_no_part_in_the_fit():
    rows, fitted = texts(*[9, 5, 12] * 5), []
    start = dense("bert")
    for extra in (0, 30):
        torch.manual_seed(1)
        model = upcycle(copy.deepcopy(start), MoEConfig(init_noise=0.5))
        fitted.append(collapse(model, [batch(rows, extra=extra)]).state_dict())
    torch.testing.assert_close(*fitted, rtol=0, atol=0.01)


def test_a_gate_of_which_the_bias_alone_was_trained_is_no_identity():
    model = upcycle(dense("bert"), MoEConfig())
    for moe in moe_layers(model):
        moe.experts.gate_up_proj_bias.data.chunk(2, dim=1)[1].fill_(1.5)
    with pytest.raises(ConversionError, match="give tokenised texts"):
        model = collapse(model)


def test_f1_is_against_the_labels_when_there_are_some():
    model, given = upcycle(dense("bert"), MoEConfig(init_noise=0.5)), batch(texts(*[8] * 20))
    labels = logits(model, given).argmax(-1)
    labels[:5] = (labels[:5] + 1) % 3
    model = collapse(model, [given | {"labels": labels}])
    assert 0.6 < model.collapse_report.f1_before < 0.9


@pytest.mark.parametrize("when", ["in the first forward", "in the fit of the second layer"])
def test_what_fails_half_way_leaves_the_model_as_it_was(when, monkeypatch):
    model, given = upcycle(dense("bert"), MoEConfig(init_noise=0.5)).train(), batch(texts(5, 4))
    modules, config = list(model.modules()), model.config.to_dict()
    if when == "in the first forward":
        given["input_ids"] = given["input_ids"] + 1000
    else:
        fitted, calls = collapse_module._fitted, []

        def fails(*args):
            calls.append(None)
            if len(calls) == 2:
                raise IndexError
            return fitted(*args)

        monkeypatch.setattr(collapse_module, "_fitted", fails)
    with pytest.raises(IndexError):
        model = collapse(model, [given])
    assert list(model.modules()) == modules and model.config.to_dict() == config
    assert all(module.training and not module._forward_hooks for module in modules)


def test_refusals_leave_the_model_untouched():
    with pytest.raises(ConversionError, match="no experts"):
        _ = collapse(dense("bert"))
    model, given = sparse("bert"), batch(texts(5, 4))
    before = logits(model, given)
    for arguments, reason in (
        ({}, "give tokenised texts"),
        ({"expert": 1}, "gate that upcycling added"),
        ({"expert": 9}, "does not exist"),
    ):
        with pytest.raises(ConversionError, match=reason):
            model = collapse(model, **arguments)
        assert torch.equal(logits(model, given), before) and len(moe_layers(model)) == 2
