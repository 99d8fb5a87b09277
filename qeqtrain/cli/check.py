"""``qeqtrain check``: everything that can be wrong, said before any training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeqtrain.cli.arguments import Parser, split_overrides
from qeqtrain.cli.data import write_json
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.data.progress import duration
from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.models.mixture import Mixture
    from qeqtrain.training.loss import Loss
    from qeqtrain.training.probe import Probe

SPLITS = ("train", "val", "test")
SEVERAL = ("note", "warning")
"""Facts that there may be several of; lists in the JSON."""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = (
        "Check a recipe: its keys and types first, then its data against its loss and its "
        "model. Nothing is trained and nothing written."
    )
    parser.epilog = "example:\n  qeqtrain check qet data.train=train.extxyz loss.dipole=1"
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same for machines")
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE | key=value", help="as for `qeqtrain fit`"
    )
    return run


def run(arguments: argparse.Namespace) -> int:
    """Check, and print what a run would start from."""
    plain, overrides = split_overrides(arguments.words)
    if len(plain) != 1:
        raise UserMistake(f"expected one recipe, met {', '.join(plain) or 'none'}")
    refuse_unwritable(arguments.json)
    recipe = load_recipe(plain[0], overrides)
    if recipe.settings["finetune"]:
        from qeqtrain.cli.finetune import with_source

        recipe = with_source(recipe, overrides)
    sys.stdout.write(f"recipe           {recipe.name}: keys, types and files are right\n")
    sys.stdout.flush()
    told: dict[str, list[str]] = {}
    numbers: dict[str, Any] = {}
    for name, value in _facts(recipe, numbers):
        sys.stdout.write(f"{name:<17}{value}\n")
        sys.stdout.flush()
        told.setdefault(name, []).append(value)
    once = {name: values[0] for name, values in told.items() if name not in SEVERAL}
    write_json(arguments.json, {**once, **{n: told.get(n, []) for n in SEVERAL}, **numbers})
    return 0


def _facts(recipe: Recipe, numbers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Read the data as a run would, and tell what comes of it; numbers stand apart as well."""
    from ase.data import chemical_symbols

    from qeqtrain.data.sanity import sanity_warnings
    from qeqtrain.recipe.building import build
    from qeqtrain.training.assembly import potential_for, sketch_potential, unseen_state_notes
    from qeqtrain.training.finetuning.tuning import Tuning
    from qeqtrain.training.loss import TERMS
    from qeqtrain.training.probe import probe

    built = build(recipe)
    data, loss, nodes = built["data"], built["loss"], built["potential"]
    sketch = sketch_potential(nodes)
    loss.refuse_impossible(
        has_charges=sketch.has_charges, fixed_charges=sketch.has_fixed_charges
    )
    loss.refuse_untrained_dipoles(atomic_dipoles=sketch.atomic_dipoles is not None)
    built["trainer"].budget()
    built["optim"].build_optimizer(sketch.parameters())
    data.prepare(sketch.cutoffs, {name: loss.needs(name) for name in TERMS})
    if (finetune := built.get("finetune")) is None:
        potential = potential_for(nodes, data)
        built["optim"].freeze_weights(potential)
    else:
        potential = Tuning(finetune, nodes, data, built["optim"]).start()
    strange = unseen_state_notes(potential, data)
    data.use_cutoffs(potential.cutoffs)
    data.refuse_fields(potential.field)

    yield from _about_data(data, recipe.settings["data"])
    yield from _about_sets(data, potential.mixture, loss)
    yield from _about_labels(data.statistics.coverage, loss)
    if potential.adds_fixed_energy:
        left = [f"{chemical_symbols[z]} {e:.4f}" for z, e in potential.references.items()]
        yield "references", f"{', '.join(left)} eV, without what lies beneath the network"
    parameters = sum(p.numel() for p in potential.parameters())
    moving = sum(p.numel() for p in potential.parameters() if p.requires_grad)
    scale = potential.scale
    if isinstance(scale, Mapping):
        shown = ", ".join(f"{chemical_symbols[z]} {s:.4g}" for z, s in scale.items())
    else:
        shown = f"{scale:.4g}"
    trained = "" if moving == parameters else f", {moving:,} of them trained"
    yield "model", f"{parameters:,} parameters{trained}, scale {shown} eV"
    if potential.charge_references is not None:
        yield "charge energies", _charge_energies(potential.charge_references.plain())
    yield (
        "cutoffs",
        ", ".join(
            f"{name} {'by structure' if callable(reach) else f'{reach:g} A'}"
            for name, reach in potential.cutoffs.items()
        ),
    )
    cost = probe(potential, data, loss)
    yield "step", _cost(cost)
    numbers["statistics"] = asdict(data.statistics)
    if (by_set := getattr(data, "statistics_by_set", None)) is not None:
        numbers["sets"] = {name: asdict(found) for name, found in by_set.items()}
    numbers["probe"] = None if isinstance(cost, str) else asdict(cost)
    for note in [*data.notes, *strange]:
        yield "note", note
    for name, (source, frames) in data.train_parts().items():
        for warning in sanity_warnings(source, source.sum_up(frames)):
            yield "warning", f"{name}: {warning}" if name else warning


def _cost(found: Probe | str) -> str:
    """Say what training will cost, from a step of the largest batch."""
    if isinstance(found, str):
        return f"not measured: {found}"
    return (
        f"{found.seconds:.3g} s for the largest batch ({found.atoms:,} atoms) on this "
        f"{found.device}; at most {duration(found.epoch_seconds)} for an epoch of "
        f"{found.batches:,} batches; {found.peak_bytes / 2**20:,.0f} MiB"
    )


def _about_data(data: PreparedFrames, node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from ase.data import chemical_symbols

    for split in SPLITS:
        _, frames = data.source_of(split)
        if len(frames):
            batches = len(getattr(data, f"{split}_loader")())
            yield split, f"{len(frames):,} structures in {batches:,} batches"
        else:
            yield split, "no structures"
    found = data.statistics
    yield "atoms", f"{found.n_atoms:,} in the training split"
    yield "elements", " ".join(chemical_symbols[z] for z in found.elements)
    references = ", ".join(
        f"{chemical_symbols[z]} {energy:.4f}" for z, energy in found.references.items()
    )
    yield "least squares", f"{references or 'none'} eV"
    yield "forces", f"root mean square {found.force_rms:.4g} eV/A"
    yield "neighbours", f"{found.average_neighbors:.1f} of an atom on average"
    if found.charge_range is not None:
        low, high = found.charge_range
        yield "charges", f"{low:+.3f} to {high:+.3f} e"
    charges = ", ".join(f"{_signed(q)} ({count:,})" for q, count in found.total_charges.items())
    absent, nan = _stated(node, "total_charge", "error"), _stated(node, "nan", "error")
    yield "total charges", f"{charges or 'none stated'} e; where absent: {absent}"
    yield "NaN labels", nan


def _stated(node: Mapping[str, Any], key: str, default: str) -> str:
    """Say which policy holds, set by set where there are several."""
    if "sets" not in node:
        return str(node[key])
    stated = {name: str(one.get(key) or default) for name, one in node["sets"].items()}
    alike = set(stated.values())
    return ", ".join(alike) if len(alike) == 1 else _listed(stated)


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _about_sets(
    data: PreparedFrames, mixture: Mixture | None, loss: Loss
) -> Iterator[tuple[str, str]]:
    """Say what every data set of a mixture brings; nothing where there is one."""
    from ase.data import chemical_symbols

    from qeqtrain.data.mixed import MixedSets

    if mixture is None or not isinstance(data, MixedSets):
        return
    for k, (name, told) in enumerate(data.told().items()):
        yield f"set {name}", told
        more = mixture.differences(k)
        energies = {chemical_symbols[z]: f"{e:+.4f}" for z, e in more.items() if e}
        if energies:
            yield f"energies {name}", f"{_listed(energies)} eV, beside those of {data.main}"
    if mixture.mapped and loss.needs("charges"):
        first = mixture.charge_types[data.main]
        kinds = ", ".join(map(str, mixture.mapped))
        yield "charge kinds", f"{kinds}, each learned as a map of {first}"


def _charge_energies(plain: Mapping[str, Any]) -> str:
    """Say what stands beside the energies of elements."""
    if plain["kind"] == "learned":
        return f"learned, in units of {plain['scale']:.4g} eV"
    if plain["kind"] == "per_composition":
        return f"of {len(plain['energies']):,} compositions with their total charge"
    return ", ".join(f"{_signed(q)} {energy:.4f}" for q, energy in plain["energies"]) + " eV"


def _signed(charge: float) -> str:
    return f"{charge:+g}" if charge else "0"


def _about_labels(coverage: Mapping[str, float], loss: Loss) -> Iterator[tuple[str, str]]:
    for label, share in coverage.items():
        term = loss.terms.get(label)
        if not share and not term:
            continue
        weight = f"weight {term.weight:g}, {term.kind}" if term else "not in the loss"
        yield f"label {label}", f"{100 * share:.3g} % of the structures; {weight}"
