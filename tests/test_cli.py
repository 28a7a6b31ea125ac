"""The command line, from a file of labelled texts to a file of predictions."""

import itertools
import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from backbone import labelled_texts, write_backbone
from command import invoke
from language_models import language_model, tokenizer

import sentimoe_cli
import sentimoe_cli.stream
from sentimoe import SentimentClassifier
from sentimoe.batch import Predictor
from sentimoe.data import read_whole_file, write_table
from sentimoe.data.predicted import probability_names, with_predictions
from sentimoe_cli.train import OF_METHOD, PLAIN

COLUMNS = ("--text-column", "review", "--label-column", "stars")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    texts, labels = labelled_texts(240)
    rows = pd.DataFrame({"review": texts, "stars": labels})
    (folder / "data").mkdir()
    for name, part in {"data.csv": rows, "data/train.csv": rows[:200], "data/test.csv": rows[200:]}.items():
        part.to_csv(folder / name, index=False)
    settings = {
        "model": write_backbone(folder / "backbone"),
        "method": "moe-gated",
        "epochs": 9,
        "patience": 2,
        "learning_rate": 5e-3,
        "batch_size": 16,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"max_length": 32, "precision": "float32"}))
    told = ("train", "--config", folder / "run.yaml", "--data", folder / "data", *COLUMNS, "--output", folder / "run")
    flags = ("--epochs", 3, "--num-experts", 3, "--layers", "-1", "--seed", 5, "--quiet", "--json")
    result = invoke(*told, *flags)
    assert result.exit_code == 0, result.stderr
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
    result = invoke("predict", "--model", language_model_folder, "a good film", "", *told, "--probabilities")
    assert result.exit_code == 0, result.stderr
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
    result = invoke("predict", "--model", language_model_folder, "a text", *given)
    assert reason in result.error


def test_zero_shot_is_not_trained(made):
    data = ("--data", made[0] / "data.csv", "--text-column", "review", "--label-column", "stars")
    result = invoke("train", *data, "--method", "zero-shot", "--output", made[0] / "never")
    assert "trains nothing" in result.error and not (made[0] / "never").exists()
    unknown = invoke("train", *data, "--method", "magic", "--output", made[0] / "never")
    assert "choose one of full" in unknown.error and "zero-shot" not in unknown.error


def test_every_option_reaches_its_setting(monkeypatch, tmp_path):
    """Kind: an option that reaches neither the config nor the method is dropped without a word."""
    seen = []
    monkeypatch.setattr(sentimoe_cli.train, "check_trains", lambda method: seen.append(method) or 1 / 0)
    monkeypatch.setattr(sentimoe_cli.train.TrainConfig, "from_dict", lambda values: seen.append(values) or Checked())
    for name, field in (PLAIN | OF_METHOD).items():
        flag = field.json_schema_extra["flag"] or f"--{name.replace('_', '-')}"
        given = {"teacher": ["1"], "layers_to_transform": "1"}.get(name, True if isinstance(field.default, bool) else 1)
        with pytest.raises(ZeroDivisionError):
            invoke("train", "--output", tmp_path / "x", flag, *([] if given is True else ["1"]))
        values = seen[-2]
        found = values.get(name) if name in PLAIN else values["method_settings"].get(name)
        assert str(found) == str(given) or found == float(given), name


class Checked:
    method = "checked"


def test_evaluate_prints_one_json_object(made):
    folder, trained = made
    result = invoke(
        *("evaluate", folder / "run", "--data", folder / "data", *COLUMNS),
        *("--split", "test", "--json", "--precision", "float32"),
    )
    metrics = json.loads(result.stdout)
    assert {"accuracy", "precision_weighted", "recall_macro", "f1_weighted", "f1_macro", "n", "ece"} <= set(metrics)
    assert {"confusion_matrix", "intervals", "sha256"} <= set(metrics)
    assert metrics["accuracy"] == json.loads(trained.stdout)["test"]["accuracy"]


def test_evaluate_for_people(made):
    folder, _ = made
    output = invoke("evaluate", folder / "run", "--data", folder / "data", *COLUMNS).stdout
    assert "f1 weighted" in output and "confusion matrix" in output and "95% interval" in output
    assert "for every text: accuracy 0." in output and "f1 of positive" in output


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
    told = ("predict", "--model", folder / "run", "--input", given, "--output", found, "--probabilities")
    result = invoke(*told)
    assert result.exit_code == 0 and f"3 rows written to {found}" in result.stderr, result.stderr
    out = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}[suffix](
        found
    )
    assert out["id"].astype(int).tolist() == [7, 8, 9] and out["input_label"].tolist() == ["x", "y", "z"]
    assert out["label"].tolist()[::2] == ["positive", "negative"] and pd.isna(out["label"][1])
    assert out["score"].isna().tolist() == [False, True, False]
    assert abs(out["prob_negative"][0] + out["prob_positive"][0] - 1) < 1e-5
    assert "--overwrite" in invoke(*told).error


def test_predictions_can_be_predicted_again(made, tmp_path):
    """What the file said first is never lost."""
    folder, _ = made
    names = ["0.csv", "1.csv", "2.csv"]
    pd.DataFrame({"text": ["the lovely thing"], "label": ["gold"]}).to_csv(tmp_path / names[0], index=False)
    for given, found in itertools.pairwise(names):
        told = ("--input", tmp_path / given, "--output", tmp_path / found)
        assert invoke("predict", "--model", folder / "run", *told).exit_code == 0
    last = pd.read_csv(tmp_path / "2.csv")
    assert last["input_label"].tolist() == ["gold"] and last["input_input_label"].tolist() == ["positive"]
    assert last["label"].tolist() == ["positive"] and last.columns.is_unique
    nowhere = invoke("predict", "--model", folder / "run", "a text", "--output", tmp_path / "no" / "x.csv")
    assert "there is no folder" in nowhere.error


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
    path, real = tmp_path / f"own{suffix}", Predictor.labelled
    numbers = np.random.default_rng(0).integers(10**9, size=(400, 2))
    write_table(pd.DataFrame({"text": ["a thing"] * 400, "n": numbers[:, 0], "m": numbers[:, 1]}), path)
    before, asked = path.read_bytes(), []

    def ask(predictor, frame):
        asked.append(len(frame))
        if late:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
        return real(predictor, frame)

    monkeypatch.setattr(Predictor, "labelled", ask)
    with full_disk(resource.RLIM_INFINITY if late else 2_000):
        result = invoke("predict", "--model", folder / "run", "--input", path, "--output", path, "--overwrite")
    assert result.exit_code == 75 and str(path) in result.error and "once there is room" in result.error
    left = [path, *([path.with_name(f"{path.name}.partial")] if late else [])]
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == left and asked == [400] * late
    monkeypatch.setattr(Predictor, "labelled", real)
    again = invoke("predict", "--model", folder / "run", "--input", path, "--output", path, "--overwrite")
    assert again.exit_code == 0 and list(tmp_path.iterdir()) == [path], again.stderr


def test_predict_keeps_every_column_of_its_input(made, tmp_path):
    """Kind: a column of the input is overwritten; label, score, prob_* and truncated alike."""
    folder, _ = made
    long = "the lovely thing " * 30
    given = {"text": [long, "a"], "truncated": ["mine", "too"], "score": [1, 2], "prob_positive": [[1], [2]]}
    pd.DataFrame(given).to_parquet(tmp_path / "in.parquet")
    told = ("--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet", "--long-texts", "truncate")
    result = invoke("predict", "--model", folder / "run", *told, "--probabilities")
    assert result.exit_code == 0 and "1 texts were cut" in result.stderr, result.stderr
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert [out[f"input_{name}"] for name in list(given)[1:]] == [given[name] for name in list(given)[1:]]
    assert out["truncated"] == [True, False] and out["text"] == given["text"]
    assert out["score"][0] == max(out["prob_negative"][0], out["prob_positive"][0])


def test_classes_of_one_name_have_a_column_each():
    """Kind: one `prob_` column for two classes, which contradicts `score`."""
    names = ["a", "a", "a_2", "b"]
    assert probability_names(names) == ["prob_a", "prob_a_3", "prob_a_2", "prob_b"]
    probabilities = np.array([[0.1, 0.6, 0.2, 0.1]], dtype=np.float32)
    frame = with_predictions(pd.DataFrame({"text": ["x"]}), names, probabilities, each_class=True)
    assert frame["label"][0] == "a" and frame["score"][0] == frame["prob_a_3"][0] == np.float32(0.6)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_header_alone_gives_no_rows(made, tmp_path, suffix):
    folder, _ = made
    (tmp_path / "in.csv").write_text("id,text\n")
    out = tmp_path / f"out{suffix}"
    result = invoke("predict", "--model", folder / "run", "--input", tmp_path / "in.csv", "--output", out)
    assert result.exit_code == 0 and "0 rows written" in result.stderr, result.stderr
    columns = ["id", "text", "label", "score", "reason"]
    if suffix == ".csv":
        assert out.read_text() == ",".join(columns) + "\n"
    elif suffix == ".jsonl":
        assert out.read_text() == ""
    else:
        assert pq.read_schema(out).names == columns and str(pq.read_schema(out).field("label").type) == "string"


def test_predict_reads_arguments_and_standard_input(made):
    folder, _ = made
    odd = invoke("predict", "--model", folder / "run", text="the best\u2028 thing\r\nthe worst\x0c thing").stdout
    assert [json.loads(line)["text"] for line in odd.rstrip("\n").split("\n")] == [
        "the best\u2028 thing",
        "the worst\x0c thing",
    ]
    lines = invoke("predict", "--model", folder / "run", "the best thing", " ").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["label"] for row in rows] == ["positive", None] and rows[1]["score"] is None
    lines = invoke("predict", "--model", folder / "run", text="the best thing\n\nthe worst thing\n").stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["positive", None, "negative"]
    nothing = invoke("predict", "--model", folder / "run", text="")
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
        (["train", "--output", "{tmp}/x", "--data", "{tmp}/none.csv"], "no such file; check the path"),
        (["train", "--output", "{tmp}/x", "--method", "full", "--num-experts", "4"], "has no settings"),
        (["train", "--output", "{tmp}/x", "--method", "moe-gated", "--layers", "last"], "a whole number"),
        (["train", "--output", "{tmp}/x", "--config", "{tmp}/none.yaml"], "does not exist"),
        (["evaluate", "{tmp}/none"], "has no config"),
        (["predict", "--model", "{tmp}/none", "text"], "has no config"),
        (["predict", "{tmp}/none", "text"], "is no folder of a model"),
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
    assert "labels that the model does not know (down, up)" in result.error
    assert "--map-labels down=LABEL,..." in result.error


def test_labels_of_the_data_are_read_under_other_names(made, tmp_path):
    folder, _ = made
    texts, labels = labelled_texts(60)
    other = [{"positive": "4", "negative": "1"}[label] for label in labels]
    other[0] = {"4": "5", "1": "2"}[other[0]]  # two names for one label
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "same.csv", index=False)
    pd.DataFrame({"text": texts, "label": other}).to_csv(tmp_path / "other.csv", index=False)
    names = "1=negative, 4 = positive," + {"5": "5=positive", "2": "2=negative"}[other[0]]

    def scores(*told):
        result = invoke("evaluate", folder / "run", "--json", "--data", *told)
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        return {key: found[key] for key in ("n", "confusion_matrix", "f1_weighted", "most_frequent")}

    assert scores(tmp_path / "other.csv", "--map-labels", names) == scores(tmp_path / "same.csv")
    whole = read_whole_file(tmp_path / "other.csv").dataset
    pairs = dict(pair.split("=") for pair in names.replace(" ", "").split(","))
    merged = whole.with_labels_renamed(pairs)
    assert sorted(merged.label_names) == ["negative", "positive"] and merged.sha256 == whole.sha256
    for given, reason in (
        ("1=negative,4", "must pair a label of the data with the one to read it as"),
        ("1=negative,1=positive", "names 1 more than once"),
        ("9=positive", "has no label '9' to rename; it has"),
    ):
        told = ("evaluate", folder / "run", "--data", tmp_path / "other.csv", "--map-labels", given)
        assert reason in " ".join(invoke(*told).error.split())


def test_evaluate_scores_every_row_of_a_file(made, tmp_path):
    """Kind: rows of one file are split off, or refused for their number or their classes."""
    folder, _ = made
    texts = [f"the {word} thing" for word in ("lovely", "awful", "great", "hate", "happy", "worst", "best", "broken")]
    labels = ["positive", "negative"] * 4
    rows = pd.DataFrame(
        {"text": [*texts, "the lovely one", "", "the awful one"], "label": [*labels, *["negative"] * 3]}
    )

    def scores(frame):
        frame.to_csv(tmp_path / "d.csv", index=False)
        result = invoke("evaluate", folder / "run", "--data", tmp_path / "d.csv", "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    found = scores(rows)
    answers = invoke("predict", "--model", folder / "run", *[text or " " for text in rows["text"]]).stdout.splitlines()
    right = [json.loads(line)["label"] == label for line, label in zip(answers, rows["label"], strict=True)]
    assert found["n"] == 10 and found["n_unanswered"] == 0 and found["accuracy"] == sum(right) / 10
    assert sum(right) >= 9 and "1 of 11 rows" in found["warnings"][0] and "without a text" in found["warnings"][0]
    alone = scores(rows[rows["label"] == "positive"])
    assert alone["n"] == 4 and alone["per_class"]["positive"]["support"] == 4
    assert "no text with the label negative" in alone["warnings"][0]
    assert list(alone["per_class"]) == ["negative", "positive"] and scores(rows[:1])["n"] == 1


def test_evaluate_of_a_file_has_no_split_and_says_what_the_model_has_seen(made):
    folder, _ = made
    settings = ("--config", folder / "run.yaml", "--epochs", 1, "--method", "full", "--quiet")
    trained = invoke("train", *settings, "--data", folder / "data.csv", *COLUMNS, "--output", folder / "of-file")
    assert trained.exit_code == 0, trained.stderr
    told = ("evaluate", folder / "of-file", "--data", folder / "data.csv", *COLUMNS)
    assert "--split is for presets and folders" in invoke(*told, "--split", "test").error
    renamed = folder / "renamed.jsonl"
    frame = pd.read_csv(folder / "data.csv")
    frame = pd.concat([frame, frame[:60].assign(review=[f"New {text}" for text in frame["review"][:60]])])
    frame.assign(review=frame["review"].str.upper()).to_json(renamed, orient="records", lines=True)
    result = invoke("evaluate", folder / "of-file", "--data", renamed, *COLUMNS, "--json")
    metrics = json.loads(result.stdout)
    held_out = json.loads((folder / "of-file" / "run.json").read_text())["data"]["splits"]["test"]["rows"]
    assert metrics["n_seen"] == 240 - held_out and metrics["unseen"]["n"] == 60 + held_out
    assert f"the model has seen {240 - held_out} of the 300 texts in training" in result.stderr
    assert "texts not seen in training" in invoke("evaluate", folder / "of-file", "--data", renamed, *COLUMNS).stdout
    other = invoke("compare", folder / "of-file", folder / "run", "--data", renamed, *COLUMNS)
    assert f"{folder / 'run'} has seen 200 of the 300" in other.stderr
    assert "that neither is known to have seen" in " ".join(other.stdout.split())


MARKUP = ["[neg]", "[/neg]", ":smile:", "[red]a\x1b[31m"]


def test_names_are_never_markup(made, tmp_path):
    """Kind: a label or a path in square brackets vanishes, or ends the command with MarkupError."""
    rows = [(f"thing {label} number {i}", label) for label in MARKUP for i in range(12)]
    data, run = tmp_path / "[x] é\n.csv", tmp_path / "[red]run"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(data, index=False)
    settings = ("--config", made[0] / "run.yaml", "--epochs", 1, "--method", "full")
    results = [
        invoke("train", *settings, "--data", data, "--output", run),
        invoke("evaluate", run, "--data", data),
        invoke("info", run),
    ]
    for result in results:
        assert result.exit_code == 0, result.stderr
        for label in MARKUP:
            assert label.replace("\x1b", "\\x1b") in result.stdout
    assert "[red]run" in results[0].stdout and "[x] é\\n" in results[1].stdout
    assert "[red]run" in results[2].stdout.replace("\n", "")


def test_standard_output_that_lacks_characters(made):
    """Kind: a terminal without Unicode ends the command after predicting."""
    for encoding in ("latin-1", "ascii"):
        result = invoke("predict", "--model", made[0] / "run", "the best 💓 é", encoding=encoding)
        assert json.loads(result.stdout)["text"] == "the best 💓 é"
        table = invoke("evaluate", made[0] / "run", "--data", made[0] / "data", *COLUMNS, encoding=encoding)
        assert table.exit_code == 0 and "f1 weighted" in table.stdout


def test_arguments_in_the_c_locale(made):
    """Kind: a locale without Unicode turns texts into other texts."""
    result = invoke("predict", "--model", made[0] / "run", "é💓".encode().decode("ascii", "surrogateescape"))
    assert json.loads(result.stdout)["text"] == "é💓"


def test_the_first_argument_may_be_the_model(made, monkeypatch):
    """Kind: the name of a folder is labelled as a text."""
    run = made[0] / "run"
    result = invoke("predict", run, "the best thing")
    assert result.exit_code == 0 and json.loads(result.stdout)["text"] == "the best thing"
    assert result.stderr == f"note: the folder {run} is read as the model; write --model {run}\n"
    assert "is a folder, and the model is named already" in invoke("predict", "--model", run, "a text", run).error
    assert "is a folder, and the model is named already" in invoke("predict", run, run).error
    monkeypatch.chdir(made[0])
    assert invoke("predict", "run", "run").exit_code == 2
    assert invoke("predict", "--model", "run", "--", "-1 star").exit_code == 0
    assert "goes behind --" in invoke("predict", "--model", "run", "-1 star").error


@pytest.mark.parametrize(
    ("row", "suffix", "reason"),
    [
        ({"odd": "\ud800"}, ".parquet", None),
        ({"odd": "\ud800"}, ".csv", None),
        ({"odd": 10**22}, ".parquet", 'the column "odd"'),
        ({"odd": {}}, ".parquet", "'odd'"),
        ({"odd": [1, "a"]}, ".parquet", 'the column "odd"'),
    ],
)
def test_a_bad_value_that_nobody_reads_shows_before_predicting(made, tmp_path, monkeypatch, row, suffix, reason):
    """Kind: output problems that show after hours of predicting."""
    asked, real = [], Predictor.labelled
    monkeypatch.setattr(
        Predictor, "labelled", lambda self, frame: (asked.append(frame) if len(frame) else None) or real(self, frame)
    )
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a"} | row) + "\n")
    told = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / f"out{suffix}")
    result = invoke("predict", "--model", made[0] / "run", *told)
    if reason is None:
        assert result.exit_code == 0 and len(asked) == 1
    else:
        assert reason in result.error and result.exit_code == 2 and not asked
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("name", ["a b", "[x]", "é💓", "a\nb", "-x"])
def test_odd_paths(made, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.csv").write_text("text\nthe best thing\n")
    result = invoke("predict", "--model", made[0] / "run", "--input", f"{name}.csv", f"--output={name}.jsonl")
    assert result.exit_code == 0 and result.stderr.count("\n") == 1, result.stderr
    assert json.loads(Path(f"{name}.jsonl").read_text())["label"] == "positive"


def test_standard_input_is_utf_8_with_or_without_its_mark(made):
    """Kinds: a byte order mark becomes part of the first text; bytes are replaced without a word."""
    marked = invoke("predict", "--model", made[0] / "run", text="the best thing\n".encode("utf-8-sig"))
    assert json.loads(marked.stdout)["text"] == "the best thing" and marked.stderr == ""
    other = invoke("predict", "--model", made[0] / "run", text="a\ncafé".encode("latin-1"))
    assert json.loads(other.stdout.splitlines()[1])["text"] == "caf\ufffd"
    assert "not UTF-8, first in line 2" in other.stderr and other.stderr.count("\n") == 1


def test_ctrl_c_ends_the_page_with_130(made, monkeypatch):
    """Kind: uvicorn takes Ctrl-C for an ordinary end, exit code 0."""
    uvicorn = pytest.importorskip("uvicorn")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    result = invoke("explore", made[0] / "run", "--port", 0)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "interrupted")


@pytest.fixture(scope="module")
def scored(made):
    """Rows that the model did not see, with a product each; those of one product have the wrong label."""
    folder, _ = made
    texts, labels = labelled_texts(400)
    frame = pd.DataFrame({"review": [f"again {text}" for text in texts], "stars": labels})
    frame["product"] = ["phone", "book", "phone", "lamp"] * 100
    other = {"negative": "positive", "positive": "negative"}
    wrong = frame["product"].eq("lamp")
    frame.loc[wrong, "stars"] = frame.loc[wrong, "stars"].map(other)
    frame.to_csv(folder / "scored.csv", index=False)
    frame[~wrong].to_csv(folder / "right.csv", index=False, sep=";", encoding="utf-16")
    return frame


def test_scores_of_each_group(made, scored):
    folder, _ = made
    result = invoke("evaluate", folder / "run", "--data", folder / "scored.csv", *COLUMNS, "--by", "product", "--json")
    assert result.exit_code == 0, result.stderr
    groups = {row["group"]: row for row in json.loads(result.stdout)["groups"]}
    assert {name: row["n"] for name, row in groups.items()} == {"phone": 200, "book": 100, "lamp": 100}
    assert groups["lamp"]["worse"] and not groups["phone"]["worse"] and groups["lamp"]["accuracy"] < 0.2
    shown = invoke("evaluate", folder / "run", "--data", folder / "scored.csv", *COLUMNS, "--by", "product").stdout
    assert "scored by product" in shown and shown.count("yes, p") == 1
    refused = invoke("evaluate", folder / "run", "--data", folder / "scored.csv", *COLUMNS, "--by", "shop")
    assert 'no column "shop"' in refused.error and "--by" in refused.error
    assert "is none" in invoke("evaluate", folder / "run", "--data", folder / "data", *COLUMNS, "--by", "product").error


def test_a_threshold_is_found_kept_and_applied(made, scored, tmp_path):
    folder, _ = made
    model = tmp_path / "run"
    shutil.copytree(folder / "run", model)
    told = ("evaluate", model, *COLUMNS, "--target-accuracy", 0.9)
    assert "sentiment is no folder here" in invoke("evaluate", "sentiment", *told[2:], "--save").error
    assert "0 of the 180 labelled texts are new" in invoke(*told, "--data", folder / "data", "--split", "train").error
    nothing = invoke(*told, "--data", folder / "scored.csv", "--save")
    assert "no threshold promises an accuracy of 0.9" in nothing.error and "Nothing is saved" in nothing.error
    assert not (model / "threshold.json").exists()
    assert "--doubtful" in invoke("predict", "--model", model, "x", "--doubtful", tmp_path / "queue.csv").error
    result = invoke(*told, "--data", folder / "right.csv", "--save")
    assert result.exit_code == 0 and "with 95% confidence; saved" in result.stdout, result.stderr
    stored = json.loads((model / "threshold.json").read_text())
    assert stored["n"] == 300 and stored["lower_bound"] >= 0.9 and len(stored["sha256"]) == 64 and stored["estimated"]
    value = stored["value"]
    stored["value"] = 0.97
    (model / "threshold.json").write_text(json.dumps(stored))
    rows = pd.DataFrame({"text": ["the lovely thing", "table chair lovely awful", "", "the awful thing"]})
    rows.to_csv(tmp_path / "new.csv", index=False)
    asked = ("predict", "--model", model, "--input", tmp_path / "new.csv")
    every = pd.DataFrame(map(json.loads, invoke(*asked, "--all-answers").stdout.splitlines()))
    assert "guess" not in every and every["label"].isna().tolist() == [False, False, True, False]
    result = invoke(*asked, "--doubtful", tmp_path / "queue.csv")
    found = pd.DataFrame(map(json.loads, result.stdout.splitlines()), dtype=object)
    low = every["score"] < 0.97
    assert (
        found["guess"].tolist() == every["label"].astype(object).where(every["label"].notna(), None).tolist()
        and low.any()
    )
    expected = [
        "blank" if text == "" else "doubtful" if doubt else None for text, doubt in zip(rows["text"], low, strict=True)
    ]
    assert found["reason"].tolist() == expected
    assert found["label"].isna().tolist() == [reason is not None for reason in expected]
    queue = pd.read_csv(tmp_path / "queue.csv")
    assert queue["score"].is_monotonic_increasing and sorted(queue["row"] - 1) == np.flatnonzero(low).tolist()
    assert f"{int(low.sum())} are doubtful" in result.stderr and 0 < value < 1
    for other in (("--experts-per-token", "1"), ("--long-texts", "truncate")):
        assert "guarantee does not hold" in invoke(*asked, *other).stderr
    same = ("--output", tmp_path / "o.csv", "--doubtful", tmp_path / "o.csv")
    assert "give two files" in invoke(*asked, *same).error
    for other in (("--experts-per-token", "1"), ("--long-texts", "truncate")):
        refused = invoke(*told, "--data", folder / "right.csv", "--save", *other).error
        assert f"as `predict` runs it; leave out {' '.join(other)}".removesuffix(" 1") in refused
    again = SentimentClassifier.from_pretrained(folder / "run")
    over = shutil.copytree(model, tmp_path / "over", ignore=shutil.ignore_patterns("run.json"))
    again.save_pretrained(over)
    assert not (over / "threshold.json").exists()  # it was another model's
    (model / "threshold.json").write_text('{"value": 7}')
    assert "threshold.json is damaged" in invoke(*asked).error


def test_two_models_are_compared(made, scored, tmp_path):
    folder, _ = made
    settings = ("--config", folder / "run.yaml", "--data", folder / "data", *COLUMNS, "--method", "full", "--quiet")
    assert invoke("train", *settings, "--epochs", 1, "--learning-rate", 1e-5, "--output", tmp_path / "b").exit_code == 0
    told = ("compare", folder / "run", tmp_path / "b", "--data", folder / "right.csv", *COLUMNS)
    result = invoke(*told, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["n"] == 300 and found["accuracy"]["mean_a"] > 0.9 > found["accuracy"]["mean_b"]
    assert found["accuracy"]["interval"][0] > 0 and found["mcnemar"]["p_value"] < 0.01
    assert sum(row["count"] for row in found["flips"]) == round((1 - found["agreement"]) * 300)
    shown = invoke(*told).stdout
    assert "where the answers differ" in shown and "right alone (McNemar)" in shown
    assert f"{folder / 'run'} is better (a - b: weighted F1 +" in shown.replace("\n", " ")
    same = invoke("compare", folder / "run", folder / "run", "--data", folder / "right.csv", *COLUMNS).stdout
    assert "no difference is shown (a - b: weighted F1 +0.0000" in same


def test_the_file_of_a_spreadsheet_is_trained_on_as_it_is(made, tmp_path, caplog):
    """Excel's encoding and delimiter, its column names, empty cells: it was refused four times, one row at a time."""
    folder, _ = made
    texts, labels = labelled_texts(120)
    frame = pd.DataFrame({"Id": range(120), "Review Text": [f"{text} – né" for text in texts], "Stars": labels})
    frame.loc[[3, 50], "Review Text"] = ""
    frame.loc[[7], "Stars"] = ""
    frame.to_csv(tmp_path / "export.csv", index=False, sep=";", encoding="cp1252")
    told = ("train", "--config", folder / "run.yaml", "--data", tmp_path / "export.csv", "--epochs", 1, "--quiet")
    result = invoke(*told, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    for said in ("is not UTF-8 and read as cp1252", "columns are separated by ';'", 'column "Stars" holds the labels'):
        assert said in caplog.text
    assert "3 of 120 rows" in caplog.text
    assert "2 without a text (first: 4, 51), 1 without a label (first: 8)" in caplog.text
    refused = invoke(*told, "--output", tmp_path / "strict", "--strict")
    assert "no text in rows 4, 51; no label in rows 8" in refused.error
    labelled = invoke(
        "predict", "--model", tmp_path / "run", "--input", tmp_path / "export.csv", "--output", tmp_path / "out.csv"
    )
    assert labelled.exit_code == 0 and len(pd.read_csv(tmp_path / "out.csv")) == 120


def test_named_classes_have_the_order_that_was_given(made, tmp_path):
    """Kind: distances between classes in alphabetical order, told without a word."""
    folder, _ = made
    words = {"so so": "table", "bad": "awful", "great": "lovely"}
    rows = [(f"the {words[label]} thing number {i}", label) for i in range(40) for label in words]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "x.csv", index=False)
    told = ("--config", folder / "run.yaml", "--data", tmp_path / "x.csv", "--method", "full", "--quiet", "--epochs", 2)
    assert (
        "must name every label of x once"
        in invoke("train", *told, "--output", tmp_path / "a", "--ordinal", "a,b").error
    )
    trained = invoke("train", *told, "--output", tmp_path / "run", "--ordinal", "bad, so so, great", "--json")
    assert trained.exit_code == 0 and "within_one" in json.loads(trained.stdout)["test"]["ordinal"], trained.stderr
    assert list(json.loads(trained.stdout)["test"]["per_class"]) == ["bad", "so so", "great"]
    asked = ("evaluate", tmp_path / "run", "--data", tmp_path / "x.csv", "--json")
    scores = json.loads(invoke(*asked).stdout)
    other = json.loads(invoke(*asked, "--ordinal", "so so,bad,great").stdout)
    assert scores["order"] == ["bad", "so so", "great"] and other["order"] == ["so so", "bad", "great"]
    cells = np.array(scores["confusion_matrix"])
    for found, places in ((scores, [0, 1, 2]), (other, [1, 0, 2])):
        distance = np.abs(np.subtract.outer(places, places))
        assert found["ordinal"]["mae"] == pytest.approx((cells * distance).sum() / cells.sum())
    assert "must name every label once" in invoke(*asked, "--ordinal", "bad,great").error
    assert "ordinal" not in json.loads(
        invoke("evaluate", folder / "run", "--data", folder / "data", *COLUMNS, "--json").stdout
    )


def test_rows_without_a_label_are_offered_and_learned_from(made, tmp_path, caplog):
    """The options that the warning names, word for word, take these rows of the same file and no others."""
    folder, _ = made
    texts, labels = labelled_texts(80)
    rows = pd.DataFrame({"Review": [*texts, *(f"no label {i}" for i in range(7)), ""], "Stars": [*labels, *[""] * 8]})
    data = tmp_path / "x.csv"
    rows.to_csv(data, index=False)
    told = ("train", "--config", folder / "run.yaml", "--data", data, "--epochs", 1, "--method", "full", "--quiet")
    first = invoke(*told, "--output", tmp_path / "run")
    assert first.exit_code == 0 and "8 of 88 rows" in caplog.text, first.stderr
    (line,) = {line for line in caplog.messages if "have a text and no label" in line}
    options = line[line.index("--teacher") :].replace("RUN", str(tmp_path / "run")).split()
    assert options == ["--teacher", str(tmp_path / "run"), "--unlabelled", str(data)]
    assert invoke(*told, *options, "--output", tmp_path / "student").exit_code == 0
    used = [json.loads((tmp_path / name / "run.json").read_text())["data"]["train_used"] for name in ("run", "student")]
    assert used[1] == used[0] + 7
