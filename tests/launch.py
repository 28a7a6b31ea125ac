"""Several processes that train together, as a launcher starts them: forked from one that has imported everything."""

import gc
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import torch

import sentimoe_cli

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sentimoe.training", "peft", "sentimoe_cli.show", "sklearn.linear_model"])


def _begin(rank, count, port, folder, work, arguments):
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in given.items()}
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    gc.freeze()  # as in conftest.py
    torch.set_num_threads(1)
    work(*arguments)


def begin(folder, work, *arguments, count=2):
    """Start `work(*arguments)` in so many processes; what they write goes to `folder/out-0`, `err-0` and so on."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    told = [(rank, count, port, str(folder), work, arguments) for rank in range(count)]
    processes = [CONTEXT.Process(target=_begin, args=each) for each in told]
    for process in processes:
        process.start()
    return processes


def ended(processes, within=40.0):
    """Their exit codes. Those that do not end in so many seconds are killed, and the test fails."""
    until = time.monotonic() + within
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {len(processes)} processes do not end"
    return [process.exitcode for process in processes]


def launch(folder, work, *arguments, count=2):
    """Their exit codes."""
    return ended(begin(folder, work, *arguments, count=count))


def command(*arguments):
    """The `sentimoe` command in such a process."""
    sys.argv = ["sentimoe", *map(str, arguments)]
    sentimoe_cli.main()
