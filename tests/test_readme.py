"""Every command and every block of Python in the README, the quickstart and the guides runs, on a tiny backbone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import uvicorn
import yaml
from backbone import labelled_texts, write_backbone, write_classifier
from command import invoke

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {  # what makes a command of a page quick
    "train": ["--epochs", "1", "--max-length", "32"],
    "add-domain": ["--layers", "1", "--epochs", "2"],
    "explain": ["--limit", "20", "--shown", "1"],
    "explore": ["--port", "0"],
    "serve": ["--port", "0"],
}
QUIET = {"NO_MKDOCS_2_WARNING": "1"}
ONLY_OPTIONS = ("gemma-3-270m", "bench")  # weights from elsewhere; two fresh processes (tests/test_speed.py)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: the files that the pages name, a backbone, and somebody's classifier."""
    folder = tmp_path_factory.mktemp("pages")
    texts, labels = labelled_texts(120)
    table = pd.DataFrame({"review": texts, "stars": labels, "product": ["phone", "book", "lamp"] * 40})
    for name in ("reviews.csv", "more_reviews.csv", "new_domain.csv", "new.csv"):
        table.assign(review=[f"{text} {name}" for text in texts]).to_csv(folder / name, index=False)
    write_backbone(folder / "tiny")
    write_classifier(folder / "path/to/your-classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        columns = "--text-column review --label-column stars"
        _run(f"sentimoe train --data reviews.csv {columns} --method moe-gated --output runs/mine")
        shutil.copytree("runs/mine", "runs/dense")
    return folder


@pytest.fixture
def copied(page, folder, tmp_path, monkeypatch):
    """A copy of it for the page, without the trained model where the page trains it itself."""
    trains = [name for name in ("mine", "dense") if f"--output runs/{name}" in page.read_text(encoding="utf-8")]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*trains))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(monkeypatch):
    """The servers that would have run."""
    servers = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, **given: servers.append(server))
    return servers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_everything_on_the_page_runs(page, copied, served):
    """Kind: a page that promises what the program does not do."""
    names: dict = {}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for language, block in blocks:
        if language == "python":
            tiny = block.replace('model="all-MiniLM-L6-v2"', 'model="tiny", max_length=32')
            tiny = tiny.replace('load_dataset("tweets")', 'load_dataset("reviews.csv")')
            with mock.patch("builtins.print"):
                exec(compile(tiny, str(page), "exec"), names)
        else:
            for line in block.replace("\\\n", " ").splitlines():
                _run(line)
    assert len(served) == sum(
        len(re.findall("^sentimoe (?:explore|serve)", block, re.MULTILINE)) for _, block in blocks
    )


def _run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "torchrun":  # tests/test_processes.py starts several
        words = words[words.index("sentimoe") :]
    if words[0] == "make":
        done = subprocess.run(["make", "-n", "-C", str(ROOT), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[:3] == ["python3", "-m", "venv"]:
        return
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", words[2])) <= set(extras)
    else:
        text = ""
        if words[0] == "echo":
            text, words = words[1], words[words.index("|") + 1 :]
        assert words[0] == "sentimoe", line
        _sentimoe(words[1:], text)


def _sentimoe(words: list[str], text: str) -> None:
    if any(name in words for name in ONLY_OPTIONS):
        known = invoke(words[0], "--help").stdout
        assert all(word in known for word in words if word.startswith("--"))
        return
    if "--target-accuracy" in words:  # the tiny model is right too seldom for the one on the page
        words = [*words[: words.index("--target-accuracy") + 1], "0.1", *words[words.index("--target-accuracy") + 2 :]]
    more = [] if "--model" in words or words[0] != "train" or "--teacher" in words else ["--model", "tiny"]
    smaller = SMALLER.get(words[0], [])
    for option, value in zip(smaller[::2], smaller[1::2], strict=True):
        more += [] if option in words else [option, value]
    done = invoke(*words, *more, text=text)
    if "--resume" in words:
        assert "finished run" in done.error  # that of the command before it: there is nothing to go on with
    else:
        assert done.exit_code == 0, f"{words}: {done.stderr}"


def test_names_of_the_project_files_are_real():
    """Every relative link of the README and of CONTRIBUTING, SECURITY and CHANGELOG leads to a file."""
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page}: {link}"


def test_no_result_says_where_it_was_made():
    files = [path for ending in ("json", "yaml", "md") for path in (ROOT / "results").rglob(f"*.{ending}")]
    assert len(files) > 500
    told = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|Users)/")
    assert [path.name for path in files if told.search(path.read_text(encoding="utf-8"))] == []


def test_the_scores_of_language_models_are_those_of_the_results():
    page, results = (ROOT / "docs" / name for name in ("how-to/language-models.md", "results.md"))
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[\w.-]+`, ", line)]
    scores = {score for row in rows for score in re.findall(r"\b0\.\d{4}\b", row)}
    assert len(rows) == 5 and len(scores) == 10
    assert [score for score in scores if score not in results.read_text(encoding="utf-8")] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_website_builds_without_a_warning(tmp_path):
    """Links, anchors and references to the code are checked by mkdocs; nothing is loaded from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | QUIET)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert not re.search(r'(src|<link[^>]*href)="https?://', page.read_text(encoding="utf-8")), page


def test_citation_and_package_name_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
