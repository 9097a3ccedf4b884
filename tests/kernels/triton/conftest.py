"""Whatever reaches a kernel lies as the kernel reads it: without gaps, or with its strides among the kernel's arguments.

A kernel gets an address. What torch says of strides is lost there, so a tensor that is a view of something else would be read
as another one, without a word.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from torch.utils._pytree import tree_leaves


def lies_as_read(x: Tensor, numbers: list[int]) -> bool:
    """Whether x has no gaps and rows come one after the other, or its columns do and its other strides are told: as numbers,
    or since a dimension goes on where the next one ends."""
    sizes, steps = x.shape, x.stride()
    on = [i + 1 < x.dim() and steps[i] == sizes[i + 1] * steps[i + 1] for i in range(x.dim())]
    told = all(sizes[i] == 1 or steps[i] in numbers or on[i] for i in range(x.dim() - 1))
    return x.is_contiguous() or (steps[-1] == 1 and told)


@pytest.fixture(autouse=True)
def raw_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    run = interpreter.InterpretedFunction.run

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = tree_leaves(args)
        numbers = [n for n in leaves if isinstance(n, int)]
        for x in leaves:
            if isinstance(x, Tensor):
                assert lies_as_read(x, numbers), f"{self.fn.__name__}: shape {tuple(x.shape)}, strides {x.stride()}"
        return run(self, *args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", checked)
