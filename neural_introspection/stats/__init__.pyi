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
