"""A model's config as a gin file, to be included by experiments."""

import dataclasses
from typing import Any

from cascade_jax.models.families import ModelConfig

_SCOPES = {"LARGE": "large", "SMALL": "small"}
MACROS = tuple(_SCOPES)


def text(config: ModelConfig, macro: str, comment: str) -> str:
    """The lines of a file like gin/models/*.gin.

    Args:
      config: of the model.
      macro: what the model is called: one of MACROS.
      comment: first line, without its #.
    """
    scope = _SCOPES[macro]
    lines = [f"{macro} = @{scope}/config.{type(config).__name__}()", *_bindings(config, scope)]
    imports = ["from __gin__ import dynamic_registration", "from cascade_jax.models import config"]
    return "\n".join([f"# {comment}", *imports, "", *lines]) + "\n"


def _bindings(config: Any, scope: str) -> list[str]:
    """One line for every field that is not at its default."""
    name, lines, inner = f"{scope}/config.{type(config).__name__}", [], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            inner += _bindings(value, scope)
            value = f"@{scope}/config.{type(value).__name__}()"
        elif isinstance(value, tuple):
            value = list(value)
        written = value if isinstance(value, str) and value.startswith("@") else repr(value)
        lines.append(f"{name}.{field.name} = {written}")
    return lines + inner
