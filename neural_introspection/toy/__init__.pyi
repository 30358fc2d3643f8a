from .model import (
    Draws as Draws,
    MONOSEMANTIC as MONOSEMANTIC,
    monosemanticity as monosemanticity,
    new_network as new_network,
    single_feature_activations as single_feature_activations,
)
from .optimizers import (
    Lamb as Lamb,
)
from .training import (
    ToyTraining as ToyTraining,
    step as step,
)
from .sweeps import (
    MEASURES as MEASURES,
    ToyResult as ToyResult,
    laptop_table as laptop_table,
    run_presets as run_presets,
    run_toy as run_toy,
    sweep_settings as sweep_settings,
)
from .analysis import (
    bias_figure as bias_figure,
    feature_heat_map as feature_heat_map,
    mechanism as mechanism,
    neuron_table as neuron_table,
    take_away as take_away,
    when_firing as when_firing,
)
from .explorer import (
    ToyExplorer as ToyExplorer,
    pair_at as pair_at,
    pair_words as pair_words,
    toy_explorer as toy_explorer,
)
from .settings import (
    ToySettings as ToySettings,
)
from .config import (
    PRESETS as PRESETS,
    ToyConfig as ToyConfig,
    preset_config as preset_config,
)
