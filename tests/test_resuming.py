"""A run that was stopped, in any way and anywhere, goes on and ends as if it had not been stopped, bit for bit."""

import json
import logging
import os
import resource
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from backbone import labelled_texts, write_backbone
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import sentimoe_cli
from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError, DataError, StoppedError
from sentimoe.training import Stop, TrainConfig, train
from sentimoe.training.checkpoints import last_whole
from sentimoe.training.folder import locked
from sentimoe.training.trainer import SentimentTrainer

TIMES = ("runtime", "per_second")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """160 training texts of many lengths: ten steps an epoch, and an order by length that a wrong generator changes."""
    folder = tmp_path_factory.mktemp("data")
    texts, labels = labelled_texts(220)
    texts = [f"{text} {'and so on ' * (number % 7)}" for number, text in enumerate(texts)]
    frame = pd.DataFrame({"text": texts, "label": labels})
    for name, part in (("train", slice(0, 160)), ("validation", slice(160, 200)), ("test", slice(200, 220))):
        frame[part].to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


def settings(backbone, data, **changes):
    common = {
        "method": "moe-gated",
        "epochs": 3,
        "patience": 2,
        "max_length": 32,
        "learning_rate": 5e-3,
        "precision": "float32",
        "batch_size": 16,
    }
    moe = {"layers_to_transform": [-1], "init_noise": 0.05}
    return TrainConfig(**({"model": backbone, "data": data, "method_settings": moe} | common | changes))


@pytest.fixture(scope="module")
def undisturbed(backbone, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(settings(backbone, data), folder, progress=False)
    return folder


class Killed(BaseException):
    pass


def killed(config, folder, at, **told):
    """Train until step `at` is about to be done."""
    step = SentimentTrainer.training_step

    def dies(self, *args, **kwargs):
        if self.state.global_step == at:
            raise Killed
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SentimentTrainer, "training_step", dies)
        train(config, folder, progress=False, **told)


def told_of(folder):
    """All that a finished run says of itself but its times, and its weights."""
    record = json.loads((folder / "run.json").read_text())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert rows == record["history"]
    history = [{key: row[key] for key in row if not key.endswith(TIMES)} for row in rows]
    weights = {name: load_file(path) for path in folder.rglob("*.safetensors") for name in [path.name]}
    return history, json.loads((folder / "metrics.json").read_text()), record["data"]["sha256"], weights


def assert_same(folder, other):
    *told, weights = told_of(folder)
    *expected, expected_weights = told_of(other)
    assert told == expected
    assert list(weights) == list(expected_weights)
    for name, tensors in weights.items():
        assert all(torch.equal(tensors[key], value) for key, value in expected_weights[name].items())


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("save_steps", "at", "left"),
    [
        (7, 18, ["checkpoint-10", "checkpoint-14"]),  # in the middle of the second epoch, between two logged rows
        (7, 24, ["checkpoint-20", "checkpoint-21"]),  # just after an epoch began
        (10, 25, ["checkpoint-10", "checkpoint-20"]),  # at the last step of an epoch only once it is validated
    ],
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(backbone, data, undisturbed, tmp_path, save_steps, at, left):
    """Order of texts, generators, optimizer, schedule, losses since the last row, best epoch: all of it goes on."""
    config = settings(backbone, data, save_steps=save_steps)
    killed(config, tmp_path / "run", at)
    assert checkpoints(tmp_path / "run") == left
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same(tmp_path / "run", undisturbed)


ADAPTERS = {
    "lora": {"method_settings": {}},
    "moe-lora": {"method_settings": {"layers_to_transform": [-1]}, "merge": False},
    "p-tuning": {"method_settings": {"num_virtual_tokens": 4}},
}


@pytest.mark.parametrize("method", ADAPTERS)
def test_what_is_trained_beside_a_frozen_model_is_kept_and_goes_on(backbone, data, tmp_path, monkeypatch, method):
    """Of a prompt encoder the Trainer kept something else: its answer taken for its weights."""
    fit, answers = sys.modules["sentimoe.training.fit"], []

    def first_is_best(prediction):
        answers.append(torch.tensor(prediction.predictions).softmax(dim=-1).numpy())
        return {"f1_weighted": 1 / len(answers)}

    config = settings(backbone, data, calibrate=False, method=method, epochs=2, save_steps=3, **ADAPTERS[method])
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_selection_metrics", first_is_best)
        train(config, tmp_path / "first", progress=False)
    first, last = (np.sort(part, axis=0) for part in answers)  # validation reads texts by length
    texts = pd.read_csv(f"{data}/validation.csv")["text"].tolist()
    kept = SentimentClassifier.from_pretrained(tmp_path / "first", precision="float32").predict_proba(texts)
    kept = np.sort(kept, axis=0)
    assert abs(first - kept).max() < 1e-5 < 1e-3 < abs(first - last).max()

    train(config, tmp_path / "whole", progress=False)
    killed(config, tmp_path / "run", 17)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


DAMAGES = {
    "a byte of the weights": lambda place: flip(place / "model.safetensors"),
    "half the optimizer": lambda place: os.truncate(place / "optimizer.pt", 1000),
    "no generators": lambda place: (place / "rng_state.pth").unlink(),
    "an empty state": lambda place: (place / "trainer_state.json").write_text(""),
    "an empty manifest": lambda place: (place / "sentimoe_manifest.json").write_text(""),
    "no manifest": lambda place: (place / "sentimoe_manifest.json").unlink(),
}


def flip(path):
    with path.open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def stopped_early(backbone, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("early") / "run"
    killed(settings(backbone, data), folder, 1)
    return folder


@pytest.fixture(scope="module")
def stopped(backbone, data, tmp_path_factory):
    """A run with the checkpoints 10 (the best one then), 14 and 16; a copy of it is killed, damaged, resumed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    killed(settings(backbone, data, save_steps=2), folder, 17)
    assert checkpoints(folder) == ["checkpoint-10", "checkpoint-14", "checkpoint-16"]
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_told_and_passed_over(stopped, tmp_path, damage, caplog):
    folder = shutil.copytree(stopped, tmp_path / "run")
    assert last_whole(folder / "checkpoints").folder.name == "checkpoint-16" and not caplog.records
    DAMAGES[damage](folder / "checkpoints" / "checkpoint-16")
    found = last_whole(folder / "checkpoints")
    assert found.folder.name == "checkpoint-14" and found.epoch == 1.4 and found.best == 10 and found.worse == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message.startswith("checkpoint checkpoint-16 is passed over: ")


def test_a_checkpoint_is_of_use_only_with_the_best_one_that_it_names(stopped, tmp_path, caplog):
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip(folder / "checkpoints" / "checkpoint-10" / "model.safetensors")
    assert last_whole(folder / "checkpoints") is None and len(caplog.records) == 3
    assert last_whole(tmp_path / "nothing") is None


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    backbone, data, undisturbed, stopped, tmp_path
):
    """And writes it again; the folder may lie elsewhere now, so the place of the best one is not what it was."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip(folder / "checkpoints" / "checkpoint-16" / "optimizer.pt")
    shutil.rmtree(stopped)
    train(settings(backbone, data, save_minutes=1e-9), folder, resume=True, progress=False)
    assert_same(folder, undisturbed)


def test_what_decides_a_run_must_be_the_same_when_it_goes_on(backbone, data, undisturbed, tmp_path):
    folder = tmp_path / "run"
    killed(settings(backbone, data), folder, 15)
    with pytest.raises(ConfigError, match="another epochs, seed;"):
        train(settings(backbone, data, epochs=5, seed=1), folder, resume=True, progress=False)
    with pytest.raises(ConfigError, match="--resume"):
        train(settings(backbone, data), folder, progress=False)
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 2')  # it was killed while it wrote a row

    # the data may lie elsewhere, if they are the same, and checkpoints come more often; nothing may be another version
    moved = shutil.copytree(data, tmp_path / "moved")
    start, config = folder / "checkpoints" / "start.json", settings(backbone, str(moved), save_minutes=99, save_steps=9)
    begun = json.loads(start.read_text())
    start.write_text(json.dumps(begun | {"torch": "1.0", "data": "0"}))
    with pytest.raises(ConfigError, match=r"another data \(0, now .*torch \(1.0, now 2"):
        train(config, folder, resume=True, progress=False)
    start.write_text(json.dumps(begun))
    train(config, folder, resume=True, progress=False)
    assert_same(folder, undisturbed)
    assert yaml.safe_load((folder / "config.yaml").read_text())["save_steps"] == 9
    with pytest.raises(ConfigError, match="holds a finished run"):
        train(config, folder, resume=True, progress=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        train(config, tmp_path / "notes", resume=True, progress=False)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/start.json"])
def test_a_damaged_beginning_is_told(backbone, data, stopped_early, tmp_path, name):
    folder = shutil.copytree(stopped_early, tmp_path / "run")
    (folder / name).write_text("{")
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        train(settings(backbone, data), folder, resume=True, progress=False)


@pytest.mark.parametrize("killed_at", [26, None])
def test_early_stopping_counts_on_and_the_best_epoch_is_what_is_kept(backbone, data, tmp_path, monkeypatch, killed_at):
    """Best after the first epoch, patience 2: the third is the last, also when the run is killed while it is saved."""
    scores, seen = {10: 0.9, 20: 0.5, 30: 0.4}, {}
    monkeypatch.setattr(
        sys.modules["sentimoe.training.fit"], "_selection_metrics", lambda prediction: {"f1_weighted": seen["score"]}
    )
    evaluate = SentimentTrainer.evaluate

    def scored(self, *args, **kwargs):
        step = self.state.global_step
        seen[step] = {name: value.clone() for name, value in self.model.state_dict().items()}
        seen["score"] = scores[step]
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(SentimentTrainer, "evaluate", scored)
    config, folder = settings(backbone, data, epochs=6, calibrate=False), tmp_path / "run"
    if killed_at is not None:
        killed(config, folder, killed_at)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sys.modules["sentimoe.training.run"], "save_adapted", raises_killed)
        train(config, folder, resume=killed_at is not None, progress=False)
    train(config, folder, resume=True, progress=False)
    history, *_, weights = told_of(folder)
    assert [row["eval_f1_weighted"] for row in history if "eval_f1_weighted" in row] == [0.9, 0.5, 0.4]
    assert history[-1]["step"] == 30 and [row["step"] for row in history].count(30) == 3  # a row of loss, score, all
    losses = [row["loss"] for row in history if "loss" in row]
    assert history[-1]["train_loss"] == pytest.approx(sum(losses) / len(losses))
    kept = weights["model.safetensors"]
    assert all(torch.equal(value, seen[10][name]) for name, value in kept.items())
    assert not all(torch.equal(value, seen[30][name]) for name, value in kept.items())


def raises_killed(*args):
    raise Killed


def test_one_process_at_a_time_writes_a_run_folder(backbone, tmp_path):
    """A second one is refused before it reads its data; a lock file that a killed process left does not count."""
    nowhere = settings(backbone, str(tmp_path / "nowhere"))
    with locked(tmp_path / "run", resume=False):
        for resume in (False, True):
            with pytest.raises(ConfigError, match=f"another process trains in {tmp_path}/run; wait"):
                train(nowhere, tmp_path / "run", resume=resume, progress=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "lock").touch()
    for resume in (False, True):
        with pytest.raises(DataError):
            train(nowhere, tmp_path / "run", resume=resume, progress=False)


def test_a_run_that_is_asked_to_stop_saves_at_the_next_step(backbone, data, undisturbed, tmp_path, monkeypatch):
    config, folder, stop, step = settings(backbone, data), tmp_path / "run", Stop(), SentimentTrainer.training_step

    def asked(self, *args, **kwargs):
        if self.state.global_step in (12, 19, 29):  # in the middle of an epoch; in the last step of one, and of all
            assert stop.can_wait
            stop.signal = signal.SIGTERM
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SentimentTrainer, "training_step", asked)
    for done in (13, 20, 30):
        with pytest.raises(StoppedError, match=f"stopped after step {done} of 30") as stopped:
            train(config, folder, resume=done > 13, progress=False, stop=stop)
        assert stopped.value.exit_code == 75
        stop.signal = None
    train(config, folder, resume=True, progress=False, stop=stop)
    assert not stop.can_wait
    assert_same(folder, undisturbed)


def test_a_second_signal_while_it_saves_is_not_taken_for_a_full_disk(backbone, data, tmp_path, monkeypatch):
    stop = Stop()

    def signalled(*args):
        stop.signal = signal.SIGINT
        raise stop.error("at once")

    monkeypatch.setattr(SentimentTrainer, "_save_rng_state", signalled)
    with pytest.raises(StoppedError, match=r"^at once$") as found:
        train(settings(backbone, data, save_steps=1), tmp_path / "run", progress=False, stop=stop)
    assert found.value.exit_code == 130 and not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("limit", [500_000, 5_000_000], ids=["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_the_disk_has_no_room_for_stops_the_run(
    backbone, data, undisturbed, tmp_path, monkeypatch, limit
):
    """By a limit of the system on the size of files, which what safetensors and torch write by themselves meets too."""
    config, folder, step = settings(backbone, data, save_steps=13), tmp_path / "run", SentimentTrainer.training_step
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(self, *args, **kwargs):
        if self.state.global_step == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        return step(self, *args, **kwargs)

    with (
        monkeypatch.context() as patch,
        pytest.raises(StoppedError, match=r"run cannot be written to .*is there, and is gone on from") as told,
    ):
        patch.setattr(SentimentTrainer, "training_step", filling)
        try:
            train(config, folder, progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.exit_code == 75
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["checkpoint-10", "lock", "start.json"]
    train(config, folder, resume=True, progress=False)
    assert_same(folder, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_one_line_that_tells_how_to_go_on(
    backbone, data, tmp_path, monkeypatch, capsys, number, code
):
    step, before = SentimentTrainer.training_step, signal.getsignal(number)

    def is_signalled(self, *args, **kwargs):
        if self.state.global_step == 3:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    told = [
        "--model",
        backbone,
        "--data",
        data,
        "--batch-size",
        "16",
        "--max-length",
        "32",
        "--epochs",
        "3",
        "--output",
    ]
    command = ["sentimoe", "train", *told, str(tmp_path / "a run"), "--quiet"]
    monkeypatch.setattr(SentimentTrainer, "training_step", is_signalled)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        sentimoe_cli.main()
    assert end.value.code == code and signal.getsignal(number) == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: stopped after step 4 of 30, and saved there; go on with: sentimoe train --model ")
    assert line.endswith(f"'{tmp_path}/a run' --quiet --resume")
    assert checkpoints(tmp_path / "a run") == ["checkpoint-4"]


def test_a_signal_while_nothing_is_trained_ends_the_command_at_once(backbone, data, tmp_path, monkeypatch, capsys):
    """While data and model are made ready there is nothing to save; the folder is not there afterwards."""
    module = sys.modules["sentimoe.training.run"]
    monkeypatch.setattr(module, "prepare", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["sentimoe", "train", "--data", data, "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        sentimoe_cli.main()
    assert end.value.code == 75 and "--resume" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_a_finished_run_that_the_disk_has_no_room_for_is_saved_when_it_goes_on(
    backbone, data, undisturbed, tmp_path, monkeypatch, what
):
    """Kind: every writer outside Python has an error of its own for a full disk; tokenizers' is a bare Exception."""
    config, folder = settings(backbone, data), tmp_path / "run"
    owner = {"model": PreTrainedModel, "tokenizer": PreTrainedTokenizerBase}[what]
    save, (soft, hard) = owner.save_pretrained, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, place, *args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if ".saving-" in str(place) else soft, hard))
        try:
            return save(self, place, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch, pytest.raises(StoppedError, match=r"File too large.*is gone on from"):
        patch.setattr(owner, "save_pretrained", limited)
        train(config, folder, progress=False)
    train(config, folder, resume=True, progress=False)
    assert_same(folder, undisturbed)
