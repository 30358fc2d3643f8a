from .backends import (
    first_tensor as first_tensor,
)
from .positions import (
    Position as Position,
    SINK as SINK,
    chosen_tokens as chosen_tokens,
    fitting_texts as fitting_texts,
    parse_position as parse_position,
    pick_positions as pick_positions,
    sink_rows as sink_rows,
    sink_tokens as sink_tokens,
)
from .capturing import (
    capture as capture,
    edit as edit,
    find_site as find_site,
    hooks as hooks,
    run_from as run_from,
)
from .batches import (
    activation_batches as activation_batches,
)
from .interface import (
    ActivationMonitor as ActivationMonitor,
    ModelInterface as ModelInterface,
    neuron_axis as neuron_axis,
)
from .statistics import (
    NeuronStats as NeuronStats,
    sketch_distance as sketch_distance,
)
