"""`cascade-jax import` and `export`: from a public folder to a run, to an experiment, and back."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax import records
from cascade_jax.cli import export_checkpoint, flags, gin_config, import_checkpoint, main
from cascade_jax.interop import hf, t5x_checkpoints
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, RopeScaling, T5Config
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, run_folder, state
from tests.support import layers

T5 = T5Config(384, 8, 2, 4, 12, 1, 1, tied_logits=True, dropout_rate=0.0)
DECODER = DecoderConfig(
    384, 8, 4, 2, 1, 4, 12,
    mlp_activations=("gelu", "linear"), norm_adds_one=True, post_norms=True, qk_norm=True,
    scaled_embedding=True, sliding_window=3, attention_kinds=("sliding", "full"),
    rope_theta=1e6, rope_scaling=RopeScaling(8.0), sliding_rope_theta=1e4, bos_id=2,
)  # fmt: skip
CONFIGS = {"t5": T5, "decoder": DECODER}


@pytest.fixture(autouse=True)
def _vocabulary_in_this_process(request, monkeypatch):
    """Saves the seconds of a process that imports TensorFlow; one test lets it be started."""
    if "apart" not in request.node.name:
        monkeypatch.setattr(import_checkpoint, "facts_apart", import_checkpoint.facts)


@pytest.mark.medium
def test_facts_of_a_vocabulary_found_apart_are_the_same():
    actual = import_checkpoint.facts_apart("byte")
    assert actual == import_checkpoint.facts("byte") == {"size": 259, "fingerprint": "byte-259"}


def random_parameters(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(families.parameter_shapes(config))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def public_folder(folder, config):
    """What someone has downloaded: made by our export, which other tests compare."""
    hf.save(folder, config, random_parameters(config))
    return folder


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scan", [False, True])
def test_some_layers_of_a_folder_are_a_run_of_their_own(scan, tmp_path, capsys):
    source = public_folder(tmp_path / "public", DECODER)
    argv = ["import", "--from=hf", f"--path={source}", "--vocabulary=byte", "--macro=SMALL"]
    argv += ["--scan_layers"] if scan else []
    assert main.main([*argv, f"--out={tmp_path}/run", "--layers=2"]) == 0, capsys.readouterr().err
    described = checkpoints.config_of(tmp_path / "run")
    model = run_folder.model_of(described)
    # Layers 0 and 3 of four, of which every second has no window.
    assert model == dataclasses.replace(DECODER, num_layers=2, scan_layers=scan)
    assert described["imported"]["layers"] == 2
    text = (tmp_path / "run/model.gin").read_text()
    assert "SMALL = " in text and "small/config.DecoderConfig.num_layers = 2" in text
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    abstract = state.abstract_parameters(families.build(model), mesh)
    result = checkpoints.load_parameters(tmp_path / "run", 0, abstract)
    params = random_parameters(DECODER)
    expected = {name: leaf for name, leaf in params.items() if not name.startswith("layers_")}
    kept = [params["layers_0"], params["layers_3"]]
    if scan:
        expected["layers"] = jax.tree.map(lambda *both: np.stack(both), *kept)
    else:
        expected |= {"layers_0": kept[0], "layers_1": kept[1]}
    assert_same(result, expected)
    if not scan:
        argv = [*argv, f"--out={tmp_path}/more"]
        error = _fails(capsys, [*argv, "--layers=5"])
        assert "layers is 5; must be an integer of at least 1 and at most 4" in error
        assert "--encoder_layers goes with --layers" in _fails(
            capsys, [*argv, "--encoder_layers=1"]
        )
        assert "has no encoder" in _fails(capsys, [*argv, "--layers=2", "--encoder_layers=1"])
        assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("scan", [False, True])
def test_from_a_checkpoint_of_t5x_to_a_run_and_back(scan, tmp_path, capsys):
    params = random_parameters(T5)
    source = t5x_checkpoints.save(tmp_path / "public", T5, params, 70)
    flags = [f"--path={source}", f"--out={tmp_path}/run", "--vocabulary=byte"]
    argv = ["import", "--from=t5x", *flags, *(["--scan_layers"] if scan else [])]
    assert main.main(argv) == 0, capsys.readouterr().err
    described = checkpoints.config_of(tmp_path / "run")
    assert described["imported"]["step"] == 70 and described["imported"]["from"] == "t5x"
    model = run_folder.model_of(described)
    assert model.scan_layers == scan and model.mlp_activations == T5.mlp_activations
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    abstract = state.abstract_parameters(families.build(model), mesh)
    result = checkpoints.load_parameters(tmp_path / "run", 0, abstract)
    assert_same(layers.unstack_layers(result) if scan else result, params)
    argv = ["export", "--to=t5x", f"--run={tmp_path}/run", f"--out={tmp_path}/out"]
    assert main.main(argv) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "out").iterdir()
    assert_same(t5x_checkpoints.load(folder, T5).params, params)


@pytest.mark.parametrize(
    "layout", [None, pytest.param("scanned", marks=pytest.mark.slow), "unrolled"]
)
def test_a_bias_per_layer_from_t5x_to_a_run_and_back(layout, tmp_path, capsys):
    config = dataclasses.replace(T5, num_decoder_layers=2, relative_bias_per_layer=True)
    params = random_parameters(config)
    source = t5x_checkpoints.save(tmp_path / "public", config, params, 70, layout="scanned")
    flags = [f"--path={source}", f"--out={tmp_path}/run", "--vocabulary=byte"]
    assert main.main(["import", "--from=t5x", *flags]) == 0, capsys.readouterr().err
    assert run_folder.model_of(checkpoints.config_of(tmp_path / "run")).relative_bias_per_layer
    assert "relative_bias_per_layer = True" in (tmp_path / "run" / "model.gin").read_text()
    said = capsys.readouterr().out
    assert "its layers have different relative position biases" in said
    assert "a T5X checkpoint does not say its activations; taken to be relu" not in said
    assert "taken to be gelu, linear" in said
    argv = ["export", f"--run={tmp_path}/run", f"--out={tmp_path}/out"]
    asked = [f"--layout={layout}"] if layout else []
    assert main.main([*argv, "--to=t5x", *asked]) == 0, capsys.readouterr().err
    is_scanned = layout != "unrolled"
    network = f"t5x/examples/scalable_t5, scan_layers = {is_scanned}"
    assert capsys.readouterr().out.endswith(f", for {network}\n")
    (folder,) = (tmp_path / "out").iterdir()
    loaded = t5x_checkpoints.load(folder, config)
    assert loaded.layout == ("scanned" if is_scanned else "unrolled")
    assert_same(loaded.params, params)
    if layout is None:
        argv = [*argv[:2], f"--out={tmp_path}/hf", "--to=hf"]
        error = _fails(capsys, argv)
        assert "the layers of the decoder have different relative position biases" in error
        assert "--layout scanned is for --to t5x" in _fails(capsys, [*argv, "--layout=scanned"])


@pytest.mark.parametrize("scan_layers", [False, True])
def test_equal_biases_of_layers_are_one_for_transformers(scan_layers, tmp_path):
    one = dataclasses.replace(T5, num_decoder_layers=3)
    params = random_parameters(one)
    t5x = t5x_checkpoints.save(tmp_path / "t5x", one, params, layout="scanned")
    each = dataclasses.replace(one, relative_bias_per_layer=True, scan_layers=scan_layers)
    hf.save(tmp_path / "hf", each, t5x_checkpoints.load(t5x, each).params)
    loaded = hf.load(tmp_path / "hf")
    assert loaded[0] == one
    assert_same(loaded[1], params)


@pytest.mark.parametrize("kind", CONFIGS)
def test_from_a_public_folder_to_a_run_and_back(kind, tmp_path, capsys):
    config = CONFIGS[kind]
    source = public_folder(tmp_path / "public", config)
    run, out = tmp_path / "run", tmp_path / "served"
    arguments = ["--from", "hf", f"--path={source}", f"--out={run}", "--vocabulary=byte"]
    assert main.main(["import", *arguments, "--scan_layers", "--pad_id=5"]) == 0
    described = checkpoints.config_of(run)
    model = run_folder.model_of(described)
    assert model.scan_layers and described["imported"]["pad_id"] == 5
    assert checkpoints.chosen_step(run, "best") == 0
    checkpoints.check_finished("student", run)
    assert main.main(["export", "--to=hf", f"--run={run}", f"--out={out}"]) == 0
    loaded = hf.load(out)
    assert loaded[0] == config
    assert_same(loaded[1], random_parameters(config))
    written = sorted(path.name for path in out.iterdir())
    assert written == ["config.json", "model.safetensors"]
    assert not list(tmp_path.glob(".*"))  # nothing temporary is left
    capsys.readouterr()


@pytest.mark.parametrize("macro", ["LARGE", "SMALL"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_model_gin_builds_the_imported_config(kind, macro, tmp_path):
    source = public_folder(tmp_path / "public", CONFIGS[kind])
    run = tmp_path / "run"
    arguments = ["--from=hf", f"--path={source}", f"--out={run}", "--vocabulary=byte"]
    arguments += [f"--macro={macro}", "--dtype=bfloat16"]
    assert main.main(["import", *arguments]) == 0
    gin_config.load([str(run / "model.gin")])
    built = gin_config.gin.query_parameter(f"{macro}/gin.macro.value").scoped_configurable_fn()
    assert built == run_folder.model_of(checkpoints.config_of(run))
    assert built.dtype == "bfloat16"


@pytest.mark.medium
def test_imported_models_in_an_experiment(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    source = public_folder(tmp_path / "public", T5)
    for macro in ("LARGE", "SMALL"):
        arguments = ["--from=hf", f"--path={source}", f"--out={tmp_path / macro}"]
        arguments += [f"--macro={macro}", "--vocabulary=byte"]
        assert main.main(["import", *arguments]) == 0
    (tmp_path / "pair.gin").write_text(
        f'include "{tmp_path}/LARGE/model.gin"\ninclude "{tmp_path}/SMALL/model.gin"\n'
        "STUDENT = %SMALL\nTEACHER = %LARGE\n"
    )
    settings = {
        "TEACHER_RUN": f"'{tmp_path}/LARGE'", "OUTPUT_DIR": f"'{tmp_path}/runs'",
        "NAME": "'student'", "STUDENT_STEPS": 1, "STUDENT_LEARNING_RATE": 0.01, "BATCH_SIZE": 8,
        "SCHEDULE": "'constant'", "EVAL_BATCHES": 1, "COLLECT_LIMIT": 4,
        "MIXTURE": "'demo_last_v1'",
    }  # fmt: skip
    files = ["gin/runs/student.gin", tmp_path / "pair.gin", "gin/data/demo.gin"]
    arguments = [f"--gin_file={file}" for file in (*files, "gin/losses/cat_dist.gin")]
    arguments += [f"--gin.{name}={value}" for name, value in settings.items()]
    # As a teacher; then as a student that answers as it was imported.
    assert main.main(["train", *arguments]) == 0
    assert main.main(["collect", *arguments, f"--gin.NAMES=['{tmp_path}/SMALL']"]) == 0
    rows = records.read(tmp_path / "runs" / "records" / "validation" / "SMALL.parquet")
    assert rows.student_answer.tolist() == rows.teacher_answer.tolist()
    assert len(rows.student_tokens) > 0
    # What was trained goes out as well.
    student = tmp_path / "runs" / "student"
    assert main.main(["export", "--to=hf", f"--run={student}", f"--out={tmp_path}/served"]) == 0
    config, params = hf.load(tmp_path / "served")
    step = checkpoints.chosen_step(student, "best")
    assert (config, step) == (T5, 1)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    abstract = state.abstract_parameters(families.build(config), mesh)
    assert_same(params, checkpoints.load_parameters(student, step, abstract))


def test_a_run_of_a_version_without_a_bias_per_layer_is_the_same_run(tmp_path):
    """Its config.json lacks the field, and so does a new one that is at the default."""
    described = run_folder.describe(T5)
    assert "relative_bias_per_layer" not in described
    assert run_folder.model_of({"model": described}) == T5
    per_layer = dataclasses.replace(T5, relative_bias_per_layer=True)
    assert run_folder.model_of({"model": run_folder.describe(per_layer)}) == per_layer
    config = {"model": described, "data": {}, "steps": 1, "vocabulary_fingerprint": "a"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_folder.check(tmp_path, config | {"model": run_folder.describe(T5)})
    with pytest.raises(ValueError, match="relative_bias_per_layer was None and is now True"):
        run_folder.check(tmp_path, config | {"model": run_folder.describe(per_layer)})


def test_an_imported_folder_is_not_trained_in(tmp_path):
    source = public_folder(tmp_path / "public", T5)
    run = tmp_path / "run"
    arguments = ["--from=hf", f"--path={source}", f"--out={run}", "--vocabulary=byte"]
    assert main.main(["import", *arguments]) == 0
    with pytest.raises(ValueError, match="holds an imported model"):
        run_folder.check(run, run_folder.describe(T5))


def _fails(capsys, argv) -> str:
    capsys.readouterr()
    assert main.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_bad_usage_is_answered_in_one_line(tmp_path, capsys):
    source = public_folder(tmp_path / "public", T5)
    good = ["import", "--from=hf", f"--path={source}", f"--out={tmp_path}/run"]
    assert "give --out" in _fails(capsys, good[:3])
    assert "--from: 'gguf' is not one of hf, t5x" in _fails(
        capsys, ["import", "--from=gguf", *good[2:]]
    )
    assert "no config.json" in _fails(capsys, [*good, f"--path={tmp_path}", "--vocabulary=byte"])
    assert "say with --vocabulary which" in _fails(capsys, good)
    assert "does not exist" in _fails(capsys, [*good, "--vocabulary=nothing.model"])
    byte = [*good, "--vocabulary=byte"]
    assert "has 359 ids, the model only 300" in _fails(
        capsys, [*good, "--vocabulary=byte+100", "--vocab_size=300"]
    )
    assert "pad_id is 384; must be" in _fails(capsys, [*byte, "--pad_id=384"])
    t5x = ["import", "--from=t5x", *good[2:]]
    assert "has no tokenizer: give --vocabulary" in _fails(capsys, t5x)
    assert "--pad_id and --vocab_size are for --from hf" in _fails(
        capsys, [*t5x, "--vocabulary=byte", "--pad_id=3"]
    )
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".*"))
    assert "exists already" in _fails(capsys, [*byte, f"--out={source}"])
    assert "exists already" in _fails(
        capsys, ["export", "--to=hf", f"--run={tmp_path}", f"--out={source}"]
    )
    assert "is not the folder of a run" in _fails(
        capsys, ["export", "--to=hf", f"--run={source.parent}", f"--out={tmp_path}/out"]
    )


def test_a_truncated_file_leaves_nothing_behind(tmp_path, capsys):
    source = public_folder(tmp_path / "public", T5)
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    arguments = ["import", "--from=hf", f"--path={source}", f"--out={tmp_path}/run"]
    error = _fails(capsys, [*arguments, "--vocabulary=byte"])
    assert f"{file} is truncated" in error
    assert [path.name for path in tmp_path.iterdir()] == ["public"]


def test_the_examples_of_both_helps_parse():
    for name, module in (("import", import_checkpoint), ("export", export_checkpoint)):
        text = module.HELP.replace("\\\n", " ")
        examples = [line.split() for line in text.splitlines() if "cascade-jax" in line]
        assert examples
        for program, command, *argv in examples:
            assert (program, command) == ("cascade-jax", name)
            assert Path(flags.parse(module.FLAGS, argv).out).parts


def test_tokenizer_files_travel_along(tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")
    pytest.importorskip("cascade_jax.data.vocabulary.tokenizer_json")
    source = public_folder(tmp_path / "public", DECODER)
    pieces = {f"t{i}": i for i in range(10)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="t0"))
    tokenizer.add_special_tokens(["<end>", "<pad>"])
    tokenizer.save(str(source / "tokenizer.json"))
    named = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "t0"}
    (source / "tokenizer_config.json").write_text(json.dumps(named))
    (source / "tokenizer.model").write_bytes(b"")  # of an older kind of tokenizer, say
    run, out = tmp_path / "run", tmp_path / "out"
    assert main.main(["import", "--from=hf", f"--path={source}", f"--out={run}"]) == 0
    said = f"{source}: the vocabulary is tokenizer.json, not tokenizer.model; see --vocabulary"
    assert said in capsys.readouterr().out
    described = checkpoints.config_of(run)
    assert described["imported"]["pad_id"] == 11  # "<pad>"
    assert str(run / "tokenizer" / "tokenizer.json") in (run / "model.gin").read_text()
    assert main.main(["export", "--to=hf", f"--run={run}", f"--out={out}"]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    capsys.readouterr()
