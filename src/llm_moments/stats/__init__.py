"""Paired tests, intervals and sample sizes: pure functions of arrays, on which every claim rests.

    answers.py    right/wrong answers: exact bound and p-value for a drop
    scores.py     any score of an example: bound, p-value, equivalence
    times.py      speed-up of paired times
    planning.py   several tests: in a fixed order, or all at once; examples needed
    outputs.py    how far two pipelines' outputs, or two rankings, are apart

`low` and `high` of a Bound each hold on their own side with the stated confidence.
"""

from llm_moments.stats.answers import flip_pvalue, paired_flip_bound
from llm_moments.stats.bound import Bound
from llm_moments.stats.outputs import divergence, rank_correlation
from llm_moments.stats.planning import fixed_sequence, holm, needed_examples, needed_examples_for_scores
from llm_moments.stats.scores import drop_bound, drop_pvalue, equivalent, flips
from llm_moments.stats.times import ratio_interval

__all__ = [
    "Bound",
    "divergence",
    "drop_bound",
    "drop_pvalue",
    "equivalent",
    "fixed_sequence",
    "flip_pvalue",
    "flips",
    "holm",
    "needed_examples",
    "needed_examples_for_scores",
    "paired_flip_bound",
    "rank_correlation",
    "ratio_interval",
]
