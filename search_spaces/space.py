"""A search space over recipes: genes derived from the methods' declarations, per expert and cell.

A *cell* is a block of consecutive layers (layer group) times a module type. What lies outside the
layers, or in none of the module types, is the cell `rest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

from search_spaces.anatomy import Anatomy
from search_spaces.genes import Choice, Gene, Genome, Real, Value, When, Whole, canonical
from search_spaces.parameters import AIM_PARAMETERS, ALWAYS, Parameter, Setting
from search_spaces.recipe import Aim, Recipe, Source, Spec
from search_spaces.seeds import seeds_of

STEP = 1e-3  # grid of linear genes: readable recipes, and statistics that can be prepared
REST = "rest"
METHOD = "method"
PAIR = "pair"
Encoding = Literal["plain", "delta"]


@dataclass(frozen=True)
class MethodFacts:
    """What a space needs to know of a merge method: its parameters, how many experts it takes."""

    name: str
    parameters: Mapping[str, Parameter]
    max_experts: int | None = None
    endpoint: bool = True  # with one expert: the other end may be an expert, too


@dataclass(frozen=True)
class Models:
    """The base and the experts by short name, each as the path or id that recipes shall carry."""

    base: str
    experts: Mapping[str, str]


@dataclass(frozen=True)
class Searched:
    """One searched parameter: its range and the axes (expert, group, module) it varies along."""

    name: str
    low: float
    high: float
    log: bool
    per: frozenset[str]
    methods: tuple[str, ...]  # in which it is active; empty: in all
    options: tuple[Setting, ...] = ()  # of a choice; then low and high mean nothing
    whole: bool = False

    def gene(self, name: str, method_gene: bool, ratio: str = "") -> Gene:
        """The gene for one expert and cell; see `Real` for `ratio`."""
        when = When(METHOD, self.methods) if method_gene and self.methods else None
        if self.options:
            return Choice(name, self.options, when)
        if self.whole:
            return Whole(name, round(self.low), round(self.high), when)
        fine = self.log and self.low < 10 * STEP  # too fine a range for the grid
        return Real(name, self.low, self.high, self.log, None if fine else STEP, when, ratio)


def relative(
    method: MethodFacts, name: str, searched: Sequence[Searched], fixed: Mapping[str, Setting]
) -> bool:
    """Whether only the ratios of a parameter's values matter, as `Parameter.relative` has it."""
    declared = method.parameters.get(name)
    if declared is None or declared.relative in ("", ALWAYS):
        return declared is not None and declared.relative == ALWAYS
    switch = method.parameters.get(declared.relative)
    if switch is None or any(s.name == declared.relative for s in searched):
        return False
    return bool(fixed.get(declared.relative, switch.default))


@dataclass(frozen=True)
class SearchSpace:
    """Genes plus `decode`, from a genome to the recipe it stands for."""

    methods: tuple[MethodFacts, ...]
    searched: tuple[Searched, ...]
    fixed: Mapping[str, Setting]
    models: Models
    anatomy: Anatomy
    layer_groups: int
    module_types: tuple[str, ...]
    seed: int = 0
    encoding: Encoding = "plain"  # delta: cells are moved together, and apart from the first

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """All genes; conditions only look at earlier ones."""
        genes: list[Gene] = []
        if len(self.methods) > 1:
            genes.append(Choice(METHOD, tuple(m.name for m in self.methods)))
        pairwise = tuple(m.name for m in self.methods if m.max_experts == 1)
        if pairwise and len(self.pairs) > 1:
            when = When(METHOD, pairwise) if len(self.methods) > 1 else None
            genes.append(Choice(PAIR, tuple(self.pairs), when))
        for s in self.searched:
            many = len(self.methods) > 1
            by_ratio = self._by_ratio(s)
            for name in self.names(s):
                gene = s.gene(name, many, _of_all(name) if by_ratio else "")
                anchor = next(n for n in self.names(s) if _stem(n, s) == _stem(name, s))
                if self.encoding == "delta" and isinstance(gene, Real) and anchor != name:
                    gene = replace(gene, near=anchor)
                genes.append(gene)
        return tuple(genes)

    def decode(self, genome: Genome) -> Recipe:
        """The recipe of a genome. Pure: equal genomes give equal recipes.

        Raises:
            SpaceError: a gene is missing or out of its options.
        """
        values = canonical(self.genes, genome)
        method = self._method(values)
        shared: dict[str, Spec] = {}
        own: dict[str, dict[str, Spec]] = {e: {} for e in self.models.experts}
        for s in self.searched:
            if s.name in AIM_PARAMETERS or s.name not in method.parameters:
                continue
            if "expert" in s.per:
                for e, parameters in own.items():
                    parameters[s.name] = self._spec(s, values, e)
            else:
                shared[s.name] = self._spec(s, values, None)
        for name, value in self.fixed.items():
            if name in method.parameters:
                shared[name] = value
        base, sources = self._sources(method, values, own)
        relaxed_to = self.models.base if base != self.models.base else None
        aim: dict[str, Spec] = {n: v for n, v in self.fixed.items() if n in AIM_PARAMETERS}
        aim |= {
            s.name: self._spec(s, values, None) for s in self.searched if s.name in AIM_PARAMETERS
        }
        return Recipe(
            merge_method=method.name,
            base_model=base,
            models=sources,
            parameters=shared,
            aim=Aim(**aim, base_model=relaxed_to) if aim else None,  # type: ignore[arg-type]
            seed=self.seed,
        )

    def seeds(self, weights: Sequence[Mapping[str, float]] = ()) -> tuple[Genome, ...]:
        """Known recipes to start from, the most valuable first; see `search_spaces.seeds`.

        Args:
            weights: expert -> weight, what models or scores say of the experts.
        """
        return tuple(seeds_of(self, weights))

    def _by_ratio(self, s: Searched) -> bool:
        """Whether genes of all experts lose nothing when the largest of a cell is 1."""
        users = [m for m in self.methods if s.name in m.parameters]
        ranged = not s.log and s.high >= 1 and (s.low == 0 or s.low <= -1)
        relative = all(self.is_relative(m, s.name) for m in users)
        return ranged and relative and "expert" in s.per and bool(users)

    def is_relative(self, method: MethodFacts, name: str) -> bool:
        """Whether only the ratios of a parameter's values matter, not their common scale."""
        return relative(method, name, self.searched, self.fixed)

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """The pairs that a two-model method can interpolate between, by gene option."""
        experts = list(self.models.experts)
        if len(experts) == 1:
            return {experts[0]: ("", experts[0])}
        return {f"{a}+{b}": (a, b) for a, b in combinations(experts, 2)}

    def _method(self, values: Genome) -> MethodFacts:
        name = values.get(METHOD, self.methods[0].name)
        return next(m for m in self.methods if m.name == name)

    def _sources(
        self, method: MethodFacts, values: Genome, own: Mapping[str, dict[str, Spec]]
    ) -> tuple[str, tuple[Source, ...]]:
        paths = self.models.experts
        if method.max_experts == 1:
            first, second = self.pairs[str(values.get(PAIR, next(iter(self.pairs))))]
            base = paths[first] if first else self.models.base
            return base, (Source(base), Source(paths[second], own[second]))
        return self.models.base, tuple(Source(paths[e], own[e]) for e in paths)

    def _cells(self, s: Searched) -> tuple[tuple[int | None, str | None], ...]:
        """(layer group, module type) of every cell of a parameter; () when it is one value."""
        groups = range(self.layer_groups) if "group" in s.per and self.layer_groups > 1 else [None]
        types = self.module_types if "module" in s.per and self.module_types else [None]
        cells = tuple((g, t) for g in groups for t in types)
        return () if cells == ((None, None),) else cells

    def names(self, s: Searched) -> list[str]:
        """Gene names of one searched parameter: name[.expert][.gK][.type] or name[.expert].rest."""
        experts = list(self.models.experts) if "expert" in s.per else [None]
        cells = [_cell_name(c) for c in self._cells(s)]
        ends = [*cells, REST] if cells else [None]
        return [".".join(p for p in (s.name, e, c) if p) for e in experts for c in ends]

    def _spec(self, s: Searched, values: Genome, expert: str | None) -> Spec:
        """The parameter's setting in recipe form: a scalar, or filters over per-layer lists."""
        stem = f"{s.name}.{expert}" if expert else s.name
        cells = self._cells(s)
        if not cells:
            return _plain(values[stem])
        entries: list[dict[str, Any]] = []
        n = self.anatomy.n_layers
        for t in dict.fromkeys(t for _, t in cells):
            groups = [g for g, u in cells if u == t]
            by_group = [_plain(values[f"{stem}.{_cell_name((g, t))}"]) for g in groups]
            setting = (
                by_group[0]
                if groups == [None]
                else [by_group[i * self.layer_groups // n] for i in range(n)]
            )
            filters = self.anatomy.filters(t) if t else (self.anatomy.layer_prefix,)
            entries += [{"filter": f, "value": setting} for f in filters]
        return [*entries, {"value": _plain(values[f"{stem}.{REST}"])}]


def _cell_name(cell: tuple[int | None, str | None]) -> str:
    group, module = cell
    return ".".join(p for p in (f"g{group}" if group is not None else "", module or "") if p)


def _stem(name: str, s: Searched) -> str:
    """A gene's name without its cell."""
    return ".".join(name.split(".")[: 2 if "expert" in s.per else 1])


def _of_all(name: str) -> str:
    """A gene's name without its expert."""
    stem, _, *cell = name.split(".")
    return ".".join([stem, *cell])


def _plain(value: Value) -> Setting:
    return value if isinstance(value, bool | str) else float(value)
