"""What `describe` counts of a tokenizer: FLOPs against products counted by hand, bytes against what a real step keeps."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from momafuse.config.compose import compose_jobs
from momafuse.config.describe import DescribeTokenizer
from momafuse.errors import UserError
from momafuse.reports.memory import size
from momafuse.reports.tokenizer import WAYS, Subject, Values, describe_tokenizer, norms_of_cuda, step_forward
from momafuse.speech.autoencoder import SpeechAutoencoder
from momafuse.speech.training import frame_losses
from momafuse.vision.architectures import build
from momafuse.vision.config import VQConfig, VQGANArchitecture
from momafuse.vision.training import losses_of
from momafuse.vq.optimizer import split_parameters
from momafuse.vq.quantizer import build_quantizer

A = "tokenizer.architecture."
SMALL = f"""tokenizer=vqgan_64 {A}image_size=32 {A}codes=64 {A}code_dim=8 {A}multipliers=[1,2,2] {A}attention=[16] {A}z=16
trainer.global_batch=3"""
STARTER = f"tokenizer=starter_vq {A}codes=64 {A}encoder_channels=[8,16] {A}decoder_channels=[16,8,8] trainer.global_batch=3"
SPEECH = f"tokenizer=speech_vq {A}frame_channels=8 {A}code_channels=16 trainer.global_batch=3"


@cache
def config_of(words: str) -> DescribeTokenizer:
    return compose_jobs(words.split(), "describe_tokenizer", DescribeTokenizer)[0].config


@cache
def described(words: str) -> Values:
    return describe_tokenizer(config_of(words))


def conv(side: int, before: int, after: int, kernel: int = 3) -> int:
    """Multiply-adds of a convolution, two FLOPs each, edges counted as if there were pixels beyond."""
    return 2 * kernel * kernel * before * after * side * side


def residual(side: int, before: int, after: int) -> int:
    shortcut = conv(side, before, after, 1) if before != after else 0
    return conv(side, before, after) + conv(side, after, after) + shortcut


def attention(side: int, channels: int) -> int:
    scores_and_values = 2 * 2 * channels * side**4
    return 4 * conv(side, channels, channels, 1) + scores_and_values


def middle(side: int, channels: int) -> int:
    return 2 * residual(side, channels, channels) + attention(side, channels)


def encoder(a: VQGANArchitecture) -> int:
    side, width = a.image_size, a.base
    total = conv(side, 3, width)
    for level, multiplier in enumerate(a.multipliers):
        for _ in range(a.blocks):
            total += residual(side, width, a.base * multiplier)
            width = a.base * multiplier
            total += attention(side, width) if side in a.attention else 0
        if level < len(a.multipliers) - 1:
            side //= 2
            total += conv(side, width, width)
    return total + middle(side, width) + conv(side, width, a.z) + conv(side, a.z, a.code_dim, 1)


def decoder(a: VQGANArchitecture) -> int:
    side, width = a.image_size // a.reduction, a.base * a.multipliers[-1]
    total = conv(side, a.code_dim, a.z, 1) + conv(side, a.z, width) + middle(side, width)
    for level, multiplier in reversed(list(enumerate(a.multipliers))):
        for _ in range(a.blocks + 1):
            total += residual(side, width, a.base * multiplier)
            width = a.base * multiplier
            total += attention(side, width) if side in a.attention else 0
        if level > 0:
            side *= 2
            total += conv(side, width, width)
    return total + conv(side, width, 3)


def muon(kernels: list[Tensor]) -> int:
    """Five iterations of x x^T, of its square, and of a product with x, x being (r, c) with r <= c."""
    sides = [sorted((len(kernel), kernel[0].numel())) for kernel in kernels]
    return sum(5 * (2 * r * r * c + 2 * r * r * r + 2 * r * r * c) for r, c in sides)


@pytest.mark.parametrize("words", [SMALL, "tokenizer=vqgan_64", "tokenizer=vqgan_512 tokenizer.perceptual_weight=0"])
def test_flops_are_those_of_a_count_by_hand(words: str) -> None:
    config, flops = config_of(words), described(words)["flops"]
    assert isinstance(config.tokenizer, VQConfig)
    arch, batch = config.tokenizer.architecture, config.trainer.micro_batch
    nearest = 2 * (arch.image_size // arch.reduction) ** 2 * arch.codes * arch.code_dim
    assert flops["by_part"] == {"encoder": encoder(arch), "quantizer": nearest, "decoder": decoder(arch), "loss": 0}
    assert flops["encoding"] == encoder(arch) + nearest
    assert flops["decoding"] == decoder(arch)
    step = flops["step"]
    assert step["forward"] == batch * (flops["encoding"] + flops["decoding"])
    first = conv(arch.image_size, 3, arch.base)  # nobody asks for the gradient of the pictures
    assert step["backward"] == batch * (2 * encoder(arch) + 2 * decoder(arch) - first)
    with torch.device("meta"):
        assert step["optimizer"] == muon(split_parameters(build(arch))[0])
    assert step["total"] == step["forward"] + step["backward"] + step["optimizer"]


def test_the_network_that_judges_is_counted() -> None:
    plain = described(SMALL)["flops"]
    judged = described(f"{SMALL} tokenizer.perceptual_weight=0.1")["flops"]
    assert judged["by_part"]["loss"] > 0
    assert (judged["encoding"], judged["decoding"]) == (plain["encoding"], plain["decoding"])
    added = judged["by_part"]["loss"] * 3 / 2  # its gradients reach the reconstructions, and neither originals nor weights
    assert judged["step"]["backward"] - plain["step"]["backward"] == pytest.approx(added, rel=0.01)


@pytest.mark.parametrize("words", [SMALL, STARTER, SPEECH])
def test_parameters_are_those_of_the_model(words: str) -> None:
    config, found = config_of(words).tokenizer, described(words)["parameters"]
    model = model_of(config)
    codes = config.architecture.codes * config.architecture.code_dim
    assert found["by_part"]["quantizer"] == codes
    assert found["total"] == sum(found["by_part"].values()) == codes + sum(p.numel() for p in model.parameters())
    halves = {"encoder": ("encoder", "quant_conv"), "decoder": ("decoder", "post_quant_conv")}
    for part, modules in halves.items():
        owned = [m for name in modules if (m := getattr(model, name, None)) is not None]
        assert found["by_part"][part] == sum(p.numel() for m in owned for p in m.parameters())


def model_of(config: Any) -> Any:
    return SpeechAutoencoder(config.architecture) if config.kind == "speech_vq" else build(config.architecture)


def test_what_an_item_becomes() -> None:
    picture, excerpt = described(SMALL), described(SPEECH)
    assert picture["item"] == {"is": "picture", "shape": (3, 32, 32), "grid": (8, 8), "codes": 64, "bits": 64 * 6}
    assert excerpt["item"] == {
        "is": "excerpt",
        "shape": (80, 160),
        "grid": (40,),
        "codes": 40,
        "bits": pytest.approx(40 * math.log2(500)),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", [SMALL, STARTER, SPEECH])
def test_the_activations_are_what_a_real_step_keeps(words: str, way: str) -> None:
    """Every storage, once, that autograd keeps or that is held beside it during the backward; weights and codes left out.

    The tolerance is for the statistics of norms, two numbers a group: a CPU's are fp32 beside fp32 scales, the fake ones bf16.
    """
    config, (bf16, cuda) = config_of(words), WAYS[way]
    s = real(config)
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), norms_of_cuda() if cuda else nullcontext():
        loss, held = step_forward(s, lambda _: None, bf16=bf16)
    for t in tree_leaves((loss, held)):
        pack(t)
    for t in (*s.modules.parameters(), *s.modules.buffers()):
        kept.pop(t.untyped_storage().data_ptr(), None)
    assert described(words)["memory"]["ways"][way]["activations"] == pytest.approx(sum(kept.values()), rel=2e-3)


def real(job: DescribeTokenizer) -> Subject:
    config: Any = job.tokenizer
    quantizer, model = build_quantizer(config.architecture, config.quantizer), model_of(config)
    if config.kind == "speech_vq":
        return Subject("excerpt", (80, 4 * config.excerpt), (), job.trainer.micro_batch, model, quantizer, frame_losses)
    side = config.architecture.image_size
    return Subject("picture", (3, side, side), (), job.trainer.micro_batch, model, quantizer, losses_of(config))


@pytest.mark.parametrize("words", [SMALL, STARTER, SPEECH])
def test_state_is_that_of_the_optimizers(words: str) -> None:
    config, memory = config_of(words), described(words)["memory"]
    s = real(config)
    kernels, rest = split_parameters(s.modules)
    adam = torch.optim.Adam(rest)
    for p in rest:
        p.grad = torch.zeros_like(p)
    adam.step()
    moments = [t for state in adam.state.values() for t in state.values() if t.dim()]
    assert memory["optimizer"] == size(kernels) + size(moments)
    assert memory["weights"] == size([*s.modules.parameters(), *s.modules.buffers()])
    assert memory["gradients"] == memory["average"] == size(list(s.model.parameters())), "codes that follow have no gradient"
    for way in memory["ways"].values():
        assert way["activations"] == sum(way["by_part"].values())
        assert way["peak"] > memory["weights"] + memory["optimizer"] + memory["average"] + way["activations"]


@pytest.mark.parametrize(
    ("words", "learned"),
    [
        ("kind=learned tokenizer.quantizer.first=random", 64 * 8),
        ("kind=sim tokenizer.quantizer.first=random", 8 * 8),
        (f"kind=fsq tokenizer.quantizer.space=cube tokenizer.quantizer.levels=[8,8] {A}code_dim=2", 0),
        ("estimator=rotation", 0),
    ],
)
def test_every_quantizer(words: str, learned: int) -> None:
    words = f"{SMALL} tokenizer.quantizer.{words}"
    memory = described(words)["memory"]
    assert memory["gradients"] - memory["average"] == 4 * learned


def test_a_batch_is_twice_half_of_it() -> None:
    one, two = (described(f"{SMALL} trainer.global_batch={n}") for n in (3, 6))
    assert two["flops"]["by_part"] == one["flops"]["by_part"]
    assert two["flops"]["step"]["backward"] == 2 * one["flops"]["step"]["backward"]
    assert two["flops"]["step"]["optimizer"] == one["flops"]["step"]["optimizer"]
    kept = [d["memory"]["ways"]["fp32"]["activations"] for d in (one, two)]
    assert kept[1] == pytest.approx(2 * kept[0], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{SPEECH} tokenizer.excerpt=0", "tokenizer.excerpt=0: must be at least 1"),
        (f"{SMALL} {A}codes=0", "tokenizer.architecture.codes=0: must be at least 1"),
        (f"{SMALL} {A}image_size=0", "tokenizer.architecture.image_size=0: must be at least 1"),
        (f"{SMALL} {A}image_size=30", "image_size=30: must be a multiple of 4"),
        (f"{SMALL} {A}multipliers=[]", "multipliers=.* must be at least 1"),
        (f"{SMALL} tokenizer.quantizer.space=cube", "space=cube and levels are fsq's"),
        (f"{SMALL} {A}image_size=16 tokenizer.perceptual_weight=0.1", "perceptual_weight=0.1: .* at least 32 pixels"),
    ],
)
def test_what_cannot_be_trained_is_one_line(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe_tokenizer(config_of(words))
