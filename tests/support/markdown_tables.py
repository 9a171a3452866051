"""The tables of a text in Markdown."""


def tables(text):
    """Lists of rows, each a list of cells, of every table in a Markdown text."""
    found = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]
