"""What the measures of `explain` say, on routing that is known and on models with a planted secret."""

import copy
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from backbone import write_backbone
from command import invoke
from sklearn.metrics import f1_score
from tiny import batch, dense, scatter, sparse, texts
from tokenizers.processors import Sequence
from typer.testing import CliRunner

import sentimoe_cli
from experiments.interpretability import interpretability
from sentimoe import MoEConfig, SentimentClassifier, upcycle
from sentimoe.data import Split, load_dataset
from sentimoe.errors import ConfigError, DataError
from sentimoe.explain import (
    Activation,
    attribute,
    class_preferences,
    expert_similarity,
    information_with_baseline,
    knock_out_each,
    knocked_out,
    label_suspects,
    mistakes,
    mutual_information,
    neighbours,
    project,
    representation,
    separation,
    top_texts,
    top_tokens,
    trace,
    write_trace,
    written,
)
from sentimoe.explain.controls import changed, controls, mean_expert, other_router
from sentimoe.explain.findings import find, without_texts
from sentimoe.explain.report import doubts, fitting, pieces, read_part, report_html, write_report
from sentimoe.explain.sizes import FIRST, Sizes, first_page
from sentimoe.explain.summary import answer, listed, quoted, signed, things_to_know
from sentimoe.explain.words import PARTS, has_tagger, lexicon_groups, part_groups, spread, words_of
from sentimoe.inference import Engine, in_precision
from sentimoe.methods import adapt
from sentimoe.moe import EXPERTS_BACKENDS, mask_experts
from sentimoe.training import TrainConfig, train
from sentimoe.upcycle import load_classifier, moe_layers

HOT = ("fire", "flame", "burning", "heat")
FILLER = (
    "the", "a", "thing", "went", "home", "today", "with", "some", "other", "people", "and", "then", "we", "saw",
    "house", "tree", "water",
)  # fmt: skip


def planted(count, seed=0):
    """Texts of random words; one word of one family makes the class, nothing else does."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        words = list(rng.choice(FILLER, size=rng.integers(5, 10)))
        if index % 2:
            words.insert(int(rng.integers(len(words))), str(rng.choice(HOT)))
        found.append({"text": " ".join(words), "label": "hot" if index % 2 else "calm"})
    return pd.DataFrame(found).drop_duplicates("text")


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A small model with experts, trained on the planted data, and the data."""
    root = tmp_path_factory.mktemp("planted")
    (root / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 800), ("validation", 100), ("test", 300))):
        planted(count, seed).to_csv(root / "data" / f"{name}.csv", index=False)
    moe = {"layers_to_transform": [-1], "num_experts": 4, "num_experts_per_tok": 1, "init_noise": 0.1}
    config = TrainConfig(
        model=write_backbone(root / "backbone"), data=str(root / "data"), method="moe-gated", epochs=4, batch_size=16,
        max_length=32, learning_rate=5e-3, router_learning_rate=2e-2, method_settings=moe, precision="float32",
    )  # fmt: skip
    train(config, root / "model", progress=False)
    return root


@pytest.fixture(scope="module")
def engine(secret):
    return SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate").engine


@pytest.fixture(scope="module")
def dataset(secret):
    return load_dataset(str(secret / "data"))


def counted(engine, part):
    activation = Activation(1, 4, len(engine.tokenizer))
    answers = []
    for each in trace(engine, part.texts):
        activation.add(each)
        answers.append(each.probabilities)
    return activation, np.concatenate(answers)


def test_the_measures_find_the_planted_expert(engine, dataset):
    part = dataset.splits["test"]
    labels = np.asarray(part.labels)
    hot = dataset.label_names.index("hot")
    activation, probabilities = counted(engine, part)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95

    (information,) = information_with_baseline(activation.by_text, labels, 2, permutations=500)
    assert information["p_value"] < 0.01 and information["bits"] > 3 * information["shuffled_95"]
    p_values = class_preferences(activation.by_text, labels, 2, permutations=500)[hot, 0]
    ids = engine.tokenizer.convert_tokens_to_ids(list(HOT))
    share = activation.by_token[ids, 0].sum(axis=0) / activation.tokens[ids].sum()
    expert = int(share.argmax())
    assert share[expert] > 0.9 and p_values[expert] < 0.01
    names = engine.tokenizer.convert_ids_to_tokens(range(len(engine.tokenizer)))
    best = top_tokens(activation, names, 0, expert, count=6, support=10)
    assert len(set(HOT) & {row["token"] for row in best}) >= 3


@pytest.fixture(scope="module")
def lonely(engine, dataset):
    """The trained model reads the words in its first layer too; here its expert is the only one that can say the class.

    An engine, and the expert.
    """
    part, hot = dataset.splits["test"], dataset.label_names.index("hot")
    activation, _ = counted(engine, part)
    ids = engine.tokenizer.convert_tokens_to_ids(list(HOT))
    expert = int(activation.by_token[ids, 0].sum(axis=0).argmax())
    lonely = copy.deepcopy(engine)
    experts = moe_layers(lonely.model)[0].experts
    head = lonely.model.classifier
    with torch.no_grad():
        says = head.weight[hot] - head.weight[1 - hot]
        nothing = torch.randn(len(says), generator=torch.Generator().manual_seed(0))
        nothing -= (nothing @ says) / says.square().sum() * says
        experts.down_proj.zero_()
        experts.down_proj_bias.copy_(1000 * nothing.expand_as(experts.down_proj_bias))
        experts.down_proj_bias[expert] = 1000 * says
        odds = np.log(lonely.predict_proba(part.texts)).dot([-1, 1] if hot else [1, -1])
        labels = np.asarray(part.labels)
        head.bias[hot] -= float(odds[labels == hot].mean() + odds[labels != hot].mean()) / 2
    return lonely, expert


def test_knock_out_and_attribution_find_the_planted_words(secret, engine, lonely, dataset):
    part, hot = dataset.splits["test"], dataset.label_names.index("hot")
    lonely, expert = lonely
    labels = np.asarray(part.labels)
    _, rows = knock_out_each(lonely, part.texts, labels)
    losses = [row["change"][hot] for row in rows]
    assert int(np.argmin(losses)) == expert and losses[expert] < -80

    classifier = SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate")
    rows = [row for row, label in enumerate(part.labels) if label == hot][:10]
    found = 0
    for row in rows:
        scores = attribute(engine, classifier.model, part.texts[row], hot)["tokens"]
        best = max(scores, key=lambda token: token["score"])
        found += part.texts[row][best["start"] : best["end"]] in HOT
    assert found >= 8


def test_what_is_lost_without_experts(engine, lonely, dataset):
    """Copies need neither their router nor one another; an expert that alone can say a class is missed."""
    part = dataset.splits["test"]
    labels = np.asarray(part.labels)
    as_it_is, routed, meant = controls(changed(engine, mean_expert), part.texts, labels)
    assert routed["flipped"] == meant["flipped"] == routed["test"]["difference"] == 0
    assert routed["log_loss"] == pytest.approx(as_it_is["log_loss"], rel=1e-5)

    alone = lonely[0]
    before = copy.deepcopy(alone.model.state_dict())
    as_it_is, routed, meant = controls(alone, [*part.texts, "", None], [*labels, 0, 0])  # two without an answer
    assert all(torch.equal(value, before[name]) for name, value in alone.model.state_dict().items())
    answers = alone.predict_proba(part.texts)
    said = answers.argmax(axis=1)
    assert as_it_is["f1_weighted"] == pytest.approx(f1_score(labels, said, average="weighted"))
    exact = answers.astype(float)[np.arange(len(labels)), labels]
    assert as_it_is["log_loss"] == pytest.approx(-np.log(exact.clip(1e-15)).mean(), rel=1e-3)
    assert as_it_is["flipped"] == 0 and as_it_is["test"] is None
    for row in (routed, meant):
        assert row["test"]["difference"] == pytest.approx(row["f1_weighted"] - as_it_is["f1_weighted"])
        assert row["test"]["difference"] < -0.2 and row["flipped"] > 0.2
    assert meant["test"]["interval"][1] < -0.2  # of another router one draw may be lucky
    assert (routed["test"]["n_seeds_a"], meant["test"]["n_seeds_a"]) == (3, 1)
    with pytest.raises(DataError, match="none of the 2 texts"):
        controls(alone, ["", None], [0, 1])


def test_another_router_is_another_one_in_every_layer_and_draw():
    layers = moe_layers(upcycle(dense(), MoEConfig(layers_to_transform=[0, 1])))
    deviations = []
    for layer in layers:
        layer.router.weight.data.mul_(7)
        layer.router.bias = torch.nn.Parameter(torch.ones(4))
        deviations.append(layer.router.weight.std().item())
    drawn = []
    for place, draw in ((0, 0), (1, 0), (0, 1), (1, 1)):
        other_router(layers[place], place, draw)
        drawn.append(layers[place].router.weight.detach() / deviations[place])
        assert drawn[-1].std().item() == pytest.approx(1, rel=0.3) and not layers[place].router.bias.any()
    assert all((one - other).abs().max() > 0.1 for at, one in enumerate(drawn) for other in drawn[:at])


@pytest.mark.parametrize(
    ("method", "settings"),
    [("moe-lora", {"init_noise": 0.5}), ("moe-split", {"num_experts": 3, "num_experts_per_tok": 1})],
)
def test_parts_and_updates_have_no_mean(engine, tmp_path, method, settings):
    """Neurons of a divided FFN are no copies; updates that lie beside the weights would be left out of a mean."""
    model = load_classifier(write_backbone(tmp_path / "backbone"), ["calm", "hot"])
    batches = [dict(engine.tokenizer(["fire in the house", "the tree went home"], return_tensors="pt", padding=True))]
    model = adapt(model, method, settings, batches).eval()
    given = [f"the {word} went home with some {other}" for word in HOT for other in FILLER]
    told = controls(Engine(model, engine.tokenizer, precision="float32"), given, [0, 1] * (len(given) // 2))
    assert [row["name"] for row in told] == ["as it is", "another router"]
    assert told[0]["log_loss"] != told[1]["log_loss"]


def test_shuffled_labels_show_nothing(engine, dataset):
    part = dataset.splits["test"]
    activation, _ = counted(engine, part)
    alarms = 0
    for seed in range(10):
        labels = np.random.default_rng(seed).permutation(part.labels)
        (found,) = information_with_baseline(activation.by_text, labels, 2, permutations=200, seed=seed)
        alarms += found["p_value"] < 0.05
        alarms += bool((class_preferences(activation.by_text, labels, 2, permutations=200, seed=seed) < 0.05).any())
    assert alarms <= 3  # of 20 tests at 5%


def test_a_trace_is_what_the_layers_did(engine):
    given = ["fire in the house", "", "the  thing 🔥 went", "a " * 100, None]
    (found,) = trace(engine, given)
    assert found.texts == ["fire in the house", "", "the  thing 🔥 went", "a " * 100, ""]
    np.testing.assert_allclose(found.probabilities, engine.predict_proba(given), atol=1e-6)
    assert np.isnan(found.probabilities[[1, 4]]).all() and set(found.text.tolist()) == {0, 2, 3}
    for row in (0, 2, 3):
        mine = found.text == row
        encoded = engine.tokenizer(found.texts[row], truncation=True, max_length=engine.max_length, return_tensors="pt")
        assert found.token_id[mine].tolist() == encoded["input_ids"][0].tolist()
        with torch.no_grad():
            logits = engine.model(**encoded).router_logits[0]
        assert found.experts[mine, 0, 0].tolist() == logits.argmax(dim=-1).tolist()
    pieces_of = [given[0][a:b] for a, b in zip(found.start[found.text == 0], found.end[found.text == 0], strict=True)]
    assert pieces_of == ["", "fire", "in", "the", "house", ""]


def test_weights_are_those_of_the_layer():
    """Two experts per token: their weights sum to 1 and come from the softmax over all experts."""
    torch.manual_seed(0)
    model = scatter(upcycle(dense("bert"), MoEConfig(num_experts_per_tok=2)))
    inputs = batch(texts(5, 7))
    with torch.no_grad():
        routed = model(**inputs).router_logits
    for layer, logits in zip(moe_layers(model), routed, strict=True):
        weights, chosen = layer.choose(logits)
        expected = logits.softmax(-1).gather(-1, chosen)
        torch.testing.assert_close(weights, expected / expected.sum(-1, keepdim=True))


def test_a_trace_in_parquet(engine, dataset, tmp_path):
    part = dataset.splits["test"]
    given = part.texts * 4  # more than one chunk
    traces = list(write_trace(trace(engine, given), tmp_path / "trace.parquet"))
    assert len(traces) == 2 and traces[1].first == 1024
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table.num_rows == sum(len(each.text) for each in traces)  # one MoE layer
    assert table["text"].to_numpy()[-1] == len(given) - 1
    assert table["experts"].to_pylist()[:3] == traces[0].experts[:3, 0].tolist()
    assert set(table["layer"].to_pylist()) == {1}  # the second of two


def test_a_dense_model_has_no_trace(tmp_path):
    from transformers import AutoTokenizer

    from sentimoe.inference import Engine
    from sentimoe.upcycle import load_classifier

    backbone = write_backbone(tmp_path / "backbone")
    engine = Engine(load_classifier(backbone, ["a", "b"]), AutoTokenizer.from_pretrained(backbone), max_length=32)
    with pytest.raises(ConfigError, match="has no experts"):
        next(trace(engine, ["x"]))


def test_mutual_information_in_closed_form():
    assert mutual_information(np.eye(4)) == pytest.approx(2.0)  # four classes, each with an expert of its own: 2 bits
    assert mutual_information(np.outer([3, 1], [1, 2, 3])) == pytest.approx(0.0, abs=1e-12)


def test_shuffling_keeps_texts_whole():
    """Two long texts, each read by one expert, look like perfect knowledge token by token; two texts prove nothing."""
    by_text = np.array([[[900.0, 0.0]], [[0.0, 900.0]]])
    (found,) = information_with_baseline(by_text, np.array([0, 1]), 2, permutations=200)
    assert found["bits"] == pytest.approx(1.0) and found["p_value"] == 1.0


def test_knock_out_takes_the_next_best_expert(engine):
    layer = moe_layers(engine.model)[0]
    encoded = engine.tokenizer(["fire in the house"], return_tensors="pt")
    with torch.no_grad():
        before = engine.model(**encoded)
        second = before.router_logits[0].topk(2).indices
        first = int(second[1, 0])  # the expert of "fire"
        with mask_experts({layer: [first]}):
            after = engine.model(**encoded)
        again = engine.model(**encoded)
    chosen = after.router_logits[0].argmax(-1)
    assert (chosen != first).all() and chosen[1] == second[1, 1]
    assert not torch.equal(after.logits, before.logits) and torch.equal(again.logits, before.logits)
    others = set(range(4)) - {first}
    with pytest.raises(ValueError, match="cannot be closed"), mask_experts({layer: [*others, first]}):
        pass
    with pytest.raises(ConfigError, match="numbered from 0"), knocked_out(engine, [(1, 9)]):
        pass
    with (
        pytest.raises(ConfigError, match="layer 0 of this model has no experts; layers with experts: 1"),
        knocked_out(engine, [(0, 0)]),
    ):
        pass


def test_knock_out_closes_the_expert_of_the_layer_that_is_named():
    model = sparse("bert", layers_to_transform=[-3, -1])  # of three
    given = batch(texts(9, 6))
    engine = SimpleNamespace(model=model)
    with torch.no_grad(), knocked_out(engine, [(2, 2)]):
        chosen = [layer.experts for layer in model(**given).routing.layers]
    assert (chosen[0] == 2).any() and not (chosen[1] == 2).any()


def test_closing_an_expert_is_of_one_thread(engine):
    from concurrent.futures import ThreadPoolExecutor

    text = ["fire in the house"]
    before = engine.predict_proba(text)
    with knocked_out(engine, [(1, 0), (1, 1), (1, 2)]):
        inside = engine.predict_proba(text)
        with ThreadPoolExecutor(1) as pool:
            np.testing.assert_array_equal(pool.submit(engine.predict_proba, text).result(), before)
    assert not np.array_equal(inside, before)


def test_words_and_their_groups():
    text = "I don't like it :( great!"
    words = [text[a:b] for a, b in words_of(text)]
    assert words == ["I", "don't", "like", "it", ":(", "great", "!"]
    assert lexicon_groups(words) == [1, 1, 2, 1, 0, 2, 1]
    start, end = np.array([0, 0, 2, 5, 8, 25]), np.array([0, 1, 5, 7, 12, 26])
    groups = spread(text, words_of(text), range(7), start, end)
    assert groups.tolist() == [-1, 0, 1, 1, 2, -1]  # a special token has no characters; the last begins past the end


@pytest.mark.skipif(not has_tagger(), reason="HanTa is not installed")
def test_parts_of_speech():
    found = [
        PARTS[group]
        for group in part_groups(
            ["she", "never", "really", "loved", "the", "terrible", "dogs", "and", "3", "cats", "!"]
        )
    ]
    assert found[0] == "pronoun" and found[3:7] == ["verb", "determiner", "adjective", "noun"]
    assert found[7:] == ["conjunction", "number", "noun", "punctuation"]


def test_lift_and_support():
    activation = Activation(1, 2, 4)
    activation.by_token[:, 0] = [[30, 10], [1, 0], [5, 15], [0, 0]]
    activation.tokens[:] = [40, 1, 20, 0]
    best = top_tokens(activation, ["a", "rare", "b", "never"], 0, 0, support=20)
    assert [row["token"] for row in best] == ["a", "b"]
    assert best[0]["share"] == 0.75 and best[0]["lift"] == pytest.approx(0.75 / (36 / 61))
    activation._by_text = [np.array([[5.0, 5.0]]), np.array([[8.0, 2.0]]), np.array([[1.0, 0.0]])]
    activation._lengths = [10, 10, 1]
    assert [row["row"] for row in top_texts(activation, 0, 0)] == [1, 0]


def test_tokens_that_hold_the_blank_before_their_word():
    """As those of GPT-2 and Llama do."""
    text = "so good, so bad"
    start, end = np.array([0, 2, 7, 8, 11]), np.array([2, 7, 8, 11, 15])
    groups = spread(text, words_of(text), lexicon_groups([text[a:b] for a, b in words_of(text)]), start, end)
    assert groups.tolist() == [1, 2, 1, 1, 0]


def test_similarity_tells_copies_from_strangers(engine, monkeypatch):
    copied = copy.deepcopy(engine)
    experts = moe_layers(copied.model)[0].experts
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter[1] = parameter[0]
        experts.down_proj[2] = torch.randn_like(experts.down_proj[2])
    told = copied, ["fire in the house", "the thing"]
    whole = expert_similarity(*told)
    monkeypatch.setattr(representation, "TOKENS_AT_ONCE", 3)
    np.testing.assert_allclose(expert_similarity(*told), whole, rtol=0.02, atol=0.02)
    found = whole[0]
    assert found[0, 1] > 0.999 and found[0, 0] > 0.999 and abs(found[0, 2]) < 0.7


def test_what_an_expert_writes_for_a_text_is_the_mean_over_the_tokens_it_read(engine):
    engine = copy.deepcopy(engine)
    layer, seen = moe_layers(engine.model)[-1], []
    said = ["fire in the house fire in the house", "the thing went home today with some other people at the house"]
    states = representation.layer_inputs(engine, said[1:])[-1].float()
    mean = states.mean(dim=0)
    apart = (states - mean) - torch.outer((states - mean) @ mean, mean) / mean.square().sum()
    main = torch.linalg.svd(apart, full_matrices=False).Vh[:2]
    with torch.no_grad():  # the sides of the two main directions: the tokens of a text go to several experts
        layer.router.weight.copy_(torch.cat([main, -main]))
    points, of_text, of_expert = written(engine, said)
    assert (of_text == 1).sum() >= 3
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    for row, text in enumerate(said):
        with torch.inference_mode():
            logits = engine.model(**engine.tokenizer([text], return_tensors="pt")).router_logits[-1]
        chosen = layer.choose(logits)[1]
        for expert in range(layer.experts.num_experts):
            mine = (chosen == expert).any(dim=1)
            found = points[(of_text == row) & (of_expert == expert)]
            assert len(found) == (mine.sum() >= 2)
            if len(found):
                with torch.inference_mode():
                    alone = torch.full((int(mine.sum()), 1), expert)
                    by_hand = EXPERTS_BACKENDS["reference"](layer.experts, seen[-1][mine], alone, None).float().mean(0)
                np.testing.assert_allclose(found[0], by_hand.numpy(), rtol=0.05, atol=0.02)
    handle.remove()


def test_alike_reading_is_no_preference():
    """Every expert reads a seventh of everything: what is left is rounding."""
    by_text = np.full((60, 1, 7), 1 / 7, dtype=np.float32) * np.arange(5, 65, dtype=np.float32)[:, None, None]
    labels = np.arange(60) % 2
    assert (class_preferences(by_text, labels, 2, permutations=100) > 0.5).all()


def test_closing_experts_adds_up(engine):
    layer = moe_layers(engine.model)[0]
    with mask_experts({layer: [0]}), mask_experts({layer: [1]}), torch.no_grad():
        chosen = (
            engine.model(**engine.tokenizer(["fire in the house"], return_tensors="pt")).router_logits[0].argmax(-1)
        )
    assert not set(chosen.tolist()) & {0, 1}
    with (
        pytest.raises(ValueError, match="cannot be closed"),
        mask_experts({layer: [0, 1]}),
        mask_experts({layer: [2, 3]}),
    ):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attribution_adds_up_for_decoders(family):
    """Whose own head reads the last token that is not padding: blanking the text must not move it."""
    pytest.importorskip("captum")
    from language_models import tokenizer

    from sentimoe.explain import attribute
    from sentimoe.inference import Engine

    torch.manual_seed(0)
    model, words = dense(family).float().eval(), tokenizer("llama")
    words.model_max_length = 32
    model.resize_token_embeddings(len(words))
    model.config.pad_token_id = words.pad_token_id
    found = attribute(Engine(model, words, precision="float32"), model, "hello there you", 0)
    assert found["gap"] < 0.3


def test_the_page_shows_as_many_texts_as_fit():
    token = {"start": 0, "end": 1, "experts": [[0]] * 12, "weights": [[1.0]] * 12}
    text = {"text": "a", "tokens": [token] * 256, "probabilities": [0.5, 0.5], "knock_out": [[[0.0, 0.0]] * 8] * 12}
    found = {"model": {"layers": list(range(12)), "experts": 8}, "texts": [text] * 100}
    assert 5 < fitting(found) < 20 and fitting(found | {"texts": [text] * 3}) == 3


def test_cut_texts_are_counted(engine):
    (found,) = trace(engine, ["a " * 100, "short", "a " * 29, "a " * 30, "a " * 31])
    assert engine.max_length == 32 and found.truncated == 2


def test_a_text_without_a_token_has_no_answer(engine):
    """Some tokenizers drop characters and add none of their own."""
    bare = copy.copy(engine)
    bare.tokenizer = copy.deepcopy(engine.tokenizer)
    bare.tokenizer.backend_tokenizer.post_processor = Sequence([])
    (found,) = trace(bare, ["a", "\u200b", "home"])
    assert set(found.text.tolist()) == {0, 2}
    assert np.isnan(found.probabilities).all(axis=1).tolist() == [False, True, False]


def test_points_that_are_all_alike_are_not_projected():
    for points in (np.ones((30, 8)), np.ones((1, 8))):
        assert not project(points)[0].any()


def test_no_text_is_its_own_neighbour(secret, engine, dataset):
    found = find(engine, engine.model, dataset, "train", sizes=Sizes(shown=40, permutations=10))
    assert all(text["text"] not in [near["text"] for near in text["near"]] for text in found["texts"])
    assert all(len(text["near"]) == 3 for text in found["texts"])


def test_neighbours_go_by_routing_and_not_by_length():
    profiles = np.array([[[9.0, 1.0]], [[1.0, 9.0]], [[50.0, 50.0]]])
    assert neighbours(profiles, np.array([[[2.0, 18.0]], [[90.0, 10.0]]]), 1).tolist() == [[1], [0]]


def test_separation_is_of_the_original_space():
    points = np.vstack(
        [np.random.default_rng(0).normal(0, 0.1, (40, 8)), np.random.default_rng(1).normal(5, 0.1, (40, 8))]
    )
    groups = np.repeat([0, 1], 40)
    apart, mixed = separation(points, groups), separation(points, np.tile([0, 1], 40))
    assert apart["nmi"] == 1 and apart["silhouette"] > 0.9 and mixed["nmi"] < 0.1
    assert separation(points, np.zeros(80, int)) == {"silhouette": None, "nmi": None}


def test_label_suspects_by_confident_learning():
    labels = np.array([0] * 5 + [1] * 5)
    probabilities = np.array([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 5)
    probabilities[2] = [0.05, 0.95]  # says 1 with more confidence than texts of class 1
    probabilities[7] = [0.6, 0.4]  # leans to 0, below that class's mean confidence
    probabilities[8] = np.nan
    probabilities[9] = [0.93, 0.07]
    found = label_suspects(list("abcdefghij"), labels, probabilities, ["no", "yes"])
    assert found["count"] == 2 and [row["text"] for row in found["rows"]] == ["c", "j"]
    assert [row["answer"] for row in found["rows"]] == ["yes", "no"]


def test_a_suspect_is_an_error_and_its_answer_the_models_own():
    """Kinds: a right answer that is listed as another; a class that the model did not answer, called its answer."""
    labels = np.array([0] * 4 + [1] * 4 + [2] * 4)
    probabilities = np.repeat([[0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]], 4, axis=0)
    probabilities[0] = [0.52, 0.0, 0.48]  # 2 passes its threshold, and the model says 0 as the label does
    probabilities[1] = [0.05, 0.5, 0.45]  # says 1, below what texts of class 1 get; 2 passes
    counts, rows = mistakes(list("abcdefghijkl"), labels, probabilities, ["no", "yes", "so so"])
    assert counts == {"wrong": 1, "suspects": {"count": 1}}
    assert [(row["text"], row["answer"], row["suspect"], row["probability"]) for row in rows] == [
        ("b", "yes", "so so", 0.5)
    ]


def test_one_table_of_doubtful_labels_and_confident_errors():
    """Each text once, however many tables it would have stood in."""
    labels = np.array([0] * 5 + [1] * 5)
    probabilities = np.array([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 5)
    probabilities[2], probabilities[7], probabilities[9] = [0.05, 0.95], [0.6, 0.4], [0.93, 0.07]
    counts, rows = mistakes(list("abcdefghij"), labels, probabilities, ["no", "yes"])
    assert counts == {"wrong": 3, "suspects": {"count": 2}}
    assert [(row["text"], row["suspect"]) for row in rows] == [("c", "yes"), ("j", "no"), ("h", None)]
    assert len(mistakes(list("abcdefghij"), labels, probabilities, ["no", "yes"], count=2)[1]) == 2


def test_a_report_opens_with_the_answer(findings):
    """Beside the dense model where there is one, else beside equal experts; what is not shown is not claimed."""

    def beside(name, difference, *interval):
        return {"name": name, "test": {"difference": difference, "interval": interval}}

    rows = [beside("as it is", 0, 0, 0), beside("another router", 0.5, 0.4, 0.6)]
    said = answer({"controls": [*rows, beside("the dense model", 0.008, -0.015, 0.031)]})
    assert said["headline"] == "No: −0.8 points, −3.1 to +1.5" and "dense model" in said["sentence"]
    assert "includes 0" in said["sentence"]
    meant = [*rows, beside("their mean in place of all experts", -0.02, -0.03, -0.01)]
    assert answer({"controls": meant})["headline"] == "Yes: +2.0 points, +1.0 to +3.0"
    assert answer({"controls": [rows[0], beside("another router", -0.02, -0.05, 0.01)]})["headline"].startswith(
        "Not sh"
    )
    assert answer({"controls": rows})["headline"].startswith("No: −50.0 points, −60.0 to −40.0")

    page = report_html(findings)
    body = page[page.index("<body>") :]
    assert body.index("Do the experts help here?") < body.index("Five things to know") < body.index("<table>")
    told = things_to_know(findings)
    assert len(told) == 5 and all(f'id="in-{section}"' in page for section, _ in told)
    assert f"expert {findings['experts'][0]['expert']}" in page and "layer 1" in page and "Layer 0" not in page
    names = [
        name
        for module in sys.modules.values()
        if getattr(module, "__name__", "").startswith("sentimoe")
        for name in vars(module)
    ]
    ours = {name for name in names if name[0].isupper() and name[1:].lower() != name[1:] and not name.isupper()}
    assert "SentiMoEForSequenceClassification" in ours and not [name for name in ours if name in page]


def test_layers_are_named_as_a_person_would():
    assert [listed(layers) for layers in ([5], [4, 5], [0, 1, 2], [0, 4, 5])] == [
        "5",
        "4 and 5",
        "0 to 2",
        "0, 4 and 5",
    ]
    assert signed(-0.25) == "−0.2" and signed(3) == "+3.0" and signed(-0.04) == "0.0"
    assert doubts("", [], [], 0.1, "a") == [] and "60%" in doubts("", [], [], 0.6, "a")[0]


def test_the_dense_model_stands_beside_in_any_order_of_its_labels(engine, dataset):
    """The same answers under swapped labels are no difference."""
    part = dataset.splits["test"]
    swapped = copy.copy(engine)
    swapped.model = copy.deepcopy(engine.model)
    head = swapped.model.classifier
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))
        head.bias.copy_(head.bias.flip(0))
    swapped.label_names = engine.label_names[::-1]
    row = controls(engine, part.texts, part.labels, dense=swapped)[1]
    assert row["name"] == "the dense model" and row["flipped"] == 0 and row["test"]["difference"] == 0


def test_colours_that_the_model_contradicts_are_told(findings, engine, monkeypatch):
    """Kind: "furious" painted as against negative, though the answer is less sure without it."""
    captum = pytest.importorskip("captum.attr")
    exact, text = in_precision(engine.model, torch.float32), "the fire went home today"
    hot = int(engine.predict_proba([text])[0].argmax())
    assert 2 not in attribute(engine, exact, text, hot)["disputed"]  # [CLS] the fire
    right = captum.LayerIntegratedGradients.attribute
    monkeypatch.setattr(captum.LayerIntegratedGradients, "attribute", lambda *given, **how: -right(*given, **how))
    turned = attribute(engine, exact, text, hot)
    assert turned["tokens"][2]["score"] < 0 and 2 in turned["disputed"]
    told = copy.deepcopy(findings)
    told["texts"][0] |= {"disputed": [1], "gap": 0.6}
    told["texts"][0]["tokens"][1]["score"] = -0.4
    page, first = report_html(told), told["texts"][0]
    word = first["text"][slice(*(first["tokens"][1][key] for key in ("start", "end")))]
    assert f"{quoted(word)} is red, but without it the model would find {quoted(first['answer'])} less" in page
    assert page.count("rough guide") == 1


def test_pieces_are_the_text_again():
    tokens = [{"start": 0, "end": 0}, {"start": 0, "end": 2}, {"start": 3, "end": 5}, {"start": 4, "end": 6}]
    assert "".join(piece for piece, _ in pieces("ab cdef!", tokens)) == "ab cdef!"


def hostile():
    """200 strings that a page must show and never run."""
    shapes = [
        "<script>alert({n})</script>", "<img src=x onerror=alert({n})>", "\"><svg onload=alert({n})>", "'-alert({n})-'",
        "javascript:alert({n})", "</title><script>x{n}</script>", "{{{{ {n} * 7 }}}}", "{{% raw %}} {n}",
        "&lt;b&gt;{n}",
        "<!-- {n}", "]]>{n}", "\u202egnirts{n}", "\x00\x08{n}", "<style>*{{display:none}}</style>{n}",
        "<a href='http://example.com/{n}'>x</a>", "<iframe src=//example.com/{n}>", "$\\frac{{{n}}}$", "%s %d {n}",
        "</bdi></td></table><h1>{n}", "<base href=//example.com/{n}>",
    ]  # fmt: skip
    return [shape.format(n=n) for n in range(10) for shape in shapes]


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = set(), [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


def test_a_report_shows_hostile_text_and_runs_nothing(secret, tmp_path):
    """In text, label, column and file names."""
    strings = hostile()
    assert len(strings) == 200
    rows = [
        {"<b>text</b>": f"{text} fire {n}", "label": "<i>hot</i>" if n % 2 else "{{ 7 * 7 }}"}
        for n, text in enumerate(strings)
    ]
    folder = tmp_path / "data <script>alert(1)<!-- "
    folder.mkdir()
    for name in ("train", "validation", "test"):
        lines = [json.dumps(row | {"<b>text</b>": f"{row['<b>text</b>']} {name}"}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    moe = {"layers_to_transform": [-1], "num_experts_per_tok": 1}
    config = TrainConfig(
        model=str(secret / "backbone"), data=str(folder), text_column="<b>text</b>", method="moe-gated", epochs=1,
        max_length=32, method_settings=moe, precision="float32",
    )  # fmt: skip
    train(config, tmp_path / "model", progress=False)
    told = ["explain", str(tmp_path / "model"), "--data", str(folder), "--text-column", "<b>text</b>"]
    told += ["--output", str(tmp_path / "report"), "--shown", "100", "--limit", "200", "--full"]
    done = CliRunner().invoke(sentimoe_cli.app, told)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    read = Tags()
    read.feed(page)
    assert not {"script", "img", "iframe", "b", "i", "base", "object", "link"} & read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert {value[0] for name, value in read.attributes if name == "href"} == {"#"}
    assert not {name for name, _ in read.attributes} & {"src", "srcset", "action", "data", "xlink:href"}
    assert all(re.fullmatch(r"--v: \d+", value) for name, value in read.attributes if name == "style")
    shown = "".join(read.text)
    found = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert len(found["texts"]) == 100 and "<i>hot</i>" in shown and "{{ 7 * 7 }}" in shown
    for text in found["texts"]:
        assert "".join(piece for piece, _ in pieces(text["text"], text["tokens"])) == text["text"]
    assert page.count("<article>") == 100 and len(page) < 5_000_000
    assert report_html(found) == page  # the JSON holds everything

    again = CliRunner().invoke(sentimoe_cli.app, told)
    assert again.exit_code == 1 and "holds a report already" in str(again.exception)


def test_a_record_keeps_no_text_and_says_what_is_there(secret, engine, dataset, tmp_path):
    """What `--record` keeps, and the statements and pictures that results make of it."""
    classifier = SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate")
    sizes = Sizes(shown=5, knocked_out=60, projected=60, compared=20, tagged=10, permutations=200)
    found = find(classifier.engine, classifier.model, dataset, "test", sizes=sizes)
    kept = without_texts(found)
    written = json.dumps(kept)
    assert not [text for text in dataset.splits["test"].texts if text in written]
    assert kept["shown"]["texts"] == 5

    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "planted.json").write_text(written)
    (record,) = interpretability(tmp_path, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "explain-planted-classes.png",
        "explain-planted-clusters.png",
    }
    hot = next(row for row in record["preferred"] if row["label"] == "hot")
    assert hot["p"] < 0.05 and hot["share"] > hot["others"]
    assert all(row["p"] < 0.05 for row in record["preferred"])
    p_values = np.array(record["class_p"])
    idle = [f"layer 1: expert {e} is preferred by no class" for e in range(4) if (p_values[:, 0, e] >= 0.05).all()]
    assert [line for line in record["unread"] if "preferred by no class" in line] == idle
    alike = np.array(record["similarity"][0])[~np.eye(4, dtype=bool)]
    assert record["likeness"] == [[alike.min(), alike.max()]]
    changes = np.array([row["change"] for row in found["knock_out"]])
    said = record["closing"]
    assert said["cells"] == changes.size == 4 * len(record["data"]["labels"])
    assert (said["down"], said["up"]) == ((changes < -1).sum(), (changes > 1).sum())
    assert (said["worst"]["points"], said["best"]["points"]) == (changes.min(), changes.max())
    assert changes[said["worst"]["expert"], record["data"]["labels"].index(said["worst"]["label"])] == changes.min()
    routed = found["controls"][1]
    low, high = (signed(100 * bound, 2) for bound in routed["test"]["interval"])
    shown = f"<td>{signed(100 * routed['test']['difference'], 2)} ({low} to {high})</td>"
    assert shown in report_html(found) and f"<td>{100 * routed['flipped']:.1f}%</td>" in report_html(found)


def test_a_text_without_a_token_changes_no_label(secret, dataset):
    """It has no answer, whatever is closed."""
    classifier = SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate")
    some = dataset.splits["test"].sample(20)
    part = Split([*some.texts, *["\u200b"] * 40], [*some.labels, *[0] * 40])
    sizes = Sizes(shown=1, knocked_out=60, projected=20, compared=5, tagged=5, permutations=9)
    found = find(
        classifier.engine,
        classifier.model,
        replace(dataset, splits=dataset.splits | {"test": part}),
        "test",
        sizes=sizes,
    )
    assert found["flipped_by_some_expert"] <= sum(row["flipped"] for row in found["knock_out"])
    assert found["flipped_by_some_expert"] <= 1 / 3


@pytest.fixture(scope="module")
def findings(secret, dataset):
    classifier = SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate")
    sizes = Sizes(shown=3, knocked_out=30, projected=30, written=20, compared=20, tagged=10, permutations=99)
    return find(classifier.engine, classifier.model, dataset, "test", sizes=sizes)


def test_hostile_names_of_everything(findings):
    """200 strings as names of the data, of labels, tokens and texts, eight of them on a page."""

    def read(told):
        tags = Tags()
        tags.feed(report_html(told))
        return tags

    plain = read(findings)
    names = sorted({name for name, _ in plain.attributes})
    strings = hostile()
    for start in range(0, len(strings), 8):
        name, split, one, two, token, said, mistaken, near = strings[start : start + 8]
        told = copy.deepcopy(findings)
        told["data"] |= {"name": name, "split": split, "labels": [one, two]}
        told["experts"][0]["tokens"][0]["token"] = token
        told["experts"][0]["texts"][0]["text"] = said
        told["mistakes"] = [
            {"row": 1, "text": mistaken, "label": one, "answer": two, "probability": 0.9, "suspect": two}
        ]
        for text in told["texts"]:
            text |= {"text": said + text["text"], "label": one, "answer": two, "near": [{"text": near, "label": one}]}
        found = read(told)
        assert found.tags == plain.tags and sorted({name for name, _ in found.attributes}) == names
        shown = "".join(found.text)
        assert all(bad in shown for bad in strings[start : start + 8])


def test_names_that_are_no_text_can_be_written(secret, dataset, tmp_path):
    """A folder whose name is not UTF-8, and half a character in a label."""
    broken = replace(dataset, name="d\udcff", label_names=("calm\ud83d", "hot"))
    classifier = SentimentClassifier.from_pretrained(secret / "model", precision="float32", long_texts="truncate")
    sizes = Sizes(shown=2, knocked_out=10, projected=10, written=5, compared=5, tagged=5, permutations=9)
    found = find(classifier.engine, classifier.model, broken, "test", sizes=sizes)
    assert write_report(found, tmp_path).is_file() and found["data"]["name"].startswith("d")


def test_long_texts_keep_the_page_small(findings):
    """The page shows what the model read, however long a text is, and as many texts as fit."""
    told = copy.deepcopy(findings)
    longest = told["texts"][0]
    longest["text"] += " & more" * 200_000
    page = report_html(told)
    assert len(page) < 1_000_000 and "1,400,000 more characters" in page
    assert read_part(longest["text"], longest["tokens"]) == findings["texts"][0]["text"].rstrip()
    whole = "&" * 2000
    read = [{**longest["tokens"][1], "start": place, "end": place + 50} for place in range(0, 2000, 50)]
    told["texts"] = [longest | {"text": whole, "tokens": read}] * 99
    assert 0 < fitting(told) < 99 and len(report_html(told).encode()) < 5_000_000


def test_every_labelled_row_of_a_file_is_explained(secret, tmp_path):
    """Any delimiter, encoding and column names, as `evaluate` reads it; labels in the order of the model."""
    rows = planted(60).sort_values("label")
    lines = [f"{text};{label}" for text, label in zip(rows.text, rows.label, strict=True)]
    file = tmp_path / "reviews.csv"
    file.write_bytes("\n".join(["Caf\xe9;kind", *lines, "no label;"]).encode("cp1252"))
    told = ["explain", secret / "model", "--data", file, "--text-column", "Caf\xe9", "--label-column", "kind"]
    told += ["--delimiter", ";", "--encoding", "cp1252", "--shown", "1", "--output", tmp_path / "report"]
    assert "1 without a label" in invoke(*told, "--strict").error
    done = invoke(*told)
    assert done.exit_code == 0 and "1 without a label" in done.stderr, done.stderr
    found = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert found["data"]["texts"] == len(rows) and found["model"]["name"] == "model (backbone, moe-gated)"
    assert f"Do the experts help here? {answer(found)['headline']}" in done.stdout


def test_a_first_page_reads_fewer_of_long_texts(engine):
    """Kind: seven minutes of waiting for a first look."""
    assert first_page(engine, Split(["the house"] * 300, [0] * 300)) == (500, FIRST)
    longer = copy.copy(engine)
    longer.max_length = 300
    count, sizes = first_page(longer, Split(["the house " * 60] * 300, [0] * 300))
    assert 100 <= count < 150 and (sizes.shown, sizes.answered, sizes.routers) == (3, count, 1)


def test_explain_bounds_its_memory(secret, tmp_path, monkeypatch):
    """Few kernels, small batches, and freed memory given back after each group of texts."""
    calls, sizes = [], []
    monkeypatch.setattr("sentimoe.inference.keep_few_kernels", lambda: calls.append("kernels"))
    monkeypatch.setattr("sentimoe.inference.return_freed_memory", lambda: calls.append("freed"))
    monkeypatch.setattr(sys.modules["sentimoe.explain.trace"], "TEXTS_PER_CHUNK", 10)
    load = sentimoe_cli.explain._load
    monkeypatch.setattr(sentimoe_cli.explain, "_load", lambda *told: sizes.append(load(*told)) or sizes[-1])
    told = ["explain", str(secret / "model"), "--data", str(secret / "data"), "--output", str(tmp_path / "report")]
    done = CliRunner().invoke(sentimoe_cli.app, [*told, "--limit", "25", "--shown", "1"])
    assert done.exit_code == 0, done.output
    assert calls == ["kernels", "freed", "freed", "freed"]
    assert torch.cuda.is_available() or sizes[0][1].tokens_per_batch == 2048
