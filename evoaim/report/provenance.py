"""How a run was made: its settings, versions, documents and what was held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoaim.run_dir import RunDir, read_json, read_scores
from evoaim.storage_url import redacted
from search_spaces import strict_yaml


@dataclass(frozen=True)
class Documents:
    """Documents of one task's metric that were scored on either side."""

    metric: str
    search: int
    report: int  # 0: not re-scored yet
    shared: int


@dataclass(frozen=True)
class Tally:
    """What a search took."""

    failed: int  # candidates
    finalists: int  # that were scored on more search documents at its end
    models: int  # scored on search documents, parents included
    run: int  # search documents in all, one counted once for every model
    whole: int  # what it would be had each model been scored on all; 0: not known


def tally(run: RunDir, failed: int) -> Tally:
    """The counts of a run, from what it has stored."""
    found = sorted(run.responses("base", "search").parent.glob("*.json"))
    total = sum(_total(read_json(path)) for path in found)
    sizes = manifest(run).get("documents", {}).get("search", {})
    finalists = read_json(run.promoted)["promoted"] if run.promoted.is_file() else []
    return Tally(failed, len(finalists), len(found), total, len(found) * sum(sizes.values()))


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
        data["storage"] = redacted(data["storage"])
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


def _total(scores: Mapping[str, Mapping[str, Any]]) -> int:
    """How many documents, one that serves several metrics of its task counted once.

    Of the file as it is: there are as many as candidates, and their numbers are not needed.
    """
    most: dict[str, int] = {}
    for key, s in scores.items():
        task = key.rpartition("/")[0]
        most[task] = max(most.get(task, 0), len(s["documents"]))
    return sum(most.values())


def _hashes(run: RunDir, split: str) -> dict[str, set[str]]:
    """Content hashes of the documents that the base was scored on, by task and metric."""
    scores = read_scores(run.responses("base", split)) or {}
    return {key: set(s.documents) for key, s in scores.items()}
