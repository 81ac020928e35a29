"""From the `search_space:` block of an experiment (or a preset file) to a SearchSpace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from search_spaces import strict_yaml
from search_spaces.anatomy import Anatomy
from search_spaces.errors import SpaceError, unknown
from search_spaces.parameters import AIM_PARAMETERS, Parameter, Setting
from search_spaces.space import Encoding, MethodFacts, Models, Searched, SearchSpace, relative

AXES = ("expert", "group", "module")
_GENE_KEYS = {"low", "high", "log", "per", "options"}
_SPACE_KEYS = {"method", "genes", "fixed", "encoding"}
_ENCODINGS: dict[str, Encoding] = {"plain": "plain", "delta": "delta"}


@dataclass(frozen=True)
class Layout:
    """How finely a space resolves the model: blocks of layers, and module types within them."""

    layer_groups: int = 1
    module_types: tuple[str, ...] = ()


def preset_names() -> tuple[str, ...]:
    """Names of the spaces that come with the package."""
    folder = files("search_spaces") / "presets"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def read_preset(name: str) -> dict[str, Any]:
    """The `method`, `genes` and `fixed` of a preset.

    Raises:
        SpaceError: there is no preset of that name.
    """
    if name not in preset_names():
        raise SpaceError(unknown("preset", name, preset_names()))
    text = (files("search_spaces") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return strict_yaml.parse(text, f"preset {name}")


def build_space(
    block: Mapping[str, Any],
    layout: Layout,
    facts: Callable[[str], MethodFacts],
    models: Models,
    anatomy: Anatomy,
) -> SearchSpace:
    """The space that a block of `method`, `genes` and `fixed` describes; mask seed 0.

    Args:
        block: `method`: a name or a list of names (then the method is a gene); `genes`: parameter
            -> {low, high, log, options, per}, all optional; `fixed`: parameter -> value;
            `encoding`: plain, or delta, with which optimizers move the cells of a parameter
            together and apart from the first.
        layout: layer groups and module types that `per: [group, module]` refers to.
        facts: a method's declaration by name; raises for unknown names.
        models: base and experts.
        anatomy: of the base model.

    Raises:
        SpaceError: anything in the block that does not fit the methods or the model.
    """
    for key in block:
        if key not in _SPACE_KEYS:
            raise SpaceError(f"search_space: {unknown('key', key, _SPACE_KEYS)}")
    encoding = block.get("encoding") or "delta"
    if encoding not in _ENCODINGS:
        raise SpaceError(f"search_space: {unknown('encoding', encoding, _ENCODINGS)}")
    methods = tuple(facts(n) for n in method_names(block))
    if not 1 <= layout.layer_groups <= anatomy.n_layers:
        raise SpaceError(
            f"search_space.layer_groups: must lie in [1, {anatomy.n_layers}] (the base model has "
            f"{anatomy.n_layers} layers), got {layout.layer_groups}"
        )
    for t in layout.module_types:
        anatomy.filters(t)
    if len(set(layout.module_types)) != len(layout.module_types):
        raise SpaceError(f"search_space.module_types: listed twice in {list(layout.module_types)}")
    searched = _searched(block.get("genes"), methods)
    fixed = _fixed(block.get("fixed"), methods, {s.name for s in searched})
    searched, fixed = _for_experts(len(models.experts), searched, fixed, methods)
    for m in methods:
        given = {s.name for s in searched} | set(fixed)
        missing = [p for p, d in m.parameters.items() if d.default is None and p not in given]
        if missing:
            raise SpaceError(
                f"search_space: {m.name} needs '{missing[0]}'; put it under genes or fixed"
            )
    return SearchSpace(
        methods,
        searched,
        fixed,
        models,
        anatomy,
        layout.layer_groups,
        layout.module_types,
        encoding=_ENCODINGS[encoding],
    )


def method_names(block: Mapping[str, Any]) -> list[str]:
    """The merge methods that a block of `method`, `genes` and `fixed` searches.

    Raises:
        SpaceError: neither a name nor a list of distinct names.
    """
    names = block.get("method")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise SpaceError(f"search_space.method: a name or a list of names expected, got {names!r}")
    if len(set(names)) != len(names):
        raise SpaceError(f"search_space.method: a method is listed twice in {names}")
    return names


def _searched(genes: Any, methods: Sequence[MethodFacts]) -> tuple[Searched, ...]:
    if not isinstance(genes, Mapping) or not genes:
        raise SpaceError("search_space.genes: at least one 'parameter: {...}' expected")
    found = []
    for name, data in genes.items():
        where = f"search_space.genes.{name}"
        declared, users = _declared(name, methods, where)
        options = {} if data is None else data
        if not isinstance(options, Mapping):
            raise SpaceError(f"{where}: {{low, high, log, per}} expected, got {data!r}")
        for key in options:
            if key not in _GENE_KEYS:
                raise SpaceError(f"{where}: {unknown('key', key, _GENE_KEYS)}")
        per = options.get("per", [])
        per = [per] if isinstance(per, str) else per
        if not isinstance(per, list):
            raise SpaceError(f"{where}.per: a list of {', '.join(AXES)} expected, got {per!r}")
        for axis in per:
            if axis not in AXES:
                raise SpaceError(f"{where}.per: {unknown('axis', axis, AXES)}")
        if "expert" in per and not declared.per_model:
            raise SpaceError(f"{where}.per: {name} is one value for all experts; drop 'expert'")
        found.append(_gene(name, declared, (options, where), frozenset(per), users))
    return tuple(found)


def _gene(
    name: str,
    declared: Parameter,
    given: tuple[Mapping[str, Any], str],
    per: frozenset[str],
    users: tuple[str, ...],
) -> Searched:
    """One searched parameter: a range of numbers, or a choice of names or true/false."""
    options, where = given
    named = declared.choices or ((False, True) if declared.switch else ())
    if named:
        wrong = sorted({"low", "high", "log"} & set(options))
        if wrong:
            raise SpaceError(f"{where}: is a choice, '{wrong[0]}' does not apply; give options")
        chosen = options.get("options", list(named))
        if not isinstance(chosen, list) or len(chosen) < 2:
            raise SpaceError(f"{where}.options: at least two of {list(named)} expected")
        checked = tuple(declared.check(f"{where}.options", v) for v in chosen)
        return Searched(name, 0.0, 0.0, False, per, users, options=checked)
    if "options" in options:
        raise SpaceError(f"{where}: is a number, 'options' does not apply; give low and high")
    if declared.search is None and not {"low", "high"} <= set(options):
        raise SpaceError(f"{where}: has no search range; give low and high, or put it in fixed")
    low, high = declared.search or (0.0, 1.0)
    low = float(declared.check(f"{where}.low", options.get("low", low)))
    high = float(declared.check(f"{where}.high", options.get("high", high)))
    log = options.get("log", declared.log)
    if not isinstance(log, bool):
        raise SpaceError(f"{where}.log: true or false expected, got {log!r}")
    if not low < high:
        raise SpaceError(
            f"{where}: low must be below high, got [{low:g}, {high:g}]; "
            "a value that shall not vary belongs under search_space.fixed"
        )
    if log and low <= 0:
        raise SpaceError(f"{where}: log needs low > 0, got {low:g}")
    return Searched(name, low, high, log, per, users, whole=declared.whole)


def _declared(
    name: str, methods: Sequence[MethodFacts], where: str
) -> tuple[Parameter, tuple[str, ...]]:
    if name in AIM_PARAMETERS:
        return AIM_PARAMETERS[name], ()
    users = tuple(m.name for m in methods if name in m.parameters)
    if not users:
        known = {p for m in methods for p in m.parameters} | set(AIM_PARAMETERS)
        raise SpaceError(f"{where}: {unknown('parameter', name, known)}")
    return next(m for m in methods if m.name == users[0]).parameters[name], users


def _fixed(fixed: Any, methods: Sequence[MethodFacts], searched: set[str]) -> dict[str, Setting]:
    if fixed is None:
        return {}
    if not isinstance(fixed, Mapping):
        raise SpaceError(f"search_space.fixed: 'parameter: value' expected, got {fixed!r}")
    values = {}
    for name, value in fixed.items():
        where = f"search_space.fixed.{name}"
        if name in searched:
            raise SpaceError(f"{where}: is searched already; keep it in genes or in fixed")
        values[name] = _declared(name, methods, where)[0].check(where, value)
    return values


def _for_experts(
    n: int,
    searched: tuple[Searched, ...],
    fixed: dict[str, Setting],
    methods: Sequence[MethodFacts],
) -> tuple[tuple[Searched, ...], dict[str, Setting]]:
    """What so many experts leave to search: a count of them ends at n, ratios need two.

    Raises:
        SpaceError: nothing.
    """
    left, settled = [], dict(fixed)
    for s in searched:
        users = [m for m in methods if s.name in m.parameters]
        if any(m.parameters[s.name].experts for m in users):
            s = replace(s, high=min(s.high, float(n)))
        alone = n == 1 and bool(users)
        if alone and all(relative(m, s.name, searched, fixed) for m in users):
            settled[s.name] = 1.0
        elif not s.options and s.low >= s.high:
            settled[s.name] = s.high
        else:
            left.append(s)
    if not left:
        raise SpaceError(
            "search_space: with a single expert, of which only ratios to others would matter, "
            "nothing is left to search; give more experts, or search omega"
        )
    return tuple(left), settled
