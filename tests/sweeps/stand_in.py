"""What tests of sweeps share: a trial that takes a moment and no torch."""

from __future__ import annotations

from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.parameters import choice

STAND_IN = """
import pathlib, signal, sys, time
words = dict(word.partition("=")[::2] for word in sys.argv[1:] if "=" in word)
again = "resume" in words
folder = pathlib.Path(words.get("resume") or words["run_folder"])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
saved = folder / "checkpoints" / "last.ckpt"
if not again:
    saved.write_text(words["x"])
    (folder / "metrics.csv").write_text("epoch,step,score,energy_rmse (meV/atom)\\n")
x = float(saved.read_text())
if x < 0:
    print("error: x is below zero")
    sys.exit(int(-x))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
done = len((folder / "metrics.csv").read_text().splitlines()) - 1
for epoch in range(done, 6):
    time.sleep(float(words.get("pause", 0.05)))
    if stopped:
        sys.exit(75)
    with (folder / "metrics.csv").open("a") as out:
        score = "" if words.get("silent") else x + 1 / (1 + epoch)
        out.write(f"{epoch},{epoch},{score},{10 * x}\\n")
"""


def sweep_over(*values: float, **more) -> Definition:
    return Definition(
        **{
            "name": "s",
            "recipe": "qet",
            "fixed": (),
            "method": "grid",
            "metric": "val/score",
            "maximize": False,
            "parameters": (choice("x", values),),
            **more,
        }
    )
