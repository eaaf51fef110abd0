"""OpenVINO's ScaledDotProductAttention in a compiled graph, float32 throughout."""

import numpy as np
import openvino as ov
import openvino.opset13 as opset

from task import Setting, Unsupported

VERSION = f"openvino {ov.__version__}"


def settings(task):
    if task.out_gradient is not None:
        raise Unsupported("OpenVINO has no way back")
    if task.decodes_groups:
        return [lambda: graph(task, rows=True), lambda: graph(task)]
    if task.causal and task.left is None and task.bias is None and task.queries == task.keys:
        return [lambda: graph(task, causal=True)]
    return [lambda: graph(task)]


def for_each_head(x, group):
    """Key heads repeated for the query heads that share them, in the form that is fused."""
    batch, heads, length, width = x.shape
    one_more = opset.unsqueeze(x, opset.constant(np.array([2])))
    repeated = opset.broadcast(one_more, opset.constant(
        np.array([batch, heads, group, length, width])))
    return opset.reshape(repeated, opset.constant(
        np.array([batch, heads * group, length, width])), False)


def graph(task, rows=False, causal=False):
    arrays = [task.as_rows(task.query) if rows else task.query, task.key, task.value]
    inputs = [opset.parameter(list(x.shape), ov.Type.f32) for x in arrays]
    repeat = task.group > 1 and not rows
    q, *kv = inputs
    k, v = (for_each_head(x, task.group) if repeat else x for x in kv)
    needs_mask = task.bias is not None or (task.causal and not causal and task.queries > 1)
    if needs_mask:
        arrays.append(task.additive_mask())
        inputs.append(opset.parameter(list(arrays[-1].shape), ov.Type.f32))
        out = opset.scaled_dot_product_attention(q, k, v, inputs[-1])
    else:
        out = opset.scaled_dot_product_attention(q, k, v, causal=causal)
    request = ov.Core().compile_model(ov.Model([out], inputs), "CPU", {
        "INFERENCE_NUM_THREADS": task.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}).create_infer_request()
    arrays = [np.ascontiguousarray(x) for x in arrays]
    for n, array in enumerate(arrays):
        request.set_input_tensor(n, ov.Tensor(array, shared_memory=True))

    def call(kept=arrays):  # their memory is shared; less of Python than in request.infer()
        request.start_async()
        request.wait()
        return request

    name = "groups as rows" if rows else "causal" if causal else "mask" if needs_mask else "plain"
    return Setting(name, call, lambda done: {
        "out": done.get_output_tensor(0).data.reshape(task.query.shape)})
