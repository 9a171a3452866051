"""SmolLM2's rows of `train_step.py`: a 10-layer student trained from a teacher cache.

The student has the sizes of SmolLM2-135M and a third of its layers; the cache holds 16 tokens of
the teacher and the tail (for CAT-Dist), or one bit (for CAT-Xent). A row is an input and a target
without padding, and logits are made of the target alone, by torch too. torch's row is
`transformers.LlamaForCausalLM` with the same facts and transformers' Adafactor. The last row is the
program of `cache-teacher`: SmolLM2-135M reads a batch and keeps its 16 likeliest tokens.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from cascade_jax.batch import Batch
from cascade_jax.losses import teachers, variants
from cascade_jax.models import families, flops
from cascade_jax.models.config import DecoderConfig
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import state as state_lib
from cascade_jax.teacher_cache.batches import CachedTeacherBatch
from cascade_jax.teacher_cache.facts import make_facts_fn
from cascade_jax.teacher_cache.format import Holding
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from tests.benchmarks import step_timing

TEACHER = DecoderConfig(
    vocab_size=49152, embed_dim=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
    mlp_dim=1536, norm_epsilon=1e-5, rope_theta=100_000.0,
)  # fmt: skip
STUDENT = dataclasses.replace(TEACHER, num_layers=10)
TOP_K = 16
LOSSES = {"step, CAT-Dist": variants.CATDist(), "step, CAT-Xent": variants.CATXent()}
CACHE = "cache-teacher"
LIMITS = dict.fromkeys(LOSSES, {"torch": 0.5, "matmuls": 1.3}) | {CACHE: {"matmuls": 1.2}}


def make_facts(targets: np.ndarray) -> teachers.TeacherTopK:
    """Facts of a teacher that is right on half of the tokens."""
    rng, shape = np.random.default_rng(1), targets.shape
    starts = rng.integers(0, STUDENT.vocab_size, (*shape, 1))
    steps = np.arange(TOP_K) * (STUDENT.vocab_size // TOP_K)
    ids = ((starts + steps) % STUDENT.vocab_size).astype(np.uint16)
    log_probs = np.full((*shape, TOP_K), np.log(0.9 / TOP_K), np.float32)
    tail = np.full(shape, np.log(0.1), np.float32)
    return teachers.TeacherTopK(log_probs, ids, rng.random(shape) < 0.5, tail)


def our_step(loss: variants.Loss, batch: Batch) -> Callable[[], None]:
    """One step as `cascade-jax train` does it, on one device."""
    mesh, optimizer = MeshConfig().build(jax.devices()[:1]), Adafactor(learning_rate=1e-3)
    student = families.build(STUDENT)
    abstract = state_lib.abstract_state(student, optimizer.build(), mesh)
    step = step_lib.make_train_step(
        step_lib.make_loss_fn(student, None, loss, mesh=mesh),
        optimizer.build(),
        optimizer.learning_rate_schedule(),
        jax.tree.map(lambda leaf: leaf.sharding, abstract),
        mesh,
    )
    facts = make_facts(batch.targets)
    if loss.teacher_need == "correctness":
        facts = teachers.TeacherArgmax(facts.label_is_best)
    arguments = None, jax.device_put(CachedTeacherBatch(batch, facts)), jax.random.key(0)
    held = [state_lib.initialize(student, optimizer.build(), jax.random.key(0), abstract)]

    def run():
        held[0], _ = step(held[0], *arguments)
        jax.block_until_ready(held)

    return run


def torch_step(loss: variants.Loss, batch: Batch) -> Callable[[], None]:
    """The same by `transformers` and torch, with two threads."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=STUDENT.vocab_size,
            hidden_size=STUDENT.embed_dim,
            intermediate_size=STUDENT.mlp_dim,
            num_hidden_layers=STUDENT.num_layers,
            num_attention_heads=STUDENT.num_heads,
            num_key_value_heads=STUDENT.num_kv_heads,
            head_dim=STUDENT.head_dim,
            rms_norm_eps=STUDENT.norm_epsilon,
            rope_theta=STUDENT.rope_theta,
            tie_word_embeddings=True,
        )
    ).train()
    optimizer = transformers.Adafactor(model.parameters(), lr=1e-3, relative_step=False)
    facts = make_facts(batch.targets)
    starts = np.zeros((len(batch.targets), 1), np.int32)
    rows = np.concatenate([starts, batch.inputs, batch.targets[:, :-1]], axis=1)
    rows, targets, ids = (
        torch.tensor(x.astype(np.int64)) for x in (rows, batch.targets, facts.ids)
    )
    theirs = torch.tensor(np.exp(np.append(facts.log_probs, facts.log_tail[..., None], axis=-1)))
    teacher_ok = torch.tensor(facts.label_is_best)

    def run():
        logits = model(rows, use_cache=False, logits_to_keep=targets.shape[1]).logits
        log_p = torch.log_softmax(logits, -1)
        picked = log_p.gather(-1, targets[..., None])[..., 0]
        with torch.no_grad():
            kept = teacher_ok | (picked >= log_p.amax(-1))
        loss_of_each = -picked
        if isinstance(loss, variants.CATDist):
            log_s = log_p.gather(-1, ids)
            tail = torch.log1p(-log_s.exp().sum(-1, keepdim=True))
            soft = -(theirs * torch.cat([log_s, tail], -1)).sum(-1)
            loss_of_each = loss.label_weight * loss_of_each + (1 - loss.label_weight) * soft
        optimizer.zero_grad()
        (kept * loss_of_each).mean().backward()
        optimizer.step()

    return run


def cache_teacher(batch: Batch) -> Callable[[], None]:
    """What `cascade-jax cache-teacher` runs on a batch."""
    mesh, teacher = MeshConfig().build(jax.devices()[:1]), families.build(TEACHER)
    params = jax.jit(lambda key: families.initialize(teacher, key))(jax.random.key(1))
    facts_fn = make_facts_fn(teacher, Holding(TEACHER.vocab_size, TOP_K), mesh)
    batch = jax.device_put(batch)
    return lambda: jax.block_until_ready(facts_fn(params, batch))


def table(arguments, rows: list[str]) -> bool:
    """Prints the rows; whether ours are within their limits."""
    batch = step_timing.make_batch(
        STUDENT.vocab_size, arguments.batch, arguments.input_length, arguments.target_length
    )
    lengths = arguments.input_length, arguments.target_length
    steps = {"ours": our_step, "torch": torch_step}
    step_flops = arguments.batch * flops.training_flops(STUDENT, *lengths)
    works = {
        name: (step_flops, {row: functools.partial(steps[row], loss, batch) for row in rows})
        for name, loss in LOSSES.items()
    }
    works[CACHE] = (
        arguments.batch * flops.forward_flops(TEACHER, *lengths),
        {"ours": functools.partial(cache_teacher, batch)},
    )
    one = arguments.batch * sum(lengths), STUDENT.embed_dim, STUDENT.mlp_dim
    return step_timing.print_table(works, LIMITS, one, arguments.repetitions)
