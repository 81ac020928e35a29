"""A report as its elements, scripts, data blocks and text."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The elements, scripts, data blocks and text of a report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: dict[str, str] = {}
        self.words = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.elements.append((tag, known))
        self._inside = known.get("id") or tag if tag == "script" else tag
        if self._inside == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside.startswith("data-"):
            self.data[self._inside] = self.data.get(self._inside, "") + data
        elif self._inside != "style":
            self.words += data

    @property
    def prose(self) -> str:
        return " ".join(self.words.split())
