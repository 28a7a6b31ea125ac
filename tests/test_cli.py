"""The command line, from a file of labelled texts to a file of predictions."""

import inspect
import itertools
import json
import resource
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from backbone import labelled_texts, write_backbone
from language_models import language_model, tokenizer
from typer.testing import CliRunner

import sentimoe_cli
import sentimoe_cli.stream
from sentimoe.data import write_table
from sentimoe.methods.registry import MOE_SETTINGS, SPLIT_SETTINGS
from sentimoe.predictions import Predictions
from sentimoe.training import TrainConfig
from sentimoe_cli.columns import probability_names, with_predictions
from sentimoe_cli.train import METHOD_FLAGS


def invoke(*arguments, text=None):
    """Run the command; errors that sentimoe raises come back as exit code 2, as in `main`."""
    return CliRunner().invoke(sentimoe_cli.app, [str(a) for a in arguments], input=text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    texts, labels = labelled_texts(240)
    pd.DataFrame({"review": texts, "stars": labels}).to_csv(folder / "data.csv", index=False)
    settings = {"model": write_backbone(folder / "backbone"), "epochs": 9, "learning_rate": 5e-3, "batch_size": 16}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"max_length": 32, "precision": "float32"}))
    result = invoke(
        *("train", "--config", folder / "run.yaml", "--data", folder / "data.csv", "--text-column", "review"),
        *("--label-column", "stars", "--epochs", 3, "--num-experts", 3, "--layers", "-1", "--seed", 5),
        *("--output", folder / "run", "--quiet", "--json"),
    )
    assert result.exit_code == 0, result.output
    return folder, result


def test_train_takes_the_file_and_the_flags_override_it(made):
    folder, result = made
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert (config["epochs"], config["learning_rate"], config["seed"]) == (3, 5e-3, 5)
    assert config["method_settings"] == {"num_experts": 3, "layers_to_transform": [-1]}
    assert json.loads(result.stdout)["test"]["f1_weighted"] > 0.9


@pytest.fixture(scope="module")
def language_model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    language_model("llama").save_pretrained(folder)
    tokenizer("llama").save_pretrained(folder)
    return folder


def test_zero_shot_on_the_command_line(made, language_model_folder):
    told = ("--method", "zero-shot", "--labels", "good, bad", "--precision", "float32")
    result = invoke("predict", language_model_folder, "a good film", "", *told)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0]["prob_good"] + rows[0]["prob_bad"] == pytest.approx(1, abs=1e-5) and rows[1]["label"] is None

    data = (
        "--data",
        made[0] / "data.csv",
        "--text-column",
        "review",
        "--label-column",
        "stars",
        "--limit",
        7,
        "--json",
    )
    for mode in ("calibrated", "generate"):
        given = ("--method", "zero-shot", "--mode", mode, "--precision", "float32")
        metrics = json.loads(invoke("evaluate", language_model_folder, *data, *given).stdout)
        assert metrics["n"] == 7
        assert metrics["n_unanswered"] == sum(metrics["off_label"].values()) == (7 if mode == "generate" else 0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--method", "zero-shot"), "two or more labels"),
        (("--method", "lora"), "read from the run folder"),
        (("--labels", "a,b"), "add --method zero-shot"),
        (("--mode", "generate"), "add --method zero-shot"),
        (("--method", "zero-shot", "--labels", "a,b", "--experts-per-token", "2"), "does not have num_experts_per_tok"),
        (("--method", "zero-shot", "--labels", "a,b", "--backend", "openvino"), "does not have backend"),
    ],
)
def test_zero_shot_mistakes(language_model_folder, given, reason):
    result = invoke("predict", language_model_folder, "a text", *given)
    assert result.exit_code != 0 and reason in str(result.exception)


def test_zero_shot_is_not_trained(made):
    data = ("--data", made[0] / "data.csv", "--text-column", "review", "--label-column", "stars")
    result = invoke("train", *data, "--method", "zero-shot", "--output", made[0] / "never")
    assert result.exit_code != 0 and "trains nothing" in str(result.exception) and not (made[0] / "never").exists()
    unknown = invoke("train", *data, "--method", "magic", "--output", made[0] / "never")
    assert "choose one of full" in str(unknown.exception) and "zero-shot" not in str(unknown.exception)


def test_every_setting_has_a_flag_and_every_flag_is_used():
    """An option that reaches neither the config nor the method would be dropped without a word."""
    elsewhere = {"output", "config", "resume", "quiet", "as_json", "layers"}
    flags = set(inspect.signature(sentimoe_cli.train.train).parameters) - elsewhere
    assert flags == (set(TrainConfig().to_dict()) - {"method_settings"}) | set(METHOD_FLAGS)
    assert {*METHOD_FLAGS, "layers_to_transform"} == set(MOE_SETTINGS) | set(SPLIT_SETTINGS)


def test_evaluate_prints_one_json_object(made):
    folder, trained = made
    result = invoke(
        *("evaluate", folder / "run", "--data", folder / "data.csv", "--text-column", "review"),
        *("--label-column", "stars", "--split", "test", "--json", "--precision", "float32"),
    )
    metrics = json.loads(result.stdout)
    assert {"accuracy", "precision_weighted", "recall_macro", "f1_weighted", "f1_macro", "n", "ece"} <= set(metrics)
    assert {"confusion_matrix", "intervals", "sha256"} <= set(metrics)
    assert metrics["accuracy"] == json.loads(trained.stdout)["test"]["accuracy"]


def test_evaluate_for_people(made):
    folder, _ = made
    columns = ("--text-column", "review", "--label-column", "stars")
    output = invoke("evaluate", folder / "run", "--data", folder / "data.csv", *columns).stdout
    assert "f1 weighted" in output and "confusion matrix" in output and "95% interval" in output


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_writes_a_row_for_every_row(made, tmp_path, suffix):
    folder, _ = made
    frame = pd.DataFrame(
        {"id": [7, 8, 9], "text": ["the lovely thing", "", "the awful thing"], "label": ["x", "y", "z"]}
    )
    given, found = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    {
        ".csv": lambda: frame.to_csv(given, index=False),
        ".jsonl": lambda: frame.to_json(given, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(given),
    }[suffix]()
    result = invoke("predict", folder / "run", "--input", given, "--output", found)
    assert result.exit_code == 0 and f"3 rows written to {found}" in result.stderr, result.output
    out = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}[suffix](
        found
    )
    assert out["id"].astype(int).tolist() == [7, 8, 9] and out["input_label"].tolist() == ["x", "y", "z"]
    assert out["label"].tolist()[::2] == ["positive", "negative"] and pd.isna(out["label"][1])
    assert out["score"].isna().tolist() == [False, True, False]
    assert abs(out["prob_negative"][0] + out["prob_positive"][0] - 1) < 1e-5
    again = invoke("predict", folder / "run", "--input", given, "--output", found)
    assert "--overwrite" in str(again.exception)


def test_predictions_can_be_predicted_again(made, tmp_path):
    """What the file said first is never lost."""
    folder, _ = made
    names = ["0.csv", "1.csv", "2.csv"]
    pd.DataFrame({"text": ["the lovely thing"], "label": ["gold"]}).to_csv(tmp_path / names[0], index=False)
    for given, found in itertools.pairwise(names):
        assert (
            invoke("predict", folder / "run", "--input", tmp_path / given, "--output", tmp_path / found).exit_code == 0
        )
    last = pd.read_csv(tmp_path / "2.csv")
    assert last["input_label"].tolist() == ["gold"] and last["input_input_label"].tolist() == ["positive"]
    assert last["label"].tolist() == ["positive"] and last.columns.is_unique
    nowhere = invoke("predict", folder / "run", "a text", "--output", tmp_path / "no" / "x.csv")
    assert "there is no folder" in str(nowhere.exception)


@contextmanager
def full_disk(size):
    """A disk on which no file can grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("late", [False, True])
def test_a_full_disk_leaves_the_file_that_was_to_be_replaced(made, tmp_path, monkeypatch, suffix, late):
    """Kinds: half a file where the user's was (late); a full disk that shows after hours of work (not late)."""
    folder, _ = made
    path, bar = tmp_path / f"own{suffix}", sentimoe_cli.stream.predictions_with_bar
    numbers = np.random.default_rng(0).integers(10**9, size=(400, 2))
    write_table(pd.DataFrame({"text": ["a thing"] * 400, "n": numbers[:, 0], "m": numbers[:, 1]}), path)
    before, asked = path.read_bytes(), []

    def ask(engine, texts):
        asked.append(len(texts))
        if late:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
        return Predictions(np.full((len(texts), 2), 0.5, dtype=np.float32))

    monkeypatch.setattr(sentimoe_cli.stream, "predictions_with_bar", ask)
    with full_disk(resource.RLIM_INFINITY if late else 2_000):
        result = invoke("predict", folder / "run", "--input", path, "--output", path, "--overwrite")
    assert isinstance(result.exception, OSError) and result.exception.filename == str(path), result.output
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path] and asked == [400] * late
    monkeypatch.setattr(sentimoe_cli.stream, "predictions_with_bar", bar)
    again = invoke("predict", folder / "run", "--input", path, "--output", path, "--overwrite")
    assert again.exit_code == 0, again.output


def test_predict_keeps_every_column_of_its_input(made, tmp_path):
    """Kind: a column of the input is overwritten; label, score, prob_* and truncated alike."""
    folder, _ = made
    long = "the lovely thing " * 30
    given = {"text": [long, "a"], "truncated": ["mine", "too"], "score": [1, 2], "prob_positive": [[1], [2]]}
    pd.DataFrame(given).to_parquet(tmp_path / "in.parquet")
    told = ("--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet", "--long-texts", "truncate")
    result = invoke("predict", folder / "run", *told)
    assert result.exit_code == 0 and "1 texts were cut" in result.stderr, result.output
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert [out[f"input_{name}"] for name in list(given)[1:]] == [given[name] for name in list(given)[1:]]
    assert out["truncated"] == [True, False] and out["text"] == given["text"]
    assert out["score"][0] == max(out["prob_negative"][0], out["prob_positive"][0])


def test_classes_of_one_name_have_a_column_each():
    """Kind: one `prob_` column for two classes, which contradicts `score`."""
    names = ["a", "a", "a_2", "b"]
    assert probability_names(names) == ["prob_a", "prob_a_3", "prob_a_2", "prob_b"]
    frame = with_predictions(pd.DataFrame({"text": ["x"]}), names, np.array([[0.1, 0.6, 0.2, 0.1]], dtype=np.float32))
    assert frame["label"][0] == "a" and frame["score"][0] == frame["prob_a_3"][0] == np.float32(0.6)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_header_alone_gives_no_rows(made, tmp_path, suffix):
    folder, _ = made
    (tmp_path / "in.csv").write_text("id,text\n")
    out = tmp_path / f"out{suffix}"
    result = invoke("predict", folder / "run", "--input", tmp_path / "in.csv", "--output", out)
    assert result.exit_code == 0 and "0 rows written" in result.stderr, result.output
    columns = ["id", "text", "label", "score", "prob_negative", "prob_positive"]
    if suffix == ".csv":
        assert out.read_text() == ",".join(columns) + "\n"
    elif suffix == ".jsonl":
        assert out.read_text() == ""
    else:
        assert pq.read_schema(out).names == columns and str(pq.read_schema(out).field("label").type) == "string"


def test_predict_reads_arguments_and_standard_input(made):
    folder, _ = made
    odd = invoke("predict", folder / "run", text="the best\u2028 thing\r\nthe worst\x0c thing").stdout
    assert [json.loads(line)["text"] for line in odd.rstrip("\n").split("\n")] == [
        "the best\u2028 thing",
        "the worst\x0c thing",
    ]
    rows = [json.loads(line) for line in invoke("predict", folder / "run", "the best thing", " ").stdout.splitlines()]
    assert [row["label"] for row in rows] == ["positive", None] and rows[1]["score"] is None
    lines = invoke("predict", folder / "run", text="the best thing\n\nthe worst thing\n").stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["positive", None, "negative"]
    nothing = invoke("predict", folder / "run", text="")
    assert nothing.exit_code == 0 and nothing.stdout == ""


def test_info_names_experts_receipt_and_data(made):
    folder, _ = made
    facts = json.loads(invoke("info", folder / "run", "--json").stdout)
    assert facts["experts"]["num_experts"] == 3 and facts["receipt"]["max_abs_logit_diff"] <= 1e-4
    assert facts["active_parameters"] < facts["parameters"] and facts["labels"] == ["negative", "positive"]
    assert len(facts["data_sha256"]) == 64 and "3" in invoke("info", folder / "run").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "--output", "{tmp}/x", "--method", "magic"], "choose one of"),
        (["train", "--output", "{tmp}/x", "--data", "{tmp}/none.csv"], "not found"),
        (["train", "--output", "{tmp}/x", "--method", "full", "--num-experts", "4"], "has no settings"),
        (["train", "--output", "{tmp}/x", "--layers", "last"], "whole numbers"),
        (["train", "--output", "{tmp}/x", "--config", "{tmp}/none.yaml"], "does not exist"),
        (["evaluate", "{tmp}/none"], "has no config"),
        (["predict", "{tmp}/none", "text"], "has no config"),
    ],
)
def test_mistakes_are_one_line_on_standard_error(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sentimoe", *(part.format(tmp=tmp_path) for part in arguments)])
    with pytest.raises(SystemExit) as stopped:
        sentimoe_cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert reason in error and error.startswith("error: ") and error.count("\n") == 1


def test_evaluate_refuses_other_labels(made, tmp_path):
    folder, _ = made
    pd.DataFrame({"text": [f"t {i}" for i in range(60)], "label": ["up", "down"] * 30}).to_csv(tmp_path / "d.csv")
    result = invoke("evaluate", folder / "run", "--data", tmp_path / "d.csv")
    assert "same labels" in str(result.exception)
