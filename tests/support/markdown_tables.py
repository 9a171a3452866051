"""The tables of a text in Markdown."""


def tables(text):
    """Lists of rows, each a list of cells, of every table in a Markdown text."""
    result = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            result[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif result[-1]:
            result.append([])
    return [table for table in result if table]
