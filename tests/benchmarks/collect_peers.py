"""Others who do the work of `collect.py`: plain static batches, transformers in torch, vLLM.

Each is a function of (config, parameters, mix, batch size, a folder of transformers) and gives a
function that does all of it once: its answers (ids with the end of sequence, or the option's
index), and its counts of tokens.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cascade_jax.batch import Batch
from cascade_jax.models import families
from cascade_jax.models.config import T5Config
from tests.benchmarks.collect_mix import Mix

_VLLM = Path(__file__).with_name("collect_vllm.py")


@dataclasses.dataclass
class Tokens:
    """Tokens that were computed: by the encoder, or of a decoder-only model's rows before the
    answer; at answers' places; and at options' places."""

    inputs: int = 0
    answers: int = 0
    options: int = 0


Answers = dict[int, list[int] | int]
Run = Callable[[], tuple[Answers, Tokens]]


def padded(rows: list[list[int]], length: int, size: int) -> np.ndarray:
    """Rows [size length] with zeros behind; the last row fills the batch up."""
    filled = rows + rows[-1:] * (size - len(rows))
    return np.array([row + [0] * (length - len(row)) for row in filled], np.int32)


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def up_to_end(ids: list[int], eos_id: int) -> list[int]:
    """An answer with its end of sequence, without what stands behind."""
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


# ------------------------------------------------------------------ as it was before


@functools.lru_cache
def write_fn(model: families.Model, most: int, eos_id: int) -> Callable:
    """Greedy answers [B L] and the number of steps, until the last row has ended."""

    @jax.jit
    def write(params, inputs):
        first, cache = families.start_decoding(model, params, inputs, most)
        count = len(first)

        def is_running(state):
            step, *_, has_ended = state
            return (step < most) & ~jnp.all(has_ended)

        def advance(state):
            step, last, cache, tokens, has_ended = state
            variables = {"params": params, "cache": cache}
            logits, updated = model.apply(
                variables, last[:, None], inputs, method="decode_step", mutable=["cache"]
            )
            chosen = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
            chosen = jnp.where(has_ended, 0, chosen)
            tokens = jax.lax.dynamic_update_slice(tokens, chosen[:, None], (0, step))
            return step + 1, chosen, updated["cache"], tokens, has_ended | (chosen == eos_id)

        tokens, has_ended = jnp.zeros((count, most), jnp.int32), jnp.zeros(count, bool)
        start = jnp.zeros((), jnp.int32), first, cache, tokens, has_ended
        steps, *_, tokens, _ = jax.lax.while_loop(is_running, advance, start)
        return tokens, steps

    return write


@functools.lru_cache
def option_fn(model: families.Model) -> Callable:
    """Log-likelihoods of options [K B L], one after the other; a T5 reads its input once."""

    @jax.jit
    def score(params, inputs, options):
        variables = {"params": params}
        is_t5 = isinstance(model.config, T5Config)
        encoded = model.apply(variables, inputs, method="encode") if is_t5 else None

        def one(option):
            before, weights = jnp.pad(option[:, :-1], ((0, 0), (1, 0))), (option > 0) * 1.0
            if is_t5:
                hidden = model.apply(variables, encoded, inputs, before, method="decode")
            else:
                batch = Batch(inputs, before, option, weights)
                hidden = families.hidden(model, params, batch)
            log_p = jax.nn.log_softmax(model.apply(variables, hidden, method="unembed"))
            own = jnp.take_along_axis(log_p, option[..., None], axis=-1)[..., 0]
            return jnp.sum(own * weights, axis=-1)

        return jax.lax.map(one, options)

    return score


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def static(config, params, mix: Mix, size: int, folder: Path | None) -> Run:
    """What `collect` did: batches in the order of the rows, padded to the mix's longest input.

    A batch is held until its slowest row ends. A task's options are padded to its most and its
    longest, so that each task has a program of its own.
    """
    del folder
    model = families.build(config)
    write = write_fn(model, mix.answer_length, mix.eos_id)
    score = option_fn(model)
    is_t5 = isinstance(config, T5Config)

    def inputs_of(rows):
        return padded([mix.inputs[row] for row in rows], mix.input_length, size)

    def ranked():
        """Rows of one task, and their options [K B L]."""
        tasks = {}
        for row in mix.ranked:
            tasks.setdefault(row % mix.tasks, []).append(row)
        for of_task in tasks.values():
            most = _power_of_two(max(len(mix.options[row]) for row in of_task))
            longest = max(len(each) for row in of_task for each in mix.options[row])
            longest = min(_power_of_two(longest), mix.answer_length)
            for rows in _batches(of_task, size):
                texts = [mix.options[row] + [[]] * most for row in rows]
                each = [padded([of_row[k] for of_row in texts], longest, size) for k in range(most)]
                yield rows, np.stack(each)

    def run():
        answers, tokens = {}, Tokens()
        for rows in _batches(mix.greedy, size):
            made, steps = jax.device_get(write(params, inputs_of(rows)))
            tokens.inputs += size * mix.input_length
            tokens.answers += size * int(steps)
            for row, ids in zip(rows, made.tolist(), strict=False):
                answers[row] = up_to_end(ids, mix.eos_id)
        for rows, options in ranked():
            scores = np.array(score(params, inputs_of(rows), options))
            tokens.inputs += size * mix.input_length * (1 if is_t5 else len(options))
            tokens.options += options.size
            for place, row in enumerate(rows):
                answers[row] = int(np.argmax(scores[: len(mix.options[row]), place]))
        return answers, tokens

    def compile_all():
        write.lower(params, inputs_of(mix.greedy[:size])).compile()
        for rows, options in ranked():
            score.lower(params, inputs_of(rows), options).compile()

    run.warm_up = compile_all
    return run


# ------------------------------------------------------------------ transformers


def transformers(config, params, mix: Mix, size: int, folder: Path) -> Run:
    """`generate` on batches sorted by length, and options as rows of such batches."""
    import torch
    import transformers as hf

    del params
    torch.set_num_threads(2)
    is_t5 = isinstance(config, T5Config)
    kind = hf.T5ForConditionalGeneration if is_t5 else hf.AutoModelForCausalLM
    model = kind.from_pretrained(folder).eval()
    start = [] if is_t5 else [config.bos_id]
    prompts = [[*start, *ids] for ids in mix.inputs]

    def tensors(rows, is_left):
        width = max(map(len, rows))
        pads = [[0] * (width - len(row)) for row in rows]
        both = list(zip(pads, rows, strict=True))
        ids = [pad + row if is_left else row + pad for pad, row in both]
        ones = [[1] * len(row) for row in rows]
        masks = [pad + one if is_left else one + pad for pad, one in zip(pads, ones, strict=True)]
        return torch.tensor(ids), torch.tensor(masks)

    def write(rows, tokens):
        ids, mask = tensors([prompts[row] for row in rows], not is_t5)
        made = model.generate(
            ids, attention_mask=mask, max_new_tokens=mix.answer_length, do_sample=False,
            num_beams=1, eos_token_id=mix.eos_id, pad_token_id=0,
        )  # fmt: skip
        made = made[:, 1:] if is_t5 else made[:, ids.shape[1] :]
        tokens.inputs += ids.numel()
        tokens.answers += made.numel()
        return [up_to_end(each, mix.eos_id) for each in made.tolist()]

    def score(pairs, tokens):
        own = [mix.options[row][k] for row, k in pairs]
        width = max(map(len, own))
        labels = torch.tensor(padded(own, width, len(own)), dtype=torch.long)
        if is_t5:
            rows = sorted({row for row, _ in pairs})
            ids, mask = tensors([prompts[row] for row in rows], False)
            index = torch.tensor([rows.index(row) for row, _ in pairs])
            encoded = model.encoder(input_ids=ids, attention_mask=mask)
            encoded.last_hidden_state = encoded.last_hidden_state[index]
            before = torch.nn.functional.pad(labels[:, :-1], (1, 0))
            logits = model(
                encoder_outputs=encoded, attention_mask=mask[index], decoder_input_ids=before
            ).logits
        else:
            ids, mask = tensors([prompts[row] + mix.options[row][k] for row, k in pairs], False)
            hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
            first = torch.tensor([len(prompts[row]) - 1 for row, _ in pairs])[:, None]
            places = torch.clamp(first + torch.arange(width)[None], max=ids.shape[1] - 1)
            index = places[..., None].expand(-1, -1, hidden.shape[-1])
            logits = model.lm_head(torch.gather(hidden, 1, index))
        tokens.inputs += ids.numel() - (0 if is_t5 else labels.numel())
        tokens.options += labels.numel()
        log_p = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
        return (log_p * (labels > 0)).sum(-1).tolist()

    def run():
        answers, tokens = {}, Tokens()
        with torch.no_grad():
            for rows in _batches(sorted(mix.greedy, key=lambda r: len(prompts[r])), size):
                answers |= dict(zip(rows, write(rows, tokens), strict=True))
            pairs = [(row, k) for row in mix.ranked for k in range(len(mix.options[row]))]
            pairs.sort(key=lambda pair: (len(prompts[pair[0]]), pair))
            scores = {}
            for part in _batches(pairs, size):
                scores |= dict(zip(part, score(part, tokens), strict=True))
        for row in mix.ranked:
            answers[row] = int(np.argmax([scores[row, k] for k in range(len(mix.options[row]))]))
        return answers, tokens

    return run


# ------------------------------------------------------------------ vLLM


def vllm(config, params, mix: Mix, size: int, folder: Path, python: str) -> Run:
    """`vllm.LLM` in a process of its own, which gives its own time: see `collect_vllm.py`."""
    del params
    start = [config.bos_id]
    work = {
        "folder": str(folder),
        "size": size,
        "eos_id": mix.eos_id,
        "answer_length": mix.answer_length,
        "prompts": {row: start + mix.inputs[row] for row in mix.greedy},
        "options": {row: [start + mix.inputs[row], mix.options[row]] for row in mix.ranked},
    }

    def run():
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "work.json"
            file.write_text(json.dumps(work))
            environment = dict(
                os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="2"
            )
            environment.pop("PYTHONPATH", None)  # that of this process's peers
            openmp = Path(python).parents[1] / "lib" / "libiomp5.so"
            if openmp.is_file():  # vllm-cpu asks for it
                environment["LD_PRELOAD"] = str(openmp)
            subprocess.run([python, str(_VLLM), str(file)], check=True, env=environment)
            result = json.loads(file.read_text())
        answers = {int(row): answer for row, answer in result["answers"].items()}
        run.seconds = result["seconds"]
        return answers, Tokens()

    return run


PEERS = {"before": static, "transformers": transformers, "vllm": vllm}


def missing(name: str, config, python: str) -> str | None:
    """Why a peer is left out; None if it is not."""
    if name == "vllm":
        if isinstance(config, T5Config):
            return "it has no encoder-decoder models"
        code = "import importlib.util as u; raise SystemExit(u.find_spec('vllm') is None)"
        is_there = subprocess.run([python, "-c", code]).returncode == 0
        return None if is_there else f"{python} cannot import it"
    packages = ("torch", "transformers") if name == "transformers" else ()
    lacking = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"{' and '.join(lacking)} cannot be imported" if lacking else None
