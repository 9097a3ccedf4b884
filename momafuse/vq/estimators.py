"""How a gradient passes the choice of a code: the decoder gets the code's value, the encoder a gradient.

straight-through   as if the code were the vector (Bengio et al., arXiv 1308.3432)
rotation trick     q = (|c| / |v|) R v, with R the rotation of v onto the code c, both held constant: the gradient turns
                   with the vector, so that vectors of one code get different ones (Fifty et al., arXiv 2410.06424)

    R v = v - 2 r (r.v) + 2 c^ (v^.v),   v^ = v / |v|,  c^ = c / |c|,  r = (v^ + c^) / |v^ + c^|
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def straight_through(vectors: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` with the gradient of `vectors`, both (..., D)."""
    return vectors + (quantized - vectors).detach()


def rotated(vectors: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` (up to rounding) with the rotated gradient of `vectors`, both (..., D)."""
    v, c = vectors.detach(), quantized.detach()
    v_unit, c_unit = F.normalize(v, dim=-1), F.normalize(c, dim=-1)
    r = F.normalize(v_unit + c_unit, dim=-1)
    scale = c.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True).clamp(min=1e-6)

    def along(a: Tensor) -> Tensor:
        return (a * vectors).sum(dim=-1, keepdim=True)

    turned: Tensor = vectors - 2 * r * along(r) + 2 * c_unit * along(v_unit)
    out: Tensor = scale * turned
    return out
