"""Which runs go together when a chat template renders inputs."""

import json

import pytest

from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.runs import run_folder
from cascade_jax.training import experiment
from cascade_jax.training.optimizers import Adafactor

DECODER = DecoderConfig(64, 8, 1, 1, 1, 8, 8)
T5 = T5Config(64, 8, 1, 8, 8, 1, 1)
PLAIN, CHAT, OTHER = "tokenizer-a-64-0-3-2", "tokenizer-a-64-0-3-2-chat-1", "tokenizer-b-64-0-3-2"


def run_of(folder, fingerprint, model=DECODER, imported=True):
    written = run_folder.write_imported(folder, model, fingerprint, {})
    if not imported:
        del written["imported"]
        (folder / "config.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize("theirs", [PLAIN, CHAT])
@pytest.mark.parametrize("ours", [PLAIN, CHAT, f"{CHAT}2"])
def test_an_imported_model_goes_with_and_without_its_template(theirs, ours, tmp_path):
    run_folder.check_same_vocabulary("student", ours, run_of(tmp_path / "run", theirs))


@pytest.mark.parametrize(
    "theirs, ours", [(PLAIN, CHAT), (CHAT, PLAIN), (CHAT, f"{CHAT}2"), (OTHER, PLAIN)]
)
def test_a_trained_model_is_read_as_it_was_trained(theirs, ours, tmp_path):
    trained = run_of(tmp_path / "trained", theirs, imported=False)
    run_folder.check_same_vocabulary("student", theirs, trained)
    with pytest.raises(ValueError, match="run 'student': vocabularies differ") as caught:
        run_folder.check_same_vocabulary("student", ours, trained)
    assert ("not the same chat template" in str(caught.value)) == (theirs != OTHER)


def test_other_ids_are_refused_of_an_imported_model_too(tmp_path):
    with pytest.raises(ValueError, match="vocabularies differ"):
        run_folder.check_same_vocabulary("student", CHAT, run_of(tmp_path / "run", OTHER))


def test_an_encoder_decoder_reads_no_chats(tmp_path):
    message = "a T5Config can't read what a chat template renders"
    with pytest.raises(ValueError, match=message):
        run_folder.check_same_vocabulary("student", CHAT, run_of(tmp_path / "run", PLAIN, T5))
    data = pipeline.DataConfig("any", 8, 8, 8, vocabulary="a/tokenizer.json?chat_template=default")
    rest = {"data": data, "loss": variants.Xent(), "optimizer": Adafactor(0.1), "steps": 1}
    with pytest.raises(ValueError, match=message):
        experiment.TrainRun("student", T5, **rest)
    experiment.TrainRun("student", DECODER, **rest)
