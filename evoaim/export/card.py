"""The model card of an exported merge: lineage, recipe, measured scores, how to rebuild it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

from evoaim import __version__
from search_spaces import strict_yaml
from search_spaces.recipe import Recipe


@dataclass(frozen=True)
class Card:
    """What the card says."""

    recipe: Recipe
    relaxed: bool  # whether AIM changes any weight
    parents: Sequence[str]  # the base first
    scores: Mapping[str, Any]  # objective -> {"value", "stderr"} on the report documents; may be {}
    experiment: str
    tokenizer: bool
    mergekit: bool  # whether mergekit has the method
    copied: Mapping[str, str]  # tensor -> why it is the base's
    measured: bool  # whether the method took statistics on text


_TEMPLATE = """\
---
{{ metadata }}---

# {{ title }}

A merge of {{ parents[1:] | join(', ') }} on the base {{ parents[0] }}, made with
evoaim {{ version }} by the method `{{ recipe.merge_method }}`\
{% if relaxed %} with Activation-Informed Merging (arXiv:2502.02421)\
{% elif recipe.aim %}; Activation-Informed Merging (arXiv:2502.02421) was off{% endif %}.
{% if scores %}
## Scores

On documents that the search never saw
{%- if experiment %} (experiment `{{ experiment }}`){% endif %}:

| objective | value | standard error |
|---|---|---|
{% for name, s in scores.items() -%}
| {{ name }} | {{ '%.4g' % s.value }} | {{ '%.2g' % s.stderr }} |
{% endfor %}{% endif %}
## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
{% if tokenizer -%}
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
{% endif -%}
```

## Recipe

```yaml
{{ text }}```

`evoaim merge recipe.yaml OUT` rebuilds the weights (adapt the models' names to where yours are)
{%- if relaxed %};
the importance of the base's input channels is in `reproduce/`{% endif %}
{%- if measured and recipe.statistics %}; the models' statistics on text are in `reproduce/`
{%- elif measured %}; measure the models' statistics on text anew
(`evoaim calibrate --statistics`), they are too large to go along{% endif %}.
{%- if mergekit %} `mergekit_config.yml` is
the same merge for mergekit{% if relaxed %}, which lacks the AIM step{% endif %}.
{%- else %} mergekit does
not have this method.
{%- endif %}
{% if copied %}
Not merged, but copied from the base (all of them are in `reproduce/tensors.json`):
{% for reason in copied.values() | unique %}
- {{ reason }}: such as `{{ (copied.items() | selectattr(1, 'eq', reason) | first)[0] }}`
{%- endfor %}
{% endif %}
Licence: that of the parents; check each of them before you publish.
"""


def model_card(card: Card) -> str:
    """Markdown with the metadata block that model hubs read."""
    metadata = {
        "base_model": list(card.parents),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "evoaim"] + ["mergekit"] * (card.mergekit and not card.relaxed),
    }
    # Markdown, not HTML; names come from paths and hub ids, so only line breaks could do harm
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    return environment.from_string(_TEMPLATE).render(
        metadata=strict_yaml.dump(metadata),
        title=f"{card.experiment or 'Merge'} ({card.recipe.merge_method})",
        parents=card.parents,
        version=__version__,
        recipe=card.recipe,
        relaxed=card.relaxed,
        scores=card.scores,
        experiment=card.experiment,
        text=card.recipe.to_yaml(),
        tokenizer=card.tokenizer,
        mergekit=card.mergekit,
        copied=card.copied,
        measured=card.measured,
    )
