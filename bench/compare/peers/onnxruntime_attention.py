"""ONNX Runtime: the operator Attention (opsets 23 and 24) and, where it does the same, its own
MultiHeadAttention and GroupQueryAttention. Inputs and outputs are bound once."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from task import Setting, Unsupported

VERSION = f"onnxruntime {onnxruntime.__version__}"
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def settings(task):
    if task.out_gradient is not None:
        raise Unsupported("ONNX Runtime has no way back")
    square = task.queries == task.keys
    plain_causal = task.causal and task.left is None and square
    made = []
    if task.decodes_groups:
        made += [lambda: group_query(task), lambda: multi_head(task),
                 lambda: attention(task, rows=True)]
    elif task.causal and task.bias is None and square:
        made += [lambda: group_query(task)]
    if task.group == 1:
        made += [lambda: multi_head(task)]
    made += [lambda: attention(task, causal=plain_causal)]
    if task.query.size * task.keys < 2**31:  # the same code as a rule: not worth long calls
        made += [lambda: attention(task, causal=plain_causal, opset=24)]
    return made


def session_of(node, inputs, outputs, threads, opset=23):
    def described(named):
        return [helper.make_tensor_value_info(name, TYPES[str(x.dtype)], x.shape)
                for name, x in named.items()]

    graph = helper.make_graph([node], "attention", described(inputs), described(outputs))
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def bound(name, node, inputs, outputs, finish, threads, shared=(), **more):
    """`shared`: pairs of an output and the input whose memory it lies in."""
    session = session_of(node, inputs, outputs, threads, **more)
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    held = {key: value(np.ascontiguousarray(x)) for key, x in inputs.items()}
    held |= {key: held[dict(shared)[key]] if key in dict(shared) else value(np.empty_like(x))
             for key, x in outputs.items()}
    binding = session.io_binding()
    for key in inputs:
        binding.bind_ortvalue_input(key, held[key])
    for key in outputs:
        binding.bind_ortvalue_output(key, held[key])
    return Setting(name, lambda: session.run_with_iobinding(binding),
                   lambda _: {"out": finish(held["out"].numpy())})


def joined(array):
    """Batch x length x (heads x width)."""
    batch, heads, length, width = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, length, heads * width)


def parted(array, shape):
    batch, heads, length, width = shape
    return array.reshape(batch, length, heads, width).transpose(0, 2, 1, 3)


def attention(task, causal=False, rows=False, opset=23):
    query = task.as_rows(task.query) if rows else task.query
    inputs = {"query": query, "key": task.key, "value": task.value}
    if task.bias is not None or (task.causal and not causal and task.queries > 1):
        inputs["mask"] = task.additive_mask()
    node = helper.make_node("Attention", list(inputs), ["out"], is_causal=int(causal))
    return bound(f"Attention-{opset}", node, inputs, {"out": query},
                 lambda out: out.reshape(task.query.shape), task.threads, opset=opset)


def multi_head(task):
    query = task.as_rows(task.query) if task.decodes_groups else task.query
    inputs = {"query": joined(query), "key": joined(task.key), "value": joined(task.value)}
    names = list(inputs)
    if task.bias is not None or task.left is not None:
        inputs["bias"] = task.additive_mask()
        names += ["", "", "bias"]
    node = helper.make_node(
        "MultiHeadAttention", names, ["out"], domain="com.microsoft", num_heads=query.shape[1],
        unidirectional=int(task.causal and task.left is None and task.queries > 1))
    return bound("MultiHeadAttention", node, inputs, {"out": inputs["query"]},
                 lambda out: parted(out, query.shape).reshape(task.query.shape), task.threads)


def group_query(task):
    """Causal. With one query the other keys are a cache, that the last one is appended to."""
    batch, heads, _, _ = task.query.shape
    new = slice(-1, None) if task.decodes_groups else slice(None)
    inputs = {"query": joined(task.query), "key": joined(task.key[:, :, new]),
              "value": joined(task.value[:, :, new]),
              "seqlens_k": np.full(batch, task.keys - 1, np.int32),
              "total_sequence_length": np.array(task.keys, np.int32)}
    names = ["query", "key", "value", "", "", "seqlens_k", "total_sequence_length"]
    shared = ()
    if task.decodes_groups:
        inputs |= {"past_key": task.key, "past_value": task.value}
        names[3:5] = "past_key", "past_value"
        shared = (("present_key", "past_key"), ("present_value", "past_value"))
    outputs = {"out": inputs["query"], "present_key": task.key, "present_value": task.value}
    node = helper.make_node(
        "GroupQueryAttention", names, list(outputs), domain="com.microsoft", num_heads=heads,
        kv_num_heads=task.key.shape[1],
        local_window_size=-1 if task.left is None else task.left + 1)
    return bound("GroupQueryAttention", node, inputs, outputs,
                 lambda out: parted(out, task.query.shape), task.threads, shared)
