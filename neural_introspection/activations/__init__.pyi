from .backends import (
    first_tensor as first_tensor,
)
from .positions import (
    Contexts as Contexts,
    Position as Position,
    SelectedTokens as SelectedTokens,
    TokenCounts as TokenCounts,
    TokenSelection as TokenSelection,
    fitting_texts as fitting_texts,
    parse_position as parse_position,
)
from .capturing import (
    capture as capture,
    edit as edit,
    find_site as find_site,
    hooks as hooks,
    run_from as run_from,
)
from .batches import (
    ActivationBatch as ActivationBatch,
    activation_batches as activation_batches,
    select_tokens as select_tokens,
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
from .set_scores import (
    replaced_scores as replaced_scores,
)
from .interventions import (
    intervene as intervene,
)
from .corpus_statistics import (
    text_statistics as text_statistics,
)
