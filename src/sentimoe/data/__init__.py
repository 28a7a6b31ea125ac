"""Labelled texts: from presets, folders and files to checked, hashed train/validation/test splits."""

from sentimoe.data.batches import token_batches
from sentimoe.data.dataset import SentimentDataset, Split
from sentimoe.data.labels import absence_warnings
from sentimoe.data.loading import dataset_from_texts, load_dataset
from sentimoe.data.presets import PRESETS, Preset
from sentimoe.data.reading import read_texts
from sentimoe.data.text import clean_text, text_chunks, values_of
from sentimoe.data.unlabelled import load_unlabelled
from sentimoe.data.whole_file import WHOLE, read_whole_file
from sentimoe.data.writing import json_lines, write_table

__all__ = [
    "PRESETS",
    "WHOLE",
    "Preset",
    "SentimentDataset",
    "Split",
    "absence_warnings",
    "clean_text",
    "dataset_from_texts",
    "json_lines",
    "load_dataset",
    "load_unlabelled",
    "read_texts",
    "read_whole_file",
    "text_chunks",
    "token_batches",
    "values_of",
    "write_table",
]
