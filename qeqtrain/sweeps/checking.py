"""The values of a sweep held against its recipe, before any trial starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe, load_recipe
from qeqtrain.recipe.folders import group_names
from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.search import import_optuna
from qeqtrain.sweeps.words import word

MOST_CROSSES = 64
"""Combinations of groups that are tried; more of them differ in nothing new."""


def refuse_mistakes(definition: Definition, *, check_files: bool = True) -> None:
    """Compose the recipe with the values that trials will give it.

    Every combination of groups is tried, and every value of a parameter, or its extremes, with
    one of them.

    Args:
        definition: with what the command line added.
        check_files: whether files that the recipe names have to be there.

    Raises:
        UserMistake: all that is wrong with any trial, and which trial it would be.
    """
    if definition.method == "bayes":
        import_optuna()
    if definition.method != "grid" and definition.run_cap is None:
        raise UserMistake(
            f"method: {definition.method} has no end of its own; say run_cap: N in the file, "
            "or --count N"
        )
    problems: dict[str, str] = {}
    crosses: list[tuple[Recipe, str]] = []
    for values, crossed in _probes(definition):
        words = [word(name, value) for name, value in values.items()]
        try:
            recipe = load_recipe(
                definition.recipe, [*definition.fixed, *words], check_files=check_files
            )
        except UserMistake as mistake:
            for problem in mistake.problems:
                problems.setdefault(problem, " ".join(words))
        else:
            if crossed:
                crosses.append((recipe, " ".join(words)))
    if problems:
        raise UserMistake(*(f"{said} (a trial: {who})" for said, who in problems.items()))
    for recipe, who in crosses:
        try:
            _refuse_impossible(recipe)
        except UserMistake as mistake:
            for problem in mistake.problems:
                problems.setdefault(problem, who)
    if problems:
        raise UserMistake(*(f"{said} (a trial: {who})" for said, who in problems.items()))


def _probes(definition: Definition) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Values to try; and whether they are a new combination of groups."""
    parameters = definition.parameters
    groups = [p for p in parameters if p.name in group_names() and p.values is not None]
    usual = {p.name: p.extremes()[0] for p in parameters}
    products = itertools.product(*(p.values or () for p in groups))
    for point in itertools.islice(products, MOST_CROSSES):
        chosen = {p.name: value for p, value in zip(groups, point, strict=True)}
        yield {**usual, **chosen}, True
    for p in parameters:
        if p not in groups:
            for value in p.extremes()[1:]:
                yield {**usual, p.name: value}, False


def _refuse_impossible(recipe: Recipe) -> None:
    """Make the model and the loss of a trial: charges that only one of the two knows."""
    from qeqtrain.recipe.building import build
    from qeqtrain.training.assembly import sketch_potential

    built = build(recipe)
    built["trainer"].budget()
    built["loss"].refuse_impossible(
        has_charges=sketch_potential(built["potential"]).has_charges
    )
