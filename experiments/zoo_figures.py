"""The demo zoo's figures: base, experts and plain merges on the report documents.

python experiments/zoo_figures.py

The models' columns are accuracies (greedy exact match); merges are task arithmetic with the same
weight for the three experts, with and without AIM.
"""

from rich.console import Console
from rich.table import Table

from evoaim import Experiment, Recipe
from evoaim.evaluator import Evaluator

THREE = "objectives=[{name: math, tasks: [zoo_math]}, {name: italian, tasks: [zoo_italian]}, "
THREE += "{name: japanese, tasks: [zoo_japanese]}]"


def main() -> None:
    experiment = Experiment.from_yaml("experiments/quickstart.yaml", [THREE])
    evaluator = Evaluator.of(experiment).calibrated()
    rows = dict(evaluator.parents())
    for weight, omega in ((1.0, 1.0), (1.0, 0.4), (0.5, 1.0), (0.5, 0.4)):
        name = f"weight {weight}, " + ("AIM off" if omega == 1.0 else f"omega {omega}")
        rows[name] = Recipe.from_dict(
            {
                "merge_method": "task_arithmetic",
                "base_model": "base",
                "models": list(experiment.models.experts),
                "parameters": {"weight": weight},
                "aim": {"omega": omega},
            }
        )
    table = Table("", "math", "italian", "japanese", "mean")
    for name, recipe in rows.items():
        estimates = evaluator.estimate(evaluator.score(recipe, "report"))
        values = [e.value for e in estimates.values()]
        table.add_row(name, *(f"{v:.3f}" for v in [*values, sum(values) / len(values)]))
    Console().print(table)


if __name__ == "__main__":
    main()
