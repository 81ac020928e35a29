"""A trial's note says what is known of it and how it ended, and cannot be broken out of."""

from evoaim.report.note import trial_note
from fitness.types import Estimate, Objective

MATH = Objective("math", "maximize", ())


def test_a_note_cannot_be_broken_out_of() -> None:
    objective = Objective("a|b <i>", "minimize", ())
    recipe = "base_model: '```'\nmodels: ['````']\n"
    note = trial_note(recipe, {objective.name: Estimate(0.5, 0.01)}, (objective,))
    assert "a\\|b \\<i\\>: **0.500" in note
    assert "lower is better" in note
    *_, opening = [line for line in note.splitlines() if line.endswith("yaml")]
    fence = opening.removesuffix("yaml")
    assert note.endswith(f"{recipe}{fence}")
    assert fence not in recipe


def test_a_note_shows_values_with_their_documents_and_never_what_is_compared() -> None:
    known = {"math": Estimate(0.5, 0.01, 0.875, 20), "length": Estimate(31.5, 0.4, None, 1)}
    math, length = trial_note("", known, (MATH,)).splitlines()[2:4]
    assert "0.500" in math
    assert "from 20 documents" in math
    assert "watched" not in math
    assert "from 1 document (watched)" in length
    assert "0.875" not in math


def test_a_note_says_how_the_trial_ended() -> None:
    known = {"math": Estimate(0.5, 0.01)}
    plain = trial_note("", known, (MATH,))
    raced = trial_note("", known, (MATH,), raced=True)
    broken = trial_note("", known, (MATH,), violation=0.125)
    assert raced.startswith(plain)
    assert broken.startswith(plain)
    assert ("Raced out" in raced, "Raced out" in broken) == (True, False)
    assert ("by 0.12 of the bound" in raced, "by 0.12 of the bound" in broken) == (False, True)
