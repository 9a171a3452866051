"""Times training steps and greedy decoding against T5X's network and transformers.

    python tests/benchmarks/train_step.py                    # T5 1.1 small under base, one table
    python tests/benchmarks/train_step.py --rows ours        # ours alone: ours, t5x, torch
    python tests/benchmarks/train_step.py --pair smollm2     # from a cache: see smollm2_step.py
    python tests/benchmarks/train_step.py --emulate_avx2     # on an AVX-512 processor

A step is both forward passes, the loss CAT-Dist, the gradients of the student and Adafactor's
update, with dropout 0.1. Every row has the same sizes and random tokens; parameters are fresh. Rows
and one matmul, each in a process of its own, take turns, so that a busy machine slows all of them;
a time is the median of its repetitions. Our processes keep freed memory, as `cascade-jax train`
does; those of others have malloc as the system sets it. T5X's row is its example network
(`t5x.examples.t5`) for both models in our own step, with the loss on whole logits: the network is
what differs. Its row and torch's say so where the package cannot be imported.
"""

import argparse
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("NPROC", None)  # XLA's threads: one a core

EMULATE_AVX2 = "--emulate_avx2"
if EMULATE_AVX2 in sys.argv:
    # Read when JAX and torch are imported: XLA's vectors and torch's, oneDNN's and MKL's. XLA's
    # YNNPACK knows no such limit and is switched off; products are then Eigen's, by oneDNN.
    flags = "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of tests/

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from cascade_jax.batch import Batch  # noqa: E402
from cascade_jax.inference import generate  # noqa: E402
from cascade_jax.losses import variants  # noqa: E402
from cascade_jax.models import families, flops  # noqa: E402
from cascade_jax.models.config import T5Config  # noqa: E402
from cascade_jax.training import step as step_lib  # noqa: E402
from cascade_jax.training.optimizers import Adafactor  # noqa: E402
from tests.benchmarks import smollm2_step, step_timing  # noqa: E402

SMALL = T5Config(
    vocab_size=32128, embed_dim=512, num_heads=6, head_dim=64, mlp_dim=1024,
    num_encoder_layers=8, num_decoder_layers=8,
)  # fmt: skip
BASE = T5Config(
    vocab_size=32128, embed_dim=768, num_heads=12, head_dim=64, mlp_dim=2048,
    num_encoder_layers=12, num_decoder_layers=12,
)  # fmt: skip
LABEL_WEIGHT = 0.5


# ------------------------------------------------------------------ steps


def jitted_step(loss_fn: Callable, params, teacher_params, batch: Batch) -> Callable[[], None]:
    """One step on whatever networks `loss_fn` runs; a call does it and waits."""
    optimizer = Adafactor(learning_rate=1e-3).build()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, teacher_params, batch, key):
        def value(params):
            loss_sum, count = loss_fn(params, teacher_params, batch, key)
            return loss_sum / count

        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return optax.apply_updates(params, updates), state

    held = [params, jax.jit(optimizer.init)(params), 0]

    def step():
        key = jax.random.fold_in(jax.random.key(0), held[2])
        held[:] = *update(*held[:2], teacher_params, batch, key), held[2] + 1
        jax.block_until_ready(held[:2])

    return step


def our_step(batch: Batch) -> Callable[[], None]:
    """Our models and fused head."""
    student, teacher = families.build(SMALL), families.build(BASE)
    whole = step_lib.make_loss_fn(student, teacher, variants.CATDist(label_weight=LABEL_WEIGHT))

    def loss_fn(params, teacher_params, batch, key):
        result = whole(params, teacher_params, batch, key)
        return result.loss_sum, result.count

    params, teacher_params = (
        jax.jit(functools.partial(families.initialize, model))(jax.random.key(i))
        for i, model in enumerate((student, teacher))
    )
    return jitted_step(loss_fn, params, teacher_params, batch)


def t5x_step(batch: Batch) -> Callable[[], None]:
    """T5X's example network for both models; our loss on whole logits."""
    from t5x.examples.t5 import network

    def build(config: T5Config):
        return network.Transformer(
            network.T5Config(
                vocab_size=config.vocab_size,
                dtype=jnp.float32,
                emb_dim=config.embed_dim,
                num_heads=config.num_heads,
                num_encoder_layers=config.num_encoder_layers,
                num_decoder_layers=config.num_decoder_layers,
                head_dim=config.head_dim,
                mlp_dim=config.mlp_dim,
                mlp_activations=config.mlp_activations,
                dropout_rate=config.dropout_rate,
                logits_via_embedding=config.tied_logits,
            )
        )

    student, teacher = build(SMALL), build(BASE)
    loss = variants.CATDist(label_weight=LABEL_WEIGHT)
    texts = batch.inputs, batch.decoder_inputs, batch.targets

    def loss_fn(params, teacher_params, batch, key):
        texts = batch.inputs, batch.decoder_inputs, batch.targets
        ours = student.apply({"params": params}, *texts, enable_dropout=True, rngs={"dropout": key})
        theirs = teacher.apply({"params": teacher_params}, *texts, enable_dropout=False)
        result = loss(ours, theirs, batch.targets, batch.weights, every_metric=False)
        return result.loss_sum, result.count

    params, teacher_params = (
        jax.jit(lambda key, model=model: model.init(key, *texts, enable_dropout=False)["params"])(
            jax.random.key(i)
        )
        for i, model in enumerate((student, teacher))
    )
    return jitted_step(loss_fn, params, teacher_params, batch)


def torch_model(config: T5Config):
    """A fresh model of transformers."""
    import transformers

    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.embed_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=config.dropout_rate,
            decoder_start_token_id=0,
        )
    )


def torch_step(batch: Batch) -> Callable[[], None]:
    """transformers' models and Adafactor, and CAT-Dist written in torch."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(2)
    student, teacher = torch_model(SMALL).train(), torch_model(BASE).eval()
    optimizer = transformers.Adafactor(student.parameters(), lr=1e-3, relative_step=False)
    inputs, decoder_inputs, targets = (
        torch.tensor(np.asarray(x), dtype=torch.long)
        for x in (batch.inputs, batch.decoder_inputs, batch.targets)
    )
    tokens = {"input_ids": inputs, "decoder_input_ids": decoder_inputs}

    def step():
        with torch.no_grad():
            theirs = teacher(**tokens).logits
        ours = student(**tokens).logits
        log_p = torch.log_softmax(ours, -1)
        soft = -(torch.softmax(theirs, -1) * log_p).sum(-1)
        hard = -log_p.gather(-1, targets[..., None])[..., 0]
        kept = torch.zeros_like(targets, dtype=torch.bool)
        for logits in (ours, theirs):
            kept |= logits.detach().gather(-1, targets[..., None])[..., 0] >= logits.amax(-1)
        loss = (kept * (LABEL_WEIGHT * hard + (1 - LABEL_WEIGHT) * soft)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


# ------------------------------------------------------------------ decoding


def our_decoding(inputs: np.ndarray, length: int) -> Callable[[], None]:
    """Greedy answers of the small model; no row ends early."""
    model = families.build(SMALL)
    params = jax.jit(functools.partial(families.initialize, model))(jax.random.key(0))
    # Nothing a fresh model says is this id, so that every answer has all its tokens.
    generate_fn = generate.make_generate_fn(model, length, SMALL.vocab_size - 1)
    return lambda: jax.block_until_ready(generate_fn(params, inputs))


def torch_decoding(inputs: np.ndarray, length: int) -> Callable[[], None]:
    """The same by `transformers.generate` with its cache."""
    import torch

    torch.set_num_threads(2)
    model = torch_model(SMALL).eval()
    tokens = torch.tensor(inputs, dtype=torch.long)
    settings = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}

    def decode():
        with torch.no_grad():
            model.generate(tokens, **settings)

    return decode


# ------------------------------------------------------------------ the table

STEPS = {"ours": our_step, "t5x": t5x_step, "torch": torch_step}
PACKAGES = {"t5x": ("t5x",), "torch": ("torch", "transformers")}
# The most that our time may be of the others', by the widest vectors of the processor.
LIMITS = {
    "AVX-512": {"step": {"t5x": 0.6, "torch": 0.45}, "decode": {"torch": 0.7}},
    "AVX2": {"step": {"torch": 0.8}, "decode": {"torch": 0.7}},
}


def missing(row: str) -> list[str]:
    """Packages that a row wants and that are not here."""
    return [name for name in PACKAGES.get(row, ()) if importlib.util.find_spec(name) is None]


def table(arguments, rows: list[str], limits: dict[str, dict[str, float]]) -> bool:
    """Prints the rows of the T5 pair; whether ours are within their limits."""
    batch = step_timing.make_batch(
        SMALL.vocab_size, arguments.batch, arguments.input_length, arguments.target_length
    )
    lengths, answers = (arguments.input_length, arguments.target_length), arguments.answers
    inputs = step_timing.make_batch(SMALL.vocab_size, answers, arguments.input_length, 1).inputs
    step_flops = flops.training_flops(SMALL, *lengths) + flops.forward_flops(BASE, *lengths)
    decoders = {"ours": our_decoding, "torch": torch_decoding}
    works = {
        "step": (
            arguments.batch * step_flops,
            {row: functools.partial(STEPS[row], batch) for row in rows},
        ),
        "decode": (
            answers * flops.answer_flops(SMALL, *lengths),
            {
                row: functools.partial(decoders[row], inputs, arguments.target_length)
                for row in rows
                if row in decoders
            },
        ),
    }
    tokens = arguments.batch * arguments.input_length
    one = tokens, SMALL.embed_dim, SMALL.mlp_dim
    return step_timing.print_table(works, limits, one, arguments.repetitions)


def main() -> int:
    """Prints the table; the exit status is 1 if ours is slower than it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("t5", "smollm2"), default="t5")
    parser.add_argument("--rows", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--input_length", type=int, help="128; of smollm2 96")
    parser.add_argument("--target_length", type=int, default=32)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument(EMULATE_AVX2, action="store_true", help="cuts vectors of all to AVX2's")
    arguments = parser.parse_args()
    is_t5 = arguments.pair == "t5"
    arguments.input_length = arguments.input_length or (128 if is_t5 else 96)
    rows = []
    for row in arguments.rows if is_t5 else [row for row in arguments.rows if row != "t5x"]:
        if lacking := missing(row):
            print(f"{row} is left out: {' and '.join(lacking)} cannot be imported")
        else:
            rows.append(row)
    vectors = step_timing.vectors(emulates_avx2=arguments.emulate_avx2)
    print(f"{step_timing.processor()}; {vectors}{' (emulated)' * arguments.emulate_avx2}\n")
    if is_t5:
        is_within = table(arguments, rows, LIMITS.get(vectors, {}))
    else:
        is_within = smollm2_step.table(arguments, rows)
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
