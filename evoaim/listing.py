"""What `evoaim list` prints: names, parameters, ranges and papers, read from the declarations."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from evoaim.errors import ConfigError
from evoaim.registry import ESTIMATORS, METHODS, OPTIMIZERS, SELECTORS, Registry
from search_spaces.build import preset_names, read_preset
from search_spaces.errors import unknown
from search_spaces.parameters import AIM_PARAMETERS, Parameter

WHAT = ("methods", "spaces", "optimizers", "estimators", "panels")
_HANDLED = {"one": "one", "many": "one or more"}


def listing(what: str) -> Iterator[str]:
    """The lines of one list.

    Raises:
        ConfigError: there is no such list.
    """
    if what not in WHAT:
        raise ConfigError(unknown("list", what, WHAT))
    if what == "methods":
        yield from _methods()
    elif what == "spaces":
        yield from _spaces()
    else:
        registries = {"optimizers": OPTIMIZERS, "estimators": ESTIMATORS, "panels": SELECTORS}
        yield from _plugins(registries[what])
    if what == "optimizers":
        yield "in a schedule (a list of optimizers), all but the last also have"
        yield "    candidates: required; after so many, seeds not counted, the next one begins"


def _methods() -> Iterator[str]:
    for name in METHODS:
        module = METHODS[name]
        yield f"{name}  ({module.PAPER})"
        yield f"    {_summary(module)}"
        for p, declared in module.PARAMETERS.items():
            yield f"    {p:<10} {_parameter(declared)}"
    yield "aim  (arXiv:2502.02421; on top of every method)"
    for p, declared in AIM_PARAMETERS.items():
        yield f"    {p:<10} {_parameter(declared)}"


def _parameter(p: Parameter) -> str:
    parts = [p.doc]
    parts.append("required" if p.default is None else f"default {_value(p.default)}")
    if p.search is not None:
        scale = ", log" if p.log else ""
        parts.append(f"searched in [{p.search[0]:g}, {p.search[1]:g}{scale}]")
    if p.per_model:
        parts.append("per model")
    return "; ".join(parts)


def _spaces() -> Iterator[str]:
    for name in preset_names():
        preset = read_preset(name)
        methods = preset["method"]
        yield f"{name}  (method: {methods if isinstance(methods, str) else ' | '.join(methods)})"
        for gene, options in preset["genes"].items():
            per = (options or {}).get("per", [])
            yield f"    {gene:<10} {'one per ' + ' and '.join(per) if per else 'one value'}"
        for key, value in (preset.get("fixed") or {}).items():
            yield f"    {key:<10} fixed at {_value(value)}"


def _plugins(registry: Registry) -> Iterator[str]:
    for name in registry:
        module = registry[name]
        yield f"{name}  ({module.PAPER})"
        yield f"    {_summary(module)}"
        if hasattr(module, "OBJECTIVES"):
            yield f"    objectives: {_HANDLED[module.OBJECTIVES]}"
        if hasattr(module, "PANEL"):
            yield f"    panel: {module.PANEL}, unless fitness.panel says another"
        if getattr(module, "REFERENCES", 0):
            needed = "1 model" if module.REFERENCES == 1 else f"{module.REFERENCES} models"
            yield f"    needs {needed} scored on all search documents"
        options = fields(module.Params)
        if options:
            yield f"    options: {_summary(module.Params)}"
        for field in options:
            yield f"    {field.name}: {_field(field)}"


def _field(field: Field[Any]) -> str:
    return "required" if field.default is MISSING else f"default {_value(field.default)}"


def _value(value: Any) -> str:
    """As an experiment file has it; whole numbers without a point."""
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _summary(module: Any) -> str:
    return str(module.__doc__).strip().splitlines()[0]
