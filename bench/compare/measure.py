"""Rows, round by round: every peer's results are compared with the reference, then all take turns."""

import statistics
import time
from dataclasses import dataclass, field

import numpy as np

import rows as row_names
from process import NotDone, PeerError, start_all

TOLERANCE = 5e-5  # of the largest element; float32 has some 1e-6 here, one key too many 1e-3


class Disagreement(Exception):
    """A peer's result is not the reference's."""


@dataclass
class Result:
    row: row_names.Row
    threads: int
    peer: str
    setting: str = ""
    checked_in: float = 0                        # seconds that the call to be checked took, or more
    seconds: list = field(default_factory=list)  # a call, in each round
    ratios: list = field(default_factory=list)   # to ours in the same round
    error: float = float("nan")                  # the largest of the output
    memory: int | None = None                    # bytes

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def ratio(self):
        return statistics.median(self.ratios) if self.ratios else None


@dataclass
class Effort:
    rounds: int
    turn: float  # seconds of calls in a turn, if it takes no single call longer
    row: float   # seconds after which a row has no further round, from the third on


def check(row, peer, folder, expected):
    """The largest error of the output. Throws where anything differs."""
    found_any = False
    for name, right in expected.items():
        path = folder / peer.name / f"{name}.npy"
        if not path.exists():
            continue
        found_any = found_any or name == "out"
        found = np.load(path)
        path.unlink()
        if found.shape != right.shape:
            raise Disagreement(f"{peer.title} gives {name} of the shape {found.shape} for "
                               f"{row.name}, it should have {right.shape}")
        error = np.abs(found - right)
        wrong = ~(error <= TOLERANCE * np.abs(right).max())  # so that NaN is wrong
        if wrong.any():
            at = tuple(int(n) for n in np.argwhere(wrong)[0])
            raise Disagreement(
                f"{peer.title} disagrees for {row.name} at {int(wrong.sum())} of {wrong.size} "
                f"elements of {name}, first at batch {at[0]}, head {at[1]}, row {at[2]}, column "
                f"{at[3]}: {float(found[at])!r}, it should be {float(right[at])!r}")
        if name == "out":
            largest = float(error.max())
    if not found_any:
        raise Disagreement(f"{peer.title} gives no out for {row.name}")
    return largest


def prepare(row, threads, peers, folder, expected):
    """Loads and checks; the peers that do the row, each with its result."""
    taking_part = []
    for peer in peers:
        peer.go_on()
        result = Result(row, threads, peer.name)
        try:
            peer.load(row, threads)
            if peer.module is not None:
                result.setting = peer.ask("setting")
            start = time.monotonic()
            peer.ask("write", peer.name)
            result.checked_in = time.monotonic() - start
            result.error = check(row, peer, folder, expected)
            taking_part.append((peer, result))
        except NotDone:
            pass
        except PeerError as error:
            print(f"{row.name}: {peer.title} failed: {error}", flush=True)
            if peer.process.poll() is not None:
                continue
        peer.hold()
    return taking_part


def time_rounds(taking_part, effort):
    """Fills in the seconds of each round."""
    calls = {}
    for peer, result in taking_part:
        if result.checked_in > 20 * effort.turn:  # most of it was the call
            calls[peer.name] = 1
            continue
        peer.go_on()
        once = float(peer.ask("time", "1"))
        if once < effort.turn:
            once = float(peer.ask("time", "3")) / 3
        calls[peer.name] = max(1, round(effort.turn / max(once, 1e-7)))
        peer.hold()
    start = time.monotonic()
    for round_number in range(effort.rounds):
        if round_number >= 3 and time.monotonic() - start > effort.row:
            break
        first = round_number % len(taking_part)  # none always comes after the same
        for peer, result in taking_part[first:] + taking_part[:first]:
            count = calls[peer.name]
            peer.go_on()
            if count > 4:
                peer.ask("time", str(count // 4))
            result.seconds.append(float(peer.ask("time", str(count))) / count)
            peer.hold()
    ours = next((result for peer, result in taking_part if peer.name == "attn"), None)
    if ours:
        for _, result in taking_part:
            result.ratios = [a / b for a, b in zip(result.seconds, ours.seconds)]


# It compiles for every shape, which takes seconds: one of two sizes will do.
NOT_COMPILED = {"forward/" + size + mask for mask in ("", "/causal") for size in (
    "1x1x512x64", "1x8x512x64", "1x8x2048x64", "1x8x1024x128", "1x8x4096x128", "1x12x128x64")}


def takes(peer, row):
    """Whether the peer is asked for a row at all."""
    if peer.name == "eigen":
        return not row.backward
    if peer.name == "flex":
        return row.kind != "tiny" and row.name not in NOT_COMPILED
    return True


def measure_times(rows, threads, peers, cores, folder, effort, report):
    """All rows but those of memory."""
    running = start_all(peers, folder, cores)
    versions = {peer.name: peer.version for peer in running}
    results = []
    try:
        for peer in running:
            peer.hold()
        for row in rows:
            if row.kind == "tiny" and threads > 1:
                continue  # no library divides so little work
            row_names.write_inputs(row, folder)
            expected = row_names.reference(row, folder)
            asked = [peer for peer in running if takes(peer, row)]
            taking_part = prepare(row, threads, asked, folder, expected)
            running = [peer for peer in running if peer.process.poll() is None]
            del expected
            if taking_part:
                time_rounds(taking_part, effort)
            results += [result for _, result in taking_part]
            report([result for _, result in taking_part])
    finally:
        for peer in peers:
            peer.end()
    return results, versions


def measure_memory(rows, threads, peers, cores, folder, report):
    """What one call adds, in a process that has done no other."""
    results = []
    for row in rows:
        row_names.write_inputs(row, folder)
        running = start_all([peer for peer in peers if takes(peer, row)], folder, cores)
        of_row = []
        try:
            for peer in running:
                try:
                    peer.load(row, threads)
                    of_row.append(Result(row, threads, peer.name, memory=int(peer.ask("memory"))))
                except NotDone:
                    pass
                except PeerError as error:
                    print(f"{row.name}: {peer.title} failed: {error}", flush=True)
                peer.end()
        finally:
            for peer in running:
                peer.end()
        results += of_row
        report(of_row)
    return results
