"""torch.compile of each block: one graph, compiled once, equal to eager."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.parallel.compilation import apply_compile, compiles, is_compiled
from tests.batches import make_batch
from tests.kernels import documents
from tests.kernels.blocks import on_cpu
from tests.members import MEMBERS, mean_loss, member

STEPS = 20
# On a CPU the host reads how many rows an expert takes where rows choose, which no graph can.
LEAVE_SIZES = ("moe_token_choice", "moe_top2", "moe_loss_free", "limoe_router", "moma_threshold")
WHOLE = tuple(name for name in MEMBERS if name not in LEAVE_SIZES)
SOME = ("dense", "moe_8x", "moma_4t4i", "mod_moma_4t4i", "mot_text_moe4")  # the others are of the same kinds


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def train(model, steps: int, compiled: bool, documents: tuple[int, ...] = (2,)) -> list[float]:
    """Losses of plain gradient descent; once compiled, whatever would compile again fails."""
    losses = []
    for i in range(steps):
        with torch.compiler.set_stance("fail_on_recompile" if compiled and i else "default"):
            loss, _ = mean_loss(
                model, make_batch(4, (40, 24), seed=i, first_sequence=4 * i, documents=documents[i % len(documents)])
            )
            loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad = None
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", [pytest.param(m, marks=[] if m in SOME else pytest.mark.slow) for m in WHOLE])
def test_every_member_is_one_graph_compiled_once_and_equal(name):
    """`aot_eager` traces and differentiates as inductor does and runs torch's own kernels: equal to the last digit."""
    model = member(name)
    apply_compile(model, backend="aot_eager")
    losses = train(model, STEPS, compiled=True)
    assert not counters["graph_break"]
    kinds = {(type(b), b.experts.router is None) for b in model.blocks}
    assert counters["stats"]["unique_graphs"] == len(kinds), "layers of one kind share one graph"
    assert losses == train(member(name), STEPS, compiled=False)


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", ["moma_4t4i", "mot", "mod_moma_4t4i"])
def test_with_activation_checkpointing(name, mode):
    model = member(name)
    apply_activation_checkpointing(model, mode)
    apply_compile(model, backend="aot_eager")
    losses = train(model, 3, compiled=True)
    assert not counters["graph_break"]
    assert losses == train(member(name), 3, compiled=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
@pytest.mark.parametrize("name", WHOLE)
def test_inductor_is_eager_but_for_rounding(name):
    """Fused kernels add in another order: a few units in the last place of fp32, over three steps."""
    model = member(name)
    apply_compile(model)
    assert train(model, 3, compiled=True) == pytest.approx(train(member(name), 3, compiled=False), abs=1e-5)


@pytest.mark.parametrize(
    "words",
    [("dense",), ("mot", "model.attention.n_kv_heads=1"), ("mod_moma_4t4i",), ("mod_dense", "model.depth.per_modality=false")],
    ids=str,
)
def test_attention_in_blocks_is_part_of_the_graph(monkeypatch, words):
    """As on a GPU, where documents differ from batch to batch and nothing is compiled again."""
    on_cpu(monkeypatch, 16)
    model = member(*words)
    apply_compile(model, backend="aot_eager")
    losses = train(model, STEPS, compiled=True)
    assert not counters["graph_break"]
    monkeypatch.undo()
    assert losses[:3] == pytest.approx(train(member(*words), 3, compiled=False), abs=1e-5)  # later on near ties fall otherwise


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_attention_in_blocks_with_activation_checkpointing(monkeypatch, mode, compiled):
    on_cpu(monkeypatch, 16)
    model, plain = member("mod_moma_4t4i"), member("mod_moma_4t4i")
    apply_activation_checkpointing(model, mode)
    if compiled:
        apply_compile(model, backend="aot_eager")
    assert train(model, 3, compiled) == train(plain, 3, compiled=False)


@pytest.mark.parametrize(("name", "mode"), [("dense", "none"), ("mot", "selective"), ("mod_moma_4t4i", "full")])
def test_attention_by_documents_is_part_of_the_graph(monkeypatch, name, mode):
    """As on a GPU in 16 bits: one graph for any number of documents, and the losses of attention by pairs."""
    numbers = (2, 5, 1, 3)
    plain = train(member(name), 4, compiled=False, documents=numbers)
    documents.on_cpu(monkeypatch)
    assert train(member(name), 4, compiled=False, documents=numbers) == pytest.approx(plain, abs=1e-5)
    model = member(name)
    apply_activation_checkpointing(model, mode)
    apply_compile(model, backend="aot_eager")
    losses = train(model, 2 * len(numbers), compiled=True, documents=numbers)
    assert not counters["graph_break"]
    assert losses[:4] == pytest.approx(plain, abs=1e-5)


def test_depth_over_the_pool_compiles_where_one_network_serves_all():
    model = member("mod_dense", "model.depth.per_modality=false")
    apply_compile(model, backend="aot_eager")
    assert train(model, 3, compiled=True) == train(member("mod_dense", "model.depth.per_modality=false"), 3, compiled=False)


def test_what_only_the_device_knows_is_refused():
    with pytest.raises(UserError, match=r"trainer\.compile=true: .*per_modality"):
        apply_compile(member("mod_moma_4t4i", "model.depth.per_modality=false"))


@pytest.mark.parametrize("name", LEAVE_SIZES)
def test_rows_that_choose_are_refused_on_a_cpu(name):
    model = member(name)
    with pytest.raises(UserError, match=rf"trainer\.compile=true: with router\.kind={model.router.kind} only the device knows"):
        apply_compile(model)


@pytest.mark.parametrize("name", LEAVE_SIZES)
def test_rows_that_choose_are_one_graph_where_kernels_leave_sizes_on_the_device(name):
    """In Triton's interpreter. Thresholds that let some rows through."""
    words = (name, "model.n_layers=1", "model.dim=32", "model.ffn=24", "trainer.backend=triton")

    def stateful():
        model = member(*words)
        for router in model.routers():
            if router.state is not None:
                router.state.write(torch.linspace(-0.1, 0.1, router.n_routed))
        return model

    model = stateful()
    apply_compile(model, backend="aot_eager", ragged=True)
    losses = train(model, 1, compiled=True)
    assert not counters["graph_break"]
    assert losses == train(stateful(), 1, compiled=False)


@pytest.mark.parametrize("mode", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_kernels_of_our_own_leave_counts_on_the_device(mode):
    """In Triton's interpreter: one graph, also where only the device knows how many rows an expert takes."""
    words = ("mod_moma_4t4i", "model.depth.per_modality=false", "model.n_layers=1", "trainer.backend=triton")
    model = member(*words)
    apply_activation_checkpointing(model, mode)
    apply_compile(model, backend="aot_eager", ragged=True)
    losses = train(model, 1, compiled=True)
    assert not counters["graph_break"]
    assert losses == train(member(*words), 1, compiled=False)


@pytest.mark.parametrize("name", ["dense", "moma_4t4i", "mod_moma_4t4i"])
def test_an_evaluation_compiles_once_and_training_not_again(name):
    model = member(name)
    apply_compile(model, backend="aot_eager")
    kinds = len({(type(b), b.experts.router is None) for b in model.blocks})

    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            mean_loss(model, make_batch(4, (40, 24), seed=9))
        model.train()

    train(model, 1, compiled=True)
    evaluate()
    assert counters["stats"]["unique_graphs"] == 2 * kinds, "one with gradients, one without"
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(2):
            train(model, 1, compiled=False)
            evaluate()


CUDA, CPU = torch.device("cuda"), torch.device("cpu")
RAGGED = ("+experiment=mod_moma_4t4i", "model.depth.per_modality=false")


@pytest.mark.parametrize(
    ("words", "device", "ragged", "expected"),
    [
        ([], CUDA, True, True),
        ([], CPU, False, False),
        (["trainer.compile=true"], CPU, False, True),
        (["trainer.compile=false"], CUDA, True, False),
        (RAGGED, CUDA, True, True),
        (RAGGED, CUDA, False, False),
        (["+experiment=moma_threshold"], CUDA, True, True),
        (["+experiment=moe_top2"], CUDA, False, False),
        (["upcycle=x", "upcycling.capacity_steps=5"], CUDA, True, False),
        (["+experiment=mod_dense", "model.depth.per_modality=false"], CUDA, False, True),
    ],
    ids=str,
)
def test_auto_compiles_on_a_gpu_what_is_one_graph(words, device, ragged, expected):
    config = compose(["size=micro", "data.image_share=0.5", *words]).config
    name = next((w.removeprefix("+experiment=") for w in words if w.startswith("+")), "moma_4t4i")
    model = member(name, *(w for w in words if w.startswith("model.")))
    assert compiles(config, model, device, ragged=ragged) is expected
    assert not is_compiled(model)
