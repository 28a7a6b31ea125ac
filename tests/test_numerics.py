"""A text's answer depends on that text alone: the short version of `make numerics`, at a real size on real tweets."""

from types import SimpleNamespace

import numerics
import numpy as np
import pytest
import torch
from backbone import tokenizer
from tiny import scatter

from sentimoe import MoEConfig, load_classifier, upcycle
from sentimoe.data import load_dataset
from sentimoe.inference import Engine, StagedClassifier


@pytest.fixture(scope="module")
def tweets():
    return load_dataset("tweets").splits["test"].texts[:60]


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    model = load_classifier("all-MiniLM-L6-v2", ["negative", "neutral", "positive"])
    torch.nn.init.normal_(model.classifier.weight, std=0.5)  # a fresh head hardly tells texts apart
    return model


@pytest.mark.parametrize("experts", [0, 4])
def test_neighbours_padding_and_crowded_experts_move_no_answer(dense, tweets, experts):
    model = scatter(upcycle(dense, MoEConfig(num_experts=experts))) if experts else dense
    found = numerics.measure(Engine(model, tokenizer(), precision="float32"), tweets, mixes=3)
    assert found["answers"] == 180 and found["changed_labels"] == 0
    assert found["max_difference"] <= 1e-5
    assert found["texts_with_a_flipped_token"] <= 2 and found["largest_gap_of_a_flipped_token"] < 1e-4


def test_a_mix_sorts_texts_by_the_expert_that_reads_most_of_them(dense, tweets):
    model = scatter(upcycle(dense, MoEConfig(num_experts=4)))
    engine = Engine(model, tokenizer(), precision="float32")
    encodings = numerics.make_windows(tweets, engine.tokenizer, engine.max_length, "truncate").encodings
    alone = [numerics.answer(engine, encodings, numerics.Batch([row]))[1][0] for row in range(20)]
    order = [row for batch in numerics.mixed(encodings[:20], alone, 1) for row in batch.rows]
    main = [int(numerics.np.bincount(alone[row][0].ravel()).argmax()) for row in order]
    assert sorted(order) == list(range(20)) and main == sorted(main) and len(set(main)) > 1


class ByNeighbours(torch.nn.Module):
    """A head that is as sure as the first token says, and surer beside other texts."""

    def forward(self, hidden, mask):
        return hidden[:, 0, :2]


def test_texts_that_leave_after_other_layers_are_counted_apart():
    """One text is .0005 below the threshold alone and above it in company; a second one changes its label there."""
    words, read = tokenizer(), [f"{word} morning" for word in ("good", "bad", "early", "late", "cold", "warm", "new")]
    unsure, torn = (words(text)["input_ids"][1] for text in read[:2])

    def first(ids, mask):
        sure = np.where(ids[:, 1] == unsure, 0.7995, np.where(ids[:, 1] == torn, 0.5, 0.99))
        sure = sure + (0.001 if len(ids) > 1 else 0.0)
        states = np.zeros((*ids.shape, 2), dtype=np.float32)
        states[:, 0, 0] = np.log(sure / (1 - sure))
        return states, None

    def last(states, mask):
        torn_in_company = (states[:, 0, :1] > 0.001) & (states[:, 0, :1] < 0.1)
        return states, np.where(torn_in_company, [[-9.0, 0.0]], [[0.0, 0.0]]).astype(np.float32)

    heads = [ByNeighbours(), ByNeighbours()]
    told = {"layers": (3, 6), "padding": 0, "labels": ("a", "b"), "label_type": "str", "ordinal": False}
    staged = StagedClassifier((first, last), heads, (0.8,), **told, max_length=64)
    found = numerics.measure_exits(SimpleNamespace(tokenizer=words, max_length=64, model=staged), read, mixes=2)
    assert (found["answers"], found["texts_with_a_flipped_token"], found["changed_labels"]) == (14, 2, 2)
    assert found["largest_gap_of_a_flipped_token"] == pytest.approx(0.0005, abs=1e-6)
    assert found["max_difference"] == pytest.approx(0.5, abs=1e-3)  # of the text that only changed its label
