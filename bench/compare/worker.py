"""The process of a peer that is a Python package: it answers the lines that attn_run --serve does,
and `hello` by its version. `python3 worker.py NAME`, NAME being a module of peers/."""

import argparse
import ctypes
import gc
import importlib
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from task import Task, Unsupported


def read_task(words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name in ("query", "key", "value", "mask", "backward", "window", "alignment"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args(words)
    left = None if wanted.window is None else int(wanted.window.split(",")[0])
    optional = [None if path is None else np.load(path) for path in (wanted.mask, wanted.backward)]
    return Task(np.load(wanted.query), np.load(wanted.key), np.load(wanted.value), *optional,
                wanted.causal or left is not None, left, wanted.threads)


def seconds_of(call, count):
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def seconds_a_call(call):
    """Roughly; a long call is not repeated."""
    seconds = seconds_of(call, 1)
    if seconds > 0.3:
        return seconds
    count = max(1, min(100, int(0.01 / seconds)))
    return min(seconds_of(call, count) / count for _ in range(3))


def fastest(settings):
    """The setting; throws where none does it, with the reasons. A single one is not tried."""
    if len(settings) == 1:
        return settings[0]()
    best, reasons = None, []
    for make in settings:
        try:
            setting = make()
            seconds = seconds_a_call(setting.call)
        except Exception as error:  # a peer may refuse in any way; the next setting may do
            reasons.append(str(error).strip().splitlines()[0])
            continue
        if best is None or seconds < best[0]:
            best = (seconds, setting)
    if best is None:
        raise Unsupported("; ".join(reasons) or "no setting does this")
    return best[1]


def status(field):
    """Of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell a program's memory")


def growth_of(setting):
    """What a first call adds to the memory that is in use, at the most; a second one, where the
    first compiles."""
    if setting.compiles:
        setting.call()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = status("VmRSS")
    setting.call()
    return status("VmHWM") - before


class Server:
    def __init__(self, peer):
        self.peer = peer
        self.task = self.setting = None

    def load(self, *words):
        self.task = self.setting = None  # before the next one: both may be large
        gc.collect()
        self.task = read_task(words)

    def chosen(self, first=False):
        if self.task is None:
            raise ValueError("nothing is loaded")
        if self.setting is None:
            settings = self.peer.settings(self.task)
            self.setting = settings[0]() if first else fastest(settings)
        return self.setting

    def answer(self, command, words):
        if command == "hello":
            return self.peer.VERSION
        if command == "load":
            self.load(*words)
            return ""
        if command == "setting":
            return self.chosen().name
        if command == "write":
            folder = Path(words[0])
            folder.mkdir(parents=True, exist_ok=True)
            setting = self.chosen()
            for name, array in setting.outputs(setting.call()).items():
                np.save(folder / f"{name}.npy", np.asarray(array))
            return ""
        if command == "time":
            return repr(seconds_of(self.chosen().call, int(words[0])))
        if command == "memory":  # of the likely best, not tried before
            return str(growth_of(self.chosen(first=True)))
        raise ValueError(f"unknown command {command}")


def serve(peer):
    """Answers lines of stdin with what a peer's `settings` do."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a peer prints is no answer
    server = Server(peer)
    gc.disable()
    for line in sys.stdin:
        command, *words = shlex.split(line) or [""]
        if command == "quit":
            break
        try:
            said = f"ok {server.answer(command, words)}".rstrip()
        except Unsupported as error:
            said = f"none {error}"
        except Exception as error:
            said = f"error {type(error).__name__}: {error}"
        print(" ".join(said.split("\n")), file=answers, flush=True)


if __name__ == "__main__":
    try:
        wanted = importlib.import_module(f"peers.{sys.argv[1]}")
    except Exception as failure:  # a package that is not there, or lacks something itself
        print("error", " ".join(str(failure).split("\n")), flush=True)
    else:
        serve(wanted)
