"""How long one text takes, asked alone, by a compressed model and by its original in bfloat16 on the same engine.

python tools/latency.py ORIGINAL COMPRESSED [--texts 1000] [--threads 2] [--output FILE]: both answer each tweet of the
validation split in turns, after as many others that fill the caches of compiled shapes. Medians and 95th percentiles of
wall time, in milliseconds, tokenising included, and the quotients of the two times of each text. Wants a quiet machine.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from sentimoe import SentimentClassifier
from sentimoe.data import load_dataset
from sentimoe.machine import hardware, versions
from sentimoe.records import write_json


def main() -> None:
    """Print one JSON object, and write it to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original")
    parser.add_argument("compressed")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    models = {
        "original": SentimentClassifier.from_pretrained(told.original, backend="openvino"),
        "compressed": SentimentClassifier.from_pretrained(told.compressed),
    }
    texts = load_dataset("tweets").splits["validation"].sample(2 * told.texts).texts
    seconds: dict[str, list[float]] = {name: [] for name in models}
    layers, load = [], os.getloadavg()[0]
    for number, text in enumerate(texts):
        for name, model in models.items():
            started = time.perf_counter()
            answer = model.engine.predict([text])
            if number >= told.texts:
                seconds[name].append(time.perf_counter() - started)
                layers += [] if answer.layers is None else answer.layers.tolist()
    quotients = np.divide(seconds["original"], seconds["compressed"])
    found = {
        "texts": told.texts,
        "milliseconds": {
            name: {"median": 1000 * np.median(each), "p95": 1000 * np.quantile(each, 0.95)}
            for name, each in seconds.items()
        },
        "ratio": {"median": np.median(quotients), "quartiles": np.quantile(quotients, [0.25, 0.75]).tolist()},
        "ratio_of_means": np.mean(seconds["original"]) / np.mean(seconds["compressed"]),
        "mean_layers": np.mean(layers),
        "threads": told.threads,
        "load": load,
        "versions": versions(),
        "hardware": hardware(),
    }
    print(json.dumps(found, indent=1))
    if told.output is not None:
        write_json(told.output, found)


if __name__ == "__main__":
    main()
