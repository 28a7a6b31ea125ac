"""Labelled texts: from presets, folders and files to checked, hashed train/validation/test splits."""

from .batches import token_batches
from .dataset import SentimentDataset, Split
from .labels import absence_warnings
from .loading import dataset_from_texts, load_dataset
from .presets import PRESETS, Preset
from .reading import FileFormat, read_texts
from .rows import labels_of
from .seen import SeenTexts
from .text import clean_text, text_chunks, values_of
from .unlabelled import load_unlabelled
from .whole_file import WHOLE, read_whole_file
from .writing import json_lines, write_table

__all__ = [
    "PRESETS",
    "WHOLE",
    "FileFormat",
    "Preset",
    "SeenTexts",
    "SentimentDataset",
    "Split",
    "absence_warnings",
    "clean_text",
    "dataset_from_texts",
    "json_lines",
    "labels_of",
    "load_dataset",
    "load_unlabelled",
    "read_texts",
    "read_whole_file",
    "text_chunks",
    "token_batches",
    "values_of",
    "write_table",
]
