"""Reading ReaxNet as its authors publish it."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.build import molecule

import qeqtrain
from qeqtrain.errors import UserMistake
from qeqtrain.models.foundation import FOUNDATION_MODELS
from qeqtrain.models.jax_nequip import JaxConfig, expected_parameters
from qeqtrain.models.plain_pickle import read_arrays
from qeqtrain.models.potential import Potential
from qeqtrain.models.reaxnet import NO_CHARGES, read_reaxnet
from tests.models.reaxnet_files import nested, write_reaxnet

CONFIG = {
    "graph_net_steps": 2,
    "hidden_irreps": "6x0e + 3x1e + 2x2e",
    "sh_irreps": "1x0e + 1x1e + 1x2e",
    "n_elements": 3,
    "r_max": 4.0,
    "n_neighbors": 12.0,
    "radial_net_n_hidden": 5,
    "shift": -1.5,
    "scale": 2.0,
}
ELEMENTS = (1, 8)
EMBEDDING = "params/Linear_0/w[0,0] 3x0e,6x0e"


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = expected_parameters(JaxConfig(**CONFIG))
    return {f"params/{k}": rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def read(folder: Path) -> Potential:
    return read_reaxnet(folder, NO_CHARGES, conventions={"total_charge": "zero"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_reaxnet(tmp_path / "reaxnet", weights(), CONFIG, ELEMENTS)


def test_the_first_species_is_no_element(folder: Path, tmp_path: Path) -> None:
    other = weights()
    other[EMBEDDING][0] += 7.0
    changed = write_reaxnet(tmp_path / "other", other, CONFIG, ELEMENTS)
    water = molecule("H2O")
    assert torch.equal(read(folder)(water).energy, read(changed)(water).energy)


def test_shift_and_scale_belong_to_every_atom(folder: Path) -> None:
    found = read(folder)(molecule("H2O"))
    expected = found.atomic_energies.sum() - 3 * 1.5
    torch.testing.assert_close(found.energy[0], expected)
    config = yaml.safe_load((folder / "model_config.yaml").read_text())
    (folder / "model_config.yaml").write_text(yaml.safe_dump({**config, "scale": 4.0}))
    twice = read(folder)(molecule("H2O"))
    torch.testing.assert_close(twice.atomic_energies, 2.0 * found.atomic_energies)


# The pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_read(protocol: int, tmp_path: Path) -> None:
    given = {
        **weights(),
        "params/columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "params/big_endian": np.arange(3, dtype=">f4"),
        "params/number": np.float64(2.5),
    }
    content = OrderedDict(nested(given))
    (tmp_path / "p").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_arrays(tmp_path / "p")
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert np.array_equal(found[name], value), name
        assert found[name].dtype == np.asarray(value).dtype


class JaxArray:
    """Pickles itself as JAX's arrays and flax's dictionaries do."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        maker = sys.modules["jax._src.array"]._reconstruct_array
        return maker, (*self.value.__reduce__(), {"weak_type": False, "named_shape": {}})


class Frozen:
    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["flax.core.frozen_dict"].FrozenDict, (self.content,)


def test_arrays_of_jax_and_dictionaries_of_flax_are_read_without_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        ("jax._src.array", "_reconstruct_array"),
        ("flax.core.frozen_dict", "FrozenDict"),
    ):
        made = types.ModuleType(module)

        def refused(*_: object) -> None:
            raise AssertionError("was called")

        refused.__module__, refused.__qualname__ = module, name
        setattr(made, name, refused)
        monkeypatch.setitem(sys.modules, module, made)
        while module := module.rpartition(".")[0]:
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    (tmp_path / "p").write_bytes(pickle.dumps(Frozen({"params": {"w": JaxArray(values)}})))
    found = read_arrays(tmp_path / "p")
    assert list(found) == ["params/w"]
    assert np.array_equal(found["params/w"], values)


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.to_do = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.to_do


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, ("never",), r"posix\.mkdir"),
        (eval, ("open('never', 'w')",), r"(builtins|__builtin__)\.eval"),
        (np.load, ("never",), r"numpy\.load"),
        (np.fromfile, ("never",), r"numpy\S*\.fromfile"),
    ],
)
def test_a_pickle_that_calls_something_is_refused_by_name(
    function, arguments, name, protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"params": {"w": Call(function, *arguments)}}
    Path("p").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserMistake, match=rf"asks for {name}.*Nothing of the file was run"):
        read_arrays(Path("p"))
    assert not Path("never").exists()


def test_instructions_that_reach_outside_are_refused(tmp_path: Path) -> None:
    for content, name in (
        (b"Pname\n.", "PERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(cos\nsystem\nS'true'\no.", "OBJ"),
        (b"(S'true'\nios\nsystem\n.", "INST"),
        (b"N\xff\xff", "none"),
    ):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(UserMistake, match=f"instruction {name}|damaged"):
            read_arrays(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"}r\xff\xff\xff\x7f.")  # a memo of two thousand million
    with pytest.raises(UserMistake, match="keeps an object under the number 2147483647"):
        read_arrays(tmp_path / "p")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": {"w": "text"}}, "params/w is no array but a str"),
        ([np.zeros(2)], "the whole is no array but a list"),
        ({"params": {3: np.zeros(2)}}, "a key that is no text: '3'"),
        ({"params": {"w": np.array(["text"])}}, "numbers of type .U"),
        ({"params": {"w": np.array([1j])}}, "numbers of type .c16"),
        ({"params": {"w": np.array([None])}}, "something else than numbers|O8"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(content, message, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(content))
    with pytest.raises(UserMistake, match=message):
        read_arrays(tmp_path / "p")


def test_dictionaries_within_themselves_end(tmp_path: Path) -> None:
    ring: dict[str, Any] = {}
    ring["params"] = ring
    (tmp_path / "p").write_bytes(pickle.dumps(ring))
    with pytest.raises(UserMistake, match="32 levels"):
        read_arrays(tmp_path / "p")
    bush: dict[str, Any] = {"w": np.zeros(1)}
    for _ in range(25):
        bush = {"a": bush, "b": bush}
    (tmp_path / "p").write_bytes(pickle.dumps(bush))
    with pytest.raises(UserMistake, match="more than 100000 entries"):
        read_arrays(tmp_path / "p")


def test_damaged_files_are_mistakes_of_the_user_and_nothing_else(tmp_path: Path) -> None:
    whole = pickle.dumps({"params": {"w": np.arange(4.0), "b": [1, 2.5, None, "x"][:0] or {}}})
    rng = np.random.default_rng(1)
    path = tmp_path / "p"
    refused = 0
    for k in range(400):
        data = bytearray(whole[: k % len(whole)] if k < 100 else whole)
        for _ in range(0 if k < 100 else 1 + k % 4):
            data[rng.integers(len(data))] = rng.integers(256)
        if k >= 300:
            data = bytearray(rng.bytes(60))
        path.write_bytes(data)
        try:
            found = read_arrays(path)
        except UserMistake:
            refused += 1
        else:
            assert all(isinstance(v, np.ndarray) for v in found.values())
    assert refused > 200


# The network


def test_missing_unknown_and_misshapen_parameters_are_listed(tmp_path: Path) -> None:
    given = weights()
    given["params/Linear_9/w"] = np.zeros(2)
    del given["params/BesselEmbedding_0/frequencies"]
    given[EMBEDDING] = given[EMBEDDING][:2]
    kernel = "params/NequIPConvolution_0/MLP_0/Dense_0/kernel"
    given[kernel] = given[kernel] * np.nan
    with pytest.raises(UserMistake) as met:
        read(write_reaxnet(tmp_path, given, CONFIG, ELEMENTS))
    told = str(met.value)
    assert "lacks the parameters 'BesselEmbedding_0/frequencies'" in told
    assert "unknown parameters 'Linear_9/w'" in told
    assert "'Linear_0/w[0,0] 3x0e,6x0e' has shape (2, 6), expected (3, 6)" in told
    assert "Dense_0/kernel' holds something else than finite real numbers" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_element": 3}, "key 'n_element'.*did you mean 'n_elements'"),
        ({"use_sc": False}, "use_sc: False; only True is read"),
        ({"nonlinearities": {"e": "tanh"}}, "even scalars: 'tanh'; only 'raw_swish'"),
        ({"hidden_irreps": "6x0e + 3x1o + 2x2e"}, "expected even ones of degree 0, 1"),
        ({"sh_irreps": "1x0e + 1x1e"}, "degrees of sh_irreps"),
        ({"graph_net_steps": "two"}, "graph_net_steps is 'two', expected a whole number"),
        ({"r_max": "far"}, "r_max is 'far', expected a number"),
        ({"n_elements": 4}, "has 2 elements, but n_elements is 4"),
    ],
)
def test_other_networks_are_refused_with_what_differs(change, message, tmp_path: Path) -> None:
    folder = write_reaxnet(tmp_path, weights(), {**CONFIG, **change}, ELEMENTS)
    with pytest.raises(UserMistake, match=message):
        read(folder)


def test_a_mapping_that_is_not_the_authors_is_refused(folder: Path) -> None:
    for text, message in (
        ("{1: 2, 8: 1}", "by increasing atomic number"),
        ("{H: 1, O: 2}", "atomic numbers as keys"),
        ("!!python/object/apply:os.system [true]", "not plain YAML"),
        ("[1, 8]", "expected a mapping"),
    ):
        (folder / "mapping.yaml").write_text(text)
        with pytest.raises(UserMistake, match=message):
            read(folder)


# The name


@pytest.fixture
def without_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the foundation model be the network alone, which needs no long cutoff."""

    def reader(folder: Path, conventions: Any) -> Potential:
        return read_reaxnet(folder, NO_CHARGES, conventions=conventions)

    model = replace(FOUNDATION_MODELS["reaxnet"], reader=reader)
    monkeypatch.setitem(FOUNDATION_MODELS, "reaxnet", model)


@pytest.mark.usefixtures("without_charges")
def test_it_is_loaded_by_name_from_the_users_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEQTRAIN_MODELS", str(folder.parent))
    potential = qeqtrain.load("reaxnet")
    expected = read(folder)(molecule("H2O")).energy
    assert torch.equal(potential(molecule("H2O")).energy, expected)
    assert sorted(potential.conventions["files"]) == sorted(p.name for p in folder.iterdir())


def test_without_the_files_it_is_said_where_to_get_and_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("QEQTRAIN_MODELS", raising=False)
    with pytest.raises(
        UserMistake,
        match=r"get params\.pickle, model_config\.yaml, mapping\.yaml from "
        r"https://doi\.org/10\.6084/m9\.figshare\.28407524 and put them into .*reaxnet",
    ):
        qeqtrain.load("reaxnet")
