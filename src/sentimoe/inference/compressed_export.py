"""A compressed folder that runs without this package: its exit heads become OpenVINO networks too.

Beside what it held, the folder holds `head-1.xml` and `.bin`, and so on: hidden states `[B, L, D]` and a mask `[B, L]`
-> logits `[B, C]`, which are added to those of the last segment.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ..errors import ConfigError, ConversionError
from ..manifest import MANIFEST
from ..model_folder import check_files, check_hashes, saved_whole
from .compressed import read_heads
from .exits import ExitHead
from .openvino import runner
from .segment_networks import save_network
from .tracing import openvino_network

TOLERANCE = 1e-3  # of logits in float32


def export_compressed(folder: Path, output: Path, verify: bool = True) -> None:
    """Write `output`, from a compressed folder. verify: compare that with its manifest.

    Raises ConfigError where `output` is not empty, and ConversionError where a head would answer differently.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder for the export")
    check_files(folder)
    if verify:
        check_hashes(folder)
    with saved_whole(output) as aside:
        for path in folder.iterdir():
            if path.is_file() and path.name != MANIFEST:
                shutil.copyfile(path, aside / path.name)
        for number, head in enumerate(read_heads(folder), start=1):
            save_network(_network(head), aside / f"head-{number}.xml")


def _network(head: ExitHead) -> object:
    generator = torch.Generator().manual_seed(0)
    size = len(head.mean)

    def probe(*lengths: int) -> dict[str, torch.Tensor]:
        hidden = torch.randn((len(lengths), max(lengths), size), generator=generator)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        return {"hidden": hidden, "mask": mask}

    network = openvino_network(head, "exit head", probe(7, 2), [[-1, -1, size], [-1, -1]])
    run = runner(network, torch.float32)
    for given in (probe(7, 2), probe(3, 9, 1)):
        with torch.no_grad():
            expected = head(**given)
        (found,) = run({name: tensor.numpy() for name, tensor in given.items()})
        if not (torch.from_numpy(found) - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1):
            raise ConversionError(
                "an exit head answers differently as an OpenVINO network; export the original instead"
            )
    return network
