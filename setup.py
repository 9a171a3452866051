"""Metadata of the package; settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "cascade_jax/__init__.py").read_text())[1]

# The gin files live at the top of the repository and are installed inside the package, where
# `--gin_file=gin/...` finds them too. They hold no Python, so they are data of a namespace package.
GIN_FOLDERS = [path for path in (ROOT / "gin").rglob("*") if path.is_dir()] + [ROOT / "gin"]
GIN_PACKAGES = {
    "cascade_jax.installed." + ".".join(path.relative_to(ROOT).parts): str(path.relative_to(ROOT))
    for path in GIN_FOLDERS
}

setuptools.setup(
    name="cascade-jax",
    version=VERSION,
    description="Train and measure cascades of a small and a large language model in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*setuptools.find_packages(include=["cascade_jax*", "tasks*"]), *GIN_PACKAGES],
    package_dir=GIN_PACKAGES,
    package_data={
        "": ["*.gin"],
        "tasks": ["all.json"],
        "tasks.flan2021": ["prompts.toml"],
        "cascade_jax.report": ["assets/*.css", "assets/*.js"],
    },
    entry_points={"console_scripts": ["cascade-jax = cascade_jax.cli.main:main"]},
    install_requires=[
        "absl-py",
        "array_record",
        "editdistance",
        "flax",
        "gin-config",
        "importlib_resources",  # TensorFlow Datasets imports it to prepare data and does not say so
        "jax",
        "jaxtyping",
        "matplotlib",
        "ml_dtypes",
        "msgpack",
        "msgspec",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "pyarrow",
        "rouge-score",
        "sacrebleu",
        "scikit-learn>=1.7",  # from there on its networks take weights of examples
        "scipy",
        "sentencepiece",
        "seqio",
        "tensorboardX",
        "tensorflow-datasets",
        "tensorstore",
        "threadpoolctl",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "chat": ["jinja2>=3.1"],  # chat templates of tokenizers
        "ja": ["sacrebleu[ja]"],  # BLEU of Japanese: MeCab and its dictionary
        "test": [
            "beartype",
            "hypothesis",
            "filelock",
            "jinja2>=3.1",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools>=77",
        ],
        "browser": ["selenium"],  # tests of the report in Chromium; skipped without
        # What numbers are compared with; tests and benchmarks that want them are skipped without.
        "peers": ["accelerate", "gguf", "safetensors", "torch", "transformers"],
        "transformers": ["torch", "transformers"],  # similarity of answers by a cross-encoder
        "tpu": ["libtpu"],
        "cuda": ["jax[cuda]"],
        # T5X is not on the package index, and its own requirements would replace ours: clones go on
        # PYTHONPATH, see docs/t5x.md. This is what they miss then.
        "t5x": ["cached_property", "fiddle", "grain", "tensorboard"],
    },
)
