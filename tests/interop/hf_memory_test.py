"""How much memory the import of a large folder takes: little more than its parameters."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cascade_jax.interop import hf_names
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig

pytestmark = pytest.mark.medium

CONFIG = DecoderConfig(32000, 2048, 15, 16, 8, 128, 5632, bos_id=1)
_CODE = """
import re, sys
from cascade_jax.cli import main
status = main.main(sys.argv[1:])
found = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
print(status, int(found[1]) * 1024)
"""


def _write(folder: Path) -> int:
    """A folder of float32 numbers, by the format's description alone; gives its bytes."""
    shapes = flatten_dict(nn.unbox(families.parameter_shapes(CONFIG)))
    entries, end = {}, 0
    for path, leaf in shapes.items():
        source = hf_names.source(CONFIG, path)
        shape = leaf.shape[::-1] if source.is_transposed else leaf.shape
        start, end = end, end + 4 * math.prod(shape)
        entries[source.name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    block = np.random.default_rng(0).normal(size=1 << 22).astype(np.float32).tobytes()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, end, len(block)):
            stream.write(block[: min(len(block), end - start)])
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 15,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 5632, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return end


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
def test_memory_of_an_import(tmp_path, repository):
    (tmp_path / "public").mkdir()
    size = _write(tmp_path / "public")
    assert 2.9e9 < size < 3.2e9
    for extra in ([], ["--scan_layers"]):  # stacked, the largest parameters are 0.7 GB
        arguments = [f"--path={tmp_path}/public", f"--out={tmp_path}/run_{len(extra)}", *extra]
        done = subprocess.run(
            [sys.executable, "-c", _CODE, "import", "--from=hf", "--vocabulary=byte", *arguments],
            cwd=repository, capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        status, peak = map(int, done.stdout.splitlines()[-1].split())
        print(f"{size / 1e9:.2f} GB of numbers, {peak / 1e9:.2f} at the peak: {peak / size:.3f}")
        assert status == 0, done.stderr
        assert peak < 1.3 * size
