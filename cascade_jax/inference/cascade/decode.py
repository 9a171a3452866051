"""Live decoding of two models: the large one writes the tokens that the small one is unsure of.

Rows of a batch do not wait for each other at every token. A row that defers pauses while the small
model goes on with the others; when half of the running rows wait, one call of the large model
serves all that wait, and reads for each row what it has not read yet. So a batch needs few more
calls than the row that defers most.

Reference: Budget-Constrained Learning to Defer for Autoregressive Models, section 2.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import checks, numerics
from cascade_jax.inference.cascade import catch_up, rules
from cascade_jax.inference.cascade.steppers import Stepper, stepper_of
from cascade_jax.inference.generate import check_lengths
from cascade_jax.models import families
from cascade_jax.models.ragged import Ragged
from cascade_jax.names import check_choice


@flax.struct.dataclass
class CascadeGeneration:
    """Answers that two models wrote together; everything after a row's end of sequence is 0.

    Example: the answer "5 6" with end of sequence 1, whose second token the small model proposed
    as 9 and the large one wrote: ``tokens = [5 6 1 0]``, ``lengths = 3``,
    ``is_deferred = [0 1 0 0]``, ``proposals = [5 9 1 0]``.

    Attributes:
      tokens: ids, the end of sequence included.
      lengths: number of tokens, the end of sequence included; max_length for a row without one.
      is_deferred: True where the large model wrote the token.
      proposals: the small model's likeliest token after the same (mixed) prefix.
      log_probs: of the proposals under the small model, in nats.
      entropies: of the small model's next-token distributions, in nats.
      uncertainties: what was compared with the threshold: -log_probs, entropies, or chance.
      student_tokens: tokens that the small model read, for each of which it made logits.
      teacher_tokens: tokens that the large model read; 0 for a row that never deferred.
      student_steps: runs of the small model for the whole batch.
      calls: runs of the large model for the whole batch; each serves a row for one token.
      computed_tokens: tokens that the large model's runs computed, padding included.
    """

    tokens: Int[Array, "B L"]
    lengths: Int[Array, " B"]
    is_deferred: Bool[Array, "B L"]
    proposals: Int[Array, "B L"]
    log_probs: Float[Array, "B L"]
    entropies: Float[Array, "B L"]
    uncertainties: Float[Array, "B L"]
    student_tokens: Int[Array, " B"]
    teacher_tokens: Int[Array, " B"]
    student_steps: Int[Array, ""]
    calls: Int[Array, ""]
    computed_tokens: Int[Array, ""]

    @property
    def deferred(self) -> Int[Array, " B"]:
        """Tokens of each row that the large model wrote, in as many calls."""
        return self.is_deferred.sum(axis=1)


@flax.struct.dataclass
class _State:
    last: Int[Array, " B"]  # the small model's next input
    has_ended: Bool[Array, " B"]
    is_waiting: Bool[Array, " B"]  # for the large model's token
    answers: CascadeGeneration
    student: Any
    teacher: Any  # its first tokens [B] and its state


@functools.lru_cache(maxsize=32)
def make_cascade_decode_fn(
    student: families.Model | Stepper,
    teacher: families.Model | Stepper,
    max_length: int,
    eos_id: int,
    *,
    uncertainty: str = "log_prob",
    waiting_share: float = 0.75,
    is_packed: bool = True,
    least_chunk: int | None = None,
) -> Callable[[Any, Any, Int[Array, "B S"], Any], CascadeGeneration]:
    """A jitted `(student_params, teacher_params, inputs, thresholds) -> CascadeGeneration`.

    With s_j the small model's uncertainty about its likeliest token after the mixed prefix,

        token_j = small model's token if s_j <= threshold, else the large model's

    `thresholds` is one number, or one for each of some equal blocks of answer places; or such a row
    for each input, [B N]; or a rule of `rules.py`. -inf gives the large model's own greedy answers,
    inf the small one's: the large model does not even read the inputs. NaN uncertainties defer.
    It is compiled once for each shape of inputs, whatever the thresholds, eos_id, uncertainty and
    waiting_share.

    Args:
      student, teacher: unbound modules, or steppers, of one vocabulary.
      max_length: the most tokens that an answer may have, the end of sequence included.
      eos_id: id that ends a row.
      uncertainty: "log_prob" (minus the log-prob of the small model's token) or "entropy" (of its
        distribution), both in nats; or "random", a baseline: evenly from 0 to 1, and the same for
        an input and position every time.
      waiting_share: share of the running rows that must wait before the large model is called. 1
        makes the fewest calls, and most steps of the small model; 0 keeps rows in lock-step.
      is_packed: what waiting rows have to read is packed, row after row, and read in chunks.
        False: chunks have room for each row, waiting or not, for meshes that split the batch.
      least_chunk: tokens computed while the parameters are read; None: 256, and 4 on a CPU, where
        arithmetic soon takes longer than reading.

    Raises:
      ValueError: an argument is out of range, or the vocabularies differ. The returned function
        raises it for a threshold that is NaN, or more thresholds than places.

    Reference: Budget-Constrained Learning to Defer for Autoregressive Models, section 2.
    """
    if least_chunk is None:
        least_chunk = 4 if jax.default_backend() == "cpu" else 256
    setup = _Setup(stepper_of(student), stepper_of(teacher), max_length, is_packed, least_chunk)
    _check(setup, eos_id, uncertainty, waiting_share)
    kind = np.int32(rules.UNCERTAINTIES.index(uncertainty))
    others = np.int32(eos_id), np.float32(waiting_share)
    jitted = _jitted(setup)

    def arguments(student_params, teacher_params, inputs, thresholds):
        rule = rules.as_rule(thresholds, kind, len(inputs), max_length)
        return _Settings(rule, *others), student_params, teacher_params, inputs

    def cascade_decode_fn(student_params, teacher_params, inputs, thresholds):
        return jitted(*arguments(student_params, teacher_params, inputs, thresholds))

    cascade_decode_fn.lower = lambda *args: jitted.lower(*arguments(*args))
    return cascade_decode_fn


@dataclasses.dataclass(frozen=True)
class _Setup:
    """Static arguments: what is compiled."""

    student: Stepper
    teacher: Stepper
    max_length: int
    is_packed: bool
    least_chunk: int


@flax.struct.dataclass
class _Settings:
    """Traced arguments beside parameters and inputs."""

    rule: rules.DecodingRule
    eos_id: Int[Array, ""]
    waiting_share: Float[Array, ""]


@functools.lru_cache(maxsize=32)
def _jitted(setup):
    return jax.jit(functools.partial(_decode, setup))


def _check(setup, eos_id, uncertainty, waiting_share):
    sizes = setup.student.vocab_size, setup.teacher.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"student and teacher must share one vocabulary: the student's has {sizes[0]} ids, the "
            f"teacher's {sizes[1]}"
        )
    check_lengths(setup.max_length, eos_id, sizes[0])
    check_choice("uncertainty", uncertainty, rules.UNCERTAINTIES)
    is_share = 0 <= waiting_share <= 1
    checks.require(is_share, "waiting_share", waiting_share, "a number from 0 to 1")
    checks.whole_number("least_chunk", setup.least_chunk, 1)


def _decode(setup, settings, student_params, teacher_params, inputs):
    """The whole program; see `make_cascade_decode_fn`."""
    batch, length = inputs.shape[0], setup.max_length
    settings = settings.replace(rule=settings.rule.start(inputs))

    def start_teacher():
        return setup.teacher.start(teacher_params, inputs, length)

    first, student = setup.student.start(student_params, inputs, length)
    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(start_teacher)
    )
    state = _State(
        last=first,
        has_ended=jnp.zeros((batch,), bool),
        is_waiting=jnp.zeros((batch,), bool),
        answers=_no_answers(batch, length),
        student=student,
        teacher=None,
    )

    def with_student(state):
        return jax.lax.while_loop(
            functools.partial(_may_propose, settings),
            functools.partial(_propose, setup, settings, student_params),
            state,
        )

    # Inputs are read when the first row defers.
    state = with_student(state)
    has_deferred = jnp.any(state.is_waiting)
    state = state.replace(teacher=jax.lax.cond(has_deferred, start_teacher, lambda: blank))
    # From here on every round begins with rows that wait, or all have ended.
    state = jax.lax.while_loop(
        lambda state: ~jnp.all(state.has_ended),
        lambda state: with_student(_defer(setup, settings, teacher_params, state)),
        state,
    )
    return state.answers


def _no_answers(batch, length):
    return CascadeGeneration(
        **dict.fromkeys(("tokens", "proposals"), jnp.zeros((batch, length), jnp.int32)),
        **dict.fromkeys(
            ("log_probs", "entropies", "uncertainties"), jnp.zeros((batch, length), jnp.float32)
        ),
        is_deferred=jnp.zeros((batch, length), bool),
        **dict.fromkeys(
            ("lengths", "student_tokens", "teacher_tokens"), jnp.zeros((batch,), jnp.int32)
        ),
        **dict.fromkeys(("student_steps", "calls", "computed_tokens"), jnp.zeros((), jnp.int32)),
    )


def _may_propose(settings, state):
    """Whether a row can go on, and too few wait for the large model to be called."""
    running = jnp.sum(~state.has_ended)
    waiting = jnp.sum(state.is_waiting)
    # In whole rows: a share of 0 is one row, and 1 is all of them.
    needed = jnp.maximum(jnp.ceil(settings.waiting_share * running), 1)
    return (running > waiting) & (waiting < needed)


def _propose(setup, settings, params, state):
    """The small model proposes the next token of every row that neither waits nor has ended."""
    is_active = ~(state.has_ended | state.is_waiting)
    answers, batch = state.answers, len(state.last)
    position = answers.lengths
    where = Ragged.padded(position, is_active.astype(jnp.int32), width=1, length=setup.max_length)
    logits, student = setup.student.step(
        params, state.student, state.last[:, None], where, jnp.arange(batch)
    )
    proposal = rules.propose(logits, position)
    uncertainty = settings.rule.measure(proposal)
    defers = settings.rule.defers(uncertainty, position)

    def put(values, new):
        return _put(values, new, position, is_active)

    answers = answers.replace(
        proposals=put(answers.proposals, proposal.token),
        log_probs=put(answers.log_probs, proposal.log_prob),
        entropies=put(answers.entropies, proposal.entropy),
        uncertainties=put(answers.uncertainties, uncertainty),
        student_tokens=answers.student_tokens + is_active,
        student_steps=answers.student_steps + 1,
    )
    state = state.replace(
        answers=answers, student=student, is_waiting=state.is_waiting | (is_active & defers)
    )
    return _accept(settings, state, proposal.token, is_active & ~defers)


def _defer(setup, settings, params, state):
    """The large model reads what the waiting rows have and it has not, and writes their token."""
    answers = state.answers
    first, teacher = state.teacher
    inputs = jnp.concatenate([first[:, None], answers.tokens[:, :-1]], axis=1)
    starts = answers.teacher_tokens
    counts = jnp.where(state.is_waiting, answers.lengths + 1 - starts, 0)
    length = setup.max_length

    def read(chunk, carry):
        done, computed, chosen, teacher = carry
        taken = chunk.taken(counts - done)
        where = chunk.place(starts + done, taken, length)
        tokens = inputs[where.rows[:, None], jnp.minimum(where.places, length - 1)]
        last = jnp.maximum(where.first + taken - 1, 0)
        logits, teacher = setup.teacher.step(params, teacher, tokens, where, last)
        done = done + taken
        is_through = (done == counts) & (taken > 0)
        token = numerics.argmax(logits)
        return done, computed + chunk.size, jnp.where(is_through, token, chosen), teacher

    carry = jnp.zeros_like(starts), answers.computed_tokens, jnp.zeros_like(starts), teacher
    for chunk in catch_up.chunks(len(counts), length, setup.is_packed, setup.least_chunk):
        carry = jax.lax.while_loop(
            lambda carry, chunk=chunk: chunk.is_due(counts - carry[0]),
            functools.partial(read, chunk),
            carry,
        )
    _, computed, chosen, teacher = carry
    is_deferred = _put(answers.is_deferred, True, answers.lengths, state.is_waiting)
    answers = answers.replace(
        is_deferred=is_deferred,
        teacher_tokens=answers.teacher_tokens + counts,
        calls=answers.calls + 1,
        computed_tokens=computed,
    )
    waited = state.is_waiting
    state = state.replace(
        answers=answers, teacher=(first, teacher), is_waiting=jnp.zeros_like(waited)
    )
    return _accept(settings, state, chosen, waited)


def _accept(settings, state, chosen, takes):
    """Appends the chosen token to the rows that take it."""
    answers = state.answers
    has_ended = (chosen == settings.eos_id) | (answers.lengths + 1 == answers.tokens.shape[1])
    return state.replace(
        last=jnp.where(takes, chosen, state.last),
        has_ended=state.has_ended | (takes & has_ended),
        answers=answers.replace(
            tokens=_put(answers.tokens, chosen, answers.lengths, takes),
            lengths=answers.lengths + takes,
        ),
    )


def _put(values, new, position, where):
    """values [B L] with the rows' new ones at their positions, in the rows `where`."""
    is_here = (jnp.arange(values.shape[1])[None] == position[:, None]) & where[:, None]
    new = jnp.broadcast_to(jnp.asarray(new, values.dtype), position.shape)
    return jnp.where(is_here, new[:, None], values)
