"""The Markdown note of a trial, as optuna-dashboard shows it."""

import re
from collections.abc import Mapping, Sequence

from evoaim.report import text
from fitness.types import Estimate, Objective


def trial_note(
    recipe_yaml: str, estimates: Mapping[str, Estimate], objectives: Sequence[Objective]
) -> str:
    """Values with standard errors, then the recipe; no text in it is read as Markdown or HTML.

    Args:
        recipe_yaml: the recipe file's text; empty leaves the block out.
        estimates: by objective name, on the search documents; empty for a failed trial.
        objectives: in the order of the study.
    """
    parts = []
    if estimates:
        lower = {o.name: " (lower is better)" if o.goal == "minimize" else "" for o in objectives}
        lines = [
            f"- {_plain(o.name)}: **{text.estimate(estimates[o.name])}**{lower[o.name]}"
            for o in objectives
        ]
        parts.append("\n".join(["On the search documents:", "", *lines]))
    if recipe_yaml:
        # longer than any run of backticks in the recipe, so that no name can end the block
        runs = re.findall(r"`+", recipe_yaml)
        fence = "`" * max([3, *(len(r) + 1 for r in runs)])
        parts.append(f"{fence}yaml\n{recipe_yaml.rstrip()}\n{fence}")
    return "\n\n".join(parts)


def _plain(name: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!&~$])", r"\\\1", " ".join(name.split()))
