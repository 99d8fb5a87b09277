"""How fast batches come out of a store: structures a second and core, read, widened, joined.

Makes a store of random structures with neighbour lists, and loads it in this process and
through worker processes, as a training run does: shuffled batches, labels, lists, float64 and
int64. Nothing is computed with them. The store is read a first time before the clock starts,
so that its pages are cached; checksums are compared on that first pass only.

    python scripts/bench/loading.py                       4000 structures of 53 atoms, 5 A
    python scripts/bench/loading.py --workers 0 1 2 --batch 32
    python scripts/bench/loading.py --profile             where the time goes, in this process
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qeqtrain.data import store
from qeqtrain.data.batching import FrameBatches, StatefulLoader
from qeqtrain.data.frames import Frame
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.source import Source
from qeqtrain.data.writing import write_store
from qeqtrain.structures import Structure

DENSITY = 1 / 13.8  # atoms per A^3: 36 neighbours within 5 A, as a crystal of oxides has
LABELS = ("energy", "forces", "stress", "charges")


def structure(seed: int, n_atoms: int) -> Frame:
    """One random crystal with labels of the right shapes."""
    random = np.random.default_rng(seed)
    side = (n_atoms / DENSITY) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = grid[random.permutation(len(grid))[:n_atoms]]
    made = Structure(
        numbers=random.choice([3, 8, 11, 17, 22], n_atoms),
        positions=(sites + random.uniform(-0.2, 0.2, (n_atoms, 3))) * side / 4,
        cell=np.eye(3) * side,
        pbc=np.ones(3, dtype=bool),
        total_charge=0.0,
    )
    labels = {
        "energy": np.float64(random.normal()),
        "forces": random.normal(size=(n_atoms, 3)),
        "stress": np.eye(3) * random.normal(),
        "charges": random.normal(size=n_atoms),
    }
    return Frame(made, labels, f"made/{seed}")


def lazily(path: Path) -> Source:
    """Open the store as a large one is opened: read from the file, whatever its size."""
    columns, header = store.open_store(path, in_memory=0)
    return Source(columns, name=path.stem, path=path, **vars(header))


def used_by_others() -> float:
    """CPU time of the worker processes, s."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


def rate(
    batches: FrameBatches, batch: int, workers: int, epochs: int
) -> tuple[float, float, float]:
    """Seconds a structure: by the clock, CPU of this process, CPU of the workers."""
    plan = BatchPlan(np.ones(len(batches)), float(batch))
    loader = StatefulLoader(batches, plan, workers=workers)
    for _ in loader:  # starts the workers, fills the cache, compares checksums
        pass
    wall, own, others = time.perf_counter(), time.process_time(), used_by_others()
    count = 0
    for epoch in range(1, epochs + 1):
        loader.set_epoch(epoch)
        count += sum(len(one) for one in loader)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return wall / count, own / count, (used_by_others() - others) / count


def main() -> None:
    """Make the store, load it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=4000)
    parser.add_argument("--atoms", type=int, default=53)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.h5"
        frames = (structure(i, given.atoms) for i in range(given.structures))
        write_store(path, frames, pairs_cutoff=given.cutoff)
        source = lazily(path)
        pairs = np.diff(source.pair_offsets).mean()
        print(
            f"{given.structures:,} structures of {given.atoms} atoms, {2 * pairs:,.0f} edges "
            f"within {given.cutoff:g} A, {path.stat().st_size / 2**20:.0f} MiB, 1 thread"
        )
        batches = FrameBatches(source, LABELS, {"backbone": given.cutoff})
        if given.profile:
            profile = cProfile.Profile()
            rate(batches, given.batch[-1], 0, 1)
            profile.runcall(rate, batches, given.batch[-1], 0, given.epochs)
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(18)
            return
        print("batch  workers  structures/s  CPU us: this process  workers  structures/s, core")
        for batch in given.batch:
            for workers in given.workers:
                wall, own, others = rate(batches, batch, workers, given.epochs)
                print(
                    f"{batch:5d}  {workers:7d}  {1 / wall:12,.0f}  {1e6 * own:20.1f}  "
                    f"{1e6 * others:7.1f}  {1 / max(own, others):21,.0f}"
                )


if __name__ == "__main__":
    main()
