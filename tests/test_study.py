"""Declared studies: what a file stands for, resuming, tuning on validation, budgets."""

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from backbone import labelled_texts, write_backbone
from language_models import language_model, tokenizer
from safetensors.torch import load_file
from typer.testing import CliRunner

import experiments.__main__
from experiments import perform, runner
from experiments.demo import REPORT
from experiments.render import render
from experiments.runner import Trainer, run_study
from experiments.study_file import read_study
from experiments.tables import Results, split_rows
from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError, NotSupportedError, StoppedError
from sentimoe.evaluation import classification_metrics
from sentimoe.methods import METHODS
from sentimoe.records import read_json, write_json
from sentimoe.training import Stop, with_recipe
from sentimoe.training.trainer import SentimentTrainer


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where models go by default
    texts, labels = labelled_texts(120)
    frame = pd.DataFrame({"text": texts, "label": labels})
    (tmp_path / "toy").mkdir()
    frame[:80].to_csv(tmp_path / "toy" / "train.csv", index=False)
    frame[80:100].to_csv(tmp_path / "toy" / "validation.csv", index=False)
    frame[100:].to_csv(tmp_path / "toy" / "test.csv", index=False)
    backbone = write_backbone(tmp_path / "backbone")
    declared = {
        "data": {"toy": {"max_length": 32, "epochs": 4, "precision": "float32"}},
        "models": {backbone: {"batch_size": 16}},
        "methods": {
            "full": {"tune": [0.01, 50]},
            "moe-gated": {"learning_rate": 5e-3, "method_settings": {"layers_to_transform": [-1]}},
        },
        "runs": [
            {"data": "toy", "model": backbone, "method": ["full", "moe-gated"], "seed": [0, 1]},
            {"data": "toy", "model": backbone, "method": "moe-gated", "seed": 0, "recipe": "k-1"}
            | {"method_settings": {"num_experts_per_tok": 1}},
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(declared))
    return path


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}


def test_a_study_from_file_to_results(study, tmp_path):
    runs, results = read_study(study), tmp_path / "results"
    assert len(runs) == 5 and runs[4].settings["method_settings"] == {
        "layers_to_transform": [-1],
        "num_experts_per_tok": 1,
    }
    quiet = {"data_root": tmp_path, "progress": lambda line: None}
    assert run_study(runs, results, wanted=lambda run: "full" in run.name, **quiet) == 0
    before = files(results / "runs")
    assert len(before) == 4
    assert run_study(runs, results, **quiet) == 0
    after = files(results / "runs")
    assert len(after) == 10 and before.items() <= after.items()  # what existed was not run again

    tuning = [json.loads(path.read_text()) for path in (results / "tuning").glob("*.json")]
    assert len(tuning) == 2 and not any("test" in record for record in tuning)  # selection never sees the test split
    best = max(tuning, key=lambda record: record["validation"]["f1_weighted"])
    assert len({record["validation"]["f1_weighted"] for record in tuning}) == 2  # no tie: the choice is a choice
    record = json.loads((results / "runs" / f"{runs[1].name}.json").read_text())
    assert record["hyperparameters"]["learning_rate"] == best["hyperparameters"]["learning_rate"]
    assert {"data", "model", "method", "seed", "recipe", "versions", "data_sha256", "hardware", "seconds"} <= set(
        record
    )
    assert (record["data"], record["method"], record["seed"], record["recipe"]) == ("toy", "full", 1, "default")
    cost = record["cost"]
    assert (
        cost["active_parameters"] == cost["parameters"] == cost["trainable_parameters"] and cost["gflops_per_text"] > 0
    )
    for split in ("validation", "test"):
        assert set(record[split]) >= {"accuracy", "f1_weighted", "f1_macro", "n"} and record[split]["n"] == 20

    stored = np.load(results / "runs" / f"{runs[4].name}.npz")
    sparse = json.loads((results / "runs" / f"{runs[4].name}.json").read_text())
    assert (stored["labels"] == stored["predictions"]).mean() == pytest.approx(sparse["test"]["accuracy"])
    assert sparse["cost"]["active_parameters"] < sparse["cost"]["parameters"] and sparse["recipe"] == "k-1"

    # what is rendered comes from these files alone
    theirs = {"model": runs[0].model, "method": "full", "accuracy": 0.1, "precision": 0.2, "recall": 0.3, "f1": 0.4321}
    paper = {"table_1": {"sst5": {"train": 12}}, "table_2": {"sst5": [theirs]}, "table_3": {}, "table_4": {}}
    (results / "paper.yaml").write_text(yaml.safe_dump(paper))
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results -->\nstale\n<!-- /results -->\nrest\n")
    render(results, tmp_path / "docs", readme)
    page, front = (tmp_path / "docs" / "results.md").read_text(), readme.read_text()
    of_method = [json.loads(path.read_text()) for path in (results / "runs").glob("*__full__default__*.json")]
    mean = sum(item["test"]["f1_weighted"] for item in of_method) / 2
    assert f"{mean:.4f}" in page and f"{mean:.4f}" in front and "0.4321" in page
    assert "5 of 5 declared runs are finished" in page and "80 / 20 / 20" in page
    assert "stale" not in front and front.startswith("# Title") and front.endswith("rest\n")
    assert [path for path in (tmp_path / "docs" / "figures").glob("*.png") if path.stat().st_size > 5000]


def test_a_budget_that_is_spent_starts_nothing(study, tmp_path):
    assert run_study(read_study(study), tmp_path / "results", budget=1.0, data_root=tmp_path) == 5
    declared = json.loads((tmp_path / "results" / "declared" / "study.json").read_text())
    assert [row["missing"] for row in declared] == ["pending"] * 5
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["declared"]


def test_a_budget_counts_the_trials_that_a_run_lacks(study, tmp_path):
    runs, results, said = read_study(study), tmp_path / "results", []
    (results / "runs").mkdir(parents=True)
    earlier = {"seconds": 100.0, "cost": {"training_seconds": 90.0}}
    write_json(results / "runs" / f"{replace(runs[0], method='bitfit').name}.json", earlier)
    told = {"wanted": lambda run: run.name == runs[0].name, "data_root": tmp_path, "progress": said.append}
    assert run_study(runs, results, budget=250.0, **told) == 1 and not said  # two trials and the run: 300 seconds


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "magic"}, "not listed under methods"),
        ({"colour": 1}, "unknown keys"),
        ({"data": "none"}, "under data"),
        ({"tune": 0.5}, "tune is 0.5; it must be a list"),
        ({"tune": ["a", 1]}, r"tune holds \['a'\]"),
        ({"settings": [1]}, r"settings of a run is \[1\]"),
        ({"settings": {"learning_rate": 1e-3}}, "has a grid .tune. and learning_rate; leave one out"),
    ],
)
def test_mistakes_in_a_study_file(study, change, reason):
    declared = yaml.safe_load(study.read_text())
    declared["runs"] = [declared["runs"][0] | change]
    study.write_text(yaml.safe_dump(declared))
    with pytest.raises(ConfigError, match=reason):
        read_study(study)


def test_the_studies_of_this_repository_are_valid_and_agree():
    """Runs that two of them name are the same; what has a result was run as it is declared."""
    root, seen = Path(__file__).parents[1], {}
    for path in sorted((root / "experiments" / "studies").glob("*.yaml")):
        for run in read_study(path):
            other = seen.setdefault(run.name, run)
            assert replace(other, tune=run.tune) == run
            result = root / "results" / "runs" / f"{run.name}.json"
            if result.exists():
                runner.check_alike(run, read_json(result)["hyperparameters"], result)
    assert len(seen) > 150


@pytest.mark.slow
def test_costs_are_measured_for_every_method(study, tmp_path):
    declared = yaml.safe_load(study.read_text())
    declared["methods"]["lora"] = {}
    declared["runs"] = [declared["runs"][0] | {"method": "lora"}]
    study.write_text(yaml.safe_dump(declared))
    model = next(iter(declared["models"]))
    told = ("cost", str(study), "--data", "toy", "--model", model, "--data-root", str(tmp_path), "--rounds", "3")
    done = CliRunner().invoke(experiments.__main__.app, [*told, "--results", str(tmp_path / "results")])
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "results" / "costs").glob("*.json")
    record = json.loads(path.read_text())
    assert [row["name"] for row in record["rows"]] == ["lora", "lora, not merged"]
    for row in record["rows"]:
        assert row["quartiles"][0] <= row["texts_per_second"] <= row["quartiles"][1]
        assert row["prediction_mib"] > 100 and row["training_mib"] > 100


def test_a_grid_that_chooses_another_rate_runs_again(study, tmp_path):
    declared = yaml.safe_load(study.read_text())
    declared["runs"] = [declared["runs"][0] | {"seed": 0}]
    results, quiet = tmp_path / "results", {"data_root": tmp_path, "progress": lambda line: None}
    rates = []
    for grid in ([0.01], [0.01, 50], [0.01, 50]):
        declared["methods"]["full"] = {"tune": grid}
        study.write_text(yaml.safe_dump(declared))
        assert run_study(read_study(study), results, **quiet) == 0
        path = next((results / "runs").glob("*__full__*.json"))
        rates.append((json.loads(path.read_text())["hyperparameters"]["learning_rate"], path.stat().st_mtime_ns))
        others = files(results / "runs")
    assert rates[0][0] < rates[1][0] and rates[1] == rates[2]
    untouched = next(when for name, when in others.items() if "moe-gated" in name and name.endswith("json"))
    assert untouched < rates[1][1]


def test_a_cell_without_a_result_says_why(study, tmp_path):
    """The weights cannot be had; the method does not exist for the model; nobody ran it yet."""
    declared = yaml.safe_load(study.read_text())
    model, done = next(iter(declared["models"])), declared["runs"][0]
    declared["models"]["nobody/nothing"] = {}
    declared["methods"]["p-tuning"] = {"head": "native"}
    declared["runs"] = [
        {"data": "toy", "model": "nobody/nothing", "method": "full", "seed": 0},
        done | {"method": "full", "seed": [0], "tune": []},
        done | {"method": "moe-gated", "seed": [0, 1]},
        done | {"method": "p-tuning", "seed": [0, 1], "settings": {"head": "native"}},
    ]
    study.write_text(yaml.safe_dump(declared))
    results, said = tmp_path / "results", []
    runs = read_study(study)

    def refuse(model, **settings):
        raise NotSupportedError("no place for prompts")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "p-tuning", replace(METHODS["p-tuning"], adapt=refuse))
        left = run_study(
            runs, results, wanted=lambda run: run.method != "moe-gated", data_root=tmp_path, progress=said.append
        )
    assert left == 3 and said[0] == "toy__nobody-nothing__full__default__s0: weights not at hand"
    reasons = [row["missing"] for row in json.loads((results / "declared" / "study.json").read_text())]
    refused = "not supported: no place for prompts"
    assert reasons == ["weights not at hand", "", "pending", "pending", refused, refused]
    assert [line for line in said if "no place" in line] == [f"{runs[4].name}: {refused}"]  # not tried for every seed

    (results / "paper.yaml").write_text("{table_1: {sst5: {train: 1}}, table_2: {}, table_3: {}, table_4: {}}")
    (tmp_path / "README.md").write_text("<!-- results --><!-- /results -->")
    render(results, tmp_path / "docs", tmp_path / "README.md")
    page = (tmp_path / "docs" / "results.md").read_text()
    assert f"| p-tuning | 0 of 2 | {refused} |" in page and "| moe-gated | 0 of 2 | pending |" in page
    assert Results(results).missing(("toy", "nobody/nothing", "full", "default")) == "weights not at hand"
    assert runner.status(replace(runs[4], settings=runs[4].settings | {"head": "mean"}), results) == "pending"
    assert Results(results).missing(("toy", model, "bitfit", "default")) == "not part of the study"


def test_zero_shot_runs_in_a_study(study, tmp_path):
    folder = tmp_path / "language-model"
    language_model("llama").save_pretrained(folder)
    tokenizer("llama").save_pretrained(folder)
    declared = yaml.safe_load(study.read_text())
    declared["models"][str(folder)] = {"precision": "float32"}
    declared["methods"]["zero-shot"] = {}
    entry = {"data": "toy", "model": str(folder), "method": "zero-shot", "seed": 0, "settings": {"limit": 12}}
    declared["runs"] = [entry, entry | {"recipe": "generate", "method_settings": {"mode": "generate"}}]
    study.write_text(yaml.safe_dump(declared))
    runs, results = read_study(study), tmp_path / "results"
    assert run_study(runs, results, data_root=tmp_path, progress=lambda line: None) == 0
    asked, generated = (json.loads((results / "runs" / f"{run.name}.json").read_text()) for run in runs)
    assert asked["hyperparameters"]["method_settings"] == {"mode": "calibrated"}
    assert "Choose one of: negative, positive." in asked["hyperparameters"]["prompt"]["before"]
    assert (asked["test"]["n"], asked["cost"]["trainable_parameters"]) == (12, 0)
    assert asked["cost"]["gflops_per_text"] > 0
    predictions = np.load(results / "runs" / f"{runs[1].name}.npz")["predictions"]
    assert (predictions == -1).sum() == sum(generated["off_label"].values()) > 0
    runner.check_alike(runs[0], asked["hyperparameters"], results)
    for change in ({"limit": 9}, {"settings": runs[0].settings | {"method_settings": {"mode": "uncalibrated"}}}):
        with pytest.raises(ConfigError, match="in the result"):
            runner.check_alike(replace(runs[0], **change), asked["hyperparameters"], results)
    whole = {key: value for key, value in asked["hyperparameters"].items() if key != "limit"}
    with pytest.raises(ConfigError, match="limit: None in the result, 12 in the study"):
        runner.check_alike(runs[0], whole, results)
    plain = replace(runs[1], settings=runs[1].settings | {"method_settings": {}})
    with pytest.raises(ConfigError, match=r"'generate'.* in the result, .*'calibrated'"):
        runner.check_alike(plain, generated["hyperparameters"], results)


@pytest.mark.slow
def test_a_teacher_is_trained_once_and_kept(study, tmp_path):
    """Every student learns from the dense run of its own seed, whether or not that run has a result already."""
    declared = yaml.safe_load(study.read_text())
    done = declared["runs"][0]
    declared["methods"]["full"] = {"tune": [0.5, 2]}
    declared["methods"]["moe-split"] = {"teacher": "full", "epochs": 1, "tune": [1, 2]}
    declared["methods"]["moe-split"]["method_settings"] = {"layers_to_transform": [-1], "num_experts": 3}
    declared["runs"] = [done | {"method": "full"}, done | {"method": "moe-split"}]
    study.write_text(yaml.safe_dump(declared))
    results, models, said = tmp_path / "results", tmp_path / "models", []
    told = {"data_root": tmp_path, "models": models, "progress": said.append}
    assert run_study(read_study(study), results, **told) == 0
    kept = files(models)
    assert len(kept) == 2 and not [line for line in said if "for its weights" in line]
    student = next(path for path in (results / "runs").glob("*moe-split*s1.json"))
    assert json.loads(student.read_text())["hyperparameters"]["teacher"] == "full"

    student.unlink()
    first = next(models.glob("*s1"))
    weights = load_file(first / "model.safetensors")
    shutil.rmtree(first)
    assert run_study(read_study(study), results, **told) == 0
    again = load_file(first / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert [line for line in said if "for its weights" in line] == [f"training {first.name} for its weights"]

    shutil.rmtree(models)
    said.clear()
    assert run_study(read_study(study), results, **told) == 0 and not said  # all results are there: nothing to train

    arguments = ["train", str(study), student.stem, "--data-root", str(tmp_path), "--results", str(results)]
    done = CliRunner().invoke(experiments.__main__.app, [*arguments, "--models", str(models)])
    assert done.exit_code == 0, done.output
    split = SentimentClassifier.from_pretrained(models / student.stem, precision="float32", long_texts="windows")
    texts = pd.read_csv(tmp_path / "toy" / "test.csv").text.tolist()
    again = split.predict_proba(texts).argmax(axis=1)
    assert again.tolist() == np.load(student.with_suffix(".npz"))["predictions"].tolist()

    declared["runs"] = declared["runs"][1:]
    study.write_text(yaml.safe_dump(declared))
    student.unlink()
    with pytest.raises(ConfigError, match="has no default run of 'full'"):
        run_study(read_study(study), results, **told)


def test_models_are_kept_when_asked(study, tmp_path):
    told = {"wanted": lambda run: run.method == "moe-gated" and run.seed == 1, "progress": lambda line: None}
    told |= {"data_root": tmp_path, "models": tmp_path / "models"}
    run_study(read_study(study), tmp_path / "without", **told)
    assert not files(tmp_path / "models") and not list((tmp_path / "models").glob(".unfinished/*"))
    run_study(read_study(study), tmp_path / "with", keep_models=True, **told)
    (folder,) = (tmp_path / "models").glob("[!.]*")
    kept = SentimentClassifier.from_pretrained(folder, precision="float32", long_texts="windows")
    found = kept.predict_proba(pd.read_csv(tmp_path / "toy" / "test.csv").text.tolist()).argmax(axis=1)
    assert found.tolist() == np.load(tmp_path / "with" / "runs" / f"{folder.name}.npz")["predictions"].tolist()


def test_a_killed_run_of_a_study_goes_on(study, tmp_path, monkeypatch):
    """It ends as if it had not been killed, and its seconds are those of both parts."""
    told = {"wanted": lambda run: run.name.endswith("moe-gated__default__s1"), "progress": lambda line: None}
    told |= {"data_root": tmp_path, "models": tmp_path / "models"}
    run_study(read_study(study), tmp_path / "whole", **told)
    step, done = SentimentTrainer.training_step, []

    def dies(self, *args, **kwargs):
        done.append(self.state.global_step)
        if done[-1] == 12 and len(done) == 13:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SentimentTrainer, "training_step", dies)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SentimentTrainer, "seconds", lambda trainer: 1000.0)
        run_study(read_study(study), tmp_path / "killed", **told)
    write = perform.write_run

    def dies_at_the_end(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(perform, "write_run", dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        run_study(read_study(study), tmp_path / "killed", **told)
    monkeypatch.setattr(perform, "write_run", write)
    run_study(read_study(study), tmp_path / "killed", **told)
    assert done == [*range(13), *range(10, 20)]
    whole, resumed = (read_json(next((tmp_path / name / "runs").glob("*.json"))) for name in ("whole", "killed"))
    assert resumed["test"] == whole["test"] and resumed["validation"] == whole["validation"]
    assert 1000 < resumed["cost"]["training_seconds"] < 1000 + 3 * whole["cost"]["training_seconds"] + 10
    assert not list((tmp_path / "models").glob(".unfinished/*"))


def test_a_study_that_is_asked_to_stop_saves_and_the_same_command_goes_on(study, tmp_path, monkeypatch):
    """How often it is saved is no setting of a result: a study may change it while it is stopped, and afterwards."""
    told = {"wanted": lambda run: run.name.endswith("moe-gated__default__s1"), "progress": lambda line: None}
    told |= {"data_root": tmp_path, "models": tmp_path / "models"}
    step, stop = SentimentTrainer.training_step, Stop()

    def asked(self, *args, **kwargs):
        stop.signal = signal.SIGTERM
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(StoppedError, match="after step 1 of 20"):
        patch.setattr(SentimentTrainer, "training_step", asked)
        run_study(read_study(study), tmp_path / "results", stop=stop, **told)
    declared = yaml.safe_load(study.read_text())
    declared["data"]["toy"] |= {"save_minutes": 3, "save_steps": 7}
    study.write_text(yaml.safe_dump(declared))
    for _ in range(2):
        assert run_study(read_study(study), tmp_path / "results", **told) == 0
    (path,) = (tmp_path / "results" / "runs").glob("*.json")
    assert not {"save_minutes", "save_steps"} & set(read_json(path)["hyperparameters"])


def test_an_adapter_that_is_not_merged_is_measured_in_a_study(study, tmp_path):
    """peft wraps the experts; its wrapper has no backend, and that ended the run once it was trained."""
    declared = yaml.safe_load(study.read_text())
    declared["methods"] = {
        "moe-lora": {"learning_rate": 5e-3, "patience": 2, "method_settings": {"layers_to_transform": [-1]}}
    }
    entry = declared["runs"][0] | {"method": "moe-lora", "seed": 0}
    declared["runs"] = [entry | {"recipe": f"merge-{merge}", "settings": {"merge": merge}} for merge in (True, False)]
    study.write_text(yaml.safe_dump(declared))
    told = {"data_root": tmp_path, "models": tmp_path / "models", "progress": lambda line: None}
    assert run_study(read_study(study), tmp_path / "results", **told) == 0
    merged, beside = (read_json(tmp_path / "results" / "runs" / f"{run.name}.json") for run in read_study(study))
    assert merged["test"] == beside["test"]
    assert merged["cost"]["gflops_per_text"] < beside["cost"]["gflops_per_text"]
    assert merged["cost"]["active_parameters"] < beside["cost"]["active_parameters"]


def test_a_study_takes_more_rows_for_train_from_the_folder_of_the_data(study, tmp_path):
    declared = yaml.safe_load(study.read_text())
    texts = [f"a {text}" for text in labelled_texts(40)[0]]
    more = pd.DataFrame({"text": texts, "label": labelled_texts(40)[1]})
    more.to_csv(tmp_path / "toy" / "phrases.csv", index=False)
    entry = declared["runs"][0] | {"method": "moe-gated", "seed": 0}
    declared["runs"] = [entry | {"recipe": "phrases", "settings": {"more_train": "phrases.csv"}}, entry]
    study.write_text(yaml.safe_dump(declared))
    told = {"data_root": tmp_path, "models": tmp_path / "models", "progress": lambda line: None}
    for _ in range(2):  # the second time nothing differs
        assert run_study(read_study(study), tmp_path / "results", **told) == 0
    with_more, without = (read_json(tmp_path / "results" / "runs" / f"{run.name}.json") for run in read_study(study))
    assert with_more["hyperparameters"]["more_train"] == "phrases.csv"
    assert without["hyperparameters"]["more_train"] is None
    assert with_more["data_sha256"] != without["data_sha256"]
    table_1 = read_json(tmp_path / "results" / "data" / "toy.json")
    assert table_1["splits"]["train"]["rows"] == 80 and table_1["sha256"] == without["data_sha256"]


def test_a_run_that_another_process_is_at_is_left_to_the_end(study, tmp_path, monkeypatch):
    """Here the other process is stopped without a result."""
    monkeypatch.setattr(runner, "PAUSE", 0.0)
    runs, said = read_study(study), []
    theirs = Trainer(runs, tmp_path, tmp_path, tmp_path / "models", said.append).lock(runs[3])
    theirs.acquire()

    def say(line):
        said.append(line)
        if line.startswith("waiting"):
            theirs.release()

    told = {"wanted": lambda run: run.method == "moe-gated", "data_root": tmp_path, "progress": say}
    assert run_study(runs, tmp_path / "results", models=tmp_path / "models", **told) == 0
    begun = [line.split(" ")[0] for line in said if line.endswith(" ...")]
    assert begun == [runs[2].name, runs[4].name, runs[3].name]
    assert f"waiting for what other processes are at: {runs[3].name}" in said

    theirs.acquire()
    arguments = ["train", str(study), runs[3].name, "--data-root", str(tmp_path)]
    done = CliRunner().invoke(experiments.__main__.app, [*arguments, "--models", str(tmp_path / "models")])
    assert done.exit_code == 1 and "another process is training" in str(done.exception)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 1e-3}, "learning_rate: 0.005 in the result, 0.001 in the study"),
        ({"long_texts": "truncate"}, "long_texts: 'windows' in the result, 'truncate' in the study"),
        ({"more_train": "phrases.csv"}, "more_train: None in the result, 'phrases.csv' in the study"),
        ({"limit": 5}, "limit: None in the result, 5 in the study"),
        ({"learning_rate": None}, "rate_is: 'declared' in the result, 'default' in the study"),
        ({"text_column": "review"}, "text_column: None in the result, 'review' in the study"),
        ({"epochs": 7}, "epochs: 4 in the result, 7 in the study"),
        ({"teacher": "full"}, "teacher: None in the result, 'full' in the study"),
    ],
)
def test_a_result_is_compared_with_all_that_is_declared(study, tmp_path, change, reason):
    run = read_study(study)[2]
    stored = perform.told(run, with_recipe(run.config(None)))
    runner.check_alike(run, stored, tmp_path)
    settings = {key: value for key, value in (run.settings | change).items() if value is not None}
    fields = {key: settings.pop(key) for key in ("long_texts", "limit", "teacher") if key in settings}
    with pytest.raises(ConfigError, match=reason):
        runner.check_alike(replace(run, settings=settings, **fields), stored, tmp_path)


def test_trials_and_teachers_of_other_settings_are_not_taken(study, tmp_path):
    declared = yaml.safe_load(study.read_text())
    done = declared["runs"][0] | {"seed": 0}
    declared["methods"]["full"] = {"learning_rate": 0.01, "epochs": 1}
    declared["runs"] = [done | {"method": "full"}]
    study.write_text(yaml.safe_dump(declared))
    said = []

    def trainer():
        return Trainer(read_study(study), tmp_path / "results", tmp_path, tmp_path / "models", said.append)

    folder = trainer().kept(trainer().study[0])
    trainer().kept(trainer().study[0])
    assert len(said) == 1
    declared["methods"]["full"]["epochs"] = 2
    study.write_text(yaml.safe_dump(declared))
    trainer().kept(trainer().study[0])
    assert len(said) == 2 and yaml.safe_load((folder / "config.yaml").read_text())["epochs"] == 2

    declared["methods"]["full"] = {"tune": [1], "epochs": 1}
    study.write_text(yaml.safe_dump(declared))
    assert trainer().tuned(trainer().study[0]).settings["learning_rate"] == 1e-4
    declared["methods"]["full"]["epochs"] = 2
    study.write_text(yaml.safe_dump(declared))
    with pytest.raises(ConfigError, match=r"epochs: 1 in the result, 2 in the study.*results/tuning"):
        trainer().tuned(trainer().study[0])


def test_several_teachers_and_a_grid_of_its_own(study, tmp_path):
    """A recipe may learn from the dense runs of several seeds, and choose its rate by trials of its own."""
    declared = yaml.safe_load(study.read_text())
    done = declared["runs"][0]
    declared["methods"]["full"] = {"learning_rate": 0.01, "epochs": 1}
    declared["methods"]["moe-split"] = {"teacher": "full", "epochs": 1, "learning_rate": 0.01}
    declared["methods"]["moe-split"]["method_settings"] = {"layers_to_transform": [-1], "num_experts": 3}
    taught = {"recipe": "two-teachers", "seed": 1, "settings": {"teacher": "full", "teacher_seeds": [0, 1]}}
    taught["settings"] |= {"distillation_hidden_weight": 0, "learning_rate": 0.02}
    declared["runs"] = [done | {"method": "full"}, done | {"method": "moe-split", **taught}]
    declared["runs"] += [done | {"method": "full", **taught}]
    study.write_text(yaml.safe_dump(declared))
    results, models = tmp_path / "results", tmp_path / "models"
    assert run_study(read_study(study), results, data_root=tmp_path, models=models, progress=lambda line: None) == 0
    assert len(files(models)) == 2
    record = json.loads(next((results / "runs").glob("*moe-split__two-teachers__s1.json")).read_text())
    assert record["hyperparameters"]["teacher_seeds"] == [0, 1]
    runs = read_study(study)
    trainer = Trainer(runs, results, tmp_path, models, lambda line: None)
    folders = trainer.taught(next(run for run in runs if run.method == "moe-split")).teacher_folders
    assert [folder[-1] for folder in folders] == ["1", "0"]  # it divides the model of its own seed

    with pytest.raises(ConfigError, match=r"its own seed 5, which teacher_seeds \[0, 1\] must name"):
        trainer.taught(replace(next(run for run in runs if run.method == "moe-split"), seed=5))
    alone = done | {"method": "full", "settings": {"teacher_seeds": [0, 1]}}
    study.write_text(yaml.safe_dump(declared | {"runs": [alone]}))
    with pytest.raises(ConfigError, match="teacher_seeds needs a teacher"):
        read_study(study)

    taught["settings"].pop("learning_rate")
    declared["methods"]["moe-split"].pop("learning_rate")
    own = done | {"method": "moe-split", **taught, "tune": [1, 3], "recipe": "own"}
    declared["runs"] = [declared["runs"][0], own]
    study.write_text(yaml.safe_dump(declared))
    assert run_study(read_study(study), results, data_root=tmp_path, models=models, progress=lambda line: None) == 0
    assert sorted(path.stem.split("__")[3] for path in (results / "tuning").glob("*")) == ["own-rate-x1", "own-rate-x3"]


def test_split_rows_test_against_the_teacher_of_the_same_seed(tmp_path):
    """A student as good as its teacher is not worse; one that loses 2 points on each seed is not shown to be."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    (tmp_path / "runs").mkdir()
    (tmp_path / "paper.yaml").write_text("{}")

    def store(method, recipe, seed, predictions):
        name = f"toy__model__{method}__{recipe}__s{seed}"
        scores = classification_metrics(labels, np.eye(2)[predictions], ["a", "b"])
        record = {"data": "toy", "model": "model", "method": method, "recipe": recipe, "seed": seed, "test": scores}
        record |= {
            "data_sha256": "one",
            "label_names": ["a", "b"],
            "hyperparameters": {"method_settings": {"num_experts_per_tok": 1}},
        }
        record |= {"cost": {"training_seconds": 1.0, "gflops_per_text": 1.0}}
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(record))
        np.savez(tmp_path / "runs" / f"{name}.npz", labels=labels, predictions=predictions)

    for seed in range(3):
        errors = rng.permutation(1000)
        dense = labels.copy()
        dense[errors[:100]] ^= 1
        store("full", "default", seed, dense)
        store("moe-split", "same", seed, dense)
        worse = dense.copy()
        worse[errors[100:120]] ^= 1
        store("moe-split", "worse", seed, worse)
    same, worse = split_rows(Results(tmp_path))
    assert same["not_worse"] and same["test"]["difference"] == 0 and same["test"]["n_seeds_a"] == 3
    assert not worse["not_worse"] and worse["test"]["difference"] == pytest.approx(-0.02, abs=1e-3)
    path = tmp_path / "runs" / "toy__model__full__default__s1.json"
    path.write_text(path.read_text().replace('"one"', '"another"'))
    with pytest.raises(ConfigError, match="toy, model, full, default are of 2 different data sets"):
        Results(tmp_path)


def test_the_tables_of_the_demo_report_are_whole():
    scores = {"accuracy": 0.5, "f1_weighted": 0.5, "f1_macro": 0.5}
    scores["intervals"] = {key: [0.4, 0.6] for key in ("f1_weighted", "f1_macro")}
    receipt = {"texts": 4, "probe": "random ids", "max_abs_logit_diff": 0, "tolerance": 1e-4, "noise_abs_logit_diff": 0}
    told = {"data": {"splits": {"train": {"rows": 9}}}, "used": 8, "n": 7, "config": {}, "seconds": 1, "peak_gib": 1}
    told |= {"rows": [("experts", scores)] * 2, "gain": 1, "sentences": [("text", {"label": "good", "score": 0.9})]}
    told |= {"load": [[0.5, 0.5]] * 2, "load_texts": 7, "layers": [-2, -1], "receipt": receipt}
    lines = REPORT.render(told).splitlines()
    rows = {lines[place + 1 :].index("") for place, line in enumerate(lines) if line.startswith("|---")}
    assert sum(line.startswith("|---") for line in lines) == 3 and rows == {1, 2}


def test_results_without_the_published_figures_say_so(tmp_path):
    with pytest.raises(ConfigError, match=r"paper.yaml"):
        Results(tmp_path)


def test_a_missing_data_root_is_named(tmp_path):
    done = CliRunner().invoke(
        experiments.__main__.app, ["run", "experiments/studies/paper.yaml", "--data-root", str(tmp_path / "no")]
    )
    assert done.exit_code == 1 and "--data-root" in str(done.exception) and "is no folder" in str(done.exception)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runs": None}, "must have data, models, methods, runs"),
        ("data: [unclosed", "is not valid YAML"),
        ("", "must hold the parts"),
        ({"method": "fulll"}, "'fulll' does not exist"),
        ({"seed": None}, "does not say seed"),
        ({"settings": {"epochs": "three"}}, "epochs='three' is not allowed; it must be a whole number"),
        ({"method": "moe-gated", "method_settings": {"experts": 3}}, "has no settings"),
        ({"recipe": "default", "settings": {"epochs": 9}}, "declared twice with different settings"),
    ],
)
def test_a_study_file_is_checked_before_anything_runs(study, change, reason):
    declared = yaml.safe_load(study.read_text())
    entry = {"data": "toy", "model": next(iter(declared["models"])), "method": "full", "seed": 0}
    if isinstance(change, dict):
        declared["methods"] |= {"fulll": {}}
        declared["runs"] += [{key: value for key, value in (entry | change).items() if value is not None}]
        if "runs" in change:
            del declared["runs"]
    study.write_text(change if isinstance(change, str) else yaml.safe_dump(declared))
    with pytest.raises(ConfigError, match=reason):
        read_study(study)


def test_a_result_of_other_settings_is_not_taken_for_this_one(study, tmp_path):
    told = {"wanted": lambda run: run.name.endswith("moe-gated__default__s0"), "data_root": tmp_path}
    told |= {"progress": lambda line: None}
    assert run_study(read_study(study), tmp_path / "results", **told) == 0
    assert run_study(read_study(study), tmp_path / "results", **told) == 0
    study.write_text(study.read_text().replace("epochs: 4", "epochs: 5"))
    with pytest.raises(ConfigError, match=r"epochs: 4 in the result, 5 in the study"):
        run_study(read_study(study), tmp_path / "results", **told)


@pytest.mark.parametrize("text", [None, "no marks", "<!-- results --> open", "<!-- /results --><!-- results -->"])
def test_a_readme_without_its_marks_is_left_alone(tmp_path, text):
    (tmp_path / "paper.yaml").write_text("{table_1: {}, table_2: {}, table_3: {}, table_4: {}}")
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    with pytest.raises(ConfigError, match="must have the marks"):
        render(tmp_path, tmp_path / "docs", tmp_path / "README.md")
    assert not (tmp_path / "docs").exists()
    assert text is None or (tmp_path / "README.md").read_text() == text


def test_several_may_write_the_same_file(tmp_path):
    path = tmp_path / "study.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda turn: write_json(path, {"turn": turn, "long": "x" * 100_000}), range(200)))
    assert len(read_json(path)["long"]) == 100_000 and [each.name for each in tmp_path.iterdir()] == ["study.json"]
