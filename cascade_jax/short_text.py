"""Texts cut short, for messages that show what a file or a user gave."""


def cut_short(text: str, most: int = 200) -> str:
    """A text of at most `most` characters; the end of a longer one is "..."."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
