"""An evaluation to make a page of, and what a parser finds in a page."""

import html.parser

import numpy as np

from cascade_jax.evaluation import summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.results import Evaluation, RecordsSource

PNG = b"\x89PNG not really"


def small_evaluation(names=("xent", "cat"), tasks=("t1", "t2"), teacher=None):
    def panel(title, n):
        cascades = {}
        for seed, name in enumerate(names):
            rng = np.random.default_rng(seed)
            student = (rng.random(n) < 0.5) * 1.0
            good = np.ones(n) if teacher is None else np.full(n, teacher)
            cascades[name] = Cascade(rng.normal(size=n) - student, student, good, 2e6, 1e7)
        return summaries.compare(title, "exact_match", cascades, bootstrap_samples=20)

    return Evaluation(
        pooled=panel("demo", 40),
        tasks={task: panel(task, 20) for task in tasks},
        sources=tuple(
            RecordsSource(
                name, f"runs/{name}.parquet", {"split": "test", "student_parameters": 1234567}
            )
            for name in names
        ),
        score="Average()",
        bootstrap_samples=20,
        seed=0,
    )


IMAGES = {"curve": PNG, "scores": PNG}


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, texts, and tags left open."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
