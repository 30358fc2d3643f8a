from .scanner import (
    NeuronScanner as NeuronScanner,
    PART as PART,
    SCORES as SCORES,
    ScanResult as ScanResult,
    neuron_scores as neuron_scores,
)
from .dataset import (
    ActivationDataset as ActivationDataset,
    ActivationDatasetGenerator as ActivationDatasetGenerator,
    collect_activations as collect_activations,
)
from .predictor import (
    ActivationPredictor as ActivationPredictor,
    fold_of as fold_of,
    ridge as ridge,
)
from .trainer import (
    PredictorTrainer as PredictorTrainer,
    Replay as Replay,
    Unfreezing as Unfreezing,
    learning_weights as learning_weights,
    lowest_block as lowest_block,
    trainable as trainable,
)
from .card import (
    VERDICTS as VERDICTS,
    changed_site as changed_site,
    dead_share as dead_share,
    language_drift as language_drift,
    leakage_label as leakage_label,
    make_card as make_card,
    predict_rows as predict_rows,
    score_predictions as score_predictions,
    simple_guess as simple_guess,
    split_checks as split_checks,
)
from .atlas import (
    AtlasConfig as AtlasConfig,
    AtlasResult as AtlasResult,
    NeuronAtlas as NeuronAtlas,
    PENALTIES as PENALTIES,
    paired_rows as paired_rows,
    partners as partners,
    run_atlas as run_atlas,
    summary as summary,
)
from .pipeline import (
    IntrospectionConfig as IntrospectionConfig,
    IntrospectionResult as IntrospectionResult,
    ScanConfig as ScanConfig,
    atlas_explorer as atlas_explorer,
    introspection_panel as introspection_panel,
    result_figures as result_figures,
    run_introspection as run_introspection,
    run_scan as run_scan,
)
