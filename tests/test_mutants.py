"""The list of planted bugs stays true to the source; `make mutants` plants them."""

import ast

import mutants
import pytest

PLANTED, LAYERS = mutants.read_list()


def test_every_planted_bug_fits_the_source_once():
    """Kind: a list that rots. A text that is gone or stands twice, or a bug that is no Python, proves nothing."""
    for mutant in PLANTED:
        ast.parse(mutant.planted())
        assert mutant.first is None or mutants.exists(mutant.first), f"{mutant.name}: {mutant.first} is gone"
    assert len({mutant.name for mutant in PLANTED}) == len(PLANTED) >= 40
    assert all((mutants.ROOT / test).is_file() for tests in LAYERS.values() for test in tests)


def test_a_text_that_stands_twice_is_refused():
    twice = mutants.Mutant("layer", "name", "sentimoe/evaluation/turns.py", "rounds", "turns", "why")
    with pytest.raises(mutants.MutantsError, match=r"stands 5 times in src/sentimoe/evaluation/turns\.py"):
        twice.planted()
