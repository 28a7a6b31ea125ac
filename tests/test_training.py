"""Training: rates, class weights, selection, resuming, and what a run folder holds."""

import io
import json
import math
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from backbone import labelled_texts, tokenizer, write_backbone
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MPNetConfig, MPNetModel, pipeline

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.data import Split, load_dataset
from sentimoe.errors import ConfigError, DataError
from sentimoe.evaluation import fit_tfidf
from sentimoe.inference import Engine, position_limit
from sentimoe.training import TrainConfig, fit, prepare, train, training_texts
from sentimoe.training.balance import SHARES, unbalanced
from sentimoe.training.fit import inverse_frequency
from sentimoe.training.prepare import load_tokenizer
from sentimoe.training.progress import ProgressBar
from sentimoe.training.trainer import SentimentTrainer, parameter_groups
from sentimoe.upcycle import moe_layers

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts, labels = labelled_texts(240)
    frame = pd.DataFrame({"text": texts, "label": labels})
    frame[:160].to_csv(folder / "train.csv", index=False)
    frame[160:200].to_csv(folder / "validation.csv", index=False)
    frame[200:].to_csv(folder / "test.csv", index=False)
    return str(folder)


def settings(backbone, data, **changes):
    common = {
        "method": "moe-gated",
        "epochs": 4,
        "max_length": 32,
        "learning_rate": 5e-3,
        "precision": "float32",
        "batch_size": 16,
    }
    moe = {"layers_to_transform": [-1], "init_noise": 0.05}
    return TrainConfig(**({"model": backbone, "data": data, "method_settings": moe} | common | changes))


@pytest.fixture(scope="module")
def run(backbone, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "moe"
    return folder, train(settings(backbone, data), folder, progress=False)


def test_a_family_whose_config_has_no_cache_loads_as_it_was_trained(data, tmp_path):
    """Kind: the Trainer writes `use_cache` into every config; a trained MPNet was refused as damaged."""
    MPNetModel(
        MPNetConfig(
            vocab_size=len(tokenizer()), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path / "backbone")  # fmt: skip
    tokenizer().save_pretrained(tmp_path / "backbone")
    config = settings(str(tmp_path / "backbone"), data, method="full", method_settings={}, epochs=1)
    metrics = train(config, tmp_path / "run", progress=False)["metrics"]
    loaded = SentimentClassifier.from_pretrained(tmp_path / "run", precision="float32")
    test = load_dataset(data).splits["test"]
    right = (loaded.predict(test.texts) == np.array(loaded.label_names)[test.labels]).mean()
    assert right == pytest.approx(metrics["test"]["accuracy"])


def test_five_runs_of_a_seed_are_the_same_bit_for_bit(backbone, data):
    """Training and prediction on a processor."""
    dataset, found = load_dataset(data), []
    for _ in range(5):
        ready = prepare(settings(backbone, data, epochs=1, dropout=0.1), dataset)
        with TemporaryDirectory() as folder:
            fit(ready, Path(folder))
        answers = Engine(ready.model, ready.tokenizer, precision="bfloat16").predict_proba(dataset.splits["test"].texts)
        found.append((answers, ready.model.state_dict()))
    for answers, weights in found[1:]:
        assert (answers == found[0][0]).all()
        assert all(torch.equal(weights[name], found[0][1][name]) for name in weights)


def test_a_run_says_what_tfidf_reaches_on_the_same_texts(run, backbone, data, tmp_path):
    _, record = run
    dataset = load_dataset(data)
    pipeline = fit_tfidf(dataset.splits["train"], dataset.splits["validation"])
    test = dataset.splits["test"]
    right = float((pipeline.predict(test.texts) == np.array(test.labels)).mean())
    told = record["tfidf"]
    assert told["test"]["accuracy"] == pytest.approx(right) and told["train_used"] == 160
    ours, theirs = record["metrics"]["test"]["f1_weighted"], told["test"]["f1_weighted"]
    assert told["difference"]["difference"] == pytest.approx(ours - theirs)
    assert told["difference"]["interval"][0] <= ours - theirs <= told["difference"]["interval"][1]
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, count in {"train": 30, "validation": 8}.items():
        rows = [{"text": f"w{name}{i}x{i}", "label": i % 2} for i in range(count)]  # no word stands in two texts
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    assert train(settings(backbone, str(folder), epochs=1), tmp_path / "run", progress=False)["tfidf"] is None


def test_training_calibrates_on_validation_and_every_way_of_running_agrees(run, backbone, data, tmp_path):
    folder, record = run
    plain = train(settings(backbone, data, calibrate=False), tmp_path / "plain", progress=False)
    assert plain["calibration"] is None and record["calibration"]["n"] == 40
    texts = load_dataset(data).splits["test"].texts
    found, expected = (
        SentimentClassifier.from_pretrained(each, precision="float32").engine for each in (folder, tmp_path / "plain")
    )
    temperature = record["calibration"]["temperature"]
    np.testing.assert_allclose(found.predict_proba(texts), expected.answers_at(texts)(temperature), atol=1e-5)
    assert abs(temperature - 1) > 0.05
    assert record["metrics"]["test"]["accuracy"] == plain["metrics"]["test"]["accuracy"]


def test_it_learns_and_the_folder_says_how(run, backbone, data):
    folder, record = run
    assert record["metrics"]["test"]["accuracy"] > 0.9 and record["metrics"]["test"]["n"] == 40
    assert json.loads((folder / "metrics.json").read_text())["test"] == record["metrics"]["test"]
    stored = json.loads((folder / "run.json").read_text())
    assert stored["config"]["learning_rate"] == 5e-3 and len(stored["data"]["sha256"]) == 64
    assert {"torch", "transformers", "sentimoe"} <= set(stored["versions"])
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 0
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 40
    kinds = {path.suffix for path in folder.iterdir() if path.is_file()}
    assert kinds == {".json", ".jsonl", ".yaml", ".safetensors", ".npy", ".md"}
    card, scores = (folder / "README.md").read_text(), record["metrics"]["test"]
    assert f"test, 40 texts: accuracy {scores['accuracy']:.3f}" in card and "Trained on 160 texts" in card
    assert f"| {Path(backbone).name}, method `moe-gated` |" in card and str(Path(data).parent) not in card
    assert not (folder / "checkpoints").exists()


def test_the_folder_loads_everywhere_and_agrees(run):
    folder, record = run
    texts, labels = labelled_texts(240)
    classifier = SentimentClassifier.from_pretrained(folder, precision="float32")
    answers = classifier(texts[200:])
    accuracy = sum(answer["label"] == label for answer, label in zip(answers, labels[200:], strict=True)) / 40
    assert accuracy == record["metrics"]["test"]["accuracy"]
    pipe = pipeline("text-classification", model=str(folder))
    for answer, ours in zip(pipe(texts[200:210]), answers, strict=False):
        assert answer["label"] == ours["label"] and math.isclose(answer["score"], ours["score"], abs_tol=1e-5)
    for answer, ours in zip(pipe(texts[200:], batch_size=8), answers, strict=True):
        assert answer["label"] == ours["label"] and math.isclose(answer["score"], ours["score"], abs_tol=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.moe_receipt.max_abs_logit_diff <= 1e-4


def test_the_same_seed_gives_the_same_model(run, backbone, data, tmp_path):
    folder, record = run
    again = train(settings(backbone, data), tmp_path / "again", progress=False)
    assert again["metrics"] == record["metrics"]
    one, two = (AutoModelForSequenceClassification.from_pretrained(f) for f in (folder, tmp_path / "again"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_routers_and_gates_have_their_own_rate(backbone):
    model = upcycle(load_classifier(backbone, ["a", "b"]), MoEConfig(layers_to_transform=(-1,)))
    decayed = {name for name, p in model.named_parameters() if p.dim() > 1}
    groups = parameter_groups(model, decayed, 0.01, {"router": 1.0, "gate": 2.0})
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group.get("lr"), group["weight_decay"])
    assert set(found) == {name for name, _ in model.named_parameters()}
    place = "base.encoder.layer.1.output.dense"
    assert found[f"{place}.router.weight"] == (1.0, 0.01)
    assert found[f"{place}.experts.gate_up_proj"] == (2.0, 0.01)
    assert found[f"{place}.experts.gate_up_proj_bias"][0] == 2.0
    assert found[f"{place}.experts.down_proj"] == (None, 0.01)
    assert found["classifier.bias"] == (None, 0.0)

    divided = MoEConfig(init="split", expert="plain", num_experts=3, num_shared_experts=1, num_experts_per_tok=1)
    given = [{"input_ids": torch.randint(5, 50, (4, 12)), "attention_mask": torch.ones(4, 12, dtype=torch.long)}]
    model = upcycle(load_classifier(backbone, ["a", "b"]), divided, texts=given)
    (routers,) = (group["params"] for group in parameter_groups(model, set(), 0.0, {"router": 1.0}) if "lr" in group)
    assert len(routers) == 2 * len(moe_layers(model)) and {p.dim() for p in routers} == {1, 2}
    with pytest.raises(ConfigError, match="gate_learning_rate is given, but no gate is trained"):
        parameter_groups(model, set(), 0.0, {"gate": 1.0})


def test_class_weights_enter_the_loss_beside_the_auxiliary_losses(backbone, tmp_path):
    from transformers import TrainingArguments

    model = upcycle(load_classifier(backbone, ["a", "b"]), MoEConfig(layers_to_transform=(-1,)))
    weights = torch.tensor([0.5, 3.0])
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = SentimentTrainer(model, arguments, rates={}, class_weights=weights)
    given = {"input_ids": torch.randint(5, 90, (4, 6)), "labels": torch.tensor([0, 1, 1, 0])}
    loss, outputs = trainer.compute_loss(model, given, return_outputs=True)
    expected = F.cross_entropy(outputs.logits, given["labels"], weight=weights) + outputs.aux_loss
    torch.testing.assert_close(loss, expected)
    assert abs(float((F.cross_entropy(outputs.logits, given["labels"]) + outputs.aux_loss - loss).detach())) > 1e-4
    assert inverse_frequency([0, 0, 0, 1], 2).tolist() == pytest.approx([4 / 6, 2.0])
    assert len(inverse_frequency([0, 0, 0, 1], 3)) == 3  # of a class that train_limit left none of


def test_the_rate_rises_for_the_warm_up_and_falls_to_the_end(backbone, data, tmp_path):
    record = train(settings(backbone, data, warmup=0.5), tmp_path / "run", progress=False)
    rates = [row["learning_rate"] for row in record["history"] if "learning_rate" in row]
    assert rates == pytest.approx([5e-3 * twentieths / 20 for twentieths in (9, 19, 11, 1)])


def test_two_seeds_read_the_texts_in_two_orders(backbone, data, tmp_path, monkeypatch):
    step, read = SentimentTrainer.training_step, []

    def reads(self, model, inputs, *args):
        read.extend(map(tuple, inputs["input_ids"].tolist()))
        return step(self, model, inputs, *args)

    monkeypatch.setattr(SentimentTrainer, "training_step", reads)
    for run, seed in enumerate((0, 1, 0)):
        train(settings(backbone, data, epochs=1, seed=seed), tmp_path / str(run), progress=False)
    first, other, again = read[:160], read[160:320], read[320:]
    assert first == again and first != other and sorted(first) == sorted(other)


def test_selection_never_sees_the_test_split(backbone, data, tmp_path):
    folder = tmp_path / "flipped"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        frame = pd.read_csv(f"{data}/{name}.csv")
        if name == "test":
            frame["label"] = frame["label"].map({"negative": "positive", "positive": "negative"})
        frame.to_csv(folder / f"{name}.csv", index=False)
    one, two = (
        train(settings(backbone, source, epochs=2), tmp_path / f"run{i}", progress=False)
        for i, source in enumerate((data, str(folder)))
    )
    assert one["metrics"]["validation"] == two["metrics"]["validation"]
    assert one["metrics"]["test"]["accuracy"] == pytest.approx(1 - two["metrics"]["test"]["accuracy"])


def test_train_limit_is_one_subset_for_a_seed(backbone, data, tmp_path):
    record = train(settings(backbone, data, epochs=1, train_limit=32), tmp_path / "run", progress=False)
    assert record["data"]["train_used"] == 32


def test_train_limit_that_loses_a_class_is_told(caplog):
    split = Split([f"text {i}" for i in range(30)], [0] * 15 + [1] * 14 + [2])
    used = training_texts(split, TrainConfig(train_limit=4))
    assert len(used) == 4 and "leaves 1 of 3 classes without a training text (label indices 2)" in caplog.text
    caplog.clear()
    assert len(training_texts(split, TrainConfig(train_limit=30))) == 30 and not caplog.text


def test_the_bar_shows_brackets_as_they_are():
    column = ProgressBar().bar.columns[-1]
    assert column.render(SimpleNamespace(fields={"scores": "validation [red]f1"})).plain == "validation [red]f1"


def test_texts_that_the_model_cannot_read_are_refused_before_training(backbone, data, tmp_path):
    with pytest.raises(ConfigError, match="128 tokens"):
        train(settings(backbone, data, max_length=200), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_virtual_tokens_count_against_the_position_limit(backbone, data, tmp_path):
    told = {"method": "p-tuning", "method_settings": {"num_virtual_tokens": 4}}
    limit = position_limit(load_classifier(backbone, ["a", "b"]))
    with pytest.raises(ConfigError, match=rf"with 4 virtual tokens is more than the {limit} tokens"):
        train(settings(backbone, data, max_length=limit - 3, **told), tmp_path / "run", progress=False)


def test_a_loaded_classifier_is_not_fitted_from_scratch(run):
    loaded = SentimentClassifier.from_pretrained(run[0])
    with pytest.raises(ConfigError, match="fit starts from a backbone"):
        loaded.fit(["good", "bad"], [0, 1])
    with pytest.raises(ConfigError, match="more_train is for"):
        SentimentClassifier(more_train="x.csv").fit(["good", "bad"], [0, 1])


def test_a_decoder_without_a_padding_token_sees_the_end_of_each_text(backbone, tmp_path):
    """Its config may name a padding id that its tokenizer never writes."""
    from tiny import dense

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.sep_token, None
    tokenizer.save_pretrained(tmp_path)
    model = dense("llama", vocab_size=len(tokenizer), pad_token_id=1)
    engine = Engine(model, load_tokenizer(str(tmp_path), model, 32), precision="float32")
    together = engine.predict_proba(["short", "a text that is a little longer than the other"])
    assert abs(together[:1] - engine.predict_proba(["short"])).max() < 1e-5


def test_a_rate_that_nothing_has_leaves_no_folder(backbone, data, tmp_path):
    with pytest.raises(ConfigError, match="no router is trained"):
        train(
            settings(backbone, data, method="full", method_settings={}, router_learning_rate=1e-3),
            tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_position_limit_of_roberta_like_models():
    from tiny import dense

    limits = {case: position_limit(dense(case)) for case in ("bert", "roberta-mean", "mpnet", "gpt2", "llama")}
    assert limits == {"bert": 64, "roberta-mean": 62, "mpnet": 62, "gpt2": 64, "llama": 64}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"epochs": 0}, "1 or more"),
        ({"learning_rate": "1e-4"}, "write 1.0e-4"),
        ({"metric": "loss"}, "f1_macro"),
        ({"warmup": 3}, "0 or more and below 1"),
        ({"train_limit": 1}, "2 or"),
        ({"precision": "fp16"}, "bfloat16"),
        ({"head": "cls"}, "native"),
    ],
)
def test_wrong_settings_say_what_is_allowed(change, allowed):
    with pytest.raises(ConfigError, match=allowed):
        TrainConfig(**change)


def test_fit_predict_save(backbone, tmp_path):
    texts, labels = labelled_texts(200)
    classifier = SentimentClassifier(
        model=backbone, method="full", epochs=3, max_length=32, learning_rate=5e-3, batch_size=16, precision="float32"
    )
    with pytest.raises(ConfigError, match="not trained"):
        classifier.predict(texts)
    classifier.fit(texts, labels)
    found = classifier([texts[0], "", texts[1]])
    assert [answer["label"] for answer in found] == ["positive", None, "negative"] and math.isnan(found[1]["score"])
    classifier.save_pretrained(tmp_path / "saved")
    loaded = SentimentClassifier.from_pretrained(tmp_path / "saved", precision="float32")
    assert (loaded.predict_proba(texts) == classifier.predict_proba(texts)).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").model_max_length == 32
    with pytest.raises(DataError, match="one label for each"):
        classifier.fit(texts, labels[1:])
    with pytest.raises(ConfigError, match="has no config"):
        SentimentClassifier.from_pretrained(tmp_path / "nothing")


def test_a_run_of_one_step_learns(backbone, data, tmp_path):
    """A warm-up of a tenth would be that step, at rate 0."""
    config = settings(backbone, data, method="full", method_settings={}, train_limit=16, epochs=1)
    train(config, tmp_path / "run", progress=False)
    before = load_classifier(backbone, ["a", "b"]).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").state_dict()
    encoder = [name for name in before if "encoder" in name and name.endswith("weight")]
    assert encoder and all(not torch.equal(before[name], after[name]) for name in encoder)


def test_an_expert_that_reads_nearly_all_tokens_or_none_for_long_is_told(backbone, data, tmp_path, monkeypatch, caplog):
    """Kind: silent collapse. A router without weights sends every token to the same two of its four experts."""
    module = sys.modules["sentimoe.training.run"]
    prepare = module.prepare

    def without_router(*args):
        ready = prepare(*args)
        torch.nn.init.zeros_(moe_layers(ready.model)[0].router.weight)
        return ready

    monkeypatch.setattr(module, "prepare", without_router)
    config = settings(backbone, data, epochs=10, patience=10, router_learning_rate=0.0)
    record = train(config, tmp_path / "run", progress=False)
    found = {each["expert"]: (each["reads"], each["share"]) for each in record["unbalanced_experts"]}
    assert sorted(found.values()) == [("nearly all", 1.0)] * 2 + [("next to none", 0.0)] * 2 and len(found) == 4
    assert {(e["layer"], e["first_step"], e["last_step"]) for e in record["unbalanced_experts"]} == {(1, 10, 100)}
    told = [each.getMessage() for each in caplog.records if "of layer 1 reads" in each.getMessage()]
    assert len(told) == 4  # each once
    for expert, (reads, share) in found.items():
        assert f"expert {expert} of layer 1 reads {reads} of the tokens ({100 * share:.1f}%, " in "".join(told)


def test_experts_in_use_are_no_warning(run):
    _, record = run
    shares = [row[SHARES] for row in record["history"] if "loss" in row]
    assert len(shares) == 4 and all(sum(layer) == pytest.approx(2, abs=1e-3) for row in shares for layer in row)
    assert record["unbalanced_experts"] == []


def test_what_counts_as_unbalanced():
    def rows(*shares):
        return [{"step": 10 * (place + 1), SHARES: [list(row)]} for place, row in enumerate(shares)]

    assert unbalanced([{"step": 1, "loss": 1.0}], [5]) == []
    assert unbalanced(rows(*[(1.0, 1.0)] * 20), [5]) == []  # both read every token, as they must
    (found,) = unbalanced(rows((0.5, 0.5, 1.0), (0.92, 0.5, 0.58), (0.5, 0.5, 1.0), (0.95, 0.5, 0.55))[1::2], [5])
    assert found == {
        "layer": 5,
        "expert": 0,
        "reads": "nearly all",
        "share": 0.95,
        "first_step": 20,
        "last_step": 40,
    }
    little = (0.7, 0.3, 0.002)
    assert unbalanced(rows(*[little] * 9, (0.4, 0.3, 0.3), *[little] * 9), [5]) == []
    (found,) = unbalanced(rows((0.4, 0.3, 0.3), *[little] * 10, (0.4, 0.3, 0.3)), [5])
    assert (found["expert"], found["reads"], found["first_step"], found["last_step"]) == (2, "next to none", 20, 110)


def test_a_run_that_nobody_watches_says_how_far_it_is(backbone, data, tmp_path, monkeypatch, capsys):
    """Kind: minutes of silence. Where standard error is no terminal, a line every 30 seconds, here more often."""
    monkeypatch.setattr("sentimoe.training.progress.SECONDS", 0.02)
    train(settings(backbone, data, epochs=2), tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert "training: data and model are read" in lines and "training: the saved model is measured" in lines
    assert "training: 2 epochs, 20 steps in all; if it is stopped, --resume goes on" in lines
    step = re.compile(r"training: step 1\d of 20, \d+ s left, loss \d\.\d+, validation f1_weighted \d\.\d+")
    assert any(map(step.fullmatch, lines))


def test_the_bar_on_a_terminal_ends_with_a_run_that_fails(backbone, data, tmp_path, monkeypatch):
    """Kind: a terminal that is left without its cursor."""
    step, terminal = SentimentTrainer.training_step, io.StringIO()

    def fails(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(SentimentTrainer, "training_step", fails)
    with pytest.raises(KeyboardInterrupt):
        train(settings(backbone, data, epochs=1), tmp_path / "run")
    assert "3/10" in terminal.getvalue()
    assert terminal.getvalue().rindex(SHOW_CURSOR) > terminal.getvalue().rindex(HIDE_CURSOR)
