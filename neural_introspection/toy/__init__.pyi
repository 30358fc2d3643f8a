from .models import (
    Draws as Draws,
    Lamb as Lamb,
    MONOSEMANTIC as MONOSEMANTIC,
    ToySettings as ToySettings,
    ToyTraining as ToyTraining,
    monosemanticity as monosemanticity,
    new_network as new_network,
    single_feature_activations as single_feature_activations,
    step as step,
)
from .sweeps import (
    MEASURES as MEASURES,
    PRESETS as PRESETS,
    ToyConfig as ToyConfig,
    ToyResult as ToyResult,
    laptop_table as laptop_table,
    preset_config as preset_config,
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
