"""From the report's content to one HTML file that loads nothing and runs only its own scripts."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evoaim.report import text

_DRAW = """
function draw(size) {
  for (const box of document.querySelectorAll("[data-figure]")) {
    const {data, layout} = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    Plotly.newPlot(box, data, {...layout, ...size}, {responsive: true, displayModeBar: false});
  }
}
draw({});
addEventListener("beforeprint", () => draw({width: 690}));  // A4 and letter, in CSS pixels
addEventListener("afterprint", () => draw({}));
"""


def render(content: Mapping[str, Any]) -> str:
    """The page; every text in `content` is escaped by the template."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data"] = script_data
    environment.globals["duration"] = text.duration
    template = environment.from_string(
        files("evoaim.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    scripts = [get_plotlyjs(), _DRAW] if any(content["figures"].values()) else []
    return template.render(
        **content,
        scripts=[Markup(s) for s in scripts],  # our own and plotly's, no text of the run
        hashes=[_hash(s) for s in scripts],
    )


def script_data(figure: Any) -> Markup:
    """Data inside a script element; no `<` in it, so that no name can end the element."""
    return Markup(json.dumps(figure, allow_nan=False).replace("<", "\\u003c"))


def _hash(script: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
