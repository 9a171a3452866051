"""`cascade-jax import`: a run folder from a public checkpoint."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_jax.cli.flags import at_least, choice, flag, one_of

HELP = """\
Makes a run folder of a public checkpoint: what a teacher_run or a student's start may name. Beside
its checkpoint stand model.gin (the model as gin bindings) and the files of its tokenizer.

example:
  cascade-jax import --from hf --path models/gemma-3-270m --out runs/gemma_270m --macro SMALL
  cascade-jax import --from hf --path models/flan-t5-xxl --out runs/flan_xxl --scan_layers
  cascade-jax import --from hf --path models/smollm2 --out runs/small --macro SMALL --layers 10
  cascade-jax import --from t5x --path flan_t5_small/checkpoint_1198000 --out runs/flan_small \\
    --vocabulary t5.model+100
"""
SOURCES = ("hf", "t5x")
TOKENIZER = "tokenizer"  # sub-folder of the run


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The values of the flags."""

    source: str = flag(
        "hf|t5x",
        "a folder of transformers: config.json and safetensors; or one of T5X, local or gs://, "
        "which has no tokenizer: give --vocabulary",
        type=one_of(*SOURCES),
        name="from",
    )
    path: str = flag("FOLDER", "where it is")
    out: str = flag("FOLDER", "the run folder to make; does not exist yet, or is empty")
    macro: str = choice("what model.gin calls the model", "LARGE", "SMALL")
    scan_layers: bool = flag(None, "stacks the layers' parameters, for a model of many layers")
    layers: int | None = flag(
        "N",
        "keeps so many of the layers, evenly spaced, for a student; of a T5, in each stack",
        None,
        type=at_least(1),
    )
    encoder_layers: int | None = flag(
        "N", "with --layers: so many of a T5's encoder instead", None, type=at_least(1)
    )
    dtype: str = choice("of the computation, for model.gin", "float32", "bfloat16")
    vocabulary: str | None = flag(
        "SPEC", "as in a data file; else the tokenizer in the folder", None
    )
    pad_id: int | None = flag(
        "N",
        "this id and 0 change places, so that 0 is padding; 0 for none; else by the tokenizer",
        None,
        type=at_least(0),
    )
    vocab_size: int | None = flag(
        "N",
        "keeps only the ids below N, where one model of a pair has more ids, all unused",
        None,
        type=at_least(2),
    )


FLAGS = ImportConfig


def run(config: ImportConfig) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a checkpoint or vocabulary that will not do, a folder that is in use.
      OSError: a file that is not there, a full disk.
    """
    import jax

    # Reading and writing alone: an accelerator's memory may be too small for all of a model.
    jax.config.update("jax_platforms", "cpu")
    from cascade_jax.interop import hf_folder
    from cascade_jax.runs import checkpoints, run_folder

    out = Path(config.out)
    hf_folder.check_empty(out)
    loaded = _with_layers(config, (_from_hf if config.source == "hf" else _from_t5x)(config))
    # All of the folder, or nothing of it.
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        if config.source == "hf":
            (temporary / TOKENIZER).mkdir()
            hf_folder.copy_tokenizer(config.path, temporary / TOKENIZER, with_config=True)
        source = {"from": config.source, "path": _absolute(config.path), **loaded.source}
        written = run_folder.write_imported(temporary, loaded.model, loaded.fingerprint, source)
        checkpoints.save_parameters(temporary, loaded.params, written)
        (temporary / "model.gin").write_text(_gin(config, loaded.model, loaded.vocabulary))
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    count = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
    kind = loaded.source["model_type"]
    print(f"{out}: {kind}, {count:,} parameters; include {out / 'model.gin'}")


def _model_with_layers(config: ImportConfig, model: Any) -> Any:
    """The model's config, with the layers that the flags ask for."""
    if config.layers is None:
        if config.encoder_layers is not None:
            raise ValueError("--encoder_layers goes with --layers, those of the decoder")
        return model
    from cascade_jax.models import shallow

    return shallow.with_layers(model, config.layers, config.encoder_layers)


def _with_layers(config: ImportConfig, loaded: "_Loaded") -> "_Loaded":
    """The model with some of its layers, if the flags ask for some."""
    if config.layers is None:
        return loaded
    from cascade_jax.models import shallow

    model = _model_with_layers(config, loaded.model)
    asked = {"layers": config.layers, "encoder_layers": config.encoder_layers}
    return dataclasses.replace(
        loaded,
        model=model,
        params=shallow.choose_layers(loaded.params, model, loaded.model),
        source=loaded.source | {name: value for name, value in asked.items() if value},
    )


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


@dataclass(frozen=True)
class _Loaded:
    """A model, and its origin for config.json."""

    model: Any
    params: Any
    vocabulary: str
    fingerprint: str
    source: dict[str, Any]


def _from_hf(config: ImportConfig) -> _Loaded:
    from cascade_jax.interop import hf

    family, described = hf.check(config.path)
    _model_with_layers(config, described)  # refuses before it takes a while
    vocabulary = _vocabulary(config, family.model_type)
    pad_id = _pad_id(config, vocabulary)
    fingerprint = _fingerprint(vocabulary, config.vocab_size or described.vocab_size)
    model, params = hf.load(
        config.path,
        scan_layers=config.scan_layers,
        dtype=config.dtype,
        pad_id=pad_id,
        vocab_size=config.vocab_size,
        progress=progress("import"),
    )
    source = {"model_type": family.model_type, "pad_id": pad_id}
    return _Loaded(model, params, vocabulary, fingerprint, source)


def _from_t5x(config: ImportConfig) -> _Loaded:
    from cascade_jax.interop import t5x_checkpoints

    if config.vocabulary is None:
        raise ValueError(
            "a T5X checkpoint has no tokenizer: give --vocabulary, for T5's public models the path "
            "of their SentencePiece model and +100 behind it"
        )
    if config.pad_id or config.vocab_size:
        raise ValueError("--pad_id and --vocab_size are for --from hf; T5X's ids stay as they are")
    changes = {"scan_layers": config.scan_layers, "dtype": config.dtype}
    model = dataclasses.replace(t5x_checkpoints.config_of(config.path), **changes)
    _model_with_layers(config, model)  # refuses before it takes a while
    fingerprint = _fingerprint(config.vocabulary, model.vocab_size)
    checkpoint = t5x_checkpoints.load(config.path, model)
    print(
        f"{config.path}: a T5X checkpoint does not say its activations; taken to be "
        f"{', '.join(model.mlp_activations)}"
    )
    if model.relative_bias_per_layer:
        print(
            f"{config.path}: its layers have different relative position biases, so the model has "
            "relative_bias_per_layer = True"
        )
    source = {"model_type": "t5x", "pad_id": 0, "step": checkpoint.step}
    return _Loaded(model, checkpoint.params, config.vocabulary, fingerprint, source)


def progress(label: str):
    """A bar over tensors, on standard error."""
    from cascade_jax.progress import progress_bar

    return functools.partial(progress_bar, desc=label, unit=" tensors")


def _vocabulary(config: ImportConfig, model_type: str) -> str:
    """The vocabulary's name as a data file has it."""
    if config.vocabulary is not None:
        return config.vocabulary
    # The 100 sentinels of T5's public models are not in their SentencePiece file, mT5's are.
    sentencepiece = "spiece.model+100" if model_type == "t5" else "spiece.model"
    names = [sentencepiece, "tokenizer.json", "tokenizer.model"]
    if there := [n for n in names if Path(config.path, n.removesuffix("+100")).is_file()]:
        if len(there) > 1:
            rest = ", ".join(there[1:])
            print(f"{config.path}: the vocabulary is {there[0]}, not {rest}; see --vocabulary")
        return str(Path(config.path, there[0]))
    raise ValueError(
        f"{config.path} has none of {', '.join(names)}: say with --vocabulary which vocabulary the "
        "model has"
    )


def _pad_id(config: ImportConfig, vocabulary: str) -> int:
    if config.pad_id is not None:
        return config.pad_id
    from cascade_jax.data.vocabulary import tokenizer_json

    return tokenizer_json.padding_id(vocabulary) if tokenizer_json.is_spec(vocabulary) else 0


def _fingerprint(spec: str, model_ids: int) -> str:
    about = facts_apart(spec)
    if "error" in about:
        raise ValueError(about["error"])
    if about["size"] > model_ids:
        raise ValueError(f"vocabulary {spec!r} has {about['size']} ids, the model only {model_ids}")
    return about["fingerprint"]


def facts_apart(spec: str) -> dict[str, Any]:
    """`facts` from a process of its own.

    seqio imports TensorFlow, whose 0.7 GB would otherwise stay beside the parameters.
    """
    code = (
        "import json, sys; from cascade_jax.cli import import_checkpoint as command; "
        "print(json.dumps(command.facts(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the vocabulary's process failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def facts(spec: str) -> dict[str, Any]:
    """Size and fingerprint of a vocabulary, or under "error" what is wrong with it."""
    from cascade_jax.data.vocabulary import load as vocabulary

    try:
        loaded = vocabulary.load_vocabulary(spec)
        return {"size": loaded.vocab_size, "fingerprint": vocabulary.fingerprint(loaded)}
    except (ValueError, OSError) as error:
        return {"error": str(error)}


def _gin(config: ImportConfig, model, vocabulary: str) -> str:
    from cascade_jax.cli import model_gin

    kept = Path(config.out) / TOKENIZER / Path(vocabulary).name
    spec = vocabulary if config.vocabulary is not None else str(kept)
    comment = f"{Path(config.path).name}, imported; data files want VOCABULARY = {spec!r}"
    return model_gin.text(model, config.macro, comment)
