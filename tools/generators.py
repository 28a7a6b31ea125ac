"""Programs that load a service over loopback: wrk and h2load (compiled), clients that leave, half-open connections."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HEADERS = {"Content-Type": "application/json"}
WRK = """
local bodies, at = {}, 0
init = function(arguments)
  for line in io.lines("BODIES") do
    bodies[#bodies + 1] = wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, line)
  end
end
request = function()
  at = at % #bodies + 1
  return bodies[at]
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "refused": %d, "failed": %d, "p50": %d, "p95": %d, "p99": %d}\\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


class MissingProgram(Exception):
    """A generator is not installed."""


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A service in a process of its own, its port, and the file of what it writes, which begins with its address."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, text=True)
        try:
            while "http://" not in (text := log.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended: {text}")
                time.sleep(0.1)
            port = int(text.partition("http://")[2].split()[0].rpartition(":")[2])
            wait_for(port)
            yield process, port, log
        finally:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    """Until something answers there."""
    while True:
        try:
            ask(port, "GET", "/health")
            return
        except ConnectionError:
            time.sleep(0.1)


def ask(port: int, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), HEADERS if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def bodies_of(texts: Sequence[str], each: int) -> list[str]:
    """Questions of some texts each, in the dialect of text-embeddings-inference."""
    groups = [texts[start : start + each] for start in range(0, len(texts) - each + 1, each)]
    return [json.dumps({"inputs": [[text] for text in group]}) for group in groups]


def wrk(port: int, bodies: Sequence[str], clients: int, seconds: float, texts: int) -> dict[str, Any]:
    """Clients that ask again as soon as they are answered: texts per second, percentiles, CPU seconds of wrk itself."""
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder) / "bodies", Path(folder) / "wrk.lua"
        lines.write_text("\n".join(bodies) + "\n")
        script.write_text(WRK.replace("BODIES", str(lines)))
        told = ["-t", "1", "-c", str(clients), "-d", f"{seconds:.0f}s", "--timeout", "60s", "-s", str(script)]
        before = _child_seconds()
        out = _run("wrk", *told, f"http://127.0.0.1:{port}")
    found = json.loads(out.splitlines()[-1])
    spent = found["microseconds"] / 1e6
    return {
        "clients": clients,
        "texts_per_request": texts,
        "texts_per_second": (found["requests"] - found["refused"]) * texts / spent,
        **{f"{name}_ms": found[name] / 1000 for name in ("p50", "p95", "p99")},
        "refused": found["refused"],
        "failed": found["failed"],
        "generator_cpu_seconds": round(_child_seconds() - before, 2),
        "seconds": round(spent, 1),
    }


def h2load(port: int, body: str, clients: int, seconds: float, per_second: float | None = None) -> dict[str, Any]:
    """The same of one question, at a rate for each client, with the status and time of every request."""
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "data", Path(folder) / "log"
        data.write_text(body)
        told = ["--h1", "-t", "1", "-c", str(clients), "-D", f"{seconds:.0f}", "-d", str(data), f"--log-file={log}"]
        told += ["-H", "content-type: application/json"] + ([] if per_second is None else [f"--rps={per_second}"])
        before = _child_seconds()
        _run("h2load", *told, f"http://127.0.0.1:{port}/predict")
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    statuses = Counter(rows[:, 1].tolist())
    accepted = rows[rows[:, 1] == 200][:, 2] / 1000
    return {
        "clients": clients,
        "requests": len(rows),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        **{f"accepted_p{rank}_ms": round(float(np.percentile(accepted, rank)), 1) for rank in (50, 95, 99)},
        "generator_cpu_seconds": round(_child_seconds() - before, 2),
        "seconds": seconds,
    }


def leaving(port: int, count: int, body: str) -> None:
    """Clients that ask and close the connection at once."""
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}\r\n\r\n{body}".encode())


@contextmanager
def half_open(port: int, count: int) -> Iterator[None]:
    """Connections that send nothing, half a head or half a body."""
    halves = (
        b"",
        b"POST /predict HTTP/1.1\r\nHost:",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
    )
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % len(halves)])
        yield
    finally:
        for connection in connections:
            connection.close()


class Clients:
    """Threads that ask until the connection is closed: what was answered whole, and what only in part."""

    def __init__(self, port: int, count: int, body: str):
        self.port, self.body = port, body
        self.answered: Counter[int] = Counter()
        self.broken = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Until all are through."""
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while True:
            try:
                connection.request("POST", "/predict", self.body, HEADERS)
                response = connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                return  # not taken: not one byte came back
            try:
                json.loads(response.read())
                self.answered[response.status] += 1
            except (http.client.IncompleteRead, ValueError):
                self.broken += 1
                return


def megabytes(process: subprocess.Popen[str]) -> float:
    """The memory that a process holds."""
    return psutil.Process(process.pid).memory_info().rss / 2**20


def _run(program: str, *told: str) -> str:
    if shutil.which(program) is None:
        raise MissingProgram(f"{program} is not installed: apt-get install wrk nghttp2-client")
    return subprocess.run([program, *told], capture_output=True, text=True, check=True).stdout


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
