"""A causal language model of transformers as one OpenVINO graph that keeps its keys and values inside.

Inputs: input_ids, attention_mask, position_ids int64 [rows, tokens], beam_idx int32 [rows]; output: logits. This is
the graph that OpenVINO GenAI takes. The mask is made here, from lengths, since a traced `transformers` mask would
hold on to the lengths of the example; the cache is a list that grows, for the same reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.engines.foreign import quiet

FAR = -65504.0  # a masked score: finite in every precision, so that a row of padding makes no NaN
FIELDS = ("input_ids", "attention_mask", "position_ids")


def causal_graph(module: Any) -> Any:
    """An `openvino.Model`, stateful, of a module in eval mode and float32; EngineError where that cannot be done."""
    import openvino as ov
    import torch

    shapes = cache_shapes(module)
    step = _step(module)
    past = [torch.randn(2, heads, 3, width) for heads, width in shapes]
    ids = torch.randint(0, min(50, int(module.config.get_text_config().vocab_size)), (2, 5))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, :2] = 0
    example = (ids, mask, torch.arange(3, 8).repeat(2, 1), *past)
    with quiet(), torch.no_grad():
        # Traced here, since OpenVINO has each trace run twice more to be checked; what comes of it is (causal_proof.py).
        traced = torch.jit.trace(step, example, check_trace=False, strict=False)
        graph = ov.convert_model(traced, example_input=example)
    _name(graph, shapes)
    _keep_state(graph, shapes)
    return graph


def cache_shapes(module: Any) -> list[tuple[int, int]]:
    """(heads, width) of keys and of values of every layer, in turn, as the module itself makes them."""
    import torch

    with quiet(), torch.no_grad():
        out = module(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=True)
    cache = out.cache if getattr(out, "cache", None) is not None else out.past_key_values
    layers = getattr(cache, "layers", None)
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise EngineError("OpenVINO GenAI takes models whose every layer keeps keys and values; this one's do not")
    if any(getattr(layer, "is_sliding", False) for layer in layers):
        raise EngineError("layers with a sliding window are not exported; use the engine transformers")
    return [(kept.shape[1], kept.shape[3]) for layer in layers for kept in (layer.keys, layer.values)]


class _Growing:
    """As much of transformers' Cache as a forward pass asks for."""

    is_compileable = False

    def __init__(self, flat: Sequence[Any]):
        self.keys, self.values = list(flat[0::2]), list(flat[1::2])

    def __len__(self) -> int:
        return len(self.keys)

    def update(self, keys: Any, values: Any, layer: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        import torch

        self.keys[layer] = torch.cat([self.keys[layer], keys], -2)
        self.values[layer] = torch.cat([self.values[layer], values], -2)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, layer: int = 0) -> Any:
        return self.keys[layer].shape[-2]

    def get_mask_sizes(self, new: int, layer: int = 0) -> tuple[Any, int]:
        return self.keys[layer].shape[-2] + new, 0

    def flat(self) -> list[Any]:
        return [kept for pair in zip(self.keys, self.values, strict=True) for kept in pair]


def _step(module: Any) -> Any:
    import torch

    takes = inspect.signature(module.forward).parameters
    cache_name = "cache" if "cache" in takes else "past_key_values"
    if "position_ids" not in takes:
        raise EngineError(f"{type(module).__name__} takes no positions, so it cannot be exported token by token")

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> Any:
            total, new = attention_mask.shape[1], input_ids.shape[1]
            before = torch.arange(total)[None, :] <= torch.arange(total - new, total)[:, None]
            seen = before[None, None] & attention_mask[:, None, None, :].bool()
            mask = torch.where(seen, torch.tensor(0.0), torch.tensor(FAR))
            cache = _Growing(past)
            given = {"input_ids": input_ids, "attention_mask": mask, "use_cache": True, cache_name: cache}
            out = self.inner(**given, position_ids=position_ids)
            return (out.logits, *cache.flat())

    return Step().eval()


def _name(graph: Any, shapes: Sequence[tuple[int, int]]) -> None:
    import openvino as ov

    kept = [f"{at // 2}.{'value' if at % 2 else 'key'}" for at in range(len(shapes))]
    if len(graph.inputs) != len(FIELDS) + len(kept):
        raise EngineError(f"tracing kept {len(graph.inputs)} inputs of {len(FIELDS) + len(kept)}")
    for node, name in zip(graph.inputs, [*FIELDS, *(f"past_key_values.{k}" for k in kept)], strict=True):
        node.get_tensor().set_names({name})
        node.get_node().set_friendly_name(name)
    for node, name in zip(graph.outputs, ["logits", *(f"present.{k}" for k in kept)], strict=True):
        node.get_tensor().set_names({name})
    sizes = {at: ov.PartialShape([-1, -1]) for at in range(len(FIELDS))}
    sizes |= {at: ov.PartialShape([-1, heads, -1, width]) for at, (heads, width) in enumerate(shapes, len(FIELDS))}
    graph.reshape(sizes)


def _keep_state(graph: Any, shapes: Sequence[tuple[int, int]]) -> None:
    """Keys and values become variables of the graph, empty at first; beam_idx chooses the rows that go on."""
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam = op.parameter([-1], np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beam])
    pairs, sizes = {}, {}
    past = [node for node in graph.inputs if node.get_any_name().startswith("past_key_values.")]
    for node, shape in zip(past, shapes, strict=True):
        users = list(node.get_target_inputs())
        chosen = op.gather(node, beam, op.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(chosen.output(0))
        name = node.get_any_name()
        pairs[name] = name.replace("past_key_values", "present")
        sizes[name] = shape
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    ids = next(node for node in graph.inputs if node.get_any_name() == "input_ids")
    rows = op.gather(
        op.shape_of(ids, output_type="i64"), op.constant(np.array([0], np.int64)), op.constant(np.int64(0))
    )
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            variable = node.get_variable_id()
            heads, width = next(shape for name, shape in sizes.items() if variable.startswith(name))
            rest = (
                op.constant(np.array([heads], np.int64)),
                op.constant(np.array([0], np.int64)),
                op.constant(np.array([width], np.int64)),
            )
            node.set_arguments([op.broadcast(op.constant(np.float32(0)), op.concat([rows, *rest], 0)).output(0)])
    graph.validate_nodes_and_infer_types()
