"""An evaluation written down: for a terminal, as Markdown, as one HTML file, and as JSON."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.evaluation.plots import AXES, parity_plots
from qeqtrain.evaluation.tables import all_tables, facts
from qeqtrain.training.quantities import QUANTITIES

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
td { overflow-wrap: anywhere; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.plots { display: grid; gap: 1rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.plots img { width: 100%; background: white; }
"""


def table(evaluation: Evaluation) -> str:
    """Write the errors as plain text for a terminal: over everything, by charge, by source."""
    chosen = [t for t in all_tables(evaluation) if t.title.startswith(("Errors", "RMSE by"))]
    return "\n\n".join([*(t.as_text() for t in chosen), "\n".join(facts(evaluation))])


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Give all numbers as plain values.

    Keys:
        ``n_structures``, ``n_atoms``: what was evaluated.
        ``units``: unit of the errors by quantity (``energy`` is per atom).
        ``errors``: by quantity: ``mae``, ``rmse``, ``bias`` (mean of prediction minus label),
        ``largest``, ``count``.
        ``by_element``: the same by quantity and chemical symbol.
        ``by_source``: the same by file or split and quantity.
        ``by_total_charge``: the same by total charge (``"-1"``, ``"0"``) and quantity.
        ``worst``: by quantity, the frames with the largest errors: ``source_id``, ``part``,
        ``formula``, ``n_atoms``, ``total_charge``, and their RMSE by quantity.
        ``missing``: by quantity, why it was not compared.
        ``largest_total_charge_violation``: e; null without charges.
        ``timing``: ``wall_s``, ``cpu_s``, ``structures_per_s``, ``cpu_us_per_atom``.
        ``model``: ``parameters``, ``elements``, ``cutoffs``, ``dtype``, ``charges``,
        ``untrained_elements_met``, ``unseen_charge_states_met`` (in words).
    """
    timing = evaluation.timing
    return {
        "n_structures": len(evaluation.frames),
        "n_atoms": int(evaluation.frames.n_atoms.sum()),
        "units": {name: QUANTITIES[name].unit for name in evaluation.compared},
        "errors": {k: e.as_dict() for k, e in evaluation.errors().items()},
        "by_element": _nested(evaluation.by_element()),
        "by_source": _nested(evaluation.by_part()),
        "by_total_charge": _nested(evaluation.by_total_charge()),
        "worst": {name: evaluation.worst(name) for name in evaluation.compared},
        "missing": evaluation.missing,
        "largest_total_charge_violation": evaluation.charge_residual,
        "timing": {
            "wall_s": timing.wall,
            "cpu_s": timing.cpu,
            "structures_per_s": timing.structures / timing.wall if timing.wall else None,
            "cpu_us_per_atom": 1e6 * timing.cpu / timing.atoms if timing.atoms else None,
        },
        "model": evaluation.model,
    }


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write report.html, report.md with its plots, and report.json.

    Args:
        evaluation: what to write.
        folder: made if it is missing; an older report in it is replaced.

    Returns:
        The HTML file, which stands alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = {name: _as_png(figure) for name, figure in parity_plots(evaluation).items()}
    (folder / "plots").mkdir(exist_ok=True)
    for name, png in plots.items():
        (folder / "plots" / f"{name}.png").write_bytes(png)
    _write(folder / "report.json", json.dumps(as_json(evaluation), indent=2) + "\n")
    _write(folder / "report.md", markdown(evaluation, list(plots)))
    target = folder / "report.html"
    _write(target, as_html(evaluation, plots))
    return target


def markdown(evaluation: Evaluation, plots: list[str]) -> str:
    """Write the report as Markdown; plots lie in the folder ``plots`` beside it."""
    lines = ["# Evaluation", "", *(f"- {fact}" for fact in facts(evaluation)), ""]
    tables = [t.as_markdown() for t in all_tables(evaluation)]
    pictures = [f"![{AXES[name][0]}](plots/{name}.png)" for name in plots]
    return "\n".join([*lines, tables[0], "", *pictures, "", "\n\n".join(tables[1:]), ""])


def as_html(evaluation: Evaluation, plots: dict[str, bytes]) -> str:
    """Write the report as one HTML page with its plots inside."""
    said = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts(evaluation))
    pictures = "".join(
        f'<img alt="parity plot: {AXES[name][0]}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in plots.items()
    )
    tables = [t.as_html() for t in all_tables(evaluation)]
    when = time.strftime("%Y-%m-%d %H:%M")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>qeqtrain evaluation</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Evaluation</h1>\n<p>{when}</p><ul>{said}</ul>\n{tables[0]}\n"
        f'<h2>Parity</h2>\n<div class="plots">{pictures}</div>\n'
        + "\n".join(tables[1:])
        + "\n</body></html>\n"
    )


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _nested(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    return {k: {n: e.as_dict() for n, e in inner.items()} for k, inner in groups.items()}


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
