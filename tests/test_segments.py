"""A classifier cut between its layers gives what it gives whole, in every family."""

import pytest
import torch
from tiny import CASES, batch, dense, sparse, texts

from sentimoe.errors import ConfigError, NotSupportedError
from sentimoe.inference import exportable
from sentimoe.inference.segment_networks import network_of, traced
from sentimoe.inference.segments import check_segments, segments
from sentimoe.methods import adapt
from sentimoe.upcycle import transformer_layers


def states_after(model, given):
    """Reference: the output of every layer of the whole model, taken while it runs."""
    seen = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, given, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in transformer_layers(model, 3)
    ]
    logits = model(**given).logits
    for hook in hooks:
        hook.remove()
    return seen, logits


@pytest.mark.parametrize("case", CASES)
def test_segments_chain_to_the_whole_model(case):
    torch.manual_seed(0)
    model = dense(case)
    given = batch(texts(9, 5, 2))
    with torch.no_grad():
        states, logits = states_after(model, given)
        tokens = given["input_ids"]
        first, second, last = segments(model, (1, 2))
        real = given["attention_mask"].unsqueeze(-1)
        for segment, state in ((first, states[0]), (second, states[1])):
            (tokens,) = segment(tokens, given["attention_mask"])
            torch.testing.assert_close(tokens * real, state * real, rtol=1e-5, atol=1e-5)
        _, answer = last(tokens, given["attention_mask"])
        torch.testing.assert_close(answer, logits, rtol=1e-4, atol=1e-4)


def test_segments_of_a_model_with_experts():
    torch.manual_seed(0)
    model = sparse("bert-mean", layers_to_transform=[0, 2])
    given = batch(texts(9, 5, 2))
    with torch.no_grad():
        first, last = segments(model, (2,))
        _, answer = last(first(given["input_ids"], given["attention_mask"])[0], given["attention_mask"])
        torch.testing.assert_close(answer, model(**given).logits, rtol=1e-4, atol=1e-4)


def test_segments_with_experts_as_openvino_networks():
    """Kind: the fast loop over experts is no network; its sizes depend on the data."""
    torch.manual_seed(0)
    model = sparse("bert-mean", expert="plain", num_experts_per_tok=1, layers_to_transform=[0, 2])
    given = batch(texts(9, 5, 2))
    mask = given["attention_mask"].numpy()
    tokens = given["input_ids"].numpy()
    for segment in segments(exportable(model), (1, 2)):
        tokens, logits = network_of(traced(segment, 32, 60), torch.float32)(tokens, mask)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(**given).logits, rtol=1e-3, atol=1e-3)


def test_segments_past_an_attention_window():
    """Kind: 40 tokens are within any window; past it a row of padding sees nothing, and is no number."""
    torch.manual_seed(0)
    model = dense("modernbert")
    model.set_attn_implementation("sdpa")
    given = batch(texts(60, 5))
    tokens, mask = given["input_ids"].numpy(), given["attention_mask"].numpy()
    for segment in segments(exportable(model), (1, 2)):
        tokens, logits = network_of(traced(segment, 32, 60), torch.float32)(tokens, mask)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(**given).logits, rtol=1e-3, atol=1e-3)


def test_later_networks_do_not_carry_the_embeddings():
    first, second = (traced(segment, 32, 60) for segment in segments(exportable(dense("bert")), (1,)))
    sizes = [
        max(
            each.get_output_shape(0)[0]
            for each in network.get_ops()
            if each.get_type_name() == "Constant" and each.shape
        )
        for network in (first, second)
    ]
    assert sizes[0] == 99 and sizes[1] < 99  # words


def test_a_model_in_bfloat16_is_checked_in_float32():
    check_segments(exportable(dense("bert-mean", torch.bfloat16)), (1,), 60)


def test_a_segment_holds_its_own_layers_only():
    model = dense("bert-mean")
    first, _ = segments(model, (1,))
    assert len(list(first.model.base.encoder.layer.parameters())) == len(list(model.base.encoder.layer[0].parameters()))


def test_a_model_that_cannot_be_cut_is_refused():
    """Kind: learned tokens before each text (P-Tuning), which pieces of the model would pass by."""
    check_segments(dense("bert-mean"), (1, 2), 60)
    with pytest.raises(NotSupportedError, match="cannot be cut between its layers"):
        check_segments(adapt(dense("bert-mean"), "p-tuning", {}), (1, 2), 60)


@pytest.mark.parametrize("cuts", [(0,), (3,), (2, 1), (1, 1)])
def test_cuts_that_are_none(cuts):
    with pytest.raises(ConfigError, match="between 1 and 2"):
        segments(dense("bert-mean"), cuts)
