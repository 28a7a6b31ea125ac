"""Split upcycling: the parts are the whole, the dial, the router, padding, saving and putting together again."""

import copy
from importlib import import_module

import pytest
import torch
from tiny import CASES, NATIVELY_GATED, F, batch, dense, texts
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from sentimoe import MoEConfig, collapse, upcycle
from sentimoe.errors import ConfigError, ConversionError
from sentimoe.moe import RoutingCall, SplitMoE, straight_through_top_k
from sentimoe.upcycle import moe_layers, set_experts_per_token

splitting = import_module("sentimoe.upcycle.split")


def real(count=6):
    return [batch(texts(*torch.randint(4, 20, (4,)).tolist())) for _ in range(count)]


def kind(case):
    return "gated" if case.removesuffix("-mean") in NATIVELY_GATED else "plain"


def split(case="bert", changes=None, **told):
    settings = {"num_experts": 5, "num_shared_experts": 1, "num_experts_per_tok": 2} | told
    config = MoEConfig(init="split", expert=kind(case), **settings)
    return upcycle(dense(case, **(changes or {})), config, texts=real())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shared", [0, 1])
def test_all_experts_together_are_the_dense_model(case, shared):
    torch.manual_seed(1)
    model = dense(case)
    original, inputs = copy.deepcopy(model), batch(texts(9, 5, 12))
    told = MoEConfig(init="split", expert=kind(case), num_experts=6 - shared, num_shared_experts=shared)
    model = upcycle(model, told, texts=real())
    assert len(moe_layers(model)) == 3 and all(isinstance(moe, SplitMoE) for moe in moe_layers(model))
    expected = original(**inputs).logits
    sparse = model(**inputs).logits
    assert (sparse - expected).abs().max() > 1e-3  # two of five are not all
    assert model.moe_receipt.active_abs_logit_diff > 1e-3 > model.moe_receipt.max_abs_logit_diff
    set_experts_per_token(model, 6 - shared)
    assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)

    model = collapse(model)
    assert type(model) is type(original) and model.collapse_report.exact
    assert_close(model.state_dict(), original.state_dict(), rtol=0, atol=0)  # every neuron back in its place


def test_a_collapse_with_fewer_active_says_that_it_is_another_function():
    model, inputs = split(), batch(texts(9, 5))
    before = model(**inputs).logits
    model = collapse(model, [inputs])
    assert not model.collapse_report.exact
    moved = float((model(**inputs).logits - before).abs().max())
    assert model.collapse_report.max_abs_logit_diff == pytest.approx(moved, rel=1e-3)
    with pytest.raises(ConversionError, match="part of a divided FFN"):
        _ = collapse(split(), expert=1)


@pytest.mark.parametrize("case", ["bert", "llama"])
def test_an_expert_left_out_counts_with_its_mean(case):
    model = split(case)
    moe, tokens = moe_layers(model)[1], torch.randn(50, 32)
    call = {}
    handle = moe.experts.register_forward_hook(lambda module, given, output: call.update(chosen=given[1]))
    found = moe(tokens[None])[0]
    handle.remove()
    whole = splitting.read_neurons(moe)
    expected = whole(tokens)
    inner, places = whole.inner(tokens), moe.neuron_permutation[-5 * (F // 6) :].view(5, -1)
    for expert in range(5):
        left_out = ~(call["chosen"] == expert).any(dim=1)
        mean = -moe.experts.down_proj_bias[expert]
        expected[left_out] += mean - (inner[:, places[expert]] @ whole.down[:, places[expert]].T)[left_out]
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_means_and_router_come_from_the_texts():
    model = dense("bert")
    layer = model.bert.encoder.layer[2]
    given = real(20)
    states = splitting.ffn_inputs(model, [layer], import_module("sentimoe.upcycle.layout").find_layout(layer), given)[0]
    assert len(states) == sum(int(part["attention_mask"].sum()) for part in given)
    model = upcycle(model, MoEConfig(init="split", expert="plain", num_experts=5, num_shared_experts=1), texts=given)
    moe = moe_layers(model)[2]
    whole = splitting.read_neurons(moe)
    inner, places = whole.inner(states), moe.neuron_permutation[-40:].view(5, 8)
    outputs = torch.stack([inner[:, place] @ whole.down[:, place].T for place in places], dim=1)
    left_out = torch.ones(len(states), 5).scatter(1, moe.router(states).topk(2).indices, 0)
    means = (left_out[..., None] * outputs).sum(0) / left_out.sum(0)[:, None]
    assert_close(moe.experts.down_proj_bias, -means, rtol=1e-3, atol=1e-4)
    # the router's order is close to that of the sizes it was taught
    taken = outputs.norm(dim=2).gather(1, moe.router(states).topk(2).indices).sum()
    best = outputs.norm(dim=2).topk(2).values.sum()
    by_chance = outputs.norm(dim=2).mean() * 2 * len(states)
    assert taken > by_chance + 0.6 * (best - by_chance)


def test_neurons_that_fire_together_share_an_expert():
    torch.manual_seed(0)
    group = torch.arange(24) % 3
    order = torch.randperm(24)
    group = group[order]
    tokens = torch.randint(3, (400,))
    contribution = (tokens[:, None] == group) * 1.0 + 0.05 * torch.rand(400, 24)
    contribution = torch.cat([contribution, 5 + torch.rand(400, 8)], dim=1)  # eight that always write most
    shared, experts = splitting.divide(contribution, 3, 1)
    assert shared.tolist() == list(range(24, 32))
    assert sorted(group[mine].unique().tolist() for mine in experts) == [[0], [1], [2]]


@torch.no_grad()
def test_neurons_that_write_nothing_are_not_shared():
    """A neuron counts by what it writes, however active it is."""
    model = dense("bert")
    for layer in model.bert.encoder.layer:
        layer.intermediate.dense.bias[:8] += 20
        layer.output.dense.weight[:, :8] *= 1e-4
    model = upcycle(model, MoEConfig(init="split", expert="plain", num_experts=5, num_shared_experts=1), texts=real())
    for moe in moe_layers(model):
        assert not set(range(8)) & set(moe.neuron_permutation[:8].tolist())


def test_clusters_are_of_one_size():
    points = torch.nn.functional.normalize(torch.cat([torch.randn(30, 4) + 5, torch.randn(10, 4) - 5]), dim=1)
    assert splitting.balanced_clusters(points, 4).bincount().tolist() == [10] * 4


def test_the_dial_is_saved(tmp_path):
    model, inputs = split("bert-mean"), batch(texts(9, 5))
    two = model(**inputs).logits
    set_experts_per_token(model, 4).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)
    assert (loaded(**inputs).logits - two).abs().max() > 1e-4
    assert_close(set_experts_per_token(loaded, 2)(**inputs).logits, two, rtol=0, atol=0)


@pytest.mark.parametrize("case", ["bert", "modernbert", "llama", "gpt2-mean"])
def test_padding_and_neighbours_do_not_matter(case):
    model, rows = split(case), texts(9, 4, 6)
    alone = torch.cat([model(**batch([row])).logits for row in rows])
    assert_close(model(**batch(rows, extra=5)).logits, alone, rtol=1e-4, atol=1e-4)


def test_dropout_stays_where_it_was():
    """ModernBERT drops before its last projection, GPT-2 after it."""
    inside, after = split("modernbert", {"mlp_dropout": 0.3}), split("gpt2", {"resid_pdrop": 0.3})
    for model, rates in ((inside, (0.3, 0.3, 0.0)), (after, (0.0, 0.0, 0.3))):
        for moe in moe_layers(model):
            assert (moe.experts.dropout.p, moe.shared.dropout.p, moe.dropout.p) == rates


@pytest.mark.parametrize("case", ["bert", "llama"])
def test_both_backends_agree_in_outputs_and_gradients(case):
    fast = split(case).train()
    for module in fast.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    slow, inputs = copy.deepcopy(fast), batch(texts(9, 5, 7))
    for moe in moe_layers(slow):
        moe.experts.backend = "reference"
    labels = torch.tensor([0, 1, 2])
    for model in (fast, slow):
        model(**inputs, labels=labels).loss.backward()
    assert_close(fast(**inputs).logits, slow(**inputs).logits, rtol=1e-4, atol=1e-4)
    for (name, ours), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for moe in moe_layers(fast):
        assert moe.router.weight.grad.abs().sum() > 0 and moe.router.bias.grad.abs().sum() > 0


def test_a_token_is_read_by_the_experts_that_fit_it_best():
    logits = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, -2.0, 0.0, 1.0]])
    assert straight_through_top_k(logits, 2)[1].tolist() == [[1, 2], [0, 3]]
    with torch.no_grad():
        assert straight_through_top_k(logits, 1)[1].tolist() == [[1], [0]]


def test_a_unit_weight_passes_the_gradient_of_ln_p():
    logits = torch.randn(7, 4, requires_grad=True)
    weights, chosen = straight_through_top_k(logits, 2)
    assert_close(weights, torch.ones(7, 2))
    assert chosen.shape == (7, 2)
    (weights * torch.tensor([1.0, 3.0])).sum().backward()
    other = logits.detach().clone().requires_grad_()
    (other.log_softmax(-1).gather(1, chosen) * torch.tensor([1.0, 3.0])).sum().backward()
    assert_close(logits.grad, other.grad)
    with torch.no_grad():
        assert straight_through_top_k(logits, 2)[0] is None


@pytest.mark.parametrize(
    ("case", "told", "given", "reason"),
    [
        ("bert", {"expert": "gated"}, True, "this one is plain, so give expert='plain'"),
        ("llama", {"expert": "plain"}, True, "this one is gated, so give expert='gated'"),
        ("bert", {"expert": "plain", "num_experts": 7}, True, "48 neurons cannot be divided evenly.*= 7"),
        ("bert", {"expert": "plain"}, False, "give upcycle tokenised `texts`"),
    ],
)
def test_what_cannot_be_split_is_left_alone(case, told, given, reason):
    model = dense(case)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=reason):
        model = upcycle(model, MoEConfig(init="split", **({"num_experts": 6} | told)), texts=real() if given else ())
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not moe_layers(model)


def test_a_split_that_fails_on_its_texts_leaves_no_hook():
    model = dense("bert")
    odd = {"input_ids": torch.full((2, 5), 10_000), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    with pytest.raises(IndexError):
        model = upcycle(model, MoEConfig(init="split", expert="plain", num_experts=6), texts=[odd])
    assert not any(module._forward_hooks for module in model.modules()) and not moe_layers(model)


@pytest.mark.parametrize("count", [0, 6])
def test_the_dial_has_ends(count):
    with pytest.raises(ConfigError, match=r"between 1 and 5|1 or more"):
        set_experts_per_token(split(), count)
    with pytest.raises(ConfigError, match="no experts"):
        set_experts_per_token(dense(), 1)


def test_shared_experts_belong_to_a_split():
    with pytest.raises(ConfigError, match="num_shared_experts=1"):
        MoEConfig(num_shared_experts=1)


def test_layers_meet_few_sizes():
    """Every new number of rows would be a new kernel in the library's memory; filling changes no answer or gradient."""
    model, inputs = split(), batch(texts(9, 5, 19))  # 33 real tokens
    slow = copy.deepcopy(model)
    for moe in moe_layers(slow):
        moe.experts.backend = "reference"
    sizes = {}
    for name, each in (("fast", model), ("slow", slow)):
        sizes[name] = []
        for moe in moe_layers(each):
            moe.shared.register_forward_pre_hook(lambda m, given, name=name: sizes[name].append(len(given[0])))
    fast_output, slow_output = model(**inputs), slow(**inputs)
    assert sizes == {"fast": [64] * 3, "slow": [33] * 3}
    assert [len(layer) for layer in fast_output.router_logits] == [33] * 3
    assert_close(fast_output.logits, slow_output.logits, rtol=1e-4, atol=1e-5)
    layer, padded = moe_layers(model)[0], torch.randn(1, 40, 32)
    padded[:, :7] = torch.nan  # padding on the left: no filling is taken from it
    with RoutingCall(torch.arange(40)[None] >= 7):
        layer(padded).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    layer.zero_grad()
    gradients = []
    for each, output in ((model, fast_output), (slow, slow_output)):
        output.logits.square().sum().backward()
        gradients.append([p.grad for moe in moe_layers(each) for p in moe.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
