"""What libraries print does not reach a user of Python or of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from backbone import labelled_texts, write_backbone

PROGRAM = """
import json, sys
from sentimoe import SentimentClassifier
texts, labels = json.load(sys.stdin)
for method in ("moe-gated", "lora"):
    classifier = SentimentClassifier(model="tiny", method=method, epochs=1, max_length=32).fit(texts, labels)
    classifier.save_pretrained(method)
    SentimentClassifier.from_pretrained(method).predict(texts[:2])
SentimentClassifier.from_pretrained("moe-gated").export("export")
"""


def test_loading_training_saving_and_exporting_print_nothing(tmp_path):
    """Kinds: "LOAD REPORT" with weights that nobody misses; `loss_type=None` of a backbone that has no loss; bars."""
    write_backbone(tmp_path / "tiny")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_PROGRESS_BARS"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(labelled_texts(100)), cwd=tmp_path, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout == ""
