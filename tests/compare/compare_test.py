"""bench/compare with the peers that need nothing but NumPy: it measures, it catches a disagreement,
it names a peer that is missing. `compare_test.py ATTN_RUN`; exit code 77 without NumPy."""

import csv
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent
COMPARE = HERE.parents[1] / "bench" / "compare"
ATTN_RUN = sys.argv.pop()

try:
    import numpy as np
except ModuleNotFoundError:
    print("skipped: this Python has no numpy")
    sys.exit(77)

sys.path.insert(0, str(COMPARE))

import report  # noqa: E402: after the path to it
import rows  # noqa: E402
from measure import Result  # noqa: E402
from process import Peer  # noqa: E402


class Compare(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.out = self.folder / "out"

    def compare(self, *options, **environment):
        return subprocess.run(
            [sys.executable, COMPARE, "--attn-run", ATTN_RUN, "--quick", "--threads", "1",
             "--rounds", "2", "--out", self.out, *options], env=os.environ | environment,
            capture_output=True, text=True, check=False)

    def results(self):
        with (self.out / "results.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_every_kind_of_row(self):
        ran = self.compare("--peers", "eigen,numpy")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        measured = {(r["row"], r["peer"]): r for r in self.results()}
        for name in rows.QUICK_NAMES:
            for peer in ("attn", "eigen", "numpy"):
                if name.startswith("backward/") and peer != "attn":
                    self.assertNotIn((name, peer), measured)
                    continue
                result = measured[name, peer]
                if name.startswith("memory/"):
                    self.assertGreater(float(result["figure"]), 0)
                    continue
                self.assertGreater(float(result["figure"]), 0)
                self.assertLess(float(result["largest_error"]), 1e-5)
                self.assertEqual(result["rounds"], "2")
                if peer == "attn":
                    self.assertEqual(float(result["ratio_to_attn"]), 1)
        scores = float(measured["memory/1x1x2048x64", "numpy"]["memory_bytes"])
        self.assertGreater(scores, 4 * 2048**2)
        self.assertLess(float(measured["memory/1x1x2048x64", "attn"]["memory_bytes"]), scores / 4)
        table = (self.out / "table.md").read_text(encoding="utf-8")
        self.assertIn("| row | attn | naive Eigen | NumPy |", table)
        self.assertIn("## largest error against float64", table)
        if "left out: the plots" not in ran.stdout:
            for name in ("speed", "speed_causal", "memory", "error", "decode", "window"):
                self.assertIn("<svg", (self.out / f"{name}.svg").read_text(encoding="utf-8"))

    def test_a_disagreement_is_caught(self):
        peer = f"wrong={sys.executable} {HERE / 'wrong_peer.py'}"
        ran = self.compare("--peers", "numpy", "--rows", "forward/1x8x256x64$", "--peer", peer)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("disagreement: wrong disagrees for forward/1x8x256x64 at 1 of 131072 elements "
                      "of out, first at batch 0, head 3, row 17, column 5: ", ran.stderr)
        found, right = (float(part) for part in
                        ran.stderr.strip().rpartition("column 5: ")[2].split(", it should be "))
        self.assertAlmostEqual(found, right + 0.25, places=5)
        self.assertFalse(self.out.exists())

    def test_missing_peers_are_named(self):
        modules = self.folder / "modules"
        modules.mkdir()
        (modules / "torch.py").write_text("raise ImportError('libtorch is not here')")
        ran = self.compare(
            "--peers", "numpy,torch", "--rows", "tiny/1x1x4x8", "--peer", "gone=no-such-program",
            "--peer", "dumb=true", PYTHONPATH=f"{modules}:{os.environ.get('PYTHONPATH', '')}")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertIn("left out: torch SDPA: libtorch is not here", ran.stdout)
        self.assertIn("left out: gone: ", ran.stdout)
        self.assertIn("tiny/1x1x4x8: dumb failed: it ended with 0", ran.stdout)
        self.assertEqual({r["peer"] for r in self.results()}, {"attn", "numpy"})

    def test_bad_options(self):
        for options, said in [(["--peers", "sing"], "no such peer: sing"),
                              (["--rows", "sing"], "no row matches sing"),
                              (["--threads", "0"], "--threads has 0, there are "),
                              (["--attn-run", "none"], "none: cmake --build build")]:
            ran = self.compare(*options)
            self.assertEqual(ran.returncode, 1)
            self.assertIn(said, ran.stderr)
        with self.assertRaisesRegex(ValueError, "is no row's name"):
            rows.parse("sing/1x1x4x8")

    def test_readme_is_written_anew(self):
        (self.folder / ".github").mkdir()
        readme = self.folder / "README.md"
        readme.write_text("a\n<!-- compare: begin -->\nold\n<!-- compare: end -->\nz\n")
        row = rows.parse("forward/1x8x512x64")
        results = [Result(row, threads, peer, seconds=[1 + n, 1 + n], ratios=[ratio], error=0)
                   for threads in (1, 2)
                   for n, (peer, ratio) in enumerate([("attn", 1), ("fast", 0.5), ("slow", 2)])]
        peers = [Peer(name, name.upper(), []) for name in ("attn", "fast", "slow")]
        try:
            report.write_readme(results, peers, {}, self.folder)
        except ModuleNotFoundError as error:  # the picture comes after the table
            self.assertEqual(error.name, "matplotlib")
        text = readme.read_text(encoding="utf-8")
        self.assertIn("| row | attn | FAST | SLOW |", text)
        self.assertIn("| **0.50** / **0.50** | 2.00 / 2.00 |", text)
        self.assertTrue(text.startswith("a\n<!-- compare: begin -->\nOn "))
        self.assertTrue(text.endswith("|\n<!-- compare: end -->\nz\n"))

    def test_pairs_are_those_that_are_seen(self):
        for name in ("forward/2x3x7x8", "forward/1x2x7x8/causal", "window/1x1x9x8/window3",
                     "decode/1x4:2x1:9x8", "forward/1x4:2x3:9x8/causal"):
            row = rows.parse(name)
            unseen = rows.hidden(row, slice(None))
            seen = row.queries * row.keys if unseen is None else np.count_nonzero(~unseen)
            self.assertEqual(row.pairs, seen * row.batch * row.heads)


if __name__ == "__main__":
    unittest.main(verbosity=2)
