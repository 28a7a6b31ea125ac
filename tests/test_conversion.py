"""What OpenVINO is given answers like the model: at full length, in each precision, and where routers tie."""

import copy

import numpy as np
import pytest
import torch
from openvino import Core
from tiny import CONFIGS, LABELS, batch, sparse, texts, widen
from transformers import AutoModelForSequenceClassification

from sentimoe.errors import ConfigError, ConversionError
from sentimoe.inference import conversion, position_limit
from sentimoe.inference.lengths import window_length
from sentimoe.inference.openvino import OpenVINOClassifier
from sentimoe.inference.precision import has_fast_bfloat16, in_precision
from sentimoe.upcycle import moe_layers

LONG = 300
WINDOWED = {
    "modernbert": {"local_attention": 128},  # its default
    "mistral": {"sliding_window": 64},
    "gemma3": {"sliding_window": 64},
}
fast_bfloat16 = pytest.mark.skipif(not has_fast_bfloat16(torch.device("cpu")), reason="the processor has no bfloat16")


def windowed(case, **changes):
    """A model of real attention windows, which reads 512 tokens."""
    values = CONFIGS[case].to_dict() | LABELS | {"max_position_embeddings": 512} | WINDOWED.get(case, {}) | changes
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(type(CONFIGS[case]).from_dict(values))
    widen(model)
    return model.eval()


def traced_with(monkeypatch, attention):
    """From now on a model is traced with this attention, whatever is tried."""
    trace = conversion._trace

    def fixed(exported):
        exported.set_attn_implementation(attention)
        return trace(exported)

    monkeypatch.setattr(conversion, "_trace", fixed)


@torch.no_grad()
@pytest.mark.parametrize("case", WINDOWED)
def test_long_and_short_texts_beside_each_other(case, tmp_path):
    """Wrong answers past an attention window: padding that sees nothing real was NaN, and then so was its text.

    And in the default precision, whatever the window: a position above 256 is no bfloat16 number.
    """
    model, file = windowed(case), tmp_path / "model.xml"
    dtypes = [torch.float32, torch.bfloat16] if has_fast_bfloat16(torch.device("cpu")) else [torch.float32]
    conversion.convert(model, LONG, file, dtypes)
    network, *fast = [OpenVINOClassifier(Core().read_model(file), dtype) for dtype in dtypes]
    for lengths in ((LONG, 5, 1), (LONG,), (7, 3), (200, 199, 1)):
        inputs = batch(texts(*lengths))
        np.testing.assert_allclose(network(**inputs).logits, model(**inputs).logits, rtol=1e-3, atol=2e-4)
    inputs = batch(texts(*[LONG] * 8))
    exact = model(**inputs).logits
    theirs = (in_precision(model, torch.bfloat16)(**inputs).logits.float() - exact).abs().mean()
    for each in fast:
        assert (each(**inputs).logits - exact).abs().mean() < 2 * theirs


def test_a_network_that_is_wrong_past_its_window_is_refused(monkeypatch):
    """The comparison at full length, beside one token, is what finds it: 40 tokens are within any window."""
    traced_with(monkeypatch, "sdpa")
    conversion.compiled(windowed("modernbert"), torch.float32, 40)
    with pytest.raises(ConversionError, match=r"in float32 its logits moved by nan.*use the torch backend"):
        conversion.compiled(windowed("modernbert"), torch.float32, LONG)


@fast_bfloat16
def test_a_network_that_is_wrong_in_bfloat16_alone_is_refused():
    """What was traced, before it is written and read back: in it OpenVINO takes rotary angles for any product."""
    exported = windowed("mistral")
    exported.config.use_cache = False
    exported.set_attn_implementation("eager")
    network = conversion._trace(exported)
    probes = [conversion.padded_probe(exported, *each) for each in conversion.probe_lengths(exported, LONG)]
    for dtype, expected in ((torch.float32, ""), (torch.bfloat16, "in bfloat16 its logits moved by")):
        _, reason = conversion._compared(exported, OpenVINOClassifier(network, dtype), probes, dtype)
        assert reason.startswith(expected) and bool(reason) == bool(expected)


def test_the_longest_probe_is_bounded():
    for case, changes, length, expected in (
        ("bert", {}, 300, 300),
        ("bert", {}, 8192, 1024),
        ("mistral", {"sliding_window": 1000}, 8192, 2000),
        ("mistral", {"sliding_window": 1000}, 1500, 1500),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, 8192, 1024),
    ):
        *_, longest = conversion.probe_lengths(windowed(case, **changes), length)
        assert longest == (expected, 1)


ROPE = {"rope_theta": 10_000.0, "factor": 4.0}


def test_frequencies_that_change_with_the_longest_text_bound_the_length():
    """Answers that depend on neighbours: past this length the frequencies of all follow the longest text of a batch."""
    dynamic = windowed("llama", max_position_embeddings=64, rope_parameters=ROPE | {"rope_type": "dynamic"})
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 48}
    rope = ROPE | {"rope_type": "longrope"} | factors
    longrope = windowed("llama", max_position_embeddings=192, rope_parameters=rope)
    assert position_limit(dynamic) == 64 and position_limit(longrope) == 48
    for model, limit in ((dynamic, 64), (longrope, 48)):
        short = torch.randint(5, 99, (9,))
        given = [batch([*texts(*beside), short]) for beside in ((), (limit,), (200,), ())]
        with torch.no_grad():
            alone, within, beyond, again = [model(**inputs).logits[-1] for inputs in given]
        torch.testing.assert_close(within, alone, rtol=1e-4, atol=1e-4)
        assert torch.equal(again, alone) and (beyond - alone).abs().max() > 1e-2
    with pytest.raises(ConversionError, match="use the torch backend"):
        conversion.compiled(dynamic, torch.float32, 200)


def test_window_length():
    class Tokenizer:
        model_max_length = 512

        def num_special_tokens_to_add(self):
            return 2

    tokenizer = Tokenizer()
    assert window_length(None, tokenizer, None) == window_length(None, tokenizer, 600) == 512
    assert window_length(None, tokenizer, 64) == window_length(64, tokenizer, 64) == 64
    with pytest.raises(ConfigError, match="max_length=65 is more than the 64 tokens"):
        window_length(65, tokenizer, 64)
    tokenizer.model_max_length = int(1e30)
    assert window_length(None, tokenizer, 64) == 64
    with pytest.raises(ConfigError, match="neither tokenizer nor model"):
        window_length(None, tokenizer, None)


def test_ties_of_the_router_are_told_apart(tmp_path):
    """A model that was trained little was refused: experts that score alike are chosen by the last digit."""
    model = sparse("bert", num_experts=4, num_experts_per_tok=1)
    with torch.no_grad():
        for layer in moe_layers(model):  # experts 2 and 3, which are others, score like 0 and 1
            layer.router.weight[2:] = layer.router.weight[:2] * (1 + 1e-7 * torch.randn(2, 32))
    (comparison,) = conversion.convert(model, 60, tmp_path / "model.xml", [torch.float32])
    assert comparison.routed_tokens == 2 * (32 + 16 + 3 + 1 + 7 + 6 + 61)
    assert 0 < comparison.flipped_tokens < comparison.routed_tokens and 0 < comparison.widest_tie < 1e-5
    assert comparison.max_abs_logit_diff < 1e-4
    assert f"{comparison.flipped_tokens} of {comparison.routed_tokens} routings took another expert" in str(comparison)
    inputs = batch(texts(60, 3))
    answer = OpenVINOClassifier(Core().read_model(tmp_path / "model.xml"), torch.float32)(**inputs)
    with torch.no_grad():
        assert (answer.logits - model(**inputs).logits).abs().max() > 1e-3  # which is why it was refused


def test_another_choice_of_experts_is_no_tie():
    model = sparse("bert", num_experts=4, num_experts_per_tok=1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        moe_layers(other)[0].router.weight.copy_(moe_layers(other)[0].router.weight.roll(1, dims=0))
    for layer in moe_layers(other):
        layer.base_experts.backend = "gathered"
    network = OpenVINOClassifier(conversion._trace(other), torch.float32)
    probes = [conversion.padded_probe(model, *each) for each in conversion.probe_lengths(model, 60)]
    _, reason = conversion._compared(model, network, probes, torch.float32)
    assert "which is no tie" in reason
