"""Every form of input to every form of output: each row once, with all its columns, their types and their nulls."""

import csv
import json
import os
import pickle
import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backbone import train_classifier
from command import invoke

from sentimoe.batch import Job, Predictor, run
from sentimoe.batch.files import write_part
from sentimoe.batch.inputs import input_files
from sentimoe.batch.review import doubtful_rows
from sentimoe.data import streaming
from sentimoe.data.reading import FileFormat
from sentimoe.errors import ConfigError, DataError, PredictionError
from sentimoe.machine import versions

TEXTS = [
    'He said "no"; then, twice | more',
    "two\nlines",
    " spaces ",
    "naïve café",
    "<NA>",
    "null",
    "-1",
    "#tag\tx",
    "end",
]
CODES = ["00501", "1.50", "True", None, "x", "2020-01-01", "1e5", "nan", "0"]
BIG = 2**53 + 1  # no float holds it


class Asked:
    """What an actor asks of a predictor before it works."""

    def __init__(self, folder, found):
        self.folder, self.found = folder, found

    def hashes(self, written):
        return self.found


class Idle(Predictor):
    """Gives made-up answers at once."""

    def labelled(self, frame, unread=None):
        return self.made_up(frame)


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    return Idle(train_classifier(tmp_path_factory.mktemp("forms")), text_column="text")


def table(texts=TEXTS, big=BIG):
    count = len(texts)
    return pd.DataFrame(
        {
            "text": texts,
            "code": CODES[:count],
            "id": [big + i for i in range(count)],
            "part": [i / 4 for i in range(count)],
        }
    )


def packed(data, path, how):
    with pa.CompressedOutputStream(str(path), how) as stream:
        stream.write(data)


def delimited(path, delimiter, encoding="utf-8", first="", texts=TEXTS):
    path.write_bytes((first + table(texts).to_csv(index=False, sep=delimiter)).encode(encoding))


def lines(frame):
    return "".join(json.dumps(row) + "\n" for row in frame.astype(object).where(frame.notna(), None).to_dict("records"))


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table(), preserve_index=False), sink)
    return sink.getvalue().to_pybytes()


WESTERN = [text for text in TEXTS if "\t" not in text]
RUSSIAN = ["очень хорошо", "плохо; совсем", "так"]
FORMS = {
    "comma.csv": lambda path: delimited(path, ","),
    "semicolon.csv": lambda path: delimited(path, ";"),
    "tab.csv": lambda path: delimited(path, "\t"),
    "pipe.csv": lambda path: delimited(path, "|"),
    "UPPER.CSV": lambda path: delimited(path, ","),
    "separator.csv": lambda path: delimited(path, ";", first="sep=;\n"),
    "mark.csv": lambda path: delimited(path, ",", "utf-8-sig"),
    "wide.csv": lambda path: delimited(path, ",", "utf-16"),
    "excel.csv": lambda path: delimited(path, ";", "cp1252", texts=WESTERN),
    "tabs.tsv": lambda path: delimited(path, "\t"),
    "lines.jsonl": lambda path: path.write_text(lines(table())),
    "array.json": lambda path: path.write_text(json.dumps(list(map(json.loads, lines(table()).splitlines())))),
    "typed.parquet": lambda path: path.write_bytes(parquet_bytes()),
    "sheet.xlsx": lambda path: table(big=7).to_excel(path, index=False),
    "packed.csv.gz": lambda path: packed(table().to_csv(index=False).encode(), path, "gzip"),
    "packed.tsv.gz": lambda path: packed(table().to_csv(index=False, sep="\t").encode(), path, "gzip"),
    "packed.jsonl.gz": lambda path: packed(lines(table()).encode(), path, "gzip"),
    "packed.parquet.gz": lambda path: packed(parquet_bytes(), path, "gzip"),
    "packed.csv.zst": lambda path: packed(table().to_csv(index=False).encode(), path, "zstd"),
    "packed.tsv.zst": lambda path: packed(table().to_csv(index=False, sep="\t").encode(), path, "zstd"),
    "packed.jsonl.zst": lambda path: packed(lines(table()).encode(), path, "zstd"),
    "packed.parquet.zst": lambda path: packed(parquet_bytes(), path, "zstd"),
}
OUTPUTS = ("out.csv", "out.jsonl", "out.parquet", "csv", "jsonl", "parquet")


def done(predictor, inputs, output, **settings):
    kind = output.name if output.name in OUTPUTS and not output.suffix else None
    job = Job(inputs, output, kind, "text", part_rows=4, **settings)
    report = run(job, lambda column: predictor, {}, lambda *told: None)
    assert output.suffix or len(list(output.glob("part-*"))) == -(-report.rows // 4)
    return [row for path in ([output] if output.suffix else sorted(output.glob("part-*"))) for row in rows_of(path)]


def rows_of(path):
    """Each row as a dictionary."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pq.read_table(path).to_pylist()


def plain(value):
    """As CSV has it: without a type, and without a difference between nothing and no character."""
    return "" if value is None else str(value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_every_output(idle, tmp_path, form):
    FORMS[form](tmp_path / form)
    frame = table(WESTERN) if form == "excel.csv" else table(big=7) if form == "sheet.xlsx" else table()
    expected = [
        {name: plain(value) for name, value in row.items()} for row in map(json.loads, lines(frame).splitlines())
    ]
    if form == "sheet.xlsx":  # a number of a spreadsheet has no point where it needs none
        expected = [row | {"part": row["part"].removesuffix(".0")} for row in expected]
    typed = form.split(".")[1] in ("jsonl", "json", "parquet")
    for name in OUTPUTS:
        found = done(idle, [tmp_path / form], tmp_path / name)
        told = [{column: plain(row[column]) for column in frame.columns} for row in found]
        if form == "sheet.xlsx":
            told = [row | {"part": row["part"].removesuffix(".0")} for row in told]
        assert told == expected, name
        if typed and not name.endswith("csv"):
            assert found[0]["id"] == BIG and found[1]["part"] == 0.25 and found[3]["code"] is None, name


A, B, C = "in/a.csv", "in/b.csv.gz", "c.csv"
PLACES = {("in",): (A, B), ("in/*.csv*",): (A, B), ("**/a.csv", B): (A, B), (B, A): (B, A), ("in", C): (A, B, C)}


@pytest.mark.parametrize("given", PLACES, ids=" ".join)
def test_folders_patterns_and_several_files_become_every_output(idle, tmp_path, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in (A, C):
        pd.DataFrame({"text": [f"{name} {i}" for i in range(3)]}).to_csv(tmp_path / name, index=False)
    packed(f"text\n{B} 0\n{B} 1\n{B} 2\n".encode(), tmp_path / B, "gzip")
    expected = [f"{name} {i}" for name in PLACES[given] for i in range(3)]
    for name in OUTPUTS:
        assert [row["text"] for row in done(idle, given, tmp_path / name)] == expected, name


def test_what_jobs_wrote_is_no_input(idle, tmp_path, caplog):
    """Kind: a folder of labelled parts, or one of a killed job, beside the input, and each row is labelled twice."""
    (tmp_path / "data").mkdir()
    pd.DataFrame({"text": ["a", "b"]}).to_parquet(tmp_path / "data/in.parquet")
    done(idle, [tmp_path / "data/in.parquet"], tmp_path / "data/parquet")
    shutil.copytree(tmp_path / "data/parquet", tmp_path / "data/old.parquet.partial")
    for given in (tmp_path / "data", tmp_path / "data/**/*.parquet", tmp_path / "*/**/*.parquet"):
        assert {path.name for path in input_files([given])} == {"in.parquet"}, given
    assert "what a job labelled is not read: 1, such as" in caplog.text
    for given in (tmp_path / "data/parquet", tmp_path / "data/parquet/*.parquet"):  # named, so it is meant
        assert [path.name for path in input_files([given])] == ["part-00000.parquet"]


def test_lines_of_standard_input_become_every_output(idle, tmp_path):
    lines = [text.replace("\n", " ") for text in TEXTS]
    for name in OUTPUTS:
        told = ["--format", name] if name in ("csv", "jsonl", "parquet") else []
        told += ["--output", tmp_path / name, "--part-rows", 4]
        result = invoke("predict", "--model", idle.folder, *told, text="\n".join(lines))
        assert result.exit_code == 0, result.stderr
        paths = [tmp_path / name] if "." in name else sorted((tmp_path / name).glob("part-*"))
        found = [row for path in paths for row in rows_of(path)]
        assert [row["text"] for row in found] == lines and all(row["label"] for row in found), name


def test_a_delimiter_and_an_encoding_that_are_named(idle, tmp_path):
    delimited(tmp_path / "named.csv", "#", "cp1251", texts=RUSSIAN)
    for name in OUTPUTS:
        found = done(idle, [tmp_path / "named.csv"], tmp_path / name, file_format=FileFormat("cp1251", "#"))
        assert [row["text"] for row in found] == RUSSIAN, name


def test_nulls_of_files_of_different_types_stay_nulls(idle, tmp_path):
    """Kind: in a part with rows of two files, a null becomes the text <NA>."""
    pd.DataFrame({"text": ["a", None], "n": pd.array([1, None], dtype="Int64")}).to_parquet(tmp_path / "1.parquet")
    (tmp_path / "2.jsonl").write_text('{"text": "b", "n": "x"}\n{"text": "c", "n": null}\n')
    for name in ("out.csv", "out.jsonl"):
        found = done(idle, [tmp_path / "1.parquet", tmp_path / "2.jsonl"], tmp_path / name)
        assert [plain(row["n"]) for row in found] == ["1", "", "x", ""]
        assert [plain(row["text"]) for row in found] == ["a", "", "b", "c"]


def test_a_later_part_keeps_its_values_or_ends_the_job(tmp_path):
    """Kind: the type of the first part makes a number of a postcode, or a string of a number."""
    for first, later in (([1], ["00501"]), (["a"], [1]), ([True], [1]), (["a"], [True]), ([["1"]], [[1]])):
        write_part(pd.DataFrame({"x": first}), tmp_path / "first.parquet", None)
        with pytest.raises(DataError, match="would be lost or changed"):
            write_part(
                pd.DataFrame({"x": later}), tmp_path / "later.parquet", pq.read_schema(tmp_path / "first.parquet")
            )
    write_part(pd.DataFrame({"x": [0.5]}), tmp_path / "first.parquet", None)
    write_part(pd.DataFrame({"x": [3]}), tmp_path / "later.parquet", pq.read_schema(tmp_path / "first.parquet"))
    assert pq.read_table(tmp_path / "later.parquet").to_pydict() == {"x": [3.0]}


def test_an_output_in_the_folder_of_the_model_is_no_part_of_the_model(idle, tmp_path):
    """Kind: the journal of a killed job changes the hashes by which the next one knows the model."""
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(12)]})
    frame.to_csv(tmp_path / "in.csv", index=False)
    output = idle.folder / "labelled"

    class Killed(Idle):
        def labelled(self, frame, unread=None):
            if frame["text"].iloc[0] == "text 8":
                raise KeyboardInterrupt
            return super().labelled(frame)

    with pytest.raises(KeyboardInterrupt):
        done(Killed(idle.folder), [tmp_path / "in.csv"], output)
    report = run(Job([tmp_path / "in.csv"], output, part_rows=4), lambda column: idle, {}, lambda *told: None)
    assert (report.resumed, report.rows) == (8, 12)


def test_parquet_is_read_in_constant_memory(tmp_path):
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "in.parquet", schema, compression="none", use_dictionary=False) as writer:
        for group in range(24):
            writer.write_table(pa.table({"text": [f"{group} {i} " + "x" * 4000 for i in range(256)]}, schema))
    before, most = pa.total_allocated_bytes(), 0
    for _ in streaming.frames(streaming.inspected(tmp_path / "in.parquet", FileFormat()), 64):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8_000_000 < (tmp_path / "in.parquet").stat().st_size / 2


def test_damage_shows_before_any_work(tmp_path, monkeypatch):
    broken = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "in.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        streaming.inspected(tmp_path / "in.parquet", FileFormat())
    monkeypatch.setattr(streaming, "LONGEST_LINE", 3 * streaming.HEAD)
    (tmp_path / "array.jsonl").write_text('["' + "x" * 5 * streaming.HEAD)
    with pytest.raises(DataError, match=r"line 1 has more than .* a JSON array ends in \.json"):
        streaming.inspected(tmp_path / "array.jsonl", FileFormat())


def test_an_output_is_no_input(idle, tmp_path):
    """Kind: with --overwrite, a job removes what it is about to read."""
    pd.DataFrame({"text": ["a"]}).to_csv(tmp_path / "in.csv", index=False)
    done(idle, [tmp_path / "in.csv"], tmp_path / "csv")
    with pytest.raises(DataError, match="lies where the output is written"):
        done(idle, [tmp_path / "csv/part-00000.csv"], tmp_path / "csv", overwrite=True)
    assert (tmp_path / "csv/part-00000.csv").exists()
    found = done(idle, [tmp_path / "csv"], tmp_path / "jsonl")  # the journal is not read as a table
    assert len(found) == 1


def test_a_text_without_a_finite_answer_is_rejected_alone(idle):
    predictor = Predictor(idle.folder)
    predict = predictor.engine.predict

    def odd(texts):
        if any("odd" in text for text in texts):
            raise PredictionError("no number")
        return predict(texts)

    predictor.engine.predict = odd
    found = predictor(pd.DataFrame({"text": ["fine", "odd", "good", "bad", "fine"]}))
    assert [None if pd.isna(each) else each for each in found["reason"]] == [None, "no finite answer", None, None, None]
    assert found["label"].notna().tolist() == [True, False, True, True, True] and "halved" not in found.attrs


def test_no_rows_have_no_doubtful_ones(tmp_path):
    table = pa.table(
        {"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string()), "score": pa.array([], pa.float32())}
    )
    pq.write_table(table, tmp_path / "o.parquet")
    assert doubtful_rows(tmp_path / "o.parquet").columns.tolist() == ["row", "reason", "score"]
    pq.write_table(table.drop_columns(["row"]), tmp_path / "o.parquet")
    assert doubtful_rows(tmp_path / "o.parquet").columns.tolist() == ["row", "reason", "score"]


def test_files_of_a_folder_that_are_no_tables_are_told(tmp_path, caplog):
    for name in ("a.csv", "notes.txt", ".hidden", "_SUCCESS"):
        (tmp_path / name).write_text("text\nx\n")
    assert input_files([tmp_path]) == [tmp_path / "a.csv"]
    assert f"not read: 1, such as {tmp_path / 'notes.txt'}" in caplog.text


def test_an_error_in_an_actor_is_that_error(tmp_path):
    """Kind: Ray hides what was raised, and a bug or a changed input is a cluster that failed: "goes on" for ever."""
    ray = pytest.importorskip("ray")
    from sentimoe.batch.on_ray import Parts, Worker

    def raised(table):
        return pickle.loads(table["rows"][0].as_py())

    pd.DataFrame({"text": ["a", "b", "c"]}).to_csv(tmp_path / "in.csv", index=False)
    source = streaming.inspected(tmp_path / "in.csv", FileFormat())
    (tmp_path / "in.csv").write_text("text\nother\n")
    (part,) = Parts([source], 2, None, 0).tables()
    assert isinstance(raised(part), DataError) and "was changed while it was read" in str(raised(part))
    worker = Worker(pickle.dumps(None), {"hashes": None}, [], False, None)  # this is no predictor
    assert isinstance(raised(worker(part)), DataError)  # what reading raised goes first
    found = raised(worker(pa.table({"part": [3], "rows": [pickle.dumps(pd.DataFrame({"text": ["a"]}))]})))
    assert isinstance(found, RuntimeError) and "AttributeError: 'NoneType' object has no attribute 'hashes'" in str(
        found
    )

    class Lost:
        def __getattr__(self, name):
            raise ray.exceptions.RayActorError

    worker.error, worker.attempts = None, Lost()  # the cluster fails, which is no bug and stops with 75
    with pytest.raises(ray.exceptions.RayActorError):
        worker(pa.table({"part": [3], "rows": [pickle.dumps(pd.DataFrame({"text": ["a"]}))]}))


def test_a_machine_with_another_model_is_named_by_its_first_part(monkeypatch):
    """Kind: Ray tries an actor that cannot be made again, and "the same command goes on" for ever."""
    pytest.importorskip("ray")
    from sentimoe.batch import on_ray

    monkeypatch.setattr(on_ray.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    other = pickle.dumps(Asked("hub/model", {"model.safetensors": "b"}))
    there = {"hashes": {"model.safetensors": "a"}, "uncertified": [], "versions": versions()}
    part = pa.table({"part": [0], "rows": [pickle.dumps(pd.DataFrame({"text": ["a"]}))]})

    def told():
        found = pickle.loads(on_ray.Worker(other, there, [], False, None)(part)["rows"][0].as_py())
        assert isinstance(found, ConfigError)
        return str(found)

    assert "hub/model on 10.0.0.7 is not the model of the machine where the job" in told()
    there |= {"hashes": {"model.safetensors": "b"}, "versions": versions() | {"torch": "0.1"}}
    assert re.search(r"10\.0\.0\.7 has other versions .*: torch [1-9]", told())


def test_an_actor_that_was_given_no_gpu_takes_none(monkeypatch):
    """Kind: sixteen actors of sixteen processors on one GPU, which Ray does not hide."""
    pytest.importorskip("ray")
    from sentimoe.batch.on_ray import Worker

    given = pickle.dumps(SimpleNamespace(hashes=None)), {"hashes": None, "uncertified": []}, []
    for on_gpu, seen in ((True, "0"), (False, "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        Worker(*given, on_gpu, None)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_names_in_capitals_and_lines_in_utf_16(idle, tmp_path):
    (tmp_path / "lines.txt").write_text("good\nbad", encoding="utf-16")
    told = ("predict", "--model", idle.folder, "--encoding", "utf-16", "--output", tmp_path / "OUT.CSV")
    result = invoke(*told, text=(tmp_path / "lines.txt").read_bytes())
    assert result.exit_code == 0, result.stderr
    assert [row["text"] for row in rows_of(tmp_path / "OUT.CSV")] == ["good", "bad"]
    for kind in ("csv", "jsonl", "parquet"):
        told = ("--input", tmp_path / "OUT.CSV", "--output", tmp_path / f"of-{kind}", "--format", kind)
        assert invoke("predict", "--model", idle.folder, *told).exit_code == 0
        assert [path.name for path in (tmp_path / f"of-{kind}").glob("part-*")] == [f"part-00000.{kind}"]
