"""Answer texts with a compressed model that `sentimoe export` wrote, without SentiMoE: only openvino and transformers.

    sentimoe export runs/fast runs/fast-openvino
    python examples/run_a_compressed_export.py runs/fast-openvino "I love it" "It broke after a day"

After each segment of the model a head answers; texts whose answer is sure enough leave, and the others go on. What the
model cannot read of a long text is cut off.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import openvino
from transformers import AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="folder that `sentimoe export` made of a compressed model")
parser.add_argument("texts", nargs="+")
arguments = parser.parse_args()

about = json.loads((arguments.folder / "sentimoe_compressed.json").read_text(encoding="utf-8"))
certificate = next(each for each in about["certificates"] if each["tolerance"] == about["default_tolerance"])
thresholds = [*certificate["thresholds"], 0.0]  # nobody stays after the last segment
tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
core = openvino.Core()


def networks(name: str, precision: str) -> list[openvino.CompiledModel]:
    """Those of all stages, in the number format of the certificate: OpenVINO's own default may be another."""
    paths = [arguments.folder / f"{name}-{number + 1}.xml" for number in range(len(thresholds))]
    return [core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision}) for path in paths]


segments = networks("segment", {"bfloat16": "bf16", "float32": "f32"}[about["original"]["precision"]])
heads = networks("head", "f32")

inputs = tokenizer(
    arguments.texts,
    padding=True,
    truncation=True,
    max_length=about["max_length"],
    return_token_type_ids=False,
    return_tensors="np",
)
states, mask, rows = inputs["input_ids"], inputs["attention_mask"], np.arange(len(arguments.texts))
answers = {}
for segment, head, threshold, layers in zip(segments, heads, thresholds, about["layers"], strict=True):
    hidden, *own = segment({"tokens": states, "attention_mask": mask}).values()
    logits = head({"hidden": hidden, "mask": mask})[0] + (own[0] if own else 0)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    leaves = odds.max(axis=1) >= threshold
    answers |= {row: (odd, layers) for row, odd in zip(rows[leaves], odds[leaves], strict=True)}
    states, mask, rows = hidden[~leaves], mask[~leaves], rows[~leaves]
    if not len(rows):
        break

for row, text in enumerate(arguments.texts):
    odds, layers = answers[row]
    scores = {label: round(float(score), 4) for label, score in zip(about["labels"], odds, strict=True)}
    print(
        json.dumps(
            {"text": text[:60], "label": about["labels"][int(odds.argmax())], "scores": scores, "layers": layers}
        )
    )
