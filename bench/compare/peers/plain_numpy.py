"""Attention as one writes it in NumPy: the whole matrix of scores, all heads in one product."""

import numpy as np

from task import Setting, Unsupported

VERSION = f"numpy {np.__version__}"


def settings(task):
    if task.out_gradient is not None:
        raise Unsupported("NumPy has no way back")
    return [lambda: whole_matrix(task)]


def whole_matrix(task):
    batch, heads, queries, width = task.query.shape
    scale = np.float32(1 / np.sqrt(width))
    hidden = task.hidden() if task.causal and not task.decodes_groups else None
    if task.decodes_groups:
        query, key, value = task.as_rows(task.query), task.key, task.value
    elif task.group > 1:
        query = task.query.reshape(batch, heads // task.group, task.group, queries, width)
        key, value = task.key[:, :, None], task.value[:, :, None]
    else:
        query, key, value = task.query, task.key, task.value

    def call():
        s = (query * scale) @ key.swapaxes(-1, -2)
        if task.bias is not None:
            s += task.bias
        if hidden is not None:
            np.copyto(s, -np.inf, where=hidden)
        s -= s.max(axis=-1, keepdims=True)
        np.exp(s, out=s)
        total = s.sum(axis=-1, keepdims=True)
        return (s @ value) / total

    return Setting("whole matrix", call, lambda out: {"out": out.reshape(task.query.shape)})
