"""Chat templates by name, and the choice of one for a merged model."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from evoaim.errors import ConfigError
from evoaim.model_folder import inside, read_json

# The formats that mergekit knows by name. Its own texts differ in white space: alpaca lacks the
# blank line before the last "### Response:", llama3 has a line break after every <|eot_id|>, and
# exaone has the indentation of its source.
TEMPLATES = {
    "alpaca": (
        "{%- set titles = {'user': '### Instruction:\\n', 'assistant': '### Response:\\n', "
        "'user_context': '### Input:\\n', 'system': ''} -%}"
        "{%- for message in messages -%}"
        "{{- '' if loop.first else '\\n\\n' -}}"
        "{{- titles[message.role] + message.content | trim -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt and messages[-1].role != 'assistant' -%}"
        "{{- '\\n\\n### Response:\\n' -}}"
        "{%- endif -%}"
    ),
    "chatml": (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    ),
    "exaone": (
        "{%- if messages[0].role != 'system' -%}{{- '[|system|][|endofturn|]\\n' -}}{%- endif -%}"
        "{%- for message in messages -%}"
        "{{- '[|' + message.role + '|]' + message.content -}}"
        "{{- '\\n' if message.role == 'user' else '[|endofturn|]\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}"
    ),
    "llama3": (
        "{{- bos_token -}}"
        "{%- for message in messages -%}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}"
        "{{- message.content | trim + '<|eot_id|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
        "{%- endif -%}"
    ),
    "mistral": (
        "{{- bos_token -}}"
        "{%- set first = 1 if messages[0].role == 'system' else 0 -%}"
        "{%- for message in messages[first:] -%}"
        "{%- if message.role != ('user', 'assistant')[loop.index0 % 2] -%}"
        "{{- raise_exception('after a system message, user and assistant must take turns') -}}"
        "{%- endif -%}"
        "{%- if message.role == 'assistant' -%}"
        "{{- ' ' + message.content + eos_token -}}"
        "{%- else -%}"
        "{{- ' [INST] ' + (messages[0].content + '\\n\\n' if first and loop.first else '') -}}"
        "{{- message.content + ' [/INST]' -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    ),
}


def chat_template(setting: str | None, folders: Iterable[tuple[str, Path]]) -> str | None:
    """The template that an export writes to chat_template.jinja; None: the donor's files stay.

    Args:
        setting: `chat_template` of a recipe (see `read_chat_template`): None, "auto", a name or a
            template's text. "auto" is the most common template of the models, the first of them
            where several are equally common; None if no model has one.
        folders: name and folder of every merged model, the base first.

    Raises:
        ConfigError: a model's tokenizer_config.json cannot be read.
    """
    if setting != "auto":
        return TEMPLATES.get(setting, setting) if setting is not None else None
    found = [t.strip() for name, folder in folders if (t := template_of(folder, name))]
    return Counter(found).most_common(1)[0][0] if found else None


def template_of(folder: Path, name: str) -> str | None:
    """A model's own (default) chat template; None if it has none.

    Raises:
        ConfigError: a file cannot be read.
    """
    if (folder / "chat_template.jinja").is_file():
        try:
            return inside(folder, "chat_template.jinja", name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"model '{name}': chat_template.jinja: {error}") from None
    if not (folder / "tokenizer_config.json").is_file():
        return None
    found = read_json(folder / "tokenizer_config.json", name).get("chat_template")
    if isinstance(found, list):  # several by name, as in transformers 4
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def write_chat_template(template: str, folder: Path) -> None:
    """Make `template` the one of the tokenizer in `folder`, for new and old readers.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    if file.is_file() and "chat_template" in (config := read_json(file, str(folder))):
        text = json.dumps(config | {"chat_template": template}, indent=2, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
