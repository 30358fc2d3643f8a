from .information import (
    Examples as Examples,
    compare_information as compare_information,
    core_curve as core_curve,
    core_figure as core_figure,
    core_set as core_set,
    information_content as information_content,
    make_reference as make_reference,
    next_tokens as next_tokens,
    prefix_mask as prefix_mask,
    randomised as randomised,
    randomised_scores as randomised_scores,
    scores as scores,
    shared_information as shared_information,
    token_windows as token_windows,
)
from .antitraining import (
    AntitrainConfig as AntitrainConfig,
    AntitrainResult as AntitrainResult,
    AntitrainSettings as AntitrainSettings,
    Antitraining as Antitraining,
    antitrain_step as antitrain_step,
    behaviour as behaviour,
    certify as certify,
    phases as phases,
    relearning_figure as relearning_figure,
    run_antitrain as run_antitrain,
    train_step as train_step,
    two_layers as two_layers,
    weights_after as weights_after,
)
from .compression import (
    remove_units as remove_units,
)
from .panel import (
    AntitrainPanel as AntitrainPanel,
    antitrain_panel as antitrain_panel,
)
