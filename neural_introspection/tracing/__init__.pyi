from .config import (
    TraceConfig as TraceConfig,
)
from .trace import (
    NetworkTrace as NetworkTrace,
)
from .network import (
    TraceableNN as TraceableNN,
)
from .inference import (
    trace_inference as trace_inference,
)
from .analysis import (
    analyse_trace as analyse_trace,
)
from .paths import (
    bread_crumbs as bread_crumbs,
)
from .heatmap import (
    network_map as network_map,
)
from .histories import (
    neuron_history as neuron_history,
)
from .explorer import (
    TraceExplorer as TraceExplorer,
    trace_dashboard as trace_dashboard,
)
from .pipeline import (
    TraceResult as TraceResult,
    run_trace as run_trace,
    trace_panel as trace_panel,
)
