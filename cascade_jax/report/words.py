"""Fixed texts of a report: captions and definitions."""

NOSCRIPT = (
    '<noscript><p class="soft">Curves and examples on this page need JavaScript. summary.md and '
    "the pictures beside this file hold the same figures.</p></noscript>"
)
FIGURES_CAPTION = (
    "Each metric of each task over the whole split: both models alone, and cascades where records "
    "can tell: means over examples, and BLEU and chrF by added statistics, exact at every "
    "threshold. “–”: not known, or a metric of the whole list that only the answers could tell."
)
SCORES_CAPTION = "The same answers ordered by each score: quality against the share deferred."
SCORE_COSTS = (
    '<p class="soft">Every cost on this page counts what the score itself spends on each example, '
    "deferred or not. Area at equal cost: mean quality over total costs from that of the small "
    "model to that of deferring everything, the small model's quality where the score is not yet "
    "paid. A score pays for itself between the deferral rates at which its cascade is above the "
    "small model alone and has at least the quality that the average log-prob has at the same "
    "total cost; of several such stretches it is the longest.</p>"
)
READING = """<dl>
<dt>Cascade</dt><dd>The small model answers every example. Those with the highest deferral score go
to the large model, whose answer then counts. An example is deferred iff its score is above the
threshold τ.</dd>
<dt>Cost</dt><dd>By default FLOPs per token = 2 × parameters: C<sub>S</sub> + rate × C<sub>L</sub>,
the small model always paid, the large one for deferred examples only. Other costs are by example
(FLOPs of the whole answer, measured seconds, a price of tokens): then it is the mean of the small
model's costs plus those of the large one for the deferred, over n. Deferring everything therefore
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
<dt>s<sub>d</sub></dt><dd>Share of the gap between random and ideal (or oracle) that the score
closes: 0 is random. Against ideal it can exceed 1, against the oracle it can not.</dd>
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
<dt>AUROC, AUPRC</dt><dd>Chance that an error of the small model scores higher than a right answer,
and average precision of finding the errors by the score, which by chance is the share of errors;
only for 0/1 quality.</dd>
<dt>PRR</dt><dd>Prediction rejection ratio: answers are rejected from the highest score down, and
the mean quality of those left, over all rates (or up to half), is set between rejecting at random,
0, and rejecting the worst first, 1.</dd>
<dt>Pearson, Spearman</dt><dd>Correlation of score and quality, of values and of ranks: near −1 for
a good score.</dd>
<dt>s<sub>o</sub></dt><dd>How far the confidences of right and of wrong answers overlap, as smoothed
densities: 0 apart, 1 alike; only for 0/1 quality.</dd>
<dt>ECE</dt><dd>Expected calibration error: mean distance of confidence (exp of the mean log-prob of
the answer's tokens) and quality in ten bins. Scaled: after a temperature that was fitted on one
half and used on the other.</dd>
<dt>p</dt><dd>Two-sided, of there being no difference, from paired bootstrap resamples; with B of
them no less than 1/(B + 1).</dd>
<dt>Small better than large</dt><dd>Share of examples where the small model's answer has the higher
quality (for 0/1 quality: small right, large wrong). They let a cascade beat the large model.</dd>
</dl>"""
READING_PAGE = """<dl>
<dt>Slider</dt><dd>It moves along the points of the curve that metrics.json has too, 201 at most.
Where scores are tied no threshold gives just that share; figures and counts are then means over
the orders of the tied. Scores are compared as 32-bit numbers.</dd>
<dt>Right and wrong</dt><dd>Quality of at least 0.5, for counts, histogram and examples; for 0/1
quality there is nothing else.</dd>
<dt>A1, A2</dt><dd>Quality is their sum: A1 from the answers that the small model keeps, A2 from
those of the large model. A corpus metric is no such sum.</dd>
<dt>Corrected, regressed</dt><dd>Deferred examples where only the large model is right, and where
only the small one is.</dd>
<dt>Token probabilities</dt><dd>Of the tokens of the small model's answer, end of sequence included:
their geometric and arithmetic mean, and their excess kurtosis, which is below 0 where they are even
or of two kinds, above 0 where a few stand out, and taken as 0 where all are equal.</dd>
<dt>Token colours</dt><dd>Six steps of the chosen quantity, for all cascades alike: from 0 to 1 for
a share, else from the 5th to the 95th percentile of the tokens of these examples.</dd>
<dt>Reliability diagram</dt><dd>Mean confidence and mean quality in ten bins of equal width,
whatever the deferral score; the area of a dot goes by the number of examples.</dd>
</dl>"""
