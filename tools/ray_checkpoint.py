"""`python tools/ray_checkpoint.py`: whether Ray Data's own `CheckpointConfig` goes on exactly after a kill.

A job reads Parquet files with an id column, adds a column in batches, and writes Parquet; it is killed with SIGKILL
when some files are written, and run again. Rows of the output are then compared with those of the input. A second
write under the same configuration follows, of other rows with the same ids. What was found goes to results/scale/ray-
checkpoint.json; docs/decisions.md says what follows from it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from sentimoe.records import write_json

ROOT = Path(__file__).parents[1]
FILES, ROWS, BATCH = 20, 200, 50


def job(source: Path, output: Path, checkpoint: Path, keep: bool) -> None:
    """One run of the job, in a process of its own."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    ray.init(num_cpus=2, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = context.target_min_block_size = 1024  # a write for every few batches
    context.checkpoint_config = CheckpointConfig("id", str(checkpoint), delete_checkpoint_on_success=not keep)

    def add(batch: pd.DataFrame) -> pd.DataFrame:
        time.sleep(0.2)
        return batch.assign(batch_of=len(batch))

    given = ray.data.read_parquet(str(source), override_num_blocks=FILES)
    given.map_batches(add, batch_size=BATCH, batch_format="pandas", num_cpus=0.5).write_parquet(str(output))
    ray.shutdown()


def run(*arguments: str, kill_after: int | None = None, output: Path | None = None) -> int:
    """The exit code. kill_after: it is killed when that many files are written."""
    process = subprocess.Popen([sys.executable, __file__, "job", *arguments], start_new_session=True)
    while kill_after is not None and output is not None and process.poll() is None:
        if len(list(output.glob("**/*.parquet"))) >= kill_after:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    code = process.wait()
    subprocess.run(["ray", "stop", "--force"], capture_output=True, check=False)
    return code


def ids(folder: Path) -> Counter[int]:
    """How often each id is in the files of a folder."""
    return Counter(row for file in folder.glob("**/*.parquet") for row in pd.read_parquet(file)["id"].tolist())


def trial(work: Path, kill_after: int, keep: bool) -> dict[str, Any]:
    """One kill, one run that goes on, one second write."""
    source, output, checkpoint, second = (work / name for name in ("in", "out", "checkpoint", "second"))
    source.mkdir()
    for file in range(FILES):
        start = file * ROWS
        pd.DataFrame({"id": range(start, start + ROWS), "text": "x"}).to_parquet(source / f"{file:02d}.parquet")
    codes = [run(str(source), str(output), str(checkpoint), str(keep), kill_after=kill_after, output=output)]
    before = ids(output)
    codes.append(run(str(source), str(output), str(checkpoint), str(keep)))
    found = ids(output)
    codes.append(run(str(source), str(second), str(checkpoint), str(keep)))
    return {
        "kill_after_files": kill_after,
        "delete_checkpoint_on_success": not keep,
        "exit_codes": codes,
        "rows": FILES * ROWS,
        "rows_before_going_on": before.total(),
        "missing": FILES * ROWS - len(found),
        "twice_or_more": sum(count > 1 for count in found.values()),
        "rows_of_second_write": ids(second).total(),
    }


def main() -> None:
    """Several kills, with and without keeping the checkpoint."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, nargs="+", default=[3, 9])
    told = parser.parse_args()
    rows = []
    for kill_after in told.kills:
        for keep in (False, True):
            with tempfile.TemporaryDirectory() as work:
                rows.append(trial(Path(work), kill_after, keep))
            print(rows[-1], flush=True)
            write_json(ROOT / "results" / "scale" / "ray-checkpoint.json", {"ray": ray.__version__, "trials": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(*map(Path, sys.argv[2:5]), keep=sys.argv[5] == "True")
    else:
        main()
