"""A text's answer depends on that text alone: the short version of `make numerics`, at a real size on real tweets."""

import numerics
import pytest
import torch
from backbone import tokenizer
from tiny import scatter

from sentimoe import MoEConfig, load_classifier, upcycle
from sentimoe.data import load_dataset
from sentimoe.inference import Engine


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
