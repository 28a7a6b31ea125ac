"""Ways in which a model folder comes to harm, for `fuzz_folders.py`.

Each takes a random generator, a folder to damage, and `root`, which holds the whole folders of all families. It returns
how it did the damage, or None where the folder has nothing that it could damage.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FAMILIES = ("dense", "moe", "plain", "decoder", "lora", "p-tuning", "export")
MANIFEST = "sentimoe_manifest.json"
MARKER = "ran"  # a file in `root` that code from a folder would write


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    apply: does it. silent: what comes out may be the whole folder of another model, which nothing but a hash can tell;
    under a new manifest its answers are counted apart. renewable: the damaged folder may get a new manifest; not where
    values of weights change, nor where the manifest itself is what is damaged.
    """

    name: str
    apply: Callable[[random.Random, Path, Path], str | None]
    silent: bool = False
    renewable: bool = True


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Files of the folder and of the base in it, but for the model card and the manifests."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"]
    kept = [path for path in found if path.name != MANIFEST]
    return sorted(path for path in kept if not suffixes or path.suffix in suffixes)


def chosen(rng: random.Random, folder: Path, *suffixes: str) -> Path | None:
    found = files(folder, *suffixes)
    return rng.choice(found) if found else None


def flip(rng: random.Random, path: Path, start: int, end: int) -> str:
    """Flip one to three bits between two offsets."""
    data = bytearray(path.read_bytes())
    places = [rng.randrange(start, end) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.name} at {places}"


def header_end(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def flipped_text(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".json", ".xml")
    return path and flip(rng, path, 0, path.stat().st_size)


def flipped_header(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".safetensors")
    return path and flip(rng, path, 0, header_end(path))


def flipped_weights(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".safetensors", ".bin")
    return path and flip(rng, path, header_end(path) if path.suffix == ".safetensors" else 0, path.stat().st_size)


def truncated(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder)
    size = 0 if rng.random() < 0.2 else rng.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} to {size}"


def longer(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder)
    with path.open("ab") as stream:
        stream.write(rng.randbytes(rng.randrange(1, 64)))
    return path.name


def zeroed(rng: random.Random, path: Path) -> str:
    size = path.stat().st_size
    count = rng.randrange(1, size)
    os.truncate(path, size - count)
    os.truncate(path, size)
    return f"last {count} bytes of {path.name}"


def zeroed_text(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".json", ".xml")
    return path and zeroed(rng, path)


def zeroed_weights(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".safetensors", ".bin")
    return path and zeroed(rng, path)


OTHERS: tuple[Any, ...] = ("", "x", 7, -1, 0.5, 10**30, True, False, None, [], [1, 2], {}, {"a": 1}, "1", "64")


def edit(path: Path, told: Any) -> None:
    path.write_text(json.dumps(told), encoding="utf-8")


def places(told: Any) -> Iterator[tuple[Any, Any]]:
    """Every (mapping or list, key) inside a JSON value; few of a long list or mapping."""
    keys = list(told) if isinstance(told, dict) else list(range(len(told))) if isinstance(told, list) else []
    for key in keys[:40]:
        yield told, key
        yield from places(told[key])


def json_place(rng: random.Random, folder: Path) -> tuple[Path, Any, Any, Any] | None:
    path = chosen(rng, folder, ".json")
    if path is None:
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    found = [(told, key) for key in told] if rng.random() < 0.6 else list(places(told))
    return (path, told, *rng.choice(found)) if found else None


def without_key(rng: random.Random, folder: Path, root: Path) -> str | None:
    place = json_place(rng, folder)
    if place is None:
        return None
    path, told, inside, key = place
    if inside is vocabulary(told):
        return None  # that is another damage, below
    del inside[key]
    edit(path, told)
    return f"{path.name}: {key!r}"


def vocabulary(told: dict[str, Any]) -> dict[str, int] | None:
    model = told.get("model")
    return model.get("vocab") if isinstance(model, dict) else None


def lost_word(rng: random.Random, folder: Path, root: Path) -> str | None:
    """A word less in the vocabulary: it is read as its letters."""
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    words = vocabulary(told)
    assert words is not None
    word = rng.choice(sorted(words))
    del words[word]
    edit(path, told)
    return word


def surplus_key(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder, ".json")
    if path is None:
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    told[rng.choice(["surplus", "num_labels", "attn_implementation", "transformers_weights", "auto_mapping"])] = (
        rng.choice([*OTHERS, "../other/model.safetensors", "kernels-community/flash-attn"])
    )
    edit(path, told)
    return path.name


def other_type(rng: random.Random, folder: Path, root: Path) -> str | None:
    place = json_place(rng, folder)
    if place is None:
        return None
    path, told, inside, key = place
    value = rng.choice([each for each in OTHERS if type(each) is not type(inside[key])])
    edit_text = f"{path.name}: {key!r} {inside[key]!r:.60} -> {value!r}"
    inside[key] = value
    edit(path, told)
    return edit_text


def other_value(rng: random.Random, folder: Path, root: Path) -> str | None:
    place = json_place(rng, folder)
    if place is None:
        return None
    path, told, inside, key = place
    old = inside[key]
    if isinstance(old, bool):
        new: Any = not old
    elif isinstance(old, int):
        new = rng.choice((old + 1, old - 1, old * 2, 0, 1, 10**9))
    elif isinstance(old, float):
        new = rng.choice((old * 2, -old, 0.0, 1e300))
    elif isinstance(old, str):
        new = rng.choice((old.upper(), old + "x", old[:-1], "relu", "float16", "RobertaTokenizer"))
    else:
        return None
    inside[key] = new
    edit(path, told)
    return f"{path.name}: {key!r} {old!r:.60} -> {new!r:.60}"


def config_of(folder: Path) -> Path | None:
    place = folder / "base" / "config.json"
    path = place if place.exists() else folder / "config.json"
    return path if path.exists() else None


def labels(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = config_of(folder)
    if path is None:
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    names = list(told["id2label"].values())
    numbered = {str(index): name for index, name in enumerate(names)}
    ways: dict[str, dict[str, Any]] = {
        "reversed": {"id2label": {str(index): name for index, name in enumerate(reversed(names))}},
        "label2id reversed": {"label2id": {name: index for index, name in enumerate(reversed(names))}},
        "not strings": {"id2label": {str(index): index for index in range(len(names))}},
        "numbers for names": {"label2id": {name: str(index) for index, name in enumerate(names)}},
        "one more": {"id2label": numbered | {str(len(names)): "more"}},
        "one less": {"id2label": dict(list(numbered.items())[:-1])},
        "one less, both": {
            "id2label": dict(list(numbered.items())[:-1]),
            "label2id": {name: index for index, name in enumerate(names[:-1])},
        },
        "from 1": {"id2label": {str(index + 1): name for index, name in enumerate(names)}},
        "two of a name": {"id2label": dict.fromkeys(numbered, names[0])},
        "a list": {"id2label": names},
        "a text": {"id2label": names[0]},
        "empty": {"id2label": {}, "label2id": {}},
        "no number": {"id2label": {f"{key}x": name for key, name in numbered.items()}},
        "label2id empty": {"label2id": {}},
        "another name": {"id2label": numbered | {"0": "other"}},
        "num_labels": {"num_labels": len(names) + 1},
    }
    way = rng.choice(list(ways))
    edit(path, told | ways[way])
    return way


def labels_in_other_order(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Other lines of the same maps: the same model."""
    path = config_of(folder)
    if path is None:
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    for name in ("id2label", "label2id"):
        told[name] = dict(reversed(told[name].items()))
    edit(path, told)
    return path.name


def labels_exchanged(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = config_of(folder)
    if path is None:
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    names = list(reversed(told["id2label"].values()))
    told["id2label"] = {str(index): name for index, name in enumerate(names)}
    told["label2id"] = {name: index for index, name in enumerate(names)}
    edit(path, told)
    return path.name


def deleted(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder)
    path.unlink()
    return path.name


def directory(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder)
    path.unlink()
    path.mkdir()
    return path.name


def pipe(rng: random.Random, folder: Path, root: Path) -> str | None:
    path = chosen(rng, folder)
    path.unlink()
    os.mkfifo(path)
    return path.name


def link(rng: random.Random, folder: Path, root: Path) -> str | None:
    """A link out of the folder, to itself, to nothing, or to a folder."""
    path = chosen(rng, folder)
    other = root / rng.choice(FAMILIES) / path.name
    target = rng.choice([other, path, Path("nowhere"), Path("/etc"), Path("/etc/hostname"), root / "dense"])
    path.unlink()
    path.symlink_to(target)
    return f"{path.name} -> {target.name}"


def link_inside(rng: random.Random, folder: Path, root: Path) -> str | None:
    """A link to a file beside it: the same model."""
    path = chosen(rng, folder)
    path.rename(path.with_name("moved.bytes"))
    path.symlink_to("moved.bytes")
    return path.name


def exchanged(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Two files of the folder change places."""
    first, second = rng.sample(files(folder), 2)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    return f"{first.name} and {second.name}"


def of_another(rng: random.Random, folder: Path, root: Path) -> str | None:
    """A file of a folder of another family."""
    path = chosen(rng, folder)
    others = [root / family / path.name for family in FAMILIES if family != folder.name]
    found = [other for other in others if other.exists() and other.read_bytes() != path.read_bytes()]
    if not found:
        return None
    shutil.copy(rng.choice(found), path)
    return path.name


def stray(rng: random.Random, folder: Path, root: Path) -> str | None:
    """A file that some other kind of folder has."""
    strays = {
        "adapter_config.json": (root / "lora" / "adapter_config.json").read_text(encoding="utf-8"),
        "sentimoe_export.json": (root / "export" / "sentimoe_export.json").read_text(encoding="utf-8"),
        "config.json": (root / "plain" / "config.json").read_text(encoding="utf-8"),
        "added_tokens.json": json.dumps({"movie": 3}),
        "special_tokens_map.json": json.dumps({"cls_token": "movie"}),
        "vocab.txt": "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "movie", "was", "great"]),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {"a": "../dense/model.safetensors"}}),
        "chat_template.jinja": "{{ 1 }}",
        "generation_config.json": "[",
    }
    name = rng.choice([name for name in strays if not (folder / name).exists()])
    (folder / name).write_text(strays[name], encoding="utf-8")
    if name == "adapter_config.json" and rng.random() < 0.5:
        shutil.copy(root / "lora" / "adapter_model.safetensors", folder)
    return name


def tensors_of(rng: random.Random, folder: Path) -> tuple[Path, dict[str, Any], str] | None:
    path = chosen(rng, folder, ".safetensors")
    if path is None:
        return None
    stored = load_file(path)
    return path, stored, rng.choice(sorted(stored))


def saved(path: Path, tensors: dict[str, Any], what: str) -> str:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return f"{path.name}: {what}"


def exchanged_tensors(rng: random.Random, folder: Path, root: Path) -> str | None:
    found = tensors_of(rng, folder)
    if found is None:
        return None
    path, stored, name = found
    alike = [each for each in sorted(stored) if each != name and stored[each].shape == stored[name].shape]
    if not alike:
        return None
    other = rng.choice(alike)
    return saved(path, stored | {name: stored[other], other: stored[name]}, f"{name} and {other}")


def misshapen_tensor(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Two tensors of other shapes change places, or one is transposed, cut, lost, renamed or added."""
    found = tensors_of(rng, folder)
    if found is None:
        return None
    path, stored, name = found
    way = rng.choice(["exchanged", "cut", "flattened", "lost", "renamed", "added"])
    tensor = stored.pop(name)
    if way == "exchanged":
        other = rng.choice(sorted(stored))
        if stored[other].shape == tensor.shape:
            return None
        stored |= {name: stored[other], other: tensor}
    elif way == "cut":
        stored[name] = tensor[:-1]
    elif way == "flattened":
        if tensor.dim() < 2:
            return None
        stored[name] = tensor.flatten()
    elif way == "renamed":
        stored[name + ".other"] = tensor
    elif way == "added":
        stored |= {name: tensor, "surplus.weight": tensor}
    return saved(path, stored, f"{name} {way}")


def cast(rng: random.Random, folder: Path, root: Path) -> str | None:
    """One tensor, or all, in another type."""
    found = tensors_of(rng, folder)
    if found is None:
        return None
    path, stored, name = found
    dtype = rng.choice([torch.float16, torch.bfloat16, torch.float64, torch.int8])
    names = [name] if rng.random() < 0.5 else list(stored)
    return saved(path, stored | {each: stored[each].to(dtype) for each in names}, f"{len(names)} as {dtype}")


def not_finite(rng: random.Random, folder: Path, root: Path) -> str | None:
    found = tensors_of(rng, folder)
    if found is None:
        return None
    path, stored, name = found
    stored[name].view(-1)[rng.randrange(stored[name].numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return saved(path, stored, name)


class Touch:
    """Unpickling it writes the file that says so."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickled(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Pickles that write a file when they are read, in place of the weights or beside them."""
    found = chosen(rng, folder, ".safetensors")
    if found is None:
        return None
    name = "adapter_model.bin" if found.name.startswith("adapter") else "pytorch_model.bin"
    content = pickle.dumps(Touch(root / MARKER))
    if rng.random() < 0.3:
        found.write_bytes(content)
        return f"as {found.name}"
    (found.parent / name).write_bytes(content)
    if rng.random() < 0.6:
        found.unlink()
        return f"{name} in place of {found.name}"
    return f"{name} beside {found.name}"


def code(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Python in the folder that writes a file when it is imported, and settings that ask for it."""
    path = rng.choice(
        [each for each in files(folder, ".json") if each.name in ("config.json", "tokenizer_config.json")]
    )
    told = json.loads(path.read_text(encoding="utf-8"))
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    told["auto_map"] = {name: ["evil.C", "evil.C"] if name == "AutoTokenizer" else "evil.C" for name in classes}
    if rng.random() < 0.5:
        told |= {"model_type": "evil"} if path.name == "config.json" else {"tokenizer_class": "C"}
    edit(path, told)
    source = f"import pathlib\npathlib.Path({str(root / 'ran')!r}).touch()\nclass C: pass\n"
    for place in (path.parent / "evil.py", folder / "custom_generate" / "generate.py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(source)
    return path.name


def leaving(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Settings and an index that name files of another folder."""
    other = rng.choice(["../dense", "../moe", str(root / "dense"), "/etc"])
    way = rng.choice(["index", "index", "base", "tokenizer", "weights"])
    if way == "index":
        found = [path for path in files(folder, ".safetensors") if path.name == "model.safetensors"]
        if not found:
            return None
        stored = load_file(found[0])
        found[0].unlink()
        told: dict[str, Any] = {"metadata": {}, "weight_map": dict.fromkeys(stored, f"{other}/model.safetensors")}
        edit(found[0].with_name("model.safetensors.index.json"), told)
        return f"index: {other}"
    path, changes = {
        "base": (folder / "adapter_config.json", {"base_model_name_or_path": other}),
        "tokenizer": (folder / "tokenizer_config.json", {"fast_tokenizer_files": [f"{other}/tokenizer.1.0.json"]}),
        "weights": (folder / "config.json", {"transformers_weights": f"{other}/model.safetensors"}),
    }[way]
    if not path.exists():
        return None
    edit(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    return f"{way}: {other}"


def tokenizer_setting(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Settings that contradict tokenizer.json, or make no sense."""
    path = folder / "tokenizer_config.json"
    changes: dict[str, Any] = rng.choice(
        [
            *({"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}),
            *({"cls_token": "movie"}, {"sep_token": "movie"}, {"unk_token": "movie"}, {"cls_token": "new"}),
            *({"model_max_length": value} for value in (0, -1, 1, 2, 0.5, "24", True, None, [24], 24.5)),
            *({"tokenizer_class": value} for value in ("RobertaTokenizer", "T5Tokenizer", "NoTokenizer", 3, "")),
            *({"backend": value} for value in ("sentencepiece", "mistral-common", 3)),
            *({"added_tokens_decoder": {"7": value}} for value in ({"content": "movie"}, "movie", None, 3)),
            *({"extra_special_tokens": value} for value in (["movie"], {"a": "movie"}, "movie", 3)),
        ]
    )
    edit(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    return str(changes)


def harmless_setting(rng: random.Random, folder: Path, root: Path) -> str | None:
    """Settings by which texts are cut elsewhere: another model that is as whole as the first."""
    path = folder / "tokenizer_config.json"
    changes: dict[str, Any] = rng.choice(
        [{"model_max_length": 16}, {"model_max_length": 10**30}, {"truncation_side": "left"}, {"padding_side": "left"}]
    )
    edit(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    return str(changes)


def manifest(rng: random.Random, folder: Path, root: Path) -> str | None:
    """The manifest itself."""
    path = folder / MANIFEST
    way = rng.choice(["deleted", "empty", "flipped", "format", "outside", "pipe", "deep", "list"])
    if way == "flipped":
        flip(rng, path, 0, path.stat().st_size)
    elif way in ("deleted", "pipe"):
        path.unlink()
        if way == "pipe":
            os.mkfifo(path)
    elif way in ("format", "outside"):
        told = json.loads(path.read_text(encoding="utf-8"))
        told["files"]["../dense/config.json"] = {"bytes": 1, "sha256": ""}
        edit(path, told if way == "outside" else told | {"format": 99})
    else:
        path.write_text({"empty": "", "deep": "[" * 100_000, "list": "[]"}[way])
    return way


DAMAGES = (
    Damage("flipped bits in settings", flipped_text, silent=True),
    Damage("flipped bits in the header of weights", flipped_header),
    Damage("flipped bits in weights", flipped_weights, renewable=False),
    Damage("file cut short", truncated),
    Damage("bytes added to a file", longer),
    Damage("zeroed end of settings", zeroed_text),
    Damage("zeroed end of weights", zeroed_weights, renewable=False),
    Damage("key deleted", without_key),
    Damage("word lost from the vocabulary", lost_word, silent=True),
    Damage("key added", surplus_key),
    Damage("value of another type", other_type),
    Damage("another value", other_value, silent=True),
    Damage("label maps", labels),
    Damage("label maps in another order", labels_in_other_order),
    Damage("labels exchanged in both maps", labels_exchanged, silent=True),
    Damage("file deleted", deleted),
    Damage("folder in place of a file", directory),
    Damage("pipe in place of a file", pipe),
    Damage("link that leaves the folder", link),
    Damage("link inside the folder", link_inside),
    Damage("two files exchanged", exchanged),
    Damage("file of another model", of_another, silent=True),
    Damage("stray file", stray),
    Damage("tensors exchanged", exchanged_tensors, renewable=False),
    Damage("tensor of another shape, lost or added", misshapen_tensor),
    Damage("tensors in another type", cast),
    Damage("weights not finite", not_finite),
    Damage("pickle", pickled),
    Damage("Python code", code),
    Damage("path that leaves the folder", leaving),
    Damage("tokenizer settings", tokenizer_setting),
    Damage("where texts are cut", harmless_setting, silent=True),
    Damage("manifest", manifest, renewable=False),
)
