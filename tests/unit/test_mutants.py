"""The list of mutants is alive: each text is found in the product, each test that is named exists."""

from pathlib import Path

from tests.mutants.catalogue import LIFE, MUTANTS

ROOT = Path(__file__).parents[2]


def test_each_text_that_a_mutant_changes_is_found_exactly_once() -> None:
    for mutant in MUTANTS:
        for edit in mutant.edits:
            assert (ROOT / edit.file).read_text().count(edit.old) == 1, f"{mutant.name}: {edit.old!r} in {edit.file}"
            assert edit.old != edit.new, mutant.name


def test_each_test_that_is_to_find_a_mutant_exists() -> None:
    for mutant in MUTANTS:
        assert mutant.found_by, mutant.name
        for test in mutant.found_by:
            if mutant.found_by != LIFE:
                file, _, name = test.partition("::")
                assert f"def {name}(" in (ROOT / file).read_text(), f"{mutant.name}: {test}"


def test_there_are_enough_mutants_and_no_two_of_one_name() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 40
    assert sum(mutant.found_by == LIFE for mutant in MUTANTS) >= 40
