"""Model folders that others wrote: what is in them runs nothing, and what is wrong with them is said."""

import ast
import json
from pathlib import Path

import pytest
import torch
from backbone import labelled_texts, tokenizer, write_backbone
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import SentimentClassifier, load_classifier
from sentimoe.errors import ModelFolderError
from sentimoe.manifest import MANIFEST
from sentimoe.methods import save_adapted

SRC = Path(__file__).parents[1] / "src"
LABELS = ["negative", "positive"]


def edit(path: Path, **changes):
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def folder(backbone, tmp_path):
    """A classifier in a folder, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    read = tokenizer()
    read.model_max_length = 64
    save_adapted(load_classifier(backbone, LABELS), read, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path):
    """A file of 60 labelled texts."""
    path, rows = tmp_path / "data.jsonl", zip(*labelled_texts(60), strict=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


# Kind: code from a model folder runs


CANARY = """
from pathlib import Path
Path(r"{marker}").touch()
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
class Config(BertConfig): model_type = "sentinel"
class Model(BertForSequenceClassification): config_class = Config
class Tokenizer(BertTokenizer): pass
"""
AUTO_MAP = {
    "AutoConfig": "sentinel.Config",
    "AutoModel": "sentinel.Model",
    "AutoModelForSequenceClassification": "sentinel.Model",
    "AutoModelForCausalLM": "sentinel.Model",
}
WAYS = ["config of an architecture of its own", "config of a known architecture", "tokenizer", "known tokenizer"]


def plant(folder: Path, way: str) -> Path:
    """Put code into a folder that would run in this way, and return the file that it would write."""
    (folder / MANIFEST).unlink()  # nothing but the code is wrong with the folder
    marker = folder.parent / "it ran"
    (folder / "sentinel.py").write_text(CANARY.format(marker=marker))
    if way == "config of an architecture of its own":
        edit(folder / "config.json", model_type="sentinel", auto_map=AUTO_MAP)
    elif way == "config of a known architecture":
        edit(folder / "config.json", auto_map=AUTO_MAP)
    else:
        name = "BertTokenizer" if way == "known tokenizer" else "Tokenizer"
        edit(
            folder / "tokenizer_config.json",
            tokenizer_class=name,
            auto_map={"AutoTokenizer": ["sentinel.Tokenizer", None]},
        )
    return marker


def sentimoe(*arguments, stdin="y\nI love it\n"):
    """Run the command in this process; its answer to any question on standard input is yes."""
    return CliRunner().invoke(sentimoe_cli.app, [str(each) for each in arguments], input=stdin)


@pytest.mark.parametrize("way", WAYS)
def test_code_in_a_folder_does_not_run_in_python(folder, way, tmp_path):
    expected = SentimentClassifier.from_pretrained(folder).predict_proba(["I love it"])
    marker = plant(folder, way)
    if "known" in way:  # what transformers has itself is used
        assert (SentimentClassifier.from_pretrained(folder).predict_proba(["I love it"]) == expected).all()
    else:
        with pytest.raises(ModelFolderError, match=r"Python code of its own.* --trust-remote-code"):
            SentimentClassifier.from_pretrained(folder)
    assert not marker.exists()


@pytest.mark.parametrize("way", ["config of a known architecture", "known tokenizer"])
def test_texts_on_standard_input_are_no_answer_to_a_question(folder, way):
    marker = plant(folder, way)
    done = sentimoe("predict", "--model", folder)
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["y", "I love it"]
    assert not marker.exists()


@pytest.mark.parametrize("way", ["config of an architecture of its own", "tokenizer"])
def test_code_in_a_folder_does_not_run_on_the_command_line(folder, way, data, tmp_path):
    pytest.importorskip("fastapi")
    marker = plant(folder, way)
    new = ("--data", data, "--output", tmp_path / "new", "--max-length", 64)
    for command in (
        ("predict", "--model", folder),
        ("predict", "--model", folder, "--method", "zero-shot", "--labels", "negative,positive"),
        ("evaluate", folder, "--data", data),
        ("info", folder),
        ("export", folder, tmp_path / "exported"),
        ("explain", folder, "--data", data, "--output", tmp_path / "report"),
        ("explore", folder, "--port", 0),
        ("train", "--model", folder, "--head", "native", *new),
        ("train", "--teacher", folder, "--method", "full", *new),
        ("train", "--teacher", folder, "--method", "moe-split", *new),
    ):
        done = sentimoe(*command)
        assert isinstance(done.exception, ModelFolderError) and done.exception.exit_code == 4, command
        if "zero-shot" not in command:  # which finds no language model there before it looks at the tokenizer
            assert "Python code of its own" in str(done.exception) and "--trust-remote-code" in str(done.exception)
        assert not marker.exists(), command


def test_code_runs_for_those_who_trust_it(folder):
    marker = plant(folder, "tokenizer")
    SentimentClassifier.from_pretrained(folder, trust_remote_code=True).predict(["I love it"])
    assert marker.exists()
    marker.unlink()
    assert sentimoe("predict", "--model", folder, "--trust-remote-code", stdin="I love it\n").exit_code == 0


def test_one_place_loads_all_models():
    """No other file may call `from_pretrained`, which without its arguments would ask, unpickle, or run code."""
    for path in (*SRC.rglob("*.py"), *(SRC.parent / "experiments").rglob("*.py")):
        if path.parent.name == "model_folder":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                owner = ast.unparse(node.value)
                assert owner in {"super()", "SentimentClassifier"}, f"{path.name}, line {node.lineno}: {owner}"
