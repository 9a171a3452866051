"""The T5X adapter: T5X trains its own network with this project's losses and a frozen teacher.

`CascadeModel` is the model to name in a gin file, `Trainer` the trainer; gin/t5x holds examples.
The only module that imports T5X; nothing imports it but gin files and tests.
"""

import copy
import functools
from collections.abc import Callable, Mapping

import clu.metrics
import flax.struct
import jax
import seqio
from flax import core as flax_core
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from t5x import decoding, models, optimizers, partitioning, utils
from t5x import train_state as train_state_lib
from t5x import trainer as trainer_lib

from cascade_jax import batch as batch_lib
from cascade_jax import metrics, numerics
from cascade_jax.interop import t5x_checkpoints
from cascade_jax.losses import variants


class CascadeModel(models.EncoderDecoderModel):
    """T5X's encoder-decoder with a loss variant and a frozen teacher.

    The teacher is a second T5X network. Its parameters are no part of the train state: `Trainer`
    hands them to every step as an argument. Decoding, scoring and inference are T5X's.

    The loss takes whole logits of both models; T5X's networks do not give out hidden states.
    """

    def __init__(
        self,
        module: nn.Module,
        input_vocabulary: seqio.Vocabulary,
        output_vocabulary: seqio.Vocabulary,
        optimizer_def: optimizers.OptimizerDefType,
        loss: variants.Loss,
        teacher_module: nn.Module | None = None,
        decode_fn: models.DecodeFnCallable = decoding.beam_search,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        default_decoder_params: models.DecoderParams | None = None,
    ):
        """Puts a model together; arguments that are not named here are as in T5X.

        Args:
          module: the student's network.
          loss: the variant, which has T5X's label_smoothing, z_loss and normalising factor.
          teacher_module: the teacher's network; None for a loss that needs none.

        Raises:
          ValueError: if the loss needs a teacher and there is none.
        """
        super().__init__(
            module=module,
            input_vocabulary=input_vocabulary,
            output_vocabulary=output_vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
            feature_converter_cls=feature_converter_cls,
            default_decoder_params=default_decoder_params,
        )
        if loss.needs_teacher and teacher_module is None:
            raise ValueError(f"{type(loss).__name__} needs a teacher: give teacher_module")
        self.loss, self.teacher = loss, None
        if teacher_module is not None:
            self.teacher = models.EncoderDecoderModel(
                teacher_module, input_vocabulary, output_vocabulary, optimizer_def=None
            )
        self._teacher_params = self._step = None

    def bound(self, teacher_params: PyTree | None, step: Int[Array, ""]) -> "CascadeModel":
        """This model inside one step, where the teacher's parameters and the step are arguments."""
        model = copy.copy(self)
        model._teacher_params, model._step = teacher_params, step
        return model

    def loss_fn(
        self, params: PyTree, batch: Mapping[str, Array], dropout_rng: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], dict[str, clu.metrics.Metric]]:
        """The sum of the loss over the batch, and metrics: T5X's, then ours by our names.

        The sum, not the mean, so that the gradients of microbatches add up; `Trainer` divides them
        once by what the loss's normaliser counts.

        Raises:
          ValueError: if the model has a teacher and the trainer is not `Trainer`.
        """
        if self.teacher is not None and self._teacher_params is None:
            raise ValueError(
                "the teacher has no parameters here: a model with a teacher is trained by "
                "cascade_jax.interop.t5x.Trainer (in gin: train.trainer_cls)"
            )
        logits, theirs = self._compute_logits(params, batch, dropout_rng), None
        if self.teacher is not None:
            theirs = self.teacher._compute_logits(self._teacher_params, batch)
        tokens = batch_lib.from_seqio(batch)
        sums = self.loss(
            logits, theirs, tokens.targets, tokens.weights,
            step=self._step, every_metric=dropout_rng is None,
        )  # fmt: skip
        t5x_metrics = self._compute_metrics(
            logits=logits,
            targets=tokens.targets,
            mask=tokens.weights,
            loss=sums.loss_sum,
            segment_ids={k: v for k, v in batch.items() if k.endswith("_segment_ids")} or None,
        )
        ours = {name: _Mean(r.numerator, r.denominator) for name, r in sums.metrics.items()}
        return sums.loss_sum, {**t5x_metrics, **ours}


@flax.struct.dataclass
class _Mean(clu.metrics.Average):
    """T5X's kind of a `Ratio`: what nothing was counted for is 0, not a division by zero."""

    def compute(self):
        return metrics.Ratio(self.total, self.count).value()


def load_teacher(
    model: CascadeModel,
    partitioner: partitioning.BasePartitioner,
    path: str,
    dtype: str | None = None,
) -> tuple[PyTree, PyTree]:
    """Reads the teacher's parameters, split over the devices as T5X would split them.

    Args:
      model: with a teacher.
      partitioner: T5X's.
      path: one T5X checkpoint of the teacher's network, local or gs://.
      dtype: of the parameters on the devices; None keeps the checkpoint's.

    Returns:
      The parameters, and the mesh axes of each.

    Raises:
      ValueError: from `t5x_checkpoints.load_named`.
    """
    # Parameters do not depend on the lengths of a batch.
    shapes = dict.fromkeys(seqio.EncDecFeatureConverter.MODEL_FEATURES, (1, 1))
    initializer = utils.TrainStateInitializer(
        None, model.teacher.get_initial_variables, shapes, partitioner
    )
    shapes = flax_core.unfreeze(initializer.global_train_state_shape.params)
    axes = flax_core.unfreeze(initializer.train_state_axes.params)
    shardings = jax.tree.map(lambda spec: NamedSharding(partitioner.mesh, spec), axes)
    return t5x_checkpoints.load_named(path, shapes, shardings, dtype), axes


class _WithTeacher:
    """A step (train state, batch, teacher) as T5X calls it, with the train state and the batch.

    It stands for all three of a function, what it is lowered to, and what that is compiled to.
    """

    def __init__(self, step, teacher_params: PyTree):
        self._function, self._teacher_params = step, teacher_params

    def __call__(self, train_state, batch):
        return self._function(train_state, batch, self._teacher_params)

    def lower(self, train_state, batch) -> "_WithTeacher":
        lowered = self._function.lower(train_state, batch, self._teacher_params)
        return _WithTeacher(lowered, self._teacher_params)

    def compile(self) -> "_WithTeacher":
        return _WithTeacher(self._function.compile(), self._teacher_params)


class Trainer(trainer_lib.Trainer):
    """T5X's trainer, whose steps take the frozen teacher's parameters as an argument.

    So they are in device memory once, split as the partitioner splits them, and neither donated,
    optimised, checkpointed nor compiled into the program. Microbatches give what one batch gives.
    """

    def __init__(
        self,
        model: CascadeModel,
        train_state: train_state_lib.TrainState,
        partitioner: partitioning.BasePartitioner,
        eval_names,
        summary_dir: str | None,
        train_state_axes,
        rng: PRNGKeyArray,
        learning_rate_fn: Callable,
        num_microbatches: int | None = None,
        weight_metrics_computer: trainer_lib.WeightMetricsComputer | None = None,
        teacher_checkpoint: str | None = None,
        teacher_dtype: str | None = None,
    ):
        """Reads the teacher; all other arguments are T5X's.

        Args:
          teacher_checkpoint: folder of one T5X checkpoint of the model's `teacher_module`.
          teacher_dtype: of its parameters on the devices, e.g. "bfloat16"; None keeps them.

        Raises:
          ValueError: if the model has a teacher and there is no checkpoint or the reverse, or from
            reading it.
        """
        if (model.teacher is None) != (teacher_checkpoint is None):
            there = "no teacher_module" if model.teacher is None else "a teacher_module"
            raise ValueError(f"the model has {there}, and teacher_checkpoint={teacher_checkpoint}")
        self._teacher_params = self._teacher_axes = None
        if teacher_checkpoint is not None:
            self._teacher_params, self._teacher_axes = load_teacher(
                model, partitioner, teacher_checkpoint, teacher_dtype
            )
        super().__init__(
            model=model,
            train_state=train_state,
            partitioner=partitioner,
            eval_names=eval_names,
            summary_dir=summary_dir,
            train_state_axes=train_state_axes,
            rng=rng,
            learning_rate_fn=learning_rate_fn,
            num_microbatches=num_microbatches,
            weight_metrics_computer=weight_metrics_computer,
        )

    def _partitioned(self, step: Callable, out_axes, **settings) -> _WithTeacher:
        axes = self._train_state_axes, self._partitioner.data_partition_spec, self._teacher_axes
        partitioned = self._partitioner.partition(
            step, in_axis_resources=axes, out_axis_resources=out_axes, **settings
        )
        return _WithTeacher(partitioned, self._teacher_params)

    @functools.cached_property
    def _partitioned_train_step(self) -> _WithTeacher:
        def train_step(state, batch, teacher_params):
            gradients, step_metrics, mutables = trainer_lib.accumulate_grads_microbatched(
                self._model.bound(teacher_params, state.step),
                state,
                batch,
                self._get_step_rng(state.step),
                self._num_microbatches,
                self._partitioner.data_partition_spec,
            )
            count = step_metrics[metrics.LOSS].count
            gradients = jax.tree.map(lambda g: numerics.safe_ratio(g, count), gradients)
            return trainer_lib.apply_grads(
                state,
                gradients,
                step_metrics,
                self._learning_rate_fn(state.step),
                self._weight_metrics_computer,
                {"flax_mutables": mutables} if mutables else None,
            )

        axes = self._train_state_axes
        return self._partitioned(train_step, (axes, None), donate_argnums=(0,))

    @functools.cached_property
    def _partitioned_eval_step(self) -> _WithTeacher:
        def eval_step(state, batch, teacher_params):
            model = self._model.bound(teacher_params, state.step)
            return trainer_lib.eval_step(model, state, batch)

        return self._partitioned(eval_step, None)
