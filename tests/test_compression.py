"""`compress`, whole: a folder that answers as its certificate says, however it is loaded and batched."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import labelled_texts, write_backbone
from command import invoke

from sentimoe import SentimentClassifier
from sentimoe.compression import drift
from sentimoe.compression.search import default_levers
from sentimoe.compression.variants import Lever
from sentimoe.errors import ConfigError, DataError, ModelFolderError
from sentimoe.evaluation import predicted_labels
from sentimoe.inference import ExitHead, StagedClassifier
from sentimoe.inference.exits import groups, softmax

pytest.importorskip("openvino")
pytest.importorskip("nncf")


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
    pd.DataFrame({"text": [*unlabelled(1500), *texts[:40], ""]}).to_csv(folder / "texts.csv", index=False)
    told = ("--texts", folder / "texts.csv", "--max-disagreement", 0.05, "--output", folder / "fast", "--json")
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
    assert about["texts"]["blank_left_out"] == 1 and about["texts"]["seen_in_training"] == 40
    assert fast.seen_texts.mask(["the lovely thing number 0", "another"]).tolist() == [True, False]
    assert main["texts"] == about["texts"]["certify"] == 1500 - int(0.45 * 1500) - int(0.15 * 1500)


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
    assert shown.exit_code == 0 and "with 95% confidence" in shown.stdout and "--max-disagreement 0.05" in shown.stdout
    pd.DataFrame({"text": ["lovely"] * 300}).to_csv(tmp_path / "new.csv", index=False)
    told = ("--input", tmp_path / "new.csv", "--output", tmp_path / "out.csv")
    result = invoke("predict", "--model", folder / "fast", *told)
    assert result.exit_code == 0, result.stderr
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["layers"].isin([1, 2]).all()
    moved = drift(about["certificates"][-1]["shares"], found["layers"]).found
    assert ("of another kind" in result.stderr) == moved


def test_a_damaged_folder_is_refused(made, tmp_path):
    shutil.copytree(made[0] / "fast", tmp_path / "fast")
    file = tmp_path / "fast" / "segment-1.bin"
    file.write_bytes(file.read_bytes()[:-8] + b"12345678")
    for verify in (True, False):
        with pytest.raises(ModelFolderError, match=r"segment-1\.bin"):
            SentimentClassifier.from_pretrained(tmp_path / "fast", verify=verify)


def test_what_cannot_be_kept_is_refused_before_work(made, tmp_path):
    folder, _ = made
    classifier = SentimentClassifier.from_pretrained(folder / "dense", precision="float32")
    with pytest.raises(DataError, match="too few to certify"):
        classifier.compress(unlabelled(100), tmp_path / "a")
    with pytest.raises(ConfigError, match="nothing to try"):
        classifier.compress(unlabelled(1500), tmp_path / "b", exits=False, int8=False)
    with pytest.raises(ConfigError, match=r"max_disagreement=0 must lie between 0 and 0\.5"):
        classifier.compress(unlabelled(1500), tmp_path / "c", max_disagreement=0)
    with pytest.raises(ConfigError, match="is not empty"):
        classifier.compress(unlabelled(1500), folder / "fast")
    assert not list(tmp_path.iterdir())


def counting(stages, width=4):
    """Networks that hand states on and count what they read; the mean state of a text is the mean of its ids."""
    read = [[] for _ in range(stages)]

    def network(stage):
        def run(tokens, mask):
            hidden = np.repeat(tokens[..., None], width, axis=2).astype(np.float32) if stage == 0 else tokens
            read[stage].append(mask.sum(axis=1).tolist())
            pooled = ((hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)).astype(np.float32)
            return (pooled[:, :2] if stage == stages - 1 else hidden), pooled

        return run

    return [network(stage) for stage in range(stages)], read


def test_texts_leave_and_the_others_close_up():
    """Against a plain loop: each text, stage by stage, until its head is sure."""
    torch.manual_seed(0)
    networks, read = counting(3)
    heads = [ExitHead(4, 8, 2) for _ in range(3)]
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
        pooled = np.full((1, 4), np.mean(text), dtype=np.float32)
        for stage, limit in enumerate((*thresholds, -1)):
            with torch.no_grad():
                answer = heads[stage](torch.from_numpy(pooled)).numpy() + (pooled[:, :2] if stage == 2 else 0)
            if softmax(answer).max() >= limit:
                break
        np.testing.assert_allclose(logits, answer[0], atol=1e-5)
        assert layers == (1, 3, 6)[stage]
        left.append(stage)
    assert {0, 1, 2} == set(left)
    for stage in range(3):  # nothing is read after it left, and no batch is larger than allowed
        assert sum(map(len, read[stage])) == sum(each >= stage for each in left)
        assert all(len(batch) * max(batch) <= 100 for batch in read[stage])


def test_groups_bound_what_waits():
    assert list(groups([4, 4, 4, 9, 1], 8)) == [[0, 1], [2], [3], [4]]
    assert list(groups([], 8)) == []


def test_levers_in_order_and_switched_off():
    assert default_levers(6)[0] == Lever((1, 3), True)
    assert {lever.int8 for lever in default_levers(6, int8=False)} == {False}
    assert default_levers(6, exits=False) == [Lever((), True)]
    assert default_levers(1) == [Lever((), True)]
