from .config import (
    AntitrainConfig as AntitrainConfig,
    AntitrainSettings as AntitrainSettings,
)
from .examples import (
    Examples as Examples,
    scores as scores,
    token_windows as token_windows,
)
from .randomisation import (
    make_reference as make_reference,
    randomised_scores as randomised_scores,
)
from .information import (
    compare_information as compare_information,
    information_content as information_content,
)
from .cores import (
    core_curve as core_curve,
    core_figure as core_figure,
    core_set as core_set,
    prefix_mask as prefix_mask,
)
from .training import (
    Antitraining as Antitraining,
    antitrain_step as antitrain_step,
    phases as phases,
    train_step as train_step,
)
from .certificate import (
    behaviour as behaviour,
    certify as certify,
    relearning_figure as relearning_figure,
)
from .pipeline import (
    AntitrainResult as AntitrainResult,
    run_antitrain as run_antitrain,
    two_layers as two_layers,
)
from .pruning import (
    remove_units as remove_units,
)
from .panel import (
    AntitrainPanel as AntitrainPanel,
    antitrain_panel as antitrain_panel,
)
