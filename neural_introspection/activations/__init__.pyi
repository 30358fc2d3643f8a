from .capturing import (
    ActivationMonitor as ActivationMonitor,
    ModelInterface as ModelInterface,
    Position as Position,
    SINK as SINK,
    activation_batches as activation_batches,
    capture as capture,
    chosen_tokens as chosen_tokens,
    edit as edit,
    find_site as find_site,
    fitting_texts as fitting_texts,
    hooks as hooks,
    neuron_axis as neuron_axis,
    parse_position as parse_position,
    pick_positions as pick_positions,
    run_from as run_from,
    sink_rows as sink_rows,
    sink_tokens as sink_tokens,
    site_names as site_names,
)
from .statistics import (
    NeuronStats as NeuronStats,
    layer_statistics as layer_statistics,
    sketch_distance as sketch_distance,
)
from .backends import (
    Backend as Backend,
    backend_of as backend_of,
    first_tensor as first_tensor,
    framework_of as framework_of,
    register_backend as register_backend,
    replace_first as replace_first,
)
