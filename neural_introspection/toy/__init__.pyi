from .config import (
    PRESETS as PRESETS,
    ToyConfig as ToyConfig,
    preset_config as preset_config,
)
from .model import (
    FeatureSampler as FeatureSampler,
)
from .training import (
    ToyTraining as ToyTraining,
)
from .sweeps import (
    MEASURES as MEASURES,
    ToyResult as ToyResult,
    laptop_table as laptop_table,
    run_toy as run_toy,
)
from .analysis import (
    mechanism as mechanism,
    neuron_features as neuron_features,
)
from .explorer import (
    toy_explorer as toy_explorer,
)
