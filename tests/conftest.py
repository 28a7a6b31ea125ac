"""Nothing in these tests may reach a hub."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # as below, also in the processes that tests start

import pytest
import torch
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pytest_collection_finish():
    """The Trainer collects garbage when it starts; what the imports made is none, and takes most of a second to see."""
    gc.freeze()
