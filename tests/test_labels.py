"""Labels: their order, their type and the ones that only look alike.

Kinds of fault: an order of labels that contradicts the data's; labels that come back as another type; classes that
nobody meant, told to nobody; softmax over logits that are no choice.
"""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import MoEConfig, SentimentClassifier, collapse, upcycle
from sentimoe.data import dataset_from_texts, load_dataset
from sentimoe.errors import ConfigError, DataError
from sentimoe.training import TrainConfig, prepare

TEXTS = [f"text number {number}" for number in range(90)]


def names_of(*labels) -> tuple[str, ...]:
    return dataset_from_texts(TEXTS, [labels[i % len(labels)] for i in range(90)]).label_names


def warnings_of(*labels) -> tuple[str, ...]:
    return dataset_from_texts(TEXTS, [labels[i % len(labels)] for i in range(90)]).warnings


@pytest.mark.parametrize(
    "ordered",
    [
        ("-1.0", "-0.5", "1.0"),
        ("-10", "-9", "+2", "10.5", "1e3"),
        ("1", "1.0", "2"),
        ("1 star", "2 stars", "10 stars"),
        ("7", "9" * 5000),
        ("a" + "1" * 5000, "a" + "2" * 5000),
    ],
)
def test_numbers_are_sorted_as_numbers_and_names_naturally(ordered) -> None:
    assert names_of(*ordered[::-1]) == ordered


@pytest.mark.parametrize(
    "alike",
    [("good", "Good"), ("café", "cafe\u0301"), ("1", "1.0"), ("ｇｏｏｄ", "good"), ("a b", "a  B"), ("0.5", ".50")],
)
def test_labels_that_look_alike_are_warned_of(alike) -> None:
    (told,) = warnings_of(*alike, "other")
    assert all(repr(name) in told for name in alike) and "2 classes" in told and "other" not in told
    assert warnings_of("1", "10", "one") == ()


@pytest.mark.parametrize(
    ("label", "reason"),
    [("half \ud83d", "surrogate"), (10**5000, "4300 digits"), (1.5, "float 1.5"), (True, "bool"), (b"good", "bytes")],
    ids=["surrogate", "digits", "float", "bool", "bytes"],
)
def test_labels_that_cannot_be_written_are_refused_before_training(label, reason) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        dataset_from_texts(["a", "b", "c"], ["x", "y", label])
    assert "row 3" in str(caught.value) and "\n" not in str(caught.value)


def test_the_type_of_labels_is_known_of_columns_too(tmp_path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": [i % 3 for i in range(90)]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "x.csv", index=False)
    found = {suffix: load_dataset(str(tmp_path / f"x.{suffix}")).label_type for suffix in ("parquet", "jsonl", "csv")}
    assert found == {"parquet": "int", "jsonl": "int", "csv": "int"}  # whole numbers, in a file that has strings alone
    frame.assign(label=[f"0{i % 3}" for i in range(90)]).to_csv(tmp_path / "x.csv", index=False)
    frame.assign(label=frame["label"].astype(str)).to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    assert {load_dataset(str(tmp_path / f"x.{suffix}")).label_type for suffix in ("jsonl", "csv")} == {"str"}
    assert load_dataset("tweets").label_type == "str"  # its integers have names


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def fitted(backbone):
    """Trained on 0 and 1, given as numpy integers."""
    texts, labels = labelled_texts(200)
    numbers = np.array([7 if label == "positive" else 3 for label in labels])
    settings = {
        "method": "full",
        "epochs": 3,
        "batch_size": 16,
        "max_length": 32,
        "learning_rate": 5e-3,
        "precision": "float32",
    }
    return SentimentClassifier(model=backbone, **settings).fit(texts, numbers), texts, numbers


def test_integer_labels_come_back_as_integers_from_every_folder(fitted, tmp_path) -> None:
    classifier, texts, numbers = fitted
    assert classifier.classes_.tolist() == [3, 7] and classifier.label_names == ["3", "7"]
    classifier.save_pretrained(tmp_path / "saved")
    classifier.export(tmp_path / "exported")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["id2label"] == {"0": "3", "1": "7"}
    loaded = SentimentClassifier.from_pretrained
    for each in (
        classifier,
        loaded(tmp_path / "saved", precision="float32"),
        loaded(tmp_path / "exported", precision="float32"),
    ):
        found = each.predict([*texts[:20], ""])
        assert found.tolist() == [*numbers[:20].tolist(), None] and found.dtype == object
        assert each.seen_texts.mask(texts).all() and each.ordinal
        assert each.predict(texts[:20]).dtype == np.int64 and each.predict([]).shape == (0,)
        assert all(type(answer["label"]) is int for answer in each(texts[:20]))


def test_a_score_of_labels_in_another_form_is_refused(fitted) -> None:
    """Kind: an accuracy of 0, because "7" is not 7."""
    classifier, texts, numbers = fitted
    assert classifier.score(texts[:20], numbers[:20]) == 1
    for given, labels in (([*texts[:2]], ["3", "7"]), ([], []), (texts[:2], [3])):
        with pytest.raises(ConfigError, match="give"):
            classifier.score(given, labels)


@pytest.mark.parametrize("head", ["mean", "native"])
def test_integer_labels_stay_integers_without_experts(backbone, head) -> None:
    """Kind: "3" for 3, because the dense model is not told what the one with experts knew."""
    dataset = dataset_from_texts(["good", "bad", "so so", "fine"] * 5, [1, 2, 3, 1] * 5)
    config = TrainConfig(model=str(backbone), method="moe-gated", head=head, max_length=32)
    model = prepare(config, dataset).model
    dense = collapse(model, expert=0)
    assert (dense.config.label_type, dense.config.ordinal) == ("int", True)
    again = upcycle(dense, MoEConfig())
    assert (again.config.label_type, again.config.ordinal) == ("int", True)


def test_fit_tells_what_the_data_warn_of(backbone, caplog) -> None:
    texts, labels = labelled_texts(60)
    labels[0], labels[1] = labels[0].upper(), None
    classifier = SentimentClassifier(model=backbone, method="full", epochs=1, max_length=16)
    with caplog.at_level(logging.WARNING, "sentimoe"):
        classifier.fit(texts, labels)
    assert any("differ by case" in record.message for record in caplog.records)
    assert "1 without a label" in caplog.text and "--unlabelled" not in caplog.text  # there is no file to name
    assert classifier.classes_.tolist() == classifier.label_names


def test_evaluate_puts_the_labels_of_a_stored_classifier_in_order(fitted, tmp_path) -> None:
    """{0: pos, 1: neg} was refused, or would have been scored upside down."""
    classifier, texts, numbers = fitted
    classifier.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    swapped = {"id2label": {"0": "pos", "1": "neg"}, "label2id": {"pos": 0, "neg": 1}, "label_type": "str"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | swapped))
    (tmp_path / "m" / "sentimoe_manifest.json").unlink(missing_ok=True)
    data = pd.DataFrame({"text": texts, "label": ["pos" if number == 3 else "neg" for number in numbers]})
    data.to_csv(tmp_path / "data.csv", index=False)
    told = ["evaluate", tmp_path / "m", "--data", tmp_path / "data.csv", "--json", "--precision", "float32"]
    result = CliRunner().invoke(sentimoe_cli.app, [str(each) for each in told])
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert metrics["accuracy"] > 0.9 and list(metrics["per_class"]) == ["pos", "neg"]


def test_the_labels_of_data_follow_an_order_and_keep_their_hash() -> None:
    dataset = dataset_from_texts(TEXTS, [("a", "b", "c")[i % 3] for i in range(90)])
    turned = dataset.with_label_order(["c", "a", "b"])
    for split, part in dataset.splits.items():
        assert [turned.label_names[i] for i in turned.splits[split].labels] == [
            dataset.label_names[i] for i in part.labels
        ]
    assert turned.sha256 == dataset.sha256 and turned.label_names == ("c", "a", "b")
    for other in (["a", "b"], ["a", "b", "d"], ["a", "b", "b"]):
        with pytest.raises(DataError, match="same labels"):
            dataset.with_label_order(other)


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_other_kinds_of_classifier_are_refused_before_training_and_prediction(fitted, backbone, tmp_path, kind) -> None:
    """Softmax was taken of their logits without a word, or the first step failed."""
    classifier, texts, numbers = fitted
    classifier.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"problem_type": kind}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "sentimoe_manifest.json").unlink(missing_ok=True)
    dataset = dataset_from_texts(texts, numbers)
    with pytest.raises(ConfigError, match=f"problem_type='{kind}'"):
        prepare(TrainConfig(model=str(tmp_path / "m"), method="full", head="native", max_length=32), dataset)
    with pytest.raises(ConfigError, match=f"problem_type='{kind}'"):
        SentimentClassifier.from_pretrained(tmp_path / "m")
    # a new head is no regression, whatever the old one was
    base = json.loads((tmp_path / "m" / "config.json").read_text())
    other = tmp_path / "backbone"
    write_backbone(other)
    (other / "config.json").write_text(
        json.dumps(json.loads((other / "config.json").read_text()) | {"problem_type": kind})
    )
    assert base["problem_type"] == kind
    ready = prepare(TrainConfig(model=str(other), method="full", max_length=32), dataset)
    assert ready.model.config.problem_type is None
