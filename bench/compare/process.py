"""A peer in a process of its own, on given cores, that is asked by lines; it is stopped while others
have their turn, so that its threads do not wait for work on their cores."""

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class PeerError(Exception):
    """The peer failed."""


class NotDone(Exception):
    """The peer has nothing that does this."""


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class Peer:
    def __init__(self, name, title, command, options="", module=None):
        self.name, self.title, self.options, self.module = name, title, options, module
        self.command = command
        self.process = None
        self.version = ""

    def start(self, folder, cores):
        threads = str(len(cores))
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                     "TORCHINDUCTOR_COMPILE_THREADS"):
            environment[name] = threads
        self.said = folder / f"{self.name}.log"

        def before():
            os.sched_setaffinity(0, cores)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # none stays behind, stopped

        with open(self.said, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command, cwd=folder, env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                preexec_fn=before)

    def send(self, line):
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def receive(self):
        answer = self.process.stdout.readline()
        if not answer:
            said = self.said.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise PeerError(f"it ended with {self.process.wait()}: {''.join(said)}")
        kind, _, text = answer.strip().partition(" ")
        if kind == "none":
            raise NotDone(text)
        if kind != "ok":
            raise PeerError(text)
        return text

    def ask(self, *words):
        self.send(shlex.join(words))
        return self.receive()

    def hold(self):
        """Until `go_on`."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def load(self, row, threads):
        options = [*row.options(), "--threads", str(threads), *shlex.split(self.options)]
        self.ask("load", *options)

    def end(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # of a line that nobody has read
                self.process.stdin.close()
            self.process = None


def known_peers(attn_run):
    def worker(module):
        return [sys.executable, str(HERE / "worker.py"), module]

    run = [str(attn_run), "--serve"]
    return [
        Peer("attn", "attn", run),
        Peer("eigen", "naive Eigen", run, options="--naive"),
        Peer("numpy", "NumPy", worker("plain_numpy"), module="numpy"),
        Peer("torch", "torch SDPA", worker("torch_sdpa"), module="torch"),
        Peer("flex", "torch Flex", worker("torch_flex"), module="torch"),
        Peer("ort", "ONNX Runtime", worker("onnxruntime_attention"), module="onnxruntime"),
        Peer("openvino", "OpenVINO", worker("openvino_sdpa"), module="openvino"),
    ]


def start_all(peers, folder, cores):
    """Those that run; says which do not, and why."""
    running = []
    for peer in peers:
        try:
            peer.start(folder, cores)
        except OSError as error:
            print(f"left out: {peer.title}: {error}", flush=True)
            continue
        if peer.module is not None:
            peer.send("hello")
        running.append(peer)
    for peer in list(running):
        if peer.module is None:
            continue
        try:
            peer.version = peer.receive()
        except PeerError as error:
            print(f"left out: {peer.title}: {error}", flush=True)
            peer.end()
            running.remove(peer)
    return running
