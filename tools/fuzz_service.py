"""`make fuzz-service`: requests that schemathesis makes up from the OpenAPI description; none may get a 5xx.

`python tools/fuzz_service.py SCHEMATHESIS [--cases 5000]`: the program, which has an environment of its own. The
service runs over a stub. Writes `results/service/fuzz.json`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import generators

from sentimoe.machine import hardware, versions
from sentimoe.records import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "service" / "fuzz.json"


def main() -> int:
    """Ask, write, and return 1 where there was a 5xx or too few requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemathesis")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    stub = (sys.executable, str(ROOT / "tools" / "stub_service.py"), "--seconds-per-text", "0")
    with generators.started(*stub) as (_, port, _):
        description = generators.ask(port, "GET", "/openapi.json")[1].decode()
        operations = len(re.findall(r'"operationId"', description))
        told = ["--checks", "not_a_server_error", "--max-examples", str(2 * given.cases // operations), "--mode", "all"]
        told += [
            "--seed",
            str(given.seed),
            "--phases",
            "examples,coverage,fuzzing",
            "--generation-database",
            "none",
        ]  # no files here
        address = f"http://127.0.0.1:{port}/openapi.json"
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as settings:
            settings.write('[parameters]\n"path.name" = "stub"\n')  # else nearly every name is unknown
            settings.flush()
            command = [given.schemathesis, "--config-file", settings.name, "run", address, *told]
            done = subprocess.run(command, capture_output=True, text=True)
        metrics = generators.ask(port, "GET", "/metrics")[1].decode()
    rows = re.findall(r'^sentimoe_requests_total\{dialect="\w+",status="(\d+)"\} (\S+)$', metrics, re.MULTILINE)
    statuses: dict[str, int] = {}
    for status, count in rows:
        statuses[status] = statuses.get(status, 0) + int(float(count))
    failed = sum(count for status, count in statuses.items() if status >= "500")
    print(done.stdout[-3000:])
    found = {"requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items())), "server_errors": failed}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, found | {"seed": given.seed, "versions": versions(), "hardware": hardware()})
    print(found)
    return int(failed > 0 or done.returncode != 0 or found["requests"] < given.cases)


if __name__ == "__main__":
    sys.exit(main())
