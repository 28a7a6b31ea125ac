"""Tokenizers without tokenizer.json, such as BERTweet's. Kind: late, a training that ended with a KeyError."""

import numpy as np
import pytest
import torch
from backbone import labelled_texts
from transformers import BertweetTokenizer, RobertaConfig, RobertaModel

from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError
from sentimoe.explain import attribute, trace
from sentimoe.inference import Engine, make_windows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny RoBERTa with the classes and files of BERTweet: characters, and the words of the texts."""
    folder = tmp_path_factory.mktemp("bertweet")
    words = sorted({word for text in labelled_texts(80)[0] for word in text.split()})
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789"))
    merges, tokens = [], [*(f"{letter}@@" for letter in letters), *letters]
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            tokens.append(parts[0].removesuffix("</w>") + ("" if len(parts) == 1 else "@@"))
    unique = list(dict.fromkeys(tokens))
    (folder / "vocab.txt").write_text("".join(f"{token} 1\n" for token in unique))
    (folder / "bpe.codes").write_text("".join(f"{merge} 1\n" for merge in dict.fromkeys(merges)))
    tokenizer = BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaModel(RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(backbone):
    settings = {
        "method": "moe-gated",
        "max_length": 24,
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "precision": "float32",
    }
    moe = {"layers_to_transform": [-1]}
    return SentimentClassifier(model=backbone, method_settings=moe, **settings).fit(*labelled_texts(80))


def test_a_slow_tokenizer_trains_answers_and_comes_back(classifier, tmp_path):
    assert not classifier.tokenizer.is_fast
    texts, labels = labelled_texts(80)
    long = " ".join(texts[:9])
    assert np.mean(classifier.predict([*texts, long])[:-1] == labels) > 0.9
    classifier.save_pretrained(tmp_path / "model")
    again = SentimentClassifier.from_pretrained(tmp_path / "model", precision="float32")
    np.testing.assert_array_equal(again.predict_proba([*texts, long]), classifier.predict_proba([*texts, long]))


def test_its_windows_are_cut_between_its_special_tokens(classifier):
    tokenizer = classifier.tokenizer
    text = " ".join(labelled_texts(30)[0])
    plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    windows = make_windows([text], tokenizer, 24).encodings
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert [ids["input_ids"] for ids in windows] == [
        [start, *plain[first : first + 22], end] for first in range(0, len(plain) - 22 + 16, 16)
    ]
    assert make_windows([text, "lovely"], tokenizer, 24, "truncate").truncated == [0]


def test_what_needs_a_fast_one_says_so(classifier, tmp_path):
    engine = classifier.engine
    assert isinstance(engine, Engine)
    for needs in (lambda: list(trace(engine, ["lovely"])), lambda: attribute(engine, engine.model, "lovely", 0)):
        with pytest.raises(ConfigError, match="BertweetTokenizer cannot say which characters"):
            needs()
    with pytest.raises(ConfigError, match=r"BertweetTokenizer has no tokenizer\.json"):
        classifier.export(tmp_path / "export")
