"""Files that are there whole or not at all, and what helps where they can't be written."""

import errno

import pytest

from cascade_jax import files


def test_two_writers_of_one_path_do_not_meet(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with files.replacing(path) as first, files.replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which ended last
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error, remedy",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some of this user's quota"),
        (OSError(errno.EROFS, "Read-only file system"), "not on a read-only medium"),
        (PermissionError(errno.EACCES, "Permission denied"), "the rights for that"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "choose a shorter name"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EIO, "Input/output error"), "fault of the disk"),
        # As TensorStore tells of it.
        (ValueError("RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]"), "space"),
        (ValueError("Error writing /a/b: Read-only file system"), "read-only medium"),
    ],
)
def test_a_write_error_gets_the_remedy_of_its_cause(error, remedy):
    assert remedy in files.remedy(error)
    try:
        raise RuntimeError("could not write") from error
    except RuntimeError as outer:
        assert remedy in files.remedy(outer)
    assert files.remedy(ValueError("shapes differ")) is None


def test_sealed_data_are_read_back_and_changes_are_refused():
    for data in (b"", b"abc", bytes(range(256))):
        sealed = files.sealed(data)
        assert files.is_sealed(sealed) and files.unsealed(sealed, "x") == data
        assert files.unsealed(data, "x") == data and not files.is_sealed(sealed[:-1])
    flipped = b"abd" + files.sealed(b"abc")[3:]
    with pytest.raises(ValueError, match="^x is damaged: its CRC-32 .* make it anew"):
        files.unsealed(flipped, "x")
