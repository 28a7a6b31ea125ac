"""The list of planted bugs stays true to the source; `make mutants` plants them."""

import ast
import subprocess

import mutants
import pytest

PLANTED, LAYERS = mutants.read_list()


def test_every_planted_bug_fits_the_source_once():
    """Kind: a list that rots. A text that is gone or stands twice, or a bug that is no Python, proves nothing."""
    for mutant in PLANTED:
        ast.parse(mutant.planted())
        assert mutant.first is None or mutants.source_of(mutant.first), f"{mutant.name}: {mutant.first} is gone"
    assert len({mutant.name for mutant in PLANTED}) == len(PLANTED) >= 40
    assert all((mutants.ROOT / test).is_file() for tests in LAYERS.values() for test in tests)


def test_a_text_that_stands_twice_is_refused():
    twice = mutants.Mutant("layer", "name", "sentimoe/evaluation/interleaving.py", "rounds", "turns", "why")
    with pytest.raises(mutants.MutantsError, match=r"stands 5 times in src/sentimoe/evaluation/interleaving\.py"):
        twice.planted()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A project of one line and one test, in which the runner works."""
    for name, text in {
        "src/sums/__init__.py": "def add(a, b):\n    return a + b\n",
        "tests/test_sums.py": "from sums import add\n\n\ndef test_sum():\n    assert add(2, 2) == 4\n",
        "tests/test_mutants.py": "def test_list():\n    assert False\n",
        "results/kept": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a quicker start
    return tmp_path


def bug(name, new):
    return mutants.Mutant("sums", name, "sums/__init__.py", "a + b", new, "sums are wrong")


def test_bugs_are_planted_in_a_copy_and_results_are_kept_until_the_test_changes(tree):
    """A bug is caught, one survives, one breaks the file: no verdict. What is known is not run again."""
    planted = [bug("difference", "a - b"), bug("product", "a * b"), bug("broken", "a +")]
    layers, path = {"sums": ["tests/test_sums.py"]}, tree / "results" / "mutants.json"
    record = mutants.Record(planted, path)
    mutants.run(planted, layers, record, 2, True, 60)
    assert record.before(planted[0]) == "tests/test_sums.py::test_sum"
    assert record.rows["product"]["caught_by"] is None and "error" not in record.rows["product"]
    assert "pytest ended with 2" in record.rows["broken"]["error"]
    assert (tree / "src/sums/__init__.py").read_text().endswith("a + b\n")

    again = mutants.Record(planted, path)
    assert again.caught(planted) == planted[:1]
    mutants.run(planted[:1], {"sums": ["none.py"]}, again, 1, True, 60)  # not run, or pytest would find no such file
    assert again.caught(planted) == planted[:1]
    mutants.check_tests(again, planted, 60)
    assert again.control == {"tests": 1, "failed": []}
    assert "| sums/__init__.py | sums are wrong | test_sums.py test_sum |" in mutants.table(planted, again)
    test = tree / "tests/test_sums.py"
    test.write_text(test.read_text() + "\n\ndef test_other():\n    assert add(1, 2) == 3\n")
    assert mutants.Record(planted, path).caught(planted) == planted[:1]
    test.write_text(test.read_text().replace("== 4", "> 0"))
    assert mutants.Record(planted, path).caught(planted) == []
