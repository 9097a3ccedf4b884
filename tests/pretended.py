"""A GPU that this machine does not have: tensors with real values that say they lie on one, and refuse what such a one refuses.

Under `gpu()` a program finds a device "pretended:0". Every op on its tensors is computed on the CPU, and so are the values; but
- a tensor there has no numpy array, and no op takes tensors from both sides (numbers without dimensions may come along);
- values that are read (`item`, `tolist`, `float`, a print) are allowed, and counted in `Gpu.read`: on a GPU each is a wait.
No kernel of a GPU runs: it is one of compute capability 7.5, so that products are torch's and attention goes by pairs.

As torch's own fake tensors do it, with values: a wrapper around a CPU tensor, and a mode for what makes new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

CPU = torch.device("cpu")
READ: list[str] = []  # what was read from the device: a wait each
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default}
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OnGpu(Tensor):
    """Says that it lies on the GPU; `inside` is the CPU tensor that it stands for."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor, requires_grad: bool = False) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype,
            device=_registered(), requires_grad=requires_grad,
        )  # fmt: skip
        made.inside = inside
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inside})"

    def tolist(self) -> Any:
        READ.append("tolist")
        return self.detach().inside.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert pretended:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(torch.tensor(i).to(self.device) if isinstance(i, list) else i for i in parts)
        return super().__getitem__(parts)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One op, where its tensors lie: on the GPU if one of them does, or if it is asked for there."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = any(isinstance(x, OnGpu) for x in tensors)
    if there and func not in MOVES and any(x.dim() for x in tensors if not isinstance(x, OnGpu)):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got some on pretended:0 and some on cpu")
    if there and func in READS:
        READ.append(str(func))
    device = kwargs.get("device")
    to_gpu = there if device is None else torch.device(device).type == "pretended"
    inside, named = tree_map_only(OnGpu, lambda x: x.inside, (args, kwargs))
    if device is not None:
        named["device"] = CPU
    named.pop("pin_memory", None)
    if func is torch.ops.aten.copy_.default:
        func(*inside, **named)
        return args[0]
    made = func(*inside, **named)
    if not to_gpu:
        return made
    return (
        return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnGpu, made))
        if there
        else tree_map_only(Tensor, OnGpu, made)
    )


class Here(TorchDispatchMode):
    """For ops that make tensors, and those that bring them to the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class FromLists(TorchFunctionMode):
    """Lists become tensors without an op that the other mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], OnGpu):
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


class Backend:
    """What torch asks the module of such a device; there are no streams, everything is done when it returns."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    Stream = current_stream = staticmethod(lambda *_: SimpleNamespace(synchronize=lambda: None, wait_stream=lambda other: None))
    stream = staticmethod(lambda stream: nullcontext())
    synchronize = staticmethod(lambda *_: None)
    get_rng_state = staticmethod(lambda *_: torch.empty(0, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda *_: None)


@cache
def _registered() -> torch.device:
    """torch's place for a device of others, with guards that do nothing; once a process."""
    _setup_privateuseone_for_python_backend("pretended", backend_module=Backend())
    return torch.device("pretended", 0)


@contextmanager
def device() -> Iterator[tuple[torch.device, list[str]]]:
    """There is such a device within; and what was read from it."""
    READ.clear()
    there = _registered()
    with Here(), FromLists():
        yield there, READ
