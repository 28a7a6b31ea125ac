"""A tiny backbone folder: random BERT of two layers with the real tokenizer of all-MiniLM-L6-v2."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerBase

from sentimoe import SentimentClassifier
from sentimoe.upcycle import backbone_path

WORDS = {"negative": ["awful", "hate", "broken", "worst"], "positive": ["lovely", "great", "happy", "best"]}


def write_backbone(folder: Path) -> str:
    """Write it and return its path."""
    return _write(BertModel, folder)


def write_classifier(folder: Path) -> str:
    """The same with BERT's own head for two classes: somebody's fine-tuned classifier."""
    return _write(BertForSequenceClassification, folder)


def _write(model_class: type, folder: Path) -> str:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    model_class(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def tokenizer() -> PreTrainedTokenizerBase:
    """That of all-MiniLM-L6-v2."""
    return AutoTokenizer.from_pretrained(backbone_path("all-MiniLM-L6-v2"))


def labelled_texts(count: int) -> tuple[list[str], list[str]]:
    """Texts whose label is decided by one word; no two are the same."""
    labels = ["negative" if i % 2 else "positive" for i in range(count)]
    texts = [f"the {WORDS[label][i // 2 % 4]} thing number {i}" for i, label in enumerate(labels)]
    return texts, labels


def train_classifier(folder: Path) -> Path:
    """Train a classifier that knows these words, and save it; where it is."""
    settings = {"model": write_backbone(folder / "backbone"), "epochs": 3, "learning_rate": 5e-3, "batch_size": 16}
    classifier = SentimentClassifier(method="full", max_length=32, **settings)
    classifier.fit(*labelled_texts(120)).save_pretrained(folder / "classifier")
    return folder / "classifier"
