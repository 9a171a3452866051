"""Progress bars in log files are plain lines."""

import io
import sys

import tqdm

from cascade_jax import progress


def test_a_log_file_has_whole_lines(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress.progress_bar(desc="calibrates", total=300) as outer:
        for _ in range(3):
            with progress.progress_bar(desc="searches", total=5, leave=False) as inner:
                inner.update(5)
            outer.update(100)
    for _ in progress.progress_bar(range(2), desc="compares", disable=True):
        pass
    text = log.getvalue()
    lines = text.splitlines()
    assert not set(text) & {"\r", "\x1b"} and all(lines)
    assert all(line.startswith("calibrates: ") for line in lines)
    assert " 0/300 " in lines[0] and " 300/300 " in lines[-1]
    assert len(lines) <= 4


def test_a_terminal_has_the_bar_of_tqdm(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress_bar(total=2, leave=False) as bar:
        assert type(bar) is tqdm.tqdm
        bar.update()
    assert "\r" in terminal.getvalue()
