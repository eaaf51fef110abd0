"""What a peer is given, and how it says what it can do with it: a list of functions that each make a
`Setting`, the one that is likely to be best first. The worker takes the fastest."""

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np


class Unsupported(Exception):
    """The peer has nothing that does this."""


@dataclass
class Task:
    """What is loaded: arrays of batch x heads x length x width, float32."""
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    bias: np.ndarray | None          # added to scores, 1 x 1 x queries x keys
    out_gradient: np.ndarray | None  # given: forward and back
    causal: bool                     # the last query stands at the last key
    left: int | None                 # keys before its own that a query sees, where bounded
    threads: int

    @property
    def queries(self):
        return self.query.shape[2]

    @property
    def keys(self):
        return self.key.shape[2]

    @property
    def group(self):
        """Query heads that share a key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def decodes_groups(self):
        """One query a head sees all keys: heads of a group may stand as rows of one head."""
        return self.queries == 1 and self.group > 1 and self.left is None and self.bias is None

    def as_rows(self, array):
        batch, heads, _, width = array.shape
        return array.reshape(batch, heads // self.group, self.group, width)

    def hidden(self):
        """queries x keys, True where a key is hidden."""
        position = np.arange(self.queries)[:, None] + self.keys - self.queries
        key = np.arange(self.keys)
        after = key > position
        return after if self.left is None else after | (key < position - self.left)

    def additive_mask(self):
        """Whatever hides keys or changes scores as numbers to be added, 1 x 1 x queries x keys."""
        result = np.zeros((1, 1, self.queries, self.keys), np.float32)
        if self.bias is not None:
            result += self.bias
        if self.causal:
            result[0, 0, self.hidden()] = -np.inf
        return result


@dataclass
class Setting:
    """One way of a peer to do a task."""
    name: str
    call: Callable[[], Any]
    outputs: Callable[[Any], dict[str, Any]]  # arrays by name, of what a call gave
    compiles: bool = False  # the first call does
