"""The laws that every optimizer keeps, run over the registry."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields

import numpy as np
import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from evoaim.errors import ConfigError
from evoaim.optimizers import Documents, Losses, Proposer, Violations
from evoaim.optimizers._check import check_objectives
from evoaim.registry import OPTIMIZERS
from search_spaces.genes import Choice, Gene, Genome, Real, When, Whole, canonical


@dataclass(frozen=True)
class Row:
    """What the laws must know about one optimizer."""

    objectives: tuple[int, ...]  # how many to try it with
    small: dict[str, int]  # options with which it adapts within a few dozen candidates
    ahead: int | None  # candidates after which it must beat random search, if ever


ROWS = {
    "cma_es": Row(objectives=(1,), small={"population": 8}, ahead=96),
    "ga": Row(objectives=(1,), small={"population": 8}, ahead=192),
    "gp": Row(objectives=(1, 2), small={"startup": 44, "batch": 4}, ahead=None),  # see test_gp
    "m2n2": Row(objectives=(1, 2), small={"population": 8, "batch": 4}, ahead=192),
    "nsga2": Row(objectives=(1, 2, 3), small={"population": 8}, ahead=192),
    "optuna_nsga2": Row(objectives=(1, 2), small={"population": 8}, ahead=192),
    "qmc": Row(objectives=(1, 2), small={"batch": 4}, ahead=None),
    "age_moea2": Row(objectives=(1, 2, 3), small={"population": 8}, ahead=192),
    "de": Row(objectives=(1,), small={"population": 8}, ahead=192),
    "mixed_ga": Row(objectives=(1, 2), small={"population": 8}, ahead=192),
    "moead": Row(objectives=(1, 2, 3), small={"population": 8}, ahead=192),
    "nsga3": Row(objectives=(1, 2, 3), small={"population": 8}, ahead=192),
    "pso": Row(objectives=(1,), small={"population": 8}, ahead=192),
    "rvea": Row(objectives=(1, 2, 3), small={"population": 8, "generations": 24}, ahead=192),
    "sms_emoa": Row(objectives=(1, 2, 3), small={"population": 8}, ahead=192),
    "random": Row(objectives=(1, 2), small={"batch": 4}, ahead=None),
    "tpe": Row(objectives=(1, 2), small={"startup": 5, "batch": 4}, ahead=64),
}
CASES = [(name, n) for name, row in ROWS.items() for n in row.objectives]
over_cases = pytest.mark.parametrize(("name", "n_objectives"), CASES)
over_names = pytest.mark.parametrize("name", list(ROWS))

MIXED: tuple[Gene, ...] = (
    Choice("method", ("linear", "ties", "dare")),
    Real("weight", 0.0, 1.5, step=0.35),  # its last step is cut short by the range
    Real("density", 0.05, 1.0, when=When("method", ("ties", "dare"))),
    Real("rate", 1e-4, 1e-1, log=True, when=When("method", ("dare",))),
    Choice("rescale", (True, False), when=When("method", ("dare",))),
    Whole("groups", 1, 6),
    Choice("mode", (0.5, 2, "none")),
)
CUBE: tuple[Gene, ...] = tuple(Real(f"x{i}", 0.0, 1.0) for i in range(6))
TINY: tuple[Gene, ...] = (
    Choice("a", ("p", "q")),
    Whole("b", 1, 2),
    Choice("c", (True, False), when=When("a", ("q",))),
)  # 2 + 4 genomes


def build(
    name: str,
    n_objectives: int,
    genes: Sequence[Gene] = MIXED,
    seed: int = 0,
    initial: Sequence[Genome] = (),
) -> Proposer:
    module = OPTIMIZERS[name]
    proposer: Proposer = module.build(
        genes, n_objectives, module.Params(**ROWS[name].small), seed, initial
    )
    return proposer


def losses_of(genes: Sequence[Gene], genomes: Sequence[Genome], n_objectives: int) -> Losses:
    """Mean squared distances of the genes, as fractions of their ranges, to one target a column."""
    points = [[g.encode(x[g.name]) if g.name in x else 0.5 for g in genes] for x in genomes]
    targets = np.arange(1, n_objectives + 1) / (n_objectives + 1)
    offsets = np.array(points).reshape(-1, 1, len(genes)) - targets[None, :, None]
    losses: Losses = (offsets**2).mean(axis=2)
    return losses


def mixed_losses(genomes: Sequence[Genome], n_objectives: int) -> Losses:
    """Of `MIXED`, with every fifth candidate failed, so that every law also sees failures."""
    losses = losses_of(MIXED, genomes, n_objectives)
    losses[4::5] = np.nan
    return losses


def mixed_violations(genomes: Sequence[Genome]) -> Violations:
    """Of `MIXED`: every third candidate infeasible by its number of groups."""
    groups = np.array([float(genome["groups"]) for genome in genomes])
    groups[1::3] *= -1
    groups[2::3] = 0
    return groups


def feasible(genomes: Sequence[Genome]) -> None:
    return None


def documents_of(losses: Losses) -> Documents:
    """Which of a few levels each loss reaches; NaN rows for failed candidates."""
    levels = np.array([0.01, 0.03, 0.06, 0.1, 0.2])
    reached = (losses[:, :, None] < levels).reshape(len(losses), -1).astype(float)
    reached[~np.isfinite(losses).all(axis=1)] = np.nan
    return reached


def drive(
    proposer: Proposer,
    n_asks: int,
    losses: Callable[[Sequence[Genome]], Losses],
    violations: Callable[[Sequence[Genome]], Violations | None] = feasible,
) -> list[list[Genome]]:
    asks = []
    for _ in range(n_asks):
        asks.append(list(proposer.ask()))
        table = losses(asks[-1])
        proposer.tell(table, violations(asks[-1]), documents_of(table))
    return asks


def key(genome: Genome) -> tuple[object, ...]:
    return tuple((name, type(value), value) for name, value in genome.items())


def drawn(genes: Sequence[Gene], seed: int, n: int) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [canonical(genes, {g.name: g.decode(rng.random()) for g in genes}) for _ in range(n)]


def test_rows_and_registry_agree() -> None:
    assert set(ROWS) == set(OPTIMIZERS)


@over_names
def test_declaration(name: str) -> None:
    module = OPTIMIZERS[name]
    assert isinstance(module.PAPER, str)
    assert module.PAPER
    assert (max(ROWS[name].objectives) > 1) == (module.OBJECTIVES == "many")
    params = module.Params
    options = TypeAdapter(params)
    assert options.validate_python({}) == params()
    for field in fields(params):
        with pytest.raises(ValidationError):
            options.validate_python({field.name: -1})
        with pytest.raises(FrozenInstanceError):
            setattr(params(), field.name, field.default)


def test_several_objectives_are_refused_where_one_is_handled() -> None:
    for name in ROWS:
        check_objectives(name, 1)
        if OPTIMIZERS[name].OBJECTIVES == "many":
            check_objectives(name, 2)
    with pytest.raises(ConfigError, match=r"'ga' handles one, got 2.*nsga2.*random.*tpe"):
        check_objectives("ga", 2)


@over_cases
def test_asks_are_canonical_new_and_of_plain_types(name: str, n_objectives: int) -> None:
    asks = drive(build(name, n_objectives), 10, lambda genomes: mixed_losses(genomes, n_objectives))
    genomes = [genome for ask in asks for genome in ask]
    assert len({key(genome) for genome in genomes}) == len(genomes) >= 40
    plain = {"weight": float, "density": float, "rate": float, "rescale": bool, "groups": int}
    for genome in genomes:
        assert key(genome) == key(canonical(MIXED, genome))
        assert all(type(genome[gene]) is plain[gene] for gene in plain.keys() & genome.keys())
        assert ("density" in genome) == (genome["method"] != "linear")
        assert ("rate" in genome) == ("rescale" in genome) == (genome["method"] == "dare")
    assert {genome["method"] for genome in genomes} == {"linear", "ties", "dare"}


@over_names
@pytest.mark.parametrize("n", [3, 50], ids=["few", "more than a batch"])
def test_initial_genomes_come_first_each_once(name: str, n: int) -> None:
    initial = drawn(MIXED, 0, n)
    distinct = list(dict.fromkeys(map(key, initial)))
    proposer = build(name, 1, initial=[*initial, initial[0]])
    asked: list[object] = []
    while len(asked) < len(distinct):
        genomes = proposer.ask()
        proposer.tell(mixed_losses(genomes, 1))
        asked += map(key, genomes)
    assert asked[: len(distinct)] == distinct


@over_cases
def test_global_random_state_is_neither_read_nor_written(name: str, n_objectives: int) -> None:
    def reseed(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global generators are the subject)

    def next_draws() -> tuple[float, float]:
        return random.random(), np.random.random_sample()  # noqa: NPY002

    reseed(99)
    untouched = next_draws()
    reseed(99)
    calm = drive(build(name, n_objectives), 5, lambda genomes: mixed_losses(genomes, n_objectives))
    assert next_draws() == untouched
    first, second = build(name, n_objectives), build(name, n_objectives)
    for i, ask in enumerate(calm):
        for proposer in (first, second):  # taking turns, they must not share operators either
            assert proposer.ask() == ask
            reseed(i)
            losses = mixed_losses(ask, n_objectives)
            proposer.tell(losses, None, documents_of(losses))
            reseed(i)


@over_names
def test_another_seed_asks_for_something_else(name: str) -> None:
    assert build(name, 1, seed=0).ask() != build(name, 1, seed=1).ask()


@over_cases
@pytest.mark.parametrize("violations", [feasible, mixed_violations])
def test_a_search_is_resumed_by_replaying_its_record(
    name: str,
    n_objectives: int,
    violations: Callable[[Sequence[Genome]], Violations | None],
) -> None:
    def losses(genomes: Sequence[Genome]) -> Losses:
        return mixed_losses(genomes, n_objectives)

    def answers(genomes: Sequence[Genome]) -> list[object]:
        given = violations(genomes)
        return [losses(genomes).tolist(), None if given is None else given.tolist()]

    whole = drive(build(name, n_objectives), 8, losses, violations)
    record = json.loads(json.dumps([[ask, *answers(ask)] for ask in whole[:5]]))
    resumed = build(name, n_objectives)
    for ask, rows, given in record:
        assert resumed.ask() == ask
        table = np.array(rows)
        resumed.tell(table, None if given is None else np.array(given), documents_of(table))
    assert drive(resumed, 3, losses, violations) == whole[5:]


def transcript() -> str:
    """The asks of every optimizer, as text."""
    return json.dumps(
        [
            drive(build(name, n), 4, lambda genomes, n=n: mixed_losses(genomes, n))  # type: ignore[misc]
            for name, n in CASES
        ]
    )


def test_asks_are_the_same_in_another_process() -> None:
    program = "import test_optimizers; print(test_optimizers.transcript())"
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == transcript()
    assert other.stderr == "", "optimizers do not print or log"


@over_cases
@pytest.mark.parametrize("bad", [0, 3], ids=["first", "later"])
@pytest.mark.parametrize("failed", [0, 1, 2], ids=["infeasible", "half of each", "failed"])
def test_batches_without_a_success_are_survived(
    name: str, n_objectives: int, bad: int, failed: int
) -> None:
    proposer = build(name, n_objectives, CUBE)
    for i in range(12):
        genomes = proposer.ask()
        assert genomes
        losses = losses_of(CUBE, genomes, n_objectives)
        if bad <= i < bad + 3:
            losses[: failed * len(losses) // 2] = np.nan
            proposer.tell(losses, 1 + losses.sum(axis=1))
        else:
            proposer.tell(losses)


@over_cases
def test_a_failure_is_one_whatever_its_numbers(name: str, n_objectives: int) -> None:
    def drive_with(failure: float, everywhere: bool, violation: float) -> list[list[Genome]]:
        def losses(genomes: Sequence[Genome]) -> Losses:
            table = losses_of(CUBE, genomes, n_objectives)
            table[::3, : None if everywhere else 1] = failure
            return table

        def violations(genomes: Sequence[Genome]) -> Violations:
            return np.where(np.arange(len(genomes)) % 3 == 0, violation, 0.0)

        return drive(build(name, n_objectives, CUBE), 8, losses, violations)

    asks = drive_with(np.nan, everywhere=True, violation=0.0)
    assert asks == drive_with(-np.inf, everywhere=False, violation=-1.0)
    assert asks == drive_with(np.inf, everywhere=True, violation=7.0)
    assert asks == drive_with(0.0, everywhere=False, violation=np.nan)


@over_cases
def test_how_far_a_candidate_is_from_infeasible_does_not_matter(
    name: str, n_objectives: int
) -> None:
    def asks(slack: float | None) -> list[list[Genome]]:
        return drive(
            build(name, n_objectives, CUBE),
            8,
            lambda genomes: losses_of(CUBE, genomes, n_objectives),
            lambda genomes: None if slack is None else np.full(len(genomes), -slack),
        )

    assert asks(None) == asks(0.0) == asks(3.0)


@over_cases
@pytest.mark.parametrize("levels", [0, 2], ids=["all equal", "few values"])
def test_equal_losses_are_survived(name: str, n_objectives: int, levels: int) -> None:
    """Benchmarks of a few documents tie; a flat objective leaves a front without extent."""

    def losses(genomes: Sequence[Genome]) -> Losses:
        return np.round(losses_of(CUBE, genomes, n_objectives) * 5 * levels)

    asks = drive(build(name, n_objectives, CUBE), 8, losses)
    assert all(asks)
    assert drive(build(name, n_objectives, CUBE), 8, losses) == asks


@over_cases
def test_a_tiny_space_is_asked_to_its_end(name: str, n_objectives: int) -> None:
    proposer = build(name, n_objectives, TINY)
    asked = []
    while genomes := proposer.ask():
        asked += [key(genome) for genome in genomes]
        proposer.tell(losses_of(TINY, genomes, n_objectives))
    assert len(asked) == len(set(asked)) == 6
    assert proposer.ask() == []


@over_names
def test_a_branch_of_one_genome_does_not_end_the_search(name: str) -> None:
    genes = (Choice("branch", ("fixed", "free")), Real("x", 0, 1, when=When("branch", ("free",))))
    proposer = build(name, 1, genes)
    for _ in range(8):
        genomes = proposer.ask()
        assert genomes
        proposer.tell(np.array([[float(genome.get("x", -1))] for genome in genomes]))


@over_names
def test_logging_is_left_as_the_user_set_it(name: str) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    build(name, 1).ask()
    after = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(before)
    assert after == optuna.logging.DEBUG
