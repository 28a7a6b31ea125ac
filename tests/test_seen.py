"""A model folder knows the texts that its model has seen, whatever file they come from.

Kinds of fault: a list that is lost on the way, that belongs to another model, or that is damaged without a word.
"""

import numpy as np
import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone
from command import invoke

from sentimoe import SentimentClassifier
from sentimoe.data import SeenTexts, dataset_from_texts
from sentimoe.errors import ModelFolderError
from sentimoe.methods import save_adapted
from sentimoe.training import TrainConfig, prepare
from sentimoe_cli.seen import seen_warning

TOLD = {"method": "full", "epochs": 1, "max_length": 16, "precision": "float32", "calibrate": False}


def test_equal_texts_are_known_by_eight_bytes_each(tmp_path):
    seen = SeenTexts.of(["A text ", "another", "a  TEXT"])
    assert seen.hashes.dtype == np.uint64 and len(seen.hashes) == 2
    assert seen.mask(["a text", "a texts", "ANOTHER"]).tolist() == [True, False, True]
    both = seen | SeenTexts.of(["a texts"])
    both.save(tmp_path)
    assert SeenTexts.load(tmp_path).mask(["a text", "a texts", "none"]).tolist() == [True, True, False]
    assert SeenTexts.load(tmp_path / "elsewhere") is None and not seen.mask([]).size
    for damaged in (b"", np.arange(3.0).tobytes()):
        (tmp_path / "seen_texts.npy").write_bytes(damaged)
        with pytest.raises(ModelFolderError, match=r"seen_texts\.npy"):
            SeenTexts.load(tmp_path)


def test_few_seen_texts_are_named_and_no_score_is_doubted():
    few, many = np.arange(1000) < 10, np.arange(1000) < 11
    assert seen_warning("m", few) == "m has seen 10 of the 1000 texts in training, too few to change what is shown"
    assert "so these scores are not those of new texts" in seen_warning("m", many)


def test_the_list_goes_with_the_model_and_into_what_is_trained_from_it(tmp_path):
    texts, labels = labelled_texts(60)
    backbone = write_backbone(tmp_path / "backbone")
    first = SentimentClassifier(model=backbone, **TOLD).fit(texts[:40], labels[:40])
    assert first.seen_texts.mask(texts).sum() == 40  # those held out to choose the epoch too
    assert first.seen_texts.complete
    first.save_pretrained(tmp_path / "first")
    loaded = SentimentClassifier.from_pretrained(tmp_path / "first")
    assert loaded.seen_texts.mask(texts).tolist() == [True] * 40 + [False] * 20
    source = str(tmp_path / "first")
    for told in ({"model": source, "head": "native"}, {"model": backbone, "teacher": source}):
        again = SentimentClassifier(**TOLD | told).fit(texts[30:50], labels[30:50])
        assert again.seen_texts.complete and again.seen_texts.mask(texts).sum() == 50
    save_adapted(loaded.model, loaded.tokenizer, tmp_path / "first")  # of another model, whose texts are not known
    assert SentimentClassifier.from_pretrained(tmp_path / "first").seen_texts is None
    for told in ({"model": source, "head": "native"}, {"model": backbone, "teacher": source}):
        again = SentimentClassifier(**TOLD | told).fit(texts[30:50], labels[30:50])
        again.save_pretrained(tmp_path / "again")
        seen = SentimentClassifier.from_pretrained(tmp_path / "again").seen_texts
        assert not seen.complete and seen.mask(texts).sum() == 20
    for count, told in ((10, "10 of the 30 labelled texts are new to the model and no repeats"), (60, "")):
        frame = pd.DataFrame({"text": [f"{texts[i]} again {i}" for i in range(count)] * 3, "label": labels[:count] * 3})
        frame.to_csv(tmp_path / "new.csv", index=False)
        found = invoke("evaluate", tmp_path / "again", "--data", tmp_path / "new.csv", "--target-accuracy", 0.9)
        assert told in found.stderr
    assert (
        "120 of 180 texts are repeats" in found.stderr and "does not say which texts it was trained on" in found.stderr
    )
    (tmp_path / "first" / "seen_texts.npy").write_bytes(b"damaged")
    config = TrainConfig(model=source, head="native", method="full", data="x", max_length=16)
    with pytest.raises(ModelFolderError, match=r"seen_texts\.npy"):  # not after hours of training
        prepare(config, dataset_from_texts(texts[:20], labels[:20]))
