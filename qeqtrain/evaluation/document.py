"""A report in pieces, written as Markdown with plots beside it and as one HTML page."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qeqtrain.evaluation.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; }
body { margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8884; }
td, li { overflow-wrap: anywhere; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.plots { display: grid; gap: 1rem; margin-top: 1rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.plots img { width: 100%; background: white; }
"""


class Document:
    """A report: facts, tables and plots in the order in which they were added.

    Args:
        title: its heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.pictures: dict[str, bytes] = {}
        """Plots as PNG, by the name of their file."""
        self._markdown: list[str] = []
        self._html: list[str] = []

    def say(self, facts: Sequence[str], title: str = "") -> None:
        """Add facts as a list; nothing where there are none."""
        if not facts:
            return
        self._head(title)
        self._markdown.append("\n".join(f"- {fact}" for fact in facts))
        items = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
        self._html.append(f"<ul>{items}</ul>")

    def add(self, *tables: Table) -> None:
        """Add tables; those without a row are left out."""
        for table in tables:
            if table.rows:
                self._markdown.append(table.as_markdown())
                self._html.append(table.as_html())

    def draw(self, title: str = "", **plots: tuple[str, Figure]) -> None:
        """Add plots side by side.

        Args:
            title: above them.
            **plots: what each shows, in words, and its figure, by the name of its file.
        """
        if not plots:
            return
        self._head(title)
        images = []
        for name, (shows, figure) in plots.items():
            if name in self.pictures:
                raise ValueError(f"two plots have the name {name}")
            png = self.pictures[name] = as_png(figure)
            self._markdown.append(f"![{shows}](plots/{name}.png)")
            images.append(
                f'<img alt="{html.escape(shows)}" '
                f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            )
        self._html.append(f'<div class="plots">{"".join(images)}</div>')

    def as_markdown(self) -> str:
        """Write it as Markdown; plots lie in the folder ``plots`` beside it."""
        return "\n\n".join([f"# {self.title}", *self._markdown]) + "\n"

    def as_html(self) -> str:
        """Write it as one HTML page with its plots inside."""
        title, when = html.escape(self.title), time.strftime("%Y-%m-%d %H:%M")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>qeqtrain: {title}</title><style>{_STYLE}</style></head><body>\n"
            f"<h1>{title}</h1>\n<p>{when}</p>\n" + "\n".join(self._html) + "\n</body></html>\n"
        )

    def _head(self, title: str) -> None:
        if title:
            self._markdown.append(f"## {title}")
            self._html.append(f"<h2>{html.escape(title)}</h2>")


def write_document(document: Document, folder: Path) -> Path:
    """Write report.html, and report.md with its plots.

    Args:
        document: what to write.
        folder: made if it is missing; an older report in it is replaced.

    Returns:
        The HTML file, which stands alone.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for old in (folder / "plots").glob("*.png"):
        old.unlink()
    for name, png in document.pictures.items():
        (folder / "plots" / f"{name}.png").write_bytes(png)
    write_text(folder / "report.md", document.as_markdown())
    write_text(folder / "report.html", document.as_html())
    return folder / "report.html"


def as_png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_text(file: Path, text: str) -> None:
    """Write a file in one go, or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
