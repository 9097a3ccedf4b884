"""Tensors of Chameleon's image tokenizer <-> our weights file (vq/weights.py), to the bit.

Names are those of vqgan.py, and the codes are `quantize.embedding.weight (C, D)`, the nearest of which in the plane is taken.
The released file has all of them. In a transformers checkpoint `model.vqmodel.` stands before each, and there is no decoder.
`loss.*`, what a VQGAN was trained by, is passed over. Reads no files but ours: whoever calls adds which one a message is about.
Configs: chameleon_config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.architectures import architecture
from momafuse.vision.config import VQGANArchitecture
from momafuse.vision.tokenizer import KIND
from momafuse.vision.vqgan import VQGAN
from momafuse.vq.weights import Stored, read_weights, save_stored

PREFIX = "model.vqmodel."  # before each name in a transformers checkpoint
CODES = "quantize.embedding.weight"
DECODER = "decoder."
TRAINING = "loss."


def shapes_of(arch: VQGANArchitecture, *, decoder: bool) -> dict[str, tuple[int, ...]]:
    """Every name that such a checkpoint has, without its prefix, and its shape; takes no memory for weights."""
    with torch.device("meta"):
        model = VQGAN(arch, decodes=decoder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes | {CODES: (arch.codes, arch.code_dim)}


def check_shapes(arch: VQGANArchitecture, found: Mapping[str, Sequence[int]]) -> bool:
    """Whether a decoder is among the tensors of these names, without their prefix, and shapes; `loss.*` does not count. Raises
    UserError that names the first tensor that is missing, of another shape or of no such network."""
    decoder = any(name.startswith(DECODER) for name in found)
    wanted = shapes_of(arch, decoder=decoder)
    wrong = [
        f"{name}: is missing; the config wants it of shape {list(shape)}" for name, shape in wanted.items() if name not in found
    ]
    for name, shape in found.items():
        if name not in wanted and not name.startswith(TRAINING):
            wrong.append(f"{name}: no tensor of the network that the config describes")
        elif name in wanted and tuple(shape) != wanted[name]:
            wrong.append(f"{name}: is of shape {list(shape)}, and the config wants {list(wanted[name])}")
    if wrong:
        more = f" (and {len(wrong) - 1} tensors more)" if len(wrong) > 1 else ""
        raise UserError(wrong[0] + more)
    return decoder


def write(
    path: Path, arch: VQGANArchitecture, tensor: Callable[[str], Tensor], *, decoder: bool, order: Tensor | None = None
) -> None:
    """The weights file (vq/weights.py) of a checkpoint, to the bit, aside and then renamed. `tensor` gives each of `shapes_of`
    by its name; `order` (C,) int64: the number there that code k is to be here, so that codes are `embedding[order]`. Raises
    UserError where a tensor is not of its shape or holds no floating-point numbers."""
    if order is not None and (order.dtype != torch.int64 or not torch.equal(order.sort().values, torch.arange(arch.codes))):
        raise ValueError(f"order must hold each of 0..{arch.codes - 1} once")
    tensors = {}
    for name, shape in shapes_of(arch, decoder=decoder).items():
        tensors[name] = value = tensor(name)
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise UserError(f"{name}: is {value.dtype} {list(value.shape)}, and must be floating-point numbers {list(shape)}")
    codes = tensors.pop(CODES)
    save_stored(path, KIND, Stored(arch, tensors, codes if order is None else codes[order], order, "plane", decoder))


class Theirs(NamedTuple):
    """A tokenizer of ours as a checkpoint has it: names without a prefix, and codes in the order of the checkpoint that it came
    from, if it did. `order` (C,) int64: the number in `tensors` of our code k; None: the same."""

    arch: VQGANArchitecture
    tensors: dict[str, Tensor]
    order: Tensor | None

    @property
    def without_decoder(self) -> dict[str, Tensor]:
        """The tensors that transformers knows."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(DECODER)}


def theirs(name_or_path: str) -> Theirs:
    """Of a packaged name or the path of a weights file, to the bit. Raises UserError where it is missing or damaged, and where
    it is not a VQGAN with codes in the plane."""
    key = f"{KIND.key}={name_or_path}"
    stored = read_weights(name_or_path, KIND, architecture)
    arch, order = stored.arch, stored.order
    remedy = "train one with tokenizer=vqgan_512 tokenizer.quantizer.space=plane"
    if not isinstance(arch, VQGANArchitecture):
        raise UserError(f"{key}: is no VQGAN, and Chameleon's layout has no other networks; {remedy}")
    if stored.space != "plane":
        raise UserError(
            f"{key}: its codes live in the {stored.space}, and Chameleon compares codes to the encoder's output as it comes, "
            f"without bringing it there; {remedy}"
        )
    if order is not None and not torch.equal(order.sort().values, torch.arange(arch.codes)):
        raise UserError(f"{key}: is damaged (order); copy it again")
    codes = stored.codes if order is None else torch.empty_like(stored.codes).index_copy_(0, order, stored.codes)
    tensors = stored.tensors | {CODES: codes}
    try:
        if check_shapes(arch, {name: tensor.shape for name, tensor in tensors.items()}) != stored.decodes:
            raise UserError("says of its decoder what is not so")
    except UserError as error:
        raise UserError(f"{key}: is damaged ({error}); copy it again") from error
    return Theirs(arch, tensors, order)
