"""Peak resident memory, measured in a process of its own: what each placement promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evoaim.export.shards import Slot, write_shards
from evoaim.placement import WINDOW

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MIB = 1 << 20
HIDDEN, LAYERS, WIDE, WORDS = 512, 8, 1408, 8192
Shapes = dict[str, tuple[int, ...]]
SQUARE: Shapes = dict.fromkeys([f"self_attn.{n}_proj" for n in "qkvo"], (HIDDEN, HIDDEN))
MLP: Shapes = {"mlp.gate_proj": (WIDE, HIDDEN), "mlp.up_proj": (WIDE, HIDDEN)}
BLOCK = SQUARE | MLP | {"mlp.down_proj": (HIDDEN, WIDE)}
BLOCK |= dict.fromkeys(["input_layernorm", "post_attention_layernorm"], (HIDDEN,))
SHAPES = {f"model.layers.{i}.{n}.weight": s for i in range(LAYERS) for n, s in BLOCK.items()}
SHAPES |= {"model.embed_tokens.weight": (WORDS, HIDDEN), "model.norm.weight": (HIDDEN,)}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": WORDS,
    "tie_word_embeddings": True,
}

# Peak and present resident memory; writing 5 to clear_refs resets the peak.
MEASURE = """
import sys
from pathlib import Path
def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(l for l in lines if l.startswith(name)).split()[1])
def begin():
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")
folder = Path(sys.argv[1])
"""

MERGE = """
import gc
import torch
import transformers.models.llama.modeling_llama
from evoaim import MergeEngine, Recipe
from evoaim.export import Exported, export_model
from evoaim.merger import Merger
base, experts = str(folder / "base"), {n: str(folder / n) for n in "abc"}
def recipe(method, **own):
    models = [{"model": n, "parameters": {"weight": 0.5, **own}} for n in experts]
    return Recipe.from_dict({"merge_method": method, "base_model": base, "models": models})
plans = {
    "mapped": recipe("ties", density=0.50005),  # reads everything to prepare one threshold
    "auto": recipe("task_arithmetic"),
}
merger = Merger.open(base, experts, "cpu")
for merge in plans.values():  # compiles the kernel
    norm = torch.empty(512, dtype=torch.bfloat16)
    merger.merge_into(norm, "model.norm.weight", merger.planner(merge)).finite()
print(merger.base.n_bytes)
del merger
for placement, merge in plans.items():
    gc.collect()
    before = begin()
    engine = MergeEngine.from_pretrained(base, experts, "cpu", "bfloat16", placement=placement)
    for _ in range(2):
        with engine.materialize(merge):
            pass
    print(resident("VmHWM") - before)
    del engine
    gc.collect()
    begin()
    merger = Merger.open(base, experts, "cpu", placement)
    export_model(merger, Exported(merge, {}), folder / "out" / placement, "bfloat16")
    print(resident("VmHWM") - before)
    del merger
"""


def random_family(root: Path, dtype: torch.dtype = torch.bfloat16, layers: int = LAYERS) -> Path:
    """A random base and experts a, b and c: 4 million parameters, and 3.2 million a layer, each."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"model.layers.{i}.{n}.weight": s for i in range(layers) for n, s in BLOCK.items()}
    shapes |= {k: s for k, s in SHAPES.items() if ".layers." not in k}
    slots = {k: Slot(s, dtype) for k, s in shapes.items()}
    for name in ("base", "a", "b", "c"):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
        spread = [torch.empty(shapes[k]).normal_(0, 0.02, generator=generator) for k in slots]
        write_shards(folder, slots, lambda _, values=spread: (v.to(dtype) for v in values))
    return root


def test_peaks_of_the_placements(tmp_path: Path) -> None:
    """Of a search's candidates, and of an export."""
    family = random_family(tmp_path / "family")
    command = [sys.executable, "-c", MEASURE + MERGE, str(family)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copy, *peaks = map(int, done.stdout.split())
    assert max(peaks[:2]) < 2 * copy + WINDOW + 64 * MIB  # mapped
    assert peaks[2] > 3.5 * copy  # what is kept is seen
    assert max(peaks[2:]) < 1.1 * (3 + 2) * copy + 64 * MIB  # the default
