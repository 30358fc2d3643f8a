from .config import (
    AntitrainConfig as AntitrainConfig,
    AntitrainSettings as AntitrainSettings,
)
from .information import (
    compare_information as compare_information,
    information_content as information_content,
)
from .cores import (
    core_set as core_set,
)
from .training import (
    Antitraining as Antitraining,
)
from .certificate import (
    certify as certify,
)
from .pipeline import (
    AntitrainResult as AntitrainResult,
    run_antitrain as run_antitrain,
    two_layer_network as two_layer_network,
)
from .panel import (
    AntitrainPanel as AntitrainPanel,
    antitrain_panel as antitrain_panel,
)
