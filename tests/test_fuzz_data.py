"""A small share of `make fuzz`, and proof that it notices what it looks for."""

import dataclasses
import sys
import time

import fuzz_data
import pytest


def outcomes(folder, first: int, last: int) -> dict[int, dict]:
    return {number: fuzz_data.try_case(number, folder) for number in range(first, last)}


def test_damaged_files_are_read_as_written_or_refused(tmp_path) -> None:
    """Kinds: raw errors from inside a parser, and rows that nobody wrote."""
    found = outcomes(tmp_path, 0, 120)
    assert not [row for row in found.values() if row["outcome"] in fuzz_data.BAD]
    assert {row["outcome"] for row in found.values()} == set(fuzz_data.GOOD)
    assert len({row["kind"] for row in found.values()}) >= 12


def test_files_without_damage_are_read_both_ways(tmp_path) -> None:
    """A reader that refuses everything would pass the other test."""
    for number in range(400):
        suffix, kind, name, before, _ = fuzz_data.draw_case(number)
        if kind == fuzz_data.OTHER_NAME and name.lower().endswith(suffix) and number % 3 == 0:
            assert fuzz_data.try_case(number, tmp_path)["outcome"] == "as before"
            (tmp_path / name).write_bytes(before)
            assert len(fuzz_data.load_dataset(str(tmp_path / name)).splits) == 3


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (lambda read: lambda path: (read(path)[0], ["", *read(path)[1][1:]]), "other rows"),
        (lambda read: lambda path: (read(path)[0].assign(id="7"), read(path)[1]), "other rows"),
        (lambda read: lambda path: {}["key"], "raw error"),
        (lambda read: lambda path: (_ for _ in ()).throw(fuzz_data.SentiMoEError("two\nlines")), "raw error"),
    ],
)
def test_a_faulty_reader_is_noticed(tmp_path, monkeypatch, fault, outcome) -> None:
    monkeypatch.setattr(fuzz_data, "read_texts", fault(fuzz_data.read_texts))
    assert outcome in {row["outcome"] for row in outcomes(tmp_path, 0, 30).values()}


def test_a_faulty_reader_of_training_data_is_noticed(tmp_path, monkeypatch) -> None:
    read = fuzz_data.load_dataset
    swapped = {"label_names": ("good", "bad")}
    monkeypatch.setattr(fuzz_data, "load_dataset", lambda path: dataclasses.replace(read(path), **swapped))
    assert "other rows" in {row["outcome"] for row in outcomes(tmp_path, 0, 30).values()}


@pytest.mark.parametrize(
    ("after", "outcome"), [("import os; os._exit(9)", "crash"), ("import time; time.sleep(60)", "hang")]
)
def test_a_worker_that_dies_or_hangs_is_replaced(after: str, outcome: str) -> None:
    program = (
        f"import json, sys; print(json.dumps({{'case': int(sys.argv[1]), 'outcome': 'refused'}}), flush=True); {after}"
    )
    started = time.monotonic()
    found = list(fuzz_data.watch(0, 4, (sys.executable, "-c", program), seconds=2))
    assert [row["case"] for row in found] == [0, 1, 2, 3] and time.monotonic() - started < 55
    assert [row["outcome"] for row in found] == ["refused", outcome, "refused", outcome]
