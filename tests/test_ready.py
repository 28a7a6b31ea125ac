"""The ready models: their answers are those of the day they were made, from the installed package, and fast."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone
from safetensors.torch import load_file, save_file

import sentimoe_cli
from experiments import ready as making
from experiments.ready import describe
from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError, ModelFolderError
from sentimoe.manifest import MANIFEST
from sentimoe.model_card import CARD
from sentimoe.model_folder import SEEN
from sentimoe.records import read_json
from sentimoe_ready import DEFAULT, FACTS, UPDATES, facts, ready_models

ROOT = Path(__file__).parents[1]
GOLDEN = read_json(ROOT / "tests" / "fixtures" / "ready.json")  # written by tools/ready_golden.py
MEGABYTE = 2**20


@pytest.mark.parametrize("name", ready_models())
def test_answers_are_those_of_the_day_it_was_made(name):
    """Kind: an update that is left out, scaled twice or added to another weight."""
    classifier = SentimentClassifier.from_pretrained(name, precision="float32")
    assert classifier.classes_.tolist() == GOLDEN["models"][name]["classes"]
    found = classifier.predict_proba(GOLDEN["texts"])
    assert len(found) == 50 and np.abs(found - GOLDEN["models"][name]["probabilities"]).max() < 1e-3


@pytest.mark.parametrize("name", ready_models())
def test_a_ready_model_is_small_and_described(name):
    folder = ready_models()[name]
    assert {path.name for path in folder.iterdir()} == {FACTS, UPDATES, SEEN, CARD, MANIFEST}
    assert (folder / UPDATES).stat().st_size < 1.5 * MEGABYTE
    assert {tensor.dtype.itemsize for tensor in load_file(folder / UPDATES).values()} == {2}
    card, known = (folder / CARD).read_text(), facts(folder)
    record = read_json(ROOT / "results" / "ready" / f"{name}.json")
    for part in ("## Scores", "## Texts of other kinds", "## Limits", "## Data and licences"):
        assert part in card
    assert f"accuracy {record['scores']['accuracy']:.3f}" in card
    assert known["scores"]["f1_macro"] == record["scores"]["f1_macro"]


@pytest.mark.parametrize("name", ready_models())
def test_a_card_is_what_its_record_says(name, tmp_path):
    """Kind: the words of a card are changed where they are made, and the stored card stays."""
    shutil.copytree(ready_models()[name], tmp_path / name)
    describe(name, tmp_path / name, read_json(ROOT / "results" / "ready" / f"{name}.json"))
    for file in (CARD, FACTS, MANIFEST):
        assert (tmp_path / name / file).read_text() == (ready_models()[name] / file).read_text()


def test_what_answers_where_no_model_is_named(capfd, tmp_path, monkeypatch):
    """Kinds: a folder of that name that is not the model; a first text that is taken for one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()  # an existing folder wins where it is named, and only there
    assert sentimoe_cli.run(["predict", "I love it"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["label"] == "positive" and f"the ready model {DEFAULT} answers" in err
    assert sentimoe_cli.run(["predict", "--model", DEFAULT, "I love it"]) == 2
    assert "not a trained model" in capfd.readouterr().err


def test_no_training_starts_from_a_ready_model_but_from_its_copy(capfd, tmp_path):
    pd.DataFrame({"text": [f"text {n}" for n in range(60)], "label": ["joy", "anger"] * 30}).to_csv(tmp_path / "x.csv")
    told = ["train", "--model", "emotion", "--data", str(tmp_path / "x.csv"), "--output", str(tmp_path / "run")]
    assert sentimoe_cli.run(told) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "model='emotion' is a ready model, from which no training starts; copy it into a folder" in said
    assert sentimoe_cli.run(["evaluate", "emotion", "--target-accuracy", "0.9", "--save"]) == 2
    assert 'SentimentClassifier.from_pretrained("emotion").save_pretrained("FOLDER")' in capfd.readouterr().err
    SentimentClassifier.from_pretrained("emotion").save_pretrained(tmp_path / "copy")
    assert SentimentClassifier.from_pretrained(tmp_path / "copy").label_names == ["anger", "joy", "optimism", "sadness"]


def test_models_are_listed_and_known_to_info(capfd):
    assert sentimoe_cli.run(["models", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert list(listed) == list(ready_models()) and next(iter(listed)) == DEFAULT
    assert sentimoe_cli.run(["models"]) == 0
    assert "negative, neutral, positive" in capfd.readouterr().out
    assert sentimoe_cli.run(["info", DEFAULT, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["test"]["accuracy"] == round(listed[DEFAULT]["scores"]["accuracy"], 4)


def test_a_damaged_ready_model_is_refused(tmp_path):
    for path in ready_models()[DEFAULT].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    stored = load_file(tmp_path / UPDATES)
    save_file({name: tensor[:1].contiguous() for name, tensor in stored.items()}, tmp_path / UPDATES)
    with pytest.raises(ModelFolderError, match="its hash differs"):
        SentimentClassifier.from_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="does not fit the backbone"):
        SentimentClassifier.from_pretrained(tmp_path, verify=False)


def test_a_ready_model_saves_as_a_folder_that_answers_the_same(tmp_path):
    ready = SentimentClassifier.from_pretrained(DEFAULT, precision="float32")
    ready.save_pretrained(tmp_path / "mine")
    saved = SentimentClassifier.from_pretrained(tmp_path / "mine", precision="float32")
    assert np.array_equal(saved.predict_proba(GOLDEN["texts"][:3]), ready.predict_proba(GOLDEN["texts"][:3]))


@pytest.mark.slow
def test_the_wheel_answers_outside_the_checkout(tmp_path):
    """Kinds: a folder of data that the wheel lacks; a module that only the checkout has; peft or the Trainer imported.

    `make wheel-test` does the same in an empty environment.
    """
    shutil.copytree(ROOT / "src", tmp_path / "tree" / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "tree")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*build, tmp_path / "tree"], check=True, capture_output=True)
    source = tmp_path / "tree" / "src"
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "tree")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert {name for name in wanted if ".egg-info/" not in name} <= set(packed.namelist())  # templates, pages, data
        packed.extractall(tmp_path / "site")
    program = """if True:
        import sys, sentimoe, sentimoe_cli
        code = sentimoe_cli.run(["predict", "I love it"])
        print(code, sentimoe.__file__, sorted({"peft", "sklearn", "datasets"} & set(sys.modules)))
    """
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    answer, told = done.stdout.splitlines()
    assert json.loads(answer)["label"] == "positive"
    assert told == f"0 {tmp_path / 'site' / 'sentimoe' / '__init__.py'} []"


def test_a_ready_model_is_made_from_its_teachers_once(tmp_path, monkeypatch):
    texts, labels = labelled_texts(90)
    frame, data = pd.DataFrame({"text": texts, "label": labels}), tmp_path / "data"
    data.mkdir()
    for name, part in (("train", slice(0, 50)), ("validation", slice(50, 70)), ("test", slice(70, 90))):
        frame[part].to_csv(data / f"{name}.csv", index=False)
    pd.DataFrame({"text": [f"the lovely thing, no. {row}" for row in range(20)]}).to_parquet(tmp_path / "more.parquet")
    frame[:3].to_csv(tmp_path / "more.csv", index=False)
    found = {"data": str(data), "unlabelled": str(tmp_path / "more.parquet"), "more_train": str(tmp_path / "more.csv")}
    teachers = {"model": write_backbone(tmp_path / "backbone"), "method": "full", "epochs": 1, "max_length": 32}
    said = {key: key for key in ("for", "data", "test", "summary", "training")} | {"limits": [], "licences": []}
    settings = {"epochs": 1, "max_length": 32, "distillation_weight": 1.0, "precision": "float32"}
    recipe = said | {"settings": settings, "teachers": teachers | {"seeds": [0, 1]}}
    monkeypatch.setattr(making, "recipes", lambda: {"toy": recipe})
    monkeypatch.setattr(making, "prepare_data", lambda *given: found)
    monkeypatch.setattr(making, "other_sets", lambda *given: [])
    lines = []
    places = {"work": tmp_path / "work", "results": tmp_path / "results", "target": tmp_path / "target"}
    making.make("toy", data_root=tmp_path, **places, progress=lines.append)
    assert [line for line in lines if "training" in line] == ["toy-s0: training", "toy-s1: training", "toy: training"]
    record = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert len(record["teachers"]) == 2 and record["more_train_texts"] == 70
    assert "3 of 3 rows of more.csv stand in the data set; left out." in record["data"]["warnings"]
    assert str(tmp_path) not in json.dumps(record["data"]["warnings"])
    card = (tmp_path / "target" / "toy" / CARD).read_text()
    assert "Weighted F1 of the teachers on the same test texts: 0." in card
    del lines[:]
    making.make("toy", data_root=tmp_path, **places, progress=lines.append)
    assert lines == [f"toy: {tmp_path / 'target' / 'toy'}"]
    teachers["epochs"] = 2
    recipe["teachers"] = teachers | {"seeds": [0, 1]}
    with pytest.raises(ConfigError, match=r"toy-s0 was trained with other settings \(epochs\)"):
        making.make("toy", data_root=tmp_path, **places, progress=lines.append)
