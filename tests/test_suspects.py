"""Labels that are probably wrong: found where planted, by a model that has not seen the row it judges."""

import numpy as np
import pandas as pd
import pytest
from backbone import labelled_texts
from command import invoke

from sentimoe.errors import ConfigError, DataError
from sentimoe.training import frozen, label_errors, suspects

OTHER = {"negative": "positive", "positive": "negative"}
PLANTED = [6, 7, 30, 90]


@pytest.fixture
def planted():
    """Labels of which four are wrong."""
    texts, labels = labelled_texts(120)
    return texts, [OTHER[label] if row in PLANTED else label for row, label in enumerate(labels)]


def test_planted_errors_come_first(planted):
    texts, labels = planted
    read = []
    found = label_errors(texts, labels, progress=read.append)
    assert sum(read) == 120
    assert set(found["row"][: len(PLANTED)]) == set(PLANTED)
    assert [texts[row] for row in found["row"]] == found["text"].tolist()
    assert [labels[row] for row in found["row"]] == found["label"].tolist()
    assert (found["suggested"] != found["label"]).all() and (found["prob_suggested"] > found["prob_label"]).all()


def test_integer_labels_come_back_as_integers(planted):
    texts, labels = planted
    found = label_errors(texts, [1 if label == "negative" else 5 for label in labels])
    assert {*found["label"], *found["suggested"]} == {1, 5}


def test_a_text_is_judged_by_what_was_fitted_on_others(monkeypatch):
    """Kind: texts that stand twice are learned by heart; 40 texts, each twice, under labels that say nothing."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(40, 60)), 2, axis=0)
    labels = np.repeat(np.arange(40) % 2, 2)
    texts = [f"text {i // 2}" + " " * (i % 2) for i in range(80)]
    monkeypatch.setattr(frozen, "STRENGTH", 1e4)
    right = (frozen.out_of_fold(features, labels, texts, 0).argmax(axis=1) == labels).mean()
    assert right < 0.75


def test_the_command_names_rows_of_the_file(planted, tmp_path):
    texts, labels = planted
    frame = pd.DataFrame({"Review Text": ["", *texts], "Stars": ["positive", *labels]})
    frame.to_csv(tmp_path / "reviews.csv", index=False, sep=";")
    told = ("suspects", "--data", tmp_path / "reviews.csv", "--output", tmp_path / "check.csv")
    done = invoke(*told)
    assert done.exit_code == 0 and "labels to check" in done.stdout and "1 without a text" in done.stderr, done.stderr
    found = pd.read_csv(tmp_path / "check.csv")
    assert set(found["row"][:4]) == {row + 2 for row in PLANTED}  # numbered from 1, after the row without a text
    assert f"{len(found)} of 120 labels" in done.stdout and "where 'positive' is likelier" in done.stdout
    assert "exists" in invoke(*told).error
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train", "test"):
        frame.to_csv(folder / f"{name}.csv", index=False)
    of_split = invoke("suspects", "--data", folder, "--split", "test")
    assert of_split.exit_code == 0 and f"{len(found)} of 120 labels" in of_split.stdout, of_split.stderr


def test_what_cannot_be_judged_is_said(planted, monkeypatch, caplog):
    texts, labels = planted
    found = label_errors([*texts, "so so"], [*labels, "neutral"])
    assert "not judged: neutral" in caplog.text and "neutral" not in set(found["label"]) | set(found["suggested"])
    with pytest.raises(DataError, match="2 texts but 1 labels"):
        label_errors(["one", "two"], [1])
    with pytest.raises(DataError, match="two classes with 5 different texts"):
        label_errors(["one", "two"], [1, 2])
    with pytest.raises(DataError, match="2 rows lack a text or a label, the first of them row 0"):
        label_errors([None, "two", "three"], [1, 2, None])
    with pytest.raises(DataError, match="1 rows lack a text or a label, the first of them row 2"):
        label_errors(["one", "two", "three"], [1.0, 2.0, float("nan")])
    monkeypatch.setattr(suspects, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sentimoe\[suspects\]'"):
        label_errors(texts, labels)
