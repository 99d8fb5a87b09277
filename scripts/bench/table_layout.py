"""From lines of the results file to one Markdown table: ratios, memory, share of roofline."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import shared
from table_cases import NETWORKS, Size

Line = Mapping[str, Any]
Case = tuple[str, int, str, str, str]
"""Device, threads, network, system, size."""

HEADER = [
    "structures",
    "program",
    "training, ms a step",
    "ratio",
    "energy and forces, ms",
    "ratio",
    "peak, MB",
    "ratio",
    "of the roofline",
]


def case_of(line: Line) -> Case:
    """Name what a line is a measurement of, whatever the program."""
    size = Size(int(line["batch"]), int(line["repeat"]))
    return line["device"], line["threads"], line["network"], line["system"], str(size)


def latest(lines: Sequence[Line]) -> dict[Case, list[Line]]:
    """Take the last run of every case, in the order of the networks."""
    runs: dict[Case, dict[str, list[Line]]] = {}
    for line in lines:
        runs.setdefault(case_of(line), {}).setdefault(line["run"], []).append(line)
    order = list(NETWORKS)
    chosen = sorted(runs, key=lambda c: (c[0], c[1], order.index(c[2]), c[3] != "periodic"))
    return {case: runs[case][max(runs[case])] for case in chosen}


def time_of(line: Line, task: str) -> float:
    """Read milliseconds a step: CPU time of one thread, else the shortest time by the clock.

    Args:
        line: of the results file.
        task: ``training`` or ``inference``.
    """
    if line["device"] == "cpu" and line["threads"] == 1:
        return float(line["step_cpu_ms" if task == "training" else "infer_cpu_ms"])
    return float(line["step_ms_min" if task == "training" else "infer_ms_min"])


def memory_of(line: Line) -> float:
    """Read the peak memory, MB: of the process, or of torch on a GPU."""
    return float(line["rss_mb"] if line["device"] == "cpu" else line["gpu_mb"])


def roofline(line: Line, needs: Line, task: str) -> float:
    """Share of what matrix products and memory of this machine would allow.

    Args:
        line: whose time and ceilings count.
        needs: of the case, see ``table_adapter.needs``.
        task: ``training`` or ``inference``.
    """
    flops, traffic = (max(pair) for pair in zip(*line["calib"], strict=True))
    atoms = float(line["batch_atoms"])
    least = max(
        atoms * needs[f"flop_per_atom_{task}"] / (1e9 * flops),
        atoms * needs[f"traffic_per_atom_{task}"] / (1e9 * traffic),
    )
    return 1e3 * least / time_of(line, task)


def _numbers(values: Sequence[float]) -> str:
    """Write both runs of a rival, or the one of ours."""
    return " / ".join(f"{v:.0f}" for v in values)


def _rows(lines: Sequence[Line]) -> Iterator[list[str]]:
    """One row for each program of a case."""
    network = NETWORKS[lines[0]["network"]]
    needs = next((x for x in lines if "needs_of" in x), None)
    programs = list(dict.fromkeys((x["program"], bool(x["compiled"])) for x in lines))
    rival = [x for x in lines if x["program"] == network.rival and not x["compiled"]]
    for program, compiled in programs:
        own = [x for x in lines if (x["program"], bool(x["compiled"])) == (program, compiled)]
        row = [f"{program}{', compiled' if compiled else ''}"]
        for read in (
            lambda x: time_of(x, "training"),
            lambda x: time_of(x, "inference"),
            memory_of,
        ):
            row.append(_numbers([read(x) for x in own]))
            if not rival:
                row.append("-")
                continue
            share = statistics.fmean(map(read, own)) / statistics.fmean(map(read, rival))
            row.append("1" if own[0] in rival else f"**{share:.2f}**")
        shares = "-"
        needed = next((x for x in own if "needs_of" in x), needs)
        if needed is not None:
            shares = ", ".join(
                f"{100 * max(roofline(x, needed, task) for x in own):.0f} %"
                for task in ("training", "inference")
            )
        yield [*row, shares]


def _structures(case: Case, line: Line) -> str:
    _, _, _, system, word = case
    batch = Size.read(word).batch
    return f"{system}, {batch} x {round(line['batch_atoms'] / batch)}"


def _title(device: str, threads: int, line: Line) -> str:
    if device != "cpu":
        return f"{line.get('gpu', device)}, time by the clock"
    if threads == 1:
        return f"{line['hardware']}, one thread, CPU time"
    return f"{line['hardware']}, {threads} threads, least time by the clock"


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Lay the last run of every case out, by device, threads and network."""
    chosen = latest(lines)
    before: tuple[Any, ...] = ()
    for network_of in dict.fromkeys((c[0], c[1], c[2]) for c in chosen):
        device, threads, network = network_of
        cases = {c: x for c, x in chosen.items() if c[:3] == network_of}
        first = next(iter(cases.values()))[0]
        if before != (device, threads):
            before = (device, threads)
            yield f"*{_title(device, threads, first)}, torch {first['torch']}*"
            yield ""
        dates = sorted({x["date"] for group in cases.values() for x in group})
        commits = list(dict.fromkeys(x["commit"] for group in cases.values() for x in group))
        yield f"{NETWORKS[network].title} ({dates[-1]}, commit {', '.join(commits)}):"
        yield ""
        rows = []
        for case, group in cases.items():
            for k, row in enumerate(_rows(group)):
                rows.append([_structures(case, group[0]) if k == 0 else "", *row])
        yield from shared.markdown(HEADER, rows)
        gains = list(_gains(chosen, cases, threads))
        if gains:
            yield ""
            yield f"{threads} threads against one, training: {', '.join(gains)}."
        yield ""


def _gains(
    chosen: Mapping[Case, Sequence[Line]], cases: Mapping[Case, Sequence[Line]], threads: int
) -> Iterator[str]:
    """What further threads are worth to every program, by the clock, within one run."""
    if threads == 1:
        return
    for (device, _, network, system, size), lines in cases.items():
        single = chosen.get((device, 1, network, system, size), ())
        single = [x for x in single if x["run"] == lines[0]["run"]]
        for name in dict.fromkeys(map(_name, lines)):
            times = [
                [float(x["step_ms_min"]) for x in group if _name(x) == name]
                for group in (single, lines)
            ]
            if all(times):
                yield f"{name} {system} {size}: {min(times[0]) / min(times[1]):.2f}"


def _name(line: Line) -> str:
    """Name what a line is about."""
    return f"{line['program']}{' compiled' if line['compiled'] else ''}"
