"""Several processes train what one does, and one that is lost ends them all; two gloo processes on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from backbone import labelled_texts, write_backbone
from launch import begin, command, ended, launch
from safetensors.torch import load_file
from tiny import CASES, batch, dense, sparse, texts
from torch.testing import assert_close
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError
from sentimoe.moe import EXPERTS_BACKENDS, mask_experts
from sentimoe.training import TrainConfig, processes
from sentimoe.training.batches import Parts
from sentimoe.training.distillation import Distillation
from sentimoe.training.fit import training_arguments
from sentimoe.training.objective import Objective
from sentimoe.training.trainer import SentimentTrainer
from sentimoe.upcycle import moe_layers

TIMES = ("runtime", "per_second", "flos")
TRAIN = 147  # nine batches of 16 and one of three, so that the parts of two processes differ, and some of six are empty


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts, labels = labelled_texts(220)
    texts = [f"{text} {'and so on ' * (number % 7)}" for number, text in enumerate(texts)]
    labels[:40] = ["negative"] * 40  # unbalanced, for class weights
    frame = pd.DataFrame({"text": texts, "label": labels})
    for name, part in (("train", slice(0, TRAIN)), ("validation", slice(160, 197)), ("test", slice(200, 220))):
        frame[part].to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


@pytest.fixture(scope="module")
def told(backbone, data, tmp_path_factory):
    """Writes settings to a file, and gives the options that name it."""
    folder = tmp_path_factory.mktemp("settings")

    def write(**changes):
        common = {
            "method": "moe-gated",
            "epochs": 2,
            "patience": 2,
            "max_length": 32,
            "learning_rate": 5e-3,
            "batch_size": 16,
            "dropout": 0.0,
            "calibrate": False,
        }
        moe = {"layers_to_transform": [-1], "init_noise": 0.05}
        paths = {"model": backbone, "data": data, "precision": "float32", "method_settings": moe}
        path = folder / f"{len(list(folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(paths | common | changes))
        return ["--config", str(path), "--quiet"]

    return write


@pytest.fixture(scope="module")
def alone(told, tmp_path_factory):
    """The folder of a run of one process; the same settings are run once."""
    done, folder = {}, tmp_path_factory.mktemp("alone")

    def run(**changes):
        key, place = repr(changes), folder / str(len(done))
        if key not in done:
            assert launch(folder, command, "train", *told(**changes), "--output", place, count=1) == [0]
            done[key] = place
        return done[key]

    return run


def results(folder):
    """What a finished run says of itself but its times, and its weights."""
    record = json.loads((folder / "run.json").read_text())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert rows == record["history"]
    history = [{key: row[key] for key in row if not key.endswith(TIMES)} for row in rows]
    return history, json.loads((folder / "metrics.json").read_text()), load_file(folder / "model.safetensors")


def assert_near(found, expected, within, weights=1e-5):
    """History, metrics and weights of two runs."""
    for row, other in zip(found[0], expected[0], strict=True):
        assert list(row) == list(other)
        for name, value in row.items():
            if name != "expert_shares" or within < 1e-3:  # in bfloat16 a near-tie of two experts may fall the other way
                np.testing.assert_allclose(value, other[name], atol=within, rtol=within, err_msg=f"{name} of {row}")
    assert found[1]["test"]["confusion_matrix"] == expected[1]["test"]["confusion_matrix"]
    assert_close(found[2], expected[2], atol=weights, rtol=0)


LORA = {"method": "lora", "method_settings": {"lora_dropout": 0.0}, "class_weights": True, "epochs": 1}


FROZEN = {"layers_to_transform": [-1], "init_noise": 0.05, "lora_dropout": 0.0}
MOE_LORA = {"method": "moe-lora", "method_settings": FROZEN, "epochs": 1}


@pytest.mark.parametrize(
    "changes", [{}, LORA, MOE_LORA], ids=["experts", "lora with class weights", "experts on a frozen base"]
)
def test_two_processes_train_what_one_does(told, alone, tmp_path, changes):
    """The history too, and only the first process says anything."""
    codes = launch(tmp_path, command, "train", *told(**changes), "--output", tmp_path / "run")
    assert codes == [0, 0], (tmp_path / "err-0").read_text()
    assert_near(results(tmp_path / "run"), results(alone(**changes)), within=1e-5)
    assert "written to" in (tmp_path / "out-0").read_text()
    assert not (tmp_path / "out-1").read_text() and not (tmp_path / "err-1").read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_themselves_start_it(told, alone, tmp_path, launcher):
    """The other tests fork their processes, which is faster."""
    given = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "sentimoe", "train", *told(**LORA)]
    ran = subprocess.run([*given, "--output", tmp_path / "run"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert_near(results(tmp_path / "run"), results(alone(**LORA)), within=1e-5)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


def test_a_student_of_two_processes_learns_what_that_of_one_does(told, alone, tmp_path):
    """From hidden states, whose distance is divided by a mean over the whole batch."""
    teacher = str(alone(method="full", method_settings={}, epochs=1))
    split = {"method": "moe-split", "method_settings": {"num_experts": 3}, "distillation_token_dropout": 0.0}
    split |= {"teacher": teacher, "epochs": 1}
    assert launch(tmp_path, command, "train", *told(**split), "--output", tmp_path / "run") == [0, 0]
    assert_near(results(tmp_path / "run"), results(alone(**split)), within=1e-5)


@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_accumulation_checkpointing_and_two_processes_change_nothing_but_rounding(
    told, alone, tmp_path, precision, within
):
    """Three parts of a batch in each of two processes; the last batch fills half of them."""
    given = told(precision=precision, gradient_accumulation_steps=3, gradient_checkpointing=True)
    assert launch(tmp_path, command, "train", *given, "--output", tmp_path / "run") == [0, 0]
    plain = alone() if precision == "float32" else alone(precision=precision)
    assert_near(results(tmp_path / "run"), results(plain), within=within, weights=within)


def notes(folder, *arguments):
    """Train, and note the texts of each step and the state that dropout is drawn from."""
    step, read = SentimentTrainer.training_step, []

    def noted(self, model, inputs, *more):
        read.append([self.state.epoch, inputs["row"].tolist(), torch.get_rng_state().sum().item()])
        return step(self, model, inputs, *more)

    SentimentTrainer.training_step = noted
    try:
        command(*arguments)
    finally:
        Path(folder, f"read-{os.environ['RANK']}.json").write_text(json.dumps(read))


def test_the_second_epoch_has_one_order_and_each_process_its_own_dropout(told, tmp_path):
    given = ["train", *told(dropout=0.2), "--output", tmp_path / "run"]
    assert launch(tmp_path, notes, str(tmp_path), *given) == [0, 0]
    both = [json.loads((tmp_path / f"read-{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in (0, 1):
        rows = [row for read in both for when, part, _ in read if int(when) == epoch for row in part]
        assert sorted(rows) == list(range(1, TRAIN + 1))
    assert all(first[2] != second[2] for first, second in zip(*both, strict=True))


def test_parts_of_a_batch_are_its_texts_once_in_order_and_never_empty(monkeypatch):
    order = SequentialSampler(range(19))
    for count, steps in ((1, 1), (2, 1), (1, 3), (3, 2), (5, 2)):
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        read = []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            parts = Parts(order, 8, steps, spare=99)
            read.append(list(parts))
            assert len(read[-1]) == len(parts) == 3 * steps and all(read[-1])
        for number, size in enumerate((8, 8, 3)):
            own = [part for of_rank in read for part in of_rank[number * steps : (number + 1) * steps]]
            texts = sorted(text for part in own for text in part if text != 99)
            assert texts == list(range(8 * number, 8 * number + size))
            sizes = [len(part) for part in own if part != [99]]
            assert max(sizes) - min(sizes) <= 1 and own.count([99]) == max(count * steps - size, 0)


def in_parts(objective, model, parts):
    """The loss of a batch, as the sum over its parts, and its gradients."""
    answers = [objective.answers(model, part) for part in parts]
    own = [objective.sums(each) for each in answers]
    whole = own[0]
    for each in own[1:]:
        whole = whole + each
    model.zero_grad()
    losses = [objective.loss(each, sums, whole) for each, sums in zip(answers, own, strict=True)]
    sum(losses).backward()
    return sum(losses).detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_neither_a_launcher_nor_more_gpus_change_what_one_process_trains(monkeypatch, tmp_path):
    """Kinds: DataParallel on a machine with two GPUs; the precision of accelerate's own settings; ranks half told."""
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: 4))
    found = training_arguments(config, tmp_path, dense("bert"), 40)
    assert (found.mixed_precision, found._n_gpu) == ("no", 1)
    assert training_arguments(replace(config, precision="bfloat16"), tmp_path, dense("bert"), 40).bf16
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ConfigError, match="2 processes train, and the Trainer knows of 1; start them with torchrun"):
        training_arguments(config, tmp_path, dense("bert"), 40)


OBJECTIVES = {
    "plain": lambda: Objective(),
    "class weights": lambda: Objective(torch.tensor([0.2, 1.0, 3.0])),
    "answers": lambda: Objective(distillation=Distillation(0.4, 2.0)),
    "hidden states": lambda: Objective(distillation=Distillation(0.4, 2.0, 0.7, dense("bert-mean"))),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_losses_of_parts_add_up_to_that_of_their_batch(name):
    """Kind: a product of means, such as the load-balancing loss, is no mean of products."""
    objective, model = OBJECTIVES[name](), sparse("bert-mean", router_aux_loss_coef=0.5, router_z_loss_coef=0.1).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = texts(3, 12, 5, 9, 4, 7)
    labels = torch.tensor([0, 2, 1, 2, 2, 0] if name in ("plain", "class weights") else [0, 2, -100, 1, -100, 0])
    wanted = torch.rand(6, 3).softmax(dim=-1)

    def part(*numbers, row=1):
        given = {"labels": labels[list(numbers)], "teacher_probs": wanted[list(numbers)]}
        return batch([rows[number] for number in numbers]) | given | {"row": torch.full((len(numbers),), row)}

    loss, gradients = in_parts(objective, model, [part(*range(6))])
    found = in_parts(objective, model, [part(1), part(0, 4, 2), part(5, row=0), part(3, 5)])  # one stands in
    assert_close(found, (loss, gradients), rtol=1e-4, atol=1e-5)
    if name == "plain":
        apart = [in_parts(objective, model, [part(*numbers)])[0] for numbers in ((0, 1, 2), (3, 4, 5))]
        assert abs(sum(apart) / 2 - loss) > 1e-3  # and cross entropy alone would be equal
        outputs = model(**batch(rows))
        assert_close(loss, torch.nn.functional.cross_entropy(outputs.logits, labels) + outputs.aux_loss)


@pytest.mark.parametrize("case", CASES)
def test_each_weight_has_a_gradient_even_those_of_an_expert_without_tokens(case):
    """DDP waits for all of them."""
    model = sparse(case, num_experts=3, num_experts_per_tok=1, layers_to_transform=[-1]).train()
    with mask_experts(dict.fromkeys(moe_layers(model), (0,))):
        outputs = model(**batch(texts(7, 4)))
    outputs.logits.logsumexp(-1).sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    experts = moe_layers(model)[0].experts
    assert not experts.down_proj.grad[0].any() and experts.down_proj.grad[1:].any()


@pytest.mark.parametrize("backend", EXPERTS_BACKENDS)
def test_no_backend_leaves_out_an_expert_without_tokens(backend):
    model = sparse("bert", num_experts=3, num_experts_per_tok=1, layers_to_transform=[-1]).train()
    for layer in moe_layers(model):
        layer.experts.backend = backend
    with mask_experts(dict.fromkeys(moe_layers(model), (0,))):
        model(**batch(texts(7, 4))).logits.sum().backward()
    assert all(weight.grad is not None for weight in moe_layers(model)[0].experts.parameters())


def forced(*arguments):
    """Train; the first process never sends a token to expert 0, the second one neither to that nor to one in turn."""
    compute = SentimentTrainer.compute_loss

    def forces(self, *given, **kwargs):
        closed = [0] if processes.is_first() else [0, 1 + self.state.global_step % 3]
        with mask_experts(dict.fromkeys(moe_layers(self.model), closed)):
            return compute(self, *given, **kwargs)

    SentimentTrainer.compute_loss = forces
    command(*arguments)


def test_an_expert_without_tokens_never_hangs_a_process_in_50_steps(told, tmp_path):
    given = told(epochs=5, patience=0, method_settings={"layers_to_transform": [-1], "num_experts_per_tok": 1})
    assert launch(tmp_path / "err", forced, "train", *given, "--output", tmp_path / "run") == [0, 0]
    history = results(tmp_path / "run")[0]
    shares = [row["expert_shares"][0] for row in history if "expert_shares" in row]
    assert history[-1]["step"] == 50 and len(shares) == 5 and all(row[0] == 0 for row in shares)


def disturbed(rank, step, numbers, *arguments):
    """The command; one process sends itself signals before a step."""
    train_step = SentimentTrainer.training_step

    def dies(self, *given, **kwargs):
        if self.state.global_step == step and processes.rank() == rank:
            for number in numbers:
                os.kill(os.getpid(), number)
        return train_step(self, *given, **kwargs)

    SentimentTrainer.training_step = dies
    command(*arguments)


@pytest.fixture(scope="module")
def undisturbed(told, tmp_path_factory):
    """A run of two processes with dropout, and how it was started."""
    folder, given = tmp_path_factory.mktemp("undisturbed"), told(dropout=0.2, save_steps=3)
    assert launch(folder, command, "train", *given, "--output", folder / "run") == [0, 0]
    return folder / "run", given


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(undisturbed, tmp_path, lost):
    """Bit for bit as if nothing had been; with another number of processes it does not go on."""
    expected, given = undisturbed
    given = ["train", *given, "--output", tmp_path / "run"]
    both = begin(tmp_path / "err", disturbed, lost, 14, (signal.SIGKILL,), *given)
    both[lost].join(40)
    while both[1 - lost].exitcode is None:  # as launchers do, whose signal may come at any time until the end
        both[1 - lost].terminate()
        time.sleep(0.02)
    codes = ended(both)
    assert codes[lost] == -signal.SIGKILL and codes[1 - lost] == 75
    line = (tmp_path / "err" / f"err-{1 - lost}").read_text()
    assert "another process of this run ended" in line and "torchrun --nproc-per-node 2 -m sentimoe train" in line
    (line,) = [each for each in line.splitlines() if each.startswith("error:")]
    assert line.endswith("--resume")
    if lost == 0:
        assert launch(tmp_path / "one", command, *given, "--resume", count=1) == [2]
        assert "another processes (2, now 1)" in (tmp_path / "one" / "err-0").read_text()
    assert launch(tmp_path / "again", command, *given, "--resume") == [0, 0]
    *found, weights = results(tmp_path / "run")
    *same, other = results(expected)
    assert found == same and all(torch.equal(weights[name], value) for name, value in other.items())


def test_a_signal_to_one_process_stops_both_at_the_same_step(told, undisturbed, tmp_path):
    """Although the launcher repeats the signal."""
    given = ["train", *undisturbed[1], "--output", tmp_path / "run"]
    assert launch(tmp_path / "err", disturbed, 1, 12, (signal.SIGTERM, signal.SIGTERM), *given) == [75, 75]
    first, second = ((tmp_path / "err" / f"err-{rank}").read_text() for rank in (0, 1))
    assert "stopped after step 13 of 20, and saved there; go on with: torchrun" in first and not second
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-13").is_dir()
    assert not (tmp_path / "run" / "checkpoints" / "partial").exists()


def impatient(*arguments):
    """As `disturbed`, with little time to end after a signal."""
    sys.modules["sentimoe_cli.stopping"].GRACE = 1.0
    disturbed(*arguments)


@pytest.mark.parametrize("asked", [False, True], ids=["the timeout passes", "a launcher asks"])
def test_a_process_that_waits_for_a_frozen_one_ends(told, tmp_path, asked):
    """After the timeout of the group, or soon after a signal, which Python does not see while it waits."""
    given = ["train", *told(ddp_timeout=600 if asked else 2), "--output", tmp_path / "run"]
    waiting, frozen = begin(tmp_path / "err", impatient, 1, 3, (signal.SIGSTOP,), *given)
    try:
        wait_for(lambda: "State:\tT" in Path(f"/proc/{frozen.pid}/status").read_text())
        if asked:
            time.sleep(0.5)
            os.kill(waiting.pid, signal.SIGTERM)
        assert ended([waiting]) == [75]
    finally:
        frozen.kill()
        frozen.join()
    said = "the step did not end within 20 s" if asked else "did not answer in time"
    assert said in (tmp_path / "err" / "err-0").read_text()


def wait_for(condition, within=30.0):
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(("wrong", "code"), [({"num_experts_per_tok": 9}, 2), ({"data": "nowhere.csv"}, 2)])
def test_what_is_wrong_before_training_is_told_once(told, tmp_path, wrong, code):
    given = told(**({"method_settings": wrong} if "data" not in wrong else wrong))
    assert launch(tmp_path, command, "train", *given, "--output", tmp_path / "run") == [code, code]
    assert (tmp_path / "err-0").read_text().count("error:") == 1 and not (tmp_path / "err-1").read_text()


def lacks_data(*arguments):
    """The second process alone does not find the data."""
    if os.environ["RANK"] == "1":
        arguments = [*arguments, "--text-column", "nothing"]
    command(*arguments)


def test_what_is_wrong_in_one_process_ends_both_and_is_told(told, tmp_path):
    given = ["train", *told(), "--output", tmp_path / "run"]
    assert launch(tmp_path, lacks_data, *given) == [2, 2]
    assert "nothing" in (tmp_path / "err-0").read_text() and not (tmp_path / "run").exists()


def fitted(folder, settings):
    """Fit twice in one process."""
    texts, labels = labelled_texts(100)
    for number in (0, 1):
        classifier = SentimentClassifier(**settings).fit(texts, labels)
        torch.save(classifier.model.state_dict(), f"{folder}/{os.environ['RANK']}-{number}.pt")


def test_both_processes_get_the_model_that_they_fit_and_may_fit_another(backbone, tmp_path):
    settings = {"model": backbone, "method": "full", "epochs": 1, "max_length": 32, "patience": 1}
    assert launch(tmp_path, fitted, str(tmp_path), settings) == [0, 0], (tmp_path / "err-0").read_text()
    first, *others = (torch.load(tmp_path / f"{rank}-{number}.pt") for rank in (0, 1) for number in (0, 1))
    for other in others:
        assert_close(other, first, rtol=0, atol=0)
