"""The tables of an evaluation, once: as rows, then as plain text, Markdown or HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qeqtrain.evaluation.errors import Errors
from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.training.quantities import QUANTITIES


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        title: what it shows, with its unit where there is one for all.
        head: of the columns.
        rows: as long as the head.
        names: leading columns that hold words; the rest are numbers, aligned to the right.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def as_text(self) -> str:
        """Align the columns."""
        cells = [list(self.head), *[list(r) for r in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        lines = [
            "  ".join(
                text.ljust(width) if i < self.names else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, *lines])

    def as_markdown(self) -> str:
        """Write a pipe table under a heading."""
        rule = [":--" if i < self.names else "--:" for i in range(len(self.head))]
        rows = [self.head, rule, *self.rows]
        escaped = ["| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in rows]
        return "\n".join([f"## {self.title}", "", *escaped])

    def as_html(self) -> str:
        """Write a table that scrolls sideways by itself where it is too wide."""

        def line(row: Sequence[str], tag: str) -> str:
            kinds = ["" if i < self.names else ' class="n"' for i in range(len(row))]
            pairs = zip(kinds, row, strict=True)
            cells = "".join(f"<{tag}{kind}>{html.escape(x)}</{tag}>" for kind, x in pairs)
            return f"<tr>{cells}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return (
            f'<h2>{html.escape(self.title)}</h2>\n<div class="wide"><table>'
            f"<thead>{line(self.head, 'th')}</thead><tbody>{body}</tbody></table></div>"
        )


def all_tables(evaluation: Evaluation) -> list[Table]:
    """Make every table of a report."""
    tables = [errors_table(evaluation)]
    charges = evaluation.by_total_charge()
    if len(charges) > 1:
        tables.append(_grouped("RMSE by total charge", "Q (e)", charges, evaluation))
    parts = evaluation.by_part()
    if len(parts) > 1:
        tables.append(_grouped("RMSE by data source", "source", parts, evaluation))
    for name, by_symbol in evaluation.by_element().items():
        unit = QUANTITIES[name].unit
        rows = [
            [s, number(e.mae), number(e.rmse), number(e.largest)] for s, e in by_symbol.items()
        ]
        head = ["element", "MAE", "RMSE", "largest"]
        tables.append(
            Table(f"{name.replace('_', ' ').capitalize()} by element ({unit})", head, rows)
        )
    ranked = [name for name in ("energy", "forces", "charges") if name in evaluation.compared]
    return tables + [worst_table(evaluation, name) for name in ranked]


def errors_table(evaluation: Evaluation) -> Table:
    """Make the table of errors over everything."""
    rows = [
        [
            name,
            QUANTITIES[name].unit,
            *(number(x) for x in (e.mae, e.rmse, e.bias, e.largest)),
            f"{e.count:,}",
        ]
        for name, e in evaluation.errors().items()
    ]
    head = ["quantity", "unit", "MAE", "RMSE", "bias", "largest", "components"]
    return Table("Errors", head, rows, names=2)


def worst_table(evaluation: Evaluation, quantity: str) -> Table:
    """Make the table of the frames with the largest errors of a quantity."""
    columns = list(evaluation.compared)
    rows = [
        [
            str(frame["source_id"]),
            str(frame["formula"]),
            f"{frame['total_charge']:+g}" if frame["total_charge"] else "0",
            *(_cell(frame.get(name)) for name in columns),
        ]
        for frame in evaluation.worst(quantity)
    ]
    head = ["structure", "formula", "Q (e)", *(_head(name) for name in columns)]
    return Table(f"Worst structures by {quantity} (RMSE of each)", head, rows, names=2)


def facts(evaluation: Evaluation) -> list[str]:
    """Say in sentences what was evaluated, what was missing and how long it took."""
    frames, timing = evaluation.frames, evaluation.timing
    said = [
        f"{len(frames):,} structures, {int(frames.n_atoms.sum()):,} atoms, from "
        f"{', '.join(dict.fromkeys(frames.part))}",
        f"model: {evaluation.model['parameters']:,} parameters, {evaluation.model['dtype']}, "
        f"elements {_words(evaluation.model['elements'])}",
    ]
    if evaluation.charge_residual is not None:
        said.append(
            f"charges add up to the total charge within {evaluation.charge_residual:.1e} e"
        )
    if timing.wall > 0.0 and timing.atoms:
        said.append(
            f"predicted in {timing.wall:.3g} s ({timing.cpu:.3g} s of CPU): "
            f"{timing.structures / timing.wall:,.3g} structures/s, "
            f"{1e6 * timing.cpu / timing.atoms:,.3g} us of CPU per atom"
        )
    untrained = _words(evaluation.model["untrained_elements_met"])
    if untrained:
        said.append(f"without training data, do not trust: {untrained}")
    strange = evaluation.model["unseen_charge_states_met"]
    if isinstance(strange, list):
        said += [f"an extrapolation, do not trust: {text}" for text in strange]
    said += [f"{name}: not compared, {why}" for name, why in evaluation.missing.items()]
    return said


def number(value: float) -> str:
    """Write a number with three significant digits, without powers of ten where it is usual."""
    if value != value:
        return "-"
    size = abs(value)
    if size == 0.0:
        return "0"
    if size < 1e-4 or size >= 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - _exponent(size))
    return f"{value:,.{digits}f}"


def _words(values: object) -> str:
    """Join what a list of the model's facts says."""
    return " ".join(str(v) for v in values) if isinstance(values, list) else ""


def _exponent(size: float) -> int:
    return int(f"{size:e}".split("e")[1])


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "-"


def _head(name: str) -> str:
    return f"{name} ({QUANTITIES[name].unit})"


def _grouped(
    title: str, what: str, groups: Mapping[str, Mapping[str, Errors]], evaluation: Evaluation
) -> Table:
    """Make a table of RMSEs, one row per group, one column per quantity."""
    columns = list(evaluation.compared)
    rows = [
        [key, *(number(errors[n].rmse) if n in errors else "-" for n in columns)]
        for key, errors in groups.items()
    ]
    return Table(title, [what, *(_head(n) for n in columns)], rows)
