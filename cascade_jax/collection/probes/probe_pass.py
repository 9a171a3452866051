"""Measures columns for scores: one teacher-forced pass over inputs and the model's own answers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cascade_jax import numerics
from cascade_jax.batch import Batch
from cascade_jax.collection.answers import Answers
from cascade_jax.collection.probes.base import LOGITS, STATES, PassProbe, Probe, Seen
from cascade_jax.collection.probes.sample_states import LastState, SampleStates, eigenvalues
from cascade_jax.collection.probes.surface_forms import SurfaceForms, log_shares
from cascade_jax.collection.questions import (
    Questions,
    filled,
    grouped,
    grouped_batches,
    input_length,
    progress_bar,
    to_global,
    with_rules,
)
from cascade_jax.collection.samples import Samples
from cascade_jax.inference import places
from cascade_jax.models import families, flops
from cascade_jax.models import probe as model_probe
from cascade_jax.parallel import hosts
from cascade_jax.records import schema
from cascade_jax.runs.saved_model import LoadedModel

_PER_TOKEN = {
    column.name
    for column in schema.COLUMNS
    if column.shape in (schema.PER_TOKEN, schema.LAYERS_PER_TOKEN)
}
_NUMBERS = {column.name for column in schema.COLUMNS if column.shape == schema.ONE}


def check(probes: Sequence[Probe], model: families.ModelConfig, top_k: int, samples: int) -> None:
    """Refuses probes that can't be measured of a model; arguments as in `Probe.check`.

    Raises:
      ValueError: two probes of one kind, a layer that the model does not have, too few top
        log-probs or samples.
    """
    kinds = [type(probe).__name__ for probe in probes]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"probes has {kind} {kinds.count(kind)} times; must be once at most")
    for probe in probes:
        probe.check(model, top_k, samples)


def measure(
    model: LoadedModel,
    questions: Questions,
    answers: Answers,
    probes: Sequence[Probe],
    samples: Samples | None = None,
) -> dict[str, Any]:
    """Columns of records by name, those of the probes and the FLOPs that they took.

    Rows are in the examples' order. `probe_flops` are of the pass over the answers, which its
    probes share, `sample_state_flops` of that over the samples.

    Args:
      model: what answered.
      questions: what was asked.
      answers: what it answered.
      probes: what to measure; only what they read is computed.
      samples: what it answered besides, for the probes that need it.
    """
    in_pass = tuple(probe for probe in probes if isinstance(probe, PassProbe))
    columns: dict[str, Any] = {}
    if any(isinstance(probe, SurfaceForms) for probe in probes):
        parts = answers.tokens, answers.log_probs, answers.top_ids, answers.top_log_probs
        columns["surface_log_probs"] = list(log_shares(*parts, questions.piece_of))
    for probe in probes:
        each = functools.cache(functools.partial(probe.input_columns, model.module.config))
        by_example = [each(input_length(example)) for example in questions.examples]
        for name in by_example[0] if by_example else ():
            columns[name] = [values[name] for values in by_example]
    if not probes:
        return columns
    spent = columns["probe_flops"] = np.zeros(len(answers.tokens))
    if in_pass:
        made, spent = _run_pass(model, questions, answers.tokens, in_pass)
        columns |= made | {"probe_flops": spent}
    for probe in probes:
        if isinstance(probe, SampleStates):
            values, more = _eigenvalues(model, questions, samples, probe)
            columns |= {"sample_state_eigenvalues": values, "sample_state_flops": more}
            spent = spent + more
    share = np.sum(spent) / max(np.sum(answers.flops), 1.0)
    hosts.print_once(
        f"{model.name} probes: {np.mean(spent) if len(spent) else 0:.3g} FLOPs for each answer, "
        f"{share:.2f} of what answering takes"
    )
    return columns


def _eigenvalues(
    model: LoadedModel, questions: Questions, samples: Samples, probe: SampleStates
) -> tuple[list[np.ndarray], Float[np.ndarray, " n"]]:
    """The column of SampleStates, and the FLOPs that it took for each example."""
    counts = list(map(len, samples.sample_tokens))
    ends = np.cumsum(counts)[:-1]
    repeated = [e for e, n in zip(questions.examples, counts, strict=True) for _ in range(n)]
    tokens = [ids for each in samples.sample_tokens for ids in each]
    asked = dataclasses.replace(questions, examples=repeated)
    made, spent = _run_pass(model, asked, tokens, (LastState(probe.layer),))
    states = np.split(np.array(made["last_state"]), ends)
    return list(map(eigenvalues, states)), np.array([part.sum() for part in np.split(spent, ends)])


def _run_pass(
    model: LoadedModel,
    questions: Questions,
    tokens: Sequence[Int[np.ndarray, " _"]],
    probes: tuple[PassProbe, ...],
) -> tuple[dict[str, Any], Float[np.ndarray, " n"]]:
    """Columns of an answer to each example, and the FLOPs that each took."""
    lengths = zip(map(input_length, questions.examples), map(len, tokens), strict=True)
    each = functools.cache(functools.partial(_flops, model.module.config, probes))
    spent = np.array([each(*sizes) for sizes in lengths], np.float64)
    return _pass_columns(model, questions, tokens, probes), spent


def _flops(
    config: families.ModelConfig, probes: tuple[PassProbe, ...], input_size: int, answer_size: int
) -> int:
    count = families.answer_layers(config)
    layers = {layer for probe in probes for layer in probe.attention_layers(count)}
    # A scan computes what it computes in every layer.
    read = count if layers and config.scan_layers else len(layers)
    has_logits = any(LOGITS in probe.reads for probe in probes)
    return flops.probe_flops(config, input_size, answer_size, has_logits, read)


def _pass_columns(
    model: LoadedModel,
    questions: Questions,
    tokens: Sequence[Int[np.ndarray, " _"]],
    probes: tuple[PassProbe, ...],
) -> dict[str, list[np.ndarray]]:
    """What the probes measure of each answer: values of its tokens, or of the whole."""
    lengths = np.array(list(map(len, tokens)), np.int32)
    limit = max(questions.data.target_length, int(lengths.max(initial=0)))
    padded = np.zeros((len(tokens), limit), np.int32)
    for row, ids in enumerate(tokens):
        padded[row, : len(ids)] = ids

    def arguments(inputs, group):
        rows = filled(group)
        batch = padded[rows, : group.shape[1]], lengths[rows]
        return model.params, inputs, *to_global(batch, questions)

    fn = with_rules(make_probe_fn(model.module, probes, questions.mixture.eos_id), model.rules)
    groups = grouped(questions, range(len(tokens)), lengths.tolist(), limit)
    columns: dict[str, list] = {}
    with progress_bar(f"{model.name} probes", len(tokens)) as bar:
        for group, made, _ in grouped_batches(fn, arguments, questions, groups, bar):
            for name, values in made.items():
                column = columns.setdefault(name, [None] * len(tokens))
                for place, row in enumerate(group.rows):
                    # A copy: what is cut out of an array keeps all of it.
                    value = values[place]
                    is_of_tokens = name in _PER_TOKEN
                    column[row] = np.array(value[: lengths[row]] if is_of_tokens else value)
    return {name: np.stack(v) if name in _NUMBERS else v for name, v in columns.items()}


@functools.lru_cache(maxsize=32)
def make_probe_fn(
    model: families.Model,
    probes: tuple[PassProbe, ...],
    eos_id: int,
    logits_at_once: int = places.LOGITS_AT_ONCE,
) -> Callable[..., Mapping[str, Array]]:
    """A jitted `(params, inputs, answers, lengths) -> columns`, compiled once for each shape.

    Inputs [B S] and answers [B L] are padded with 0 at the end, lengths [B] are those of answers.

    Args:
      model: an unbound module.
      probes: what is measured.
      eos_id: of the token that ends an answer.
      logits_at_once: the most logits held at a time, though at least those of one place of all
        rows.
    """
    vocab_size, count = model.config.vocab_size, families.answer_layers(model.config)
    has_attention = any(probe.attention_layers(count) for probe in probes)
    has_states = any(STATES in probe.reads for probe in probes)

    @jax.jit
    def probe_fn(params, inputs, answers, lengths):
        is_token = jnp.arange(answers.shape[1])[None] < lengths[:, None]
        shifted = jnp.pad(answers[:, :-1], ((0, 0), (1, 0)))
        batch = Batch(inputs, shifted, answers, is_token.astype(jnp.float32))
        layers = model_probe.Measured()
        if has_attention or has_states:
            distances = (0,) if has_attention else ()
            asked = model_probe.Probe(is_token, distances=distances, states=has_states)
            hidden, layers = families.probed(model, params, batch, asked)
        else:
            hidden = families.hidden(model, params, batch)

        def on_log_probs(fn: Callable[[Float[Array, "B P V"]], Any]) -> Any:
            def part(hidden, _):
                logits = model.apply({"params": params}, hidden, method="unembed")
                return fn(numerics.log_probs(logits))

            labels = is_token.astype(jnp.int32)
            return places.measure(part, hidden, labels, vocab_size, logits_at_once)

        attention = None if layers.attention is None else layers.attention[..., 0]
        seen = Seen(
            answers, is_token, eos_id, vocab_size, hidden, attention, layers.states, on_log_probs
        )
        columns = {}
        for probe in probes:
            columns |= probe.measure(seen)
        return columns

    return probe_fn
