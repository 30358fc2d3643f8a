from .permutation import (
    adjust_fdr as adjust_fdr,
    permutation_p as permutation_p,
    text_groups as text_groups,
)
from .bootstrap import (
    interval as interval,
    mean_interval as mean_interval,
    resamples as resamples,
)
from .scores import (
    ClassScore as ClassScore,
    Difference as Difference,
    METRICS as METRICS,
    Score as Score,
    confusion as confusion,
    difference as difference,
    paired_difference as paired_difference,
    score_bins as score_bins,
    score_predictions as score_predictions,
    varies as varies,
)
from .seeds import (
    interval_table as interval_table,
    over_seeds as over_seeds,
    sweep as sweep,
)
