"""The Markdown note of a trial, as optuna-dashboard shows it."""

import re
from collections.abc import Mapping, Sequence

from evoaim.report import text
from fitness.types import Estimate, Objective


def trial_note(
    recipe_yaml: str,
    estimates: Mapping[str, Estimate],
    objectives: Sequence[Objective],
    raced: bool = False,
    violation: float = 0.0,
) -> str:
    """Values with standard errors, then the recipe; no text in it is read as Markdown or HTML.

    Args:
        recipe_yaml: the recipe file's text; empty leaves the block out.
        estimates: by objective name, on the search documents; empty for a failed trial.
        objectives: in the order of the study; other estimates are marked as watched.
        raced: whether it was dropped before all of its documents were run.
        violation: of the constraints, as a share of their bounds; 0: it keeps them.
    """
    parts = []
    if estimates:
        names = [o.name for o in objectives]
        names += [n for n in estimates if n not in names]
        lower = {o.name for o in objectives if o.goal == "minimize"}
        watched = set(names[len(objectives) :])
        lines = [
            f"- {_plain(n)}: **{text.searched(estimates[n])}**{_documents(estimates[n])}"
            f"{' (lower is better)' * (n in lower)}{' (watched)' * (n in watched)}"
            for n in names
        ]
        parts.append("\n".join(["On the search documents:", "", *lines]))
    if raced:
        parts.append(
            "**Raced out:** a front member is better in every objective beyond reasonable doubt, "
            "so the rest of its documents was not run."
        )
    if violation > 0:
        parts.append(f"**Infeasible:** misses the constraints by {text.bound(violation)}.")
    if recipe_yaml:
        # longer than any run of backticks in the recipe, so that no name can end the block
        runs = re.findall(r"`+", recipe_yaml)
        fence = "`" * max([3, *(len(r) + 1 for r in runs)])
        parts.append(f"{fence}yaml\n{recipe_yaml.rstrip()}\n{fence}")
    return "\n\n".join(parts)


def _documents(estimate: Estimate) -> str:
    return f" from {text.plural(estimate.documents, 'document')}" if estimate.documents else ""


def _plain(name: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!&~$])", r"\\\1", " ".join(name.split()))
