"""The data sets known by name. To add one, add a row to ``PRESETS``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from .hub import load_from_hub
from .tweets import TWEET_LABELS, load_tweets


@dataclass(frozen=True)
class Preset:
    """``load()`` gives one frame per split with the columns text and label (an index into ``label_names``)."""

    label_names: tuple[str, ...]
    load: Callable[[], dict[str, pd.DataFrame]]


PRESETS: dict[str, Preset] = {
    "tweets": Preset(TWEET_LABELS, load_tweets),
    "imdb": Preset(("negative", "positive"), partial(load_from_hub, "imdb", "stanfordnlp/imdb")),
    "tweeteval-emotion": Preset(
        ("anger", "joy", "optimism", "sadness"),
        partial(load_from_hub, "tweeteval-emotion", "cardiffnlp/tweet_eval", "emotion"),
    ),
    "sst5": Preset(
        ("very negative", "negative", "neutral", "positive", "very positive"),
        partial(load_from_hub, "sst5", "SetFit/sst5"),
    ),
}
