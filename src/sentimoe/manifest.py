"""A list of files with their hashes, so that a folder that was damaged or changed is noticed when it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .errors import ModelFolderError
from .records import read_json, write_json

MANIFEST = "sentimoe_manifest.json"
FORMAT = 1


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write size and SHA-256 of these files of the folder (relative names) into its manifest."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in sorted(names)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def check_manifest(folder: Path) -> frozenset[str] | None:
    """Compare the folder with its manifest. The names that it lists; None where there is no manifest.

    Raises ModelFolderError that names the first file that is missing or differs, or a manifest that cannot be read.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    for name, (size, digest) in _listed(path).items():
        file = folder / name
        if not file.is_file():
            raise ModelFolderError(f"{folder} lacks {name}, which its manifest lists; copy the folder again")
        if file.stat().st_size != size or sha256(file) != digest:
            raise ModelFolderError(
                f"{file} is not the file that was saved: its hash differs from {MANIFEST}. Copy the folder again; if "
                "you changed it on purpose, load it without the check (verify=False, --no-verify)"
            )
    return frozenset(_listed(path))


def _listed(path: Path) -> dict[str, tuple[int, str]]:
    """Size and hash by name. Raises ModelFolderError for anything but a list that `write_manifest` may have written."""
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        manifest = read_json(path)
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r} is not {FORMAT}, the one that this version reads")
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if outside := [name for name in listed if PurePosixPath(name).is_absolute() or ".." in Path(name).parts]:
            raise ValueError(f"{outside[0]!r} leads out of the folder")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}); copy the folder again from where it was made"
        ) from error
    return listed


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
