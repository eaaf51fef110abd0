"""A peer that is NumPy's, but for one number: it says 0.25 too much."""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "compare"))

import worker  # noqa: E402: after the path to it
from peers import plain_numpy  # noqa: E402
from task import Setting  # noqa: E402


def settings(task):
    right = plain_numpy.settings(task)[0]()

    def outputs(found):
        out = right.outputs(found)["out"].copy()
        out[0, 3, 17, 5] += 0.25
        return {"out": out}

    return [lambda: Setting("wrong", right.call, outputs)]


worker.serve(SimpleNamespace(VERSION="", settings=settings))
