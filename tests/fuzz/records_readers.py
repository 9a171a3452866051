"""Readers of answers and records: JSONL of other systems, Parquet, certificates, routers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.container_mutations import change_parquet, change_zip
from tests.fuzz.json_mutations import JSON, JSONL
from tests.fuzz.reader import Reader, WrongValue, command, other_folder, write_json, write_lines

_QUESTIONS = (("q1", "France", "Paris"), ("q2", "Peru", "Lima"), ("q3", "Norway", "Oslo"))


def _targets(folder: Path) -> None:
    rows = [
        {"id": key, "task": "capitals", "inputs": f"Capital of {land}?", "target": [right, "x"]}
        for key, land, right in _QUESTIONS
    ]
    write_lines(folder / "targets.jsonl", rows)


def _pieces(answer: str) -> list[str]:
    return [answer[:3], answer[3:]]


def _chat(key: str, answer: str, **more: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's, vLLM's and SGLang's servers write it."""
    content = [
        {
            "token": piece,
            "logprob": -0.1 * (i + 1),
            "bytes": list(piece.encode()),
            "top_logprobs": [
                {"token": piece, "logprob": -0.1 * (i + 1), "bytes": list(piece.encode())},
                {"token": "Lyon", "logprob": -2.5, "bytes": list(b"Lyon")},
            ],
        }
        for i, piece in enumerate(_pieces(answer))
    ]
    message = {"role": "assistant", "content": answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    choice["finish_reason"] = "stop"
    return {"custom_id": key, "id": f"chatcmpl-{key}", "choices": [choice], "usage": usage, **more}


def _openai(key: str, answer: str) -> dict[str, Any]:
    return _chat(key, answer)


def _batch(key: str, answer: str) -> dict[str, Any]:
    body = _chat(key, answer)
    del body["custom_id"]
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": f"batch_{key}", "custom_id": key, "response": response, "error": None}


def _sglang(key: str, answer: str) -> dict[str, Any]:
    row = _chat(key, answer, metadata={"weight_version": "default"})
    row["choices"][0]["matched_stop"] = 2
    row["choices"][0]["message"] |= {"reasoning_content": None, "tool_calls": None}
    row["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = []
    row["choices"][0]["logprobs"]["content"][1]["top_logprobs"] = []
    return row


def _by_id(i: int, piece: str) -> dict[str, Any]:
    return {
        str(40 + i): {"logprob": -0.2, "rank": 1, "decoded_token": piece},
        "7": {"logprob": -3.0, "rank": 2, "decoded_token": "x"},
    }


def _vllm(key: str, answer: str) -> dict[str, Any]:
    log_probs = [_by_id(i, piece) for i, piece in enumerate(_pieces(answer))]
    output = {"index": 0, "text": answer, "token_ids": [40, 41], "logprobs": log_probs}
    output |= {"cumulative_logprob": -0.4, "finish_reason": "stop"}
    return {
        "request_id": key,
        "prompt_token_ids": [4, 8, 15],
        "outputs": [output],
        "finished": True,
    }


def _scored(key: str, answer: str) -> dict[str, Any]:
    log_probs = [None, *(_by_id(i, piece) for i, piece in enumerate(_pieces(answer)))]
    row = {"request_id": key, "answer": answer, "answer_tokens": 2, "prompt_logprobs": log_probs}
    return row | {"prompt_token_ids": [4, 40, 41], "outputs": [{"text": "", "token_ids": []}]}


def _plain(key: str, answer: str) -> dict[str, Any]:
    values = {"answer": answer, "log_probs": [-0.1, -0.2], "pieces": _pieces(answer)}
    values |= {"tokens": [4, 5], "entropies": [0.5, 0.25], "quality": 1, "embedding": [0.5, 1.0]}
    return {"id": key, **values, "input_tokens": 4, "seconds": 0.5, "flops": 100.0}


def _made(line_of: Callable[[str, str], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _targets(folder)
        for name, wrong in (("student", "q2"), ("teacher", "q3")):
            rows = [
                line_of(key, "Cusco" if key == wrong else right) for key, _, right in _QUESTIONS
            ]
            write_lines(folder / f"{name}.jsonl", rows)

    return make


def _table(folder: Path) -> None:
    metadata = {"name": "small", "mixture": "capitals", "split": "test", "student_parameters": 10}
    metadata |= {"teacher_parameters": 80, "decoding": "greedy", "schema_version": 2}
    rows: list[dict[str, Any]] = [{"cascade_jax": metadata}]
    for key, land, right in _QUESTIONS:
        models = {name: _plain(key, right) for name in ("student", "teacher")}
        for values in models.values():
            del values["id"]
        cascade = {"answer": right, "tokens": [1, 2], "pieces": _pieces(right), "quality": 1.0}
        cascade |= {"is_deferred": [True, False], "uncertainties": [0.5, 0.1], "flops": 90.0}
        about = {"task": "capitals", "inputs": land, "target": right, "cascade": cascade}
        rows.append({"id": key, **about, **models})
    write_lines(folder / "student.jsonl", rows)


def _from_jsonl(metric: str | None) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        flags: list[Any] = ["--student", folder / "student.jsonl"]
        if (folder / "targets.jsonl").exists():
            flags += ["--teacher", folder / "teacher.jsonl", "--targets", folder / "targets.jsonl"]
            flags += ["--name", "small", "--mixture", "capitals", "--split", "test"]
            flags += ["--student_parameters", "1B", "--teacher_parameters", "70B"]
        flags += ["--metric", metric] if metric else []
        with other_folder(folder) as written:
            output = written / "out.parquet"
            command("records", "from-jsonl", *flags, "--output", output)
            command("records", "to-jsonl", "--records", output, "--output", written / "again.jsonl")

    return read


# ---------------------------------------------------------------- records and what goes with them


def _records(path: Path, n: int = 240) -> None:
    from tests.support import student_records

    path.parent.mkdir(parents=True, exist_ok=True)
    stamps = {"student_saved": "1", "teacher_saved": "9", "target_length": 20}
    student_records.write(path, "xent", 0.4, n=n, **stamps)


def _small_records(folder: Path) -> None:
    from tests.support import student_records

    student_records.write(folder / "a.parquet", "xent", 0.4, n=12, live=True)


def _imported_records(folder: Path) -> None:
    """With the largest log-probs, embeddings and pieces."""
    rows = []
    for key, _, right in _QUESTIONS:
        models = {name: _plain(key, right) for name in ("student", "teacher")}
        models["student"]["top_log_probs"] = [[-0.1, -3.0], [-0.2, -3.0]]
        models["student"]["top_ids"] = [[4, 7], [5, 7]]
        rows.append({"id": key, "target": right, **models})
    write_lines(folder / "table.jsonl", rows)
    flags = ["--student", folder / "table.jsonl", "--name", "a", "--mixture", "m", "--split", "s"]
    flags += ["--student_parameters", "1B", "--teacher_parameters", "70B"]
    command("records", "from-jsonl", *flags, "--output", folder / "a.parquet")


def _read_records(folder: Path) -> Any:
    import numpy as np

    from cascade_jax import records

    table = records.read(folder / "a.parquet")
    with other_folder(folder) as written:
        output = written / "table.jsonl"
        command("records", "to-jsonl", "--records", folder / "a.parquet", "--output", output)
    present = [name for name in table.columns.fields if name in table.columns]
    values = {name: table.columns[name] for name in present}
    for name, column in values.items():
        floats = np.asarray(column)
        if floats.dtype.kind == "f" and not np.all(np.isfinite(floats)):
            raise WrongValue(f"column {name} holds {floats[~np.isfinite(floats)][:3]}")
    return values


def _evaluate(folder: Path, **settings: Any) -> None:
    from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
    from cascade_jax.report import html_page, markdown, metrics_json, terminal

    options = {"bootstrap_samples": 2, **settings}
    evaluation = evaluate(EvaluateConfig([folder / "a.parquet"], folder, **options))
    metrics_json.dump(metrics_json.to_json(evaluation))
    html_page.render(evaluation, {})
    markdown.render(evaluation)
    terminal.format_table(evaluation)
    terminal.below(evaluation, str(folder))


def _calibrated(folder: Path) -> None:
    """Records, and the certificates and the budget that `cascade-jax calibrate` makes of them."""
    _records(folder / "a.parquet")
    bindings = {
        "OUTPUT_DIR": f"'{folder}/runs'",
        "CALIBRATED": "'xent'",
        "LEVEL": "'answer'",
        "ALPHAS": "[0.3, 0.6]",
        "FIRST_SIZE": "60",
        "SECOND_SIZE": "60",
        "GRID_SIZE": "6",
        "SEARCH": "'grid'",
        "REPEATS": "2",
        "answer_pool.RecordsSource.records_file": f"'{folder}/a.parquet'",
        "calibrate.CalibrateConfig.output_dir": f"'{folder}/made'",
    }
    flags = [f"--gin.{name}={value}" for name, value in bindings.items()]
    command("calibrate", "--gin_file=gin/experiments/demo.gin", *flags)
    (folder / "made" / "budget.json").rename(folder / "budget.json")
    certificate = sorted(folder.glob("made/*ertificate*.json"))[-1]
    certificate.rename(folder / "certificate.json")
    _delete(folder / "made")
    _delete(folder / "runs")


def _delete(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _has_digest(file: Path) -> bool:
    """Files of older versions have none, and are read."""
    return "digest" in json.loads(file.read_bytes())


def _read_certificate(folder: Path) -> Any:
    from cascade_jax.deferral.guarantees import certificate

    loaded = certificate.load(folder / "certificate.json")
    _evaluate(folder, policy=folder / "certificate.json")
    return loaded if _has_digest(folder / "certificate.json") else None


def _read_budget(folder: Path) -> Any:
    from cascade_jax import json_file
    from cascade_jax.deferral.guarantees import budget_file

    loaded = budget_file.load(folder / "budget.json")
    _evaluate(folder, budget=folder / "budget.json")
    return json_file.to_values(loaded) if _has_digest(folder / "budget.json") else None


def _made_budget(folder: Path) -> None:
    """A budget of tokens, with all that one may have."""
    from tests.support import synthetic_budget

    _records(folder / "a.parquet", 40)
    write_json(folder / "budget.json", synthetic_budget.make(repeats=2, blocks=2))


def _router(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from cascade_jax import records
        from cascade_jax.deferral import routers

        _records(folder / "fit.parquet", 80)
        table = records.read(folder / "fit.parquet")
        router = {
            "linear": routers.LogisticRouter(),
            "network": routers.MlpRouter(),
            "trees": routers.BoostedRouter(),
        }[kind]
        fitted = router.fit(
            table.student, table.student_quality, table.teacher_quality, "validation"
        )
        fitted.save(folder / "router.npz")

    return make


def _read_router(folder: Path) -> Any:
    import numpy as np

    from cascade_jax import records
    from cascade_jax.deferral import routers

    router = routers.load(folder / "router.npz")
    values = router(records.read(folder / "fit.parquet").student)
    if not np.all(np.isfinite(values)):
        raise WrongValue(f"scores are {values[~np.isfinite(values)][:3]}")
    router.check_not_fitted_on("x", "test", ["a", "b"])
    return values


def readers() -> list[Reader]:
    """All of them."""
    lines = {"*.jsonl": JSONL}
    answers = {"student.jsonl": JSONL, "teacher.jsonl": JSONL[:1], "targets.jsonl": JSONL}
    forms = [
        ("openai", _openai, "accuracy"),
        ("batch", _batch, "bleu"),
        ("sglang", _sglang, "squad"),
    ]
    forms += [("vllm", _vllm, "rouge_l"), ("vllm_scored", _scored, "token_f1")]
    forms += [("plain", _plain, None)]
    result = [
        Reader(f"records.{name}", _made(line_of), _from_jsonl(metric), answers, 1.0)
        for name, line_of, metric in forms
    ]
    routers, parquet = {"router.npz": (change_zip,)}, {"*.parquet": (change_parquet,)}
    return [
        *result,
        Reader("records.table", _table, _from_jsonl(None), lines, 1.5),
        Reader("parquet.live", _small_records, _read_records, parquet, 2, True),
        Reader("parquet.top", _imported_records, _read_records, parquet, 2, True),
        Reader("certificate", _calibrated, _read_certificate, {"cert*": JSON}, 3, True),
        Reader("budget", _calibrated, _read_budget, {"budget*": JSON}, 1.5, True),
        Reader("budget.tokens", _made_budget, _read_budget, {"budget*": JSON}, 1.5),
        *(Reader(f"router.{k}", _router(k), _read_router, routers, 1, True) for k in _ROUTERS),
    ]


_ROUTERS = ("linear", "network", "trees")
