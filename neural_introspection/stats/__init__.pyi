from .significance import (
    p_values as p_values,
    q_values as q_values,
)
from .seeds import (
    interval_table as interval_table,
    mean_interval as mean_interval,
    over_seeds as over_seeds,
    sweep as sweep,
)
from .bootstrap import (
    interval as interval,
    resamples as resamples,
)
from .scores import (
    ClassScore as ClassScore,
    Difference as Difference,
    METRICS as METRICS,
    Score as Score,
    as_columns as as_columns,
    bin_table as bin_table,
    confusion as confusion,
    difference as difference,
    score_bins as score_bins,
    score_predictions as score_predictions,
    varies as varies,
)
