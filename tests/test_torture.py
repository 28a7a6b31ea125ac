"""A short `make torture`."""

import subprocess
import sys
from pathlib import Path

import pytest

from sentimoe.records import read_json

TOOL = Path(__file__).parents[1] / "tools" / "torture.py"


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_raced_and_out_of_space_ends_as_if_it_had_not_been(tmp_path):
    """Kind: lost work. Real processes and kill -9; `make torture` does 250 more, for docs/reliability.md."""
    told = ["--quick", "--results", str(tmp_path / "found.json"), "--work", str(tmp_path / "work")]
    subprocess.run([sys.executable, TOOL, *told], check=True, timeout=300)
    found = read_json(tmp_path / "found.json")
    kinds = found["kinds"]
    exits = {name: kind["exits"] for name, kind in kinds.items()}
    assert exits["killed while saving"] == {"-9": 2}
    assert exits["two processes at once"] in ({"-9": 1, "2": 1}, {"0": 1, "2": 1})
    assert exits["a write fails"] == {"75": 1}
    assert found["ended_the_same"] >= 1 and not (tmp_path / "work" / "run").exists()
