"""Memory of a step on fake tensors: the same as of a real step, to the byte, and close to what the process really takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.budget import modality_budget
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.precision import working
from momafuse.reports.memory import LiveBytes, Memory, fused_rms_norm, kernels_of_a_gpu, measure, size
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.fake import fake_forward, fake_model
from momafuse.training.losses import LossMeter, modality_table, objective
from momafuse.training.optimizer import build_optimizer
from tests.batches import make_batch

VOCABULARY = Vocabulary.build(500, image=(512, 64))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = ("dense", "moe_1t1i", "moe_8x", "moma_4t4i", "mot", "mot_text_moe4", "mod_dense", "mod_moma_4t4i")
MIB = 2**20


@cache
def configured(*words: str) -> Config:
    defaults = ["trainer.device=cpu", "trainer.precision=fp32", *([] if "size=nano" in words else ["size=micro"])]
    return compose([*defaults, *words]).config


def dtype_of(config: Config) -> torch.dtype:
    return DTYPES[config.trainer.precision]


def budget_of(config: Config) -> tuple[int, ...]:
    return modality_budget(config.data, VOCABULARY, config.model.groups(VOCABULARY.names))


def fake(config: Config, *, on_gpu: bool = False) -> Memory:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(config, VOCABULARY, dtype_of(config))
        return measure(
            model,
            lambda model: fake_forward(config, VOCABULARY, budget_of(config), model),
            working(model, dtype_of(config)),
            accumulates=config.trainer.global_batch > config.trainer.micro_batch,
            on_gpu=on_gpu,
        )


def real_batch(config: Config) -> Batch:
    """Its tensors are made by ops, so that they are seen; of documents it lists as many as the fake one."""
    batch = make_batch(config.trainer.micro_batch, budget_of(config), VOCABULARY.size, documents=3)
    batch = replace(batch, begins=batch.begins[: config.trainer.micro_batch + 1])
    return replace(batch, **{name: t.clone() for name, t in vars(batch).items() if isinstance(t, Tensor)})


def real_forward(config: Config, model: Transformer) -> tuple[Tensor, Any]:
    batch = real_batch(config)
    meter = LossMeter(VOCABULARY.names, modality_table(VOCABULARY, torch.device("cpu")))
    loss, decisions = model(batch, objective(batch, meter, config.objective, 1))
    return loss.total, (batch, meter, loss, decisions)


def real_model(config: Config) -> Transformer:
    model = fake_model(config, VOCABULARY, dtype_of(config))
    initialise(model, 0)
    return model


def real(config: Config) -> Memory:
    accumulates = config.trainer.global_batch > config.trainer.micro_batch
    model = real_model(config)
    forward = partial(real_forward, config)
    return measure(model, forward, working(model, dtype_of(config)), accumulates=accumulates, on_gpu=False)


@pytest.mark.parametrize("experiment", KINDS)
def test_a_fake_step_takes_what_a_real_one_takes(experiment: str) -> None:
    config = configured(f"+experiment={experiment}", "trainer.precision=bf16")
    assert fake(config) == real(config)


@pytest.mark.parametrize(
    "words",
    [
        ("+experiment=mod_moma_4t4i", "trainer.precision=fp32"),
        ("+experiment=mod_moma_4t4i", "trainer.activation_checkpointing=full"),
        ("+experiment=mot_text_moe4", "trainer.activation_checkpointing=selective"),
        ("+experiment=moma_4t4i", "trainer.global_batch=8", "model.placement=pre", "model.dropout=0.1"),
        ("+experiment=moe_8x", "optim.train=['*.experts.*']", "model.attention.document_mask=false"),
        ("+experiment=mod_dense", "model.depth.per_modality=false"),
    ],
)
def test_so_it_does_with_options(words: tuple[str, ...]) -> None:
    config = configured("trainer.precision=bf16", *words)
    assert fake(config) == real(config)


@pytest.mark.parametrize("experiment", ["dense", "mod_moma_4t4i", "mot"])
def test_the_activations_are_what_autograd_saves(experiment: str) -> None:
    """Every storage once, weights and the batch left out; beside them only plans, the mask and sums of the loss are alive."""
    config = configured(f"+experiment={experiment}", "trainer.precision=bf16", "model.n_layers=6")
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    model = real_model(config)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss, (batch, *_) = real_forward(config, model)
    assert loss.requires_grad
    given = [*model.parameters(), *(t for t in vars(batch).values() if isinstance(t, Tensor))]
    for t in given:
        saved.pop(t.untyped_storage().data_ptr(), None)
    total = sum(storage.nbytes() for storage in saved.values())
    activations = fake(config).activations
    assert activations is not None
    counted = sum(n for part, n in activations.items() if part != "inputs")
    assert total <= counted <= 1.03 * total


def test_copies_of_weights_are_those_of_the_products() -> None:
    """In bf16 every matrix and scale has a copy of half its size, but the router's, which stays fp32; in fp32 there is none.
    The embedding is looked up."""
    config = configured("+experiment=moma_4t4i", "trainer.precision=bf16")
    copied = [p for path, p in real_model(config).named_parameters() if not path.startswith("embedding")]
    copied = [p for p in copied if p.shape[-1] != 32 or p.dim() != 2 or p.shape[0] != 4]
    for precision, expected in (("bf16", size(copied) // 2), ("fp32", 0)):
        activations = fake(configured("+experiment=moma_4t4i", f"trainer.precision={precision}")).activations
        assert activations is not None
        assert activations["weight_copies"] == expected


def test_the_head_keeps_the_gradients_of_its_forward() -> None:
    """d hidden and d head in the dtype of the rows; beside them some numbers a row (of the last norm and of the loss)."""
    rows, dim, ids = 4 * 256, 32, VOCABULARY.size
    activations = fake(configured("+experiment=dense", "trainer.precision=bf16"), on_gpu=True).activations
    assert activations is not None
    assert 0 < activations["head_and_loss"] - 2 * (rows * dim + ids * dim) < 16 * rows


def test_checkpointing_keeps_less_and_computes_one_block_again() -> None:
    def memory(mode: str, layers: int) -> Memory:
        words = [f"trainer.activation_checkpointing={mode}", f"model.n_layers={layers}", "trainer.precision=fp32"]
        return fake(configured("+experiment=dense", *words))

    def blocks(mode: str, layers: int) -> int:
        activations = memory(mode, layers).activations
        assert activations is not None
        return activations["blocks"]

    of_one = {mode: blocks(mode, 3) - blocks(mode, 2) for mode in ("none", "selective", "full")}
    row = 4 * 32
    rows = 4 * 256
    assert of_one["full"] == rows * row  # its input
    assert of_one["selective"] == rows * (
        row * (1 + 3 + 1 + 1) + 2 * 4
    )  # and q k v, attention, projection; log-sum-exp, 2 heads
    assert of_one["none"] > 3 * of_one["selective"]


def test_gradients_and_optimizer_state() -> None:
    config = configured("+experiment=moma_2t2i", "optim.train=['*.experts.*', '*norm*']")
    model = real_model(config)
    optimizer = build_optimizer(model, config.optim)
    real_forward(config, model)[0].backward()
    optimizer.step()
    memory = fake(config)
    assert memory.weights == size(list(model.parameters()))
    assert memory.gradients == size([p.grad for p in model.parameters() if p.grad is not None])
    state = [t for p in optimizer.state.values() for t in p.values() if t.dim()]
    assert memory.optimizer == size(state)


@pytest.mark.parametrize("words", [("model.depth.per_modality=false",), ("trainer.backend=reference",)])
def test_what_only_the_device_knows_is_not_known_before(words: tuple[str, ...]) -> None:
    memory = fake(configured("+experiment=mod_moma_4t4i", *words))
    assert memory.activations is None
    assert memory.peak is None
    assert memory.weights == fake(configured("+experiment=mod_moma_4t4i")).weights


def test_kernels_that_leave_counts_on_the_device_are_known_before() -> None:
    config = configured("+experiment=mod_moma_4t4i", "model.depth.per_modality=false", "trainer.backend=triton")
    memory = fake(config)
    assert memory.activations is not None
    assert memory.peak is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_fused_norm_has_the_shapes_of_the_real_one(dtype: torch.dtype, scaled: bool) -> None:
    x = torch.randn(2, 3, 4, 8, dtype=dtype).transpose(1, 2).requires_grad_()
    weight = torch.ones(8, dtype=dtype, requires_grad=True) if scaled else None
    kept: list[Tensor] = []
    ours = []
    for norm in (nn.functional.rms_norm, fused_rms_norm):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            kept.clear()
            y = norm(x, (8,), weight, 1e-5)
        grads = torch.autograd.grad(y.sum(), [t for t in (x, weight) if t is not None])
        ours.append([(t.shape, t.dtype) for t in (y, *grads)])
    assert ours[0] == ours[1]
    assert [t.shape for t in kept] == [x.shape, (2, 4, 3, 1), *([weight.shape] if scaled else [])]


def test_a_gpu_keeps_less_of_norms() -> None:
    config = configured("+experiment=dense", "trainer.precision=bf16")
    cpu, gpu = fake(config).activations, fake(config, on_gpu=True).activations
    assert cpu is not None
    assert gpu is not None
    assert gpu["blocks"] < cpu["blocks"]


def test_a_gpu_makes_many_logits_at_a_time_and_writes_their_gradient_over_them() -> None:
    """The logits of all rows in bf16, and nothing as large beside them."""
    rows, ids = 16_384, 1_020
    with FakeTensorMode(), LiveBytes() as live, kernels_of_a_gpu():
        hidden, head = (torch.empty(n, 8, dtype=torch.bfloat16, requires_grad=True) for n in (rows, ids))
        next_token(hidden, head, torch.empty(rows, dtype=torch.int64), torch.empty(rows), 1e-5)
    assert 0 < live.peak - 2 * rows * ids < 100 * rows


PROGRAM = """
import gc, json, sys
import torch
from momafuse.parallel.precision import working
from tests.reports.test_memory import configured, dtype_of, real_forward, real_model, resident_words

def resident(key):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(key))

def grown(precision, mode):
    config = configured(*resident_words(precision, mode))
    model = real_model(config)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(2):  # the first one loads libraries
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the highest mark begins anew
        before = resident("VmRSS")
        with working(model, dtype_of(config))():
            held = real_forward(config, model)
            after = resident("VmRSS")
            held[0].backward()
        peak = resident("VmHWM")
        del held
    return {"activations": after - before, "peak": peak - before}

torch.set_num_threads(1)
print(json.dumps({mode: grown(sys.argv[1], mode) for mode in sys.argv[2:]}))
"""


def resident_words(precision: str, mode: str) -> tuple[str, ...]:
    small = ("size=nano", "model.n_layers=2", "trainer.micro_batch=4", "trainer.global_batch=8")
    return ("+experiment=moma_4t4i", *small, f"trainer.precision={precision}", f"trainer.activation_checkpointing={mode}")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads what Linux says of a process")
@pytest.mark.parametrize("precision", DTYPES)
def test_a_process_grows_by_what_was_said(precision: str) -> None:
    """Resident memory of real forwards and backwards at size nano, where memory that is free is given back at once.

    Within 5 %, or 4 MiB, which small blocks that are used again make up.
    """
    malloc = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}
    top, modes = Path(__file__).parents[2], ("none", "full")
    command, environment = [sys.executable, "-c", PROGRAM, precision, *modes], os.environ | malloc | {"PYTHONPATH": str(top)}
    done = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, check=True)
    for mode, grown in json.loads(done.stdout).items():
        said = fake(configured(*resident_words(precision, mode)))
        assert said.activations is not None
        assert said.peak is not None
        peak = said.peak - said.weights - said.gradients - said.optimizer
        assert grown["activations"] == pytest.approx(sum(said.activations.values()), rel=0.05, abs=4 * MIB)
        assert grown["peak"] == pytest.approx(peak, rel=0.05, abs=4 * MIB)
