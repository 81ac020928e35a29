"""Racing replayed on searches that scored everything: whom it drops, and whom it should not have.

The candidates come in the order of the search, in batches, as `evoaim.loop` lets them race.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tables import show

from evoaim import Experiment
from evoaim.evaluator import Evaluator
from evoaim.front import nondominated, spread
from evoaim.race import Race
from evoaim.results import Results, losses
from evoaim.run_dir import RunDir, read_scores
from evoaim.scoring import pools
from fitness.estimators import greg
from fitness.racing import MEMBERS, Rule
from fitness.scheme import Plan, Scheme, build
from fitness.selectors import disagreement
from fitness.types import DocumentScores, Scores

BATCH = 16
PANELS = 1  # draws of the panel, each with every search
DOCUMENTS = (16, 60)
RULES = {
    "pocock": Rule("pocock", 0.05, (0.34, 0.67)),
    "strict": Rule("strict", 0.05, (0.34, 0.67)),
}


def replay(folders: Sequence[Path]) -> str:
    """Share dropped, documents saved and false drops, by rule and size of the panel."""
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    experiment = Experiment.from_yaml(RunDir(folders[0]).experiment)
    evaluator = Evaluator.of(experiment)  # the documents are the same with every seed
    everything = evaluator.documents["search"]
    for folder in folders:
        run = RunDir(folder)
        results = Results.read(run)
        parents = {e.name: _scores(run, e.name) for e in results.parents}
        trials = [_scores(run, f"trial_{t.number}") for t in results.trials]
        points = losses(results.objectives, [t.estimates for t in results.trials])
        truth = nondominated(points)
        for n in DOCUMENTS:
            for draw in range(PANELS):
                pool = pools(evaluator.experiment, evaluator.scorer, everything)
                looks = (*RULES["pocock"].looks, 1.0)
                params = (disagreement, disagreement.Params()), (greg, greg.Params(n))
                plan = Plan(*params, looks, draw)
                scheme = build(evaluator.objectives, pool, parents, len(parents), plan)
                own = [_on_panel(s, scheme) for s in trials]
                for name, rule in RULES.items():
                    dropped, spent = _race(scheme, rule, own)
                    row = dropped.mean(), spent, (dropped & truth).sum(), truth.sum()
                    found.setdefault((name, n), []).append(tuple(map(float, row)))
    rows = []
    for (name, n), draws in sorted(found.items()):
        mean, total = np.mean(draws, axis=0), np.sum(draws, axis=0)
        share = total[2] / total[3]
        rows.append(
            [
                name,
                str(n),
                f"{mean[0]:.2f}",
                f"{mean[1]:.2f}",
                f"{total[2]:.0f} of {total[3]:.0f}",
                f"{share:.3f}",
            ]
        )
    title = (
        f"Racing replayed on the trial lists of the full searches ({PANELS} panel each). A false "
        "drop is a member of the front by all search documents."
    )
    heads = [
        "rule",
        "documents a task",
        "dropped",
        "share of the panels run",
        "false drops",
        "share of the front",
    ]
    return show(title, heads, rows)


def _race(scheme: Scheme, rule: Rule, trials: Sequence[Scores]) -> tuple[np.ndarray, float]:
    """Whom racing drops, and the share of the panels' documents that are run."""
    whole = [scheme.estimate(s) for s in trials]
    ranked = losses(scheme.objectives, whole)
    dropped, spent = np.zeros(len(trials), dtype=bool), 0.0
    for start in range(0, len(trials), BATCH):
        able = np.flatnonzero(~dropped[:start])
        front = able[nondominated(ranked[able])] if len(able) else able
        rivals = [trials[front[i]] for i in spread(ranked[front], MEMBERS)] if len(front) else []
        for i in range(start, min(start + BATCH, len(trials))):
            race = Race(scheme, rule, rivals)
            dropped[i] = any(race(trials[i]) for _ in scheme.plan.looks)
            spent += race.look
    return dropped, spent / len(trials)


def _on_panel(scores: Scores, scheme: Scheme) -> Scores:
    """Only what the panel needs; looking documents up among all of them would take longer."""
    wanted = {
        task: {pool.documents[p] for p in scheme.selections[task].positions}
        for task, pool in scheme.pools.items()
    }
    found = {}
    for key, every in scores.items():
        hashes = wanted[key.partition("/")[0]]
        at = [i for i, d in enumerate(every.documents) if d in hashes]
        documents = tuple(every.documents[i] for i in at)
        found[key] = DocumentScores(documents, every.total[at], every.weight[at])
    return found


def _scores(run: RunDir, who: str) -> Scores:
    scores = read_scores(run.responses(who, "search"))
    if scores is None:
        raise SystemExit(f"{run.path}: no responses of {who}")
    return scores
