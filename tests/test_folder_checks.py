"""Folders that are damaged, incomplete or other than they were saved: one line that says so, never other answers.

Kind: a library that makes up what is missing, or takes what it finds. `make fuzz` looks for more of these.
"""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import fuzz_folders
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import SentimentClassifier, load_classifier
from sentimoe.errors import ConfigError, ModelFolderError, WeightsError
from sentimoe.manifest import MANIFEST, check_manifest, write_manifest
from sentimoe.methods import load_zero_shot, save_adapted
from sentimoe.model_folder import load_tokenizer, saved_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Whole folders of every family, and what they answer."""
    root = tmp_path_factory.mktemp("whole")
    fuzz_folders.build(root)
    return root, {family: fuzz_folders.answers(root / family) for family in fuzz_folders.FAMILIES}


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the dense one."""
    return shutil.copytree(whole[0] / "dense", tmp_path / "model")


def edit(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refused(folder: Path, reason: str, **told):
    with pytest.raises(ModelFolderError, match=reason) as caught:
        SentimentClassifier.from_pretrained(folder, **told)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_a_hundred_damaged_folders(whole):
    """A first look at what `make fuzz` does ten thousand times."""
    rows = [fuzz_folders.trial(seed, *whole) for seed in range(100)]
    assert not [row for row in rows if row["outcome"].startswith("FAILED")]
    assert len({row["damage"] for row in rows}) > 25 and sum(row["outcome"] == "refused" for row in rows) > 60
    assert {row["fresh_manifest"] for row in rows} == {True, False}


def test_the_fuzzer_sees_other_answers_and_raw_errors(whole, monkeypatch):
    """Kind: a check that cannot fail."""
    for check in ("check_labels", "check_tokenizer", "check_files", "check_hashes", "check_dtypes", "check_as_saved"):
        for place in ("methods.storage", "model_folder.loading"):
            monkeypatch.setattr(f"sentimoe.{place}.{check}", lambda *given: None, raising=False)
    rows = [fuzz_folders.trial(seed, *whole) for seed in range(40)]
    found = {row["outcome"] for row in rows}
    assert {"FAILED: other answers", "FAILED: a raw error"} & found


# The manifest


def test_what_was_changed_is_noticed_unless_the_user_says_so(folder):
    expected = fuzz_folders.answers(folder)[1]
    edit(folder / "config.json", head_dropout=0.5)
    refused(folder, r"config\.json is not the file that was saved.*verify=False, --no-verify")
    again = SentimentClassifier.from_pretrained(folder, precision="float32", verify=False)
    np.testing.assert_allclose(again.predict_proba(fuzz_folders.TEXTS), expected, atol=1e-6)
    command = ["predict", "--model", str(folder), "a great thing"]
    assert isinstance(CliRunner().invoke(sentimoe_cli.app, command).exception, ModelFolderError)
    assert CliRunner().invoke(sentimoe_cli.app, [*command, "--no-verify"]).exit_code == 0


def test_a_zeroed_tail_of_the_weights_is_noticed(folder):
    """As after a power cut: the size is right."""
    path = folder / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 500)
    os.truncate(path, size)
    refused(folder, "model.safetensors is not the file that was saved")


def test_the_model_card_may_change_and_no_other_file_may_come(folder):
    (folder / "README.md").write_text("better words")
    SentimentClassifier.from_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n")
    refused(folder, "vocab.txt, which is not of its model")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"format": 9, "files": {}}', '{"format": 1, "files": {"../x": {}}}']
)
def test_a_damaged_manifest_is_no_missing_one(folder, text):
    (folder / MANIFEST).write_text(text)
    refused(folder, f"{MANIFEST} cannot be read")


def test_a_manifest_lists_what_it_is_given(tmp_path):
    assert check_manifest(tmp_path) is None
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path, ["a"])
    assert check_manifest(tmp_path) == {"a"}


def test_a_folder_without_a_manifest_loads(folder, whole):
    """Of version 0.1, or another tool."""
    (folder / MANIFEST).unlink()
    np.testing.assert_allclose(fuzz_folders.answers(folder)[1], whole[1]["dense"][1], atol=1e-6)


# Files that are none, and what lies elsewhere


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("way", ["deleted", "directory", "pipe", "link", "loop", "empty"])
def test_a_file_that_is_none_is_named(folder, whole, name, way):
    """Without tokenizer.json transformers made up a tokenizer; a pipe never ended."""
    path = folder / name
    path.unlink()
    makes = {
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(whole[0] / "moe" / name),
        "loop": lambda: path.symlink_to(path),
        "empty": path.touch,
        "deleted": lambda: None,
    }
    makes[way]()
    with fuzz_folders.time_limit(20):
        refused(folder, name.replace(".", r"\."))
        refused(folder, name.replace(".", r"\."), verify=False)


def test_an_index_that_leaves_the_folder_is_not_followed(folder, whole):
    from safetensors.torch import load_file

    places = dict.fromkeys(load_file(folder / "model.safetensors"), "../../dense/model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    refused(folder, "names ../../dense/model.safetensors, which does not lie in that folder", verify=False)


def test_files_of_the_hugging_face_cache_are_links(folder, tmp_path):
    """A snapshot of the cache holds links to its blobs: they are its own."""
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    SentimentClassifier.from_pretrained(snapshot)


# Settings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id2label": {"0": "so-so", "1": "good", "2": "bad"}}, "contradict each other"),
        ({"label2id": {"bad": 2, "good": 1, "so-so": 0}}, "contradict each other"),
        ({"id2label": ["bad", "good", "so-so"]}, "must map numbers to names"),
        ({"id2label": {"0": 0, "1": 1, "2": 2}}, "must map numbers to names"),
        ({"id2label": {"0": "bad", "1": "bad", "2": "so-so"}}, "gives two labels one name"),
        ({"id2label": {"1": "bad", "2": "good", "3": "so-so"}}, "numbers its labels"),
        ({"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}, "size mismatch|mismatch"),
        ({"moe": 3}, "must be null or hold settings"),
        ({"moe": {"num_experts": 4}}, r"lacks moe\.num_experts_per_tok"),
        ({"attn_implementation": "kernels-community/flash-attn"}, "code of the hub"),
        ({"transformers_weights": "other.safetensors"}, "names its weights itself"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, changes, reason):
    edit(folder / "config.json", **changes)
    refused(folder, reason, verify=False)


def test_a_head_that_is_trained_on_has_labels_that_make_sense(whole, tmp_path):
    """The numbers of its labels were taken for granted: a KeyError."""
    folder = shutil.copytree(whole[0] / "plain", tmp_path / "plain")
    edit(folder / "config.json", id2label={"1": "bad", "2": "good", "3": "so-so"})
    with pytest.raises(ModelFolderError, match="numbers its labels"):
        load_classifier(str(folder), fuzz_folders.LABELS, head="native")


@pytest.mark.parametrize("name", ["moe", "head", "id2label", "label2id"])
def test_settings_that_are_missing_are_not_made_up(folder, name):
    told = json.loads((folder / "config.json").read_text())
    del told[name]
    (folder / "config.json").write_text(json.dumps(told))
    refused(folder, f"lacks {name}", verify=False)


def test_a_setting_that_only_a_forward_reads_is_found_when_the_model_is_loaded(folder):
    """It was a TypeError under the first text."""
    told = json.loads((folder / "config.json").read_text())
    told["base_config"]["chunk_size_feed_forward"] = []
    (folder / "config.json").write_text(json.dumps(told))
    refused(folder, "cannot be loaded .TypeError", verify=False)


def test_a_setting_of_the_backbone_that_is_missing_is_not_made_up(folder):
    """It has a default, and that may not be what was trained."""
    told = json.loads((folder / "config.json").read_text())
    del told["base_config"]["hidden_act"]
    (folder / "config.json").write_text(json.dumps(told))
    refused(folder, "has not the settings that were saved: see hidden_act", verify=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(({"model_max_length": value}, "must be a number of tokens") for value in (0, -1, "64", 1.5, True, None)),
        ({"model_max_length": 2}, "leaves no token for the text"),
        ({"do_lower_case": False}, r"contradict the normalizer of tokenizer\.json"),
        ({"fast_tokenizer_files": ["../tokenizer.1.0.json"]}, "names other files"),
    ],
)
def test_tokenizer_settings_that_make_no_sense_are_refused(folder, changes, reason):
    edit(folder / "tokenizer_config.json", **changes)
    refused(folder, reason, verify=False)


@pytest.mark.parametrize("name", ["model_max_length", "tokenizer_class"])
def test_tokenizer_settings_that_are_missing_are_not_made_up(folder, name):
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    del told[name]
    path.write_text(json.dumps(told))
    refused(folder, f"lacks {name}", verify=False)


def test_a_tokenizer_without_tokenizer_json_needs_all_of_its_own_files(tmp_path):
    """transformers makes a byte pair tokenizer without merges, and a character tokenizer needs no file."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}))
    with pytest.raises(ModelFolderError, match=r"lacks tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert load_tokenizer(tmp_path)("a")["input_ids"] == [0, 4, 2]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    assert len(load_tokenizer(tmp_path)("a")["input_ids"]) == 3


def test_a_tokenizer_of_another_model_is_refused(folder, whole):
    """Kind: parts that do not belong together. Its last tokens have no embedding, an IndexError for some text."""
    other = load_tokenizer(whole[0] / "dense")
    other.add_tokens(["unheard", "of"])
    other.save_pretrained(folder)
    refused(folder, r"has a token \d+, its model has embeddings of 76 tokens", verify=False)


def test_a_stray_adapter_is_not_put_on_a_whole_model(folder, whole):
    """transformers would load both."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(whole[0] / "lora" / name, folder)
    refused(folder, "adapter_config.json, which is not of its model")
    (folder / MANIFEST).unlink()
    refused(folder, "without the model that it belongs to")
    with pytest.raises(ModelFolderError, match="is not loaded as a whole model"):
        load_classifier(str(folder), fuzz_folders.LABELS, head="native")


def test_a_language_model_of_a_damaged_folder_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFolderError, match=r"lacks tokenizer\.json"):
        load_zero_shot(str(folder), ["a", "b"], dtype=torch.float32)


# Weights


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_loaded_nor_saved(whole, tmp_path, value):
    """A diverged model was saved, loaded, and answered null to every text."""
    model = SentimentClassifier.from_pretrained(whole[0] / "dense")
    model.model.classifier.weight.data[0, 0] = value
    with pytest.raises(WeightsError, match=r"not saved to .*classifier\.weight holds values that are not finite"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"classifier\.weight holds values that are not finite") as caught:
        SentimentClassifier.from_pretrained(tmp_path / "model")
    assert caught.value.exit_code == 4


def test_weights_of_another_type_are_refused(folder):
    from safetensors.torch import load_file, save_file

    stored = load_file(folder / "model.safetensors")
    stored["classifier.weight"] = stored["classifier.weight"].half()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"classifier\.weight .* is stored as F16, and used as torch\.float32", verify=False)


def test_surplus_weights_are_an_error_only_in_our_own_folders(whole, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(whole[0] / "plain", tmp_path / "plain")
    stored = load_file(folder / "model.safetensors") | {"surplus.weight": torch.zeros(2)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"holds weights that its model does not have: \['surplus", verify=False)
    (folder / MANIFEST).unlink()  # as another tool wrote it
    np.testing.assert_allclose(fuzz_folders.answers(folder)[1], whole[1]["plain"][1], atol=1e-6)


def test_the_backbone_of_a_classifier_can_be_trained_on_with_a_new_head(whole):
    """Its stored head is then no surplus."""
    model = load_classifier(str(whole[0] / "plain"), ["no", "yes"], head="mean")
    assert model.num_labels == 2


# Saving


def test_a_save_that_fails_leaves_the_folder_as_it_was(folder, monkeypatch):
    """Kind: half a file. A full disk, here while the tokenizer is written."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    classifier = SentimentClassifier.from_pretrained(folder)
    monkeypatch.setattr(type(classifier.tokenizer), "save_pretrained", lambda *given: os.write(-1, b""))
    with pytest.raises(OSError):
        classifier.save_pretrained(folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_save_that_is_killed_while_files_change_places_is_noticed(folder, monkeypatch):
    """Kind: parts of two models. Whatever number of files was moved, the manifest refuses the folder or fits it."""
    classifier = SentimentClassifier.from_pretrained(folder)
    classifier.model.classifier.weight.data += 1
    classifier.tokenizer.model_max_length = 20
    pristine, replace = shutil.copytree(folder, folder.with_name("pristine")), os.replace
    for count in range(5):
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
        left = [None] * count

        def some(source, target, left=left):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            replace(source, target)

        monkeypatch.setattr("sentimoe.model_folder.saving.os", SimpleNamespace(replace=some))
        with pytest.raises(KeyboardInterrupt):
            save_adapted(classifier.model, classifier.tokenizer, folder)
        if count == 0:
            SentimentClassifier.from_pretrained(folder)
        else:
            refused(folder, "is not the file that was saved|lacks")


def test_nothing_of_an_earlier_model_stays(folder, whole):
    """Kind: what is left of an earlier save. Shards, and files of another tokenizer, would be read."""
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.txt", "added_tokens.json"):
        (folder / name).write_text("{}")
    (folder / "notes.txt").write_text("of the user")
    (folder / ".saving-killed").mkdir()
    classifier = SentimentClassifier.from_pretrained(whole[0] / "moe")
    classifier.save_pretrained(folder)
    kept = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", MANIFEST}
    kept |= {"notes.txt"}
    assert {path.name for path in folder.iterdir()} == kept
    assert SentimentClassifier.from_pretrained(folder).model.moe_config == classifier.model.moe_config


def test_a_finished_run_is_not_saved_over(folder, whole):
    """Its scores would be shown as those of the new model."""
    (folder / "run.json").write_text("{}")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a finished run, whose scores are of its own model"):
        SentimentClassifier.from_pretrained(whole[0] / "moe").save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_scores_without_a_finished_run_are_not_shown(folder):
    (folder / "metrics.json").write_text(json.dumps({"test": {"accuracy": 1, "f1_weighted": 1, "f1_macro": 1}}))
    shown = CliRunner().invoke(sentimoe_cli.app, ["info", str(folder), "--json"])
    assert shown.exit_code == 0 and "test" not in json.loads(shown.stdout)


def test_a_save_keeps_what_is_not_of_a_model(tmp_path):
    (tmp_path / "log.jsonl").write_text("row")
    with saved_whole(tmp_path) as aside:
        (aside / "config.json").write_text("{}")
        (aside / "README.md").write_text("card")
    assert check_manifest(tmp_path) == {"config.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "config.json", "README.md", MANIFEST}
