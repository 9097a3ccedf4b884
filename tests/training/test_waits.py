"""A warm step never waits for the device, shown without one: its tensors are on torch's `meta` device, which has no contents.

What would read a value there fails by itself; what brings one from the host is caught on its way. Only the batch may come. A
GPU says the same of itself in tests/kernels/triton/test_gpu.py; what the loop reads once a step is not part of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import clip_grads_with_norm_
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from momafuse.config.compose import compose
from momafuse.data.batch import Batch
from momafuse.kernels import attention as ways
from momafuse.models import attention
from momafuse.routing.kinds import EXPERT_CHOICE
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training import setup
from momafuse.training.guard import gradient_norm
from momafuse.training.losses import LossMeter, modality_table
from momafuse.training.routers import RouterWork
from momafuse.training.step import backward, numbers
from momafuse.world import World
from tests.batches import make_batch
from tests.members import MEMBERS

META = torch.device("meta")
IDS = Vocabulary.build(24, image=(32, 8))
COPIES = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


def tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


class FromHost(TorchDispatchMode):
    """An op that reads host memory for the device; numbers of host tensors, which kernels get as arguments, are none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, read = func(*args, **(kwargs or {})), tensors((args, kwargs))
        host = [t for t in read if not t.is_meta and (t.dim() or len(read) == 1)]
        if host and any(t.is_meta for t in read + tensors(result)):
            raise AssertionError(f"{func} brings {tuple(host[0].shape)} from the host")
        return result


class FromLists(TorchFunctionMode):
    """Python numbers that become a tensor on the device: meta makes no copy of it, a GPU does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COPIES and result.is_meta:
            raise AssertionError(f"{func.__name__} of numbers is a copy that waits")
        if func is Tensor.__getitem__ and any(isinstance(i, list) for i in tree_leaves(args[1], is_leaf=_is_list)):
            raise AssertionError("a list as an index is a copy that waits")
        return result


def _is_list(x: Any) -> bool:
    return isinstance(x, list)


X = torch.empty(6, 4, device=META)


class CopiesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy * torch.ones(dy.shape).to(META)


ITEM, NOT_THERE, FROM_HOST, NUMBERS = "item() cannot be called", "no data", "from the host", "is a copy that waits"
WAITS: dict[str, tuple[Callable[[], Any], str]] = {
    "a number read": (lambda: X.sum().item(), ITEM),
    "a decision": (lambda: bool(X.sum() > 0), ITEM),
    "a mask as an index": (lambda: X[X[:, 0] > 0], "nonzero"),
    "nonzero": (lambda: X.nonzero(), "nonzero"),
    "a list read": (lambda: X.tolist(), NOT_THERE),
    "a copy to the host": (lambda: X.cpu(), NOT_THERE),
    "a host tensor as an index": (lambda: X[torch.tensor([1, 2])], FROM_HOST),
    "a copy from the host": (lambda: torch.ones(3).to(META), FROM_HOST),
    "a number copied": (lambda: torch.ones(()).to(META), FROM_HOST),
    "a tensor of a list": (lambda: torch.tensor([1.0, 2.0], device=META), NUMBERS),
    "a new tensor of a list": (lambda: X.new_tensor([1.0, 2.0]), NUMBERS),
    "columns by a list": (lambda: X[:, [1, 2]], NUMBERS),
    "in the backward": (lambda: CopiesInBackward.apply(X.detach().requires_grad_()).sum().backward(), FROM_HOST),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_caught(name):
    action, words = WAITS[name]
    with pytest.raises((AssertionError, RuntimeError), match=re.escape(words)), FromHost(), FromLists():
        action()


def test_what_waits_for_nothing_passes():
    with FromHost(), FromLists():
        y = X * torch.tensor(2.0) + torch.arange(4, device=META)
        y[:, 1:3].gather(1, torch.zeros(6, 1, dtype=torch.int64, device=META))


def torchs(q: Tensor, k: Tensor, v: Tensor, _: object) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


RAGGED = [m for m in MEMBERS if compose([f"+experiment={m}"]).config.router.kind != EXPERT_CHOICE]
WORDS = [(m, f"trainer.backend={backend}") for m in MEMBERS for backend in ("triton", "bmm")
         if backend == "triton" or m not in RAGGED]  # fmt: skip
WORDS += [(m, "trainer.backend=triton", "router.loss={load: 0.01, global_entropy: {text: 0.1}}") for m in ("moe_token_choice",)]
WORDS += [("moma_4t4i", "trainer.backend=bmm", "router.loss={balance: 0.1, z: 0.1, local_entropy: {image: 0.1}}")]
WORDS += [("moe_8x", "trainer.backend=triton", f"router.kind={kind}") for kind in ("hash", "uniform")]
WORDS += [("mod_moma_4t4i", "trainer.backend=triton", "model.depth.per_modality=false")]  # bmm reads sizes on the host


@pytest.mark.parametrize("words", WORDS, ids="-".join)
def test_forward_and_backward_bring_nothing_but_the_batch_and_read_nothing(monkeypatch, words):
    monkeypatch.setattr(setup, "check_backend", lambda *_: None)
    monkeypatch.setattr(ways, "sees_documents", lambda *_: True)  # masks are made as on a GPU
    monkeypatch.setattr(ways, "sees_in_blocks", lambda *_: True)
    monkeypatch.setattr(attention, "attend", torchs)  # meta has no kernel for them
    shape = "size=micro", "data.image_share=0.5", "trainer.precision=bf16", "router.noise=true"
    config = compose([f"+experiment={words[0]}", *shape, *words[1:]]).config
    world = World(0, 1, META, None, None)
    model, _ = setup.build_model(config, IDS, world)
    meter, here = LossMeter(IDS.names, modality_table(IDS, META)), SimpleNamespace(world=world, model=model)
    batch = make_batch(4, (40, 24)).to(META)
    monkeypatch.setattr(Batch, "to", lambda self, device: self)
    with FromHost(), FromLists():
        routers = RouterWork(model, world, 2)
        for nth in (1, 2):
            of_step = numbers(here, 64, 3, nth)  # type: ignore[arg-type]
            chosen = backward(config, here, batch, meter, of_step, 3, routers)  # type: ignore[arg-type]
        routers.update(chosen[6:])
        routers.begin()
        norm = gradient_norm(model.parameters(), META)
        clip_grads_with_norm_(model.parameters(), config.optim.grad_clip, norm)
    assert chosen.is_meta
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())
