"""The conversion: how experts start, what is refused, a failure leaves no trace, and anything can train the result."""

import copy

import pytest
import torch
from accelerate import Accelerator
from tiny import CONFIGS, D, F, batch, dense, scatter, sparse, texts
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForTokenClassification,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from sentimoe import FFNLayout, MoEConfig, collapse, upcycle
from sentimoe.errors import ConfigError, ConversionError, SentiMoEError, WeightsError
from sentimoe.moe import load_balancing_loss, router_z_loss, top_k
from sentimoe.upcycle import convert, initialise, moe_layers, structure
from sentimoe.upcycle.initialise import INITIALISATIONS, Initialisation, copy_init

# --- how experts start


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_a_gate_starts_as_the_identity(family):
    model = dense(family)
    layer = convert.transformer_layers(model, 3)[-1]
    ffn = convert.read_ffn(layer, convert.find_layout(layer))
    first, first_bias, down, down_bias = (each.clone() for each in (ffn.up, ffn.up_bias, ffn.down, ffn.down_bias))
    experts = moe_layers(upcycle(model, MoEConfig(num_experts=3)))[-1].experts
    assert experts.gate_up_proj.shape == (3, 2 * F, D)
    for expert in range(3):
        gate, up = experts.gate_up_proj[expert].chunk(2)
        gate_bias, up_bias = experts.gate_up_proj_bias[expert].chunk(2)
        assert torch.equal(gate, first) and torch.equal(gate_bias, first_bias)
        assert not up.any() and torch.equal(up_bias, torch.ones(F))
        assert torch.equal(experts.down_proj[expert], down)
        assert torch.equal(experts.down_proj_bias[expert], down_bias)


def test_noise_breaks_the_symmetry_but_leaves_the_gate_the_identity():
    model = dense()
    clean = upcycle(copy.deepcopy(model))
    model = upcycle(model, MoEConfig(init_noise=0.1))
    for noisy, exact in zip(moe_layers(model), moe_layers(clean), strict=True):
        up = noisy.experts.gate_up_proj[:, F:]
        assert not up.any() and torch.equal(noisy.experts.gate_up_proj_bias, exact.experts.gate_up_proj_bias)
        for name in ("gate_up_proj", "down_proj"):
            assert not torch.equal(*getattr(noisy.experts, name)[:2])
        noise = noisy.experts.down_proj - noisy.experts.down_proj.mean(dim=0)
        assert 0.05 < noise.std() / exact.experts.down_proj.std() < 0.15  # relative to the deviation of the matrix
    assert clean.moe_receipt.noise_abs_logit_diff == 0
    assert model.moe_receipt.noise_abs_logit_diff > 1e-3 > 1e-4 >= model.moe_receipt.max_abs_logit_diff


def test_a_seed_reproduces_the_conversion():
    original = dense()

    def converted(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return upcycle(copy.deepcopy(original), MoEConfig(init_noise=0.1)).state_dict()

    first, again, other = converted(1), converted(1), converted(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name.rpartition(".")[2] for name in first if not torch.equal(first[name], other[name])}
    assert changed == {"gate_up_proj", "down_proj", "weight"}  # the last one is the router


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_a_random_gate_is_another_function_and_says_so(family):
    model = dense(family)
    inputs = batch(texts(9, 5))
    expected = model(**inputs).logits
    model = upcycle(model, MoEConfig(init="copy-random-gate"))
    receipt = model.moe_receipt
    assert receipt.tolerance is None and receipt.max_abs_logit_diff > 1e-2
    assert (model(**inputs).logits - expected).abs().max() > 1e-2
    experts = moe_layers(model)[0].experts
    gate, up = experts.in_proj.chunk(2, dim=1)
    assert_close(up.std(), gate.std(), rtol=0.1, atol=0)
    assert not experts.in_proj_bias.chunk(2, dim=1)[1].any()


@pytest.mark.parametrize(("family", "expert"), [("llama", "gated"), ("modernbert", "gated"), ("bert", "plain")])
def test_a_random_gate_needs_a_gate_to_be_added(family, expert):
    model = dense(family)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="needs a gate to be added"):
        model = upcycle(model, MoEConfig(init="copy-random-gate", expert=expert))
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not moe_layers(model)


def test_the_receipt_on_the_callers_texts():
    model, probe = dense(), batch(texts(9, 4), extra=2)
    expected = model(**probe).logits
    model = upcycle(model, MoEConfig(init_noise=0.2), probe=probe)
    receipt = model.moe_receipt
    assert (receipt.probe, receipt.texts, receipt.tokens) == ("given texts", 2, 13)
    moved = float((model(**probe).logits - expected).abs().max())
    assert receipt.noise_abs_logit_diff == pytest.approx(moved, rel=1e-3)


@pytest.mark.parametrize("gated", [True, False])
def test_parameters_grow_as_computed(gated):
    experts, per_layer = 5, {True: 3 * D * F + 2 * F + D, False: 2 * D * F + F + D}
    model = dense()
    before = model.num_parameters()
    model = upcycle(model, MoEConfig(num_experts=experts, expert="gated" if gated else "plain"))
    grown = experts * per_layer[gated] + experts * D - per_layer[False]
    assert model.num_parameters() == before + 2 * grown
    natively_gated = dense("llama")
    before = natively_gated.num_parameters()
    natively_gated = upcycle(natively_gated, MoEConfig(num_experts=experts, layers_to_transform=[0]))
    assert natively_gated.num_parameters() == before + (experts - 1) * 3 * D * F + experts * D


# --- which layers; precision, mode and head are kept


@pytest.mark.parametrize(
    ("layers", "converted"), [(None, [1, 2]), ([0], [0]), ([-3], [0]), ([-1, 0, 2], [0, 2]), (range(3), [0, 1, 2])]
)
@torch.no_grad()
def test_layers_to_transform(layers, converted):
    model, inputs = dense("gpt2"), batch(texts(9, 4))
    expected = model(**inputs).logits
    model = upcycle(model, MoEConfig() if layers is None else MoEConfig(layers_to_transform=layers))
    blocks = model.base.transformer.h
    assert [index for index, block in enumerate(blocks) if moe_layers(block)] == converted
    output = model(**inputs)
    assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    assert len(output.router_logits) == len(output.expert_load) == len(converted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_precision_is_kept(family, dtype):
    model, inputs = dense(family, dtype), batch(texts(9, 4))
    with torch.no_grad():
        expected = model(**inputs).logits
        buffers = {f"base.{name}": buffer.dtype for name, buffer in model.named_buffers()}
        measured = set()
        model.register_forward_hook(lambda *call: measured.add(call[-1].logits.dtype))
        model = upcycle(model, MoEConfig(init_noise=0.1))
        assert measured == {torch.float32}
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert {name: buffer.dtype for name, buffer in model.named_buffers() if name in buffers} == buffers
        logits = model(**inputs).logits
    assert logits.dtype == dtype and not torch.equal(logits, expected)


def test_mode_and_frozen_weights_are_kept():
    model = dense().train()
    model.bert.embeddings.eval().requires_grad_(False)
    model = upcycle(model)
    assert all(module.training for moe in moe_layers(model) for module in moe.modules())
    assert model.training and not model.base.bert.embeddings.training
    assert not any(parameter.requires_grad for parameter in model.base.bert.embeddings.parameters())
    assert not any(module.training for module in upcycle(dense()).modules())


@pytest.mark.parametrize("family", ["bert", "llama", "distilbert-mean"])
def test_the_head_of_a_users_classifier_is_kept(family):
    model = dense(family)
    replaced = "layer.2.intermediate", "layer.2.output.dense", "layers.2.mlp", "layer.2.ffn"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model = upcycle(model, MoEConfig(layers_to_transform=[-1]))
    after = model.state_dict()
    kept = [name for name in before if not any(part in name for part in replaced)]
    assert any(name.startswith(("classifier", "score")) for name in kept)
    ours = family.endswith("-mean")  # that class has the same names before and after
    for name in kept:
        assert torch.equal(after[name if ours else f"base.{name}"], before[name])


def test_a_call_of_version_0_1_that_would_throw_the_new_model_away_is_refused():
    model = dense()
    with pytest.raises(ConfigError, match=r"returns the new model .* write model = upcycle\(model"):
        upcycle(model)
    converted = upcycle(model)
    with pytest.raises(ConfigError, match=r"write model = collapse\(model"):
        collapse(converted)
    assert [upcycle(model), upcycle(model)]


# --- a failure leaves no trace


def snapshot(model: PreTrainedModel) -> dict:
    """Everything about a model that a failed conversion could leave changed."""
    inputs = {"input_ids": torch.arange(5, 15).view(2, 5)}
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(**inputs).logits
    return {
        "class": type(model),
        "config class": type(model.config),
        "config": copy.deepcopy(model.config.to_dict()),
        "modules": [(name, id(module), module.training) for name, module in model.named_modules()],
        "parameters": [(name, id(value), value.dtype) for name, value in model.named_parameters()],
        "buffers": [(name, id(value), value.dtype) for name, value in model.named_buffers()],
        "keys": list(model.state_dict()),
        "logits": logits.tolist(),
    }


def refuse(model: PreTrainedModel, config: MoEConfig | None, match: str, error=SentiMoEError, **kwargs) -> None:
    """`upcycle` raises, says why, and the model is what it was, down to the identity of its modules."""
    kept = list(model.modules())  # keeps the ids from being used again
    before = snapshot(model)
    with pytest.raises(error, match=match):
        _ = upcycle(model, config, **kwargs)
    assert snapshot(model) == before and len(kept) == len(before["modules"])


BERT_FFN = {"replace": "output.dense", "up": "intermediate.dense", "down": "output.dense", "bypass": "intermediate"}
BERT_ACT = "intermediate.intermediate_act_fn"
IMPOSSIBLE = {
    "layer out of range": ("bert", MoEConfig(layers_to_transform=[-4]), "holds -4.*3 layers"),
    "layer too high": ("bert", MoEConfig(layers_to_transform=[1, 3]), "holds 3.*3 layers"),
    "no such backend": ("bert", MoEConfig(experts_backend="warp"), "warp"),
    "plain on gated": ("modernbert", MoEConfig(expert="plain"), "gated already"),
    "no such module": ("llama", MoEConfig(ffn=FFNLayout("mlp", "mlp.first", "mlp.down_proj", "mlp.act_fn")), "first"),
    "not a linear map": (
        "llama",
        MoEConfig(ffn=FFNLayout("mlp", "mlp", "mlp.down_proj", "mlp.act_fn")),
        "not a linear",
    ),
    "not callable": (
        "llama",
        MoEConfig(ffn=FFNLayout("mlp", "mlp.up_proj", "mlp.down_proj", "hidden_size")),
        "callable",
    ),
    "gate left out": (
        "llama",
        MoEConfig(ffn=FFNLayout("mlp", "mlp.up_proj", "mlp.down_proj", "mlp.act_fn")),
        "does not compute",
    ),
    "roles swapped": (
        "llama",
        MoEConfig(ffn=FFNLayout("mlp", "mlp.gate_proj", "mlp.down_proj", "mlp.act_fn", gate="mlp.up_proj")),
        "does not compute",
    ),
    "halves swapped": (
        "modernbert",
        MoEConfig(ffn=FFNLayout("mlp", "mlp.Wi", "mlp.Wo", "mlp.act", fused="up_gate")),
        "does not compute",
    ),
    "matrices that do not fit": (
        "bert",
        MoEConfig(ffn=FFNLayout(**BERT_FFN | {"up": "attention.output.dense"}, act=BERT_ACT)),
        "do not fit",
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_converted_is_untouched(case, dtype, training):
    family, config, match = IMPOSSIBLE[case]
    refuse(dense(family, dtype).train(training), config, match)


def corrupt(experts, ffn) -> None:
    copy_init(experts, ffn)
    with torch.no_grad():
        experts.down_proj.mul_(1.01)


def second_time(real):
    """Like `real`, but out of memory from the second call on."""
    calls = []

    def run(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise MemoryError
        return real(*args, **kwargs)

    return run


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "gpt2", "bert-mean"])
def test_experts_that_move_the_logits_are_taken_out_again(monkeypatch, family, dtype, training):
    monkeypatch.setitem(INITIALISATIONS, "copy", Initialisation(lambda moe, ffn, tokens: corrupt(moe.experts, ffn)))
    refuse(dense(family, dtype).train(training), None, "the logits moved by", ConversionError)


@pytest.mark.parametrize(
    ("module", "name"),
    [(structure, "Experts"), (initialise, "copy_init"), (convert, "add_noise"), (convert, "_logits")],
)
@pytest.mark.parametrize("family", ["bert", "llama", "bert-mean"])
def test_an_error_half_way_takes_everything_back(monkeypatch, family, module, name):
    monkeypatch.setattr(module, name, second_time(getattr(module, name)))
    refuse(dense(family), MoEConfig(init_noise=0.1), "", MemoryError)


def test_a_probe_without_ids_converts_or_leaves_the_model_alone():
    model = dense()
    probe = {"inputs_embeds": torch.randn(2, 5, D)}
    try:
        model = upcycle(model, probe=probe)
    except SentiMoEError:
        assert not moe_layers(model)
    else:
        assert (model.moe_receipt.texts, model.moe_receipt.tokens) == (2, 10)


def test_a_nan_in_a_later_probe_text_is_not_overlooked():
    model = dense()
    probe = [text["input_ids"] for text in convert._random_probe(model)]
    later = next(int(token) for token in probe[1][0] if token not in probe[0])
    with torch.no_grad():
        model.get_input_embeddings().weight[later] = 1e30  # finite, as weights must be, and NaN after a layer norm
    with pytest.raises(ConversionError, match="the logits moved by nan"):
        model = upcycle(model)


def custom(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_config(config).eval()


SMALL = {"vocab_size": 99, "hidden_size": D, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 1}
SPARSE = SMALL | {"num_key_value_heads": 2, "intermediate_size": F, "num_experts_per_tok": 1}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (AlbertConfig(**SMALL, intermediate_size=F, embedding_size=16), "share weights, as in ALBERT"),
        (MixtralConfig(**SPARSE, num_local_experts=2), "already sparse"),
        (Qwen2MoeConfig(**SPARSE, num_experts=2, moe_intermediate_size=F), "already sparse"),
        # sparse below the layers to convert
        (Qwen2MoeConfig(**SPARSE, num_experts=2, moe_intermediate_size=F, mlp_only_layers=[1, 2]), "already sparse"),
    ],
    ids=["albert", "mixtral", "qwen2-moe", "qwen2-moe with dense layers on top"],
)
def test_shared_and_sparse_layers_are_refused(config, match):
    refuse(custom(config), None, match, ConversionError)


def test_a_converted_model_is_not_converted_twice():
    refuse(upcycle(dense()), None, "already has experts", ConversionError)
    refuse(upcycle(dense("llama-mean")), MoEConfig(layers_to_transform=[0]), "already has experts", ConversionError)


def test_other_heads_are_refused():
    refuse(BertForTokenClassification(CONFIGS["bert"]).eval(), None, "not the sequence classifier", ConversionError)
    with pytest.raises(ConversionError, match="not the sequence classifier"):
        _ = upcycle(dense().bert)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"num_experts": 1}, "num_experts=1"),
        ({"init_noise": "1e-2"}, "write 1.0e-4"),
        ({"num_experts_per_tok": 5}, "between 1 and num_experts=4"),
        ({"num_experts_per_tok": 0}, "1 or more"),
        ({"expert": "fancy"}, "one of 'gated', 'plain'"),
        ({"layers_to_transform": []}, "at least one"),
        ({"layers_to_transform": "last"}, "a list, each a whole number"),
        ({"init": "split-hair"}, "init="),
        ({"init_noise": -0.1}, "between 0 and 1"),
        ({"router_aux_loss_coef": -1}, "0 or more"),
        ({"router_z_loss_coef": -1}, "0 or more"),
        ({"experts": 4}, "unknown settings"),
    ],
)
def test_settings_outside_what_is_allowed(values, match):
    with pytest.raises(ConfigError, match=match):
        MoEConfig.from_dict(values)


def test_settings_survive_json():
    config = MoEConfig(num_experts=3, layers_to_transform=[0], ffn=FFNLayout("a", "a.b", "a.c", "act", fused="up_gate"))
    assert MoEConfig.from_dict(config.to_dict()) == config


# --- a layout of the user's own


class OwnConfig(PreTrainedConfig):
    model_type = "sentimoe-test-own"

    def __init__(self, ffn="three", num_hidden_layers=3, hidden_size=D, vocab_size=99, pad_token_id=1, **kwargs):
        self.ffn, self.num_hidden_layers, self.hidden_size, self.vocab_size = (
            ffn,
            num_hidden_layers,
            hidden_size,
            vocab_size,
        )
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class Wrapped(nn.Module):
    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.linear = nn.Linear(columns, rows)

    def forward(self, hidden):
        return self.linear(hidden)


class ThreeLinears(nn.Module):
    """Not recognised: the third linear map takes no part."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(D, F), nn.Linear(F, D, bias=False), nn.Linear(D, D)
        self.act = nn.Tanh()

    def forward(self, hidden):
        return self.b(self.act(self.a(hidden)))


class Nested(nn.Module):
    """Not recognised: the linear maps lie one level deeper."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = Wrapped(F, D), Wrapped(D, F), nn.SiLU()

    def forward(self, hidden):
        return self.second(self.act(self.first(hidden)))


class UpFirst(nn.Module):
    """Recognised: gate and up in one matrix, up first, and a bias only there."""

    def __init__(self):
        super().__init__()
        self.both, self.down, self.act = nn.Linear(D, 2 * F), nn.Linear(F, D, bias=False), nn.GELU()

    def forward(self, hidden):
        up, gate = self.both(hidden).chunk(2, dim=-1)
        return self.down(self.act(gate) * up)


OWN_FFNS = {
    "three": (ThreeLinears, FFNLayout("ffn", "ffn.a", "ffn.b", "ffn.act")),
    "nested": (Nested, FFNLayout("ffn", "ffn.first.linear", "ffn.second.linear", "ffn.act")),
    "up first": (UpFirst, None),
    "sequential": (lambda: nn.Sequential(nn.Linear(D, F), nn.ReLU(), nn.Linear(F, D), nn.Dropout(0.2)), None),
    "no bias": (lambda: nn.Sequential(nn.Linear(D, F, bias=False), nn.ReLU(), nn.Linear(F, D, bias=False)), None),
}


class OwnLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm, self.ffn = nn.LayerNorm(D), OWN_FFNS[config.ffn][0]()

    def forward(self, hidden):
        return hidden + self.ffn(self.norm(hidden))


class OwnClassifier(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "own"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, D)
        self.blocks = nn.ModuleList(OwnLayer(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(D, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, return_dict=None):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.head((hidden * mask.unsqueeze(-1)).sum(dim=1))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(OwnConfig.model_type, OwnConfig, exist_ok=True)
AutoModelForSequenceClassification.register(OwnConfig, OwnClassifier, exist_ok=True)


@torch.no_grad()
@pytest.mark.parametrize("ffn", OWN_FFNS)
def test_a_model_of_the_users_own(ffn, tmp_path):
    model, inputs, layout = custom(OwnConfig(ffn=ffn, num_labels=3)), batch(texts(9, 4), extra=2), OWN_FFNS[ffn][1]
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    expected = model(**inputs).logits
    if layout is not None:
        refuse(model, None, "no FFN of a known shape in OwnLayer.*MoEConfig", ConversionError)
    model = upcycle(model, MoEConfig(ffn=layout))
    assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    scatter(model).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    with pytest.raises(RuntimeError):
        OwnClassifier.from_pretrained(tmp_path)


# --- the loss, and whoever trains with it

COEFFICIENTS = [(0, 0), (0.5, 0), (0, 0.25), (0.5, 0.25)]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2-mean"])
@pytest.mark.parametrize(("balance", "z"), COEFFICIENTS)
def test_the_loss_includes_the_auxiliary_losses(family, balance, z):
    model = sparse(family, router_aux_loss_coef=balance, router_z_loss_coef=z, num_experts=3)
    inputs, labels = batch(texts(9, 4, 12), extra=1), torch.tensor([0, 2, 1])
    output = model(**inputs, labels=labels)
    chosen = [top_k(logits, 2)[1] for logits in output.router_logits]
    pairs = list(zip(output.router_logits, chosen, strict=True))
    assert all(logits.shape == (25, 3) for logits in output.router_logits)
    by_hand = sum(
        balance * load_balancing_loss(logits, experts) + z * router_z_loss(logits) for logits, experts in pairs
    )
    assert_close(output.aux_loss, torch.as_tensor(by_hand / 2).float())
    loads = torch.stack([torch.bincount(experts.flatten(), minlength=3) / 50 for experts in chosen])
    assert_close(output.expert_load, loads)
    assert_close(output.loss, functional.cross_entropy(output.logits, labels) + output.aux_loss)
    assert (output.aux_loss > 0) == (balance + z > 0)


def test_without_labels_there_is_no_loss_and_a_tuple_on_request():
    model, inputs = sparse(), batch(texts(9, 4))
    output = model(**inputs)
    assert output.loss is None and output.aux_loss is not None
    values = model(**inputs, labels=torch.tensor([0, 1]), return_dict=False)
    assert isinstance(values, tuple)
    assert values[0].shape == () and torch.equal(values[1], output.logits)
    assert torch.equal(values[-1].aux_loss, output.aux_loss)
    assert values[0] > functional.cross_entropy(values[1], torch.tensor([0, 1]))


def examples(count: int = 16) -> list[dict]:
    """Texts whose label is the range that their ids are from: quickly learnt."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        low, length = 5 + 30 * (index % 3), 3 + index % 5
        ids = torch.randint(low, low + 30, (length,), generator=generator)
        rows.append({"input_ids": ids, "labels": index % 3})
    return rows


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return batch([row["input_ids"] for row in rows]) | {"labels": torch.tensor([row["labels"] for row in rows])}


def arguments(tmp_path, **kwargs) -> TrainingArguments:
    common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return TrainingArguments(output_dir=str(tmp_path), **common | kwargs)


@pytest.mark.parametrize("family", ["bert-mean", "llama", "distilbert-mean"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_stock_trainer(family, checkpointing, tmp_path):
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}

    model = upcycle(dense(family))
    trainer = Trainer(
        model,
        arguments(tmp_path, num_train_epochs=20, learning_rate=5e-3, gradient_checkpointing=checkpointing),
        train_dataset=examples(),
        eval_dataset=examples(12),
        data_collator=collate,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert seen == [(12, 3), (12, 3)]
    assert after["eval_loss"] < 0.6 * before["eval_loss"]
    assert after["eval_accuracy"] > before["eval_accuracy"]
    trainer.save_model(str(tmp_path))
    loaded, inputs = AutoModelForSequenceClassification.from_pretrained(tmp_path), collate(examples(4))
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)


class InOrder(torch.utils.data.IterableDataset):
    def __init__(self, rows: list[dict]):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_accumulated_gradients_are_divided(family, tmp_path):
    """The same two texts twice: in one batch of four or in two steps of two, one SGD step must be the same."""
    changes = {} if family == "llama" else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    start = sparse(family, changes=changes)
    trained = []
    for size, steps in ((4, 1), (2, 2)):
        model = copy.deepcopy(start)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        sgd = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "max_grad_norm": 0.0}
        settings = arguments(tmp_path, **options, **sgd)
        Trainer(model, settings, train_dataset=InOrder(examples(2) * 2), data_collator=collate).train()
        trained.append(dict(model.named_parameters()))
    assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)
    moved = max(float((value - trained[0][name]).detach().abs().max()) for name, value in start.named_parameters())
    assert moved > 1e-2


@pytest.mark.parametrize("with_accelerate", [True, False])
@pytest.mark.parametrize("expert", ["gated", "plain"])
def test_a_plain_loop_lowers_the_loss(with_accelerate, expert):
    model = upcycle(dense("bert-mean"), MoEConfig(expert=expert, num_experts_per_tok=1, init_noise=0.05)).train()
    everything = collate(examples())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = torch.utils.data.DataLoader(examples(), batch_size=8, collate_fn=collate)
    backward = torch.Tensor.backward
    if with_accelerate:
        accelerator = Accelerator(cpu=True)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        backward = accelerator.backward
    before = model(**everything).loss.item()
    for _ in range(20):
        for inputs in loader:
            optimizer.zero_grad()
            backward(model(**inputs).loss)
            optimizer.step()
    assert model(**everything).loss.item() < 0.6 * before


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_autocast_with_padding(family):
    model, inputs = sparse(family), batch(texts(9, 4, 12), extra=2) | {"labels": torch.tensor([0, 1, 2])}
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    assert all(logits.dtype == torch.float32 for logits in output.router_logits)
    assert_close(output.logits.float(), expected.logits, rtol=0.1, atol=0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    """Kind: an error about something else. NaN reproduces no FFN, so the model had "no FFN of a known shape"."""
    model = dense("bert")
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = value
    with pytest.raises(WeightsError, match=r"cannot be upcycled: .*layer\.1\.output\.dense\.weight holds values that"):
        _ = upcycle(model)
