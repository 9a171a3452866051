"""Writes docs/map.md, the map of all Python files, from the first lines of their docstrings.

python docs/write_map.py        # or: make map
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
# Map of files

Made by `make map` from the first lines of the files' docstrings; do not edit. The rooms, in one
line each, are in the [README](../README.md#where-is-what)."""


def summary(file: Path) -> str:
    """The first line of a module's docstring; empty for an empty module."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def text() -> str:
    """The page."""
    lines = [HEAD]
    folders = ["cascade_jax", "tasks", "launch"]
    files = sorted(
        (path for folder in folders for path in (ROOT / folder).rglob("*.py")),
        key=lambda path: (folders.index(path.relative_to(ROOT).parts[0]), path.parent, path.name),
    )
    folder = None
    for file in files:
        says = summary(file)
        if not says:
            continue
        if file.parent != folder:
            folder = file.parent
            lines += [f"\n## {folder.relative_to(ROOT)}\n", "| file | |", "|---|---|"]
        lines.append(f"| [{file.name}](../{file.relative_to(ROOT)}) | {says} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs/map.md").write_text(text(), encoding="utf-8")
