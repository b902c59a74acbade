"""The weights of an OpenVINO graph in fewer bits: as they came, int8, int4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_moments.engines.grids import Packed, eight_bits, four_bits, on_grid

SMALL = 4096  # weights of fewer values stay as they are


def compress(graph: Any, precision: str, stored: str = "float32") -> Any:
    """Changes the matrices of products and of the token table, in place; gives the graph back.

    precision: as-is (a quantised file's own grid, bit for bit but for a zero point in float16; other weights in
    the dtype `stored`), int8, int4 (the token table and head, which every token needs, stay in int8), or fp32.
    """
    if precision == "fp32":
        return graph
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) != 2:
            continue
        users = list(node.output(0).get_target_inputs())
        kinds = {user.get_node().get_type_name() for user in users}
        if int(np.prod(node.get_output_shape(0))) < SMALL or not kinds & {"MatMul", "Gather"}:
            continue
        packed = _chosen(precision, table="Gather" in kinds)
        for user in users:
            _replace(user, node, packed, stored if precision == "as-is" else "float32")
    graph.validate_nodes_and_infer_types()
    return graph


def _chosen(precision: str, *, table: bool) -> Callable[[np.ndarray], Packed | None]:
    return {"as-is": on_grid, "int8": eight_bits, "int4": eight_bits if table else four_bits}[precision]


def _replace(user: Any, node: Any, pack: Callable[[np.ndarray], Packed | None], stored: str) -> None:
    """Gives one user the packed weights. Products with [columns, rows] get them turned, as blocks go along a row."""
    from openvino import opset13 as op

    product = user.get_node()
    turn = product.get_type_name() == "MatMul" and user.get_index() == 1 and not product.get_attributes()["transpose_b"]
    weights = np.asarray(node.data, np.float32)
    rows = np.ascontiguousarray(weights.T) if turn else weights
    found = pack(rows)
    if found is None:
        if stored != "float32":
            user.replace_source_output(_as_stored(weights, stored).output(0))
        return
    if not turn:
        user.replace_source_output(unpacking(found, rows.shape).output(0))
        return
    made = op.matmul(
        product.input_value(0), unpacking(found, rows.shape), product.get_attributes()["transpose_a"], True
    )
    made.set_friendly_name(product.get_friendly_name())
    for further in list(product.output(0).get_target_inputs()):
        further.replace_source_output(made.output(0))


def unpacking(packed: Packed, shape: tuple[int, ...]) -> Any:
    """levels -> (levels - zero) * step in the form that OpenVINO fuses into its products."""
    from openvino import opset13 as op

    values = op.convert(_constant(packed), "f16")
    if packed.zero is not None:
        values = op.subtract(values, op.constant(packed.zero.astype(np.float16)))
    values = op.multiply(values, op.constant(packed.step.astype(np.float16)))
    return op.convert(op.reshape(values, op.constant(np.array(shape, np.int64)), False), "f32")


def _constant(packed: Packed) -> Any:
    import openvino as ov
    from openvino import opset13 as op

    if packed.bits == 8:
        return op.constant(packed.levels)
    kind = ov.Type.i4 if packed.zero is None else ov.Type.u4
    nibbles = packed.levels.reshape(-1).view(np.uint8) & 15
    tensor = ov.Tensor(kind, ov.Shape(packed.levels.shape))
    np.asarray(tensor.data).view(np.uint8).reshape(-1)[:] = nibbles[0::2] | (nibbles[1::2] << 4)
    return ov.op.Constant(tensor, shared_memory=False)


def _as_stored(weights: np.ndarray, stored: str) -> Any:
    from openvino import opset13 as op

    constant = op.constant(weights)
    return op.convert(op.convert(constant, {"bfloat16": "bf16", "float16": "f16"}[stored]), "f32")


def stored_as(model: Any) -> str:
    """The dtype that most of a folder's weights have: bfloat16, float16 or float32. Of a GGUF file float16, which
    holds what lies on no grid to within 0.05%."""
    if model.format == "gguf":
        return "float16"
    from safetensors import safe_open

    sizes: dict[str, int] = {}
    for file in model.weight_files:
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118  (it is no dict)
                part = weights.get_slice(name)
                sizes[part.get_dtype()] = sizes.get(part.get_dtype(), 0) + int(np.prod(part.get_shape()))
    most = max(sizes, key=lambda kind: sizes[kind], default="F32")
    return {"BF16": "bfloat16", "F16": "float16"}.get(most, "float32")
