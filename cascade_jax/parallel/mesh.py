"""The device mesh a run is split over."""

import dataclasses

import jax
import numpy as np
from jax.experimental import mesh_utils

DATA = "data"
MODEL = "model"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices.

    Attributes:
      data: how many ways the batch is split; -1 takes the devices that `model` leaves.
      model: how many ways heads, MLP and vocabulary are split.
    """

    data: int = -1
    model: int = 1

    def __post_init__(self):
        if self.model < 1 or (self.data < 1 and self.data != -1):
            raise ValueError(
                f"mesh (data={self.data}, model={self.model}): model must be at least 1, "
                "data at least 1 or -1"
            )

    def build(self, devices=None) -> jax.sharding.Mesh:
        """Makes the mesh with axes ("data", "model").

        Args:
          devices: the devices to use; all of `jax.devices()` if None.

        Raises:
          ValueError: if the sizes do not divide the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        data = len(devices) // self.model if self.data == -1 else self.data
        if data * self.model != len(devices):
            raise ValueError(
                f"mesh (data={self.data}, model={self.model}) does not divide the "
                f"{len(devices)} devices there are; data * model must be {len(devices)}"
            )
        shape = (data, self.model)
        if devices[0].platform == "tpu":  # neighbours in the mesh become neighbours on the torus
            array = mesh_utils.create_device_mesh(shape, devices=devices)
        else:
            array = np.asarray(devices).reshape(shape)
        return jax.sharding.Mesh(array, (DATA, MODEL))
