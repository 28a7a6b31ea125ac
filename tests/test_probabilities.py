"""`predict --probabilities`: the same columns whatever the input and the output are."""

import json

import numpy as np
import pandas as pd
import pytest
from backbone import train_classifier
from command import invoke

ALWAYS = ["label", "score", "reason"]
EACH_CLASS = ["prob_negative", "prob_positive"]
TEXTS = ["the lovely thing", "the awful thing", " "]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_classifier(tmp_path_factory.mktemp("probabilities"))


def answered(model, tmp_path, way, *options):
    """The table that `predict` writes in one of its ways."""
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "in.csv", index=False)
    told = ["predict", "--model", model, "--precision", "float32", *options]
    if way == "arguments":
        done = invoke(*told, *TEXTS)
        return pd.DataFrame([json.loads(line) for line in done.stdout.splitlines()])
    out = tmp_path / {"folder": "out", "one table": "out.xlsx", "one file": "out.csv"}[way]
    done = invoke(*told, "--input", tmp_path / "in.csv", "--output", out)
    assert done.exit_code == 0, done.stderr
    if way == "one table":
        return pd.read_excel(out, engine="calamine")
    return pd.read_csv(out / "part-00000.csv" if out.is_dir() else out)


@pytest.mark.parametrize("way", ["arguments", "one table", "one file", "folder"])
def test_the_columns_are_the_same_everywhere(model, tmp_path, way):
    """Kind: a way of predicting that adds a column for each class unasked, or not when asked."""
    assert answered(model, tmp_path, way).columns.tolist() == ["text", *ALWAYS]
    found = answered(model, tmp_path, way, "--probabilities", *(() if way == "arguments" else ("--overwrite",)))
    assert found.columns.tolist() == ["text", *ALWAYS, *EACH_CLASS]
    assert found["label"].tolist()[:2] == ["positive", "negative"] and found["reason"].tolist()[2] == "blank"
    both = found[EACH_CLASS].iloc[:2].astype(float)
    assert np.allclose(both.sum(axis=1), 1, atol=1e-5) and np.allclose(
        both.max(axis=1), found["score"][:2].astype(float)
    )


def test_a_job_that_was_begun_without_them_does_not_go_on_with_them(model, tmp_path):
    """Kind: parts of two shapes in one folder."""
    answered(model, tmp_path, "folder")
    told = ["predict", "--model", model, "--precision", "float32", "--input", tmp_path / "in.csv"]
    assert "probabilities" in invoke(*told, "--output", tmp_path / "out", "--probabilities").error
