"""Bulk labelling on a Ray cluster of two nodes on this machine: `make test-ray`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import daft
import numpy as np
import pandas as pd
import psutil
import pytest
import ray
from backbone import train_classifier
from fragile import Elsewhere, Foreign, Fragile, Greedy, Hoarder
from ray.cluster_utils import Cluster as LocalCluster

from sentimoe.batch import Cluster, Job, Predictor, run
from sentimoe.batch.journal import JOURNAL
from sentimoe.errors import ConfigError

WORDS = ["lovely", "awful", "great", "worst", "happy", "broken", "best", "hate"]
ROWS, PART = 2000, 200


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where the workers find `fragile`
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick, "object_store_memory": 200_000_000}
    made = LocalCluster(initialize_head=True, head_node_args=head)
    made.second = made.add_node(num_cpus=1, object_store_memory=200_000_000)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def rows(**special):
    texts = [f"the {WORDS[i % 8]} thing and the {WORDS[i // 8 % 8]} one, number {i}" for i in range(ROWS)]
    for place, text in special.items():
        texts[int(place[1:])] = text
    return pd.DataFrame({"id": np.arange(ROWS), "text": texts})


def label(model, frame, folder, kind=Predictor, cluster=None, progress=lambda report, total: None):
    frame.to_csv(folder / "in.csv", index=False)
    output = folder / ("out" if cluster is None else "on-ray")

    def make(column):
        return kind(model, text_column=column, precision="float32")

    job = Job([folder / "in.csv"], output, part_rows=PART, max_rejected=0.1)
    report = run(job, make, {}, progress, cluster)
    assert report.rows == report.scored + sum(report.reasons.values()) == ROWS
    return report, pd.concat([pd.read_csv(path) for path in sorted(output.glob("part-*"))], ignore_index=True)


def same(found, expected, but=()):
    """The same rows and labels, and scores within rounding."""
    assert found["id"].tolist() == expected["id"].tolist() and found["text"].tolist() == expected["text"].tolist()
    found, expected = found.drop(list(but)), expected.drop(list(but))
    assert found["label"].tolist() == expected["label"].tolist()
    assert np.allclose(found["score"], expected["score"], atol=1e-5)


def test_a_row_that_kills_its_process_is_rejected_alone(model, cluster, tmp_path):
    frame = rows(_711="poison", _1300="poison")
    _, expected = label(model, frame, tmp_path)
    report, found = label(model, frame, tmp_path, Fragile, Cluster())
    same(found, expected, [711, 1300])
    assert dict(report.reasons) == {"process died": 2} and report.scored == ROWS - 2
    assert report.places == ["row 712: process died", "row 1301: process died"]
    assert found["label"].isna().sum() == 2


def test_an_actor_that_was_killed_twice_costs_no_row(model, cluster, tmp_path):
    frame = rows(_950=f"twice {tmp_path}/count")
    _, expected = label(model, frame, tmp_path)
    report, found = label(model, frame, tmp_path, Fragile, Cluster())
    same(found, expected)
    assert report.scored == ROWS and (tmp_path / "count").stat().st_size == 3


def test_a_worker_that_is_out_of_memory_gives_up_one_text(model, cluster, tmp_path):
    frame = rows(_42="huge")
    _, expected = label(model, frame, tmp_path)
    report, found = label(model, frame, tmp_path, Greedy, Cluster())
    same(found, expected, [42])
    assert dict(report.reasons) == {"out of memory": 1}


def test_a_text_for_which_ray_ends_processes_is_rejected_alone(model, monkeypatch, tmp_path):
    """Ray's memory monitor kills what takes too much before the kernel does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    memory = psutil.virtual_memory()
    threshold = 1 - (memory.available - 3e9) / memory.total
    watched = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=watched)
    try:
        frame = rows(_611="hoard")
        _, expected = label(model, frame, tmp_path)
        report, found = label(model, frame, tmp_path, Hoarder, Cluster())
        same(found, expected, [611])
        assert dict(report.reasons) == {"process died": 1}
    finally:
        ray.shutdown()


def test_a_head_without_processors_reads_for_the_others(model, tmp_path):
    """As operators set it up: the head node, on which the job is started, runs no work."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200_000_000}
    made = LocalCluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(num_cpus=1, object_store_memory=200_000_000)
        ray.init(address=made.address, log_to_driver=False)
        _, expected = label(model, rows(), tmp_path)
        report, found = label(model, rows(), tmp_path, Predictor, Cluster())
        same(found, expected)
        assert report.scored == ROWS
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_machine_on_which_the_certificate_does_not_hold_is_named(model, cluster, tmp_path, caplog):
    label(model, rows(), tmp_path, Elsewhere, Cluster())
    (line,) = [each for each in caplog.messages if "certificate" in each]  # Ray tells of itself, too
    assert "the certificate of" in line and "was made on another machine; it may not hold there" in line


def test_another_model_on_a_machine_ends_the_job_with_its_name(model, cluster, tmp_path):
    """Kind: Ray starts the actor anew, and the job is "stopped" whenever it is given."""
    with pytest.raises(ConfigError, match="is not the model of the machine where the job was started; copy it there"):
        label(model, rows(), tmp_path, Foreign, Cluster())


def test_a_node_that_goes_away_takes_no_row_along(model, cluster, tmp_path):
    done = []

    def progress(report, total):
        done.append(report.rows)
        if len(done) == 3:
            cluster.remove_node(cluster.second, allow_graceful=False)

    _, expected = label(model, rows(), tmp_path)
    report, found = label(model, rows(), tmp_path, Predictor, Cluster(), progress)
    same(found, expected)
    assert report.scored == ROWS and len(done) == ROWS // PART + 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_driver_that_was_stopped_goes_on(model, tmp_path, number, code):
    frame = pd.concat([rows()] * 40, ignore_index=True)
    frame.to_csv(tmp_path / "in.csv", index=False)
    told = ["--model", model, "--input", tmp_path / "in.csv", "--precision", "float32"]
    command = [sys.executable, "-m", "sentimoe", "predict", *map(str, told)]
    ray_command = [*command, "--engine", "ray", "--output", str(tmp_path / "out")]
    process = subprocess.Popen(ray_command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "out" / JOURNAL
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and ("go on with: sentimoe predict" in said) == (code > 0), said
    assert 3 <= journal.read_bytes().count(b"\n") < 6
    ended = subprocess.run(ray_command, capture_output=True, text=True)
    assert ended.returncode == 0 and "were finished before" in ended.stderr, ended.stderr
    subprocess.run(
        [*command, "--output", str(tmp_path / "alone")], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    for part in sorted((tmp_path / "alone").glob("part-*")):
        assert part.read_bytes() == (tmp_path / "out" / part.name).read_bytes()


def test_ray_data_calls_a_predictor(model, cluster, tmp_path):
    rows().to_csv(tmp_path / "in.csv", index=False)
    settings = {"model": str(model), "precision": "float32"}
    given = ray.data.read_csv(str(tmp_path / "in.csv"))
    found = given.map_batches(Predictor, fn_constructor_kwargs=settings, batch_size=500, num_cpus=0.5).to_pandas()
    expected = Predictor(model, precision="float32")(rows())
    found = found.sort_values("id", ignore_index=True)
    assert found["label"].tolist() == expected["label"].tolist() and len(found) == ROWS


def test_daft_calls_a_predictor(model):
    @daft.cls
    class Labels(Predictor):
        @daft.method.batch(return_dtype=daft.DataType.string())
        def label(self, texts):
            return self({"text": texts.to_pylist()})["label"].tolist()

    labels = Labels(str(model), precision="float32")
    given = daft.from_pydict({"text": ["the lovely thing", "the awful thing", " "]})
    assert given.with_column("label", labels.label(daft.col("text"))).to_pydict()["label"] == [
        "positive",
        "negative",
        None,
    ]
