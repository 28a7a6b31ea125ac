"""What is not finite is never an answer: training stops before the step, names the texts and keeps what was good."""

import logging
import sys

import pandas as pd
import pytest
import torch
from backbone import labelled_texts, write_backbone
from transformers import AutoModelForSequenceClassification

import sentimoe_cli
from sentimoe.errors import DataError, DivergedError, PredictionError
from sentimoe.training import TrainConfig, train
from sentimoe.training.trainer import SentimentTrainer

UNREAD = ["\u200b", "\u200b\u200d"]  # not blank, and the tokenizer finds nothing in them


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def write_data(folder, train=(), validation=()):
    """80 training and 20 validation texts with these first, labelled in turn."""
    texts, labels = labelled_texts(100)
    for name, first, part in (("train", train, slice(0, 80)), ("validation", validation, slice(80, 100))):
        told = [*labels[: len(first)], *labels[part]]
        pd.DataFrame({"text": [*first, *texts[part]], "label": told}).to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


def settings(backbone, data, **changes):
    common = {"epochs": 2, "max_length": 32, "learning_rate": 5e-3, "precision": "float32", "batch_size": 16}
    return TrainConfig(**({"model": backbone, "data": data, "method": "full"} | common | changes))


def weights(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def test_real_tweets_at_a_rate_of_1e18_end_with_exit_5_and_one_line(backbone, tmp_path, monkeypatch, capsys):
    told = ["--model", backbone, "--learning-rate", "1e18", "--train-limit", "400", "--max-length", "64"]
    monkeypatch.setattr(sys, "argv", ["sentimoe", "train", *told, "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        sentimoe_cli.main()
    assert end.value.code == 5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "the step was not applied; it read the training texts " in line and "learning_rate below 1e+18" in line
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("where", ["loss", "gradients"])
def test_a_step_that_is_not_finite_is_not_applied_and_its_texts_are_named(backbone, data, tmp_path, monkeypatch, where):
    """In the second epoch, so that a good checkpoint is there to keep."""
    compute_loss, seen = SentimentTrainer.compute_loss, {}

    def spoilt(self, model, inputs, **kwargs):
        loss = compute_loss(self, model, inputs, **kwargs)
        if self.state.global_step == 7:
            seen["texts"] = self.processing_class.batch_decode(inputs["input_ids"], skip_special_tokens=True)
            seen["before"] = {name: value.clone() for name, value in model.state_dict().items()}
            seen["model"] = model
            zero = next(model.parameters()).sum() * 0
            loss = loss * float("nan") if where == "loss" else loss + zero.sqrt()  # whose slope is infinite
        return loss

    monkeypatch.setattr(SentimentTrainer, "compute_loss", spoilt)
    with pytest.raises(DivergedError, match=r"of step 8 of 10 is (nan|inf)") as found:
        train(settings(backbone, data), tmp_path / "run", progress=False)
    texts = pd.read_csv(f"{data}/train.csv")["text"].tolist()
    named = str(found.value).split("the training texts ")[1].split(" (")[0]
    assert sorted(texts[int(number) - 1] for number in named.split(", ")) == sorted(seen["texts"])
    assert all(torch.equal(value, seen["before"][name]) for name, value in seen["model"].state_dict().items())
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]
    assert str(found.value).endswith(f"; what was trained before is kept in {tmp_path}/run/checkpoints/checkpoint-5")


def test_weights_that_are_not_finite_are_not_saved(backbone, data, tmp_path, monkeypatch):
    """A step may overflow although its gradients were finite, and in a weight that no answer reads."""
    evaluate = SentimentTrainer.evaluate

    def overflows(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        with torch.no_grad():
            self.model.get_input_embeddings().weight[-1, 0] = torch.inf
        return metrics

    monkeypatch.setattr(SentimentTrainer, "evaluate", overflows)
    with pytest.raises(DivergedError, match=r"after step 5 of 10 .*word_embeddings.weight holds"):
        train(settings(backbone, data), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_validation_answers_that_are_not_finite_are_no_score(backbone, data, tmp_path, monkeypatch):
    evaluate = SentimentTrainer.evaluate

    def overflows(self, *args, **kwargs):
        with torch.no_grad():
            self.model.classifier.bias.fill_(torch.nan)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(SentimentTrainer, "evaluate", overflows)
    with pytest.raises(DivergedError, match="answers to validation texts are not finite"):
        train(settings(backbone, data), tmp_path / "run", progress=False)


def test_texts_without_a_token_are_left_out_and_counted_with_and_without_a_teacher(backbone, data, tmp_path, caplog):
    """A teacher has no answer to them, which once made every weight NaN."""
    odd = write_data(tmp_path, UNREAD, UNREAD[:1])
    teacher = tmp_path / "alone"
    with caplog.at_level(logging.WARNING):
        records = [train(settings(backbone, odd, epochs=1), teacher, progress=False)]
        for told in ({}, {"distillation_hidden_weight": 1.0}):  # answers alone, and a teacher that runs along
            config = settings(backbone, odd, epochs=1, teacher=str(teacher), **told)
            records.append(train(config, tmp_path / f"taught-{len(records)}", progress=False))
    assert [(r["data"]["train_used"], r["data"]["train_unread"]) for r in records] == [(80, 2)] * 3
    assert caplog.text.count("2 of 82 training texts have no token and are left out, the first one is number 1") == 3
    assert caplog.text.count("1 of 21 validation texts have no token") == 3
    assert all(value.isfinite().all() for run in tmp_path.glob("taught-*") for value in weights(run).values())
    train(settings(backbone, data, epochs=1), tmp_path / "plain", progress=False)
    assert all(torch.equal(value, weights(teacher)[name]) for name, value in weights(tmp_path / "plain").items())


def test_training_texts_that_all_have_no_token_are_refused(backbone, tmp_path):
    (tmp_path / "data").mkdir()
    odd = write_data(tmp_path / "data")
    pd.DataFrame({"text": UNREAD, "label": ["negative", "positive"]}).to_csv(f"{odd}/train.csv", index=False)
    with pytest.raises(DataError, match="finds no token in any of the training texts"):
        train(settings(backbone, odd), tmp_path / "run", progress=False)


def test_a_teacher_without_a_finite_answer_is_an_error(backbone, data, tmp_path, monkeypatch):
    teacher = tmp_path / "teacher"
    train(settings(backbone, data, epochs=1), teacher, progress=False)
    module = sys.modules["sentimoe.training.prepare"]
    answers = module.soft_teacher_probs

    def one_is_lost(*args, **named):
        found = answers(*args, **named)
        found[6] = float("nan")
        return found

    monkeypatch.setattr(module, "soft_teacher_probs", one_is_lost)
    with pytest.raises(PredictionError, match="no finite answer to 1 of 80 training texts, the first one is number 7"):
        train(settings(backbone, data, teacher=str(teacher)), tmp_path / "run", progress=False)
