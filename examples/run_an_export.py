"""Answer texts with a folder that `sentimoe export` wrote, without SentiMoE: only openvino and transformers.

    python examples/run_an_export.py runs/mine-openvino "I love it" "It broke after a day"

Texts of different lengths are padded, and what the model cannot read of a long one is cut off.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import openvino
from transformers import AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="folder that `sentimoe export` wrote")
parser.add_argument("texts", nargs="+")
parser.add_argument("--batch-size", type=int, default=32)
arguments = parser.parse_args()

labels = json.loads((arguments.folder / "sentimoe_export.json").read_text(encoding="utf-8"))["labels"]
tokenizer = AutoTokenizer.from_pretrained(arguments.folder)  # knows how many tokens the model reads
network = openvino.Core().compile_model(arguments.folder / "openvino_model.xml", "CPU")

for start in range(0, len(arguments.texts), arguments.batch_size):
    texts = arguments.texts[start : start + arguments.batch_size]
    inputs = tokenizer(texts, padding=True, truncation=True, return_token_type_ids=False, return_tensors="np")
    logits = network(dict(inputs))[0]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    for text, row in zip(texts, odds / odds.sum(axis=1, keepdims=True), strict=True):
        scores = {label: round(float(score), 4) for label, score in zip(labels, row, strict=True)}
        print(json.dumps({"text": text[:60], "label": labels[int(row.argmax())], "scores": scores}))
