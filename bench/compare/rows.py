"""What is measured: the rows by their names, their inputs, and what must come out, in float64.

A name is KIND/BATCHxHEADSxLENGTHxWIDTH, and /causal, /mask or /windowN where something is hidden;
heads are 32:8 where 8 key heads serve 32, lengths 1:8192 for one query and 8192 keys."""

import re
from dataclasses import dataclass

import numpy as np

FORWARD_SIZES = ["1x1x512x64", "1x8x512x64", "1x8x1024x64", "1x8x2048x64", "1x8x4096x64",
                 "1x1x16384x64", "1x8x1024x128", "1x8x2048x128", "1x8x4096x128", "1x12x197x64",
                 "1x12x128x64"]

NAMES = [
    *(f"forward/{size}" for size in FORWARD_SIZES),
    *(f"forward/{size}/causal" for size in FORWARD_SIZES),
    "forward/1x8x1024x64/mask",
    "forward/1x32:8x1024x128/causal",
    *(f"decode/1x32:8x1:{keys}x128" for keys in (1024, 8192, 32768)),
    *(f"window/1x1x8192x64/window{left}" for left in (64, 256, 1024, 4096)),
    *(f"backward/1x8x{length}x64{mask}" for length in (1024, 2048) for mask in ("", "/causal")),
    *(f"tiny/1x1x{length}x{width}" for length in (4, 11, 16, 32, 64) for width in (8, 16, 64)),
    "memory/1x1x1024x64", "memory/1x1x4096x64", "memory/1x1x16384x64",
    "memory/1x1x16384x64/causal",
]

# The same kinds and features, small.
QUICK_NAMES = [
    "forward/1x8x256x64", "forward/1x8x512x64", "forward/1x8x512x64/causal",
    "forward/1x8x256x64/mask", "forward/1x32:8x256x128/causal", "decode/1x32:8x1:1024x128",
    "decode/1x32:8x1:2048x128", "window/1x1x1024x64/window64", "window/1x1x1024x64/window256",
    "backward/1x8x256x64", "backward/1x8x256x64/causal", "tiny/1x1x4x8", "tiny/1x1x16x64",
    "memory/1x1x1024x64", "memory/1x1x2048x64", "memory/1x1x2048x64/causal",
]

UNITS = {"forward": "GFLOP/s", "decode": "GB/s", "window": "ms", "backward": "GFLOP/s",
         "tiny": "µs", "memory": "MiB"}


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    causal: bool
    left: int | None  # how many keys before its own a query sees, where that is bounded
    masked: bool      # a number is added to each score

    @property
    def backward(self):
        return self.kind == "backward"

    @property
    def pairs(self):
        """Of a query and a key that it sees, in all heads."""
        ends = np.arange(self.keys - self.queries + 1, self.keys + 1)
        begins = np.zeros_like(ends) if self.left is None else np.maximum(ends - 1 - self.left, 0)
        seen = (ends - begins).sum() if self.causal else self.queries * self.keys
        return int(seen) * self.batch * self.heads

    @property
    def flops(self):
        return 4 * self.pairs * self.width * (3.5 if self.backward else 1)

    @property
    def key_bytes(self):
        return 2 * 4 * self.batch * self.key_heads * self.keys * self.width

    def figure(self, seconds):
        """What is told of a call, in the unit of the kind. (Memory is told as it is.)"""
        return {"forward": self.flops / seconds / 1e9, "backward": self.flops / seconds / 1e9,
                "decode": self.key_bytes / seconds / 1e9, "window": seconds * 1e3,
                "tiny": seconds * 1e6}[self.kind]

    def options(self):
        """The same for every peer: those of attn_run."""
        words = ["--query", "query.npy", "--key", "key.npy", "--value", "value.npy"]
        if self.masked:
            words += ["--mask", "mask.npy"]
        if self.left is not None:
            words += ["--window", f"{self.left},0"]
        elif self.causal:
            words += ["--causal"]
        if self.backward:
            words += ["--backward", "out_gradient.npy"]
        return words + ["--alignment", "bottom_right"]


def parse(name):
    form = re.fullmatch(r"(\w+)/(\d+)x(\d+)(?::(\d+))?x(\d+)(?::(\d+))?x(\d+)"
                        r"(?:/(causal|mask|window(\d+)))?", name)
    if not form or form[1] not in UNITS:
        raise ValueError(f"{name} is no row's name, it should be like forward/1x8x1024x64/causal")
    batch, heads, queries, width = (int(form[n]) for n in (2, 3, 5, 7))
    left = None if form[9] is None else int(form[9])
    return Row(name, form[1], batch, heads, int(form[4] or heads), queries,
               int(form[6] or queries), width, form[8] == "causal" or left is not None, left,
               form[8] == "mask")


def write_inputs(row, folder):
    """Normal numbers, the same in every run."""
    random = np.random.default_rng(1)

    def save(name, *shape):
        np.save(folder / f"{name}.npy", random.standard_normal(shape, dtype=np.float32))

    save("query", row.batch, row.heads, row.queries, row.width)
    save("key", row.batch, row.key_heads, row.keys, row.width)
    save("value", row.batch, row.key_heads, row.keys, row.width)
    if row.masked:
        save("mask", 1, 1, row.queries, row.keys)
    if row.backward:
        save("out_gradient", row.batch, row.heads, row.queries, row.width)


def hidden(row, rows):
    """Which keys these rows do not see, queries x keys; None where they see all."""
    if not row.causal:
        return None
    position = np.arange(row.queries)[rows, None] + row.keys - row.queries
    key = np.arange(row.keys)
    after = key > position
    return after if row.left is None else after | (key < position - row.left)


def reference(row, folder):
    """The results by name, by the plain formula in float64."""
    query, key, value = (np.load(folder / f"{name}.npy").astype(np.float64)
                         for name in ("query", "key", "value"))
    bias = np.load(folder / "mask.npy")[0, 0] if row.masked else None
    back = np.load(folder / "out_gradient.npy").astype(np.float64) if row.backward else None
    scale = 1 / np.sqrt(row.width)
    group = row.heads // row.key_heads
    names = ["out"] + ["query_gradient"] * row.backward
    result = {name: np.zeros_like(query) for name in names}
    result["log_sum_exp"] = np.zeros((*query.shape[:3], 1))
    if row.backward:
        result |= {"key_gradient": np.zeros_like(key), "value_gradient": np.zeros_like(value)}
    step = max(1, 2**24 // row.keys)  # rows whose scores take 128 MiB
    for b, h, first in np.ndindex(row.batch, row.heads, -(-row.queries // step)):
        rows = slice(first * step, (first + 1) * step)
        q, k, v = query[b, h, rows], key[b, h // group], value[b, h // group]
        s = q @ k.T * scale
        if bias is not None:
            s += bias[rows]
        unseen = hidden(row, rows)
        if unseen is not None:
            s[unseen] = -np.inf
        most = s.max(axis=1, keepdims=True)
        p = np.exp(s - most, out=s)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        result["out"][b, h, rows] = p @ v
        result["log_sum_exp"][b, h, rows] = most + np.log(total)
        if row.backward:
            g = back[b, h, rows]
            delta = (g * result["out"][b, h, rows]).sum(axis=1, keepdims=True)
            ds = p * (g @ v.T - delta) * scale
            result["query_gradient"][b, h, rows] = ds @ k
            result["key_gradient"][b, h // group] += ds.T @ q
            result["value_gradient"][b, h // group] += p.T @ g
    return result
