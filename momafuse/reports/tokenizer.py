"""What `describe` says of a tokenizer of pictures or speech, as plain nested values: its JSON, and what its table is made of.

The model that train_tokenizer builds makes one step on fake tensors, which have shapes and no contents: FLOPs are those of
torch's counter (a multiply-add is two), forward and backward, and bytes are followed by memory.py. A step is one with codes:
encoder, the nearest code of every vector, decoder, the loss with the network that judges, and Muon's products.

Not counted: a discriminator; elementwise work, norms and look-ups; k-means before the first code and the moving averages of
codes, which happen outside of the gradient; the weights of the network that judges (19 MB); what an allocator wastes and a
convolution borrows.

Items are pictures, or excerpts of speech. Trains nothing (tokenizers/stage.py), draws nothing (tokenizer_table.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from momafuse.config.tokenizers import TokenizerTraining
from momafuse.errors import UserError
from momafuse.reports.memory import LiveBytes, size
from momafuse.speech.autoencoder import FOLD, SpeechAutoencoder
from momafuse.speech.config import SpeechVQConfig
from momafuse.speech.mel import BANDS
from momafuse.speech.training import frame_losses
from momafuse.vision.architectures import build
from momafuse.vision.config import VQConfig
from momafuse.vision.training import losses_of
from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.optimizer import orthogonalise, split_parameters
from momafuse.vq.quantizer import Quantizer, build_quantizer
from momafuse.vq.step import passed

Values = dict[str, Any]

PARTS = ("encoder", "quantizer", "decoder", "loss")  # of a forward, in this order
KEPT = ("inputs", *PARTS, "weight_copies")  # at its end
ENCODERS = ("encoder.", "quant_conv.")  # paths of parameters; all others are the decoder's
WAYS = {"fp32": (False, False), "bf16_cpu": (True, False), "bf16_cuda": (True, True)}  # in bf16, with CUDA's norms
ADAM = 2  # moments, each as large as the parameter; Muon has one


@dataclass(frozen=True)
class Subject:
    """What makes a step, and of what."""

    item: str
    shape: tuple[int, ...]  # of an item
    grid: tuple[int, ...]  # of its codes
    batch: int  # items
    model: VQAutoencoder
    quantizer: Quantizer
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]]

    @property
    def modules(self) -> nn.Module:
        return nn.ModuleList([self.model, self.quantizer])


def describe_tokenizer(job: TokenizerTraining) -> Values:
    """Of a micro-batch. Raises UserError for sizes and settings of which nothing can be built."""
    config = job.tokenizer
    assert isinstance(config, VQConfig | SpeechVQConfig)
    arch, how = config.architecture, config.quantizer
    sizes = {f"architecture.{name}": getattr(arch, name, 1) for name in ("image_size", "codes", "code_dim")}
    for name, n in (sizes | {"excerpt": getattr(config, "excerpt", 1)}).items():
        if n < 1:
            raise UserError(f"tokenizer.{name}={n}: must be at least 1")
    quantizer = build_quantizer(arch, how)  # here, since a grid of codes is made from values
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        with FakeCopyMode(fake):
            quantizer = copy.deepcopy(quantizer)
        s = _subject(config, job.trainer.micro_batch, quantizer)
        flops, memory = _flops(s), _memory(s)
    places = math.prod(s.grid)
    return {
        "name": config.name,
        "kind": config.kind,
        "item": {"is": s.item, "shape": s.shape, "grid": s.grid, "codes": places, "bits": places * math.log2(arch.codes)},
        "codes": {"number": arch.codes, "dim": arch.code_dim, "kind": how.kind, "space": how.space},
        "batch": s.batch,
        "parameters": _parameters(s, arch.codes * arch.code_dim),
        "flops": flops,
        "memory": memory,
    }


def _subject(config: VQConfig | SpeechVQConfig, batch: int, quantizer: Quantizer) -> Subject:
    if isinstance(config, SpeechVQConfig):
        speech, shape = SpeechAutoencoder(config.architecture), (BANDS, FOLD * config.excerpt)
        return Subject("excerpt", shape, (config.excerpt,), batch, speech, quantizer, frame_losses)
    arch = config.architecture
    model, losses = build(arch), losses_of(config)  # first, since they check the sizes
    side = arch.image_size // arch.reduction
    return Subject("picture", (3, arch.image_size, arch.image_size), (side, side), batch, model, quantizer, losses)


def _parameters(s: Subject, codes: int) -> Values:
    """Numbers that the file of weights holds: codes stand there whether a gradient moves them or not."""
    parts = {"encoder": 0, "quantizer": codes, "decoder": 0}
    for path, p in s.model.named_parameters():
        parts["encoder" if path.startswith(ENCODERS) else "decoder"] += p.numel()
    return {"total": sum(parts.values()), "by_part": parts}


def _flops(s: Subject) -> Values:
    """Of an item, forward, by part; of a step of a batch. Attention in plain products, which the counter knows."""
    at: dict[str, int] = {}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:

        def begins(part: str) -> None:
            at[part] = counter.get_total_flops()

        loss, _ = step_forward(s, begins, bf16=False)
        begins("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        begins("optimizer")
        for kernel in split_parameters(s.modules)[0]:
            orthogonalise(kernel.detach().flatten(1), torch.float32)
        begins("end")
    s.modules.zero_grad()
    flops = {part: after - before for (part, before), (_, after) in pairwise(at.items())}
    parts = {part: flops[part] / s.batch for part in PARTS}
    step = {"forward": sum(flops[part] for part in PARTS), "backward": flops["backward"], "optimizer": flops["optimizer"]}
    return {
        "encoding": parts["encoder"] + parts["quantizer"],
        "decoding": parts["decoder"],
        "by_part": parts,
        "step": step | {"total": sum(step.values())},
    }


def _memory(s: Subject) -> Values:
    """Bytes of a step; activations and peak, of all together, by the way of computing."""
    kernels, rest = (size(parameters) for parameters in split_parameters(s.modules))
    state = {
        "weights": size([*s.modules.parameters(), *s.modules.buffers()]),  # with the moving averages of the codes
        "gradients": kernels + rest,
        "optimizer": kernels + ADAM * rest,
        "average": size(list(s.model.parameters())),
    }
    ways = {name: _step_bytes(s, bf16=bf16, cuda=cuda) for name, (bf16, cuda) in WAYS.items()}
    for way in ways.values():
        way["peak"] += state["optimizer"] + state["average"]
    return state | {"ways": ways}


def _step_bytes(s: Subject, *, bf16: bool, cuda: bool) -> Values:
    """Activations, and the peak without what lies beside the step."""
    live = LiveBytes()
    with norms_of_cuda() if cuda else nullcontext():
        found = live.of_step(s.modules, partial(step_forward, s, live.begin, bf16=bf16))
    s.modules.zero_grad()
    kept = {part: found.get(part, 0) for part in KEPT}
    return {"activations": sum(kept.values()), "by_part": kept, "peak": live.peak}


def step_forward(s: Subject, begins: Callable[[str], None], *, bf16: bool) -> tuple[Tensor, Any]:
    """A step's forward as the stage makes it: the loss, and what is held beside it during the backward."""
    batch = torch.empty(s.batch, *s.shape)
    found = passed(s.model, s.quantizer, batch, torch.bfloat16 if bf16 else torch.float32, begins=begins)
    assert found.choice is not None
    losses = torch.stack(list(s.losses(found.output, batch).values()))
    return losses.sum() / s.batch + found.choice.loss, (batch, found)


@contextmanager
def norms_of_cuda() -> Iterator[None]:
    """Under autocast CUDA takes group norms in fp32, input and output; a CPU takes them as they come."""
    norm = F.group_norm

    def in_fp32(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return norm(x.float(), groups, weight, bias, eps)

    with patch.object(F, "group_norm", in_fp32):
        yield
