"""Saves the demo zoo's tokenizer and models as ordinary Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evoaim.live import quiet
from evoaim.zoo.language import END, PAD, UNKNOWN, vocabulary

CONTEXT = 512


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Make the word-level tokenizer: words are split at blanks, nothing is put before the first.

    There is no BOS token anywhere: not in training, calibration or scoring.
    """
    ids = {word: place for place, word in enumerate(vocabulary())}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def save_folder(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save one model with its tokenizer, and check that the tokenizer is read back exactly.

    Raises RuntimeError when `AutoTokenizer` reads the folder as another tokenizer.
    """
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _add_flat_rope(folder / "config.json")
    text = " ".join(vocabulary())
    read = AutoTokenizer.from_pretrained(folder)
    if read(text)["input_ids"] != tokenizer(text)["input_ids"]:
        raise RuntimeError(f"the tokenizer saved in {folder} is read back as another one")


def _add_flat_rope(path: Path) -> None:
    """Repeat the rotary base outside `rope_parameters`, where readers older than those look."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")
