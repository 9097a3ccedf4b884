"""Chooses the next id from logits.

    p = softmax((log p(x | prompt) allowed) / temperature), cut to top_k, then to top_p, then to min_p of the largest
    guidance: z = z_without + g (z_with - z_without)                     (classifier-free guidance, arXiv 2207.12598)
    top_p: the fewest ids whose probabilities sum to it (1904.09751);   min_p: those above it times the largest (2407.01082)

A draw is the largest of p's logarithms with Gumbel noise, from a generator of the sequence's own: what a prompt gives does not
hang on its company. Shape legend: B sequences, V ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the most likely id; `top_k` 0, `top_p` 1 and `min_p` 0 cut nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float = 1.0  # of items; 1: none
    seed: int = 0


def generator(seed: int, prompt: str, copy: int) -> torch.Generator:
    """The same for a prompt's n-th sample, whatever is sampled beside it."""
    key = hashlib.sha256(f"{seed}:{copy}:{prompt}".encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:7]))


def guided(logits: Tensor, without: Tensor, guidance: float) -> Tensor:
    """logits (B, V) behind prompts and behind none -> (B, V) log-probabilities, not normalised."""
    with_, free = logits.log_softmax(-1), without.log_softmax(-1)
    return free + guidance * (with_ - free)


def cut(logits: Tensor, s: Sampling) -> Tensor:
    """logits (B, V), -inf where not allowed -> the same over the temperature, -inf where cut. Equal logits are cut alike
    but by top_k and top_p, which keep those of lower ids."""
    if s.temperature:
        logits = logits / s.temperature
    order = logits.argsort(dim=-1, descending=True, stable=True)
    p = logits.softmax(-1).gather(-1, order)
    keep = torch.ones_like(p, dtype=torch.bool)
    if s.top_k:
        keep[:, s.top_k :] = False
        p = p * keep / (p * keep).sum(-1, keepdim=True)
    if s.top_p < 1:
        keep &= p.cumsum(-1) - p < s.top_p  # the first is always kept
    keep &= p >= s.min_p * p[:, :1]
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, order, keep), float("-inf"))


def choose(logits: Tensor, allowed: Tensor, s: Sampling, generators: list[torch.Generator]) -> Tensor:
    """logits and allowed (B, V), a generator for each sequence -> (B,) ids."""
    logits = logits.float().masked_fill(~allowed, float("-inf"))
    if not s.temperature:
        return logits.argmax(-1)
    logits = cut(logits, s)
    draws = torch.stack([torch.empty(logits.shape[1]).exponential_(generator=g) for g in generators])
    return (logits - draws.log().to(logits.device)).argmax(-1)
