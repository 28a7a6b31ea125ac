"""Router, experts, backends and losses against formulas written out by hand; the mask against everything in its way."""

import math
import threading

import pytest
import torch
from tiny import FAMILIES, PAD, batch, dense, sparse, texts
from torch.nn import functional as F
from torch.testing import assert_close

from sentimoe import MoEConfig, upcycle
from sentimoe.errors import ConfigError
from sentimoe.moe import (
    EXPERTS_BACKENDS,
    Experts,
    MoE,
    Router,
    RoutingCall,
    active_call,
    expert_load,
    load_balancing_loss,
    mask_experts,
    router_z_loss,
    top_k,
)
from sentimoe.upcycle import moe_layers
from sentimoe.upcycle.mean_head import mean_over_real_tokens

E, D, WIDTH = 4, 6, 5


def experts(gated: bool = True, bias: bool = True, dtype: torch.dtype = torch.float64) -> Experts:
    made = Experts(E, D, WIDTH, F.gelu, gated=gated, bias=bias).to(dtype)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def by_hand(made: Experts, token: torch.Tensor, expert: int) -> torch.Tensor:
    """One expert on one token, `[D]` -> `[D]`, from the docstring of `Experts`."""
    projected = made.in_proj[expert] @ token
    if made.has_bias:
        projected = projected + made.in_proj_bias[expert]
    hidden = F.gelu(projected[:WIDTH]) * projected[WIDTH:] if made.has_gate else F.gelu(projected)
    return made.down_proj[expert] @ hidden + (made.down_proj_bias[expert] if made.has_bias else 0)


def outputs_and_gradients(backend, made: Experts, tokens: torch.Tensor, logits: torch.Tensor, k: int) -> dict:
    """The output and the gradient of everything that has one."""
    tokens, logits = tokens.clone().requires_grad_(), logits.clone().requires_grad_()
    made.zero_grad()
    weights, chosen = top_k(logits, k)
    output = backend(made, tokens, chosen, weights)
    torch.manual_seed(1)
    (output * torch.randn_like(output)).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in made.named_parameters()}
    return {"output": output.detach(), "tokens": tokens.grad, "router": logits.grad, **gradients}


def in_a_loop(made: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    rows = [
        sum(weight * by_hand(made, token, int(expert)) for expert, weight in zip(picks, shares, strict=True))
        for token, picks, shares in zip(tokens, chosen, weights, strict=True)
    ]
    return torch.stack(rows)


ANY_SIZE = {name: backend for name, backend in EXPERTS_BACKENDS.items() if name != "grouped"}


@pytest.mark.parametrize("num_tokens", [0, 1, 21])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_the_grouped_product_is_the_loop(gated, bias, k, num_tokens):
    torch.manual_seed(0)
    made = Experts(E, 16, 8, F.gelu, gated=gated, bias=bias)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    tokens, logits = torch.randn(num_tokens, 16), torch.randn(num_tokens, E)
    logits[:, 2] = -50  # an expert that no token chooses
    expected, found = (
        outputs_and_gradients(EXPERTS_BACKENDS[name], made, tokens, logits, k) for name in ("reference", "grouped")
    )
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if num_tokens:
        weights, chosen = top_k(logits, k)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(
                EXPERTS_BACKENDS["grouped"](made, tokens, chosen, weights).float(), expected["output"], rtol=0.1, atol=1
            )
    with pytest.raises(ValueError, match="multiples of 8"):
        EXPERTS_BACKENDS["grouped"](experts(dtype=torch.float32), torch.zeros(1, D), torch.zeros(1, 1).long(), None)


@pytest.mark.parametrize("num_tokens", [1, 7])
@pytest.mark.parametrize("k", range(1, E + 1))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_backends_compute_the_formula_and_its_gradients(dtype, gated, bias, k, num_tokens):
    made, tokens = experts(gated, bias, dtype), torch.randn(num_tokens, D, dtype=dtype)
    logits = torch.randn(num_tokens, E, dtype=dtype)
    if k < E:
        logits[:, 2] = -50  # an expert that no token chooses
    expected = outputs_and_gradients(in_a_loop, made, tokens, logits, k)
    if k < E:
        assert not expected["down_proj"][2].any()
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for name, backend in ANY_SIZE.items():
        found = outputs_and_gradients(backend, made, tokens, logits, k)
        assert_close(found, expected, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("backend", ANY_SIZE.values(), ids=ANY_SIZE)
def test_backends_compute_the_formula_without_gradients(backend, k):
    """Kind: a path of its own for prediction, which training never sees."""
    made, tokens = experts(), torch.randn(7, D).double()
    weights, chosen = top_k(torch.randn(7, E).double(), k)
    for given in (weights, weights / 2):  # of a router of somebody's own, one weight is not always 1
        assert_close(backend(made, tokens, chosen, given), in_a_loop(made, tokens, chosen, given))


@pytest.mark.parametrize("backend", ANY_SIZE.values(), ids=ANY_SIZE)
def test_backends_accept_no_token_at_all(backend):
    found = outputs_and_gradients(backend, experts(), torch.zeros(0, D).double(), torch.zeros(0, E).double(), 2)
    assert found["output"].shape == (0, D)
    assert not found["gate_up_proj"].any()


def test_backends_agree_under_autocast():
    made, tokens = experts(dtype=torch.float32), torch.randn(9, D)
    weights, chosen = top_k(torch.randn(9, E), 2)
    exact = in_a_loop(made, tokens, chosen, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in ANY_SIZE.values():
            assert_close(backend(made, tokens, chosen, weights).float(), exact, rtol=0.05, atol=0.3)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["sorted", "grouped"])
def test_an_activation_that_widens_under_autocast_does_no_harm(backend):
    """As `torch.pow` does on a GPU, in GPT-2's activation."""
    made, tokens = Experts(E, 16, 8, F.gelu, gated=True, bias=True), torch.randn(9, 16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain, (weights, chosen) = made.act_fn, top_k(torch.randn(9, E), 2)
    expected = EXPERTS_BACKENDS["reference"](made, tokens, chosen, weights)
    made.act_fn = lambda hidden: plain(hidden).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = EXPERTS_BACKENDS[backend](made, tokens.bfloat16(), chosen, weights)
    assert_close(found.float(), expected, rtol=0.05, atol=0.3)


# --- router


def test_top_k_is_softmax_first_and_weights_sum_to_one():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0]])
    weights, chosen = top_k(logits, 2)
    assert chosen.tolist() == [[0, 1], [2, 3]]
    share = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]  # e^a / (e^a + e^b)
    assert_close(weights, torch.tensor([[share[0], 1 - share[0]], [share[1], 1 - share[1]]]))
    for k in range(1, E + 1):
        assert_close(top_k(logits, k)[0].sum(dim=1), torch.ones(2))


def test_one_expert_per_token_has_weight_one_and_the_gradient_of_log_p():
    logits = torch.randn(5, E, requires_grad=True)
    weights, chosen = top_k(logits, 1)
    assert_close(weights, torch.ones(5, 1), rtol=0, atol=0)
    weights.sum().backward()  # d (p / p.detach()) = d log p = onehot - p
    assert_close(logits.grad, F.one_hot(chosen[:, 0], E) - logits.detach().softmax(dim=-1))


@pytest.mark.parametrize("autocast", [True, False])
def test_router_computes_in_float32(autocast):
    router = Router(E, D, init_std=1.0).to(torch.bfloat16)
    tokens = torch.randn(5, D).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = router(tokens)
    assert logits.dtype == torch.float32
    assert_close(logits, tokens.float() @ router.weight.float().T)


# --- losses


@pytest.mark.parametrize("k", [1, 2])
def test_balancing_loss_is_one_when_even_and_e_when_collapsed(k):
    even = torch.stack([torch.arange(E).roll(shift) for shift in range(k)], dim=1)
    assert_close(load_balancing_loss(torch.zeros(E, E), even), torch.tensor(1.0))
    one_takes_all = torch.tensor([60.0, 0, 0, 0]).expand(6, E)
    assert_close(load_balancing_loss(one_takes_all, torch.zeros(6, 1, dtype=torch.long)), torch.tensor(float(E)))


def test_losses_by_hand_and_gradient_through_probabilities_only():
    logits = torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])).requires_grad_()
    _, chosen = top_k(logits, 2)  # experts 0 and one of the equal ones; then 0 and 1
    chosen = torch.tensor([[0, 1], [0, 1]])
    loss = load_balancing_loss(logits, chosen)  # load 1/2, 1/2; mean probability 0.55, 0.2
    assert_close(loss, torch.tensor(4 * (0.5 * 0.55 + 0.5 * 0.2)))
    (found,) = torch.autograd.grad(loss, logits)
    fixed_load = torch.tensor([0.5, 0.5, 0, 0])
    (expected,) = torch.autograd.grad(E * (fixed_load * logits.softmax(-1).mean(0)).sum(), logits)
    assert_close(found, expected)
    z = router_z_loss(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    assert_close(z, torch.tensor((math.log(4) ** 2 + (1 + math.log(4)) ** 2) / 2))
    assert expert_load(torch.tensor([[0, 1], [0, 2]]), E).tolist() == [0.5, 0.25, 0.25, 0]


def test_losses_of_no_token_are_zero():
    logits, chosen = torch.zeros(0, E), torch.zeros(0, 2, dtype=torch.long)
    assert load_balancing_loss(logits, chosen) == router_z_loss(logits) == 0
    assert not expert_load(chosen, E).any()


# --- the layer and the call it is inside of


def layer(k: int = 2) -> MoE:
    return MoE(Router(E, D, init_std=1.0), experts(dtype=torch.float32), k, output_dropout=0.0)


def test_padding_reaches_neither_router_nor_experts():
    moe, mask = layer(), torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    hidden = torch.randn(2, 3, D)
    poisoned = hidden.masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    with RoutingCall(mask) as call:
        output = moe(poisoned)
    alone = moe(hidden[mask].unsqueeze(0))[0]
    assert_close(output[mask], alone)
    assert not output[~mask].any()
    output.sum().backward()
    assert not poisoned.grad[~mask].any() and poisoned.grad[mask].all()
    (routing,) = call.result(0, 0).layers
    assert_close(routing.logits, moe.router(hidden[mask]))
    assert routing.experts.shape == (3, 2)


def test_a_layer_on_its_own_treats_every_token_as_real():
    moe, hidden = layer(), torch.randn(2, 3, D)
    with RoutingCall(torch.ones(2, 3, dtype=torch.bool)):
        inside = moe(hidden)
    assert_close(moe(hidden), inside)


@pytest.mark.parametrize("shape", [(3, 3, D), (6, D)])
def test_hidden_states_that_are_not_those_of_the_call_are_refused(shape):
    with RoutingCall(torch.ones(2, 3, dtype=torch.bool)), pytest.raises(ValueError, match="do not fit the attention"):
        layer()(torch.randn(shape))


def test_chunks_that_add_up_to_more_than_the_mask_are_refused():
    moe = layer()
    with RoutingCall(torch.ones(2, 3, dtype=torch.bool)):
        moe(torch.randn(2, 2, D))
        with pytest.raises(ValueError, match="do not fit the attention"):
            moe(torch.randn(2, 2, D))


def test_as_many_experts_as_read_a_token_stay_open():
    """Kind: a limit that is checked one by one and not all together."""
    moe, hidden = layer(k=2), torch.randn(1, 7, D)
    with mask_experts({moe: [0, 1]}):
        moe(hidden)
        with pytest.raises(ValueError, match="2 of them must read each token"), mask_experts({moe: [2]}):
            pass
    with pytest.raises(ValueError, match="2 of them must read each token"), mask_experts({moe: [0, 1, 2]}):
        pass


def test_calls_nest_and_end_even_when_the_forward_raises():
    outer, inner = (RoutingCall(torch.ones(1, length, dtype=torch.bool)) for length in (2, 3))
    with outer:
        with pytest.raises(RuntimeError), inner:
            assert active_call() is inner
            raise RuntimeError
        assert active_call() is outer
    assert active_call() is None


# --- the mask travels with each call of a model


@torch.no_grad()
def test_two_threads_do_not_see_each_others_masks():
    model, barrier = sparse(), threading.Barrier(2, timeout=30)
    inputs = [batch(texts(9, 4, 12)), batch(texts(3, 7), extra=2)]
    expected = [model(**each) for each in inputs]

    def meet(*_) -> None:  # both threads are inside their forward when either reads its mask
        barrier.wait()

    for moe in moe_layers(model):
        moe.register_forward_pre_hook(meet)
    failures = []

    def run(each, wanted):
        try:
            with torch.no_grad():
                for _ in range(25):
                    found = model(**each)
                    for field in ("logits", "aux_loss", "expert_load", "router_logits"):
                        assert_close(getattr(found, field), getattr(wanted, field))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def backward(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Loss, auxiliary loss and gradients of one training step, always with the same dropout."""
    model.zero_grad()
    torch.manual_seed(3)
    output = model(**inputs, labels=torch.tensor([0, 2, 1]))
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"loss": output.loss.detach(), "aux_loss": output.aux_loss.detach(), **gradients}


def checkpointing(model, **kwargs) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs or None)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


CHECKPOINTED = [family for family in FAMILIES if family != "mpnet"]  # transformers has none for MPNet


@pytest.mark.parametrize("case", [*CHECKPOINTED, "bert-mean", "llama-mean"])
def test_gradient_checkpointing_changes_nothing(case):
    model, inputs = sparse(case).train(), batch(texts(9, 4, 12), extra=2)
    expected = backward(model, inputs)
    checkpointing(model)
    assert_close(backward(model, inputs), expected)
    model.gradient_checkpointing_disable()
    assert_close(backward(model, inputs), expected)


def test_gradient_checkpointing_enabled_before_the_conversion():
    model = dense().train()
    checkpointing(model, use_reentrant=False)
    model = upcycle(model)
    inputs = batch(texts(9, 4, 12), extra=2)
    found = backward(model, inputs)
    model.gradient_checkpointing_disable()
    assert_close(found, backward(model, inputs))


def test_reentrant_checkpointing_is_refused():
    model = sparse()
    with pytest.raises(ConfigError, match="use_reentrant"):
        checkpointing(model, use_reentrant=True)


def test_reentrant_checkpointing_enabled_before_the_conversion_is_refused():
    model = dense()
    checkpointing(model, use_reentrant=True)
    with pytest.raises(ConfigError, match="use_reentrant"):
        model = upcycle(model)
    assert not moe_layers(model)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_feed_forward_chunks_change_nothing(family):
    model, inputs = sparse(family), batch(texts(9, 4, 8), extra=3)  # 12 tokens; the last of four chunks is all padding
    expected = model(**inputs)
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 3
    lengths = []
    moe_layers(model)[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    found = model(**inputs)
    assert lengths == [3, 3, 3, 3]
    for field in ("logits", "aux_loss", "expert_load", "router_logits"):
        assert_close(getattr(found, field), getattr(expected, field))


@torch.no_grad()
@pytest.mark.parametrize("case", [*FAMILIES, "bert-mean"])
def test_no_mask_is_a_mask_of_ones(case):
    model, ids = sparse(case), torch.stack(texts(8, 8))
    found, expected = model(input_ids=ids), model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for field in ("logits", "aux_loss", "expert_load", "router_logits"):
        assert_close(getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_mask_that_covers_a_cache_too_is_read_from_its_end():
    model, ids = sparse("llama"), torch.stack(texts(6, 6))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    whole = model(input_ids=ids, attention_mask=mask)
    cache = model.base.model(input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=True).past_key_values
    rest = model(input_ids=ids[:, 3:], attention_mask=mask, past_key_values=cache)
    assert_close(rest.logits, whole.logits, rtol=1e-4, atol=1e-4)
    assert [len(logits) for logits in rest.router_logits] == [6, 6]
    hidden = torch.randn(2, 3, 4)
    assert_close(mean_over_real_tokens(hidden, mask), hidden.mean(dim=1))


def test_masks_that_do_not_say_which_tokens_are_real_are_refused():
    model, ids = sparse(), torch.stack(texts(8, 8))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(input_ids=ids, attention_mask=torch.ones(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"attention_mask has shape .2, 5.; .* here .2, 8."):
        model(input_ids=ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model()
    assert active_call() is None


@torch.no_grad()
def test_positional_mask_and_embeddings_instead_of_ids():
    model, inputs = sparse(), batch(texts(9, 4), extra=1)
    expected = model(**inputs)
    positional = model(inputs["input_ids"], inputs["attention_mask"])
    embedded = model(
        inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), attention_mask=inputs["attention_mask"]
    )
    for found in (positional, embedded):
        assert_close(found.logits, expected.logits)
        assert_close(found.aux_loss, expected.aux_loss)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "llama", "distilbert"])
def test_the_backbone_can_be_called_directly(family):
    model, inputs = sparse(family), batch(texts(9, 4), extra=1)
    real = inputs["attention_mask"].bool()
    assert inputs["input_ids"][~real].eq(PAD).all()
    expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
    assert_close(model.base_model(**inputs).last_hidden_state[real], expected[real], rtol=1e-4, atol=1e-4)


def test_backend_setting_chooses_the_loop():
    fast = sparse(experts_backend="sorted")
    slow = upcycle(dense(), MoEConfig(experts_backend="reference"))
    slow.load_state_dict(fast.state_dict())
    assert {moe.experts.backend for moe in moe_layers(slow)} == {"reference"}
    inputs = batch(texts(9, 4, 12))
    assert_close(backward(slow, inputs), backward(fast, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["bert", "bert-mean", "llama"])
def test_the_compiler_sees_one_graph_as_of_the_dense_model(case):
    inputs = batch(texts(9, 4, 12), extra=2) | {"labels": torch.tensor([0, 1, 2])}
    torch._dynamo.reset()
    explained = torch._dynamo.explain(sparse(case))(**inputs)
    assert (explained.graph_break_count, explained.graph_count) == (0, 1)


def test_compiled_it_computes_the_same_losses_gradients_and_routing():
    model, inputs = sparse("bert-mean"), batch(texts(9, 4, 12), extra=2)
    expected, routing = backward(model, inputs), model(**inputs).routing
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found = {name.removeprefix("_orig_mod."): value for name, value in backward(compiled, inputs).items()}
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = compiled(**inputs).routing
    assert_close(again.router_logits, routing.router_logits)
    assert_close(again.expert_load, routing.expert_load)
    for text in range(3):
        assert_close(again[text].router_logits, routing[text].router_logits)
