"""How long a fresh process needs for its first answer, beside importing torch and transformers' BERT alone.

python tools/startup.py [--rounds 7]: both in turns; medians of wall seconds and of processor seconds (user and system),
and their ratio. Wall seconds say something on a quiet machine only. Both run on compiled sources, as after an
installation, also where PYTHONDONTWRITEBYTECODE keeps an editable install from being compiled.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

IMPORTS = [sys.executable, "-c", "import torch; from transformers.models.bert.modeling_bert import BertModel"]
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ANSWER = [sys.executable, "-m", "sentimoe", "predict", "I love it"]


def spent(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=COMPILED)
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    spent(IMPORTS), spent(ANSWER)  # the files come into memory
    turns = [(spent(IMPORTS), spent(ANSWER)) for _ in range(rounds)]
    found = {}
    for index, what in enumerate(("wall", "processor")):
        imports, answer = (median(turn[side][index] for turn in turns) for side in (0, 1))
        found[what] = {
            "imports": round(imports, 2),
            "answer": round(answer, 2),
            "ratio": round(median(turn[1][index] / turn[0][index] for turn in turns), 2),
        }
    print(json.dumps(found | {"rounds": rounds, "load": os.getloadavg()[0]}, indent=1))


if __name__ == "__main__":
    main()
