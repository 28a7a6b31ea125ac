"""What counts as texts: containers that iterate as something else are refused by name, never labelled.

Kind of fault: a table gave the names of its columns, a dict its keys, bytes integers, and lists of lists or bytes their
repr, each with a label beside it.
"""

from decimal import Decimal
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from sentimoe import SentimentClassifier
from sentimoe.data import dataset_from_texts, text_chunks
from sentimoe.errors import ConfigError, DataError

TEXTS = ["one text", "two", ""]
ACCEPTED = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "generator": (text for text in TEXTS),
    "dict values": dict(enumerate(TEXTS)).values(),
    "numpy str": np.array(TEXTS),
    "numpy object": np.array(TEXTS, dtype=object),
    "Series": pd.Series(TEXTS, index=[7, 7, 9]),
    "Series with gaps": pd.Series(["one text", "two", None], dtype="string"),
    "Series of Arrow": pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
    "categorical": pd.Series(TEXTS, dtype="category"),
    "Index": pd.Index(TEXTS),
    "Arrow array": pa.array(["one text", "two", None]),
    "Arrow large strings": pa.array(TEXTS, pa.large_string()),
    "Arrow dictionary": pa.array(TEXTS).dictionary_encode(),
    "Arrow chunks": pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "data set column": datasets.Dataset.from_dict({"text": TEXTS})["text"],
    "missing values": ["one text", "two", np.float32("nan")],
    "signalling NaN": ["one text", "two", Decimal("sNaN")],
    "NA": ["one text", "two", pd.NA],
    "NaT": ["one text", "two", pd.NaT],
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_texts_of_every_container(kind: str) -> None:
    assert list(text_chunks(ACCEPTED[kind], 2)) == [["one text", "two"], [""]]


def test_numbers_and_dates_are_texts_as_they_are_written() -> None:
    values = [7, np.int64(7), 1.5, True, Decimal("2.50"), pd.Timestamp("2024-02-29"), np.datetime64("2024-02-29")]
    written = ["7", "7", "1.5", "True", "2.50", "2024-02-29 00:00:00", "2024-02-29"]
    assert list(text_chunks(values, 9)) == [written]


FRAME = pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]})
NO_COLUMN = {
    "one string": ("a text", "one string"),
    "bytes": (b"a text", "bytes"),
    "bytearray": (bytearray(b"a text"), "bytes"),
    "DataFrame": (FRAME, "a table"),
    "Arrow table": (pa.Table.from_pandas(FRAME), "a table"),
    "data set": (datasets.Dataset.from_pandas(FRAME), "a table"),
    "dict": ({"a text": 1}, "whose keys"),
    "set": ({"a text"}, "no order"),
    "column vector": (np.array([["a"], ["b"]]), r"2 dimensions, shape \(2, 1\)"),
    "pairs": (np.array([["a", "b"], ["c", "d"]]), r"2 dimensions, shape \(2, 2\)"),
    "scalar array": (np.array("a text"), "0 dimensions"),
    "tensor": (torch.zeros(2, 2), "2 dimensions"),
    "None": (None, "give a list"),
    "number": (5, "give a list"),
}
NO_TEXT = {
    "dicts": ([{"text": "a"}], "dict"),
    "bytes": (["fine", b"a"], "bytes"),
    "lists": ([["a", "b"]], "list"),
    "tuples": ([("a", "b")], "tuple"),
    "arrays": ([np.array(["a"])], "ndarray"),
    "numpy bytes": (np.array([b"a"]), "bytes_"),
    "masked": (np.ma.array(["a"], mask=[True], dtype=object), "MaskedConstant"),
    "structs": (np.array([("a", 1)], dtype=[("text", "U9"), ("n", int)]), "void"),
    "vector": (torch.zeros(3), "Tensor"),
    "Series of lists": (pd.Series([["a"]]), "list"),
    "Arrow binary": (pa.array([b"a"]), "bytes"),
    "Arrow lists": (pa.array([["a"]]), "list"),
    "data set of lists": (datasets.Dataset.from_dict({"text": [["a"]]})["text"], "list"),
    "rows": (pd.DataFrame({"text": ["a"]}).itertuples(), "Pandas"),
    "objects": ([object()], "object"),
    "huge integers": ([10**5000], "4300 digits"),
}


@pytest.mark.parametrize("kind", NO_COLUMN)
def test_what_iterates_as_something_else_is_refused_by_name(kind: str) -> None:
    given, reason = NO_COLUMN[kind]
    for name in ("texts", "labels"):
        with pytest.raises(ConfigError, match=reason) as caught:
            both = {"texts": TEXTS, "labels": [0, 1, 0]} | {name: given}
            dataset_from_texts(**both)
        told = str(caught.value)
        assert told.startswith(f"{name} is {type(given).__name__}") and "\n" not in told and len(told) < 250


@pytest.mark.parametrize("kind", NO_TEXT)
def test_values_that_are_no_texts_are_refused_with_their_row(kind: str) -> None:
    given, what = NO_TEXT[kind]
    with pytest.raises(DataError, match=what) as caught:
        list(text_chunks(given, 2))
    row = len(given) - 1 if isinstance(given, list) else 0
    assert str(caught.value).startswith(f"texts[{row}] is") and "\n" not in str(caught.value)


def test_the_classifier_refuses_before_the_model_runs() -> None:
    """All ways in: the engine reads texts through the same function."""
    from sentimoe.inference import Engine

    engine = Engine.__new__(Engine)
    engine.num_labels, engine.model = 2, SimpleNamespace(config=SimpleNamespace())
    classifier = SentimentClassifier()
    classifier._engine = engine
    for given in (FRAME, {"a": 1}, b"bytes", [b"bytes"], [["a"]], None):
        for answer in (classifier.predict, classifier.predict_proba):
            with pytest.raises((ConfigError, DataError), match="texts"):
                answer(given)
    with pytest.raises(ConfigError, match="texts is DataFrame"):
        classifier.fit(FRAME, FRAME["label"])


def test_fit_takes_generators_and_columns() -> None:
    texts = [f"text {number}" for number in range(60)]
    labels = [number % 2 for number in range(60)]
    plain = dataset_from_texts(texts, labels)
    assert dataset_from_texts(iter(texts), iter(labels)) == plain
    assert dataset_from_texts(pa.array(texts), pa.array(labels)) == plain
    assert dataset_from_texts(pd.Series(texts, dtype="category"), np.array(labels)) == plain
