"""A short `make torture`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentimoe.records import read_json

TOOL = Path(__file__).parents[1] / "tools" / "torture.py"


@pytest.mark.skipif("TORTURE" not in os.environ, reason="TORTURE=1 runs it; `make torture` is the whole of it")
def test_a_run_that_is_killed_while_it_saves_raced_and_out_of_space_ends_as_if_it_had_not_been(tmp_path):
    """Kind: lost work. Real processes and kill -9; `make torture` does 250 more, for docs/reliability.md."""
    told = ["--quick", "--results", str(tmp_path / "found.json"), "--work", str(tmp_path / "work")]
    subprocess.run([sys.executable, TOOL, *told], check=True, timeout=300)
    found = read_json(tmp_path / "found.json")
    kinds = found["kinds"]
    assert {name: kind["exits"] for name, kind in kinds.items()} == {
        "killed while saving": {"-9": 2},
        "two processes at once": {"-9": 1, "2": 1},
        "a write fails": {"75": 1},
    }
    assert found["ended_the_same"] >= 1 and not (tmp_path / "work" / "run").exists()
