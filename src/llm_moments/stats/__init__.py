"""Paired tests, intervals and sample sizes: pure functions of arrays, on which every claim rests.

    answers.py    right/wrong answers: exact bound and p-value for a drop
    scores.py     any score of an example: bound, p-value, equivalence
    tokens.py     a figure of each token of some texts
    units.py      scores of rows that are not independent: each unit of them counts once
    times.py      speed-up of paired times
    seeds.py      two ways of training, each with some seeds
    growth.py     what more data would bring
    planning.py   several tests: in a fixed order, or all at once; examples needed
    sequential.py  looks at a third, two thirds and all of the rows
    outputs.py    how far two pipelines' outputs, or two rankings, are apart

`low` and `high` of a Bound each hold on their own side with the stated confidence.
"""

from llm_moments.stats.answers import flip_pvalue, paired_flip_bound
from llm_moments.stats.bound import Bound
from llm_moments.stats.growth import extrapolated_gain
from llm_moments.stats.outputs import divergence, rank_correlation
from llm_moments.stats.planning import fixed_sequence, holm, needed_examples, needed_examples_for_scores
from llm_moments.stats.scores import drop_bound, drop_pvalue, equivalent, flips
from llm_moments.stats.seeds import mean_bound, pooled_seed_variance, seeded_drop_bound
from llm_moments.stats.times import ratio_interval
from llm_moments.stats.tokens import token_mean
from llm_moments.stats.units import unit_drop_bound, unit_drops, unit_means

__all__ = [
    "Bound",
    "divergence",
    "drop_bound",
    "drop_pvalue",
    "equivalent",
    "extrapolated_gain",
    "fixed_sequence",
    "flip_pvalue",
    "flips",
    "holm",
    "mean_bound",
    "needed_examples",
    "needed_examples_for_scores",
    "paired_flip_bound",
    "pooled_seed_variance",
    "rank_correlation",
    "ratio_interval",
    "seeded_drop_bound",
    "token_mean",
    "unit_drop_bound",
    "unit_drops",
    "unit_means",
]
