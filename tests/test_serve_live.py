"""The service as a process of its own: real clients, signals, and clients that leave."""

import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from backbone import write_classifier

from sentimoe_settings import ServeConfig

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
import uvicorn
from stub_service import LABELS, StubEngine

from sentimoe.service import ServedModel, create_service, heads

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
HUGGING_FACE = """
import json, sys
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
client = InferenceClient(model=sys.argv[1])
rows = [client.text_classification("one two"), client.text_classification("one two", top_k=1, function_to_apply="none")]
print(json.dumps([[[each.label, each.score] for each in row] for row in rows]))
try:
    client.text_classification("  ")
except HfHubHTTPError as error:
    print(error)
"""


@contextmanager
def in_a_thread(config=None, **stub):
    """A service over a stub in a thread of this process, and its port."""
    app = create_service([ServedModel("stub", StubEngine(**stub), LABELS)], config or ServeConfig())
    server = uvicorn.Server(uvicorn.Config(app, http=heads.Heads, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def in_a_process(*command):
    """A service in a process of its own, its port, and its log, which begins with a line that ends in the port."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, text=True)
        try:
            while not (line := _whole(log)):
                assert process.poll() is None, "it ended"
                time.sleep(0.05)
            port = int(line.splitlines()[0].rpartition(":")[2])
            wait_for(port)
            yield process, port, log
        finally:
            process.kill()
            process.wait()


def _whole(log):
    log.seek(0)
    text = log.read()
    return text if "\n" in text else ""


@pytest.fixture(scope="module")
def port():
    with in_a_thread(seconds_per_text=0.002) as port:
        yield port


def wait_for(port):
    for _ in range(200):
        try:
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("it does not answer")


def measured(port, name):
    told = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", told, re.MULTILINE)))


def test_hugging_faces_own_client(port):
    """It refuses every address while HF_HUB_OFFLINE is set, so it has a process without it."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", HUGGING_FACE, f"http://127.0.0.1:{port}/models/stub"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows, refused = done.stdout.splitlines()[0], done.stdout
    every, top = json.loads(rows)
    assert len(every) == 3 and sum(score for _, score in every) == pytest.approx(1)
    assert len(top) == 1 and top[0][0] == every[0][0] and "Bad request" in refused


def test_a_plain_client_of_each_dialect(port):
    """What the pages of text-embeddings-inference and vLLM show: a POST of JSON with `requests`."""
    address = f"http://127.0.0.1:{port}"
    one = requests.post(f"{address}/predict", json={"inputs": "one two"}, timeout=10).json()
    vllm = requests.post(f"{address}/classify", json={"model": "stub", "input": "one two"}, timeout=10).json()
    own = requests.post(f"{address}/v1/predict", json={"texts": "one two"}, timeout=10).json()
    assert one[0]["label"] == vllm["data"][0]["label"] == own["results"]["stub"][0]["label"]


def test_clients_that_leave_hold_no_slot(port):
    """200 ask and close the connection before the answer."""
    before = measured(port, "sentimoe_cancelled_requests_total")
    body = json.dumps({"inputs": [["a text"]] * 20}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
    deadline = time.monotonic() + 10
    while measured(port, "sentimoe_queue_texts") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert measured(port, "sentimoe_queue_texts") == 0
    assert measured(port, "sentimoe_cancelled_requests_total") - before > 50
    assert requests.post(f"http://127.0.0.1:{port}/predict", json={"inputs": [["x"]] * 200}, timeout=10).ok


def test_half_open_connections_keep_nobody_out(port):
    """50 that send nothing, half a head, or half a body."""
    halves = (
        b"",
        b"POST /predict HTTP/1.1\r\nHost:",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    )
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % 3])
        started = time.monotonic()
        assert requests.post(f"http://127.0.0.1:{port}/predict", json={"inputs": "x"}, timeout=5).ok
        assert time.monotonic() - started < 2
    finally:
        for connection in connections:
            connection.close()


def test_a_body_that_does_not_come_is_given_up():
    with in_a_thread(ServeConfig(deadline=0.3)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
        connection.settimeout(5)
        assert b"408" in connection.recv(4096).splitlines()[0]


def test_heads_that_do_not_come_or_do_not_end_are_given_up(monkeypatch):
    """Kind: a connection that sends a header a second, or headers without end."""
    monkeypatch.setattr(heads, "SECONDS", 0.3)
    with in_a_thread() as port:
        for begun in (b"", b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(begun)
                assert connection.recv(1) == b""
        monkeypatch.setattr(heads, "SECONDS", 60)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, pytest.raises(ConnectionError):
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            for number in range(100_000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 100))
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok


def test_overload_is_200_and_429_only_and_passes():
    """Ten times as many texts as it can answer, for two seconds; then one request is answered at once."""
    with in_a_thread(ServeConfig(max_queue=64), seconds_per_text=0.005) as port:
        statuses, slow, ends = [], [], time.monotonic() + 2

        def load():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            while time.monotonic() < ends:
                started = time.monotonic()
                connection.request(
                    "POST", "/predict", json.dumps({"inputs": [["x"]] * 16}), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
                if response.status == 200:
                    slow.append(time.monotonic() - started)

        threads = [threading.Thread(target=load) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429} and max(slow) < 2 * (64 + 64) * 0.005 + 0.5
        assert requests.post(f"http://127.0.0.1:{port}/predict", json={"inputs": "x"}, timeout=5).ok


def test_sigterm_loses_no_accepted_request():
    """Twelve clients in a row of requests: every request that the service took is answered whole, and it ends."""
    command = [sys.executable, ROOT / "tools" / "stub_service.py", "--seconds-per-text", "0.005"]
    with in_a_process(*command) as (process, port, log):
        answered, broken = [], []

        def load():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            while True:
                try:
                    connection.request(
                        "POST", "/predict", json.dumps({"inputs": [["x"]] * 8}), {"Content-Type": "application/json"}
                    )
                    response = connection.getresponse()
                except (ConnectionError, http.client.RemoteDisconnected):
                    return  # not taken: not one byte came back
                try:
                    answered.append((response.status, len(json.loads(response.read()))))
                except (http.client.IncompleteRead, ValueError) as error:
                    broken.append(error)
                    return

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            for _ in range(12):
                pool.submit(load)
            time.sleep(0.7)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
        told = [json.loads(line) for line in _whole(log).splitlines()[1:]]
        taken = [line for line in told if line["message"] == "request" and line["route"] == "/predict"]
        assert not broken and set(answered) == {(200, 8)} and len(taken) == len(answered) > 20
        assert process.returncode == -signal.SIGTERM and told[-1]["message"].startswith("Finished")


def test_the_command_answers_until_sigterm(tmp_path):
    """The whole way: `sentimoe serve FOLDER`, a request, SIGTERM."""
    write_classifier(tmp_path / "mine")
    command = [sys.executable, "-m", "sentimoe", "serve", str(tmp_path / "mine"), "--port", "0"]
    with in_a_process(*command) as (process, port, log):
        asked = {"json": {"inputs": "good"}, "timeout": 10}
        assert len(requests.post(f"http://127.0.0.1:{port}/models/mine", **asked).json()[0]) == 2
        process.terminate()
        assert process.wait(timeout=20) == -signal.SIGTERM
        assert all(json.loads(line) for line in _whole(log).splitlines()[1:])
