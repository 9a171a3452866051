"""Text data: sources, seqio features, vocabularies, and sharded batches."""

import os

# Read once when TensorFlow is first imported: hide its start-up notices, keep errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
