"""Several scorers are one: each keeps its tasks, and their scores are its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import load, toy_rows, write_task

from fitness.errors import FitnessError
from fitness.harness import Harness
from fitness.scorers import Scorer, Scorers
from fitness.texts import TextConfig, TextHarness
from fitness.types import Panel


@pytest.fixture
def texts(tmp_path: Path, tokenizer: Any) -> TextHarness:
    (tmp_path / "a.txt").write_text("\n\n".join(row["text"] for row in toy_rows(1, 20)))
    return TextHarness.load(TextConfig((str(tmp_path / "a.txt"),)), tokenizer)


def test_scores_are_those_of_the_scorer_that_knows_the_task(
    harness: Harness, texts: TextHarness, model: Any
) -> None:
    both: Scorer = Scorers([harness, texts])
    (file,) = texts.tasks
    assert both.tasks == (*harness.tasks, file)
    own = {"toy_choice": (1, 4), "toy_rolling": (0,)}
    found = both.score(model, Panel({file: (2, 3), **own}), "report")
    expected = {
        **harness.score(model, Panel(own), "report"),
        **texts.score(model, Panel({file: (2, 3)}), "report"),
    }
    assert found.keys() == expected.keys()
    for key, scores in found.items():
        assert scores.documents == expected[key].documents
        np.testing.assert_array_equal(scores.total, expected[key].total)
    assert both.score(model, Panel({}), "search") == {}


def test_all_else_is_passed_on(harness: Harness, texts: TextHarness) -> None:
    both = Scorers([harness, texts])
    (file,) = texts.tasks
    for scorer, task in ((harness, "toy_greedy"), (texts, file)):
        assert both.leaves(task) == (task,)
        assert both.documents(task, "search") == scorer.documents(task, "search")
        assert both.metrics(task) == scorer.metrics(task)
        assert both.metric(task, "perplexity") == scorer.metric(task, "perplexity")
        assert both.definition(task) == scorer.definition(task)
    assert both.sizes("report") == {**harness.sizes("report"), **texts.sizes("report")}


def test_groups_are_found_where_they_are_known(
    tmp_path: Path, texts: TextHarness, tokenizer: Any
) -> None:
    for i, name in enumerate(("one", "two")):
        write_task(tmp_path, name, {"test": toy_rows(i, 30)})
    (tmp_path / "toys.yaml").write_text("group: toys\ntask: [one, two]\n")
    group = load(tmp_path, tokenizer, "toys")
    for scorers in ([group, texts], [texts, group]):
        assert Scorers(scorers).leaves("toys") == ("one", "two")


def test_a_task_is_known_once(texts: TextHarness, tokenizer: Any) -> None:
    (file,) = texts.tasks
    with pytest.raises(FitnessError, match="name of two things"):
        Scorers([texts, TextHarness.load(TextConfig((file,)), tokenizer)])


def test_unknown_names_are_refused(harness: Harness, texts: TextHarness, model: Any) -> None:
    both = Scorers([harness, texts])
    for call in (both.leaves, both.metrics, both.metric, both.definition):
        with pytest.raises(FitnessError, match="did you mean: toy_choice"):
            call("toy_choise")
    with pytest.raises(FitnessError, match="unknown task 'x'"):
        both.score(model, Panel({"x": (0,)}), "search")
