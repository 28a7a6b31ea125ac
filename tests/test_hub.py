"""Hub ids as data, from a hub that is a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from fake_hub import fake_hub

from sentimoe.data import load_dataset
from sentimoe.errors import DataError

LOAD = """
import json, sys
from sentimoe.data import load_dataset
from sentimoe.errors import DataError
for source in sys.argv[1:]:
    try:
        found = load_dataset(source)
        print(json.dumps([found.name, found.label_names, {k: len(v) for k, v in found.splits.items()}, found.warnings]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def load(folder: Path, endpoint: str, *sources: str, offline: bool = False) -> list:
    # the address is read when huggingface_hub is imported
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline)), "HF_HOME": str(folder / "home")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", LOAD, *sources], env=env, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_id_is_data_and_stays_in_the_cache(tmp_path: Path) -> None:
    reviews, classes = tmp_path / "hub/someone/reviews", tmp_path / "hub/someone/classes"
    reviews.mkdir(parents=True)
    classes.mkdir()
    texts = [f"text {i}" for i in range(40)]
    for split, kept in (("train", 40), ("test", 20)):
        pd.DataFrame({"text": texts, "label": ["bad", "good"] * 20})[:kept].to_csv(reviews / f"{split}.csv")
    features = datasets.Features(sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"]))
    for split, labels in (("train", [0, 1] * 19 + [-1, 1]), ("validation", [0, 1] * 20), ("test", [-1] * 40)):
        part = datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features)
        part.to_parquet(classes / f"{split}.parquet")

    with fake_hub(tmp_path / "hub") as endpoint:
        csv, parquet, missing = load(tmp_path, endpoint, "someone/reviews", "someone/classes", "someone/nothing")
    assert csv[:3] == ["reviews", ["bad", "good"], {"train": 37, "validation": 3, "test": 20}]
    # names in the order of the data set; the test split has no labels
    assert parquet[:3] == [
        "classes",
        ["pos", "neg"],
        {"train": 39, "validation": 40},
    ]  # their order, no unlabelled test
    assert any("1 of 40" in warning for warning in parquet[3])
    assert "someone/nothing could not be loaded" in missing and "check the id" in missing

    cached, lost = load(tmp_path, endpoint, "someone/reviews", "someone/nothing", offline=True)
    assert cached == csv
    assert "someone/nothing" in lost and "with no network, give a local folder" in lost


@pytest.mark.parametrize("source", ["owner/name/more", "./owner/name", "owner/file.csv", "~nosuchuser/x.csv"])
def test_a_path_is_no_hub_id(source: str) -> None:
    with pytest.raises(DataError, match="not found; give a preset"):
        load_dataset(source)
