from .figures import (
    COLOURS as COLOURS,
    Figure as Figure,
    SPLIT_COLOURS as SPLIT_COLOURS,
    SPLIT_MARKERS as SPLIT_MARKERS,
    colour_of as colour_of,
    distinct as distinct,
    figure as figure,
    label as label,
    save_figure as save_figure,
)
from .charts import (
    activation_histogram as activation_histogram,
    baseline_bars as baseline_bars,
    heat_map as heat_map,
    interval_dots as interval_dots,
    interval_line as interval_line,
    layer_scores as layer_scores,
    learning_curves as learning_curves,
    predicted_vs_actual as predicted_vs_actual,
    sweep_figure as sweep_figure,
)
from .tokens import (
    token_html as token_html,
    token_view as token_view,
)
from .forms import (
    control as control,
    error_html as error_html,
    options_table as options_table,
)
from .live import (
    live_figure as live_figure,
)
from .panels import (
    LivePanel as LivePanel,
    Panel as Panel,
)
