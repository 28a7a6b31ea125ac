"""Every saved model has a card that says what is known of it; it goes along to the hub and may be edited."""

import json

import numpy as np
import pytest
import torch
from backbone import tokenizer
from fake_hub import fake_hub
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import filter_repo_objects
from tiny import dense, sparse

from sentimoe import SentimentClassifier
from sentimoe.data import SeenTexts
from sentimoe.errors import ConfigError
from sentimoe.manifest import MANIFEST
from sentimoe.methods import adapt, save_adapted
from sentimoe.model_card import OURS, render_card
from sentimoe.model_folder.files import BASE, CONFIG, DECISIVE, SEEN, THRESHOLD, WEIGHTS
from sentimoe.model_folder.finding import WANTED

TEXTS = ["a fine day", "it broke"]


@pytest.fixture
def saved(tmp_path):
    save_adapted(dense("bert-mean", vocab_size=len(tokenizer())), tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_has_a_card_that_may_be_edited(saved):
    """Kinds: another library's card with blanks to fill in; a README that breaks the hashes; one that is replaced."""
    card = ModelCard.load(saved / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "text-classification" and "base_model" not in card.data.to_dict()
    assert "| labels | bad, fair, good |" in card.text and "Information Needed" not in card.text
    assert "README.md" not in json.loads((saved / MANIFEST).read_text())["files"]
    edited = card.content.replace(OURS, "").replace("# Text classifier", "# Mine")
    (saved / "README.md").write_text(edited)
    loaded = SentimentClassifier.from_pretrained(saved)
    loaded.save_pretrained(saved)
    assert (saved / "README.md").read_text() == edited
    (saved / "README.md").write_text(card.content.replace("bad, fair, good", "older"))
    loaded.save_pretrained(saved)
    assert (saved / "README.md").read_text() == card.content


def test_a_threshold_goes_along_with_the_weights_that_it_was_found_for(saved, tmp_path):
    """Kinds: a copy that has lost its threshold and answers doubtful texts; a threshold beside other weights."""
    (saved / "threshold.json").write_text("{}")
    (saved / "README.md").write_text("# Mine")
    loaded = SentimentClassifier.from_pretrained(saved)
    loaded.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy/threshold.json").read_text() == "{}"
    assert (tmp_path / "copy/README.md").read_text() == "# Mine"
    with torch.no_grad():
        loaded.model.classifier.bias += 1
    loaded.save_pretrained(tmp_path / "changed")
    assert not (tmp_path / "changed/threshold.json").exists()
    assert (tmp_path / "changed/README.md").read_text() != "# Mine"


def test_a_threshold_does_not_go_along_with_another_number_of_experts(tmp_path):
    model = sparse("bert-mean", changes={"vocab_size": len(tokenizer())}, num_experts=3)
    save_adapted(model, tokenizer(), tmp_path / "two")
    (tmp_path / "two" / "threshold.json").write_text("{}")
    for count, kept in ((2, True), (1, False)):
        turned = SentimentClassifier.from_pretrained(tmp_path / "two", num_experts_per_tok=count)
        turned.save_pretrained(tmp_path / f"{count}")
        assert (tmp_path / f"{count}" / "threshold.json").exists() is kept


def test_the_card_of_experts_and_of_an_adapter(tmp_path):
    model = sparse("bert-mean", changes={"vocab_size": len(tokenizer())}, num_experts=3)
    save_adapted(model, tokenizer(), tmp_path / "experts")
    assert "| experts | 3 per layer (gated), 2 read each token |" in (tmp_path / "experts/README.md").read_text()
    model = adapt(dense("bert-mean", vocab_size=len(tokenizer())), "lora", {})
    made = {"backbone": "all-MiniLM-L6-v2", "method": "lora"}
    save_adapted(model, tokenizer(), tmp_path / "adapter", known=made)
    card = (tmp_path / "adapter/README.md").read_text()
    assert "| made from | all-MiniLM-L6-v2, method `lora` |" in card and "Information Needed" not in card


def test_no_blank_of_a_card_is_filled_with_a_guess():
    facts = {"labels": ["a", "b"], "architecture": "bert", "parameters": 1234, "max_length": 8, "experts": None}
    card = render_card({"model": facts})
    assert not {"## Training", "## Scores", "made from", "None", "Undefined"} & set(card.replace("|", "\n").split("\n"))
    assert "None" not in card and "licen" not in card.lower()


def test_a_model_goes_to_the_hub_with_its_card_and_comes_back(tmp_path, monkeypatch):
    saved = tmp_path / "model"
    save_adapted(dense("bert-mean", vocab_size=len(tokenizer())), tokenizer(), saved, seen=SeenTexts.of(TEXTS))
    (saved / "README.md").write_text("# Mine")
    (saved / "threshold.json").write_text("{}")
    classifier = SentimentClassifier.from_pretrained(saved)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with fake_hub(tmp_path / "hub") as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        address = classifier.push_to_hub("someone/mine", token="hf_x", commit_message="first")
        sent = {path.name for path in (tmp_path / "hub/models/someone/mine").iterdir()}
        back = SentimentClassifier.from_pretrained("someone/mine")
        with pytest.raises(ConfigError, match="no such model in the hub"):
            SentimentClassifier.from_pretrained("someone/nothing")
    assert address.startswith(f"{endpoint}/someone/mine/commit/")
    assert sent == {path.name for path in saved.iterdir()}
    assert (tmp_path / "hub/models/someone/mine/README.md").read_text() == "# Mine"
    assert back.seen_texts.mask([*TEXTS, "new"]).tolist() == [True, True, False]
    assert np.array_equal(back.predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_every_file_that_decides_an_answer_is_fetched_from_the_hub():
    files = [*(name for name in DECISIVE if name != BASE), f"{BASE}/{CONFIG}", f"{BASE}/{WEIGHTS}", SEEN, THRESHOLD]
    files += [
        "segment-1.xml",
        "segment-1.bin",
        "head-1.xml",
        "head-1.bin",
        "exit_heads.safetensors",
        "model-00001-of-00002.safetensors",
    ]
    files += ["modeling_own.py", "README.md"]
    assert list(filter_repo_objects([*files, "pytorch_model.bin"], allow_patterns=list(WANTED))) == files
