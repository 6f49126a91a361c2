"""The network of a policy as ONNX: written with `torch.onnx`, checked against PyTorch, run by onnxruntime."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3kit.errors import MissingExtra, P3kitError
from p3kit.runtime.policy import LoadedPolicy

OPSET = 18
INPUTS, OUTPUTS = ("observation", "mask"), ("logits", "value")

_CHECKED_ROWS = 64
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""Largest difference of a logit or value between PyTorch and onnxruntime, relative to 1 + its size."""


class _Forward(torch.nn.Module):
    """The policy without its contexts: autocast as a context manager and gradients off."""

    def __init__(self, policy: LoadedPolicy) -> None:
        super().__init__()
        self._policy = policy

    def forward(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self._policy.forward(observation, mask)


def to_onnx(policy: LoadedPolicy, name: str, precision: str, observation_size: int, num_actions: int) -> bytes:
    """Return the policy as an ONNX model.

    Inputs: `observation` (batch, observation_size) float32 and `mask` (batch, num_actions) bool. Outputs: `logits`
    (batch, num_actions) float32, log-probabilities in which an invalid action has the smallest number, and `value`
    (batch,) float32. The statistics of `observation.normalize = "running"` are part of the network. `precision` is the
    number format of the run: float32, bfloat16 or float16.

    Raises MissingExtra without the packages, P3kitError for a network that ONNX cannot express.
    """
    _import("onnxscript")
    rows = torch.randn(_CHECKED_ROWS, observation_size, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(_CHECKED_ROWS, num_actions, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[:, 0] = True
    with _quiet():
        try:
            model = _translate(policy, rows, mask)
        except Exception as error:
            what = f"its network cannot be written as ONNX: {str(error).splitlines()[0] if str(error) else error!r}"
            raise P3kitError(
                name, what, "load it with p3kit.load_policy, or change the trainer's load_policy"
            ) from error
    _compute_in_float32(model)
    _without_paths(model)
    content: bytes = model.SerializeToString()
    _check(content, policy, name, _TOLERANCE[precision], rows, mask)
    return content


def onnx_session(content: bytes) -> Any:
    """An onnxruntime session on one thread of the CPU. Raises MissingExtra without onnxruntime."""
    ort = _import("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _import(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise MissingExtra(package, "export", "policies as ONNX") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of `torch.onnx` on packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _translate(policy: LoadedPolicy, rows: Tensor, mask: Tensor) -> Any:
    """The ONNX model of the policy, for any number of rows."""
    batch = torch.export.Dim("batch", min=1)
    example, shapes = (rows[:3], mask[:3]), {name: {0: batch} for name in INPUTS}
    try:
        program = torch.export.export(_Forward(policy), example, dynamic_shapes=shapes, strict=False)
    except Exception:  # noqa: BLE001 - a trainer that reads the number of rows with `len` needs the slower way
        program = torch.export.export(_Forward(policy), example, dynamic_shapes=shapes, strict=True)
    written = torch.onnx.export(
        program, (), input_names=INPUTS, output_names=OUTPUTS, opset_version=OPSET, dynamo=True, verbose=False
    )
    if written is None:
        raise P3kitError("torch.onnx.export", "returned nothing", "pip install -U torch onnxscript")
    return written.model_proto


def _compute_in_float32(model: Any) -> None:
    """Let every operation on bfloat16 or float16 compute in float32 and round its result, as PyTorch does on a CPU.

    onnxruntime has no kernels for them on a CPU, except `Cast`.
    """
    onnx = _import("onnx")
    small = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    rounded = {name: kind for name, kind in kinds.items() if kind in small}
    nodes, wide = [], set()
    for node in model.graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name in rounded:
                if name not in wide:
                    nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}.float32"], to=onnx.TensorProto.FLOAT))
                    wide.add(name)
                node.input[i] = f"{name}.float32"
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in rounded:
                node.output[i] = f"{name}.exact"
                nodes.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [name], to=rounded[name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]


def _without_paths(model: Any) -> None:
    """Drop the stack traces of the export, which hold paths of this machine, and name the axis of the rows."""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _check(content: bytes, policy: LoadedPolicy, name: str, tolerance: float, rows: Tensor, mask: Tensor) -> None:
    """Raise P3kitError where onnxruntime computes something else than PyTorch, alone or in a batch."""
    session = onnx_session(content)
    with torch.no_grad():
        expected = [tensor.float().numpy() for tensor in policy(rows, mask)]
    for count in (1, len(rows)):
        found = session.run(OUTPUTS, {"observation": rows[:count].numpy(), "mask": mask[:count].numpy()})
        for got, want in zip(found, expected, strict=True):
            near = np.abs(got - want[:count]) <= tolerance * (1 + np.abs(want[:count]))
            if got.shape != want[:count].shape or not near.all():
                what = "onnxruntime computes other values than PyTorch from its network"
                raise P3kitError(name, what, "pip install -U onnxruntime onnxscript")
