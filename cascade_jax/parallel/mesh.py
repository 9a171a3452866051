"""The device mesh a run is split over.

Four axes, any of which may be 1. The batch is split over the first three:

    dcn_data   slices of TPUs that only the data-center network joins; exchanges gradients alone
    data       every device holds the parameters whole, as far as `tensor` does not split them
    fsdp       parameters are split too, and gathered a layer at a time where they are used
    tensor     heads, MLP and vocabulary are split, and so is what is computed of them
"""

import dataclasses
import math

import jax
import numpy as np
from jax.experimental import mesh_utils

DCN_DATA = "dcn_data"
DATA = "data"
FSDP = "fsdp"
TENSOR = "tensor"
AXES = (DCN_DATA, DATA, FSDP, TENSOR)
BATCH_AXES = (DCN_DATA, DATA, FSDP)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices.

    Attributes:
      data, fsdp, tensor: see the module's text; -1 for one of them takes the devices that the
        others leave.
      dcn_data: slices. More than one needs a multi-slice job.
      topology: the TPU slice that the sizes are meant for, e.g. "v5e:4x8"; `cascade-jax plan` reads
        it, a run does not.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    dcn_data: int = 1
    topology: str | None = None

    def __post_init__(self):
        sizes = self._sizes()
        for axis, size in zip(AXES, sizes, strict=True):
            if type(size) is not int or (size < 1 and size != -1) or (axis, size) == (DCN_DATA, -1):
                raise ValueError(
                    f"{self}: {axis} must be an integer of at least 1"
                    + (", or -1 for the devices that the others leave" if axis != DCN_DATA else "")
                )
        if sizes.count(-1) > 1:
            raise ValueError(f"{self}: only one of data, fsdp and tensor can be -1")

    def __str__(self):
        pairs = zip(AXES, self._sizes(), strict=True)
        shown = [f"{axis}={size}" for axis, size in pairs if axis != DCN_DATA or size != 1]
        return f"mesh ({', '.join(shown)})"

    def _sizes(self) -> tuple[int, ...]:
        return self.dcn_data, self.data, self.fsdp, self.tensor

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes of the four axes on so many devices.

        Raises:
          ValueError: if their product is another number.
        """
        product = math.prod(size for size in self._sizes() if size != -1)
        left = num_devices // product
        sizes = tuple(left if size == -1 else size for size in self._sizes())
        if math.prod(sizes) != num_devices or 0 in sizes:
            needs = f"it needs {product}"
            if -1 in self._sizes():
                fixed = " * ".join(a for a, n in zip(AXES, self._sizes(), strict=True) if n != -1)
                needs = f"{num_devices} must be a multiple of {fixed}, which is {product}"
            raise ValueError(f"{self} does not divide the {num_devices} devices there are; {needs}")
        return sizes

    def build(self, devices=None) -> jax.sharding.Mesh:
        """Makes the mesh with axes AXES, of all of `jax.devices()` unless `devices` are given.

        Raises:
          ValueError: if the sizes do not divide the number of devices, or dcn_data is not the
            number of TPU slices.
        """
        devices = jax.devices() if devices is None else devices
        shape = self.shape(len(devices))
        if devices[0].platform != "tpu":
            return jax.sharding.Mesh(np.asarray(devices).reshape(shape), AXES)
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        if slices != self.dcn_data:
            raise ValueError(f"{self}: the devices are {slices} slices; dcn_data must be {slices}")
        # Neighbours in the mesh become neighbours on the torus.
        if slices == 1:
            array = mesh_utils.create_device_mesh(shape, devices=devices)
        else:
            array = mesh_utils.create_hybrid_device_mesh(
                (1, *shape[1:]), (slices, 1, 1, 1), devices=devices
            )
        return jax.sharding.Mesh(array, AXES)
