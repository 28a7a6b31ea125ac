"""The labelled texts of the ready models: what each learns from, and what else it is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sentimoe.data import load_dataset
from sentimoe.data.tweets import tweet_key
from sentimoe.errors import DataError

SPLITS = ("train", "validation", "test")
TWEETS_READ, SENTENCES_READ = 20_000, 8_000  # without labels, that a student reads with its teachers' answers
SENTENCE_END = r"(?<=[.!?])\s+"
WORDS = (4, 50)  # in a sentence: nearly all of SST-5 are that long


def prepare_data(name: str, data_root: Path, folder: Path) -> dict[str, str]:
    """Write what a ready model learns from, and return it as settings of `TrainConfig`. Raises DataError."""
    if name == "sentiment":
        return {"data": "tweets"}
    folder.mkdir(parents=True, exist_ok=True)
    return {"emotion": _emotion, "stars": _stars, "reviews": _reviews}[name](data_root, folder)


def _emotion(data_root: Path, folder: Path) -> dict[str, str]:
    """TweetEval emotion, and tweets without labels."""
    tweets = _read(data_root / "tweets-unlabelled.parquet").sample(TWEETS_READ, random_state=0)
    return {"data": str(data_root / "tweeteval-emotion"), "unlabelled": _texts(tweets["text"], folder)}


def _stars(data_root: Path, folder: Path) -> dict[str, str]:
    """SST-5 with labels 1 to 5, and sentences of film reviews without labels: one of each review."""
    labelled = folder / "labelled"
    labelled.mkdir(exist_ok=True)
    for split, frame in _tables(data_root / "sst5").items():
        frame.assign(label=frame["label"] + 1).to_parquet(labelled / f"{split}.parquet")
    reviews = _read(data_root / "imdb/unsupervised.parquet").sample(SENTENCES_READ, random_state=0)["text"]
    sentences = reviews.str.replace("<br />", " ").str.split(SENTENCE_END, regex=True).explode()
    sentences = sentences[(sentences.str.count(r"\s+") + 1).between(*WORDS)]
    return {"data": str(labelled), "unlabelled": _texts(sentences.groupby(level=0).sample(1, random_state=0), folder)}


def _texts(texts: pd.Series, folder: Path) -> str:
    """The file with these texts alone."""
    path = folder / "unlabelled.parquet"
    texts.to_frame("text").to_parquet(path, index=False)
    return str(path)


def _reviews(data_root: Path, folder: Path) -> dict[str, str]:
    """fdu-mtl, of each domain 450 training texts, and 1,500 training reviews of IMDb.

    Without the domain `mr`, whose sentences stand in other splits of SST-5, on which this model is measured.
    """
    for split, frame in _tables(data_root / "fdu-mtl").items():
        frame = frame[frame["domain"] != "mr"]
        if split == "train":
            frame = frame.groupby("domain").sample(450, random_state=0)
        frame.to_parquet(folder / f"{split}.parquet")
    films = _read(data_root / "imdb/train.parquet").sample(1_500, random_state=0)
    films["text"] = films["text"].str.replace("<br />", "\n")
    films.assign(label=films["label"].map({0: "negative", 1: "positive"})).to_parquet(folder / "imdb.parquet")
    return {"data": str(folder), "more_train": str(folder / "imdb.parquet")}


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {split: _read(folder / f"{split}.parquet") for split in SPLITS}


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: no such file; --data-root is the folder that holds the data sets")
    return pd.read_parquet(path)


OTHER_TEXTS = 1_000  # at most, of each other data set, drawn at random


@dataclass(frozen=True)
class OtherSet:
    """Texts of another kind. `joins`: for each of its labels, the labels of the model whose probabilities are added."""

    name: str
    how: str
    texts: list[str]
    labels: list[int]
    joins: Mapping[str, Sequence[str]]
    left_out: int  # texts that the model was trained on

    @property
    def label_names(self) -> list[str]:
        """Its labels, in the order of `labels`."""
        return list(self.joins)

    def joined(self, probabilities: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
        """The model's probabilities `[B, C]` as those of the labels here; its other classes do not count."""
        columns = [list(map(label_names.index, joined)) for joined in self.joins.values()]
        summed = np.stack([probabilities[:, column].sum(axis=1) for column in columns], axis=1)
        return summed / summed.sum(axis=1, keepdims=True)


TWO = {"negative": "negative", "positive": "positive"}
TWO_OF_FIVE = TWO | {"very negative": "negative", "very positive": "positive"}
SST = "SST-5, sentences of film reviews"
REVIEWS = "fdu-mtl without `mr`, product and film reviews"
TWEETS = "tweets"


def other_sets(name: str, data_root: Path, trained_on: set[str]) -> Iterator[OtherSet]:
    """What a ready model is measured on beside its own test texts. Raises DataError.

    Texts that it was trained on are left out, compared without links, handles, case and spaces.
    """
    known = {tweet_key(text) for text in trained_on}

    def drawn(title: str, how: str, renamed: Mapping[str, str], joins: Mapping[str, Sequence[str]]) -> OtherSet:
        frame = _named(title, data_root)
        frame = frame[frame["label"].isin(list(renamed))]
        unseen = frame[~frame["text"].map(tweet_key).isin(list(known))]
        some = unseen.sample(min(OTHER_TEXTS, len(unseen)), random_state=0)
        labels = [list(joins).index(renamed[label]) for label in some["label"]]
        return OtherSet(title, how, list(some["text"]), labels, joins, len(frame) - len(unseen))

    two = {label: [label] for label in TWO}
    if name == "sentiment":
        three = TWO_OF_FIVE | {"neutral": "neutral"}
        yield drawn(SST, "five classes as three", three, {each: [each] for each in ("negative", "neutral", "positive")})
        yield drawn(REVIEWS, "neutral does not count", TWO, two)
    elif name == "emotion":
        moods = {"negative": ["anger", "sadness"], "positive": ["joy", "optimism"]}
        yield drawn(
            TWEETS, "anger and sadness as negative, joy and optimism as positive; no neutral tweets", TWO, moods
        )
    elif name == "reviews":
        yield drawn(SST, "no neutral sentences", TWO_OF_FIVE, two)
        yield drawn(TWEETS, "no neutral tweets", TWO, two)
    else:
        stars = {"negative": ["1", "2"], "positive": ["4", "5"]}
        yield drawn(REVIEWS, "1 and 2 as negative, 4 and 5 as positive; 3 does not count", TWO, stars)
        yield drawn(TWEETS, "the same; no neutral tweets", TWO, stars)


def _named(title: str, data_root: Path) -> pd.DataFrame:
    """The test texts of another data set with the names of their labels."""
    if title == REVIEWS:
        frame = _read(data_root / "fdu-mtl/test.parquet")
        return frame[frame["domain"] != "mr"]
    dataset = load_dataset("tweets" if title == TWEETS else str(data_root / "sst5"))
    test = dataset.splits["test"]
    return pd.DataFrame({"text": test.texts, "label": [dataset.label_names[label] for label in test.labels]})
