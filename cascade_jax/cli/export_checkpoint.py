"""`cascade-jax export`: a run's model as a folder of transformers or T5X."""

from dataclasses import dataclass
from pathlib import Path

from cascade_jax import checks
from cascade_jax.cli.flags import at_least, choice, flag, one_of
from cascade_jax.cli.import_checkpoint import TOKENIZER, progress

HELP = """\
Writes a run's model as a folder that transformers loads, with the files of its tokenizer, or as a
checkpoint of T5X. What LoRA has trained is merged into its base.

example:
  cascade-jax export --to hf --run runs/gemma/cat_dist --checkpoint best --out served \\
    --tokenizer runs/gemma_270m/tokenizer
"""
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The values of the flags."""

    to: str = flag(
        "hf|t5x",
        "a folder of transformers: config.json and safetensors; or T5X's checkpoint_<step> in the "
        "folder --out",
        type=one_of("hf", "t5x"),
    )
    run: str = flag("FOLDER", "the run folder, trained or imported")
    checkpoint: str = choice("which of its checkpoints", "best", "last")
    out: str = flag("FOLDER", "the folder to make; does not exist yet, or is empty")
    tokenizer: str | None = flag(
        "FOLDER", "whose tokenizer files are copied; those of an imported run without it", None
    )
    dtype: str = choice("of the numbers", *_DTYPES)
    layout: str | None = flag(
        "scanned|unrolled",
        "of T5X's checkpoint: layers stacked, for its scalable network, or apart, for its minimal "
        "one; unrolled without it, or scanned for a model with a relative position bias per layer",
        None,
        type=one_of("scanned", "unrolled"),
    )
    pad_id: int | None = flag(
        "N", "this id and 0 change places again; else by the tokenizer", None, type=at_least(0)
    )


FLAGS = ExportConfig


def run(config: ExportConfig) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a run without a checkpoint, a model that transformers lacks, a folder in use.
      OSError: a file that is not there, a full disk.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")  # as for the import
    from cascade_jax.interop import hf, hf_folder
    from cascade_jax.parallel.mesh import MeshConfig
    from cascade_jax.runs import checkpoints, parameters, run_folder

    hf_folder.check_empty(config.out)
    described = checkpoints.config_of(config.run)
    model = run_folder.model_in(config.run)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    step = checkpoints.chosen_step(config.run, config.checkpoint)
    params = parameters.load(Path(config.run), step, model, mesh)
    if config.to == "t5x":
        print(_to_t5x(config, model, params, step))
        return
    if config.layout is not None:
        raise ValueError(f"--layout {config.layout} is for --to t5x")
    tokenizer = _tokenizer(config)
    pad_id = _pad_id(config, described, tokenizer)
    options = {"dtype": _DTYPES[config.dtype], "progress": progress("export")}
    files = hf.save(config.out, model, params, tokenizer_from=tokenizer, pad_id=pad_id, **options)
    print(f"{config.out}: step {step} of {config.run} in {', '.join(file.name for file in files)}")


def _to_t5x(config: ExportConfig, model, params, step: int) -> str:
    from cascade_jax.interop import t5x_checkpoints, t5x_layouts
    from cascade_jax.models.config import T5Config

    if not isinstance(model, T5Config):
        raise ValueError(f"{config.run} is a {type(model).__name__}; T5X has encoder-decoders only")
    if config.dtype == "float16":
        raise ValueError("--dtype float16 is for --to hf; T5X has float32 and bfloat16")
    per_layer = model.relative_bias_per_layer
    layout = config.layout or (t5x_layouts.SCANNED if per_layer else t5x_layouts.UNROLLED)
    file = t5x_checkpoints.save(config.out, model, params, step, layout=layout, dtype=config.dtype)
    network = "t5x/examples/t5"
    if layout == t5x_layouts.SCANNED or per_layer:
        network = f"t5x/examples/scalable_t5, scan_layers = {layout == t5x_layouts.SCANNED}"
    return f"{file}: step {step} of {config.run}, for {network}"


def _tokenizer(config: ExportConfig) -> Path | None:
    if config.tokenizer is None:
        own = Path(config.run) / TOKENIZER
        return own if own.is_dir() else None
    if not Path(config.tokenizer).is_dir():
        raise ValueError(f"--tokenizer {config.tokenizer}: no such folder")
    return Path(config.tokenizer)


def _pad_id(config: ExportConfig, described: dict, tokenizer: Path | None) -> int:
    if config.pad_id is not None:
        return config.pad_id
    if "imported" in described:
        imported = described["imported"]
        pad_id = imported.get("pad_id") if isinstance(imported, dict) else None
        checks.whole_number(f"{config.run}/config.json: imported.pad_id", pad_id, 0)
        return pad_id
    if tokenizer is not None and (tokenizer / "tokenizer.json").is_file():
        from cascade_jax.data.vocabulary import tokenizer_json

        return tokenizer_json.padding_id(str(tokenizer / "tokenizer.json"))
    return 0
