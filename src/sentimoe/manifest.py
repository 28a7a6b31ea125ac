"""A list of files with their hashes, so that a folder that was damaged or changed is noticed when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .errors import ModelFolderError
from .records import read_json, write_json

MANIFEST = "sentimoe_manifest.json"
FORMAT = 1


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write size and SHA-256 of these files of the folder (relative names) into its manifest."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in sorted(names)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def check_manifest(folder: Path) -> bool:
    """Compare the folder with its manifest; whether it has one.

    Raises ModelFolderError that names the first file that is missing or differs, or a manifest that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return False
    try:
        listed = {name: (told["bytes"], told["sha256"]) for name, told in read_json(path)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}); copy the folder again from where it was made"
        ) from error
    for name, (size, digest) in listed.items():
        file = folder / name
        if not file.is_file():
            raise ModelFolderError(f"{folder} lacks {name}, which its manifest lists; copy the folder again")
        if file.stat().st_size != size or sha256(file) != digest:
            raise ModelFolderError(
                f"{file} is not the file that was saved: its hash differs from {MANIFEST}. Copy the folder again; if "
                "you changed it on purpose, load it without the check (verify=False, --no-verify)"
            )
    return True


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
