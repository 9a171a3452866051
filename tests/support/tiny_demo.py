"""gin text of the demo with tiny models, which tests of whole commands begin with."""

from collections.abc import Mapping

SMALL = dict(embed_dim=8, num_heads=1, head_dim=8, mlp_dim=8)
LARGE = SMALL | dict(embed_dim=16, num_encoder_layers=1, num_decoder_layers=1)


def gin_text(
    macros: str,
    *imports: str,
    small: Mapping[str, float] = SMALL,
    large: Mapping[str, float] = LARGE,
) -> str:
    """The demo's file included, the fields of both models, and other lines.

    Args:
      macros: the other lines.
      *imports: import statements beside those that it needs itself.
      small, large: fields of the two models' T5Config.
    """
    needed = "from __gin__ import dynamic_registration", "from cascade_jax.models import config"
    lines = [*needed, *imports, "", 'include "gin/experiments/demo.gin"', ""]
    for scope, fields in (("small", small), ("large", large)):
        lines += [f"{scope}/config.T5Config.{name} = {value}" for name, value in fields.items()]
    return "\n".join([*lines, macros])
