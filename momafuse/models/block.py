"""One layer: attention, then experts, each with a residual.

    swin: h = x + norm(attention(x));   y = h + norm(experts(h))        (Chameleon-34B and MoMa; 2405.09818, 2407.21770)
    pre:  h = x + attention(norm(x));   y = h + experts(norm(h))

Dropout follows attention and experts (Chameleon-7B). State: `attention_norm.*`, `attention.*`, `ffn_norm.*`, `experts.*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import dropout

from momafuse.config.schema import ModelConfig
from momafuse.kernels.experts import Backend
from momafuse.models.attention import Attention
from momafuse.models.context import Context
from momafuse.models.experts import Experts
from momafuse.models.norms import Norm, UntiedNorm
from momafuse.routing.auxiliary import Lesson
from momafuse.routing.depth import Kept
from momafuse.routing.plan import Plan


class Decision(NamedTuple):
    """What the routers of one layer decided; plans are of the kept rows where there are any."""

    experts: Plan | None  # None: one expert took every row
    kept: Kept | None  # None: the layer is not one of a mixture of depths
    lesson: Lesson | None = None  # of the experts' auxiliary router, under `teaching`
    depth_lesson: Lesson | None = None  # of the depth router's


class Block(nn.Module):
    def __init__(self, config: ModelConfig, modality_names: Sequence[str], experts: Experts, backend: Backend) -> None:
        super().__init__()

        def norm() -> nn.Module:
            if "norms" in config.untie:
                return UntiedNorm(config.dim, config.norm_eps, config.tower_names(modality_names))
            return Norm(config.dim, config.norm_eps)

        self.placement = config.placement
        self.dropout = config.dropout
        self.attention = Attention(config, modality_names, backend)
        self.attention_norm = norm()
        self.experts = experts
        self.ffn_norm = norm()

    def forward(self, x: Tensor, context: Context, noise: Tensor | None) -> tuple[Tensor, Decision]:
        """x (B, S, D), noise (T, E) fp32 or None -> the same shape, and what the routers decided."""
        c = context
        if self.placement == "swin":
            h = x + self._dropped(self.attention_norm(self.attention(x, c), c.one_hot))
            y, plan, lesson = self.experts(h, c, noise)
            return h + self._dropped(self.ffn_norm(y, c.one_hot)), Decision(plan, None, lesson)
        h = x + self._dropped(self.attention(self.attention_norm(x, c.one_hot), c))
        y, plan, lesson = self.experts(self.ffn_norm(h, c.one_hot), c, noise)
        return h + self._dropped(y), Decision(plan, None, lesson)

    def _dropped(self, y: Tensor) -> Tensor:
        return dropout(y, self.dropout) if self.dropout and self.training else y
