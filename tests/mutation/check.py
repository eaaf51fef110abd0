#!/usr/bin/env python3
"""Makes the faults of faults.py, one at a time, in a copy of the library: the tests must catch each.

    tests/mutation/check.py                     # all of them: an hour on two cores, less with ccache
    tests/mutation/check.py --only dropout      # those whose file or reason contains this
    tests/mutation/check.py --list

Exits with 1 where a fault survives all tests, or does not compile. Faults of an instruction set that
the processor lacks are named and left out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = [".github", "CMakeLists.txt", "README.md", "cmake", "include", "tests"]
# Built for the set by their flags, the engine is compiled once instead of three times. Eigen's own
# vectors are off, for Eigen 3.4 has faulty ones of half; warnings are, for a fault may leave a
# variable unused.
FLAGS = {
    "avx512": "-mavx2 -mfma -mavx512f -mavx512dq -mavx512bw -mavx512vl",
    "avx2": "-mavx2 -mfma",
    "portable": "",
}
NEEDED = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "avx2": {"avx2", "fma"}}
FOLDERS = ["kernel", "unit", "heads", "gradient", "layer"]  # whose tests a survivor has to survive
ENGINE = "tests/CMakeFiles/attn_test_engine.dir"


class Trouble(Exception):
    """Something that makes an answer impossible."""


def command(arguments, log, **options):
    """Runs it at the end of a log file; its exit code."""
    with open(log, "ab") as to:
        return subprocess.run(
            [str(a) for a in arguments], stdout=to, stderr=subprocess.STDOUT, check=False, **options
        ).returncode


class Tree:
    """A copy of the library, and for each instruction set a build of it."""

    def __init__(self, folder, jobs):
        self.source = folder / "source"
        self.source.mkdir()
        self.jobs = jobs
        self.log = folder / "log"
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, self.source / name)
        os.environ |= {"CCACHE_BASEDIR": str(folder), "CCACHE_NOHASHDIR": "1"}
        self.builds = {}

    def build_of(self, instruction_set):
        if instruction_set not in self.builds:
            folder = self.source.parent / instruction_set
            launcher = shutil.which("ccache") or ""
            configured = command(
                ["cmake", "-G", "Ninja", "-S", self.source, "-B", folder]
                + ["-D", "ATTN_BUILD_EXAMPLES=OFF", "-D", "ATTN_BUILD_BENCH=OFF"]
                + ["-D", "CMAKE_BUILD_TYPE=None", "-D", f"CMAKE_CXX_COMPILER_LAUNCHER={launcher}"]
                # ccache would not keep what is compiled with one.
                + ["-D", "CMAKE_DISABLE_PRECOMPILE_HEADERS=ON"]
                + ["-D", f"CMAKE_CXX_FLAGS=-O1 -w -DEIGEN_DONT_VECTORIZE {FLAGS[instruction_set]}"],
                self.log,
            )
            if configured != 0:
                raise Trouble(f"CMake refuses the copy: see {self.log}")
            self.builds[instruction_set] = Build(folder, instruction_set, self.log, self.jobs)
        return self.builds[instruction_set]


class Build:
    """Files keep their times when a fault is put in and taken out again: what is to be compiled
    anew is told by removing what was compiled, so that a fault in the engine rebuilds nothing but
    the engine."""

    def __init__(self, folder, instruction_set, log, jobs):
        self.folder, self.log, self.jobs = folder, log, jobs
        self.environment = os.environ | {"ATTN_INSTRUCTION_SET": instruction_set}
        self.seconds = {}  # of each test's program, without a fault

    def make(self, tests):
        return 0 == command(
            ["cmake", "--build", self.folder, "-j", self.jobs, "--target", *tests], self.log
        )

    def forget(self, tests, engine):
        """Has them compiled anew: their own objects, and the engine's if wanted."""
        folders = [self.folder / ENGINE] if engine else []
        folders += [self.folder / f"tests/{t.split('.')[0]}/CMakeFiles/{t}.dir" for t in tests]
        for folder in folders:
            for compiled in folder.rglob("*.o"):
                compiled.unlink()

    def passes(self, test):
        program = self.folder / "tests" / test.split(".")[0] / test
        limit = 60 + 20 * self.seconds.get(test, 60)  # a fault may be a loop without an end
        try:
            return 0 == command(
                [program, "--abort"], self.log, env=self.environment, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return False

    def prove(self, tests):
        """A test that fails anyway would catch everything."""
        new = [t for t in tests if t not in self.seconds]
        if new and not self.make(new):
            raise Trouble(f"without a fault {', '.join(new)} do not build: see {self.log}")
        for test in new:
            start = time.monotonic()
            if not self.passes(test):
                raise Trouble(f"{test} fails without a fault: see {self.log}")
            self.seconds[test] = time.monotonic() - start


def all_tests():
    """The programs of a build's tests, by their folders' CMake files."""
    tests = []
    for folder in FOLDERS:
        text = (ROOT / "tests" / folder / "CMakeLists.txt").read_text()
        for topics in re.findall(r"foreach\(\s*topic\s([^)]*)\)\s*attn_add_test", text):
            tests += [f"{folder}.{topic}" for topic in topics.split()]
        tests += re.findall(r"attn_add_test\((\w+\.\w+)(?: OWN_HEADERS)? SOURCES", text)
    return list(dict.fromkeys(t for t in tests if not t.endswith(("mixed_flags", "openmp"))))


def sets_of_processor():
    """The instruction sets that run here, the best first."""
    has = set(re.search("^flags.*", Path("/proc/cpuinfo").read_text(), re.M)[0].split())
    return [each for each in FLAGS if NEEDED.get(each, set()) <= has]


def check_list(faults, tests):
    """Refuses a list that has gone stale."""
    wrong = []
    for fault in faults:
        count = (ROOT / "include/attn" / fault.file).read_text().count(fault.old)
        if count != 1:
            wrong.append(f"{fault}: its text occurs {count} times, it should once:\n{fault.old}")
        wrong += [f"{fault}: there is no test {t}" for t in fault.tests if t not in tests]
    if wrong:
        raise Trouble("\n".join(wrong))


def catch(tree, fault, instruction_set, everything):
    """Who catches a fault: a test, None, or "" where it does not compile."""
    build = tree.build_of(instruction_set)
    build.prove(fault.tests)
    path = tree.source / "include/attn" / fault.file
    text, times = path.read_bytes(), path.stat()

    def ask(tests, engine):
        """Builds and runs these; the fault is out again afterwards."""
        path.write_bytes(text.replace(fault.old.encode(), fault.new.encode()))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        touched = tests if fault.in_tests else []
        build.forget(touched, engine)
        try:
            if not build.make(tests):
                return ""
            return next((t for t in tests if not build.passes(t)), None)
        finally:
            path.write_bytes(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            build.forget(touched, False)

    try:
        caught = ask(fault.tests, fault.in_engine)
        if caught is None:
            others = [t for t in everything if t not in fault.tests]
            caught = ask(others, False)
    finally:
        build.forget([], fault.in_engine)
    build.prove([caught] if caught else [])
    return caught


def check(faults, folder, jobs):
    everything = all_tests()
    check_list(faults, everything)
    tree = Tree(folder, jobs)
    sets = sets_of_processor()
    survivors, broken = [], []
    for number, fault in enumerate(faults, 1):
        start = time.monotonic()
        instruction_set = fault.instruction_set or sets[0]
        if instruction_set not in sets:
            print(f"{number:3}/{len(faults)}  {fault}: left out, for want of {instruction_set}")
            continue
        caught = catch(tree, fault, instruction_set, everything)
        if caught is None:
            survivors.append(fault)
        elif caught == "":
            broken.append(fault)
        verdict = {None: "SURVIVES", "": "DOES NOT COMPILE"}.get(caught, f"caught by {caught}")
        if caught and caught not in fault.tests:
            verdict += ", which its entry does not name"
        seconds = time.monotonic() - start
        print(f"{number:3}/{len(faults)} {seconds:4.0f} s  {fault}: {verdict}", flush=True)
    print(f"\n{len(faults)} faults, {len(survivors)} survived, {len(broken)} did not compile")
    for fault in survivors + broken:
        print(f"  {fault}\n    {fault.old!r}\n -> {fault.new!r}")
    return 1 if survivors or broken else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", default="", metavar="TEXT", help="in its file or reason")
    arguments.add_argument("--list", action="store_true", help="show the faults, make none")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    given = arguments.parse_args()
    faults = [f for f in FAULTS if given.only in str(f)]
    if given.list:
        print(*faults, sep="\n")
        return 0
    if not faults:
        raise Trouble(f"no fault has {given.only!r} in its file or reason")
    folder = Path(tempfile.mkdtemp(prefix="mutation."))
    result = check(faults, folder, given.jobs)
    shutil.rmtree(folder)  # stays where something went wrong, with its log
    return result


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"{trouble}")
