"""Random panels: who is drawn, and what is refused."""

import pytest

from fitness.errors import FitnessError
from fitness.panel import random_panel
from fitness.types import Panel


def test_a_panel_has_the_asked_number_of_distinct_documents_in_range() -> None:
    panel = random_panel({"a": 100, "b": 30}, 20, seed=0)
    for task, size in (("a", 100), ("b", 30)):
        positions = panel.documents[task]
        assert len(set(positions)) == 20
        assert list(positions) == sorted(positions)
        assert 0 <= positions[0] <= positions[-1] < size
    assert len(panel) == 40


def test_the_draw_depends_on_seed_and_task_name_only() -> None:
    sizes = {"a": 100, "b": 100}
    panel = random_panel(sizes, 20, seed=0)
    assert random_panel(sizes, 20, seed=0) == panel
    assert random_panel({"a": 100}, 20, seed=0).documents["a"] == panel.documents["a"]
    assert panel.documents["a"] != panel.documents["b"]
    assert random_panel(sizes, 20, seed=1) != panel


def test_every_document_is_drawn_about_equally_often() -> None:
    counts = [0] * 10
    for seed in range(1000):
        for position in random_panel({"a": 10}, 3, seed).documents["a"]:
            counts[position] += 1
    # binomial(1000, 0.3): six standard deviations are 87, the false alarm rate below 1e-7
    assert all(abs(count - 300) < 87 for count in counts)


def test_all_documents() -> None:
    assert random_panel({"a": 3}, None, seed=0) == Panel({"a": (0, 1, 2)})


def test_more_documents_than_there_are() -> None:
    with pytest.raises(FitnessError, match=r"task 'b': 20 documents asked for, 12 available"):
        random_panel({"a": 100, "b": 12}, 20, seed=0)


def test_union_is_sorted_and_unique() -> None:
    union = Panel({"a": (1, 3), "b": (0,)}) | Panel({"a": (0, 3), "c": (2,)})
    assert union == Panel({"a": (0, 1, 3), "b": (0,), "c": (2,)})


@pytest.mark.parametrize("positions", [(2, 1), (1, 1), (-1, 2)])
def test_positions_must_be_sorted_unique_and_not_negative(positions: tuple[int, ...]) -> None:
    with pytest.raises(FitnessError, match="sorted, unique and not negative"):
        Panel({"a": positions})
