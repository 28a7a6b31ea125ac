"""`sentimoe bench`: what is timed, what is counted, and what is said of tools that are not there."""

import json
import re
import shutil
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from backbone import labelled_texts, write_backbone
from command import invoke
from typer.testing import CliRunner

import sentimoe_cli
from experiments import students
from experiments.compression import Case
from experiments.render import render
from experiments.speed_pictures import pareto
from sentimoe import MoEConfig, SentimentClassifier, upcycle
from sentimoe.bench import peers, scale, speed, tools
from sentimoe.bench.flops import gflops_per_text
from sentimoe.data import load_dataset
from sentimoe.errors import ConfigError
from sentimoe.evaluation import count_flops, interleaved, ratio, throughput
from sentimoe.manifest import MANIFEST
from sentimoe.training import TrainConfig, train
from sentimoe_cli.show import bench_lines, times_as_fast

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set, a dense run folder, and the same model divided into one shared and three routed experts."""
    root = tmp_path_factory.mktemp("bench")
    texts, labels = labelled_texts(160)
    (root / "toy").mkdir()
    for name, part in (("train", slice(0, 100)), ("validation", slice(100, 120)), ("test", slice(120, 160))):
        lines = [json.dumps({"text": t, "label": y}) for t, y in zip(texts[part], labels[part], strict=True)]
        (root / "toy" / f"{name}.jsonl").write_text("\n".join(lines))
    backbone = write_backbone(root / "backbone")
    settings = {"epochs": 2, "max_length": 32, "batch_size": 16, "learning_rate": 5e-3}
    config = TrainConfig(model=str(backbone), data=str(root / "toy"), method="full", **settings)
    train(config, root / "dense", progress=False)
    classifier = SentimentClassifier.from_pretrained(root / "dense")
    batch = dict(classifier.tokenizer(texts[:64], padding=True, return_tensors="pt"))
    moe = MoEConfig(
        init="split", expert="plain", num_experts=3, num_shared_experts=1, num_experts_per_tok=1,
        layers_to_transform=[-2, -1],
    )  # fmt: skip
    classifier.model = upcycle(classifier.model, moe, texts=[batch])
    classifier.save_pretrained(root / "split")
    return root


def bench(folders, tmp_path, *options):
    arguments = ["bench", str(folders / "dense"), str(folders / "split"), "--data", str(folders / "toy")]
    path = tmp_path / "found.json"
    arguments += ["--rounds", "3", "--output", str(path), *options]
    done = CliRunner().invoke(sentimoe_cli.app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(path.read_text()), done.output


def test_turns_alternate_and_are_compared_round_by_round():
    called = []
    seconds = interleaved({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=3)
    assert called == ["a", "b"] * 4 and [len(each) for each in seconds.values()] == [3, 3]
    # a machine that slows down to a tenth: both take part, so the ratio stays
    assert ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0])["ratio"] == 2.0
    assert throughput([1.0, 2.0, 4.0], 8) == {"texts_per_second": 4.0, "quartiles": [2.0, 8.0]}


def test_experts_beside_their_dense_model(folders, tmp_path):
    found, output = bench(folders, tmp_path, "--backend", "torch")
    dense, experts = found["rows"]
    assert (found["texts"], dense["name"], experts["name"]) == (40, "dense", "experts")
    assert found["experts"] == {
        "init": "split", "expert": "plain", "num_experts": 3, "num_experts_per_tok": 1, "num_shared_experts": 1
    }  # fmt: skip
    (ratios,) = found["ratios"]
    assert ratios["flop_ratio"] == dense["gflops_per_text"] / experts["gflops_per_text"]
    assert 1 < ratios["flop_ratio"] < 2
    assert f"the FLOP ratio is {ratios['flop_ratio']:.2f}" in output
    assert min(dense["mib"], experts["mib"]) > 100


def test_a_ratio_that_says_nothing_is_not_printed():
    """Kind: 1.9 times as fast, with quartiles from 0.67 to 5.83."""
    row = {"backend": "torch", "ratio": 1.9, "quartiles": [0.67, 5.83], "flop_ratio": 2.0}
    (line,) = bench_lines({"ratios": [row]})
    assert "1.90" not in line and line.startswith("torch: too noisy to compare") and "(quartiles 0.67 - 5.83)" in line
    assert times_as_fast(row) == "too noisy (0.67 - 5.83)" and times_as_fast(row | {"quartiles": [1.5, 2.2]}) == "1.90"


def test_every_labelled_row_of_a_file_in_the_folder_where_one_is(folders, tmp_path, monkeypatch):
    """Any delimiter and column names, rows without a label left out, the file written here and not over another."""
    texts, labels = labelled_texts(60)
    rows = [f"{text};{label}" for text, label in zip(texts, labels, strict=True)]
    file = tmp_path / "reviews.csv"
    file.write_bytes("\n".join(["Caf\xe9;stars", *rows, "no label;"]).encode("cp1252"))
    monkeypatch.chdir(tmp_path)
    told = ["bench", str(folders / "dense"), "--scale", "--data", "reviews.csv", "--text-column", "Caf\xe9"]
    told += ["--label-column", "stars", "--delimiter", ";", "--encoding", "cp1252", "--backend", "torch"]
    made = {"rows": [], "data": ""}
    monkeypatch.setattr(scale, "scale", lambda model, texts, *given: made | {"texts": texts.texts, "given": given[2:]})
    monkeypatch.setattr("sentimoe_cli.show.bench_table", lambda found: "")
    done = invoke(*told)
    assert done.exit_code == 0 and "1 without a label" in done.stderr, done.stderr
    found = json.loads((tmp_path / "bench-scale.json").read_text())
    assert found["texts"] == texts and found["given"] == [[10_000, 100_000], []]
    assert "bench-scale.json exists" in invoke(*told).error
    assert "1 without a label" in invoke(*told, "--overwrite", "--strict").error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--peers", "--backend", "torch"), "leave --backend out"),
        (("--dial", "--backend", "torch", "--backend", "openvino"), "give --backend once"),
        (("--scale", "--rounds", "3"), "leave --rounds out"),
        (("--scale",), "--scale measures one model, with experts or without"),
        (("--peers", "--compressed", "a/fast", "--compressed", "b/fast"), "two compressed folders are called fast"),
    ],
)
def test_options_that_would_do_nothing_are_refused(folders, options, reason):
    done = invoke("bench", folders / "dense", folders / "split", *options)
    assert done.exit_code == 2 and reason in done.error


def test_a_compressed_model_of_another_task_has_no_figures(folders, monkeypatch):
    """Kind: an F1 of classes that only stand in the same places."""
    other = SimpleNamespace(label_names=["cat", "dog"])
    monkeypatch.setattr(tools, "load", lambda folder, backend: other)
    monkeypatch.setattr(tools, "_precision", lambda folder: "int8")
    task = peers.Task(folders / "dense", None, ("negative", "positive"), None)
    with pytest.raises(ConfigError, match="answers cat, dog, the dense model negative, positive"):
        tools.compressed_peer(folders / "fast").build(task)


def test_the_dial_ends_at_the_dense_model(folders, tmp_path):
    """With all experts active a divided model is the dense one, so its scores are too."""
    found, output = bench(folders, tmp_path, "--dial", "--backend", "torch")
    assert "40 texts, torch, " in output
    assert [row["experts_per_token"] for row in found["rows"]] == ["dense", "1", "2", "3"]
    dense, *_, last = found["rows"]
    work = [row["gflops_per_text"] for row in found["rows"]]
    assert work[1] < work[2] < work[3] and work[1] < work[0]
    assert (last["f1_weighted"], last["f1_macro"]) == (dense["f1_weighted"], dense["f1_macro"])


def test_the_extra_installs_what_the_peers_need():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
    names = {re.split(r"[\[<>=]", each)[0].replace("-", "_") for each in extra}
    assert {name for peer in tools.PEERS for name in peer.packages} <= names


def test_peers_answer_the_same_texts(folders, tmp_path):
    dataset = load_dataset(str(folders / "toy"))
    texts = speed.BenchTexts.of("toy", dataset.splits["test"], dataset.label_names)
    wanted = {"sentimoe, dense, torch", "transformers pipeline", "TF-IDF + LR", "VADER"}
    chosen = [peer for peer in tools.PEERS if peer.name in wanted]
    chosen.append(replace(chosen[0], name="absent", packages=("no_such_package",)))
    chosen.append(replace(chosen[0], name="without", experts=True))

    def sleepy(task):
        built = chosen[0].build(task)
        return replace(built, answer=lambda texts: time.sleep(1) or built.answer(texts))

    chosen.append(replace(chosen[0], name="slow", build=sleepy))
    said = []
    found = peers.compare_peers(folders / "dense", None, texts, said.append, rounds=3, peers=chosen)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["absent"]["missing"] == "not installed: no_such_package (pip install 'sentimoe[bench]')"
    assert rows["VADER"]["missing"] == "knows only negative, neutral, positive"
    assert rows["without"]["missing"] == "no model with experts was given"
    ours, pipeline = rows["sentimoe, dense, torch"], rows["transformers pipeline"]
    assert ours["f1_weighted"] == pipeline["f1_weighted"] and pipeline["note"].startswith("batches of ")
    assert ours["agreement"] == 1 and ours["seconds"] > 0
    assert ours["megabytes"] == pytest.approx((folders / "dense" / "model.safetensors").stat().st_size / 1e6)
    assert ours["as_fast_as"]["sentimoe, dense, torch"] == 1
    assert ours["as_fast_as"]["slow"] > 1 > rows["slow"]["as_fast_as"]["sentimoe, dense, torch"]

    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "peers__toy.json").write_text(json.dumps(found))
    dial = bench(folders, tmp_path, "--dial", "--backend", "torch")[0]
    (tmp_path / "bench" / "dial__toy.json").write_text(json.dumps(dial))
    copies = {"hardware": found["hardware"], "versions": found["versions"], "memory": []}
    speeds = {"pairs": 1, "backbone": "b", "mode": "m", "texts": 1, "tokens": 1, "experts_per_token": 1, "dense_ms": 1}
    speeds |= {"moe_ms": 1, "flop_ratio": 1, "time_ratio": 1, "time_ratio_quartiles": [1, 1], "time_over_flops": 1}
    copies |= {"speed": [speeds], "profile": [{"experts_per_token": 0, "ms": {}}]}
    (tmp_path / "bench" / "copy-moe.json").write_text(json.dumps(copies))
    (tmp_path / "paper.yaml").write_text("{table_1: {}, table_2: {}, table_3: {}, table_4: {}}")
    (tmp_path / "README.md").write_text("<!-- results --><!-- /results -->")
    render(tmp_path, tmp_path / "docs", tmp_path / "README.md")
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert "| VADER | none | knows only negative, neutral, positive |" in page and "(Pareto front)" in page
    assert "## The dial: toy, toy" in page
    assert {"peers__toy.png", "dial__toy.png"} <= {path.name for path in (tmp_path / "docs" / "figures").iterdir()}


def test_eight_bits_after_training(folders, tmp_path):
    """Both tools answer nearly as the dense model does, and leave a smaller one."""
    for package in ("openvino", "nncf", "onnxruntime", "onnxscript", "onnx"):
        pytest.importorskip(package)
    dataset = load_dataset(str(folders / "toy"))
    texts = speed.BenchTexts.of("toy", dataset.splits["test"], dataset.label_names)
    chosen = tools.named(["int8", "ONNX Runtime"])
    found = peers.compare_peers(folders / "dense", None, texts, lambda line: None, 3, chosen)
    rows = {row["name"]: row for row in found["rows"] if not row["missing"]}
    assert set(rows) == {"OpenVINO int8 (NNCF)", "ONNX Runtime", "ONNX Runtime int8"}
    assert all(row["agreement"] >= 0.9 for row in rows.values())
    assert rows["ONNX Runtime int8"]["megabytes"] < rows["ONNX Runtime"]["megabytes"]


def test_the_pareto_front():
    rows = [
        {"name": "slow and good", "f1_weighted": 0.9, "texts_per_second": 1},
        {"name": "fast and poor", "f1_weighted": 0.5, "texts_per_second": 9},
        {"name": "beaten", "f1_weighted": 0.5, "texts_per_second": 8},
        {"name": "no labels", "texts_per_second": 99},
    ]
    assert pareto(rows) == ["slow and good", "fast and poor"]


def test_scale_streams_any_number_of_texts_and_labels_files_of_them(folders):
    dataset = load_dataset(str(folders / "toy"))
    texts = speed.BenchTexts.of("toy", dataset.splits["test"], dataset.label_names)
    found = scale.scale(folders / "split", texts, "torch", lambda line: None, counts=(50, 101))
    assert [(row["texts"], row["name"]) for row in found["rows"]] == [
        (count, name) for count in (50, 101) for name in ("engine alone", "job")
    ]
    engine, job = found["rows"][2:]
    assert engine["share"] == 1 and found["experts"]["num_experts"] == 3
    assert job["share"] == pytest.approx(job["texts_per_second"] / engine["texts_per_second"])


def test_mixed_texts_are_for_speed_alone(folders):
    dataset = load_dataset(str(folders / "toy"))
    mixed = speed.BenchTexts.of("toy + more", dataset.splits["test"], dataset.label_names, ["another", "text"])
    assert sorted(mixed.texts) == sorted([*dataset.splits["test"].texts, "another", "text"])
    assert mixed.texts[-2:] != ["another", "text"] and mixed.scores(np.zeros((42, 2))) == {}


@pytest.mark.parametrize("folder", ["dense", "split"])
def test_onnx_runtime_gives_the_same_logits(folders, folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from sentimoe.bench.onnx import OnnxClassifier

    model = SentimentClassifier.from_pretrained(folders / folder).model.float()
    classifier = OnnxClassifier(model)
    ids = torch.randint(5, 40, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(classifier(ids, mask).logits, expected, rtol=1e-4, atol=1e-4)


def test_folders_that_do_not_fit_are_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="is a model with experts; give the dense model first"):
        speed.labels_of_pair(folders / "split", folders / "dense")
    with pytest.raises(ConfigError, match="is a dense model"):
        speed.labels_of_pair(folders / "dense", folders / "dense")
    other = shutil.copytree(folders / "split", tmp_path / "other")
    config = (other / "config.json").read_text(encoding="utf-8").replace('"positive"', '"good"')
    (other / "config.json").write_text(config, encoding="utf-8")
    (other / MANIFEST).unlink()
    with pytest.raises(ConfigError, match="give two models of one task"):
        speed.labels_of_pair(folders / "dense", other)
    assert speed.labels_of_pair(folders / "dense", folders / "split") == ["negative", "positive"]


def test_a_ready_model_is_measured_by_its_name(tmp_path):
    """Kind: only a folder is looked for; what has no config.json is not seen to be dense."""
    file = tmp_path / "mine.csv"
    lines = [f"{text} {row},{label}" for row in range(8) for text, label in (("so angry", "anger"), ("a joy", "joy"))]
    file.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    told = ("bench", "emotion", "--data", file, "--output", tmp_path / "found.json")
    assert "emotion has no config.yaml that names them; give a run folder" in invoke(*told, "--peers").error
    assert "is a dense model; give the dense model first" in invoke(*told[:2], "stars", *told[2:]).error
    done = invoke(*told, "--scale", "--scale-texts", "16", "--backend", "torch")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["experts"] is None and [row["name"] for row in found["rows"]] == ["engine alone", "job"]


def test_a_peer_that_fails_has_a_row_that_says_so(folders):
    def fails(task):
        raise RuntimeError("no such luck")

    dataset = load_dataset(str(folders / "toy"))
    texts = speed.BenchTexts.of("toy", dataset.splits["test"], dataset.label_names)
    tool = peers.Peer("broken", "", fails)
    found = peers.compare_peers(folders / "dense", None, texts, lambda line: None, rounds=3, peers=[tool])
    assert found["rows"][0]["missing"] == "failed: RuntimeError: no such luck"


def test_some_tools_by_name(folders, tmp_path):
    chosen = ("--peers", "--peer", "dense, torch", "--peer", "TF-IDF")
    found, output = bench(folders, tmp_path, *chosen)
    assert "TF-IDF + LR" in output and "weighted F1" in output and "missing" not in output
    assert [row["name"] for row in found["rows"]] == ["sentimoe, dense, torch", "TF-IDF + LR"]
    with pytest.raises(ConfigError, match=r"no tool is named BERTopic; there are sentimoe, experts, OpenVINO; "):
        tools.named(["TF-IDF", "BERTopic"])


def test_two_measurements_at_once_are_refused(folders, tmp_path):
    arguments = ["bench", str(folders / "dense"), "--data", str(folders / "toy"), "--dial", "--peers"]
    done = CliRunner().invoke(sentimoe_cli.app, arguments)
    assert done.exit_code == 1 and "choose one of" in str(done.exception)


@pytest.mark.parametrize("folder", ["dense", "split"])
def test_texts_of_one_length_are_counted_once_and_all_count(folders, folder):
    engine = speed.load(folders / folder, "torch")
    texts = ["a great thing", "the worst thing", "bad", " ", "a great " * 30]
    one_by_one = [count_flops(engine.model, lambda text=text: engine.predict_proba([text])) for text in texts]
    assert one_by_one[0] == one_by_one[1] and one_by_one[3] == 0  # a blank text reaches no model
    assert gflops_per_text(engine, texts) == pytest.approx(sum(one_by_one) / 5 / 1e9)


def test_peers_train_on_the_texts_that_the_dense_model_had(folders, tmp_path):
    """Whatever the texts are that are scored; of each class some at random."""
    config = TrainConfig(model=str(folders / "backbone"), data=str(folders / "toy"), train_limit=12, seed=3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    task, train = peers.Task(tmp_path, None, ("positive", "negative"), []), load_dataset(config.data).splits["train"]
    assert task.train.texts == train.sample(12, seed=3).texts
    assert task.train.labels == [1 - label for label in train.sample(12, seed=3).labels]
    few = tools._per_class(train, 5)
    assert sorted(few.labels) == [0] * 5 + [1] * 5 and set(few.texts) <= set(train.texts)
    assert few.texts[:5] != [text for text, label in zip(train.texts, train.labels, strict=True) if label == 0][:5]


@pytest.mark.slow
def test_students_beside_a_compressed_model(folders, tmp_path, monkeypatch):
    """A student has fewer layers, and its row says what it costs; a record that is there stays."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    shutil.copytree(folders / "dense", tmp_path / "work" / "toy-s0")
    monkeypatch.setattr(students, "CASES", {"toy": Case("toy", "", 32, None, 40)})
    monkeypatch.setattr(students, "LAYERS", (1,))
    monkeypatch.setattr(students, "ROUNDS", 3)
    monkeypatch.setattr(students, "TOOLS", ("dense, torch",))
    built = peers.Built(lambda texts: np.tile([[0.6, 0.4]], (len(texts), 1)), seconds=1000.0)
    monkeypatch.setattr(students, "compressed_peer", lambda folder: peers.Peer(folder.name, "", lambda task: built))
    told = {"data_root": folders, "work": tmp_path / "work", "results": tmp_path / "results", "progress": print}
    students.compare("toy", 0, **told)
    record = tmp_path / "results" / "peers__compressed-toy-s0.json"
    rows = {row["name"]: row for row in json.loads(record.read_text())["rows"]}
    small = {name: row for name, row in rows.items() if name.startswith("student of 1 layers")}
    assert {row["precision"] for row in small.values()} >= {"int8"} and len(small) == 2
    dense = rows["sentimoe, dense, torch"]
    assert all(row["megabytes"] < dense["megabytes"] and row["agreement"] > 0.5 for row in small.values())
    assert rows["toy-s0-fast"]["seconds"] > 1000
    student = SentimentClassifier.from_pretrained(tmp_path / "work" / "toy-s0-1-layers")
    assert student.model.config.get_text_config().num_hidden_layers == 1
    written = record.stat().st_mtime_ns
    students.compare("toy", 0, **told)
    assert record.stat().st_mtime_ns == written
