"""Predictors that fail on certain texts, for tests on a cluster: other processes import them."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from sentimoe.batch import Predictor


class Fragile(Predictor):
    """Ends its process at the word "poison", and at the word "once" the first two times."""

    def labelled(self, frame, unread=None):
        if unread is None:
            for text in frame["text"]:
                if text.startswith("poison"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if text.startswith("twice") and _seen(text.split()[1]) < 2:
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().labelled(frame, unread)


class Hoarder(Predictor):
    """Takes more and more memory at the word "hoard", until somebody ends its process; 8 GB at most."""

    def labelled(self, frame, unread=None):
        if unread is None and frame["text"].str.startswith("hoard").any():
            held = []
            while len(held) < 80:
                held.append(np.ones(100_000_000, dtype=np.uint8))
                time.sleep(0.05)
        return super().labelled(frame, unread)


class Elsewhere(Predictor):
    """Is on another machine than the one that certified it, in the processes of Ray."""

    def uncertified(self):
        other = ["was made on another machine"] if Path(sys.argv[0]).name == "default_worker.py" else []
        return [*other, "was made in float16"]


class Foreign(Predictor):
    """Is another model in the processes of Ray."""

    def hashes(self, but=()):
        found = super().hashes(but)
        return dict.fromkeys(found, "other") if Path(sys.argv[0]).name == "default_worker.py" else found


class Greedy(Predictor):
    """Asks for more memory than there is at the word "huge"."""

    def __init__(self, *given, **settings):
        super().__init__(*given, **settings)
        predict = self.engine.predict

        def greedy(texts):
            if any(text.startswith("huge") for text in texts):
                np.empty(1 << 60, dtype=np.uint8)
            return predict(texts)

        self.engine.predict = greedy


def _seen(path):
    """How often this was called before for a file, which counts across processes."""
    with open(path, "ab") as stream:
        stream.write(b".")
        return stream.tell() - 1
