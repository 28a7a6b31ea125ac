"""Settings that depend on how many texts there are. The numbers come from a study: docs/sizes.md."""

from __future__ import annotations

import math
from dataclasses import replace

from sentimoe_settings import TrainConfig

FEW = 1000  # training texts; with fewer a step reads 16 of them
READ = 2400  # texts that training reads at least, each of them up to 20 times
FEWEST_FOR_RANDOM = 150  # training texts; with fewer a head that starts at random does not catch up
FEWEST_TO_CHOOSE = 100  # validation texts; with fewer a score says too little to choose an epoch by


def sized(config: TrainConfig, num_texts: int, num_validation: int) -> TrainConfig:
    """The config with numbers for the settings left open: `epochs`, `batch_size`, `patience`, `head_init`.

    Few texts are read more often, so that the number of steps suffices: 3 to 20 epochs. Where validation is too small
    to choose an epoch by, all epochs run and the last one counts (a `patience` of 0).
    """
    epochs = config.epochs or min(max(math.ceil(READ / num_texts), 3), 20)
    patience = 2 if num_validation >= FEWEST_TO_CHOOSE else 0
    return replace(
        config,
        epochs=epochs,
        batch_size=config.batch_size or (16 if num_texts < FEW else 32),
        head_init=config.head_init or ("random" if num_texts >= FEWEST_FOR_RANDOM else "logistic-regression"),
        patience=patience if config.patience is None else config.patience,
    )
