"""The engine: rows in order, neighbours without influence, long and odd texts."""

import copy
import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone import write_backbone
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ConfigError, ExitCode, ModelFolderError, PredictionError
from sentimoe.explain import trace
from sentimoe.inference import Engine, compute_dtype, keep_few_kernels, make_windows, return_freed_memory
from sentimoe.upcycle import divide_logits


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = write_backbone(tmp_path_factory.mktemp("backbone"))
    model = load_classifier(folder, ["negative", "positive"])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = upcycle(model, MoEConfig(layers_to_transform=(-1,), init_noise=0.5))
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def engine(parts):
    return Engine(*parts, max_length=16, precision="float32", tokens_per_batch=64)


def alone(parts, text, **options):
    """The slow obvious way: one text, one batch."""
    model, tokenizer = parts
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16, **options)
    with torch.no_grad():
        return model(**inputs).logits.softmax(-1)[0].numpy()


def test_rows_in_order_and_neighbours_without_influence(engine, parts):
    texts = [f"text {i} " + "word " * (i * 7 % 12) for i in range(40)]
    rows = engine.predict_proba(texts)
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_allclose(row, alone(parts, text), atol=2e-6)


def test_long_text_is_the_length_weighted_mean_of_its_windows(engine, parts):
    model, tokenizer = parts
    text = " ".join(f"word{i}" for i in range(20))
    windows = make_windows([text], tokenizer, 16)
    assert len(windows.owner) > 2
    read = [token for ids in windows.encodings for token in ids["input_ids"][1:-1]]
    assert set(tokenizer(text)["input_ids"]) == {*read, tokenizer.cls_token_id, tokenizer.sep_token_id}
    expected, total = 0, 0
    for ids in windows.encodings:
        inputs = {name: torch.tensor([values]) for name, values in ids.items()}
        with torch.no_grad():
            expected = expected + len(ids["input_ids"]) * model(**inputs).logits.softmax(-1)[0].numpy()
        total += len(ids["input_ids"])
    np.testing.assert_allclose(engine.predict_proba([text])[0], expected / total, atol=2e-6)
    assert engine.predict([text]).truncated == []


@pytest.mark.parametrize("max_length", [3, 16, 37, 128])
def test_windows_are_those_that_the_tokenizer_itself_cuts(parts, max_length):
    """The slow obvious way: what a fast tokenizer gives as overflowing tokens, a quarter of them twice."""
    tokenizer = parts[1]
    words = [f"word{number}" for number in range(300)]
    given = ["short", " ".join(words), "\u200b", "", " ".join(words[:11]), "I [SEP] you"]
    cut = tokenizer(
        given, truncation=True, max_length=max_length, stride=min(max_length // 4, max_length - 3),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    owner = cut.pop("overflow_to_sample_mapping")
    expected = [{name: values[row] for name, values in cut.items()} for row in range(len(owner))]
    kept = [row for row, ids in enumerate(cut["input_ids"]) if len(ids) > 2]
    windows = make_windows(given, tokenizer, max_length, offsets=True)
    assert windows.owner == [owner[row] for row in kept] and len(set(owner)) < len(owner)
    assert windows.encodings == [expected[row] for row in kept]
    first = make_windows(given, tokenizer, max_length, "truncate", offsets=True)
    assert first.encodings == [expected[row] for row in kept if not row or owner[row - 1] != owner[row]]


def test_a_window_counts_by_its_length(parts, monkeypatch):
    engine = Engine(*parts, max_length=16, precision="float32")
    windows = make_windows([" ".join(["word"] * 20)], parts[1], 16)
    answers = iter(np.array([[50.0, 0.0], [0.0, 50.0]], dtype=np.float32))
    monkeypatch.setattr(engine, "_forward", lambda rows: np.stack([next(answers) for _ in rows]))
    lengths = sorted((len(ids["input_ids"]) for ids in windows.encodings), reverse=True)
    assert lengths == [16, 12]
    found = windows.averaged(engine.window_probabilities(windows), 1)[0]
    assert sorted(found.tolist()) == pytest.approx([12 / 28, 16 / 28])


def test_answers_at_a_temperature_are_those_of_divided_logits(engine, parts):
    model, tokenizer = copy.deepcopy(parts[0]), parts[1]
    texts = ["one", "", " ".join(f"word{i}" for i in range(40))]
    at = engine.answers_at(texts)
    np.testing.assert_array_equal(at(1.0), engine.predict_proba(texts))
    divide_logits(model, 2.5)
    divided = Engine(model, tokenizer, max_length=16, precision="float32").predict_proba(texts)
    np.testing.assert_allclose(at(2.5), divided, atol=1e-6)
    assert not np.allclose(at(2.5), at(1.0), atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_in_training_mode_answers_without_dropout_and_stays_in_it(parts, precision):
    model, tokenizer = copy.deepcopy(parts[0]), parts[1]
    expected = Engine(model.eval(), tokenizer, precision=precision).predict_proba(["one", "two words"])
    assert any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    found = Engine(model.train(), tokenizer, precision=precision).predict_proba(["one", "two words"])
    np.testing.assert_array_equal(found, expected)
    assert model.training


def test_a_token_without_an_embedding_is_refused_before_a_text_has_it(parts):
    """Kind: late. It was an IndexError of torch for the first text that had one."""
    model, tokenizer = parts[0], copy.deepcopy(parts[1])
    tokenizer.add_tokens(["unheard"])
    with pytest.raises(ModelFolderError, match=r"has a token \d+, its model has embeddings of \d+ tokens"):
        Engine(model, tokenizer)
    tokenizer = copy.deepcopy(parts[1])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with pytest.raises(ModelFolderError, match="no embedding for the special tokens <image>; set"):
        Engine(model, tokenizer)
    tokenizer.split_special_tokens = True
    assert np.isfinite(Engine(model, tokenizer).predict_proba(["an <image> here"])).all()


def test_a_text_that_is_a_special_token_spoils_no_other(parts):
    """Kind: after "[CLS]", every text of the chunk lacks its own first token."""
    model, tokenizer = parts
    engine = Engine(model, tokenizer, max_length=16, precision="float32")
    for first in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.unk_token):
        rows = engine.predict_proba([first, "a great thing", f"{first} bad"])
        np.testing.assert_allclose(rows[1], alone(parts, "a great thing"), atol=2e-6)
        (window,) = make_windows([first], tokenizer, 16).encodings
        assert window["input_ids"] == tokenizer(first)["input_ids"]


def test_padding_that_a_head_would_take_for_text_is_refused(parts):
    """Kind: a text whose answer depends on how long its neighbours are."""
    tokenizer = parts[1]
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, num_labels=2)
    for padding in (None, tokenizer.pad_token_id + 1):
        config.pad_token_id = padding
        with pytest.raises(ConfigError, match=f"set config.pad_token_id = {tokenizer.pad_token_id}"):
            Engine(GPT2ForSequenceClassification(config), tokenizer, max_length=16)


def test_truncation_reads_the_start_and_is_counted(parts):
    engine = Engine(*parts, max_length=16, precision="float32", long_texts="truncate")
    text = " ".join(f"word{i}" for i in range(20))
    told = engine.predict([text, "short", text])
    assert told.truncated == [0, 2]
    np.testing.assert_allclose(told.probabilities[0], alone(parts, text), atol=2e-6)


def test_rows_that_were_cut_belong_to_the_call(parts, monkeypatch):
    """Shared state: threads, and interleaved streams, saw the rows of one another; rows count from the first chunk."""
    monkeypatch.setattr("sentimoe.inference.engine.TEXTS_PER_CHUNK", 2)
    engine = Engine(*parts, max_length=16, precision="float32", long_texts="truncate")
    long = " ".join(f"word{i}" for i in range(20))
    ours, others = engine.stream(["short", long, long]), engine.stream([long, "short"])
    assert [next(ours).truncated, next(others).truncated, next(ours).truncated] == [[1], [0], [2]]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_answer_that_is_not_finite_is_an_error(parts, precision):
    """NaN taken for a blank: an infinite logit and NaN weights gave label None, and exit 0."""
    model, tokenizer = copy.deepcopy(parts[0]), parts[1]
    with torch.no_grad():
        model.classifier.bias.fill_(torch.inf)
    engine = Engine(model, tokenizer, max_length=16, precision=precision)
    with pytest.raises(PredictionError, match=r"2 of the texts \(rows 1, 4, counted from 0\)") as caught:
        engine.predict_proba(["", "one", " ", "\u200b", "two"])
    assert caught.value.exit_code == ExitCode.MODEL
    assert np.isnan(engine.predict_proba(["", "\u200b"])).all()
    with pytest.raises(PredictionError, match=r"1 of the texts \(rows 1,"):
        list(trace(engine, ["", "one"]))


@pytest.mark.parametrize("blank", ["", "  \n\t", None, float("nan"), "\u202e\u200b", "\x00\x07"])
def test_blank_texts_get_a_row_of_nan_and_no_row_is_lost(engine, blank):
    rows = engine.predict_proba(["one", blank, "two"])
    assert np.isnan(rows[1]).all() and not np.isnan(rows[[0, 2]]).any()


def test_odd_texts_never_raise(engine):
    odd = ["\ud800 half", "\x00\x07x", "🤦🏽‍♀️" * 50, "a" * 5000, "\u202e\u200bé", 7, "<script>", "<NA>"]
    rows = engine.predict_proba(odd)
    assert rows.shape == (len(odd), 2) and np.isfinite(rows).all()
    np.testing.assert_array_equal(engine.predict_proba(["\ud800 half"]), engine.predict_proba(["\ufffd half"]))


def test_no_texts(engine):
    assert engine.predict_proba([]).shape == (0, 2)
    assert np.isnan(engine.predict_proba(["", " "])).all()


def test_the_model_is_not_changed(parts):
    model, tokenizer = parts
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Engine(model, tokenizer, max_length=16, precision="bfloat16").predict_proba(["a text"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.dtype == torch.float32


def test_bfloat16_is_close(parts):
    texts = [f"text number {i}" for i in range(20)]
    exact, fast = (Engine(*parts, max_length=16, precision=p).predict_proba(texts) for p in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - fast).max() < 0.05


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(parts):
    """GPT-2 counts positions from the left of the batch, padding or not."""
    tokenizer = copy.deepcopy(parts[1])
    tokenizer.padding_side = "left"
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, pad_token_id=tokenizer.pad_token_id, num_labels=2
    )
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    texts = ["short", "a text that is a little longer than the other"]
    together = Engine(model, tokenizer, max_length=16, precision="float32").predict_proba(texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(row, alone((model, tokenizer), text), atol=2e-6)


def test_a_tokenizer_must_say_its_padding_and_its_length(parts, monkeypatch):
    model, tokenizer = parts[0], copy.deepcopy(parts[1])
    tokenizer.model_max_length = int(1e30)
    assert (
        Engine(model, tokenizer, precision="float32").max_length
        == model.config.get_text_config().max_position_embeddings
    )
    monkeypatch.setattr("sentimoe.inference.engine.position_limit", lambda model: None)
    with pytest.raises(ConfigError, match="model_max_length"):
        Engine(model, tokenizer)
    tokenizer.model_max_length = 2
    with pytest.raises(ConfigError, match="2 tokens leave no room for text beside 2 special ones"):
        Engine(model, tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="no padding token"):
        Engine(model, tokenizer, max_length=16)


def test_wrong_options_say_what_is_allowed(parts):
    with pytest.raises(ConfigError, match="auto"):
        compute_dtype("fp8", torch.device("cpu"))
    with pytest.raises(ConfigError, match="truncate"):
        Engine(*parts, max_length=16, long_texts="cut").predict_proba(["a"])


def test_one_bare_string_is_no_list_of_texts(parts):
    classifier = SentimentClassifier()
    classifier._engine = Engine(*parts, max_length=16)
    with pytest.raises(ConfigError, match="give a list"):
        classifier.predict("a text")


def test_a_model_that_is_not_there_is_named(tmp_path):
    for name in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"cannot be loaded; give one of all-MiniLM-L6-v2") as caught:
            load_classifier(name, ["a", "b"])
        assert name in str(caught.value)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_holes_between_what_is_kept_go_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [b"x" * 60_000 for _ in range(4000)]  # small enough not to be mapped one by one
    kept = blocks[::10]
    del blocks
    before = resident()
    assert return_freed_memory()
    assert before - resident() > 150e6
    assert all(block == kept[0] for block in kept)


def test_few_kernels_unless_the_user_said_so(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    keep_few_kernels(31)
    assert os.environ["LRU_CACHE_CAPACITY"] == "7" and os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "31"


def test_small_batches_answer_alike(parts, tmp_path):
    model, tokenizer = parts
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = [f"text {i} " + "word " * (i * 7 % 12) for i in range(40)]
    small = SentimentClassifier.from_pretrained(tmp_path, precision="float32", tokens_per_batch=48)
    assert small.engine.tokens_per_batch == 48
    whole = SentimentClassifier.from_pretrained(tmp_path, precision="float32")
    np.testing.assert_allclose(small.predict_proba(texts), whole.predict_proba(texts), atol=1e-6)
