"""`explain` of a model without experts: what needs none is shown, and the rest is left out and said so."""

import json

import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone
from command import invoke
from transformers import AutoTokenizer

from sentimoe.data import load_dataset
from sentimoe.explain.findings import find, without_texts
from sentimoe.explain.report import report_html
from sentimoe.explain.sizes import Sizes
from sentimoe.inference import Engine
from sentimoe.upcycle import load_classifier

OF_EXPERTS = ("load", "information", "experts", "similarity", "controls", "knock_out", "by_lexicon")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is found of a dense model that was not trained, so that many answers are wrong; one text is cut."""
    root = tmp_path_factory.mktemp("dense")
    texts, labels = labelled_texts(60)
    texts[0] = f"{texts[0]} " * 40
    for split in ("train", "validation", "test"):
        pd.DataFrame({"text": texts, "label": labels}).to_csv(root / f"{split}.csv", index=False)
    backbone = write_backbone(root / "backbone")
    dataset = load_dataset(str(root))
    model = load_classifier(backbone, dataset.label_names)
    engine = Engine(model, AutoTokenizer.from_pretrained(backbone), max_length=32, long_texts="truncate")
    return find(engine, model, dataset, "test", sizes=Sizes(shown=6)), engine


def test_what_needs_no_experts_is_measured(found):
    """Kind: the answers, the errors, the labels to check, the words and the projection are refused with the experts."""
    report, engine = found
    assert not set(OF_EXPERTS) & set(report) and report["model"]["experts"] == 0
    assert report["truncated"]["texts"] == 1 and report["scores"]["n"] == 60
    assert report["mistakes"] and {"wrong", "suspects"} <= set(report)
    [cluster] = report["clusters"]
    assert cluster["title"] == "dense" and len(cluster["points"]) == 60 and cluster["by_expert"] is None
    assert len(report["texts"]) == 6
    for text in report["texts"]:
        assert "near" not in text and "knock_out" not in text
        words = [text["text"][token["start"] : token["end"]] for token in text["tokens"]]
        assert words[1] == text["text"].split()[0] and len(words) <= 32
        assert all(isinstance(token["score"], float) for token in text["tokens"])
        assert text["answer"] == engine.label_names[engine.predict_proba([text["text"]])[0].argmax()]
    assert not {"texts", "mistakes"} & set(without_texts(report))


def test_the_page_says_that_there_are_no_experts(found):
    page = report_html(found[0])
    assert "How often is the model right?" in page and "This model has no experts" in page
    assert "Do the experts help" not in page and "expert 0" not in page and "Layer" not in page
    assert 'id="check"' in page and 'id="texts"' in page and 'id="knock-out"' not in page


def test_a_ready_model_is_explained(tmp_path):
    """Kind: only a folder is loaded; the report calls it by the path of the package; a trace of nothing is written."""
    texts = ["I am so angry at this", "what a lovely day", "I cry every night", "we have hope"] * 6
    labels = ["anger", "joy", "sadness", "optimism"] * 6
    file, out = tmp_path / "mine.csv", tmp_path / "report"
    pd.DataFrame({"text": [f"{text} {row}" for row, text in enumerate(texts)], "label": labels}).to_csv(file)
    told = ("explain", "emotion", "--data", file, "--shown", "1", "--output", out)
    refused = invoke(*told, "--dense", "sentiment").error
    assert "emotion has none; leave it out" in refused and not out.exists()
    done = invoke(*told)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("emotion has no experts") == 1 and "moe-gated" in done.stderr
    assert "How often is the model right? " in done.stdout
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["name"] == "emotion" and report["scores"]["accuracy"] > 0.7
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    assert report["data"]["labels"] == ["anger", "joy", "optimism", "sadness"]


def test_rows_are_those_of_the_file_and_nothing_of_another_report_stays(tmp_path):
    """Kinds: a label to check that cannot be found again; the trace of another model beside a new report."""
    texts = ["I am so angry at this", "what a lovely day", "I cry every night", "we have hope"] * 8
    labels = ["joy", "joy", "sadness", "optimism"] * 8
    texts[2] = texts[9] = ""
    file, out = tmp_path / "mine.csv", tmp_path / "report"
    given = [f"{text} {row}" if text else "" for row, text in enumerate(texts)]
    pd.DataFrame({"text": given, "label": labels}).to_csv(file, index=False)
    out.mkdir()
    (out / "trace.parquet").write_bytes(b"of experts")
    told = ("explain", "emotion", "--data", file, "--shown", "4", "--limit", "20", "--output", out)
    assert "is the report's own JSON" in invoke(*told, "--record", out / "report.json").error
    (tmp_path / "kept.json").write_text("{}")
    assert "kept.json exists" in invoke(*told, "--record", tmp_path / "kept.json").error
    done = invoke(*told)
    assert done.exit_code == 0, done.stderr
    assert not (out / "trace.parquet").exists()
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["mistakes"] and report["texts"]
    for row in (*report["mistakes"], *report["texts"]):
        assert row["text"] == given[row["row"] - 1]
