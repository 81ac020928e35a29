"""Text for calibration or perplexity from a dataset of the hub: JSON lines with a field `text`.

    python experiments/calibration_text.py allenai/c4 calibration.jsonl --config en

Only as much as is needed is downloaded. Several configs (languages, domains) give equal shares.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any


def texts(rows: Iterable[dict[str, Any]], field: str, shortest: int) -> Iterator[str]:
    """The texts of at least `shortest` characters: titles and empty lines calibrate nothing.

    Raises:
        SystemExit: the rows have no such field.
    """
    for row in rows:
        if field not in row:
            raise SystemExit(f"--field {field}: the dataset has {', '.join(row)}")
        if len(text := str(row[field]).strip()) >= shortest:
            yield text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="hub id, or a builder such as json with --config FILE")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", nargs="+", default=[None], help="one or several")
    parser.add_argument("--split", default="train")
    parser.add_argument("--field", default="text")
    parser.add_argument("--documents", type=int, default=256, help="of each config")
    parser.add_argument("--shortest", type=int, default=400, help="characters")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    asked = parser.parse_args()
    if asked.out.exists():
        raise SystemExit(f"{asked.out}: exists already; give another name")

    from datasets import load_dataset

    lines = []
    for config in asked.config:
        rows = load_dataset(asked.dataset, config, split=asked.split, streaming=True)
        shuffled = rows.shuffle(seed=asked.seed, buffer_size=10_000)
        chosen = list(islice(texts(shuffled, asked.field, asked.shortest), asked.documents))
        if len(chosen) < asked.documents:
            raise SystemExit(f"{asked.dataset} {config or ''}: only {len(chosen)} texts found")
        lines += [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chosen]
    # In turns, so that a search that takes fewer documents still has all configs.
    turns = [line for i in range(asked.documents) for line in lines[i :: asked.documents]]
    asked.out.write_text("".join(turns), encoding="utf-8")
    print(f"{asked.out}: {len(turns)} texts")


if __name__ == "__main__":
    main()
