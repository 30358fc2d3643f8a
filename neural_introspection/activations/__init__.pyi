from .positions import (
    Contexts as Contexts,
    Position as Position,
    SelectedTokens as SelectedTokens,
    TokenCounts as TokenCounts,
    TokenSelection as TokenSelection,
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
from .collecting import (
    collect_activations as collect_activations,
)
from .arrays import (
    read_activations as read_activations,
)
from .site_tree import (
    sites as sites,
)
