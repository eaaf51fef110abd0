#!/usr/bin/env python3
"""Writes the ONNX backend node cases of the operators tested here into FOLDER, one folder a case.

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2
    venv/bin/python tests/conformance/regenerate.py FOLDER
    cmake -B build -DATTN_CONFORMANCE_DIR=FOLDER

The package builds the cases in memory; other versions of it work too and may have other cases.
The last bits of the expected outputs follow the kernel that NumPy's BLAS picks for the machine;
OPENBLAS_CORETYPE=Haswell in the environment gives the same ones everywhere on x86-64.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from onnx import helper
from onnx.backend.test.case.node import collect_testcases

FOLDERS = {
    "Attention": "onnx_attention",
    "RotaryEmbedding": "onnx_rotary",
    "Softmax": "onnx_softmax",
    "LogSoftmax": "onnx_softmax",
}
ATTRIBUTE_TYPES = {1: "float", 2: "int", 3: "string"}  # AttributeProto's numbers
BFLOAT16_RTOL = 2.0**-6  # the package's own runner compares bfloat16 so


def is_case(case):
    """One node of an operator of ours; the `_expanded` cases are its function body instead."""
    nodes = case.model.graph.node if case.model else []
    return len(nodes) == 1 and nodes[0].op_type in FOLDERS and not case.name.endswith("_expanded")


def write_array(path, array):
    if array.dtype.name == "bfloat16":  # NumPy has no such type: the bit patterns
        array = array.view(np.uint16)
    np.save(path, np.ascontiguousarray(array).reshape(array.shape))


def attribute_lines(node):
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        yield f"attr.{attribute.name} = {value.decode() if isinstance(value, bytes) else value}"
        yield f"attr_type.{attribute.name} = {ATTRIBUTE_TYPES[attribute.type]}"


def tensor_lines(kind, values, names, arrays, folder):
    """The package names graph values as it likes; a tensor is stored under the operator's name."""
    given = dict(zip([value for value in values if value], arrays, strict=True))
    for value, name in zip(values, names):
        if not value:
            continue
        array = np.asarray(given[value])
        write_array(folder / f"{name}.npy", array)
        yield f"{kind}.{name}.file = {name}.npy"
        yield f"{kind}.{name}.dtype = {array.dtype.name}"
        yield f"{kind}.{name}.shape = {' '.join(map(str, array.shape))}"


def write_case(case, folder):
    folder.mkdir(parents=True, exist_ok=True)
    node = case.model.graph.node[0]
    inputs, outputs = case.data_sets[0]
    uses_bfloat16 = any(np.asarray(array).dtype.name == "bfloat16" for array in inputs)
    lines = [
        f"name = {case.name}",
        f"op = {node.op_type}",
        f"domain = {node.domain or 'ai.onnx'}",
        f"opset = {case.model.opset_import[0].version}",
        f"ir_version = {case.model.ir_version}",
        *attribute_lines(node),
        f"inputs = {' '.join(name or '-' for name in node.input)}",
        f"outputs = {' '.join(name or '-' for name in node.output)}",
        *tensor_lines("input", node.input, node.input, inputs, folder),
        *tensor_lines("output", node.output, node.output, outputs, folder),
        f"rtol = {BFLOAT16_RTOL if uses_bfloat16 else case.rtol}",
        f"atol = {case.atol}",
    ]
    (folder / "case.txt").write_text("\n".join(lines) + "\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    warnings.simplefilter("ignore", RuntimeWarning)  # other operators' cases overflow on purpose
    cases = [case for case in collect_testcases() if is_case(case)]
    for case in cases:
        node = case.model.graph.node[0]
        write_case(case, Path(sys.argv[1]) / FOLDERS[node.op_type] / case.name)
    print(f"{len(cases)} cases written to {sys.argv[1]}")
    if not cases:
        sys.exit("this version of onnx has no case of these operators")


if __name__ == "__main__":
    main()
