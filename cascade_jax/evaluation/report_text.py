"""The styles of the report page, and the words on it that every report shares."""

CSS = """
:root { color-scheme: light dark; --ink:#1d1d1f; --soft:#5f6368; --line:#dcdcdc; --bg:#ffffff;
  --card:#f6f6f4; --good:#00664b; --bad:#a63c00; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8e8e6; --soft:#a3a6aa; --line:#3a3b3d;
  --bg:#161718; --card:#202123; --good:#4cc7a3; --bad:#f29157; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.2rem 3rem; background: var(--bg);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p, li, dd { max-width: 46rem; } .soft, small { color: var(--soft); } small { font-size: .78em; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .86rem; min-width: 40%; }
th, td { padding: .4rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, .texts td, .texts th { text-align: left; }
td small { display: block; white-space: nowrap; } td.best { font-weight: 700; }
td.best small { font-weight: 400; }
.texts td { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 5rem; max-width: 20rem; }
.figures td:nth-child(-n+3), .figures th:nth-child(-n+3) { text-align: left; }
.figures td { white-space: nowrap; }
.right { color: var(--good); } .wrong { color: var(--bad); }
figure { margin: .6rem 0 1rem; padding: .6rem; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; } img { display: block; max-width: 100%; height: auto; margin: auto; }
figcaption { color: #5f6368; font-size: .8rem; padding-top: .4rem; }
sub { line-height: 0; } dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem;
  color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
"""

CURVE_CAPTION = (
    "Each line is one cascade, from the small model alone to all deferred; markers stand at 0, 25, "
    "50 and 75 % deferral, the star at 100 %. Hollow star: the large model without a cascade. "
    "Dotted: deferring at random. Dashed: ideal. Shaded: from ideal to the true oracle."
)
DECOMPOSITION_CAPTION = "A1 + A2 is the quality of the cascade at that deferral rate."
TASKS_CAPTION = (
    "One panel per task, number of examples in brackets. Each task has deferral rates of its own, "
    "and each panel its own vertical scale. Where quality is a corpus metric, the curve is that "
    "metric of the cascade's answers at every threshold, and the grey line defers those first "
    "that raise it most (to first order)."
)
FIGURES_CAPTION = (
    "Each metric of each task over the whole split: both models alone, and cascades where records "
    "can tell: means over examples, and BLEU and chrF by added statistics, exact at every "
    "threshold. “–”: not known, or a metric of the whole list that only the answers could tell."
)
READING = """<dl>
<dt>Cascade</dt><dd>The small model answers every example. Those with the highest deferral score go
to the large model, whose answer then counts. An example is deferred iff its score is at least the
threshold τ.</dd>
<dt>Cost</dt><dd>FLOPs per token = 2 × parameters. The small model is always paid, the large one
for deferred examples only: C<sub>S</sub> + rate × C<sub>L</sub>. Deferring everything therefore
costs more than the large model alone.</dd>
<dt>Score</dt><dd>One number per example, higher = more reason to defer. The average score is the
negative mean log-prob (nats) of the small model's own answer tokens, the end-of-sequence token
included. Only the order matters. Tied scores count as the expectation over a random order.</dd>
<dt>Random</dt><dd>Deferring examples drawn at random: a straight line between the two ends.</dd>
<dt>Ideal</dt><dd>All errors of the small model first, if the large one never errs where the small
one is right: p<sub>S</sub> + r/(1 − p<sub>S</sub>) × (p<sub>L</sub> − p<sub>S</sub>), then level.
Meant for 0/1 quality.</dd>
<dt>Oracle</dt><dd>The best order there is on these answers: largest gain first. It lies above ideal
where the small model is right and the large one wrong.</dd>
<dt>Area</dt><dd>Mean quality over all deferral rates from 0 to 1.</dd>
<dt>s<sub>d</sub></dt><dd>Share of the room between random and ideal (or oracle) that the score
wins: 0 is random. Against ideal it can exceed 1, against the oracle it can not.</dd>
<dt>Cost at a quality</dt><dd>Least cost that reaches it. The qualities are the same for all rows:
halfway from the best small model to the large one, and 99 % of the large one's.</dd>
<dt>Corpus metric</dt><dd>BLEU and chrF are no means over examples. Their counts of n-grams add up,
so a task with such a metric is shown by the figure of the whole split at every threshold; pooled
with other tasks, its quality is the mean over single examples (for BLEU, sentence BLEU). Random is
then the figure of the expected counts, there is no ideal line, and the oracle defers those examples
first that raise the figure most to first order: a good order, no strict bound. Intervals score each
resample at 200 points.</dd>
<dt>Rank classification</dt><dd>The model's answer is the likeliest of the options that the row
brings, rather than what it writes; score and log-probs are those of that option.</dd>
<dt>AUROC</dt><dd>Chance that an error of the small model scores higher than a right answer; only
for 0/1 quality.</dd>
<dt>Small better than large</dt><dd>Share of examples where the small model's answer has the higher
quality (for 0/1 quality: small right, large wrong). They let a cascade beat the large model.</dd>
</dl>"""
