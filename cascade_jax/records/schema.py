"""The columns and metadata of the records table.

`COLUMNS` is the one place that declares a column: writing, reading, checks, JSONL in both
directions and `cascade-jax collect` follow it. A new column is one row here, and the row of the
table in docs/records.md that tests/records_page_test.py then prints.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_jax.deferral.policy import PAIR
from cascade_jax.names import nearest_names

SCHEMA_VERSION = 2  # 1 is read as 2: it is always about PAIR
METADATA_KEY = "cascade_jax"
REQUIRED_METADATA = ("name", "mixture", "split")
CORPUS_METRICS, FIGURES, DECODING = "corpus_metrics", "figures", "decoding"  # optional, by task
MODELS = "models"  # names in order of cost
POLICY = "policy"  # optional: the certificate that the live cascade keeps to, as a dict
TOP_K = "top_k"  # optional: how many log-probs a token has in the columns of top log-probs
PROBES = "probes"  # optional: what was measured of the first model's answers for scores
STATE_LAYERS = (
    "state_layers"  # optional: the layers of the first model's states, end to end in a row
)
# What `collect` writes under "decoding".
GREEDY, RANK, TEACHER_FORCED = "greedy", "rank_classification", "teacher_forced"

# Whose answers a column is about. The last model never defers, so no score needs its columns.
EXAMPLE, EVERY_MODEL, DEFERRING_MODEL, LIVE = "example", "model", "deferring model", "cascade"
# What a column holds for each row.
ONE = "one"
PER_TOKEN = "one per token"
TOP_PER_TOKEN = "top_k per token"
LAYERS_PER_TOKEN = "one per layer of each token, as many in all rows"
VECTOR = "a vector, of one length in all rows"
COUNTS = "as many as the corpus metric has"
PER_SAMPLE = "one per sampled answer"
PER_SAMPLE_TOKEN = "one per token of each sampled answer"

# Log-softmax rounding can leave a log-prob a little above 0; a probability is far above.
_ROUNDING = 1e-3
MOST_PROBABILITY = 1.01  # of the likeliest tokens together, at a rounding to bfloat16


class RecordsError(ValueError):
    """A records file, or a set of them, that can not be used; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Which values a column may hold, as a function of arrays and in words."""

    is_allowed: Callable[[np.ndarray], np.ndarray]
    allowed: str


FINITE = Check(np.isfinite, "finite")
LOG_PROB = Check(
    lambda v: np.isfinite(v) & (v <= _ROUNDING),
    "finite and at most 0, the natural logarithm of a probability",
)
NOT_NEGATIVE = Check(lambda v: np.isfinite(v) & (v >= 0), "finite and 0 or more")
NATS = Check(lambda v: np.isfinite(v) & (v >= -_ROUNDING), "finite and 0 or more")
POSITIVE = Check(lambda v: np.isfinite(v) & (v > 0), "finite and positive")
COUNT = Check(lambda v: v >= 0, "0 or more")
IN_UNIT_INTERVAL = Check(lambda v: (v >= 0) & (v <= 1), "in [0, 1]")
FALLING = Check(  # of the values in each row of a 2-D array
    lambda v: np.pad(~(np.diff(v, axis=1) > 0), ((0, 0), (1, 0)), constant_values=True),
    "at most the one before it: a token's go down from the largest",
)
TOGETHER_ONE = Check(  # of the log-probs in each row of a 2-D array
    lambda v: np.pad(
        np.exp(v).sum(axis=1, keepdims=True) <= MOST_PROBABILITY,
        ((0, 0), (0, v.shape[1] - 1)),
        constant_values=True,
    ),
    "one of probabilities that add up to at most 1 at each token",
)


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: quick keys of caches
class Column:
    """One column, or one for each model.

    Attributes:
      name: in the table, after "<model>_" or "cascade_" where it is about answers. In JSONL it
        stands under this name in the object of its model.
      type: of Arrow.
      doc: what it holds.
      shape: what a row holds, ONE value by default.
      check: which values are allowed; None for all.
      owner: EXAMPLE, EVERY_MODEL, DEFERRING_MODEL (all but the last) or LIVE.
      is_required: whether every table has it. A required list other than the log-probs may be
        empty in all rows, if it is not known.
      needs: columns of the same owner without which it can not be there.
      is_shared: whether it is there for every model or for none; a LIVE column then needs those of
        the models.
      sets_lengths: whether its lists say how long the others of this shape and owner are.
      is_read_at_once: whether `read` reads and checks it; others when they are first used.
      is_for_scores: whether deferral scores get it, in `AnswerTokens.per_token` or `per_example`.
      collected: when `cascade-jax collect` writes it.
      used_by: what needs it.
    """

    name: str
    type: pa.DataType
    doc: str
    shape: str = ONE
    check: Check | None = None
    owner: str = EXAMPLE
    is_required: bool = False
    needs: tuple[str, ...] = ()
    is_shared: bool = False
    sets_lengths: bool = False
    is_read_at_once: bool = False
    is_for_scores: bool = False
    collected: str = "always"
    used_by: str = ""

    @functools.cached_property
    def value_type(self) -> pa.DataType:
        """The type of its values, also of those of lists."""
        return innermost(self.type)

    @functools.cached_property
    def depth(self) -> int:
        """0 for values, 1 for lists, 2 for lists of lists."""
        return str(self.type).count("list<")

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Of its values as NumPy array."""
        return np.dtype(self.value_type.to_pandas_dtype())

    @functools.cached_property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return pa.types.is_string(self.value_type)

    @functools.cached_property
    def is_falling(self) -> bool:
        """Whether the values of each token must go down."""
        return self.shape == TOP_PER_TOKEN and self.check is LOG_PROB


def innermost(kind: pa.DataType) -> pa.DataType:
    """The type of the values of lists, and of lists of lists."""
    return innermost(kind.value_type) if pa.types.is_list(kind) else kind


_TEXT, _INT, _FLOAT = pa.string(), pa.int32(), pa.float64()
_TEXTS, _INTS, _FLOATS = pa.list_(_TEXT), pa.list_(_INT), pa.list_(pa.float32())
_COUNTS = pa.list_(pa.int64())
_LIVE_NAMES = ("answer", "tokens", "pieces", "is_deferred", "uncertainties", "quality", "flops")
# Shorthands for rows of COLUMNS: whose answers they are about, and what columns of a kind share.
_example = functools.partial(Column, owner=EXAMPLE, is_required=True)
_key = functools.partial(_example, is_read_at_once=True)
_model = functools.partial(Column, owner=EVERY_MODEL)
_needed = functools.partial(_model, is_required=True)
_measure = functools.partial(_model, is_shared=True, is_read_at_once=True)
_sample = functools.partial(_model, collected="`SAMPLES = 10`")
_deferring = functools.partial(Column, owner=DEFERRING_MODEL)
_probe = functools.partial(_deferring, is_for_scores=True)
_top = functools.partial(_deferring, collected="`TOP_K = 10`")
_live = functools.partial(Column, owner=LIVE, needs=_LIVE_NAMES, collected="`POLICY`")

# fmt: off
COLUMNS: tuple[Column, ...] = (
    _key("mixture", _TEXT, "the mixture that the example is from"),
    _key("task", _TEXT, "its task"),
    _key("split", _TEXT, "its split"),
    _key("example_id", _TEXT, "unique in the table; learned routers go by it, so it should differ "
         "between splits"),
    _example("inputs", _TEXT, "the text given to the models"),
    _example("target", _TEXT, "the right answer"),
    _key("metric", _TEXT, "name of the per-example quality"),
    _needed("answer", _TEXT, "the answer; may be empty"),
    _needed("tokens", _INTS, "its tokens", PER_TOKEN, COUNT),
    _needed("log_probs", _FLOATS, "log-prob of each token; the last model's may be empty",
            PER_TOKEN, LOG_PROB, sets_lengths=True),
    _needed("entropies", _FLOATS, "nats, of the whole distribution at each token",
            PER_TOKEN, NATS),
    _needed("quality", _FLOAT, "quality of the answer, higher is better", ONE, IN_UNIT_INTERVAL,
            is_read_at_once=True),
    _needed("flops_per_token", _FLOAT, "2 × parameters", ONE, POSITIVE, is_read_at_once=True),
    _measure("statistics", _COUNTS, "counts of a corpus metric, which add up over examples",
             COUNTS, COUNT, sets_lengths=True, collected="tasks with BLEU or chrF",
             used_by="curves of corpus metrics"),
    _top("top_log_probs", _FLOATS, "the K largest log-probs at each token, descending, end to end",
         TOP_PER_TOKEN, LOG_PROB, used_by="scores of the largest probabilities"),
    _top("top_ids", _INTS, "their ids", TOP_PER_TOKEN, COUNT, needs=("top_log_probs",)),
    _model("pieces", _TEXTS, "text of each token", PER_TOKEN, used_by="the example browser"),
    _deferring("embedding", _FLOATS, "mean-pooled hidden state of the input", VECTOR, FINITE,
               collected="`EMBEDDINGS = True`", used_by="routers that take it"),
    _deferring("stored_scores", _FLOATS,
               "deferral scores of the answer that other columns do not give", VECTOR, FINITE,
               collected="no, `records without-text`", used_by="claims"),
    _probe("mean_log_probs", _FLOATS, "mean over the vocabulary of its log-probs at each token",
           PER_TOKEN, LOG_PROB, collected="`SelfCertainty()`", used_by="self-certainty"),
    _probe("vocab_size", _INT, "ids that a token is one of", ONE, POSITIVE,
           collected="`SelfCertainty()`, `PreviousAttention()`",
           used_by="self-certainty, RAUQ (entropy)"),
    _probe("previous_attention", _FLOATS,
           "attention to the token before it when a token was predicted, of a head of each layer",
           LAYERS_PER_TOKEN, IN_UNIT_INTERVAL, collected="`PreviousAttention()`", used_by="RAUQ"),
    _probe("self_attention_logs", _FLOATS,
           "mean over a layer's heads of the log of that attention", PER_TOKEN, FINITE,
           collected="`SelfAttention()`", used_by="the attention score"),
    _probe("relevances", _FLOATS, "how much a token changes the meaning of the answer", PER_TOKEN,
           NOT_NEGATIVE, collected="`Relevance()`", used_by="TokenSAR"),
    _probe("surface_log_probs", _FLOATS,
           "log of the share of the likeliest tokens that are spelled as it is", PER_TOKEN,
           LOG_PROB, collected="`SurfaceForms()`", used_by="surface-form CCP"),
    _deferring("input_state", _FLOATS, "hidden states at the end of the input, layer by layer",
               VECTOR, FINITE, collected="`States()`", used_by="learned scores"),
    _deferring("input_state_flops", pa.list_(_FLOAT), "FLOPs of reading the input up to each of "
               "these", VECTOR, NOT_NEGATIVE, needs=("input_state",), collected="`States()`",
               used_by="pre-routers"),
    _deferring("answer_state", _FLOATS, "mean hidden states of the answer, layer by layer", VECTOR,
               FINITE, collected="`States()`", used_by="learned scores"),
    _probe("probe_flops", _FLOAT, "FLOPs of the pass that measured for scores", ONE, NOT_NEGATIVE,
           collected="`PROBES`", used_by="the cost of scores"),
    _measure("input_tokens", _INT, "tokens read", ONE, NOT_NEGATIVE, used_by="prices"),
    _measure("flops", _FLOAT, "FLOPs of the whole answer, reading and writing", ONE, POSITIVE,
             used_by="costs in real FLOPs"),
    _measure("seconds", _FLOAT, "wall time of the answer", ONE, NOT_NEGATIVE,
             used_by="costs in seconds"),
    _sample("sample_answers", _TEXTS, "more answers to the example, drawn at random", PER_SAMPLE,
            sets_lengths=True, used_by="scores of samples"),
    _sample("sample_log_probs", pa.list_(_FLOATS), "log-prob of each of their tokens, at "
            "temperature 1", PER_SAMPLE_TOKEN, LOG_PROB, needs=("sample_answers",),
            sets_lengths=True, used_by="scores of samples"),
    _sample("sample_tokens", pa.list_(_INTS), "their tokens", PER_SAMPLE_TOKEN, COUNT,
            needs=("sample_log_probs",), used_by="SAR with a relevance"),
    _sample("sample_drawn_log_probs", pa.list_(_FLOATS), "log-prob of each in the distribution it "
            "was drawn from: at a temperature, cut by top-k and top-p", PER_SAMPLE_TOKEN, LOG_PROB,
            needs=("sample_log_probs",)),
    _sample("sample_state_eigenvalues", _FLOATS, "of the covariance of their hidden states, rising",
            PER_SAMPLE, NOT_NEGATIVE, owner=DEFERRING_MODEL, needs=("sample_answers",),
            collected="`SampleStates()`", used_by="EigenScore"),
    _sample("sample_flops", _FLOAT, "FLOPs of all of them, the input read once", ONE, POSITIVE,
            is_for_scores=True, used_by="the cost of scores"),
    _probe("sample_state_flops", _FLOAT, "FLOPs of the pass that measured their hidden states", ONE,
           NOT_NEGATIVE, collected="`SampleStates()`", used_by="the cost of scores"),
    _live("answer", _TEXT, "the answer, each token by one of the models"),
    _live("tokens", _INTS, "its tokens", PER_TOKEN, COUNT, sets_lengths=True),
    _live("pieces", _TEXTS, "text of each token", PER_TOKEN),
    _live("is_deferred", pa.list_(pa.bool_()), "whether a larger model wrote the token", PER_TOKEN),
    _live("uncertainties", _FLOATS, "how unsure the small model was of the token it proposed there",
          PER_TOKEN, NATS),
    _live("quality", _FLOAT, "by the row's metric", ONE, IN_UNIT_INTERVAL),
    _live("flops", _FLOAT, "really spent on the answer, by all models", ONE, POSITIVE),
    _live("statistics", _COUNTS, "like the models', and only beside theirs", COUNTS, COUNT,
          is_shared=True),
)
# fmt: on


# ------------------------------------------------------------------ columns of a table


@dataclasses.dataclass(frozen=True)
class Field:
    """A column of the tables of some models.

    Attributes:
      name: of the column in the table, "student_log_probs".
      column: its row of COLUMNS.
      owner: the model; "cascade" or "example".
      offsets: names of the offsets that lead from a row to its values: none where a row holds one
        value, one for lists, two for lists of lists.
      needs: names of the columns without which it can not be there.
    """

    name: str
    column: Column
    owner: str
    offsets: tuple[str, ...]
    needs: tuple[str, ...]


def fields(models: Iterable[str]) -> Mapping[str, Field]:
    """The columns that a table of these models may have, by name, in order.

    Raises:
      RecordsError: names that are no names, or that make two columns one.
    """
    return _fields(COLUMNS, tuple(models))


@functools.cache
def _fields(columns: tuple[Column, ...], models: tuple[str, ...]) -> Mapping[str, Field]:
    owners = {EXAMPLE: (EXAMPLE,), EVERY_MODEL: models, LIVE: (LIVE,)}
    owners[DEFERRING_MODEL] = models[:-1]
    made: dict[str, Field] = {}
    for column in columns:
        for owner in owners[column.owner]:
            name = column.name if owner == EXAMPLE else f"{owner}_{column.name}"
            needs = [f"{owner}_{other}" for other in column.needs]
            needs += [f"{model}_{column.name}" for model in models if column.is_shared]
            offsets = {
                PER_TOKEN: (f"{owner}_offsets",),
                TOP_PER_TOKEN: (f"{owner}_offsets",),
                LAYERS_PER_TOKEN: (f"{owner}_offsets",),
                COUNTS: ("statistics_offsets",),
                PER_SAMPLE: (f"{owner}_sample_offsets",),
                PER_SAMPLE_TOKEN: (f"{owner}_sample_offsets", f"{owner}_sample_token_offsets"),
            }.get(column.shape, ())
            if name in made:
                raise RecordsError(f"models {list(models)}: two columns would be called {name!r}")
            made[name] = Field(
                name, column, owner, offsets, tuple(n for n in dict.fromkeys(needs) if n != name)
            )
    return made


def arrow_schema(models: Iterable[str] = PAIR, names: Iterable[str] = ()) -> pa.Schema:
    """The required columns of tables of these models, and the optional ones among the names."""
    names = set(names)
    return pa.schema(
        [
            (field.name, field.column.type)
            for field in fields(models).values()
            if field.column.is_required or field.name in names
        ]
    )


SCHEMA = arrow_schema()


def check_columns(names: Iterable[str], metadata: Mapping[str, Any], source: str) -> None:
    """Refuses a table that lacks a column, or one that an optional column or `top_k` needs."""
    names, of_models = set(names), fields(metadata[MODELS])
    required = [name for name, field in of_models.items() if field.column.is_required]
    if missing := [name for name in required if name not in names]:
        near = nearest_names(missing[0], names - set(required), 1, cutoff=0.6)
        hint = f" (nearest there: {near[0]!r})" if near else ""
        raise RecordsError(f"{source}: missing column {', '.join(map(repr, missing))}{hint}")
    for name, field in of_models.items():
        if name in names and (missing := [other for other in field.needs if other not in names]):
            raise RecordsError(
                f"{source}: column {name!r} needs {', '.join(map(repr, missing))} beside it"
            )
    tops = [f"{model}_top_log_probs" for model in metadata[MODELS][:-1]]
    top_k, present = metadata.get(TOP_K, 0), [name for name in tops if name in names]
    if bool(present) != (top_k > 0):
        has, shown = ("with", present) if present else ("without", tops)
        raise RecordsError(
            f"{source}: metadata have {TOP_K} = {top_k} {has} a column {shown[0]!r}; it must "
            "be the number of log-probs for each token there, and 0 or left out without it"
        )
