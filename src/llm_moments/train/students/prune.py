"""Which attention heads and feed-forward neurons a student keeps: those that its teacher's answers hang on most."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, InputError
from llm_moments.models.model import Model
from llm_moments.models.nets.pruned import (
    HEADS,
    Heads,
    Neurons,
    cut_heads,
    cut_neurons,
    heads_of,
    neurons_of,
    shares,
)
from llm_moments.train.students.reloaded import reloaded
from llm_moments.train.students.spec import share_of

VECTOR = 16  # neurons that a share is rounded down to a multiple of: what a CPU computes at once
Arrays = Mapping[str, np.ndarray]


def narrowed(
    module: Any, described: Model, batches: Sequence[Arrays], *, heads: str | None = None, neurons: str | None = None,
    judge: Any = None, layers: Sequence[int] = (),
) -> tuple[Any, Model]:  # fmt: skip
    """The module with so many heads and neurons in each layer, and its description.

    heads, neurons: a number, half or third. batches: what the forward step would be given, of the user's examples.
    judge: the module whose answers count, where this one has only some of its layers: these.
    EngineError where they cannot be told apart or would not answer as if they were switched off, naming what can be
    pruned; InputError for a number that cannot be.
    """
    import torch

    attention, forward = _units(module, heads, neurons)
    keep = [_heads_kept(attention[0], heads) if heads else 0, _neurons_kept(forward[0], neurons) if neurons else 0]
    weights = importance(judge or module, batches, described.problem_type, bool(heads), bool(neurons))
    if judge is not None:
        weights = tuple([one[at] for at in sorted(layers)] if one else [] for one in weights)  # type: ignore[assignment]
    gone_heads = [_least(w, u, keep[0]) for w, u in zip(_alike(module, weights[0]), attention, strict=True)]
    gone = [np.argsort(w, kind="stable")[: len(w) - keep[1]].tolist() for w in weights[1]]
    told = _tensors(batches[0], module)
    with torch.no_grad(), _switched_off(attention, gone_heads, forward, gone):
        wanted = module.eval()(**told).logits
    if heads:
        cut_heads(module, attention, [_rest(u.count, g) for u, g in zip(attention, gone_heads, strict=True)])
        _describe_heads(module, shares(attention[0], keep[0]))
    if neurons:
        cut_neurons(forward, [_rest(u.count, g) for u, g in zip(forward, gone, strict=True)])
        setattr(module.config, forward[0].entry, keep[1])
    made = Model(described.path, {**described.config, **json.loads(module.config.to_json_string(use_diff=False))})
    _check(module, made, told, wanted)
    return module, made


def _units(module: Any, heads: str | None, neurons: str | None) -> tuple[list[Heads], list[Neurons]]:
    """What is to be cut; an error says what could be instead."""
    found: dict[str, Any] = {}
    for kind, wanted, find in (("heads", heads, heads_of), ("neurons", neurons, neurons_of)):
        try:
            found[kind] = find(module) if wanted else []
        except EngineError as error:
            raise EngineError(f"{error}{_instead(module, kind)}") from error
    return found["heads"], found["neurons"]


def _instead(module: Any, kind: str) -> str:
    other, find = ("neurons", neurons_of) if kind == "heads" else ("heads", heads_of)
    try:
        find(module)
    except EngineError:
        return "; its layers can be left out where layers=half can be made of it"
    return f"; {other}=half can be pruned of it"


def _heads_kept(unit: Heads, wanted: str) -> int:
    """A share is the largest number not above it that keeps every group of heads whole or alike."""
    if wanted.isdigit():
        shares(unit, int(wanted))
        return int(wanted)
    most = share_of(unit.count, wanted)
    able = [n for n in range(1, most + 1) if n % unit.shared == 0 or n % unit.keys == 0]
    return max(able, default=min(unit.shared, unit.keys))


def _neurons_kept(unit: Neurons, wanted: str) -> int:
    keep = share_of(unit.count, wanted)
    if not wanted.isdigit() and keep > VECTOR:
        keep -= keep % VECTOR
    if not 1 <= keep <= unit.count:
        raise InputError(f"this model has {unit.count} neurons a layer; a student cannot have {wanted}")
    return keep


# ----------------------------------------------------------------------------------------------------- importance


def importance(
    module: Any, batches: Sequence[Arrays], problem: str, heads: bool = True, neurons: bool = True
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """How much the log-odds of the module's own answers would change without each head and each neuron: for each layer
    a vector of heads, and one of neurons.

    First-order Taylor, |sum over the positions of activation · gradient|, mean over the examples (Molchanov et al.
    2017, arXiv:1611.06440; of heads Michel et al. 2019, arXiv:1905.10650). Log-odds and not a loss, for the loss
    against an answer that is sure already has next to no gradient.
    """
    attention, forward = heads_of(module) if heads else [], neurons_of(module) if neurons else []
    units = [*((u.output, u.size) for u in attention), *((u.output, 1) for u in forward)]
    sums: list[Any] = [0.0] * len(units)

    def seen(at: int, size: int, activation: Any) -> None:
        if not activation.requires_grad:
            return

        def graded(gradient: Any) -> None:
            rows = (activation.detach() * gradient).reshape(-1, *activation.shape[-2:]).sum(1)
            sums[at] = sums[at] + rows.unflatten(-1, (-1, size)).sum(-1).abs().sum(0).double().cpu()

        activation.register_hook(graded)

    with ExitStack() as stack:
        for at, (output, size) in enumerate(units):
            handle = output.register_forward_pre_hook(lambda _, args, at=at, size=size: seen(at, size, args[0]))
            stack.callback(handle.remove)
        module.eval()
        for fields in batches:
            log_odds(module(**_tensors(fields, module)).logits, problem).sum().backward()
            module.zero_grad(set_to_none=True)
    found = [np.asarray(one) for one in sums]
    return found[: len(attention)], found[len(attention) :]


def log_odds(logits: Any, problem: str) -> Any:
    """Of the answers that these logits give: [rows], or [rows, labels] where there are several; of a number itself."""
    import torch

    logits = logits.float()
    if problem == "regression":
        return logits
    if problem == "multi_label_classification":
        return logits.abs()
    best = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).bool()
    others = logits.masked_fill(best, float("-inf"))
    return logits.masked_fill(~best, 0.0).sum(-1) - torch.logsumexp(others, -1)


def _alike(module: Any, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Where all layers read one table of positions by head, each head is worth what it is worth in all of them."""
    from llm_moments.models.nets.pruned import SHARED

    shared = any(name.endswith(SHARED) for name, _ in module.named_modules())
    return [np.sum(weights, 0)] * len(weights) if shared else weights


def _least(weights: np.ndarray, unit: Heads, keep: int) -> list[int]:
    """The heads to leave out: whole groups that share keys, or the same number of each group."""
    if not keep:
        return []
    keys, each = shares(unit, keep)
    groups = weights.reshape(unit.keys, unit.shared)
    if each == unit.shared:
        gone = np.argsort(groups.sum(1), kind="stable")[: unit.keys - keys]
        return [int(key) * unit.shared + i for key in gone for i in range(unit.shared)]
    order = np.argsort(groups, axis=1, kind="stable")[:, : unit.shared - each]
    return [key * unit.shared + int(i) for key, row in enumerate(order) for i in row]


def _rest(count: int, gone: Sequence[int]) -> list[int]:
    return sorted(set(range(count)) - set(gone))


# ---------------------------------------------------------------------------------------------------------- proof


@contextmanager
def _switched_off(
    attention: Sequence[Heads], heads: Sequence[Sequence[int]], forward: Sequence[Neurons], neurons: Sequence[Sequence[int]]
) -> Any:  # fmt: skip
    """What the matrices that write back are given has zeros in the place of these heads and neurons."""
    off = [
        (u.output, [h * u.size + i for h in g for i in range(u.size)]) for u, g in zip(attention, heads, strict=True)
    ]
    off += [(u.output, list(g)) for u, g in zip(forward, neurons, strict=True)]
    with ExitStack() as stack:
        for output, gone in off:
            handle = output.register_forward_pre_hook(_zeroing(gone))
            stack.callback(handle.remove)
        yield


def _zeroing(gone: Sequence[int]) -> Callable[[Any, Any], Any]:
    def zeroed(_: Any, args: Any) -> Any:
        import torch

        index = torch.tensor(list(gone), dtype=torch.long, device=args[0].device)
        return (args[0].index_fill(-1, index, 0.0), *args[1:])

    return zeroed


def _check(module: Any, described: Model, told: Mapping[str, Any], wanted: Any) -> None:
    """What is computed with smaller matrices, and again by what a folder of it gives, is what it was to be."""
    import torch

    from llm_moments.engines.foreign import first_line

    name = type(module).__name__
    try:
        with torch.no_grad():
            again = reloaded(module, described).to(wanted.device)
            seen = [one(**told).logits for one in (module, again)]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise EngineError(f"{name} does not run with fewer heads or neurons ({first_line(error)})") from error
    scale = float(wanted.abs().max()) + 1.0
    if not all(torch.allclose(one, wanted, atol=1e-4 * scale) for one in seen):
        raise EngineError(f"{name} without some heads or neurons does not answer as if they were switched off")


def _describe_heads(module: Any, kept: tuple[int, int]) -> None:
    """In the config's own words where these give matrices of the shapes that the module has, else in ours."""
    import torch

    config, count = module.config, kept[0] * kept[1]
    told = {**config.to_dict(), "num_attention_heads": count, "head_dim": getattr(config, "head_dim", None)}
    told.pop(HEADS, None)
    if told["head_dim"] and hasattr(config, "num_key_value_heads"):
        told["num_key_value_heads"] = kept[0]
        try:
            plain = type(config).from_dict(told)
            with torch.device("meta"):
                shapes = {name: tensor.shape for name, tensor in type(module)(plain).state_dict().items()}
        except Exception:  # each architecture has its own way to say that it cannot be described so
            shapes = {}
        if shapes == {name: tensor.shape for name, tensor in module.state_dict().items()}:
            for name in ("num_attention_heads", "head_dim", "num_key_value_heads"):
                setattr(config, name, told[name])
            return
    setattr(config, HEADS, count)


def _tensors(fields: Arrays, module: Any) -> dict[str, Any]:
    import torch

    device = next(module.parameters()).device
    return {name: torch.from_numpy(np.asarray(array)).to(device) for name, array in fields.items()}
