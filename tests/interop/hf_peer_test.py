"""Models of transformers against our import of them: logits, greedy answers, and back again."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from cascade_jax.interop import hf, hf_blocks
from cascade_jax.models import families, t5
from tests.support import hf_models
from tests.support.greedy import generate
from tests.support.hf_models import CASES, DECODERS, ENCODER_DECODERS, safetensors_torch, torch

pytestmark = pytest.mark.medium

WIDTH = 12
LENGTHS = (12, 7, 4)  # of the rows; the first is full


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model of transformers and ours, with the ids that both are given."""

    name: str
    peer: object
    config: object
    params: object
    rows: list  # of the peer's ids, the start included for a decoder

    @property
    def pad_id(self):
        return CASES[self.name].pad_id

    def ours(self, ids):
        """The peer's ids by our numbers."""
        return np.asarray([{0: self.pad_id, self.pad_id: 0}.get(int(i), int(i)) for i in ids])

    def order(self):
        """By our numbers, the peer's ids: reorders its logits."""
        return self.ours(np.arange(self.config.vocab_size))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}

    def pair(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "model"
            peer = hf_models.make(name, folder)
            config, params = hf.load(folder, pad_id=CASES[name].pad_id)
            rng = np.random.default_rng(0)
            # No row holds the padding token (but rows of a decoder may hold the peer's id 0).
            allowed = sorted(set(range(47)) - {CASES[name].pad_id, 5})
            rows = [rng.choice(allowed, size=length) for length in LENGTHS]
            if name in DECODERS:
                for row in rows:
                    row[0] = config_bos = 5
                    assert hf_blocks.exchanged(config.bos_id, CASES[name].pad_id) == config_bos
                if CASES[name].pad_id:
                    rows[0][3] = 0
            made[name] = Pair(name, peer, config, params, rows), folder
        return made[name]

    return pair


def _logits_of_decoder(pair, rows, segment_ids, positions):
    """Ours; rows start with the peer's start of a text, in whose place a 0 is given."""
    tokens = np.zeros((len(LENGTHS), WIDTH), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = pair.ours(row)
    tokens = np.where(positions == 0, 0, tokens)
    return _apply(families.build(pair.config))(pair.params, tokens, segment_ids, positions)


@functools.cache
def _apply(model):
    return jax.jit(
        lambda params, tokens, segments, positions: model.apply(
            {"params": params}, tokens, segment_ids=segments, positions=positions
        )
    )


def _peer_logits(pair, row):
    with torch.no_grad():
        return pair.peer(torch.tensor(np.asarray(row))[None]).logits[0].numpy()[:, pair.order()]


def _assert_close(actual, expected):
    assert np.abs(expected).max() > 1.0  # so that 1e-4 is small
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_a_decoder_with_padding(pairs, name):
    pair, _ = pairs(name)
    positions = np.broadcast_to(np.arange(WIDTH), (len(LENGTHS), WIDTH))
    actual = _logits_of_decoder(pair, pair.rows, np.ones_like(positions), positions)
    ids, mask = np.zeros((2, len(LENGTHS), WIDTH), np.int64)
    for i, row in enumerate(pair.rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    with torch.no_grad():
        expected = pair.peer(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    expected = expected[:, :, pair.order()]
    _assert_close(np.asarray(actual)[mask == 1], expected[mask == 1])


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_a_decoder_with_packing(pairs, name):
    pair, _ = pairs(name)
    first, second = pair.rows[1], pair.rows[2]  # in one row: 7 and 4 of 12 places
    packed = [np.concatenate([first, second])] * len(LENGTHS)
    segments = np.asarray([1] * len(first) + [2] * len(second) + [0])
    positions = np.asarray([*range(len(first)), *range(len(second)), 1])
    shape = (len(LENGTHS), WIDTH)
    actual = _logits_of_decoder(
        pair, packed, np.broadcast_to(segments, shape), np.broadcast_to(positions, shape)
    )
    expected = np.concatenate([_peer_logits(pair, first), _peer_logits(pair, second)])
    _assert_close(np.asarray(actual)[0, : len(expected)], expected)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_logits_of_an_encoder_decoder_with_padding_and_packing(pairs, name):
    pair, _ = pairs(name)
    inputs, targets = pair.rows, [row[::-1][: len(row) - 1] for row in pair.rows]
    with torch.no_grad():
        expected = [
            pair.peer(
                torch.tensor(np.asarray(source))[None],
                decoder_input_ids=torch.tensor([0, *target[:-1]])[None],
            )
            .logits[0]
            .numpy()
            for source, target in zip(inputs, targets, strict=True)
        ]
    # Row 0 is example 0, row 1 holds the examples 1 and 2.
    packed = [([inputs[0]], [targets[0]]), (inputs[1:], targets[1:])]
    encoder, decoder, of_encoder, of_decoder = np.zeros((4, 2, WIDTH), np.int32)
    for row, (sources, ends) in enumerate(packed):
        places = [0, 0]
        for segment, (source, target) in enumerate(zip(sources, ends, strict=True), 1):
            where = slice(places[0], places[0] + len(source))
            encoder[row, where], of_encoder[row, where] = source, segment
            where = slice(places[1], places[1] + len(target))
            decoder[row, where], of_decoder[row, where] = [0, *target[:-1]], segment
            places = [places[0] + len(source), places[1] + len(target)]
    actual = jax.jit(t5.T5(pair.config).apply)(
        {"params": pair.params},
        encoder,
        decoder,
        input_segment_ids=of_encoder,
        target_segment_ids=of_decoder,
    )
    actual = np.asarray(actual)
    _assert_close(actual[0][of_decoder[0] == 1], expected[0])
    _assert_close(actual[1][of_decoder[1] == 1], expected[1])
    _assert_close(actual[1][of_decoder[1] == 2], expected[2])
    # The same without segments: one example a row, padded.
    padded = np.zeros((1, WIDTH), np.int32)
    padded[0, : len(inputs[1])] = inputs[1]
    short = np.asarray([[0, *targets[1][:-1]]], np.int32)
    actual = jax.jit(t5.T5(pair.config).apply)({"params": pair.params}, padded, short)
    _assert_close(np.asarray(actual)[0], expected[1])


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(pairs, name):
    pair, _ = pairs(name)
    expected = []
    for row in pair.rows:
        ids = torch.tensor(np.asarray(row))[None]
        made = pair.peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=8,
            pad_token_id=0,
            # Its cache has no room for a decoder with more layers than the encoder.
            use_cache=name in DECODERS,
        )[0].numpy()
        expected.append(pair.ours(made[1:] if name in ENCODER_DECODERS else made[len(row) :]))
    assert all(len(answer) == 8 for answer in expected)
    assert len({tuple(answer) for answer in expected}) == len(expected)
    eos_id = min(set(range(1, 47)) - set(np.concatenate(expected).tolist()))
    inputs = np.zeros((len(LENGTHS), WIDTH), np.int32)
    for i, row in enumerate(pair.rows):
        row = row if name in ENCODER_DECODERS else row[1:]
        inputs[i, : len(row)] = pair.ours(row)
    model = families.build(pair.config)
    actual = generate(model, pair.params, inputs, max_length=8, eos_id=eos_id)
    np.testing.assert_array_equal(actual.tokens, expected)


@pytest.mark.parametrize("name", CASES)
def test_import_and_export_give_back_every_bit(pairs, name, tmp_path):
    pair, folder = pairs(name)
    pad_id = pair.pad_id
    # Stacked layers, too, come from the same tensors and go back to them.
    config, params = hf.load(folder, pad_id=pad_id, scan_layers=True)
    for number, each in enumerate(((pair.config, pair.params), (config, params))):
        out = tmp_path / str(number)
        hf.save(out, *each, pad_id=pad_id, tokenizer_from=folder)
        back = hf_models.load(name, out)
        before, after = pair.peer.state_dict(), back.state_dict()
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            assert torch.equal(tensor.view(torch.int32), after[key].view(torch.int32)), key
        row = torch.tensor(np.asarray(pair.rows[0]))[None]
        extra = {"decoder_input_ids": row} if name in ENCODER_DECODERS else {}
        with torch.no_grad():
            logits = (model(row, **extra).logits.numpy() for model in (pair.peer, back))
            np.testing.assert_allclose(*logits, atol=1e-4, rtol=0)
    assert type(back) is type(pair.peer)


@pytest.mark.parametrize("name", ["gemma3", "t5_v1_1"])
def test_scanned_layers_give_the_same_logits(pairs, name):
    pair, folder = pairs(name)
    config, params = hf.load(folder, scan_layers=True)
    tokens = np.asarray([pair.rows[0]])
    arguments = (tokens, tokens) if name in ENCODER_DECODERS else (tokens,)
    actual, expected = (
        jax.jit(families.build(c).apply)({"params": p}, *arguments)
        for c, p in ((config, params), (pair.config, pair.params))
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("as_in_memory", [False, True])
def test_the_language_model_beside_one_of_images(as_in_memory, tmp_path):
    peer = hf_models.make("gemma3_with_images", tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = safetensors_torch.load_file(file)
    assert any(name.startswith("language_model.model.") for name in tensors)
    if as_in_memory:  # the names that the parameters have in transformers itself
        places = {"language_model.model.": "model.language_model.", "vision_": "model.vision_"}
        places |= {"multi_modal_projector": "model.multi_modal_projector"}
        for old, new in places.items():
            tensors = {re.sub(f"^{old}", new, name): tensor for name, tensor in tensors.items()}
        assert tensors.keys() <= peer.state_dict().keys()
        safetensors_torch.save_file(tensors, file)
    config, params = hf.load(tmp_path / "m")
    ids = np.random.default_rng(0).integers(6, 40, (1, WIDTH))
    ids[0, 0] = 5
    with torch.no_grad():
        expected = peer(torch.tensor(ids)).logits.numpy()
    ids[0, 0] = 0
    actual = jax.jit(families.build(config).apply)({"params": params}, ids)
    _assert_close(np.asarray(actual), expected)
