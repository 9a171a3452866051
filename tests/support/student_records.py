"""Records of students that the page's tests evaluate: ties, four tasks, one of them with BLEU."""

import collections
import json

import numpy as np
import pyarrow.parquet as pq

from cascade_jax import records
from cascade_jax.task_metrics import corpus, quality
from cascade_jax.task_metrics.translation import Bleu

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LIVE_THRESHOLD = 0.8
TASKS = ("yes_no", "add", "copy", "to_english")
_WORDS = "the cat sat on a mat and saw two birds in one old tree by the river".split()


def write(path, name, skill, *, n=400, seed=0, pieces=True, live=False, measured=False,
          **metadata):  # fmt: skip
    """A student of some skill in [0, 1] beside one teacher; 10 tenths of log-probs, so with ties.

    Example 0 has markup in its prompt, and `yes_no` is so easy that both models have it right.
    """
    shared, rng = np.random.default_rng(99), np.random.default_rng(seed)
    task = np.array([TASKS[i % 4] for i in range(n)])
    hard = shared.random(n) * (task != "yes_no")
    targets = [" ".join(shared.choice(_WORDS, 6)) for _ in range(n)]
    answers = {
        "student": _answers(rng, targets, rng.random(n) < skill + (1 - skill) * (1 - hard)),
        "teacher": _answers(shared, targets, shared.random(n) < 1 - 0.3 * hard),
    }
    lengths = [len(answer.split()) + 1 for answer in answers["student"]]
    log_probs = [
        np.full(length, -np.round(hard[i] + rng.random() * 0.4, 1) - 0.1)
        for i, length in enumerate(lengths)
    ]
    is_bleu = task == "to_english"
    columns = {
        "mixture": ["demo"] * n,
        "task": task,
        "split": ["test"] * n,
        "example_id": [f"{t}/test/{i}" for i, t in enumerate(task)],
        "inputs": [EVIL if i == 0 else f"question {i} <b>of</b> {t}" for i, t in enumerate(task)],
        "target": targets,
        "metric": np.where(is_bleu, "sentence_bleu", "exact_match"),
        "student_log_probs": log_probs,
        "student_tokens": [np.ones(length, np.int32) for length in lengths],
        "student_entropies": [-part for part in log_probs],
        **{f"teacher_{kind}": [[]] * n for kind in ("tokens", "log_probs", "entropies")},
        "student_flops_per_token": np.full(n, 2e6),
        "teacher_flops_per_token": np.full(n, 1e7),
    }
    for model, texts in answers.items():
        columns[f"{model}_answer"] = texts
        exact = np.array([a == t for a, t in zip(texts, targets, strict=True)], float)
        rows = np.flatnonzero(is_bleu)
        pairs = [targets[i] for i in rows], [texts[i] for i in rows]
        exact[rows] = quality.per_example_quality([Bleu()], *pairs)[1]
        columns[f"{model}_quality"] = exact
        counts = iter(Bleu().statistics(*pairs).tolist())
        columns[f"{model}_statistics"] = [next(counts) if here else [] for here in is_bleu]
    if pieces:
        columns["student_pieces"] = [
            [*(f"{word} " for word in answer.split()), "</s>"] for answer in answers["student"]
        ]
    if measured:
        columns |= _measured(lengths, seed)
    if live:
        columns |= _live(answers, targets, seed)
    metadata = {"name": name, "mixture": "demo", "split": "test", **metadata}
    metadata["corpus_metrics"] = {"to_english": corpus.describe(Bleu())}
    records.write(path, columns, metadata)
    return str(path)


def _measured(lengths, seed):
    """What probes measure for each token: entropies and log-probs no longer say the same."""
    rng = np.random.default_rng(2000 + seed)
    return {
        "student_relevances": [np.round(rng.exponential(0.02, n), 4) for n in lengths],
        "student_mean_log_probs": [-np.round(rng.gamma(9.0, 1.0, n), 3) for n in lengths],
        "student_surface_log_probs": [-np.round(rng.exponential(0.3, n), 3) for n in lengths],
        "student_self_attention_logs": [-np.round(rng.exponential(1.0, n), 3) for n in lengths],
        "student_vocab_size": [32_000] * len(lengths),
    }


def rename_models(path, output, small, large):
    """The same table, its models under other names."""
    table, names = pq.read_table(path), {"student": small, "teacher": large}

    def renamed(name):
        role, _, rest = name.partition("_")
        return f"{names[role]}_{rest}" if role in names and rest else name

    metadata = json.loads(table.schema.metadata[b"cascade_jax"])
    for by_metric in metadata.get("figures", {}).values():
        for metric, by_model in by_metric.items():
            by_metric[metric] = {names[model]: value for model, value in by_model.items()}
    metadata = {renamed(key): value for key, value in metadata.items()}
    columns = {renamed(name): table[name] for name in table.column_names}
    records.write(output, columns, metadata | {"models": [small, large]})
    return str(output)


def _live(answers, targets, seed):
    """A live cascade: tokens by the larger of two models where the small one is unsure."""
    rng = np.random.default_rng(1000 + seed)
    columns = collections.defaultdict(list)
    for small, large, target in zip(answers["student"], answers["teacher"], targets, strict=True):
        uncertainties = np.round(rng.exponential(0.5, 7), 3)
        is_deferred = uncertainties > LIVE_THRESHOLD
        pair = zip(small.split(), large.split(), strict=True)
        words = [two[int(d)] for two, d in zip(pair, is_deferred[:-1], strict=True)]
        columns["cascade_answer"].append(" ".join(words))
        columns["cascade_tokens"].append(np.arange(7))
        columns["cascade_pieces"].append([*(f"{word} " for word in words), "</s>"])
        columns["cascade_is_deferred"].append(is_deferred)
        columns["cascade_uncertainties"].append(uncertainties)
        columns["cascade_quality"].append(float(" ".join(words) == target))
        columns["cascade_flops"].append(1e6 * (7 + 5 * is_deferred.sum()))
    return columns


def _answers(rng, targets, is_right):
    """The targets, some words of them replaced where the answer is wrong."""
    result = []
    for target, right in zip(targets, is_right, strict=True):
        words = np.array(target.split())
        if not right:
            words[rng.random(len(words)) < 0.6] = "dog"
            words[0] = "dog"
        result.append(" ".join(words))
    return result
