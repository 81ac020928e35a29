"""What an export says of itself: recipe, mergekit config, card, and what became of each tensor."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evoaim.export.accounting import Accounts
from evoaim.export.card import Card, model_card
from evoaim.export.companions import write_json
from evoaim.merger import Merger
from search_spaces import strict_yaml
from search_spaces.recipe import Recipe

IMPORTANCE = "reproduce/importance.safetensors"  # not beside the weights: some loaders glob there
TENSORS = "reproduce/tensors.json"
STATISTICS = "reproduce/statistics"
STATISTICS_BYTES = 1 << 30  # larger ones are to be measured again
# The methods of mergekit 0.1.5 that we have too; it calls them by the same names.
MERGEKIT = {
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "karcher",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
}


@dataclass(frozen=True)
class Exported:
    """What stands in an exported folder besides the weights."""

    recipe: Recipe
    scores: Mapping[str, Any]  # objective -> {"value", "stderr"} on the report documents; may be {}
    experiment: str = ""


def write_texts(
    merger: Merger, exported: Exported, accounts: Accounts, folder: Path, dtype: str
) -> None:
    """Write recipe.yaml, mergekit_config.yml, README.md and `reproduce/`.

    Raises:
        ConfigError: the importance cannot be written.
        OSError: a text cannot be written.
    """
    parents = [model.name for model in merger.models.values()]
    tokens = exported.recipe.tokenizer
    public = public_names(
        [
            *parents,
            *exported.recipe.model_names,
            *exported.recipe.statistics,
            *(tokens.models if tokens else ()),
        ]
    )
    recipe = replace(exported.recipe.renamed(public), out_dtype=dtype, statistics={})
    importance = merger.importance_of(exported.recipe)
    if recipe.aim is not None:
        recipe = replace(recipe, aim=replace(recipe.aim, importance=None))
    (folder / STATISTICS).mkdir(parents=True)
    if importance is not None and recipe.aim is not None:
        importance.save(folder / IMPORTANCE)
        recipe = replace(recipe, aim=replace(recipe.aim, importance=IMPORTANCE))
    for i, (model, file) in enumerate(kept_statistics(exported.recipe).items()):
        copy = f"{STATISTICS}/{i}.safetensors"
        shutil.copyfile(file, folder / copy)
        files = {**recipe.statistics, public.get(model, model): copy}
        recipe = replace(recipe, statistics=files)
    if not recipe.statistics:
        (folder / STATISTICS).rmdir()
    write_json(folder / TENSORS, accounts.to_dict())
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    mergekit = recipe.merge_method in MERGEKIT
    if mergekit:
        config = _mergekit(recipe, relaxed=importance is not None)
        (folder / "mergekit_config.yml").write_text(config, encoding="utf-8")
    card = Card(
        recipe=recipe,
        relaxed=importance is not None,
        parents=[public[name] for name in parents],
        scores=exported.scores,
        experiment=exported.experiment,
        tokenizer=(folder / "tokenizer_config.json").is_file(),
        mergekit=mergekit,
        copied=accounts.to_dict()["copied"],
        measured=bool(exported.recipe.statistics),
    )
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")


def kept_statistics(recipe: Recipe) -> Mapping[str, Path]:
    """Model -> file with its statistics on text, if all of them are small enough to go along."""
    files = {model: Path(file) for model, file in recipe.statistics.items()}
    total = sum(file.stat().st_size for file in files.values())
    return files if total <= STATISTICS_BYTES else {}


def public_names(models: Sequence[str]) -> dict[str, str]:
    """Names that may be published: hub ids and relative paths stay, absolute ones lose parents.

    As many parents stay as are needed to tell the models apart.
    """
    paths = {m: Path(m).expanduser() for m in models}
    local = [m for m, p in paths.items() if p.is_absolute() or ".." in p.parts]
    for kept in range(1, max((len(paths[m].parts) for m in local), default=1) + 1):
        names = {m: "/".join(paths[m].parts[-kept:]) if m in local else m for m in models}
        if len(set(names.values())) == len(set(paths.values())):
            break
    return {m: n.strip("/") for m, n in names.items()}


def _mergekit(recipe: Recipe, relaxed: bool) -> str:
    config = recipe.to_mergekit()
    if recipe.dtype is None:
        config["dtype"] = "float32"  # what our arithmetic is; mergekit's default is the inputs'
    note = "# The merge without its AIM step, which mergekit does not have.\n" if relaxed else ""
    if recipe.merge_method.startswith("dare"):
        note += "# mergekit draws other random masks.\n"
    return note + strict_yaml.dump(config)
