"""Files written for users: they read back as what they were, and appear whole or not at all."""

import csv
import json
import os
import stat
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import python_calamine

from sentimoe import records
from sentimoe.data import read_texts, write_table
from sentimoe.errors import DataError
from sentimoe.records import remove_asides, write_text, written_aside

ODD_CELLS = ["a\rb", "a\r\nb", "\r", 'a "b"\r', "a\nb", "", "  a ", "NA", '"', "a,b", "\u2028", "\t", "#", "\ufeffa"]


def table_of(frame: pd.DataFrame, path: Path) -> pa.Table:
    write_table(frame, path)
    return pq.read_table(path)


def test_a_cell_with_a_bare_carriage_return_is_one_cell(tmp_path):
    """Kind: output that other readers split at another place."""
    path, rows = tmp_path / "x.csv", len(ODD_CELLS)
    write_table(pd.DataFrame({"te\rxt": ODD_CELLS, "n": range(rows), "label": ["a"] * rows}), path)
    with path.open(encoding="utf-8", newline="") as stream:
        read = list(csv.reader(stream))
    assert [row[0] for row in read] == ["te\rxt", *ODD_CELLS]
    assert pd.read_csv(path, keep_default_na=False)["te\rxt"].tolist() == ODD_CELLS
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert pyarrow.csv.read_csv(path, parse_options=options)["te\rxt"].to_pylist() == ODD_CELLS
    assert read_texts(path, "te\rxt")[1] == ODD_CELLS


EVERY_TYPE = pa.table(
    {
        "text": pa.array(["a", None], pa.large_string()),
        "list": pa.array([[0.25] * 2000, None], pa.list_(pa.float32())),
        "bytes": [b"\x00\xff", None],
        "struct": [{"a": 1, "b": ["x"]}, None],
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "decimal": [Decimal("1.10"), None],
        "timestamp": pa.array([datetime(2001, 9, 9, 1, 46, 40), None], pa.timestamp("ns")),
        "date": [date(2024, 1, 31), None],
        "uint64": pa.array([2**63 + 1, None], pa.uint64()),
        "float32": pa.array([0.1, None], pa.float32()),
        "category": pa.array(["x", "y"]).dictionary_encode(),
        "bool": [True, None],
        "infinite": [float("inf"), 1.5],
        "nothing": pa.nulls(2),
    }
)


def test_parquet_keeps_every_type_and_value(tmp_path):
    """Kind: columns that nobody reads change on the way."""
    pq.write_table(EVERY_TYPE, tmp_path / "in.parquet")
    frame, texts = read_texts(tmp_path / "in.parquet")
    assert texts == ["a", ""]
    assert table_of(frame, tmp_path / "out.parquet").equals(EVERY_TYPE)


def test_nested_values_and_bytes_are_no_repr(tmp_path):
    """Kind: a value's repr in place of the value ("[0.24 ... 0.23]", "b'...'")."""
    pq.write_table(EVERY_TYPE, tmp_path / "in.parquet")
    frame, _ = read_texts(tmp_path / "in.parquet")
    write_table(frame, tmp_path / "out.jsonl")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first == {
        "text": "a",
        "list": [0.25] * 2000,
        "bytes": "AP8=",
        "struct": {"a": 1, "b": ["x"]},
        "map": [["k", 1]],
        "decimal": "1.10",
        "timestamp": "2001-09-09T01:46:40",
        "date": "2024-01-31",
        "uint64": 2**63 + 1,
        "float32": 0.1,
        "category": "x",
        "bool": True,
        "infinite": "inf",
        "nothing": None,
    }
    assert [key for key, value in second.items() if value is not None] == ["category", "infinite"]
    write_table(frame, tmp_path / "out.csv")
    cells = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False).iloc[0]
    assert json.loads(cells["list"]) == [0.25] * 2000 and json.loads(cells["struct"]) == {"a": 1, "b": ["x"]}
    assert (cells["bytes"], cells["float32"], cells["nothing"]) == ("AP8=", "0.1", "")


ODD_JSON = [{"text": "a", "number": 12345678901234567890123, "half": "\ud800", "deep": [{"x": "\udc00"}]}, {"text": 5}]


def test_json_keeps_what_only_json_can_hold(tmp_path):
    """Kind: a bad value in a column that nobody reads ends the command after predicting."""
    given = tmp_path / "in.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in ODD_JSON))
    frame, texts = read_texts(given)
    assert texts == ["a", "5"]
    write_table(frame, tmp_path / "out.jsonl")
    missing = dict.fromkeys(ODD_JSON[0])
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").open()] == [missing | row for row in ODD_JSON]
    write_table(frame, tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv", dtype=str)["half"][0] == "\ufffd"
    assert table_of(frame[["half", "deep"]], tmp_path / "out.parquet").to_pylist()[0] == {
        "half": "\ufffd",
        "deep": [{"x": "\ufffd"}],
    }


@pytest.mark.parametrize("values", [[1, "a"], [{}], [10**22], [True, 2]], ids=str)
def test_a_column_that_parquet_cannot_hold_is_named(tmp_path, values):
    """Kind: Arrow's error in place of ours."""
    frame = pd.DataFrame({"odd": pd.Series(values, dtype=object)})
    with pytest.raises(DataError, match=r"Parquet cannot hold.*odd.*write \.jsonl"):
        write_table(frame, tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())


def test_two_columns_of_one_name_are_no_json(tmp_path):
    """Kind: a column is lost without a word."""
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(DataError, match='two columns are named "a"'):
        write_table(frame, tmp_path / "x.jsonl")
    write_table(frame, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "a,a\n1,2\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_no_rows_are_a_file_without_rows(tmp_path, suffix):
    """Kind: header-only input."""
    (tmp_path / "in.csv").write_text("id,text\n")
    frame, texts = read_texts(tmp_path / "in.csv")
    write_table(frame, tmp_path / f"out{suffix}")
    assert texts == []
    again, texts = read_texts(tmp_path / f"out{suffix}")
    assert texts == [] and list(again) == (["text"] if suffix == ".jsonl" else ["id", "text"])
    if suffix == ".parquet":
        assert str(pq.read_schema(tmp_path / "out.parquet").field("id").type) in ("string", "large_string")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    """Kind: half a file, or none, where the user's was."""
    path = tmp_path / "x.csv"
    write_text(path, "before")
    path.chmod(0o600)
    with pytest.raises(ZeroDivisionError), written_aside(path) as partial:
        partial.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write_text(path, "after")
    assert path.read_text() == "after" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path):
    """Kind: what is written aside replaces the link, and the file that it named goes stale."""
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.json", tmp_path / "link.json"
    write_text(real, "before")
    link.symlink_to(real)
    write_text(link, "after")
    assert link.is_symlink() and real.read_text() == "after"


@pytest.mark.parametrize("character", ["a", "é", "💓"])
def test_the_longest_names_can_be_written(tmp_path, character):
    """Kind: the name that is written aside is longer than a name may be."""
    path = tmp_path / (character * (255 // len(character.encode())))
    write_text(path, "text")
    assert path.read_text() == "text"


def test_the_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "none" / "x.txt", "text")
    assert error.value.filename == os.fspath(tmp_path / "none" / "x.txt")


def test_probabilities_have_the_digits_of_32_bits(tmp_path):
    given = np.array([0.1, 0.7], dtype=np.float32)
    write_table(pd.DataFrame({"p": given}), tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_text() == '{"p": 0.1}\n{"p": 0.7}\n'


def test_a_spreadsheet_reads_back(tmp_path):
    """Kinds: a text that Excel would run as a formula or a link; long numbers, which its cells round."""
    frame = pd.DataFrame(
        {
            "text": ["=1+1", "https://x.y", "Café – “ok”", "", None],
            "n": [1, 2, 3, 4, 5],
            "id": [10**17 + 1, 2, 3, 4, 5],
            "score": [0.5, None, 1.25, 0.1, 2.0],
            "ok": [True, False, True, False, True],
        }
    )
    write_table(frame, tmp_path / "out.xlsx")
    with python_calamine.CalamineWorkbook.from_path(tmp_path / "out.xlsx") as book:
        header, *rows = book.get_sheet_by_index(0).to_python()
    assert header == list(frame.columns)
    assert [row[0] for row in rows] == ["=1+1", "https://x.y", "Café – “ok”", "", ""]
    assert [row[1] for row in rows] == [1, 2, 3, 4, 5] and rows[0][2] == str(10**17 + 1)
    assert [row[3] for row in rows] == [0.5, "", 1.25, 0.1, 2] and [row[4] for row in rows] == frame["ok"].tolist()
    _, texts = read_texts(tmp_path / "out.xlsx")
    assert texts == ["=1+1", "https://x.y", "Café – “ok”", "", ""]


def test_dates_of_a_spreadsheet_stay_dates(tmp_path):
    """Kind: every column of it keeps its type, but a date becomes a text."""
    days = [date(2024, 1, 2), None, date(1850, 1, 1)]
    moments = [datetime(2024, 1, 2, 3, 4, 5), datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), None]
    frame = pd.DataFrame({"text": ["a", "b", "c"], "day": days, "at": pd.Series(moments, dtype=object)})
    write_table(frame.assign(of_pandas=pd.Timestamp(2024, 1, 2, 3, 4)), tmp_path / "in.xlsx")
    first = read_texts(tmp_path / "in.xlsx")[0]
    assert first["day"].tolist() == [date(2024, 1, 2), "", "1850-01-01"]  # no spreadsheet has a number for the last
    assert first["at"].tolist() == [datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05+00:00", ""]
    assert first["of_pandas"].tolist() == [datetime(2024, 1, 2, 3, 4)] * 3
    write_table(first, tmp_path / "again.xlsx")
    assert read_texts(tmp_path / "again.xlsx")[0].equals(first)


def test_what_no_cell_holds_is_refused_and_nothing_stays(tmp_path):
    with pytest.raises(DataError, match=r'column "text", row 1: 40,000 characters do not fit'):
        write_table(pd.DataFrame({"text": ["x" * 40_000]}), tmp_path / "out.xlsx")
    with pytest.raises(DataError, match="1048576 rows and 1 columns does not fit into a spreadsheet"):
        write_table(pd.DataFrame({"n": range(1_048_576)}), tmp_path / "out.xlsx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_two_writers_keeps_its_file(tmp_path, monkeypatch, links):
    """Kind: two runs find no file, both write it, and both say that they did."""
    if not links:
        monkeypatch.setattr(records.os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no links")))
    write_table(pd.DataFrame({"n": [1]}), tmp_path / "out.csv", overwrite=False)
    with pytest.raises(DataError, match="another process has written"):
        write_table(pd.DataFrame({"n": [2]}), tmp_path / "out.csv", overwrite=False)
    assert (tmp_path / "out.csv").read_text() == "n\n1\n" and len(list(tmp_path.iterdir())) == 1
    write_table(pd.DataFrame({"n": [3]}), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "n\n3\n"


def test_what_killed_processes_left_goes_and_that_of_others_stays(tmp_path):
    """Kind: two outputs whose long names begin alike, one of which is being written."""
    ending = f".{'0' * 32}.partial"
    long = "reviews of the year in every language, part 1.csv"
    left = [tmp_path / f"{name}{ending}" for name in ("a.csv", "a.csv.csv", long[:40])]
    for path in left:
        path.write_text("x")
    remove_asides(tmp_path / "a.csv")
    remove_asides(tmp_path / long)
    assert [path.exists() for path in left] == [False, True, True]
