"""Added domains in a model folder: `domains/NAME/` for each, and `domains/base.safetensors` for the router of the next.

The files of the model itself stay as they are, so that a domain is taken away by removing its folder,
and with the last one what was kept of the base.
Legend: D hidden, V vectors.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ..errors import ConfigError, ModelFolderError
from ..manifest import MANIFEST, check_manifest, sha256, write_manifest
from ..model_folder import DOMAINS, SEEN, check_file, read_object
from ..records import made_aside, native_writers, sync, with_umask, write_json, written_aside
from .routed import BASE, Domain, RoutedClassifier, changed_weights

FORMAT = "sentimoe-domain-1"
ASIDE, BASE_VECTORS = ".adding-", f"{BASE}.safetensors"
ABOUT, UPDATES, ROUTER, RECEIPT = "domain.json", "updates.safetensors", "router.safetensors", "receipt.json"
TOLD = ("labels", "label_type", "cut")  # what a `Domain` is told


def domain_names(folder: Path) -> list[str]:
    """The domains of a model folder, in the order in which they were added.

    A damaged one is among them, so that it can be removed; what loads it raises ModelFolderError.
    """
    files = (ABOUT, UPDATES, ROUTER, RECEIPT, MANIFEST)
    places = [path for path in (folder / DOMAINS).glob("[!.]*") if any((path / name).is_file() for name in files)]
    return [place.name for place in sorted(places, key=lambda place: (_number(place), place.name))]


def _number(place: Path) -> float:
    """Which domain of its folder this is; one that does not say is the last."""
    try:
        return float(read_object(place / ABOUT)["number"])
    except (ModelFolderError, KeyError, TypeError, ValueError):
        return float("inf")


def about_domain(folder: Path, name: str) -> dict[str, Any]:
    """What is told of a domain, its receipt and its size on the disk. Raises ModelFolderError."""
    place = folder / DOMAINS / name
    size = sum(path.stat().st_size for path in place.iterdir())
    about = read_object(place / ABOUT)
    return {key: about[key] for key in about if key != "format"} | {
        "megabytes": round(size / 1e6, 2),
        "receipt": read_object(place / RECEIPT),
    }


def load_routed(
    folder: Path, model: PreTrainedModel, dtype: torch.dtype, domain: str | None, verify: bool = True
) -> RoutedClassifier:
    """The model with the domains of its folder.

    domain: the only one that is to answer. verify: compare each domain with its manifest, and the model with the one
    that it was added to. Raises ConfigError for an unknown domain, and ModelFolderError for a damaged or foreign one.
    """
    names = domain_names(folder)
    if domain is not None and domain not in (BASE, *names):
        raise ConfigError(f"{folder} has no domain {domain!r}; there are {', '.join((BASE, *names))}")
    known = weights_hash(folder) if verify else None
    domains = [_domain(folder, name, model, known) for name in names]
    if len({each.cut for each in domains}) > 1:
        cuts = ", ".join(f"{each.name} after {each.cut}" for each in domains)
        raise ModelFolderError(f"the domains of {folder} begin after unlike numbers of layers ({cuts}); remove one")
    return RoutedClassifier(model, domains, dtype, domain)


def _domain(folder: Path, name: str, model: PreTrainedModel, known: str | None) -> Domain:
    place = folder / DOMAINS / name
    for file in (ABOUT, UPDATES, ROUTER, RECEIPT):
        check_file(folder, f"{DOMAINS}/{name}/{file}")
    about = read_object(place / ABOUT)
    if about.get("format") != FORMAT:
        raise ModelFolderError(f"{place} has the format {about.get('format')!r}; this version reads {FORMAT!r}")
    if known is not None:
        if check_manifest(place) is None:
            raise ModelFolderError(f"{place} lacks {MANIFEST}; copy it again")
        if about.get("base") != known:
            raise ModelFolderError(
                f"the domain {name!r} was added to other weights than those in {folder}; remove it: sentimoe "
                f"remove-domain {folder} --name {name}"
            )
    try:
        updates, router = load_file(place / UPDATES), load_file(place / ROUTER)
        told = {key: about[key] for key in TOLD}
        weights = changed_weights(model, updates)
        weight, bias = router["weight"].numpy(), float(router["bias"])
        finite = (
            np.isfinite(weight).all() and np.isfinite(bias) and all(each.isfinite().all() for each in weights.values())
        )
    except (SafetensorError, KeyError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{place} cannot be loaded ({type(error).__name__}: {error}); copy it again") from error
    if not finite:
        raise ModelFolderError(f"{place} holds weights that are not finite; copy it again")
    return Domain(name, weight=weight, bias=bias, updates=updates, **told)


@dataclass(frozen=True)
class Kept:
    """Pooled states of old texts `[V, D]`, from which the router of a new domain learns; there is no text among them.

    of: the name of the domain that they belong to.
    """

    of: str
    vectors: np.ndarray


def kept_vectors(folder: Path) -> list[Kept]:
    """Those of the base, where there are any, and of each domain."""
    base = folder / DOMAINS / BASE_VECTORS
    files = {BASE: base} if base.exists() else {}
    files |= {name: folder / DOMAINS / name / ROUTER for name in domain_names(folder)}
    return [Kept(name, load_file(file)["vectors"].float().numpy()) for name, file in files.items()]


def save_kept(folder: Path, vectors: np.ndarray) -> None:
    """Write those of the base."""
    (folder / DOMAINS).mkdir(exist_ok=True)
    with native_writers(), written_aside(folder / DOMAINS / BASE_VECTORS) as partial:
        save_file({"vectors": narrow(vectors)}, partial)


def save_domain(
    folder: Path, domain: Domain, vectors: np.ndarray, about: dict[str, Any], receipt: dict[str, Any], seen: Any = None
) -> None:
    """Write a domain: whole or not at all. about: JSON-able. seen: the texts that it was trained on."""
    (folder / DOMAINS).mkdir(exist_ok=True)
    aside = made_aside(folder / DOMAINS, ASIDE)
    try:
        with native_writers():
            save_file({name: each.contiguous() for name, each in domain.updates.items()}, aside / UPDATES)
            router = {"weight": torch.from_numpy(domain.weight), "bias": torch.tensor(domain.bias)}
            save_file(router | {"vectors": narrow(vectors)}, aside / ROUTER)
        told = {"format": FORMAT, "base": weights_hash(folder)} | {key: getattr(domain, key) for key in TOLD}
        write_json(aside / ABOUT, told | about)
        write_json(aside / RECEIPT, receipt)
        if seen is not None:
            seen.save(aside)
        write_manifest(aside, [path.name for path in aside.iterdir()])
        with_umask(aside)
        for path in aside.iterdir():
            sync(path)
        aside.rename(folder / DOMAINS / domain.name)
        sync(folder / DOMAINS)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        tidy(folder)


def remove_domain(folder: Path, name: str) -> None:
    """Take a domain away; with the last one goes what was kept for the router. Raises ConfigError."""
    names = domain_names(folder)
    if name not in names:
        if (folder / DOMAINS / BASE_VECTORS).exists():
            tidy(folder)
        there = f"; there are {', '.join(names)}" if names else ", nor any other"
        raise ConfigError(f"{folder} has no domain {name!r}{there}")
    gone = folder / DOMAINS / f"{ASIDE}{name}"
    (folder / DOMAINS / name).rename(gone)  # at once, unlike a removal
    shutil.rmtree(gone)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Remove what a killed process left, and all that is left of domains where there is none."""
    place = folder / DOMAINS
    for left in place.glob(f"{ASIDE}*"):
        shutil.rmtree(left)
    if place.is_dir() and not domain_names(folder):
        (place / BASE_VECTORS).unlink(missing_ok=True)
        if not any(place.iterdir()):
            place.rmdir()


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights of a model: of the one file, or of the hashes of all."""
    found = [sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    return "+".join(found)


def narrow(vectors: np.ndarray) -> torch.Tensor:
    """In 16 bits, unless a value is too large for that."""
    half = torch.from_numpy(vectors).half()
    return half if half.isfinite().all() else torch.from_numpy(vectors).float()


def seen_places(folder: Path) -> list[Path]:
    """Where lists of seen texts may lie: the folder and those of its domains."""
    return [
        folder,
        *(folder / DOMAINS / name for name in domain_names(folder) if (folder / DOMAINS / name / SEEN).exists()),
    ]
