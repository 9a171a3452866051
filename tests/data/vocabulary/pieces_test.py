"""Ids as text: names of special tokens and sentinels."""

from cascade_jax.data.vocabulary import load, pieces


def test_sentinels_have_names():
    byte = load.load_vocabulary("byte+2")
    assert pieces.text_of(byte, [260, 100, 101]) == "<extra_id_0>ab"
    assert pieces.piece_of(byte, 261) == "<261>"  # a model may have more ids than its vocabulary
    assert [pieces.piece_of(byte, i) for i in (260, 259, 258, 3, 0, 1, 2)] == [
        "<extra_id_0>",
        "<extra_id_1>",
        r"\xff",
        "\x00",
        "<pad>",
        "</s>",
        "<unk>",
    ]
