"""What a run is made from. Kind: a setting that reaches nothing, or reaches something else."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import labelled_texts, tokenizer, write_backbone
from transformers import EvalPrediction

from sentimoe import SentimentClassifier, load_classifier
from sentimoe.data import Split, dataset_from_texts, load_unlabelled
from sentimoe.errors import ModelFolderError
from sentimoe.evaluation import classification_metrics
from sentimoe.methods import save_adapted
from sentimoe.records import read_json
from sentimoe.training import TrainConfig, dataset_of, fit, prepare
from sentimoe.training.distillation import NO_LABEL
from sentimoe.training.tokens import tokenise

fitting = sys.modules["sentimoe.training.fit"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Settings of a small run."""
    backbone = write_backbone(tmp_path_factory.mktemp("backbone"))
    return {"model": backbone, "method": "full", "max_length": 32, "batch_size": 16, "precision": "float32"}


@pytest.fixture(scope="module")
def dataset():
    return dataset_from_texts(*labelled_texts(60))


def test_the_seed_draws_the_head_the_routers_and_the_noise(told, dataset):
    def weights(seed):
        settings = {"layers_to_transform": [-1], "init_noise": 0.1}
        return prepare(
            TrainConfig(**told | {"method": "moe-gated"}, method_settings=settings, seed=seed), dataset
        ).model.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    place = "base.encoder.layer.1.output.dense"
    assert changed == {
        "classifier.weight", f"{place}.router.weight", f"{place}.experts.gate_up_proj", f"{place}.experts.down_proj"
    }  # fmt: skip


def test_special_tokens_without_an_embedding_are_read_as_plain_text(tmp_path, told, dataset):
    """Gemma 3 has an image token that its model of text has no embedding for: it was an IndexError in some step."""
    folder = write_backbone(tmp_path / "backbone")
    larger = tokenizer()
    larger.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    larger.save_pretrained(folder)
    ready = prepare(TrainConfig(**told | {"model": folder}), dataset)
    save_adapted(ready.model, ready.tokenizer, tmp_path / "model")
    again = SentimentClassifier.from_pretrained(tmp_path / "model")
    for found in (ready.tokenizer, again.tokenizer):
        assert found.tokenize("<image_soft_token>")[:2] == ["<", "image"]
    assert np.isfinite(again.predict_proba(["an <image_soft_token>"])).all()
    larger.add_tokens(["unheard"])
    larger.save_pretrained(folder)
    with pytest.raises(ModelFolderError, match=r"has a token \d+, its model has embeddings of"):
        prepare(TrainConfig(**told | {"model": folder}), dataset)


@pytest.mark.parametrize(("method", "rate"), [("full", 1e-4), ("bitfit", 1e-3), ("lora", 1e-3), ("moe-plain", 1e-4)])
def test_methods_that_train_few_weights_have_a_higher_default_rate(told, dataset, method, rate):
    settings = told | {"method": method}
    assert prepare(TrainConfig(**settings), dataset).config.learning_rate == pytest.approx(rate)
    doubled = TrainConfig(**settings, learning_rate_factor=2)
    assert prepare(doubled, dataset).config.learning_rate == pytest.approx(2 * rate)
    given = TrainConfig(**settings, learning_rate=0.25, learning_rate_factor=2)
    assert prepare(given, dataset).config.learning_rate == 0.25


def test_texts_without_a_label_are_taught_none(told, dataset, tmp_path):
    save_adapted(load_classifier(told["model"], dataset.label_names), tokenizer(), tmp_path / "teacher")
    pd.DataFrame({"text": ["a new one", "another"]}).to_csv(tmp_path / "more.csv", index=False)
    config = TrainConfig(**told, teacher=str(tmp_path / "teacher"), unlabelled=str(tmp_path / "more.csv"))
    train = prepare(config, dataset).train
    assert train.texts == [*dataset.splits["train"].texts, "a new one", "another"]
    assert train.labels == [*dataset.splits["train"].labels, NO_LABEL, NO_LABEL] and NO_LABEL == -100


def test_epochs_are_compared_by_the_metrics_that_are_reported():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(80, 3)), rng.choice(3, size=80, p=[0.6, 0.3, 0.1])
    found = fitting._selection_metrics(EvalPrediction(logits, labels))
    probabilities = torch.tensor(logits).softmax(-1).numpy()
    reported = classification_metrics(labels, probabilities, ["a", "b", "c"])
    assert found == pytest.approx({name: reported[name] for name in ("accuracy", "f1_weighted", "f1_macro")})
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 0.8), ("f1_macro", 0.9)])
def test_the_metric_that_was_asked_for_chooses_the_epoch(told, dataset, tmp_path, monkeypatch, metric, best):
    epochs = iter([{"accuracy": 0.1, "f1_macro": 0.9}, {"accuracy": 0.8, "f1_macro": 0.2}])
    monkeypatch.setattr(fitting, "_selection_metrics", lambda prediction: {"f1_weighted": 0.5} | next(epochs))
    ready = prepare(TrainConfig(**told, epochs=2, metric=metric), dataset)
    fit(ready, tmp_path, progress=False)
    states = [read_json(path) for path in tmp_path.glob("checkpoints/checkpoint-*/trainer_state.json")]
    assert max(states, key=lambda state: state["global_step"])["best_metric"] == best


def test_only_texts_that_are_cut_count_as_cut():
    texts = ["good", "good good", "good good good", "good good good good"]  # and two special tokens each
    tokenised = tokenise(Split(texts, [0, 1, 0, 1]), tokenizer(), 4, "training")
    assert [len(ids) for ids in tokenised.rows["input_ids"]] == [3, 4, 4, 4] and tokenised.truncated == 2


def test_what_is_scored_can_be_limited(told, tmp_path):
    texts, labels = labelled_texts(200)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "x.csv", index=False)
    config = TrainConfig(**told, data=str(tmp_path / "x.csv"), eval_limit=7)
    whole, limited = dataset_of(replace(config, eval_limit=None)), dataset_of(config)
    assert {name: len(part) for name, part in limited.splits.items()} == {
        "train": len(whole.splits["train"]), "validation": 7, "test": 7
    }  # fmt: skip
    assert limited.sha256 == whole.sha256 and limited == dataset_of(config)
    assert len(prepare(config, limited).validation) == 7
    assert load_unlabelled(str(tmp_path / "x.csv"), limited) == []  # what is not scored is not learnt on either
