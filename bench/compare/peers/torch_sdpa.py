"""torch.nn.functional.scaled_dot_product_attention, forward, and forward and back."""

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from task import Setting

VERSION = f"torch {torch.__version__}"


def in_layout(array, layout):
    """Batch x heads x length x width, in memory with the heads or the lengths first."""
    tensor = torch.from_numpy(array)
    if layout == "bhld":
        return tensor.contiguous()
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def settings(task):
    torch.set_num_threads(task.threads)
    if task.out_gradient is not None:
        return [lambda layout=layout: back(task, layout) for layout in ("bhld", "blhd")]
    made = [lambda layout=layout: forward(task, layout) for layout in ("bhld", "blhd")]
    if task.decodes_groups:
        made.insert(0, lambda: grouped_rows(task))
    return made


def arguments(task):
    result = {"enable_gqa": task.group > 1}
    square = task.queries == task.keys
    if task.bias is not None or task.left is not None or (task.causal and not square):
        if not (task.queries == 1 and task.left is None and task.bias is None):
            result["attn_mask"] = torch.from_numpy(task.additive_mask())
    elif task.causal:
        result["is_causal"] = True
    return result


def forward(task, layout):
    q, k, v = (in_layout(x, layout) for x in (task.query, task.key, task.value))
    more = arguments(task)

    def call():
        with torch.inference_mode():
            return scaled_dot_product_attention(q, k, v, **more)

    return Setting(f"sdpa, {layout}", call, lambda out: {"out": out.numpy()})


def grouped_rows(task):
    """The query heads of a group as rows of one head."""
    q = torch.from_numpy(np.ascontiguousarray(task.as_rows(task.query)))
    k, v = torch.from_numpy(task.key), torch.from_numpy(task.value)

    def call():
        with torch.inference_mode():
            return scaled_dot_product_attention(q, k, v)

    return Setting("sdpa, groups as rows", call,
                   lambda out: {"out": out.numpy().reshape(task.query.shape)})


def back(task, layout):
    inputs = [in_layout(x, layout).requires_grad_() for x in (task.query, task.key, task.value)]
    gradient = in_layout(task.out_gradient, layout)
    more = arguments(task)

    def call():
        out = scaled_dot_product_attention(*inputs, **more)
        return out, *torch.autograd.grad(out, inputs, gradient)

    names = ("out", "query_gradient", "key_gradient", "value_gradient")
    return Setting(f"sdpa, {layout}", call, lambda results: {
        name: tensor.detach().numpy() for name, tensor in zip(names, results)})
