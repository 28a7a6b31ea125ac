"""Columns as they stand in files: names in another case, bytes that are no character, Parquet files that differ."""

import json
import logging

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backbone import labelled_texts, train_classifier
from command import invoke

from sentimoe.batch.inputs import looked_at
from sentimoe.data import FileFormat
from sentimoe.data.rows import find_column
from sentimoe.errors import DataError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_classifier(tmp_path_factory.mktemp("columns"))


def table(*names):
    return pd.DataFrame(columns=list(names))


@pytest.mark.parametrize(
    ("names", "given", "role", "found"),
    [
        (("Product", "Text"), "product", "by", "Product"),
        (("Product ", "text"), "PRODUCT", "by", "Product "),
        (("product", "PRODUCT"), "product", "by", "product"),  # exactly that one
        (("Text", "comment"), None, "text", "Text"),  # before other well-known names
        (("REVIEW", "stars"), "Review", "text", "REVIEW"),
    ],
)
def test_a_column_is_found_in_any_case_and_that_is_said(names, given, role, found, caplog):
    with caplog.at_level(logging.WARNING):
        assert find_column(table(*names), "f.csv", given, role) == found
    assert (f'f.csv: column "{found}" is taken for' in caplog.text) == (found not in (given or role))


def test_two_columns_that_differ_by_case_are_not_chosen_among():
    with pytest.raises(DataError, match='no column "product"; its columns are: Product, PRODUCT'):
        find_column(table("Product", "PRODUCT"), "f.csv", "product", "by")


def test_scores_by_a_column_in_another_case(model, tmp_path, caplog):
    texts, labels = labelled_texts(40)
    frame = pd.DataFrame({"Text": texts, "label": labels, "Product": ["book", "lamp"] * 20})
    frame.to_csv(tmp_path / "in.csv", index=False)
    done = invoke("evaluate", model, "--data", tmp_path / "in.csv", "--by", "product", "--json")
    assert done.exit_code == 0, done.stderr
    assert {row["group"] for row in json.loads(done.stdout)["groups"]} == {"book", "lamp"}
    assert '"Product" is taken for "product"' in caplog.text and '"Text" is taken for "text"' in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_bytes_that_are_no_character_beside_the_texts_are_counted(model, tmp_path, suffix):
    """Kind: a name of a city becomes U+FFFD, and nobody is told; or a row of which the text was read is rejected."""
    cities = [b"K\xf6ln", "Köln".encode(), b"M\xfcnchen", b"Bonn"] * 50
    if suffix == "csv":
        lines = [b"id,text,city", *(b"%d,the lovely thing,%s" % row for row in enumerate(cities))]
    else:
        lines = [b'{"id": %d, "text": "the lovely thing", "city": ["%s"]}' % row for row in enumerate(cities)]
    lines += [lines[-1].replace(b"the lovely", b"b\xff\xfed")]
    lines += [each.replace(b"Bonn", "Köln".encode()) for each in lines[-2:-1]] * 200  # the file is UTF-8
    (tmp_path / f"in.{suffix}").write_bytes(b"\n".join(lines))
    told = ["predict", "--model", model, "--input", tmp_path / f"in.{suffix}", "--output", tmp_path / f"out.{suffix}"]
    told += ["--encoding", "utf-8"]
    done = invoke(*told)
    assert done.exit_code == 0, done.stderr
    assert "(100 in city); U+FFFD replaces them" in done.stderr and "400 have a label" in done.stderr
    assert "row 201: undecodable" in done.stderr
    found = (tmp_path / f"out.{suffix}").read_text(encoding="utf-8")
    assert found.count("K\ufffdln") == 50 and found.count("M\ufffdnchen") == 50


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_files_that_differ_only_in_what_may_be_empty_are_one_table(model, tmp_path, caplog):
    text = pa.array(["the lovely thing", "the awful thing"])
    one = parquet(tmp_path / "1.parquet", text=text, n=pa.array([1, 2], pa.int32()), note=pa.nulls(2))
    two = parquet(tmp_path / "2.parquet", n=pa.array([2**40, None]), text=text.cast(pa.large_string()), more=["a", "b"])
    three = parquet(tmp_path / "3.parquet", text=text, n=pa.array([5, 6]), note=["x", None])
    out = tmp_path / "out.parquet"
    done = invoke("predict", "--model", model, "--input", one, "--input", two, "--input", three, "--output", out)
    assert done.exit_code == 0, done.stderr
    found = pq.read_table(out).to_pydict()
    assert found["n"] == [1, 2, 2**40, None, 5, 6] and found["label"] == ["positive", "negative"] * 3
    assert found["note"] == [None] * 4 + ["x", None] and found["more"] == [None, None, "a", "b", None, None]
    assert "2.parquet has no column note" in caplog.text and "1.parquet has no column more" in caplog.text


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"n": pa.array(["1", "2"])}, 'column "n" is of type int64 in .*a.parquet and of string in .*b.parquet'),
        ({"text": pa.array([b"a", b"b"])}, 'column "text" is of type string in .*a.parquet and of binary in'),
        ({"tags": pa.array([[1], [2]], pa.list_(pa.int32()))}, r'column "tags" is of type list<.*string> in'),
    ],
)
def test_parquet_files_of_other_types_are_refused_before_work(tmp_path, changed, reason):
    columns = {"text": pa.array(["a", "b"]), "n": pa.array([1, 2]), "tags": pa.array([["x"], []])}
    files = [parquet(tmp_path / "a.parquet", **columns), parquet(tmp_path / "b.parquet", **columns | changed)]
    with pytest.raises(DataError, match=reason):
        looked_at(files, FileFormat())


def test_integers_beside_floats_are_refused_where_parquet_is_written(model, tmp_path):
    """As .csv or .jsonl each keeps its own; a job used to end at the part in which the type changed."""
    told = ["predict", "--model", model]
    for name, values in (("a", [1, 2]), ("b", [0.5, 1.5])):
        told += ["--input", parquet(tmp_path / f"{name}.parquet", text=["a", "b"], n=values)]
    refused = invoke(*told, "--output", tmp_path / "out.parquet").error
    assert 'column "n" has integers in some files and floats in others' in refused
    assert invoke(*told, "--output", tmp_path / "out.jsonl").exit_code == 0
    found = [json.loads(line)["n"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [1, 2, 0.5, 1.5] and isinstance(found[0], int)


def test_parquet_without_its_texts_or_what_is_never_empty_is_refused(model, tmp_path):
    one = parquet(tmp_path / "a.parquet", text=["a", "b"], n=[1, 2])
    two = parquet(tmp_path / "b.parquet", n=[1, 2])
    refused = invoke("predict", "--model", model, "--input", one, "--input", two, "--output", tmp_path / "out")
    assert f'{two} has no column "text", which holds the texts of {one}' in refused.error
    assert not (tmp_path / "out").exists()
    never = pa.schema([pa.field("text", pa.string()), pa.field("id", pa.int64(), nullable=False)])
    pq.write_table(pa.table({"text": ["a"], "id": [1]}, schema=never), one)
    with pytest.raises(DataError, match=r'b.parquet has no column "id", which is never empty in .*a.parquet'):
        looked_at([one, parquet(two, text=["a"])], FileFormat())
