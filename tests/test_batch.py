"""Bulk labelling: every row once, whatever happens on the way, and the bytes of an undisturbed run."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backbone import train_classifier
from command import invoke
from filelock import FileLock

import sentimoe_cli.many
import sentimoe_cli.stream
from sentimoe import SentimentClassifier
from sentimoe.batch import Job, Predictor, Report, files, job, predictor, run, running
from sentimoe.batch import folder as job_folder
from sentimoe.batch.inputs import input_files, parts
from sentimoe.batch.journal import JOURNAL
from sentimoe.batch.review import doubtful_rows, review_queue
from sentimoe.data import characters, text_chunks
from sentimoe.errors import ConfigError, DataError, RejectedError, StoppedError
from sentimoe.evaluation import Threshold
from sentimoe_cli.many import told
from sentimoe_cli.stopping import stopped_by_signals

WORDS = ["lovely", "awful", "great", "worst", "happy", "broken", "best", "hate"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_classifier(tmp_path_factory.mktemp("batch"))


def rows(count):
    texts = [f"the {WORDS[i % 8]} thing and the {WORDS[i // 8 % 8]} one, number {i}" for i in range(count)]
    return pd.DataFrame({"id": np.arange(count), "text": texts, "label": "given"})


def label(model, inputs, output, part_rows=20, **settings):
    def make(column):
        return Predictor(model, text_column=column, precision="float32")

    done = []
    given = Job([str(each) for each in inputs], output, part_rows=part_rows, **settings)
    report = run(given, make, {}, lambda report, total: done.append(report.rows))
    assert report.rows == report.scored + sum(report.reasons.values())
    return report


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_row_once_with_its_columns(model, tmp_path, kind):
    frame = rows(50)
    frame.loc[7, "text"] = " "
    frame.to_parquet(tmp_path / "in.parquet")
    report = label(model, [tmp_path / "in.parquet"], tmp_path / f"out.{kind}")
    assert (report.rows, report.scored, dict(report.reasons)) == (50, 49, {"blank": 1})
    read = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}[kind]
    found = read(tmp_path / f"out.{kind}")
    assert found["id"].tolist() == frame["id"].tolist() and found["text"].tolist() == frame["text"].tolist()
    assert set(found["input_label"]) == {"given"} and found["reason"][7] == "blank" and pd.isna(found["label"][7])
    classifier = SentimentClassifier.from_pretrained(model, precision="float32")
    expected = classifier.predict([text for text in frame["text"] if text.strip()])
    assert found["label"].drop(7).tolist() == list(expected)
    assert not (tmp_path / f"out.{kind}.partial").exists()
    if kind == "parquet":
        assert found["id"].dtype == np.int64


@pytest.mark.parametrize("output", ["out.csv", "folder", "out.jsonl", "out.parquet"])
def test_a_killed_job_goes_on_to_the_same_bytes(model, tmp_path, output):
    rows(130).to_csv(tmp_path / "in.csv", index=False)
    label(model, [tmp_path / "in.csv"], tmp_path / f"whole-{output}")

    class Killed(BaseException):
        pass

    def make_stopping(after):
        def make(column):
            made, real = Predictor(model, text_column=column, precision="float32"), Predictor.labelled
            calls = iter(range(100))

            def labelled(frame):
                if len(frame) and next(calls) == after:
                    raise Killed
                return real(made, frame)

            made.labelled = labelled
            return made

        return make

    given = Job([str(tmp_path / "in.csv")], tmp_path / output, part_rows=20)
    for after in (0, 1, 3):
        with pytest.raises(Killed):
            run(given, make_stopping(after), {}, lambda report, total: None)
    report = label(model, [tmp_path / "in.csv"], tmp_path / output)
    assert report.resumed >= 20 and report.rows == 130
    whole, found = tmp_path / f"whole-{output}", tmp_path / output
    if output == "folder":
        assert contents(found) == contents(whole)
        assert label(model, [tmp_path / "in.csv"], found).resumed == 130  # and once more: nothing is left to do
    else:
        assert found.read_bytes() == whole.read_bytes()


def test_freed_memory_goes_back_after_every_part(model, tmp_path, monkeypatch):
    """It lay in holes between what is kept, and more with every part."""
    returned = []
    monkeypatch.setattr("sentimoe.batch.running.return_freed_memory", lambda: returned.append(True))
    rows(50).to_csv(tmp_path / "in.csv", index=False)
    label(model, [tmp_path / "in.csv"], tmp_path / "out")
    assert len(returned) == 3


def stopped_after_two_parts(model, tmp_path, monkeypatch, code=errno.ENOSPC):
    """A folder with two finished parts of a job whose third write failed."""
    rows(80).to_csv(tmp_path / "in.csv", index=False)
    real = running.write_part

    def full(frame, path, schema):
        if path.name == "part-00002.csv":
            raise OSError(code, os.strerror(code))
        real(frame, path, schema)

    monkeypatch.setattr(running, "write_part", full)
    with pytest.raises(StoppedError, match=rf"cannot be written to .*{os.strerror(code)}"):
        label(model, [tmp_path / "in.csv"], tmp_path / "out")
    monkeypatch.setattr(running, "write_part", real)
    return tmp_path / "out"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_loses_nothing_that_is_finished(model, tmp_path, monkeypatch, code):
    out = stopped_after_two_parts(model, tmp_path, monkeypatch, code)
    assert {path.name for path in out.glob("part-*")} == {"part-00000.csv", "part-00001.csv"}
    assert label(model, [tmp_path / "in.csv"], out).resumed == 40
    label(model, [tmp_path / "in.csv"], tmp_path / "again")
    assert contents(out) == contents(tmp_path / "again")


def test_what_a_killed_process_left_is_swept(model, tmp_path, monkeypatch):
    out = stopped_after_two_parts(model, tmp_path, monkeypatch)
    (out / "part-00002.csv").write_text("half a part")
    (out / "part-00003.csv.0123.partial").write_text("half")
    with (out / JOURNAL).open("ab") as stream:
        stream.write(b'{"part": 2, "fi')
    assert label(model, [tmp_path / "in.csv"], out).rows == 80
    label(model, [tmp_path / "in.csv"], tmp_path / "again")
    assert contents(out) == contents(tmp_path / "again")


@pytest.mark.parametrize("what", ["input", "limit", "part", "model", "setting"])
def test_another_job_does_not_go_on_with_the_parts(model, tmp_path, monkeypatch, what):
    out, how = stopped_after_two_parts(model, tmp_path, monkeypatch), {}
    told = "holds parts of another job: "
    if what == "input":
        rows(81).to_csv(tmp_path / "in.csv", index=False)
        told += "inputs in.csv sha256 was .* and now is"
    elif what == "limit":
        how, told = {"limit": 70}, told + "limit was null, and now is 70"
    elif what == "part":
        (out / "part-00001.csv").write_text("other")
        told = "part-00001.csv is missing or was changed"
    elif what == "model":
        other = tmp_path / "other"
        SentimentClassifier.from_pretrained(model).save_pretrained(other)
        (other / "README.md").write_text("changed")
        model, told = other, told + "model README.md was"
    else:
        given = Job([str(tmp_path / "in.csv")], out, part_rows=20)
        with pytest.raises(ConfigError, match="all_answers was null, and now is true"):
            run(given, lambda column: Predictor(model, text_column=column), {"all_answers": True}, print)
        return
    with pytest.raises(ConfigError, match=told):
        label(model, [tmp_path / "in.csv"], out, **how)
    assert label(model, [tmp_path / "in.csv"], out, overwrite=True, **how).resumed == 0


def test_a_folder_with_other_things_is_left_alone(model, tmp_path):
    rows(10).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    said = (r"out is not empty \(mine.txt\) and holds no journal", "also holds mine.txt, which no job wrote there")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=said[overwrite]):
            label(model, [tmp_path / "in.csv"], tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    label(model, [tmp_path / "in.csv"], tmp_path / "done")
    (tmp_path / "done" / "mine.txt").write_text("mine")
    before = contents(tmp_path / "done")
    with pytest.raises(ConfigError, match=said[True]):  # not after the parts are gone
        label(model, [tmp_path / "in.csv"], tmp_path / "done", overwrite=True)
    assert contents(tmp_path / "done") == before


def test_two_processes_do_not_write_one_output(model, tmp_path):
    rows(10).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / job_folder.LOCK),
        pytest.raises(ConfigError, match="another process is writing"),
    ):
        label(model, [tmp_path / "in.csv"], tmp_path / "out")
    with FileLock(tmp_path / "out" / job_folder.LOCK):
        for _ in range(2):  # the one that was refused leaves the lock to its owner
            with pytest.raises(ConfigError, match="another process is writing"):
                label(model, [tmp_path / "in.csv"], tmp_path / "out")


def test_bad_rows_get_a_reason_and_too_many_end_the_job(model, tmp_path):
    frame = rows(300)
    frame.loc[10, "text"] = "x" * 500
    lines = frame.to_csv(index=False).encode().split(b"\n")
    lines[21] = b"20,\xff\xfe broken,given"
    (tmp_path / "in.csv").write_bytes(b"\n".join(lines))

    def make(column):
        return Predictor(model, text_column=column, max_characters=400, precision="float32")

    given = Job([str(tmp_path / "in.csv")], tmp_path / "out.csv", part_rows=100)
    report = run(given, make, {}, lambda report, total: None)
    assert dict(report.reasons) == {"too long": 1, "undecodable": 1} and report.scored == 298
    assert report.places == ["row 11: too long", "row 21: undecodable"]
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["text"][20] == "�� broken" and found["label"].isna().tolist().count(True) == 2
    strict = Job([str(tmp_path / "in.csv")], tmp_path / "two", part_rows=100, max_rejected=0.005)
    with pytest.raises(RejectedError, match=r"2 of 300 rows were rejected, more than 0.50%: row 11: too long; row 21"):
        run(strict, make, {}, lambda report, total: None)
    allowed = Job([str(tmp_path / "in.csv")], tmp_path / "two", part_rows=100, max_rejected=0.01)
    assert run(allowed, make, {}, lambda report, total: None).resumed == 300


def test_values_that_are_no_text_are_rejected(model, tmp_path):
    lines = [{"text": "the best"}, {"text": ["a", "list"]}, {"text": 5}, {"text": None}, {"other": 1}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = label(model, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl", max_rejected=0.5)
    assert dict(report.reasons) == {"blank": 2, "not a text": 1} and report.scored == 2
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found[1]["text"] == ["a", "list"] and found[4]["other"] == 1 and found[0]["other"] is None


def test_where_memory_runs_out_halves_are_tried(model):
    made = Predictor(model, precision="float32")
    frame = rows(40)
    expected = made(frame)
    real, sizes = made.engine.predict, []

    def small(texts):
        sizes.append(len(texts))
        if len(texts) > 12 or any("number 17" in text for text in texts):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(texts)

    made.engine.predict = small
    found = made(frame)
    assert found["reason"].dropna().tolist() == ["out of memory"] and found["reason"][17] == "out of memory"
    kept = [row for row in range(40) if row != 17]
    assert found["label"][kept].tolist() == expected["label"][kept].tolist() and 1 in sizes
    np.testing.assert_allclose(found["score"][kept], expected["score"][kept], atol=1e-6)

    def broken(texts):
        raise RuntimeError("another error")

    made.engine.predict = broken
    with pytest.raises(RuntimeError, match="another error"):
        made(frame)


def test_a_predictor_takes_the_batches_of_other_tools(model):
    made, frame = Predictor(model, text_column="text", precision="float32"), rows(10)
    expected = made(frame)
    table = made(pa.Table.from_pandas(frame))
    arrays = made({name: frame[name].to_numpy() for name in frame.columns})
    assert table.column("label").to_pylist() == arrays["label"].tolist() == expected["label"].tolist()
    assert table.column("id").to_pylist() == arrays["id"].tolist() == frame["id"].tolist()
    typed = {
        "text": np.array(["lovely", None, "awful"], dtype=object),
        "label": np.array([2**53 + 1, None, 3], dtype=object),
        "weight": np.array([1, 2, 3], dtype=np.int32),
    }
    arrays = made(typed)
    assert list(arrays)[:5] == ["text", "input_label", "weight", "label", "score"]
    assert arrays["text"].tolist() == typed["text"].tolist() and arrays["input_label"].tolist() == [2**53 + 1, None, 3]
    assert arrays["weight"].dtype == np.int32 and arrays["reason"].tolist() == [None, "blank", None]
    with pytest.raises(ConfigError, match=r"of unequal lengths \(text 2, id 1\)"):
        made({"text": ["a", "b"], "id": [1]})
    with pytest.raises(ConfigError, match='no column "text"; the columns are a'):
        made(pd.DataFrame({"a": ["b"]}))
    with pytest.raises(ConfigError, match="a batch is a DataFrame, an Arrow table or a mapping of columns, not list"):
        made(["a"])


def test_files_folders_and_patterns(tmp_path):
    for name in ("b.csv", "a.CSV", "sub/c.jsonl.gz", "x.txt", ".hidden.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\na\n")
    assert [path.name for path in input_files([tmp_path])] == ["a.CSV", "b.csv", "c.jsonl.gz"]
    assert [path.name for path in input_files([f"{tmp_path}/*.csv"])] == ["b.csv"]
    assert [path.name for path in input_files([f"{tmp_path}/b.csv", tmp_path / "a.CSV"])] == ["b.csv", "a.CSV"]
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "b-checkpoint.csv").write_text("text\na\n")
    assert len(input_files([tmp_path])) == 3
    assert [path.name for path in input_files([tmp_path], [tmp_path / "sub"])] == ["a.CSV", "b.csv"]
    for again in (tmp_path / "b.csv", tmp_path / "sub" / ".." / "b.csv"):
        with pytest.raises(DataError, match="is named twice"):
            input_files([tmp_path, again])
    with pytest.raises(DataError, match="no file to read there"):
        input_files([f"{tmp_path}/*.parquet"])


def test_linked_folders_are_read_and_locked_ones_are_errors(tmp_path, monkeypatch):
    """Kind: `rglob` and `glob` pass by them without a word, and the job is done without their rows."""
    for name in ("in/a.csv", "in/sub/b.csv", "archive/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("text\na\n")
    (tmp_path / "in" / "old").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "loop").symlink_to(tmp_path / "in")
    assert [path.name for path in input_files([tmp_path / "in"])] == ["a.csv", "c.csv", "b.csv"]
    for given in (tmp_path / "in", f"{tmp_path}/in/*.csv", tmp_path / "in" / "a.csv"):
        with pytest.raises(DataError, match="lies where the output is written; choose another output"):
            input_files([given], [tmp_path / "in", tmp_path / "archive"])
    scandir = os.scandir
    (tmp_path / "archive" / "loop").unlink()
    for code, kind in ((errno.EACCES, DataError), (errno.EIO, StoppedError)):

        def locked(place=".", code=code):
            if Path(place).name == "sub":
                raise OSError(code, os.strerror(code), str(place))
            return scandir(place)

        monkeypatch.setattr(os, "scandir", locked)
        for given in ("in", "in/**/*.csv", "in/*/*.csv"):
            with pytest.raises(kind, match=rf"in/sub.* cannot be read.*{os.strerror(code)}"):
                input_files([f"{tmp_path}/{given}"])
        assert len(input_files([f"{tmp_path}/in/*.csv"])) == 1


def test_what_follows_a_job_is_done_when_it_is_given_again(model, tmp_path):
    """Kind: the parts are gone before the doubtful rows are written, and the job must be done anew for them."""
    rows(30).to_csv(tmp_path / "in.csv", index=False)
    read = []

    def full(output):
        raise StoppedError("the disk is full")

    def job_with(then):
        given = Job([tmp_path / "in.csv"], tmp_path / "out.csv", part_rows=20)
        make = lambda column: Predictor(model, text_column=column, precision="float32")  # noqa: E731
        return run(given, make, {}, lambda report, total: None, then=then)

    with pytest.raises(StoppedError):
        job_with(full)
    assert job_with(lambda output: read.append(len(pd.read_csv(output)))).resumed == 30
    assert read == [30] and sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_part_and_its_name_are_on_the_disk_before_the_journal_lists_it(model, tmp_path, monkeypatch):
    """Kind: a power cut loses what a journal says is there; a killed process loses nothing, so no torture shows it."""
    rows(30).to_csv(tmp_path / "in.csv", index=False)
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    label(model, [tmp_path / "in.csv"], tmp_path / "out")
    of_parts = synced[next(place for place, name in enumerate(synced) if name.startswith("part-")) :]
    for number in range(2):
        part, folder, journal = of_parts[3 * number : 3 * number + 3]
        assert part.startswith(f"part-0000{number}.csv.") and (folder, journal) == ("out", JOURNAL)
    assert of_parts[6:] == [JOURNAL, JOURNAL]  # that it is done, and closed


@pytest.mark.parametrize("output", ["out", "out.csv"])
def test_what_follows_a_job_goes_on_with_overwrite_too(model, tmp_path, output):
    """Kind: the disk is full while the doubtful rows are written, and the same command removes all parts."""
    rows(30).to_csv(tmp_path / "in.csv", index=False)

    def full(output):
        raise StoppedError("the disk is full")

    def resumed_by(then):
        given = Job([tmp_path / "in.csv"], tmp_path / output, part_rows=20, overwrite=True)
        make = lambda column: Predictor(model, text_column=column, precision="float32")  # noqa: E731
        return run(given, make, {}, lambda report, total: None, then=then).resumed

    with pytest.raises(StoppedError):
        resumed_by(full)
    assert resumed_by(lambda output: None) == 30
    assert resumed_by(lambda output: None) == 0  # a job that is done is begun anew


def test_decimals_of_one_file_are_no_floats_of_another(model, tmp_path):
    decimal = pa.array([Decimal("1234567.89")] * 5, pa.decimal128(12, 2))
    pa.parquet.write_table(pa.table({"text": rows(5)["text"], "price": decimal}), tmp_path / "a.parquet")
    pa.parquet.write_table(pa.table({"text": rows(5)["text"], "price": [0.5] * 5}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match='column "price" is of type decimal128'):
        label(model, [tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.csv")


def test_inputs_are_one_table(model, tmp_path):
    rows(25).to_csv(tmp_path / "a.csv", index=False, sep=";")
    rows(30)[["text", "label", "id"]].to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    report = label(model, [tmp_path / "a.csv", tmp_path / "b.jsonl"], tmp_path / "out", kind="jsonl")
    found = [json.loads(line) for path in sorted((tmp_path / "out").glob("part*")) for line in path.open()]
    assert report.rows == len(found) == 55 and [str(row["id"]) for row in found[25:]] == list(map(str, range(30)))
    assert [part["rows"] for part in map(json.loads, (tmp_path / "out" / JOURNAL).open()) if "part" in part] == [
        20,
        20,
        15,
    ]
    rows(5)[["text"]].to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DataError, match=r"c.csv has the columns text, and .*a.csv has id, text, label"):
        label(model, [tmp_path / "a.csv", tmp_path / "c.csv"], tmp_path / "two")


def test_long_texts_make_smaller_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("sentimoe.batch.inputs.PART_BYTES", 1500)
    monkeypatch.setattr("sentimoe.batch.inputs.ROWS_AT_ONCE", 3)
    rows(3).assign(label="x" * 600).to_csv(tmp_path / "a.csv", index=False)
    rows(20).to_csv(tmp_path / "b.csv", index=False)
    from sentimoe.batch.inputs import looked_at
    from sentimoe.data import FileFormat

    sources = looked_at([tmp_path / "a.csv", tmp_path / "b.csv"], FileFormat())
    found = [len(part) for part in parts(sources, 15)]
    assert sum(found) == 23 and max(found) <= 15 and found[0] == 3
    assert sum(len(part) for part in parts(sources, 15, limit=9)) == 9
    nested = [json.dumps({"text": "a", "meta": {"pages": ["x" * 300, "y" * 300]}}) for _ in range(20)]
    (tmp_path / "c.jsonl").write_text("\n".join(nested))
    found = [len(part) for part in parts(looked_at([tmp_path / "c.jsonl"], FileFormat()), 15)]
    assert sum(found) == 20 and max(found) == 3  # kind: what lies in lists and objects takes no memory


def test_parquet_parts_have_one_schema(tmp_path):
    first, later = pd.DataFrame({"a": [None, None], "b": [1, 2]}), pd.DataFrame({"a": ["x", None], "b": [3, 4]})
    files.write_part(first, tmp_path / "part-0.parquet", None)
    schema = pa.parquet.read_schema(tmp_path / "part-0.parquet")
    files.write_part(later, tmp_path / "part-1.parquet", schema)
    files.join(
        [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"], tmp_path / "out.parquet", first, False, print
    )
    assert pd.read_parquet(tmp_path / "out.parquet")["a"].tolist()[2] == "x"
    with pytest.raises(DataError, match='column "a" is empty in the first part, and later of double'):
        files.write_part(later.assign(a=[0.5, 1.5]), tmp_path / "part-2.parquet", schema)
    with pytest.raises(DataError, match='column "b" is of type int64 in the first part, and later of large_string'):
        files.write_part(later.assign(b=["no", "number"]), tmp_path / "part-2.parquet", schema)


def test_no_field_of_an_object_is_dropped(tmp_path):
    """Kind: Arrow casts an object to one of fewer fields without a word."""
    files.write_part(pd.DataFrame({"m": [{"a": 1}]}), tmp_path / "part-0.parquet", None)
    schema = pa.parquet.read_schema(tmp_path / "part-0.parquet")
    for lost in ({"a": 1, "b": "important"}, [{"a": 1}]):
        with pytest.raises(DataError, match='column "m" is of type struct'):
            files.write_part(pd.DataFrame({"m": [lost]}), tmp_path / "part-1.parquet", schema)


def test_labels_stay_with_their_rows_whatever_the_index(model):
    made, frame = Predictor(model, precision="float32"), rows(8)
    expected = made(frame)["label"].tolist()
    shuffled = made(frame.iloc[[5, 0, 0, 3]])
    assert shuffled["label"].tolist() == [expected[row] for row in (5, 0, 0, 3)]
    assert shuffled.index.tolist() == [5, 0, 0, 3] and shuffled["id"].tolist() == [5, 0, 0, 3]


def test_integers_of_one_file_stay_integers_beside_floats_of_another(model, tmp_path):
    big = 2**53 + 1
    rows(5).assign(id=big).to_parquet(tmp_path / "a.parquet")
    rows(5).assign(id=0.5).to_parquet(tmp_path / "b.parquet")
    label(model, [tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv", dtype=str)["id"].tolist() == [str(big)] * 5 + ["0.5"] * 5


def test_a_full_disk_while_parts_are_joined_loses_none(model, tmp_path, monkeypatch):
    rows(60).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out.csv").write_text("old")
    real = job.join

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "join", full)
    with pytest.raises(StoppedError, match="cannot be written to"):
        label(model, [tmp_path / "in.csv"], tmp_path / "out.csv", overwrite=True)
    monkeypatch.setattr(job, "join", real)
    assert (tmp_path / "out.csv").read_text() == "old"
    (tmp_path / f"out.csv.{'0' * 32}.partial").write_text("left by a process that was killed while it joined")
    assert label(model, [tmp_path / "in.csv"], tmp_path / "out.csv", overwrite=True).resumed == 60
    assert len(pd.read_csv(tmp_path / "out.csv")) == 60 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("settings", [{}, {"now": "others"}])
def test_a_file_that_was_replaced_by_its_labelled_self_is_not_labelled_again(model, tmp_path, monkeypatch, settings):
    """The job was killed between the new file's getting its name and the removal of the parts."""
    rows(60).to_csv(tmp_path / "in.csv", index=False, sep=";")

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job, "remove_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            label(model, [tmp_path / "in.csv"], tmp_path / "in.csv", overwrite=True)
    finished = (tmp_path / "in.csv").read_bytes()
    given = Job([tmp_path / "in.csv"], tmp_path / "in.csv", overwrite=True, part_rows=20)
    report = run(given, lambda column: Predictor(model, text_column=column, precision="float32"), settings, print)
    assert report.rows == 60 and report.resumed == (0 if settings else 60)
    assert ((tmp_path / "in.csv").read_bytes() == finished) == (not settings)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_overwrite_clears_what_a_killed_removal_left_and_nothing_else(model, tmp_path):
    rows(10).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00003.csv").write_text("left")
    with pytest.raises(ConfigError, match="is not empty"):
        label(model, [tmp_path / "in.csv"], tmp_path / "out")
    label(model, [tmp_path / "in.csv"], tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "part-notes.txt").write_text("mine")
    label(model, [tmp_path / "in.csv"], tmp_path / "out")
    assert (tmp_path / "out" / "part-notes.txt").read_text() == "mine"


def test_the_output_may_lie_in_the_folder_that_is_read(model, tmp_path):
    rows(30).to_csv(tmp_path / "in.csv", index=False)
    for _ in range(2):
        assert label(model, [tmp_path], tmp_path / "labelled").rows == 30
    assert label(model, [tmp_path / "in.csv"], tmp_path / "one.csv").rows == 30


def test_a_file_that_changes_while_it_is_read_is_noticed(model, tmp_path):
    rows(30).to_csv(tmp_path / "in.csv", index=False)

    def make(column):
        with (tmp_path / "in.csv").open("a") as stream:
            stream.write("99,new,x\n")
        return Predictor(model, text_column=column)

    given = Job([str(tmp_path / "in.csv")], tmp_path / "out", part_rows=20)
    with pytest.raises(DataError, match="was changed while it was read"):
        run(given, make, {}, lambda report, total: None)


def test_jobs_without_rows_and_files_without_lines(model, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "header.csv").write_text("review,id\n")
    (tmp_path / "full.jsonl").write_text('{"review": "the best"}\n')
    report = label(model, [tmp_path / "empty.jsonl", tmp_path / "full.jsonl"], tmp_path / "a", text_column="review")
    assert report.rows == 1
    assert label(model, [tmp_path / "empty.jsonl"], tmp_path / "b", text_column="review").rows == 0
    assert label(model, [tmp_path / "header.csv"], tmp_path / "c", text_column="review").rows == 0
    assert (tmp_path / "c" / "part-00000.csv").read_text().startswith("review,id,label,score,reason")
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    with pytest.raises(DataError, match='2 columns are named "text"'):
        label(model, [tmp_path / "twice.csv"], tmp_path / "d")


def test_the_command_line(model, tmp_path):
    rows(60).to_csv(tmp_path / "in.csv", index=False)
    told = ("predict", "--model", model, "--input", tmp_path / "in.csv", "--output", tmp_path / "out")
    result = invoke(*told, "--limit", 50)
    assert result.exit_code == 0, result.stderr
    assert f"50 rows written to {tmp_path / 'out'}: 50 have a label" in result.stderr
    assert "limit was 50, and now is null" in invoke(*told).error
    assert "50 of them were finished before" in invoke(*told, "--limit", 50).stderr
    assert "part_rows was 16384, and now is 25" in invoke(*told, "--limit", 50, "--part-rows", 25).error
    parts = invoke(*told[:-1], tmp_path / "parts", "--part-rows", 25)
    assert parts.exit_code == 0 and len(list((tmp_path / "parts").glob("part-*"))) == 3
    size = (tmp_path / "in.csv").stat().st_size / 1e6
    dry = invoke(*told[:-1], tmp_path / "dry", "--dry-run", "--limit", 30).stderr.splitlines()
    assert dry[0] == f"{tmp_path / 'in.csv'}: {size:.1f} MB, delimiter ',', utf-8"
    assert dry[1] == "columns: id, text, label; the texts are in 'text'"
    assert re.fullmatch(r"30 rows read: [1-9]\d* rows/s", dry[2])
    hours, disk = re.fullmatch(r"30 rows in all: (\S+) hours, (\S+) GB of disk", dry[3]).groups()
    rate, written = int(dry[2].split()[3]), sum(each.stat().st_size for each in (tmp_path / "parts").glob("part-*"))
    assert float(hours) == pytest.approx(30 / rate / 3600, rel=0.1)
    assert float(disk) == pytest.approx(written / 2 / 1e9, rel=0.1) and not (tmp_path / "dry").exists()
    assert "5 rows written to" in invoke(*told[:-1], tmp_path / "x.csv", "--limit", 5).stderr
    assert "--limit is for files that become a folder" in invoke(*told[:-2], "--limit", 5).error
    assert "add --method zero-shot" in invoke(*told, "--labels", "a,b").error
    assert "add --method zero-shot" in invoke(*told, "--mode", "generate").error
    assert "must end in .csv" in invoke(*told[:-1], tmp_path / "x.txt").error
    assert "--format is only for a folder" in invoke(*told[:-1], tmp_path / "y.csv", "--format", "csv").error
    dotted = invoke(*told[:3], "--input", f"{tmp_path}/i*.csv", "--output", tmp_path / "res.v2")
    assert dotted.exit_code == 0 and (tmp_path / "res.v2" / "part-00000.csv").is_file(), dotted.stderr
    two = invoke(*told[:-1], tmp_path / "both.csv", "--input", tmp_path / "in.csv")
    assert "is named twice" in two.error and two.exit_code == 2


def test_a_signal_ends_a_job_that_passes_by_finished_parts(monkeypatch):
    """Kind: it waits until all finished parts of a long job are read once more, and is killed meanwhile."""
    read = []

    def slow_parts(*_):
        for number in range(300):
            time.sleep(0.02)
            read.append(number)
            yield number

    monkeypatch.setattr(running, "parts", slow_parts)
    job = SimpleNamespace(rows=1, limit=None, journal=SimpleNamespace(parts=[0] * 290), cluster=None, sources=[])

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(running.Run._labelled(job))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert 1 < len(read) < 200


def test_too_many_rejected_rows_end_a_job_early(model, tmp_path):
    """Kind: it reads millions of rows of a wrong column, and says so at the end."""
    frame = rows(3000)
    frame.loc[frame.index % 2 == 0, "text"] = "x" * 5000
    frame.to_csv(tmp_path / "in.csv", index=False)

    def make(column):
        return Predictor(model, text_column=column, max_characters=1000)

    given = Job([str(tmp_path / "in.csv")], tmp_path / "out", part_rows=500)
    with pytest.raises(RejectedError, match=r"500 of 1,000 rows were rejected, more than 1\.00%: row 1: too long"):
        run(given, make, {}, lambda report, total: None)
    assert len(list((tmp_path / "out").glob("part-*"))) == 2


def test_a_queue_of_somebody_else_is_not_replaced(model, tmp_path):
    """Kind: a killed job is given again with --doubtful, which names a file that is there already."""
    rows(60).to_csv(tmp_path / "in.csv", index=False)
    Threshold(0.99, 0.9, 0.95, 1.0, 0.9, 1000, False).save(own := shutil.copytree(model, tmp_path / "model"), "x", "0")
    (tmp_path / "mine.csv").write_text("text\nmine\n")
    told = ("predict", "--model", own, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert invoke(*told, "--limit", 50).exit_code == 0
    (tmp_path / "out.csv").unlink()
    label(own, [tmp_path / "in.csv"], tmp_path / "out.csv.partial", limit=50)
    journal = tmp_path / "out.csv.partial" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b"done" not in line))
    result = invoke(*told, "--doubtful", tmp_path / "mine.csv")
    assert "mine.csv exists" in result.error and (tmp_path / "mine.csv").read_text() == "text\nmine\n"


def test_doubtful_rows_are_numbered_by_the_journal_and_not_by_names(tmp_path):
    """Kind: by name, part 100,000 comes before part 10,001."""
    parts = {"part-99999.csv": "a,,doubtful,0.4\n", "part-100000.csv": "b,,doubtful,0.5\n"}
    for name, row in parts.items():
        (tmp_path / name).write_text(f"text,label,reason,score\n{row}")
    (tmp_path / "part-notes.txt").write_text("mine")
    lines = [{"format": 4}, *({"part": number, "file": name} for number, name in enumerate(parts)), {"done": {}}]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = doubtful_rows(tmp_path)
    assert found["text"].tolist() == ["a", "b"] and found["row"].tolist() == [1, 2]


def test_a_full_temporary_folder_is_named(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sentimoe_cli.many, "json", SimpleNamespace(dumps=full))
    with pytest.raises(OSError) as caught, sentimoe_cli.many.lines_as_file(io.BytesIO(b"a text\n"), None):
        pass
    assert caught.value.filename == tempfile.gettempdir()


def test_reading_and_finding_the_place_are_told(monkeypatch, capsys):
    """Kind: minutes without a word in a log while the input is read, and while finished rows are passed by."""
    monkeypatch.setattr(sentimoe_cli.stream, "SECONDS", 0.05)
    with sentimoe_cli.many._progress() as progress:
        time.sleep(0.2)
        progress(Report(rows=50), 100)
        time.sleep(0.2)
        progress(Report(rows=75), 100)
        time.sleep(0.2)
        progress(Report(rows=100), 100)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading the input: ") and "resuming: 50 of 100 rows" in lines
    assert any(line.startswith("labelling: 75 of 100 rows, ") for line in lines) and lines[-1].startswith("finishing: ")


def test_a_signal_stops_and_the_same_command_goes_on(model, tmp_path):
    rows(40_000).to_csv(tmp_path / "in.csv", index=False)
    told = [sys.executable, "-m", "sentimoe", "predict", "--model", model, "--input", tmp_path / "in.csv"]
    told += ["--output", tmp_path / "out", "--limit", "34000"]
    process = subprocess.Popen(list(map(str, told)), stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "out" / JOURNAL
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "go on with: sentimoe predict" in said
    before = sum("part" in json.loads(line) for line in journal.open())
    done = subprocess.run(list(map(str, told)), stderr=subprocess.PIPE, text=True, check=True)
    assert f"{before * job.PART_ROWS:,} of them were finished before" in done.stderr
    assert Path(tmp_path / "out").exists() and os.listdir(tmp_path / "out").count(JOURNAL) == 1


def test_reasons_are_told_apart(model):
    assert set(predictor.REJECTED).isdisjoint({predictor.BLANK, predictor.DOUBTFUL})


def test_no_library_can_catch_a_signal():
    """Kind: transformers took the error of the signal for one of its own, and the command ended as a bug."""
    with (
        pytest.raises(StoppedError, match=r"what was saved before is there; go on with: sentimoe"),
        stopped_by_signals("sentimoe"),
    ):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except Exception as error:
            raise ValueError("a library's own") from error


def test_lines_of_standard_input_become_a_folder(model, tmp_path):
    told = ("predict", "--model", model, "--output", tmp_path / "out", "--max-rejected", 1)
    lines = b'the lovely thing\nb\xff\xfed\n\n"the awful", {thing}\r\nthe last \xe2\x80\xa8 line'
    done = invoke(*told, text=lines)
    assert done.exit_code == 0, done.stderr
    found = pd.read_json(tmp_path / "out" / "part-00000.jsonl", lines=True)
    assert found["text"].tolist()[3:] == ['"the awful", {thing}', "the last \u2028 line"]
    assert found["reason"].fillna("").tolist() == ["", "undecodable", "blank", "", ""]
    again = invoke(*told, text=lines + b"\nmore")
    assert "holds parts of another job: inputs standard-input.jsonl sha256 was" in again.error


def test_the_folder_one_is_in_can_be_the_output(model, tmp_path, monkeypatch):
    """Kind: `.` has no name, and a traceback."""
    rows(5).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = invoke("predict", "--model", model, "--input", "../in.csv", "--output", ".")
    assert done.exit_code == 0 and (tmp_path / "here" / "part-00000.csv").is_file(), done.stderr
    assert invoke("predict", "--model", model, "--input", "../in.csv", "--output", ".", "--dry-run").exit_code == 0


def test_a_failing_disk_under_the_doubtful_rows_stops_a_job(model, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    rows(5).to_csv(tmp_path / "in.csv", index=False)
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    Threshold(0.9, 0.9, 0.95, 1.0, 0.9, 1000, False).save(folder, "x", "0")
    monkeypatch.setattr("sentimoe.data.write_table", failing)
    told = ("--output", tmp_path / "out", "--doubtful", tmp_path / "queue.csv")
    done = invoke("predict", "--model", folder, "--input", tmp_path / "in.csv", *told)
    assert done.exit_code == 75 and "queue.csv cannot be written to" in done.error


def test_a_signal_while_standard_input_is_read_leaves_nothing(model, tmp_path):
    """Kind: the process ends by the signal, and a copy of all lines stays in the temporary folder."""
    (tmp_path / "temporary").mkdir()
    told = [sys.executable, "-m", "sentimoe", "predict", "--model", model, "--output", tmp_path / "out"]
    process = subprocess.Popen(
        list(map(str, told)),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )
    process.stdin.write(b"a text\n")
    process.stdin.flush()
    copies = (tmp_path / "temporary").glob("*/standard-input.jsonl")
    while not any(copies):
        assert process.poll() is None
        time.sleep(0.1)
        copies = (tmp_path / "temporary").glob("*/standard-input.jsonl")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75 and b"go on with: sentimoe predict" in said, said
    assert not list((tmp_path / "temporary").glob("*/standard-input.jsonl"))


@pytest.mark.parametrize("output", ["out", "out.csv"])
def test_doubtful_rows_are_queued_across_parts(model, tmp_path, output):
    frame = rows(60).assign(prob_level="007")  # not one of ours
    found = Predictor(model, precision="float32")(frame)
    value = float(found["score"].quantile(0.3))
    frame.to_csv(tmp_path / "in.csv", index=False)

    def make(column):
        predictor = Predictor(model, text_column=column, precision="float32")
        predictor.threshold = value
        return predictor

    run(Job([tmp_path / "in.csv"], tmp_path / output, part_rows=25), make, {}, lambda report, total: None)
    queue = doubtful_rows(tmp_path / output)
    low = found[found["score"] < value].sort_values("score", kind="stable")
    assert queue["id"].tolist() == low["id"].astype(str).tolist() and len(queue) > 10
    assert queue["row"].tolist() == (low.index + 1).tolist()  # across parts
    assert set(queue["prob_level"]) == {"007"}
    assert review_queue(found.assign(reason=np.where(found["score"] < value, "doubtful", None))).columns[0] == "row"
    assert np.allclose(queue["score"], low["score"]) and queue["guess"].tolist() == low["label"].tolist()


def test_a_file_that_changes_between_parts_gives_no_row(model, tmp_path):
    """Kind: the check at the very end; a job that is killed before, and goes on, never comes to it with these parts."""
    source = tmp_path / "in.csv"
    rows(60).to_csv(source, index=False)
    before = source.read_bytes()

    class Changing(Predictor):
        def labelled(self, frame, unread=None):
            if "20" in set(frame["id"]):
                source.write_bytes(before.replace(b"number 5", b"NUMBER 5"))
            return super().labelled(frame, unread)

    told = Job([source], tmp_path / "out", part_rows=10)
    with pytest.raises(DataError, match="was changed while it was read"):
        run(told, lambda column: Changing(model, text_column=column, precision="float32"), {}, lambda *told: None)
    finished = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    assert 1 <= len(finished) < 6 and not any(b"NUMBER" in (tmp_path / "out" / name).read_bytes() for name in finished)
    source.write_bytes(before)
    report = label(model, [source], tmp_path / "out", part_rows=10)
    assert report.resumed == 10 * len(finished)
    label(model, [source], tmp_path / "whole", part_rows=10)
    assert {name: data for name, data in contents(tmp_path / "out").items() if name != JOURNAL} == {
        name: data for name, data in contents(tmp_path / "whole").items() if name != JOURNAL
    }


@pytest.mark.parametrize("where", ["rename", "rmtree"])
def test_a_job_that_is_killed_after_its_file_was_made_is_done(model, tmp_path, monkeypatch, where):
    """Kind: `o.csv exists`, for ever, because the folder of its parts is still there."""
    rows(30).to_csv(tmp_path / "in.csv", index=False)

    def killed(*given, **told):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "rename") if where == "rename" else (job_folder.shutil, "rmtree")), killed)
        with pytest.raises(KeyboardInterrupt):
            label(model, [tmp_path / "in.csv"], tmp_path / "o.csv")
    made = (tmp_path / "o.csv").read_bytes()
    assert len(list(tmp_path.glob("*o.csv*"))) == 2  # the file, and the folder of its parts under some name
    if where == "rename":
        assert label(model, [tmp_path / "in.csv"], tmp_path / "o.csv").resumed == 30
    else:
        with pytest.raises(ConfigError, match=r"o\.csv exists"):
            label(model, [tmp_path / "in.csv"], tmp_path / "o.csv")
        label(model, [tmp_path / "in.csv"], tmp_path / "o.csv", overwrite=True)
    assert (tmp_path / "o.csv").read_bytes() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "o.csv"]


def test_a_file_that_came_meanwhile_stops_a_begun_job_before_work(model, tmp_path, monkeypatch):
    """Kind: hours of work, and then `exists`, because the folder of the parts was there."""
    out = stopped_after_two_parts(model, tmp_path, monkeypatch)
    out.rename(tmp_path / "o.csv.partial")
    (tmp_path / "o.csv").write_text("of somebody else")
    with pytest.raises(ConfigError, match=r"o\.csv exists"):
        label(model, [tmp_path / "in.csv"], tmp_path / "o.csv")
    assert len(list((tmp_path / "o.csv.partial").glob("part-*"))) == 2
    assert (tmp_path / "o.csv").read_text() == "of somebody else"


def test_what_changed_is_named(model, tmp_path):
    """Kind: two lists that are cut at the same place, and read alike."""
    for number in range(6):
        rows(10).to_csv(tmp_path / f"in-{number}.csv", index=False)
    files = sorted(tmp_path.glob("*.csv"))
    label(model, files, tmp_path / "out")
    rows(9).to_csv(files[5], index=False)
    with pytest.raises(ConfigError, match=r'another job: inputs in-5\.csv sha256 was "'):
        label(model, files, tmp_path / "out")
    with pytest.raises(ConfigError, match="another job: inputs were 6, and now are 5"):
        label(model, files[:5], tmp_path / "out")


def test_an_output_in_the_folder_of_the_model_is_gone_on_with(model, tmp_path, monkeypatch):
    """Kind: what a kill left beside the output counts as a file of the model, which then is another one."""
    own = shutil.copytree(model, tmp_path / "own")
    rows(40).to_csv(tmp_path / "in.csv", index=False)
    with monkeypatch.context() as patch:
        patch.setattr(job, "join", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            label(own, [tmp_path / "in.csv"], own / "out.csv")
    (own / f"out.csv.{'0a' * 16}.partial").write_text("half")
    assert label(own, [tmp_path / "in.csv"], own / "out.csv").resumed == 40
    assert not list(own.glob("*.partial")) and len(pd.read_csv(own / "out.csv")) == 40


def test_parts_that_are_replaced_are_named(model, tmp_path, monkeypatch, caplog):
    """Kind: nine tenths of a job, gone without a word because the command says --overwrite."""
    out = stopped_after_two_parts(model, tmp_path, monkeypatch)
    assert label(model, [tmp_path / "in.csv"], out, overwrite=True).resumed == 40 and "replaced" not in caplog.text
    label(model, [tmp_path / "in.csv"], out, overwrite=True, limit=70)
    assert "another job: limit was null, and now is 70" in caplog.text and "they are replaced" in caplog.text


def test_too_many_rejected_rows_are_exit_code_3(model, tmp_path):
    frame = pd.DataFrame({"text": ["the best", "x" * 99] * 20})
    frame.to_csv(tmp_path / "in.csv", index=False)
    told = ("predict", "--model", model, "--input", tmp_path / "in.csv", "--output", tmp_path / "out")
    done = invoke(*told, "--max-characters", 50)
    assert done.exit_code == 3 and done.error.count("too long") == 10


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_an_input_that_cannot_be_read_for_now_stops_the_job(model, tmp_path, monkeypatch, code):
    """Kind: exit code 2, as if the file were wrong, where the same command will go on."""
    rows(60).to_csv(tmp_path / "in.csv", index=False)
    real, reads = characters.Trimmed.read, []

    def read(self, size=-1):
        reads.append(1)
        if len(reads) > 8:
            raise OSError(code, "no")
        return real(self, 64)

    with monkeypatch.context() as patch:
        patch.setattr(characters.Trimmed, "read", read)
        with pytest.raises(StoppedError, match="cannot be read now"):
            label(model, [tmp_path / "in.csv"], tmp_path / "out")
    assert label(model, [tmp_path / "in.csv"], tmp_path / "out").rows == 60


def test_places_name_the_file_and_its_row(model, tmp_path):
    for name in ("a", "b"):
        frame = rows(10).astype({"text": object})
        frame["text"] = [["no text"] if name == "b" and row == 6 else text for row, text in enumerate(frame["text"])]
        frame.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert label(model, files, tmp_path / "out", max_rejected=1).places == [f"{files[1]} row 7: not a text"]
    assert label(model, files[1:], tmp_path / "one", max_rejected=1).places == ["row 7: not a text"]


def test_it_is_said_that_memory_ran_out(model, tmp_path):
    rows(20).to_csv(tmp_path / "in.csv", index=False)

    def make(column):
        predictor = Predictor(model, text_column=column, precision="float32")
        predict = predictor.engine.predict

        def of_few(texts):
            if len(texts) > 5:
                raise MemoryError
            return predict(texts)

        predictor.engine.predict = of_few
        return predictor

    report = run(Job([tmp_path / "in.csv"], tmp_path / "out", part_rows=10), make, {}, lambda *told: None)
    assert report.halved == 2 and report.scored == 20
    assert any("memory ran out or a process died 2 times" in line for line in told(report, tmp_path / "out", 8))


def test_types_of_parquet_are_kept_without_rows_and_in_views(model, tmp_path):
    """Kind: every column of an empty file becomes one of strings; a traceback for strings that are stored as views."""
    table = pa.table({"id": pa.array([1, 2]), "text": pa.array(["the good", "the bad"], pa.string_view())})
    nested = pa.array([["a"], None], pa.list_(pa.string_view()))
    pq.write_table(table.append_column("tags", nested), tmp_path / "in.parquet")
    label(model, [tmp_path / "in.parquet"], tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert found["tags"].to_pylist() == [["a"], None] and found["label"].null_count == 0
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    label(model, [tmp_path / "empty.parquet"], tmp_path / "none")
    schema = pq.read_schema(tmp_path / "none" / "part-00000.parquet")
    assert schema.field("id").type == pa.int64() and pa.types.is_string(schema.field("text").type)


def test_standard_input_in_another_encoding_and_to_one_file(model, tmp_path):
    told = [sys.executable, "-m", "sentimoe", "predict", "--model", str(model), "--output", str(tmp_path / "out.csv")]
    lines = "the café\nthe bad".encode("cp1252")
    done = subprocess.run([*told, "--encoding", "cp1252"], input=lines, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "out.csv")["text"].tolist() == ["the café", "the bad"]
    told_here = ("predict", "--model", model, "--output", tmp_path / "out.csv")
    marked = invoke(*told_here, "--overwrite", text=b"\xef\xbb\xbfthe good")
    assert marked.exit_code == 0 and pd.read_csv(tmp_path / "out.csv")["text"].tolist() == ["the good"]
    halved = b"\xff\xfeh\x00i\x00\n\x00\x00\xd8x\x00"  # the first half of a pair in UTF-16
    told_again = ("--output", tmp_path / "halved.csv", "--encoding", "utf-16", "--max-rejected", 1)
    assert invoke("predict", "--model", model, *told_again, text=halved).exit_code == 0
    assert pd.read_csv(tmp_path / "halved.csv")["reason"].fillna("").tolist() == ["", "undecodable"]
    few = invoke("predict", "--model", model, "--encoding", "cp1252", text=lines)  # to standard output, and Excel
    assert "U+FFFD" not in few.stderr
    assert [json.loads(line)["text"] for line in few.stdout.splitlines()] == ["the café", "the bad"], few.stderr
    unknown = invoke("predict", "--model", model, "--encoding", "cp9999", text=lines)
    assert unknown.exit_code == 2 and "cp9999" in unknown.error
    assert "each line of standard input" in invoke("predict", "--model", model, "--delimiter", ";", text=lines).error
    assert "leave it out" in invoke("predict", "--model", model, "a text", "--encoding", "cp1252").error
    assert "--max-rejected is for files" in invoke("predict", "--model", model, "a text", "--max-rejected", 1).error
    assert "each line of standard input is a text" in invoke(*told_here, "--text-column", "text", text=b"x").error


def test_a_text_of_any_length_takes_a_bounded_memory(model, tmp_path):
    """Kind: 4 MB of one cell take 600 MB, and a hundred of them the machine."""
    texts = ["the good thing " * 70_000, "the bad thing", "the good thing " * 66_000]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "in.csv", index=False)
    told = ("predict", "--model", model, "--input", tmp_path / "in.csv", "--max-rejected", 1)
    assert invoke(*told, "--output", tmp_path / "out.csv").exit_code == 0
    assert pd.read_csv(tmp_path / "out.csv")["reason"].fillna("").tolist() == ["too long", "", ""]
    assert [len(chunk) for chunk in text_chunks([texts[2]] * 9, 4096)] == [5, 4]
