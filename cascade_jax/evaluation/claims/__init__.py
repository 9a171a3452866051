"""Claims of the papers, tested on tables of many runs: seeds, losses and sizes of students."""
