"""What is written has the permissions that the user's umask gives, whatever the library that wrote it gave."""

import os
import stat
from importlib import import_module
from pathlib import Path

import pytest
from backbone import tokenizer
from tiny import dense

from sentimoe.methods import adapt, save_adapted
from sentimoe.records import with_umask, write_text
from sentimoe.training.checkpoints import written_checkpoint

names = import_module("sentimoe.upcycle.names")


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*")}


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_folders_have_the_permissions_of_the_umask(umask, tmp_path, monkeypatch):
    """Kind: safetensors and `tempfile` give 0600 and 0700, and a colleague cannot read the model."""
    model = dense("bert-mean", vocab_size=len(tokenizer()))
    save_adapted(model, tokenizer(), tmp_path / "whole")
    save_adapted(adapt(model, "lora", {}), tokenizer(), tmp_path / "adapter")
    (tmp_path / "checkpoints").mkdir()
    with written_checkpoint(tmp_path / "checkpoints", 1) as aside:
        model.save_pretrained(aside / "checkpoint-1")
        write_text(aside / "checkpoint-1" / "trainer_state.json", '{"best_global_step": 1}')
    monkeypatch.setattr(names, "HF_HOME", str(tmp_path / "cache"))
    names._cached("tiny", lambda folder: model.save_pretrained(folder))
    found = modes(tmp_path)
    assert {"whole/model.safetensors", "adapter/base/model.safetensors", "cache/sentimoe/tiny/config.json"} <= set(
        found
    )
    expected = {name: oct((0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask) for name in found}
    assert found == expected


def test_a_file_that_a_library_made_private_is_opened(umask, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "private").touch(mode=0o600)
    with_umask(folder)
    assert modes(folder) == {"private": oct(0o666 & ~umask)}
