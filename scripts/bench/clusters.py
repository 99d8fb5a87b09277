"""Write the generated clusters as train, val and test files, for scripts that read extxyz.

    qeqtrain data generate alkali_halide_clusters clusters.h5 --count 600 --seed 0
    python scripts/bench/clusters.py clusters.h5 OUT

The geometry of a cluster at its three total charges is never divided among the files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qeqtrain.data.sources import open_source
from qeqtrain.data.splits import split_indices
from qeqtrain.data.writing import write_extxyz


def main() -> None:
    """Split and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", help="of `qeqtrain data generate`")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--val", type=float, default=0.1, help="fraction, or count of frames")
    parser.add_argument("--test", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = open_source(options.file)
    wanted = {"val": options.val, "test": options.test}
    for split, indices in split_indices(source, wanted, "group", options.seed).items():
        file = options.out / f"{split}.extxyz"
        write_extxyz(file, (source[int(i)] for i in indices))
        sys.stdout.write(f"{file}: {len(indices)} frames\n")


if __name__ == "__main__":
    main()
