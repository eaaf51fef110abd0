"""Attention of several libraries on the same inputs, side by side: `python3 bench/compare --help`.

Every peer is a process of its own. For each row all compute once and are compared with float64; then
they take turns, round by round, on the same cores."""

import os

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they would hold NumPy back
    os.environ.pop(name, None)

import argparse
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def read_options():
    parser = argparse.ArgumentParser(prog="bench/compare", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows that match")
    parser.add_argument("--list", action="store_true", help="print the rows and peers, do nothing")
    parser.add_argument("--peers", metavar="A,B", help="only these; attn is always among them")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="one more, a program that answers what attn_run --serve does")
    parser.add_argument("--threads", default="1,2", metavar="1,2", help="numbers of threads")
    parser.add_argument("--rounds", type=int, metavar="N", help="by default 7")
    parser.add_argument("--quick", action="store_true", help="small rows, few rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "compare", metavar="DIR",
                        help="for table.md, results.csv and the plots; by default build/compare")
    parser.add_argument("--attn-run", type=Path, default=ROOT / "build" / "bench" / "attn_run",
                        metavar="PROGRAM", help="by default build/bench/attn_run")
    parser.add_argument("--readme", action="store_true",
                        help="write the table of the README and its picture anew")
    return parser.parse_args()


def chosen_rows(options, row_names):
    names = row_names.QUICK_NAMES if options.quick else row_names.NAMES
    chosen = [row_names.parse(name) for name in names if re.search(options.rows, name)]
    if not chosen:
        sys.exit(f"no row matches {options.rows}; --list tells all")
    return chosen


def chosen_peers(options, known, Peer):
    for text in options.peer:
        name, _, command = text.partition("=")
        known.append(Peer(name, name, shlex.split(command)))
    if options.peers is None:
        return known
    wanted = {"attn", *(text.partition("=")[0] for text in options.peer),
              *options.peers.split(",")}
    unknown = wanted - {peer.name for peer in known}
    if unknown:
        sys.exit(f"no such peer: {', '.join(sorted(unknown))}; --list tells all")
    return [peer for peer in known if peer.name in wanted]


def chosen_threads(options):
    cores = sorted(os.sched_getaffinity(0))
    result = [int(text) for text in options.threads.split(",")]
    for threads in result:
        if not 1 <= threads <= len(cores):
            sys.exit(f"--threads has {threads}, there are {len(cores)} cores")
    return [(threads, cores[:threads]) for threads in result]


def main():
    options = read_options()
    try:
        import measure
        import process
        import report
        import rows as row_names
    except ModuleNotFoundError as error:
        sys.exit(f"bench/compare itself needs {error.name}; bench/compare/README.md says more")
    rows = chosen_rows(options, row_names)
    peers = chosen_peers(options, process.known_peers(options.attn_run.absolute()), process.Peer)
    if options.list:
        print("\n".join([row.name for row in rows] + [f"{p.name}: {p.title}" for p in peers]))
        return
    if not options.attn_run.exists():
        sys.exit(f"no {options.attn_run}: cmake --build build --target attn_run makes it")
    effort = measure.Effort(options.rounds or 7, 0.04, 6)
    if options.quick:
        effort = measure.Effort(options.rounds or 3, 0.01, 1)
    started = time.monotonic()

    def tell(results):
        print(report.line(results, peers), flush=True)

    results, versions = [], {}
    timed = [row for row in rows if row.kind != "memory"]
    with tempfile.TemporaryDirectory(prefix="attn_compare_") as folder:
        for threads, cores in chosen_threads(options):
            if timed:
                print(f"\n{threads} thread{'s' * (threads > 1)}: times as long as attn takes")
                found, seen = measure.measure_times(timed, threads, peers, cores, Path(folder),
                                                    effort, tell)
                results += found
                versions |= seen
        if len(timed) < len(rows):
            threads, cores = max(chosen_threads(options))
            print(f"\nmemory that a call adds, MiB, {threads} threads")
            results += measure.measure_memory([row for row in rows if row.kind == "memory"],
                                              threads, peers, cores, Path(folder), tell)
    report.write(results, peers, versions, options.out)
    if options.readme:
        report.write_readme(results, peers, versions, ROOT)
    print(f"\n{options.out}: table.md, results.csv and plots; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        if type(error).__name__ != "Disagreement":
            raise
        sys.exit(f"disagreement: {error}")
