"""What files may hold: unusual ones are read as they are meant, or refused in one line that says what to do.

Kinds of fault: raw errors from deep inside a parser; a column, a name or a row taken silently for another; a hint that
leads nowhere.
"""

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe.data import FileFormat, load_dataset, read_texts
from sentimoe.errors import ConfigError, DataError, StoppedError

ROWS = 'text,label\n"a, b",good\nc,bad\n'


def labelled(count: int = 60) -> str:
    return "text,label\n" + "".join(f"review number {i},{('bad', 'good')[i % 2]}\n" for i in range(count))


def texts_of(path: Path, content: str | bytes, column: str | None = None) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_texts(path, column)[1]


def told(path: Path, content: str | bytes, column: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        texts_of(path, content, column)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 1500
    return message


def test_extensions_in_capitals(tmp_path: Path) -> None:
    assert texts_of(tmp_path / "x.CSV", ROWS) == ["a, b", "c"]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.Csv").write_text(labelled())
    assert load_dataset(str(tmp_path / "d")).label_names == ("bad", "good")
    (tmp_path / "d" / "train.JSONL").write_text("{}")
    with pytest.raises(DataError, match="keep one"):
        load_dataset(str(tmp_path / "d"))


def test_what_is_no_text_file_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("x.csv", ROWS)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "parquet")
    for suffix in ("csv", "jsonl", "tsv", "json"):
        assert "zip archive or a spreadsheet" in told(tmp_path / f"x.{suffix}", (tmp_path / "zip").read_bytes())
        assert "name it .parquet" in told(tmp_path / f"x.{suffix}", (tmp_path / "parquet").read_bytes())
    assert "not a readable Parquet file" in told(tmp_path / "x.parquet", ROWS)
    assert "not a readable Excel file" in told(tmp_path / "x.xlsx", ROWS)


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as out:
        out.write(data)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_compressed_files_of_every_kind(tmp_path: Path, kind: str, suffix: str) -> None:
    path, frame = tmp_path / f"plain.{kind}", pd.DataFrame({"text": ["a, b", "c\td", "é"], "n": [1, 2, 3]})
    write_table = {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, sep="\t", index=False),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "json": lambda: frame.to_json(path, orient="records"),
        "parquet": lambda: frame.to_parquet(path),
    }
    write_table[kind]()
    content = packed(path.read_bytes(), suffix)
    assert texts_of(tmp_path / f"x.{kind.upper()}{suffix}", content) == frame["text"].tolist()
    assert texts_of(tmp_path / f"named_as_if_plain.{kind}", content) == frame["text"].tolist()
    assert "damaged or cut short" in told(tmp_path / f"x.{kind}{suffix}", content[: len(content) // 2])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_that_of_the_column_names(tmp_path: Path, delimiter: str) -> None:
    texts = ["a, b; c | d\te", 'she said "no"', "line\nbreak", "plain"]
    frame = pd.DataFrame({"id": range(4), "text": texts, "a;b|c": "x,y"})
    frame.to_csv(tmp_path / "x.csv", sep=delimiter, index=False)
    found, read = read_texts(tmp_path / "x.csv")
    assert read == texts and list(found.columns) == list(frame.columns)
    (tmp_path / "y.csv").write_text(f"sep={delimiter}\n" + (tmp_path / "x.csv").read_text())
    assert read_texts(tmp_path / "y.csv")[1] == texts
    assert texts_of(tmp_path / "z.csv", "text\na;b\n") == ["a;b"]
    (tmp_path / "w.csv").write_text("text#n\na, b; c#1\n")
    assert read_texts(tmp_path / "w.csv", file_format=FileFormat(delimiter="#"))[1] == ["a, b; c"]
    for wrong in ("##", "", "\n", '"', "é"):
        with pytest.raises(ConfigError, match="must be one ASCII character"):
            read_texts(tmp_path / "w.csv", file_format=FileFormat(delimiter=wrong))


EXPORT = "Review Text;Stars\nTrès bon, l’écran est génial;5\nGröße paßt nicht – müde;1\n"


def test_a_file_of_excel_is_read_in_its_encoding_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(EXPORT.encode("cp1252"))
    assert read_texts(path, "Review Text")[1] == ["Très bon, l’écran est génial", "Größe paßt nicht – müde"]
    assert "is not UTF-8 and read as cp1252; if that is wrong, name another with --encoding" in caplog.text
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(EXPORT.encode(encoding))
        assert read_texts(path, "Review Text")[1][0] == "Très bon, l’écran est génial"


OTHERS = {
    "cp1251": "Отличный телефон, очень доволен",
    "cp1250": "Świetny telefon, długo trzyma, żałuję",
    "cp1254": "Çok güzel, şarjı uzun süre dayanıyor, ığdır",
    "cp1253": "Εξαιρετικό τηλέφωνο",
    "shift_jis": "とても良い電話です",
    "gb18030": "这部手机非常好，电池很耐用",
    "mac_roman": "Très bon écran fantastique à recommander",
}


@pytest.mark.parametrize("encoding", OTHERS)
def test_other_encodings_are_named_by_the_user_and_never_guessed(tmp_path: Path, encoding: str) -> None:
    """A wrong guess is another text without a word: Polish in cp1250 decodes as cp1252."""
    content = ("text,label\n" + f'"{OTHERS[encoding]}",good\n' * 3).encode(encoding)
    message = told(tmp_path / "x.csv", content)
    assert "line 2: byte" in message and "is not UTF-8; name the encoding of the file with --encoding" in message
    found = read_texts(tmp_path / "x.csv", file_format=FileFormat(encoding=encoding))[1]
    assert found == [OTHERS[encoding]] * 3
    with pytest.raises(ConfigError, match="encoding='latin-99' is no encoding"):
        read_texts(tmp_path / "x.csv", file_format=FileFormat(encoding="latin-99"))


def test_utf_8_with_a_few_wrong_bytes_is_damaged_and_no_other_encoding(tmp_path: Path) -> None:
    content = ("text,label\n" + "café,good\n" * 40).encode().replace(b"caf\xc3\xa9", b"caf\xe9", 1)
    assert "line 2: byte 14 (0xe9) is not UTF-8" in told(tmp_path / "x.csv", content)
    with pytest.raises(DataError, match="is not ascii; name the encoding"):
        read_texts(tmp_path / "x.csv", file_format=FileFormat(encoding="ascii"))


def test_a_spreadsheet_keeps_its_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from xlsxwriter import Workbook

    path = tmp_path / "x.xlsx"
    with Workbook(path) as book:
        sheet = book.add_worksheet("reviews")
        for row, cells in enumerate([("text", "stars", "price"), ("good\nphone", 5, 1.5), ("", 1, 2), ("007", 2, 3)]):
            sheet.write_row(row, 0, cells) if row < 3 else sheet.write_string(row, 0, "007")
        sheet.write_row(3, 1, (2, 3))
        book.add_worksheet("other").write(0, 0, "ignored")
    frame, texts = read_texts(path)
    assert texts == ["good\nphone", "", "007"]
    assert frame["stars"].tolist() == [5, 1, 2] and all(isinstance(cell, int) for cell in frame["stars"])
    assert frame["price"].tolist() == [1.5, 2, 3]
    assert "has 2 sheets; the first one, 'reviews', is read" in caplog.text


def test_a_list_of_objects_in_json(tmp_path: Path) -> None:
    assert texts_of(tmp_path / "x.json", '[{"text": "a", "n": 1},\n {"text": "b"}]') == ["a", "b"]
    assert texts_of(tmp_path / "x.json", "[]") == []
    assert "not a list of objects" in told(tmp_path / "x.json", '{"text": "a"}')
    assert "one object a line is .jsonl" in told(tmp_path / "x.json", '{"text": "a"}\n{"text": "b"}')
    assert "stands twice" in told(tmp_path / "x.json", '[{"text": "a", "text": "b"}]')


def test_blank_last_lines_are_no_rows(tmp_path: Path) -> None:
    for end in ("", "\n", "\n\n", "\r\n\r\n\n"):
        assert texts_of(tmp_path / "x.csv", ROWS.rstrip() + end) == ["a, b", "c"]
        assert texts_of(tmp_path / "x.jsonl", '{"text": "a"}\n{"text": "b"}' + end + "  ") == ["a", "b"]
    assert texts_of(tmp_path / "x.csv", 'text\na\n\n""\n\n') == ["a", "", ""]
    assert texts_of(tmp_path / "x.csv", 'text\na\n"b\n\n"\n\n') == ["a", "b\n\n"]


def test_a_file_without_rows_is_read_to_predict_and_refused_to_train(tmp_path: Path) -> None:
    pd.DataFrame({"text": [], "n": []}).to_parquet(tmp_path / "x.parquet")
    for name, content in {"x.csv": "text,label", "y.csv": "text,label\r\n\n", "x.jsonl": "", "y.jsonl": "\n"}.items():
        assert texts_of(tmp_path / name, content) == []
    assert read_texts(tmp_path / "x.parquet")[1] == []
    for name in ("x.csv", "y.csv", "x.jsonl", "y.jsonl", "x.parquet"):
        with pytest.raises(DataError, match="no data rows"):
            load_dataset(str(tmp_path / name))
    for content in ("", "\n", "\n" + ROWS):
        assert "start it with the column names" in told(tmp_path / "x.csv", content)


def test_json_that_python_does_not_read(tmp_path: Path) -> None:
    first = '{"text": "a"}\n'
    for deep in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        assert "line 2: nested too deeply" in told(tmp_path / "x.jsonl", first + '{"text": "b", "n": ' + deep + "}\n")
    assert "line 2: not valid JSON" in told(tmp_path / "x.jsonl", first + '{"text": "b", "n": ' + "1" * 5000 + "}\n")
    assert "line 1: not valid JSON" in told(tmp_path / "x.jsonl", "[" * 100)


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_name_that_stands_twice_is_refused_where_it_is_asked_for(tmp_path: Path, column: str) -> None:
    """CSV took the first of two columns without a word, JSON the last of two values."""
    other = "label" if column == "text" else "text"
    (tmp_path / "x.csv").write_text(f"{column},{other},{column}\n" + "".join(f"a{i},b{i},c\n" for i in range(60)))
    with pytest.raises(DataError, match=f'2 columns are named "{column}"'):
        load_dataset(str(tmp_path / "x.csv"))
    lines = "".join(f'{{"{column}": "a{i}", "{other}": "b", "{column}": "c"}}\n' for i in range(60))
    (tmp_path / "x.jsonl").write_text(lines)
    with pytest.raises(DataError, match=f"line 1: .*'{column}' stands twice"):
        load_dataset(str(tmp_path / "x.jsonl"))


def test_other_columns_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    content = "id,text,id,id.1,id,,\n1,a,2,3,4,5,6\n"
    (tmp_path / "x.csv").write_text(content)
    frame, texts = read_texts(tmp_path / "x.csv")
    assert texts == ["a"] and frame.iloc[0].tolist() == ["1", "a", "2", "3", "4", "5", "6"]
    assert list(frame.columns) == ["id", "text", "id.2", "id.1", "id.3", "Unnamed: 5", "Unnamed: 6"]
    names = ["id", "text", "id", "id.1", "id"]
    pq.write_table(pa.Table.from_arrays([pa.array([each]) for each in names], names=names), tmp_path / "x.parquet")
    assert list(read_texts(tmp_path / "x.parquet")[0].columns) == ["id", "text", "id.2", "id.1", "id.3"]
    wide = ",".join(["id"] * 5_000 + ["text"])  # in no quadratic time
    assert texts_of(tmp_path / "wide.csv", f"{wide}\n{wide}\n") == ["text"]


def test_one_column_is_not_text_and_label(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(labelled())
    for named in ({"label_column": "text"}, {"text_column": "label"}, {"text_column": "n", "label_column": "n"}):
        with pytest.raises((ConfigError, DataError), match=r"name two with --text-column|no column"):
            load_dataset(str(tmp_path / "x.csv"), **named)
    with pytest.raises(ConfigError, match='"text" is named as the column of the texts and of the labels'):
        load_dataset(str(tmp_path / "x.csv"), label_column="text")


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, b"bytes", [0.24, 0.23] * 100])
def test_nested_values_and_bytes_are_no_texts(tmp_path: Path, value: object) -> None:
    """They were labelled by their repr, such as "[0.24 ... 0.23]"."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array([None, value]), "label": ["good", "bad"]}), path)
    kinds = {"parquet": type(value).__name__}
    if not isinstance(value, bytes):
        (tmp_path / "x.jsonl").write_text(
            '{"text": "fine", "label": 0}\n' + json.dumps({"text": value, "label": 1}) + "\n"
        )
        kinds["jsonl"] = type(value).__name__
    for suffix, kind in kinds.items():
        with pytest.raises(DataError, match=rf'row 2: column "text" is {kind}.*a text is') as caught:
            read_texts(tmp_path / f"x.{suffix}")
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match=r'row [12]: column "text"'):
            load_dataset(str(tmp_path / f"x.{suffix}"))


def test_half_a_surrogate_is_cleaned_to_predict_and_refused_to_train(tmp_path: Path) -> None:
    line = '{"text": "half \\ud83d", "label": "x", "other\\ud83d": "\\ud83d"}\n'
    assert texts_of(tmp_path / "x.jsonl", line) == ["half \ufffd"]
    with pytest.raises(DataError, match='row 1: column "text" holds half a surrogate'):
        load_dataset(str(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "half \\ud83d"}\n')
    with pytest.raises(DataError, match='row 2: column "label" holds half a surrogate'):
        load_dataset(str(tmp_path / "x.jsonl"))


def test_parquet_that_holds_what_python_has_not(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": broken}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        read_texts(tmp_path / "x.parquet")
    pq.write_table(pa.table({"text": pa.array([2**58], pa.timestamp("us"))}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match='column "text" cannot be read'):
        read_texts(tmp_path / "x.parquet")


def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").symlink_to("/proc/self/mem")
    with pytest.raises(StoppedError, match=r"x\.csv cannot be read now \(Input/output error\)"):
        read_texts(tmp_path / "x.csv")


def test_long_headers_are_not_repeated_whole(tmp_path: Path) -> None:
    message = told(tmp_path / "x.csv", ",".join("column" * 1000 for _ in range(1000)) + "\n")
    assert 'no column "text"' in message or "columns are named" in message


def test_a_byte_order_mark_on_standard_input_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Engine:
        num_labels, truncated_rows, max_length = 2, [], 8
        stream = staticmethod(lambda texts: iter(read.append(list(texts)) or []))

    class Classifier:
        engine, classes_, label_names, domains = Engine(), pd.Series(["a", "b"]), ["a", "b"], ()

    monkeypatch.setattr("sentimoe_cli.models.load_model", lambda *_, **__: Classifier())
    CliRunner().invoke(sentimoe_cli.app, ["predict", "--model", str(tmp_path)], input=b"\xef\xbb\xbfone\ntwo\n")
    assert read == [["one", "two"]]


def test_a_wrong_checksum_of_a_parquet_page_is_noticed(tmp_path: Path) -> None:
    """A flipped bit gave another text where the file itself says that it is damaged."""
    table = pa.table({"text": ["the first text", "the second text"]})
    for checksums in (True, False):
        path = tmp_path / "x.parquet"
        pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=checksums)
        path.write_bytes(path.read_bytes().replace(b"the second text", b"the Second text"))
        if checksums:
            with pytest.raises(DataError, match="not a readable Parquet file"):
                read_texts(path)
        else:
            assert read_texts(path)[1] == ["the first text", "the Second text"]
