"""One self-contained file: the same numbers as its checkpoint, and nothing but data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qeqtrain
from qeqtrain.errors import UserMistake
from qeqtrain.models import archive, exported
from qeqtrain.models.potential import Potential
from tests.models.test_archive import write_checkpoint
from tests.systems import batch_of, shared_file, small_qet, triclinic, water


def same_predictions(a: Potential, b: Potential, tolerance: float) -> None:
    for system in ([triclinic(), water(1.0)], [water()]):
        one, two = a(batch_of(system, a)), b(batch_of(system, b))
        for name in ("energy", "forces", "stress", "charges", "dipole"):
            x, y = getattr(one, name), getattr(two, name)
            if x is not None:
                size = float(x.nan_to_num().abs().max())
                atol = tolerance * max(1.0, size)
                torch.testing.assert_close(x, y, rtol=0, atol=atol, equal_nan=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    checkpoint = write_checkpoint(
        tmp_path / "a.ckpt", small_qet(seed=3), recipe={"seed": 7}, metrics={"score": 0.25}
    )
    archive.export(checkpoint, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_an_exported_model_is_its_checkpoint(file: Path) -> None:
    checkpoint = file.with_name("a.ckpt")
    same_predictions(qeqtrain.load(file), qeqtrain.load(checkpoint), 1e-12)
    assert qeqtrain.load(file).header() == qeqtrain.load(checkpoint).header()


def test_single_precision_is_what_the_checkpoint_gives_in_single_precision(
    file: Path, tmp_path: Path
) -> None:
    single = tmp_path / "single.safetensors"
    archive.export(file.with_name("a.ckpt"), single, dtype="float32")
    loaded = qeqtrain.load(single)
    assert loaded.dtype == torch.float32
    same_predictions(loaded, qeqtrain.load(file.with_name("a.ckpt"), dtype="float32"), 1e-6)
    assert single.stat().st_size < 0.7 * file.stat().st_size


def test_the_file_says_where_it_comes_from(file: Path) -> None:
    said = archive.passport(file)
    assert said == {"recipe": {"seed": 7}, "metrics": {"score": 0.25}}


def test_the_same_model_gives_the_same_bytes_also_when_exported_twice(file: Path) -> None:
    again = file.with_name("b.safetensors")
    archive.export(file, again)
    assert again.read_bytes() == file.read_bytes()


def test_weights_are_kept_once(file: Path) -> None:
    kept = sum(v.numel() * v.element_size() for v in small_qet().state_dict().values())
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + kept


def test_a_changed_byte_is_noticed_wherever_it_is(file: Path) -> None:
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = [*range(10), *range(10, header + 8, 97), *range(header + 8, len(whole), 997)]
    for place in [*places, len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(UserMistake):
            qeqtrain.load(file)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserMistake, match=r"damaged|not a checkpoint"):
        qeqtrain.load(file)


def test_a_file_that_grew_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(UserMistake, match=r"checksum.*export it again"):
        qeqtrain.load(file)


def test_a_part_that_may_not_be_built_is_refused_with_a_right_checksum_too(
    tmp_path: Path,
) -> None:
    potential = small_qet()
    potential.spec["coupling"] = {"_target_": "os.system", "command": "true"}
    entry = {"format": archive.FORMAT, "potential": potential.header()}
    exported.write_exported(tmp_path / "a.safetensors", entry, potential.state_dict())
    with pytest.raises(UserMistake, match="no part that may be built"):
        qeqtrain.load(tmp_path / "a.safetensors")


def test_weights_of_others_in_the_same_layout_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserMistake, match="holds no potential of qeqtrain"):
        qeqtrain.load(tmp_path / "b")


def test_safetensors_itself_reads_the_weights(file: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    for name, value in safetensors.load_file(file).items():
        assert torch.equal(value, small_qet(seed=3).state_dict()[name]), name


BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in BANNED:
            raise ModuleNotFoundError(name)
BANNED = {"hydra", "omegaconf", "pytorch_lightning", "wandb", "pickle5", "pydantic", "h5py"}
sys.meta_path.insert(0, Refuse())
import pickle
def refuse(*_, **__):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
"""


def test_it_predicts_where_the_programmes_of_training_are_absent(file: Path) -> None:
    code = f"""{BLOCKED}
import torch
torch.load = refuse
import qeqtrain
from ase.build import molecule
atoms = molecule("H2O")
atoms.info["charge"] = 0.0
atoms.calc = qeqtrain.QeqCalculator({str(file)!r})
print(repr(atoms.get_potential_energy()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from ase.build import molecule

    atoms = molecule("H2O")
    atoms.info["charge"] = 0.0
    expected = float(small_qet(seed=3)(atoms).energy[0])
    assert abs(float(done.stdout) - expected) < 1e-12 * abs(expected)


def test_a_foundation_model_is_exported_with_source_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_file("foundation", "qet-matq", "state.pt").parents[1]
    monkeypatch.setenv("QEQTRAIN_MODELS", str(folder))
    archive.export("qet-matq", tmp_path / "m.safetensors", dtype="float64")
    said = archive.passport(tmp_path / "m.safetensors")["foundation"]
    assert said["license"].startswith("BSD")
    from ase.build import bulk

    crystal = bulk("CsCl", "cesiumchloride", a=4.207706)
    published = qeqtrain.load("qet-matq", dtype="float64")(crystal)
    found = qeqtrain.load(tmp_path / "m.safetensors")(crystal)
    torch.testing.assert_close(found.energy, published.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.charges, published.charges, rtol=0, atol=1e-12)
