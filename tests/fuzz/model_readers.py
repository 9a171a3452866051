"""Readers of models from elsewhere: folders of transformers, tokenizers, checkpoints of T5X."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.container_mutations import change_msgpack, change_safetensors
from tests.fuzz.json_mutations import JSON, change_bytes, change_text
from tests.fuzz.reader import Reader, WrongValue, command, other_folder, write_json

_TEXTS = ("the cat sat on the mat", "a dog, and 12 cats: thé chat", "日本語 the and and")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")


def _random_model(config: Any) -> Any:
    """Parameters of a model, drawn without compiling."""
    import jax
    import numpy as np
    from flax import linen as nn

    from cascade_jax.models import families

    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(families.parameter_shapes(config))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def decoder_config() -> Any:
    from cascade_jax.models.config import DecoderConfig

    sizes = {"vocab_size": 300, "embed_dim": 8, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    return DecoderConfig(**sizes, head_dim=4, mlp_dim=8, bos_id=1, tied_logits=False)


def t5_config(**changes: Any) -> Any:
    from cascade_jax.models.config import T5Config

    sizes = {"vocab_size": 384, "embed_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 8}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 1, "dropout_rate": 0.0}
    return T5Config(**(sizes | changes))


# ---------------------------------------------------------------- tokenizers


def _byte_level() -> Any:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=[*_SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def _unigram() -> Any:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), *((c, -3.0) for c in "▁abcdehnost")]
    tokenizer = tokenizers.Tokenizer(models.Unigram([*pieces, ("▁the", -1.0)], 0, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "</s>", "<pad>"])
    return tokenizer


def _tokenizer_files(folder: Path, is_unigram: bool) -> None:
    tokenizer = _unigram() if is_unigram else _byte_level()
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "</s>" if is_unigram else "<|im_end|>", "pad_token": "<pad>"}
    if not is_unigram:
        named["bos_token"] = {"content": "<|im_start|>", "lstrip": False, "special": True}
    write_json(folder / "tokenizer_config.json", named)
    write_json(folder / "special_tokens_map.json", {"eos_token": named["eos_token"]})
    write_json(folder / "generation_config.json", {"eos_token_id": [1 if is_unigram else 2]})


def _read_vocabulary(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from cascade_jax.data.vocabulary import load, pieces

        vocabulary = load.load_vocabulary(str(folder / name) + "+3")
        load.fingerprint(vocabulary)
        for text in (*_TEXTS, "<pad>x<|im_end|>", ""):
            ids = vocabulary.encode(text)
            if not all(isinstance(i, int) and 0 <= i < vocabulary.vocab_size for i in ids):
                raise WrongValue(f"{text!r} has the ids {ids}; there are {vocabulary.vocab_size}")
            vocabulary.decode(ids)
            pieces.text_of(vocabulary, ids)

    return read


_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] }}\n{{ m.content | trim }}"
    "<|im_end|>{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _chat_files(folder: Path) -> None:
    _tokenizer_files(folder, is_unigram=False)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)


def _read_chat(folder: Path) -> None:
    from cascade_jax.data.vocabulary import load

    name = str(folder / "tokenizer.json?chat_template=default")
    inputs = load.load_vocabulary(name).for_inputs()
    load.fingerprint(inputs)
    for text in _TEXTS:
        if text.strip() not in inputs.rendered(text):
            raise WrongValue(f"{text!r} is not in what the template makes of it")
        if len(inputs.encode(text)) < inputs.ending_length:
            raise WrongValue(f"{text!r} has fewer ids than the template's end")


def _sentencepiece(folder: Path, name: str = "spiece.model") -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*_TEXTS, *(f"word{i} and more words" for i in range(40))]),
        model_prefix=str(folder / "made"),
        vocab_size=80,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=5,
    )
    (folder / "made.vocab").unlink()
    (folder / "made.model").rename(folder / name)


# ---------------------------------------------------------------- transformers


def _decoder_folder(folder: Path) -> None:
    from cascade_jax.interop import hf

    config = decoder_config()
    hf.save(folder, config, _random_model(config), progress=list)
    _tokenizer_files(folder, is_unigram=False)
    _shorten_context(folder)


def _shorten_context(folder: Path) -> None:
    file = folder / "config.json"
    write_json(file, json.loads(file.read_text()) | {"max_position_embeddings": 64})


def _t5_folder(folder: Path) -> None:
    """Two shards and their index, with a SentencePiece model."""
    from cascade_jax.interop import hf

    config = t5_config()
    hf.save(folder, config, _random_model(config), file_bytes=8000, progress=list)
    _sentencepiece(folder)


@functools.cache
def _in_this_process() -> None:
    """The import asks another process for a vocabulary's facts; here that would take seconds."""
    from cascade_jax.cli import import_checkpoint

    import_checkpoint.facts_apart = import_checkpoint.facts


def _import(source: str, *flags: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        _in_this_process()
        path = next(folder.glob("checkpoint_*"), folder) if source == "t5x" else folder
        with other_folder(folder) as written:
            out = written / "run"
            command("import", "--from", source, "--path", path, "--out", out, *flags)
            check_parameters(out)

    return read


def check_parameters(run: Path) -> Any:
    """Reads a run's parameters; all must be finite."""
    import jax
    import numpy as np

    from cascade_jax.parallel.mesh import MeshConfig
    from cascade_jax.runs import saved_model

    model = saved_model.SavedModel(str(run.parent), str(run), "last")
    params = model.load(MeshConfig(data=1).build(jax.devices()[:1])).params
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not np.all(np.isfinite(np.asarray(leaf))):
            raise WrongValue(f"parameter {path} is not finite")
    return params


# ---------------------------------------------------------------- T5X


def _t5x_index(folder: Path) -> None:
    """The older format: an index in msgpack, and Zarr arrays."""
    from cascade_jax.interop import t5x_checkpoints

    config = t5_config()
    t5x_checkpoints.save(str(folder), config, _random_model(config), 5)


def _t5x_orbax(folder: Path) -> None:
    """The newer format, in which T5X saves by Orbax; restored from what the older one holds."""
    import numpy as np
    import orbax.checkpoint as ocp
    from flax.traverse_util import flatten_dict, unflatten_dict

    from cascade_jax.interop import t5x_layouts

    config = t5_config()
    arrays = flatten_dict(_random_model(config))
    assert t5x_layouts.model_shapes(config).keys() == arrays.keys()
    tree = {"target": unflatten_dict(arrays), "state": {"step": np.asarray(5, np.int32)}}
    with ocp.PyTreeCheckpointer(use_ocdbt=True, use_zarr3=False) as saver:
        saver.save(folder / "checkpoint_5" / "state", tree)


def readers() -> list[Reader]:
    """All of them."""
    weights = (change_safetensors,)
    tokenizer = {"tokenizer.json": JSON, "t*_config.json": JSON, "special*": JSON, "gen*": JSON}
    decoder = {"config.json": JSON, "*.safetensors": weights}
    t5 = decoder | {"*.index.json": JSON, "spiece.model": (change_bytes,)}
    index = {"checkpoint_5/checkpoint": (change_msgpack,), "checkpoint_5/**/*": (change_bytes,)}
    index["checkpoint_5/**/.zarray"] = JSON
    orbax = {"**/_METADATA": JSON, "**/*": (change_bytes,)}
    byte = ("--vocabulary", "byte")
    return [
        Reader("tokenizer.bpe", functools.partial(_tokenizer_files, is_unigram=False),
               _read_vocabulary("tokenizer.json"), {"*.json": JSON} | tokenizer, 3),
        Reader("tokenizer.unigram", functools.partial(_tokenizer_files, is_unigram=True),
               _read_vocabulary("tokenizer.json"), {"*.json": JSON} | tokenizer, 3),
        Reader("tokenizer.chat", _chat_files, _read_chat,
               {"*.jinja": (change_text,), "tokenizer_config.json": JSON}, 1),
        Reader("sentencepiece", _sentencepiece, _read_vocabulary("spiece.model"),
               {"spiece.model": (change_bytes,)}, 1.5),
        Reader("hf.decoder", _decoder_folder, _import("hf"), decoder | {"tok*": JSON}, 2),
        Reader("hf.t5", _t5_folder, _import("hf"), t5, 2),
        Reader("t5x.index", _t5x_index, _import("t5x", *byte), index, 0.8),
        Reader("t5x.orbax", _t5x_orbax, _import("t5x", *byte), orbax, 0.8),
    ]  # fmt: skip
