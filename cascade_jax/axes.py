"""Names of logical axes, and the dimension letters used in shape annotations.

A parameter or activation names its axes with these words; `parallel/rules.py` alone decides which
mesh axis each word is split over. Letters in jaxtyping strings: B batch, S input length, L target
length, V vocabulary, D embedding, H heads, K size of one head, M hidden size of the MLP.
"""

BATCH = "batch"
LENGTH = "length"
EMBED = "embed"
VOCAB = "vocab"
HEADS = "heads"  # one attention head each
JOINED_HEADS = "joined_heads"  # heads and head size flattened into one axis, as T5X stores kernels
HEAD_SIZE = "head_size"
MLP = "mlp"
LAYERS = "layers"  # the stacking axis of scanned layers
RELATIVE_BUCKETS = "relative_buckets"
RANK = "rank"  # of LoRA's adapters

ALL = (
    BATCH, LENGTH, EMBED, VOCAB, HEADS, JOINED_HEADS, HEAD_SIZE, MLP, LAYERS, RELATIVE_BUCKETS, RANK
)  # fmt: skip
