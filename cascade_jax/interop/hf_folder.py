"""The tokenizer files of a folder of transformers."""

import os
import shutil
from pathlib import Path

# Files that make up a tokenizer, of whichever kind.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json", "generation_config.json",
)  # fmt: skip
CHAT_TEMPLATES = "additional_chat_templates"  # a folder of them


def check_empty(folder: str | os.PathLike) -> None:
    """Raises a ValueError if the folder is a file or not empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; delete it or name another folder")


def copy_tokenizer(
    source: str | os.PathLike | None, folder: Path, *, with_config: bool = False
) -> None:
    """Copies the files of a tokenizer, whichever there are, unless the source is None.

    `with_config` adds config.json, which numbers the special tokens.
    """
    for name in (*TOKENIZER_FILES, *(["config.json"] if with_config else [])):
        if source is not None and (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, folder / name)
    if source is not None and (Path(source) / CHAT_TEMPLATES).is_dir():
        shutil.copytree(Path(source) / CHAT_TEMPLATES, folder / CHAT_TEMPLATES)
