"""One candidate's merge against a plain copy of the bytes that it reads, and against mergekit.

    python experiments/benchmarks/materialize.py [--size 25m] [--device cpu] [--repeats 7]
                                                 [--methods ties,linear] [--disk]

Random bfloat16 checkpoints, base and three experts (as many as the method takes), AIM on. All rows
are measured in one run, in alternation, and each method beside its own copy; only the ratios mean
something on another machine. mergekit's columns need the `peers` extra: in memory (its best case),
and with --disk to a folder and loaded back, as tools without an engine do.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from peers import in_memory, to_disk
from rich.console import Console
from rich.table import Table

from evoaim import Importance, MergeEngine, Recipe
from evoaim.kernel import BASE
from evoaim.live import quiet
from evoaim.registry import METHODS
from search_spaces.parameters import Parameter, Setting

SIZES = {
    "2m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "heads": 4},
    "25m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "heads": 6},
    "160m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "heads": 12},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 20, "heads": 16},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "heads": 32},
}
NAMES = ("a", "b", "c")
# Where the declared default would make the method do nothing, or there is none.
VALUES: Mapping[str, Setting] = {"weight": 0.4, "density": 0.5, "t": 0.3, "scale": 1.0}


def checkpoints(folder: Path, size: str) -> dict[str, str]:
    """Random models; experts are the base plus small noise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(SIZES[size])
    heads = shape.pop("heads")
    config = LlamaConfig(
        vocab_size=16384,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        **shape,
    )
    torch.manual_seed(0)
    with quiet():
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        base = {k: v.clone() for k, v in model.state_dict().items()}
        for name in ("base", *NAMES):
            if name != "base":
                noisy = {
                    k: v + 0.02 * torch.randn_like(v) * v.abs().mean() for k, v in base.items()
                }
                model.load_state_dict(noisy)
            model.save_pretrained(folder / name)
    return {n: str(folder / n) for n in ("base", *NAMES)}


def recipe(method: str, models: Mapping[str, str]) -> Recipe:
    """The benchmark's recipe of a method: as many experts as it takes, half its elements."""
    declared: Mapping[str, Parameter] = METHODS[method].PARAMETERS
    _, most = METHODS[method].EXPERTS
    names = NAMES[: min(most or 3, 3)]
    if method == "passthrough":
        names = NAMES[:1]
    values = {n: VALUES.get(n, p.default) for n, p in declared.items()}
    values |= {n: p.published for n, p in declared.items() if values[n] is None}
    own = {n: v for n, v in values.items() if declared[n].per_model and v is not None}
    shared = {n: v for n, v in values.items() if not declared[n].per_model and v is not None}
    data = {
        "merge_method": method,
        "models": [{"model": models[n], "parameters": own} for n in names],
        "parameters": shared,
        "aim": {"omega": 0.4},
    }
    if METHODS[method].BASE not in ("none", "point"):
        data["base_model"] = models["base"]
    return Recipe.from_dict(data)


@dataclass
class Row:
    """Seconds of one method's runs, each beside a copy of the bytes that it reads."""

    ours: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    disk: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="25m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", default="")
    parser.add_argument("--disk", action="store_true")
    options = parser.parse_args()
    chosen = options.methods.split(",") if options.methods else list(METHODS)
    chosen = [m for m in chosen if not getattr(METHODS[m], "NEEDS", ())]  # no texts here
    with tempfile.TemporaryDirectory() as folder:
        models = checkpoints(Path(folder), options.size)
        engine = engine_of(models, options.device)
        rows = {m: measure(engine, recipe(m, models), options) for m in chosen}
    parameters = sum(p.numel() for p in engine.live.parameters())
    show(rows, f"{parameters / 1e6:.0f}M parameters, bfloat16, {options.device}")


def engine_of(models: Mapping[str, str], device: str) -> MergeEngine:
    """An engine with random importance for every weight that AIM relaxes."""
    engine = MergeEngine.from_pretrained(
        models["base"], {n: models[n] for n in NAMES}, device, "bfloat16"
    )
    blueprint, g = engine.merger.blueprint, torch.Generator().manual_seed(0)
    channels = {
        key: torch.rand(shape[-1], generator=g)
        for key, shape in blueprint.shapes.items()
        if blueprint.kinds[key] in ("linear", "norm")
    }
    return engine.with_importance(Importance(channels))


def measure(engine: MergeEngine, r: Recipe, options: argparse.Namespace) -> Row:
    """All columns of one method."""
    merger, row = engine.merger, Row()
    names = [s.model for s in r.models]
    keys = {w.name: m for m, w in merger.models.items()}
    read = [
        merger.store.tensor(m, k).clone()
        for m in (BASE, *(keys[n] for n in names))
        for k in merger.blueprint.places
    ]
    target = [torch.empty_like(t) for t in read]

    def copy() -> None:
        for t, source in zip(target, read, strict=True):
            t.copy_(source)

    def ours() -> None:
        with engine.materialize(r):
            pass

    ours()  # prepares statistics
    for _ in range(options.repeats):
        row.copy.append(seconds(copy, merger.device))
        row.ours.append(seconds(ours, merger.device))
    if merger.device.type == "cpu":
        peers = [(in_memory, row.memory)] + ([(to_disk, row.disk)] if options.disk else [])
        for peer, column in peers:
            run = peer(r, merger)
            if run is not None:  # once: mergekit's ties sorts for seconds
                column.append(seconds(run, merger.device))
    return row


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Wall seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def show(rows: Mapping[str, Row], title: str) -> None:
    """The table."""
    table = Table("method", "ms", "x copy", "mergekit in memory", "mergekit to disk", title=title)
    for method, row in rows.items():
        own = median(row.ours)
        theirs = [
            f"{median(c) / own:.1f} times slower" if c else "" for c in (row.memory, row.disk)
        ]
        table.add_row(method, f"{own * 1e3:.1f}", f"{own / median(row.copy):.2f}", *theirs)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
