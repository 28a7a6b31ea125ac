"""`compress`, whole: a folder that answers as its certificate says, however it is loaded and batched."""

import importlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import labelled_texts, write_backbone
from command import invoke

from sentimoe import SentimentClassifier
from sentimoe.batch import Job, Predictor, run
from sentimoe.compression import divided, drift, variants
from sentimoe.compression import search as searching
from sentimoe.compression.heads import taught_head
from sentimoe.compression.quality import label_indices, quality
from sentimoe.compression.search import Search, default_levers
from sentimoe.compression.thresholds import NEVER
from sentimoe.compression.variants import Lever
from sentimoe.errors import ConfigError, DataError, ModelFolderError, NotSupportedError
from sentimoe.evaluation import Threshold, predicted_labels
from sentimoe.inference import ExitHead, StagedClassifier
from sentimoe.inference.exits import batches, groups, softmax
from sentimoe.inference.openvino import padded_width
from sentimoe.model_folder import COMPRESSED

pytest.importorskip("openvino")
pytest.importorskip("nncf")

compressing = importlib.import_module("sentimoe.compression.compress")


def unlabelled(count):
    words = ["lovely", "awful", "great", "worst", "happy", "broken", "best", "hate"]
    return [f"the {words[i % 8]} thing and the {words[i // 8 % 8]} one, number {i}" for i in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained model, its compressed folder and what that says of itself, by the command line."""
    folder = tmp_path_factory.mktemp("compress")
    texts, labels = labelled_texts(240)
    settings = {"model": write_backbone(folder / "backbone"), "epochs": 6, "learning_rate": 5e-3, "batch_size": 16}
    classifier = SentimentClassifier(method="full", max_length=32, **settings).fit(texts, labels)
    classifier.save_pretrained(folder / "dense")
    rows = [*unlabelled(1500), *texts[:40], "", "\ufe0f"]  # the last has no token
    known = [None if i // 8 % 2 != i % 2 else "negative" if i % 2 else "positive" for i in range(1500)]
    known += [*labels[:40], None, None]
    pd.DataFrame({"text": rows, "Stars": known}).to_csv(folder / "texts.csv", index=False)
    told = ("--texts", folder / "texts.csv", "--max-disagreement", 0.05, "--output", folder / "fast", "--json")
    told += ("--label-column", "Stars", "--minutes", 0.1)
    result = invoke("compress", folder / "dense", *told)
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_labels_differ_no_more_than_certified(made):
    folder, about = made
    original = SentimentClassifier.from_pretrained(folder / "dense", precision="float32")
    fast = SentimentClassifier.from_pretrained(folder / "fast")
    texts = [text.replace("number", "no.") for text in unlabelled(1500)]
    differ = (predicted_labels(original.predict_proba(texts)) != predicted_labels(fast.predict_proba(texts))).mean()
    (main,) = [each for each in about["certificates"] if each["tolerance"] == 0.05]
    assert differ <= 0.05 and main["upper_bound"] <= 0.05
    assert about["texts"]["blank_left_out"] == 2 and about["texts"]["seen_in_training"] == 40
    assert fast.seen_texts.mask(["the lovely thing number 0", "another"]).tolist() == [True, False]
    assert main["texts"] == about["texts"]["certify"] == 1500 - int(0.45 * 1500) - int(0.15 * 1500)
    for what in ("texts", "differ"):
        assert sum(each[what] for each in main["by_class"].values()) == main[what] >= main["doubtful"][what]
    assert set(main["by_class"]) == {"negative", "positive"} and main["doubtful"]["texts"] <= main["texts"] / 2


def test_a_model_with_experts_is_compressed_too(made, tmp_path):
    """At once in 8 bits, with exits, and experts that some batches do not choose."""
    texts, labels = labelled_texts(240)
    experts = {"num_experts": 3, "num_experts_per_tok": 1}
    settings = {"model": made[0] / "backbone", "epochs": 6, "learning_rate": 5e-3, "batch_size": 16}
    classifier = SentimentClassifier(method="moe-gated", max_length=32, method_settings=experts, **settings)
    classifier.fit(texts, labels)
    about = classifier.compress(unlabelled(700), tmp_path / "fast", max_disagreement=0.1, minutes=0.01)
    assert about["lever"]["int8"] and about["lever"]["cuts"]
    fast = SentimentClassifier.from_pretrained(tmp_path / "fast")
    rows = unlabelled(1000)[700:]
    differ = sum(a != b for a, b in zip(fast.predict(rows), classifier.predict(rows), strict=True))
    assert differ <= 0.15 * len(rows)


def test_a_compressed_folder_is_evaluated_under_its_dial(made):
    folder, _ = made
    texts, labels = labelled_texts(120)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / "labelled.csv", index=False)
    told = ("evaluate", folder / "fast", "--data", folder / "labelled.csv", "--json")
    found = json.loads(invoke(*told).stdout)
    assert found["accuracy"] > 0.9 and found["n_seen"] > 60
    assert "is not certified" in invoke(*told, "--max-disagreement", 0).stderr
    assert "it does not cover texts that are cut" in invoke(*told, "--long-texts", "truncate").stderr


def test_a_compressed_folder_is_measured_at_scale(made, tmp_path):
    told = ("bench", made[0] / "fast", "--scale", "--scale-texts", "40", "--data", made[0] / "texts.csv")
    done = invoke(*told, "--label-column", "Stars", "--output", tmp_path / "found.json")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (found["backend"], found["experts"]) == ("openvino", None)
    assert [row["name"] for row in found["rows"]] == ["engine alone", "job"]


def test_a_job_that_goes_on_writes_the_bytes_of_an_undisturbed_one(made, tmp_path):
    """Kind: what OpenVINO keeps of earlier batches, which a process that goes on has not seen."""
    pd.DataFrame({"text": unlabelled(500)}).to_csv(tmp_path / "in.csv", index=False)

    def job(output, progress):
        make = lambda column: Predictor(made[0] / "fast", text_column=column)  # noqa: E731
        run(Job([tmp_path / "in.csv"], tmp_path / output, part_rows=100), make, {}, progress)

    def killed(report, total):
        if report.rows == 300:
            raise KeyboardInterrupt

    job("whole", lambda report, total: None)
    with pytest.raises(KeyboardInterrupt):
        job("again", killed)
    assert len(list((tmp_path / "again").glob("part-*"))) < 5
    job("again", lambda report, total: None)
    parts = sorted(path.name for path in (tmp_path / "whole").iterdir() if path.suffix == ".csv")
    assert len(parts) == 5
    for name in parts:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_without_exits_there_is_int8_alone(made, tmp_path):
    folder, _ = made
    told = ("compress", folder / "dense", "--texts", folder / "texts.csv", "--no-exits", "--max-disagreement", 0.05)
    result = invoke(*told, "--output", tmp_path / "whole", "--minutes", 0.1, "--json")
    assert result.exit_code == 0, result.stderr
    about = json.loads(result.stdout)
    assert about["lever"] == {"cuts": [], "int8": True}
    assert [each["lever"] for each in about["trials"]] == [{"cuts": [], "int8": True}]
    pd.DataFrame({"text": unlabelled(300)}).to_csv(tmp_path / "in.csv", index=False)
    told = ("predict", "--model", tmp_path / "whole", "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert "the model has no early exits, so it cannot tell" in invoke(*told).stderr


def test_where_labels_are_known_f1_stands_beside_the_certificate(made):
    folder, about = made
    found = about["quality"]
    assert 250 < found["texts"] < 600 and set(found["interval"]) and found["margin"] == 0.005
    assert found["original_f1_weighted"] > 0.9  # the labels of these texts, and of no others
    assert found["difference"] == pytest.approx(found["f1_weighted"] - found["original_f1_weighted"])
    assert "labelled texts (" in invoke("info", folder / "fast").stdout
    labels = np.repeat([0, 1, -1], 300)
    same, worse = labels.clip(0), np.where(np.arange(900) < 40, 1, labels.clip(0))
    assert quality(labels, same, same, 0)["noninferior"] and not quality(labels, same, worse, 0)["noninferior"]
    assert not quality(labels[3:], same[3:], same[3:], 0)["noninferior"]  # 597: a loss of half a point may not show
    assert quality(labels[501:], same[501:], same[501:], 0) is None
    assert label_indices(["b", None, "a", float("nan")], ["a", "b"]).tolist() == [1, -1, 0, -1]
    with pytest.raises(DataError, match="the labels c are not of the model, which has a, b"):
        label_indices(["b", "c"], ["a", "b"])


def test_answers_do_not_depend_on_the_neighbours(made):
    """One text at a time, and all at once: the same layers, and answers within the bound of the precision."""
    fast = SentimentClassifier.from_pretrained(made[0] / "fast")
    texts = [*unlabelled(40), "", "good " * 200]
    together = fast.engine.predict(texts)
    alone = [fast.engine.predict([text]) for text in texts]
    assert together.layers[-2] == 0 and np.isnan(together.probabilities[-2]).all()
    same = np.array([one.layers[0] for one in alone]) == together.layers
    assert same.mean() > 0.95
    for one, row in zip(alone, together.probabilities, strict=True):
        np.testing.assert_allclose(one.probabilities[0], row, atol=0.05, equal_nan=True)


def test_threads_share_one_compressed_classifier(made):
    fast = SentimentClassifier.from_pretrained(made[0] / "fast")
    parts = [unlabelled(300)[start : start + 50] for start in range(0, 300, 50)]
    expected = [fast.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(fast.predict_proba, parts), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_the_service_answers_as_predict_does_and_tells_the_layers(made):
    """Whoever asks at the same time: in 8 bits within 0.05, and nearly always after the same layer."""
    pytest.importorskip("prometheus_client")
    from fastapi.testclient import TestClient

    from sentimoe.service import create_service, load_served
    from sentimoe_settings import ServeConfig

    fast, texts = load_served("fast", made[0] / "fast"), unlabelled(60)
    expected = fast.engine.predict(texts)
    with TestClient(create_service([fast], ServeConfig(batch_tokens=200)), base_url="http://localhost") as client:

        def ask(text):
            asked = {"texts": text, "probabilities": True, "exits": True}
            return client.post("/v1/predict", json=asked).json()["results"]["fast"][0]

        with ThreadPoolExecutor(8) as pool:
            rows = list(pool.map(ask, texts))
        assert 'sentimoe_exits_total{layers="' in client.get("/metrics").text
        assert client.get("/v1/models").json()["data"][0]["kind"] == "compressed"
        assert client.get("/").status_code == 404
    found = [list(row["probabilities"].values()) for row in rows]
    np.testing.assert_allclose(found, expected.probabilities, atol=0.05)
    assert (np.array([row["layers"] for row in rows]) == expected.layers).mean() > 0.95


def test_zero_lets_all_layers_read_and_other_tolerances_are_refused(made):
    folder, _ = made
    whole = SentimentClassifier.from_pretrained(folder / "fast", max_disagreement=0)
    assert set(whole.engine.predict(unlabelled(50)).layers) == {2}
    with pytest.raises(ConfigError, match=r"no certificate for max_disagreement=0\.3; there is one for .*0\.05"):
        SentimentClassifier.from_pretrained(folder / "fast", max_disagreement=0.3)
    with pytest.raises(ConfigError, match="is for a compressed model"):
        SentimentClassifier.from_pretrained(folder / "dense", max_disagreement=0.05)


def test_info_and_predict_tell_what_the_folder_is(made, tmp_path):
    folder, about = made
    shown = invoke("info", folder / "fast")
    for said in (
        "with 95% confidence, at most 5.00% of the labels",
        "tried: int8 and exits",
        "(40 of them are from its",
    ):
        assert said in shown.stdout
    assert (
        "all layers read every text; what rounding changes is not certified: "
        in invoke("predict", "--model", folder / "fast", "a lovely thing", "--max-disagreement", 0).stderr
    )
    card = (folder / "fast/README.md").read_text(encoding="utf-8")
    assert all(f"- {line}" in card for line in shown.stdout.splitlines()) and "not about the truth" in card
    pd.DataFrame({"text": ["lovely"] * 300}).to_csv(tmp_path / "new.csv", index=False)
    told = ("--input", tmp_path / "new.csv", "--output", tmp_path / "out.csv")
    result = invoke("predict", "--model", folder / "fast", *told)
    assert result.exit_code == 0, result.stderr
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["layers"].isin([1, 2]).all()
    moved = drift(about["certificates"][-1], Counter(found["layers"].tolist())).found
    assert ("of another kind" in result.stderr) == moved


def test_an_export_runs_without_this_package_and_texts_leave_early(made, tmp_path):
    """Kind: a compressed model that only this package can run."""
    assert invoke("export", made[0] / "fast", tmp_path / "out").exit_code == 0
    texts = [*unlabelled(20), "good " * 20]
    example = str(Path(__file__).parents[1] / "examples" / "run_a_compressed_export.py")
    program = f"import runpy, sys; sys.modules['sentimoe'] = None; runpy.run_path({example!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out"), *texts], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for folder in (made[0] / "fast", tmp_path / "out"):
        expected = SentimentClassifier.from_pretrained(folder).engine.predict(texts)
        np.testing.assert_allclose([list(row["scores"].values()) for row in found], expected.probabilities, atol=0.05)
        assert (np.array([row["layers"] for row in found]) == expected.layers).mean() > 0.9
    assert "is not empty" in invoke("export", made[0] / "fast", tmp_path / "out").error


def test_a_preset_gives_texts_and_labels_where_they_are_those_of_the_model(made, tmp_path, monkeypatch):
    """Kind: labels of a preset that the model does not have end the command after it was loaded."""
    given = []
    monkeypatch.setattr(SentimentClassifier, "compress", lambda self, rows, *to, **how: given.append((rows, how)) or {})
    invoke("compress", made[0] / "dense", "--texts", "tweets", "--output", tmp_path / "out", "--json")
    ((rows, how),) = given
    assert len(rows) == 27951 and how["labels"] is None  # the tweets have a neutral class, too
    missing = invoke("compress", made[0] / "dense", "--texts", "none.csv", "--output", tmp_path / "out")
    assert "none.csv: no such file" in missing.error


def test_a_damaged_folder_is_refused(made, tmp_path):
    shutil.copytree(made[0] / "fast", tmp_path / "fast")
    file = tmp_path / "fast" / "segment-1.bin"
    file.write_bytes(file.read_bytes()[:-8] + b"12345678")
    for verify in (True, False):
        with pytest.raises(ModelFolderError, match=r"segment-1\.bin"):
            SentimentClassifier.from_pretrained(tmp_path / "fast", verify=verify)


def test_what_cannot_be_kept_is_refused_before_work(made, tmp_path, monkeypatch):
    folder, _ = made
    classifier = SentimentClassifier.from_pretrained(folder / "dense", precision="float32")
    with pytest.raises(DataError, match="too few to certify"):
        classifier.compress(unlabelled(100), tmp_path / "a")
    with pytest.raises(ConfigError, match="leave nothing to try"):
        classifier.compress(unlabelled(1500), tmp_path / "b", exits=False, int8=False)
    with pytest.raises(ConfigError, match=r"max_disagreement=0 must lie between 0\.0001 and 0\.5"):
        classifier.compress(unlabelled(1500), tmp_path / "c", max_disagreement=0)
    with pytest.raises(ConfigError, match="is not empty"):
        classifier.compress(unlabelled(1500), folder / "fast")
    with pytest.raises(ConfigError, match="3 labels and 1500 texts"):
        classifier.compress(unlabelled(1500), tmp_path / "d", labels=["positive"] * 3)
    with pytest.raises(ConfigError, match="minutes=0"):
        classifier.compress(unlabelled(1500), tmp_path / "d", minutes=0)
    fast = SentimentClassifier.from_pretrained(folder / "fast")
    with pytest.raises(ConfigError, match="nothing to compress: an exported, compressed"):
        fast.compress(unlabelled(1500), tmp_path / "e")
    monkeypatch.setattr(compressing, "find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(ConfigError, match=r"needs nncf: pip install 'sentimoe\[compress\]'"):
        classifier.compress(unlabelled(1500), tmp_path / "f")
    told = ("--texts", folder / "texts.csv", "--output", tmp_path / "g", "--no-exits", "--no-int8")
    assert "leave nothing to try" in invoke("compress", folder / "dense", *told).error
    assert not list(tmp_path.iterdir())


def test_predict_says_where_the_certificate_does_not_hold(made, tmp_path):
    """Kinds: another processor, number format or reading of long texts than those that were certified."""
    folder, about = made
    shutil.copytree(folder / "fast", tmp_path / "fast")
    about = json.loads((tmp_path / "fast" / COMPRESSED).read_text())
    about["hardware"]["processor"], about["original"]["precision"] = "Z80", "float16"
    about["hardware"]["int8"], about["hardware"]["model"], about["versions"]["openvino"] = ["x"], "stepping 0", "2000.1"
    (tmp_path / "fast" / COMPRESSED).write_text(json.dumps(about))
    told = invoke(
        "predict", "--model", tmp_path / "fast", "a lovely thing", "--long-texts", "truncate", "--no-verify"
    ).stderr
    for what in ("processor 'Z80'", "int8 ['x']", "model 'stepping 0'", "openvino '2000.1'"):
        assert f"{what}, here" in told
    assert "processor 'Z80', here" in told and "was made in float16, and this runs in" in told
    assert "does not cover texts that are cut" in told and "1 texts are too few to check" in told
    told = invoke("predict", "--model", folder / "fast", "a lovely thing").stderr
    assert "may not hold" not in told and "cut" not in told
    shutil.copytree(folder / "fast", tmp_path / "sure")
    Threshold(0.5, 0.9, 0.95, 1.0, 0.9, 1000, False).save(tmp_path / "sure", "x", "0")
    for tolerance, warned in ((0, True), (0.05, False)):  # that of the folder itself
        told = invoke("predict", "--model", tmp_path / "sure", "a thing", "--max-disagreement", tolerance).stderr
        assert ("the threshold was found without --max-disagreement" in told) == warned


def test_bulk_labelling_knows_the_certificate_of_a_model_on_the_hub(made, tmp_path, monkeypatch):
    shutil.copytree(made[0] / "fast", tmp_path / "fast")
    about = json.loads((tmp_path / "fast" / COMPRESSED).read_text())
    about["hardware"]["processor"] = "Z80"
    (tmp_path / "fast" / COMPRESSED).write_text(json.dumps(about))
    monkeypatch.setattr("sentimoe.model_folder.find_folder", lambda name: tmp_path / "fast")
    pd.DataFrame({"text": unlabelled(20)}).to_csv(tmp_path / "in.csv")
    told = ("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--no-verify")
    found = invoke("predict", "--model", "someone/fast", *told)
    assert found.exit_code == 0 and "processor 'Z80', here" in found.stderr
    assert "20 texts are too few to check" in found.stderr


def test_what_weakens_a_certificate_is_said_before_the_search(made, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*given, **told):
        raise Stop

    monkeypatch.setattr(compressing, "Search", stop)
    classifier = SentimentClassifier.from_pretrained(made[0] / "dense")

    def said(texts):
        lines = []
        with pytest.raises(Stop):
            classifier.compress(texts, tmp_path / "x", progress=lines.append)
        return "\n".join(lines)

    assert "1,500 of 3,000 texts are repeats" in said(unlabelled(1500) * 2)
    assert "warning" not in said(unlabelled(1500))
    classifier.seen_texts = classifier.seen_texts.and_more()
    assert "warning: nobody keeps a whole list of its training texts" in said(unlabelled(1500))


class Half:
    """A variant of which setting i differs on texts below `offline[i]`, and as it is really run below `run[i]`."""

    def __init__(self, search, offline, run):
        self.run, self.asked = run, []
        labels = search.true
        offline = {place / 10: count for place, count in enumerate(offline)} | {NEVER: 7}
        search._differ = lambda answers, step, windows, count, of: np.arange(count) < offline[step[0]]
        search._engine = lambda variant, step: SimpleNamespace(predict=lambda texts: self.answer(labels, step[0]))
        self.classifier = SimpleNamespace(layers=np.array([1, 2]))

    def answers(self, windows):
        return None

    def answer(self, labels, step):
        self.asked.append(step)
        other = labels ^ (np.arange(len(labels)) < self.run[round(10 * step)])
        return SimpleNamespace(probabilities=np.eye(2)[other], layers=np.ones(len(labels), dtype=int))


def test_settings_certify_in_order_by_what_differs_when_they_are_run():
    """Kind: a setting that fails as it is run is passed over, and a later or an earlier one is taken untested."""
    search = object.__new__(Search)
    search.true, search.sure, search.tolerance = np.zeros(2000, dtype=int), np.arange(2000.0), 0.01
    search.original = SimpleNamespace(label_names=["a", "b"])
    search.certify = search.choose = None
    search.parts = SimpleNamespace(certify=range(2000))
    steps, rates = [(i / 10,) for i in range(6)], [0.003, 0.004, 0.005, 0.006, 0.007, 0.008]
    variant = Half(search, offline=[0, 2, 4, 6, 8, 9], run=[0, 0, 0, 40, 0, 0])
    (found,) = [each for each in search.certified(variant, steps, rates)[0] if each.tolerance == 0.01]
    assert found.thresholds == (0.2,) and found.differ == 4 and max(variant.asked) == 0.3
    assert found.by_class == {"a": {"differ": 4, "texts": 2000}, "b": {"differ": 0, "texts": 0}}
    assert found.doubtful == {"differ": 4, "texts": 1000}
    assert search.certified(variant, steps, rates)[1] == {"differ": 7, "texts": 2000}
    variant = Half(search, offline=[40] * 6, run=[0] * 6)
    assert not any(each.tolerance == 0.01 for each in search.certified(variant, steps, rates)[0])


def test_levers_that_do_not_fit_are_named_and_the_rest_is_tried(monkeypatch):
    """Kind: levers that were left out count as tried, so that a later one seems to fit."""
    now, said = [0.0], []
    search = object.__new__(Search)
    search.minutes, search.progress, search.tolerance, search.parts = 10, said.append, 0.01, SimpleNamespace(certify=[])
    monkeypatch.setattr(searching.time, "monotonic", lambda: now[0])

    def built(lever):
        now[0] += 8 * 60
        return lever

    search.built = built
    search.started = 0.0
    search.tried = lambda lever: ([], [], {"tried": True, "within": False, "differ": 0.5, "speed": {"ratio": 1.0}})
    levers = [Lever((cut,), False) for cut in range(1, 6)]
    with pytest.raises(NotSupportedError, match="changes few enough labels"):
        search.run(levers)
    assert [line.endswith("does not fit into 10 minutes") for line in said] == [False, True, True, True, True]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3)])
def test_the_fastest_that_keeps_the_promise_is_chosen(order):
    """By measured time, whatever was tried first; one that breaks the promise does not count."""
    search = object.__new__(Search)
    search.minutes, search.progress, search.tolerance, search.started = 1e6, print, 0.05, 0.0
    shown = {1: (1.5, True), 2: (2.0, True), 3: (3.0, False)}

    def tried(variant):
        ratio, within = shown[variant.cuts[0]]
        return [()], [0.0], {"tried": True, "within": within, "differ": 0.0, "speed": {"ratio": ratio}}

    search.built, search.tried = lambda lever: SimpleNamespace(lever=lever, cuts=lever.cuts), tried
    search.certified = lambda variant, steps, rates: ([SimpleNamespace(tolerance=0.05, thresholds=())], {})
    search.timed, search.original_disagreement = lambda *given: {}, dict
    assert search.run([Lever((cut,), False) for cut in order]).variant.cuts == (2,)


def test_the_reference_is_the_original_in_float32(made, monkeypatch):
    """Kind: a certificate of what bfloat16 answers, which the processor decides."""
    given = []

    class Spied(searching.Engine):
        def __init__(self, *args, **settings):
            given.append((settings.get("precision"), settings.get("backend", "torch")))
            super().__init__(*args, **settings)

    monkeypatch.setattr(searching, "Engine", Spied)
    original = SentimentClassifier.from_pretrained(made[0] / "dense", precision="float32")
    parts = divided(unlabelled(700), np.zeros(700, dtype=bool), 0.1, 0)
    search = Search(original.model, original.tokenizer, parts, tolerance=0.1)
    assert given == [("float32", "torch"), (None, "openvino")]
    assert (search.true == predicted_labels(original.predict_proba(parts.certify))).all()


def counting(stages, width=4):
    """Networks that hand states on and count what they read."""
    read = [[] for _ in range(stages)]

    def network(stage):
        def run(tokens, mask):
            hidden = np.repeat(tokens[..., None], width, axis=2).astype(np.float32) if stage == 0 else tokens
            read[stage].append(mask.sum(axis=1).tolist())
            own = (hidden * mask[..., None]).sum(axis=1)[:, :2] / mask.sum(axis=1, keepdims=True)
            return hidden, own.astype(np.float32) if stage == stages - 1 else None

        return run

    return [network(stage) for stage in range(stages)], read


def test_an_answer_that_is_no_number_is_not_made_up():
    """Kind: it stays for ever, and its text gets whatever lay in memory."""
    networks, _ = counting(2)
    networks[1] = lambda tokens, mask, run=networks[1]: (run(tokens, mask)[0], np.full((len(tokens), 2), np.nan, "f"))
    heads = [ExitHead(4, 2, 8, 2) for _ in range(2)]
    told = {"layers": (1, 2), "padding": 0, "labels": ["a", "b"], "label_type": "str", "ordinal": False}
    staged = StagedClassifier(networks, heads, (NEVER,), **told, max_length=64)
    assert np.isnan(staged.answer([[5, 6], [7]], 100).logits).all()


def test_texts_leave_and_the_others_close_up():
    """Against a plain loop: each text, stage by stage, until its head is sure."""
    torch.manual_seed(0)
    networks, read = counting(3)
    heads = [ExitHead(4, 3, 8, 2) for _ in range(3)]
    for head in heads:
        torch.nn.init.normal_(head.outer.weight)
    thresholds = (0.75, 0.6)
    classifier = StagedClassifier(
        networks,
        heads,
        thresholds,
        layers=[1, 3, 6],
        padding=0,
        labels=["a", "b"],
        label_type="str",
        ordinal=False,
        max_length=64,
    )
    generator = np.random.default_rng(0)
    ids = [generator.integers(-5, 5, generator.integers(1, 20)).tolist() for _ in range(300)]
    found = classifier.answer(ids, tokens_per_batch=100)
    left = []
    for text, logits, layers in zip(ids, found.logits, found.layers, strict=True):
        hidden = torch.tensor(text).reshape(1, -1, 1).repeat(1, 1, 4).float()
        for stage, limit in enumerate((*thresholds, -1)):
            with torch.no_grad():
                answer = heads[stage](hidden, torch.ones(1, len(text))).numpy() + (np.mean(text) if stage == 2 else 0)
            if softmax(answer).max() >= limit:
                break
        np.testing.assert_allclose(logits, answer[0], atol=1e-5)
        assert layers == (1, 3, 6)[stage]
        left.append(stage)
    assert {0, 1, 2} == set(left)
    for stage in range(3):  # nothing is read after it left, and no batch is larger than allowed
        assert sum(map(len, read[stage])) == sum(each >= stage for each in left)
        assert all(len(batch) * max(batch) <= 100 for batch in read[stage])


def test_a_head_pools_as_a_plain_loop_does():
    """Text by text and query by query, with states standardised token by token; padding changes nothing."""
    torch.manual_seed(0)
    head = ExitHead(6, 3, 8, 2)
    torch.nn.init.normal_(head.outer.weight)
    torch.nn.init.normal_(head.queries.weight)
    head.mean.copy_(torch.randn(6)), head.deviation.copy_(torch.rand(6) + 0.5)
    hidden, lengths = torch.randn(4, 7, 6), [7, 1, 3, 5]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    found = head(hidden, mask.long())
    for text, length, logits in zip(hidden, lengths, found, strict=True):
        states = (text[:length] - head.mean) / head.deviation
        means = [states.mean(dim=0)]
        for query in head.queries.weight:
            weights = torch.softmax(torch.stack([query @ state for state in states]), dim=0)
            means.append(sum(weight * state for weight, state in zip(weights, states, strict=True)))
        expected = head.outer(torch.nn.functional.gelu(head.inner(torch.cat(means))))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_groups_bound_what_waits():
    assert list(groups([4, 4, 4, 9, 1], 8)) == [[0, 1], [2], [3], [4]]
    assert list(groups([], 8)) == []


def test_few_sizes_occur_where_texts_come_one_by_one():
    """Kind: a network is compiled for every length of a single text, which takes longer than reading it."""
    assert [padded_width(length, 1, 40) for length in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
    assert padded_width(20, 16, 40) == 32 and padded_width(20, 17, 40) == 20  # 512 tokens
    ((_, given, mask),) = batches([[5, 6, 7]], 9, 1000, 64)
    assert given.tolist() == [[5, 6, 7, *[9] * 13]] and mask.sum() == 3
    ((_, given, _),) = batches([[5, 6, 7]], 9, 1000)
    assert given.shape == (1, 3)


def test_levers_in_order_and_switched_off():
    assert default_levers(6) == [Lever((1, 2, 4), True), Lever((), True), Lever((1, 2, 4), False)]
    assert default_levers(12)[0] == Lever((2, 4, 8), True) and default_levers(2)[0] == Lever((1,), True)
    assert default_levers(6, int8=False) == [Lever((1, 2, 4), False)]
    assert default_levers(6, exits=False) == [Lever((), True)]
    assert default_levers(1) == [Lever((), True)] and default_levers(1, int8=False) == []


def test_states_beyond_16_bits_are_kept():
    """Some decoders reach 100,000 in a few dimensions; in 16 bits that is infinite, and every head NaN."""

    def network(tokens, mask):
        hidden = np.random.default_rng(0).normal(size=(*tokens.shape, 4)).astype(np.float32)
        hidden[..., 0] *= 1e5
        return hidden, None

    states, _ = variants._states(network, [[1, 2, 3]] * 30, 0)
    answers = np.tile(np.float32([[0.9, 0.1]]), (30, 1))
    head = taught_head(states, answers, None, seed=0)
    assert all(np.isfinite(each).all() for each in states)
    assert all(torch.isfinite(tensor).all() for tensor in head.state_dict().values())


def test_bulk_labelling_counts_layers_in_every_part(made, tmp_path):
    """Kinds: a part without a readable text has no column `layers`; a header in the middle of a joined file."""
    folder, _ = made
    texts = unlabelled(50)
    texts[20:40] = [" "] * 20
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "in.csv", index=False)

    def make(column):
        return Predictor(folder / "fast", text_column=column)

    for output in ("out.csv", "out.parquet"):
        report = run(Job([tmp_path / "in.csv"], tmp_path / output, part_rows=20), make, {}, lambda report, total: None)
        assert report.rows == 50 and sum(report.layers.values()) == report.scored == 30
    assert pd.read_csv(tmp_path / "out.csv")["layers"].eq(0).sum() == 20
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 50
