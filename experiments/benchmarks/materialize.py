"""One candidate's merge against a plain copy of the bytes that it reads, and against mergekit.

    python experiments/benchmarks/materialize.py [--size 25m] [--device cpu] [--repeats 7]

Random bfloat16 checkpoints, base and three experts, AIM on. All rows are measured in one run, in
alternation; only the ratios mean something on another machine. mergekit's rows (in memory, its best
case) need the `peers` extra.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from evoaim import Importance, MergeEngine, Recipe
from evoaim.live import quiet
from evoaim.plan import BASE

SIZES = {
    "2m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "heads": 4},
    "25m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "heads": 6},
    "160m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "heads": 12},
}
METHODS = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "slerp": {"t": 0.3},
}


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
        for name in ("base", "a", "b", "c"):
            if name != "base":
                noisy = {k: v + 0.02 * torch.randn_like(v) * v.std() for k, v in base.items()}
                model.load_state_dict(noisy)
            model.save_pretrained(folder / name)
    return {n: str(folder / n) for n in ("base", "a", "b", "c")}


def recipe(method: str, names: str) -> Recipe:
    """The benchmark's recipe of a method."""
    settings = METHODS[method]
    own = {} if method == "slerp" else {"weight": 0.4}
    if "density" in settings:
        own["density"] = settings["density"]
    return Recipe.from_dict(
        {
            "merge_method": method,
            "base_model": "base",
            "models": [{"model": n, "parameters": own} for n in names],
            "parameters": {"t": settings["t"]} if "t" in settings else {},
            "aim": {"omega": 0.4},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="25m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = checkpoints(Path(folder), options.size)
        bench(models, options)


def bench(models: dict[str, str], options: argparse.Namespace) -> None:
    experts = {n: models[n] for n in "abc"}
    engine = MergeEngine.from_pretrained(models["base"], experts, options.device, "bfloat16")
    g = torch.Generator().manual_seed(0)
    channels = {
        n: torch.rand(p.shape[-1], generator=g)
        for n, p in engine.live.named_parameters()
        if "embed" not in n
    }
    device = next(engine.live.parameters()).device
    object.__setattr__(engine, "importance", Importance(channels).to(device))
    read = [
        engine.tensor(m, k, device).clone() for m in (BASE, *"abc") for k in engine.names.values()
    ]
    target = [torch.empty_like(t) for t in read]

    def copy() -> None:
        for t, r in zip(target, read, strict=True):
            t.copy_(r)

    def merge(method: str) -> Callable[[], None]:
        r = recipe(method, "a" if method == "slerp" else "abc")

        def run() -> None:
            with engine.materialize(r):
                pass

        return run

    work: dict[str, Callable[[], None]] = {"copy": copy, **{m: merge(m) for m in METHODS}}
    peers = theirs(engine) if options.device == "cpu" else {}
    times: dict[str, list[float]] = {n: [] for n in [*work, *peers]}
    for run in work.values():
        run()  # prepares statistics
    for _ in range(options.repeats):
        for name, run in work.items():
            times[name].append(seconds(run, device))
    for name, run in peers.items():
        times[name].append(seconds(run, device))  # once: mergekit's ties sorts for seconds
    parameters = sum(p.numel() for p in engine.live.parameters())
    table = Table(
        "method",
        "ms",
        "times the copy of what it reads",
        "mergekit in memory, times ours",
        title=f"{parameters / 1e6:.0f}M parameters, bfloat16, 3 experts, {device}, "
        f"{torch.get_num_threads()} threads",
    )
    for name in work:
        ms = 1e3 * median(times[name])
        share = 0.5 if name == "slerp" else 1.0  # slerp reads two of the four models
        ratio = ms / (1e3 * median(times["copy"]) * share)
        peer = times.get(f"mergekit {name}")
        factor = f"{1e3 * median(peer) / ms:.1f}" if peer else "-"
        table.add_row(name, f"{ms:.1f}", "1" if name == "copy" else f"{ratio:.1f}", factor)
    Console().print(table)


def theirs(engine: MergeEngine) -> dict[str, Callable[[], None]]:
    """mergekit's in-memory merge of the same recipes, without AIM, which it lacks."""
    try:
        from mergekit.merge_methods.api import merge_state_dicts
    except ImportError:
        return {}
    cpu = torch.device("cpu")
    state = {
        m: {k: engine.tensor(BASE if m == "base" else m, k, cpu) for k in engine.names.values()}
        for m in ("base", *"abc")
    }

    def run(method: str) -> Callable[[], None]:
        names = "a" if method == "slerp" else "abc"
        own = [] if method == "slerp" else ["weight"]
        values = {"weight": 0.4, "density": 0.5}
        own += ["density"] if "density" in METHODS[method] else []
        parameters = {p: dict.fromkeys(names, values[p]) for p in own}
        shared = {"t": 0.3} if method == "slerp" else {}
        inputs = {m: state[m] for m in (names if method == "linear" else ("base", *names))}
        base = {} if method == "linear" else {"base": "base"}
        return lambda: merge_state_dicts(
            inputs, method, parameters={**parameters, **shared}, dtype=torch.bfloat16, **base
        )

    return {f"mergekit {m}": run(m) for m in METHODS}


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Wall seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
