"""torch.nn.attention.flex_attention, compiled, with a block mask where keys are hidden."""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from task import Setting, Unsupported

VERSION = f"torch {torch.__version__}"


def settings(task):
    if task.out_gradient is not None:
        raise Unsupported("FlexAttention has no way back on a CPU")
    torch.set_num_threads(task.threads)
    return [lambda: compiled(task)]


def compiled(task):
    q, k, v = (torch.from_numpy(x) for x in (task.query, task.key, task.value))
    more = {"enable_gqa": task.group > 1}
    offset = task.keys - task.queries
    if task.causal and task.queries > 1:
        left = task.left

        def seen(b, h, i, j):
            position = i + offset
            if left is None:
                return j <= position
            return (j <= position) & (position - j <= left)

        more["block_mask"] = create_block_mask(seen, None, None, task.queries, task.keys,
                                               device="cpu")
    if task.bias is not None:
        bias = torch.from_numpy(task.bias[0, 0])
        more["score_mod"] = lambda s, b, h, i, j: s + bias[i, j]
    torch.compiler.reset()  # a kernel for each shape
    function = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def call():
        with torch.inference_mode():
            return function(q, k, v, **more)

    return Setting("compiled", call, lambda out: {"out": out.numpy()}, compiles=True)
