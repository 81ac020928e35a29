"""How a run was made: its settings, versions, documents and what was held out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoaim.run_dir import RunDir, read_json, read_scores
from search_spaces import strict_yaml


@dataclass(frozen=True)
class Documents:
    """Documents of one task's metric that were scored on either side."""

    metric: str
    search: int
    report: int  # 0: not re-scored yet
    shared: int


def documents(run: RunDir) -> list[Documents]:
    """Counts from the stored scores of the base; empty as long as there are none."""
    search, report = (_hashes(run, split) for split in ("search", "report"))
    return [
        Documents(k, len(d), len(report.get(k, ())), len(d & report.get(k, set())))
        for k, d in search.items()
    ]


def experiment_yaml(experiment: Mapping[str, Any]) -> str:
    """The experiment file, a password in its storage URL struck out."""
    data = dict(experiment)
    if isinstance(data.get("storage"), str):
        data["storage"] = re.sub(r"(://[^:/@]*):.*@", r"\1:…@", data["storage"])
    return strict_yaml.dump(data)


def manifest(run: RunDir) -> dict[str, Any]:
    """The manifest, or nothing."""
    data = read_json(run.manifest) if run.manifest.is_file() else {}
    return data if isinstance(data, dict) else {"manifest": data}


def flat(data: Mapping[str, Any], stem: str = "") -> list[tuple[str, str]]:
    """Nested data as dotted keys and values."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{stem}{key}.")
        else:
            pairs.append((f"{stem}{key}", str(value)))
    return pairs


def _hashes(run: RunDir, split: str) -> dict[str, set[str]]:
    """Content hashes of the documents that the base was scored on, by task and metric."""
    scores = read_scores(run.responses("base", split)) or {}
    return {key: set(s.documents) for key, s in scores.items()}
