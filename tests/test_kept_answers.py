"""A run that goes on asks its teachers nothing, unless they or their texts have changed."""

import logging
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone

from sentimoe.training import TrainConfig, prepare, train
from sentimoe.training.kept_answers import ANSWERS, answers_key
from sentimoe.training.prepare import dataset_of
from sentimoe.training.trainer import SentimentTrainer


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What trains a student, in three epochs of four steps."""
    root = tmp_path_factory.mktemp("kept")
    texts, labels = labelled_texts(80)
    for name, part in (("train", slice(0, 60)), ("validation", slice(60, 80))):
        pd.DataFrame({"text": texts[part], "label": labels[part]}).to_csv(root / f"{name}.csv", index=False)
    common = {"model": write_backbone(root / "backbone"), "data": str(root), "max_length": 32, "precision": "float32"}
    common |= {"method": "full", "batch_size": 16, "learning_rate": 5e-3, "patience": 0, "head_init": "random"}
    train(TrainConfig(epochs=1, **common), root / "teacher", progress=False)
    return common | {"epochs": 3, "teacher": str(root / "teacher"), "distillation_weight": 1.0}


@pytest.fixture
def asked(monkeypatch):
    """How many texts each question to a teacher had."""
    module, counts = sys.modules["sentimoe.training.prepare"], []
    ask = module.soft_teacher_probs

    def counted(folders, texts, *told, **how):
        counts.append(len(texts))
        return ask(folders, texts, *told, **how)

    monkeypatch.setattr(module, "soft_teacher_probs", counted)
    return counts


def stopped(config, folder, monkeypatch, at=9):
    """Train until step `at` is about to be done."""
    step = SentimentTrainer.training_step

    def dies(self, *args, **kwargs):
        if self.state.global_step == at:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SentimentTrainer, "training_step", dies)
        train(config, folder, progress=False)


def test_a_run_that_goes_on_asks_its_teachers_nothing(told, asked, tmp_path, monkeypatch):
    """Kind: half an hour of answers is computed again after every stop; or the answers stay in the finished folder."""
    config = TrainConfig(**told)
    stopped(config, tmp_path / "run", monkeypatch)
    assert asked == [60] and (tmp_path / "run" / "checkpoints" / ANSWERS).is_file()
    done = train(config, tmp_path / "run", resume=True, progress=False)
    assert asked == [60] and not list((tmp_path / "run").rglob(ANSWERS))
    whole = train(config, tmp_path / "whole", progress=False)
    losses = [[row["eval_loss"] for row in each["history"] if "eval_loss" in row] for each in (done, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_answers_of_a_damaged_file_or_of_other_teachers_are_not_taken(told, asked, tmp_path, caplog):
    config = TrainConfig(**told)
    dataset = dataset_of(config)
    first = prepare(config, dataset)
    first.answers.save(tmp_path)
    kept = prepare(config, dataset, tmp_path)
    assert len(asked) == 1 and np.array_equal(kept.teacher_probs, first.teacher_probs)

    copied = shutil.copytree(told["teacher"], tmp_path / "other")
    (copied / "notes.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        prepare(TrainConfig(**told | {"teacher": str(copied)}), dataset, tmp_path)
        assert len(asked) == 2 and "have changed since the run was begun" in caplog.text
        (tmp_path / ANSWERS).write_bytes((tmp_path / ANSWERS).read_bytes()[:100])
        again = prepare(config, dataset, tmp_path)
    assert len(asked) == 3 and "cannot be read" in caplog.text
    assert np.array_equal(again.teacher_probs, first.teacher_probs)


@pytest.mark.parametrize(
    "change", [{"distillation_temperature": 3.0}, {"max_length": 16}, {"precision": "bfloat16"}, {"texts": ["other"]}]
)
def test_whatever_decides_an_answer_is_in_its_key(told, change):
    texts, labels = ["a", "b"], ["x", "y"]
    changed = TrainConfig(**told | {key: value for key, value in change.items() if key != "texts"})
    key = answers_key(TrainConfig(**told), texts, labels)
    assert key == answers_key(TrainConfig(**told), tuple(texts), tuple(labels))
    assert key != answers_key(changed, change.get("texts", texts), labels)
