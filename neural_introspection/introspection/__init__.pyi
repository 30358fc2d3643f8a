from .config import (
    AtlasConfig as AtlasConfig,
    BenchmarkConfig as BenchmarkConfig,
    IntrospectionConfig as IntrospectionConfig,
    ScanConfig as ScanConfig,
)
from .scanner import (
    NeuronScanner as NeuronScanner,
    SCORES as SCORES,
    ScanResult as ScanResult,
    neuron_scores as neuron_scores,
)
from .dataset import (
    ActivationDataset as ActivationDataset,
    ActivationDatasetGenerator as ActivationDatasetGenerator,
)
from .predictor import (
    ActivationPredictor as ActivationPredictor,
)
from .unfreezing import (
    Unfreezing as Unfreezing,
)
from .trainer import (
    PredictorTrainer as PredictorTrainer,
)
from .report import (
    IntrospectionCard as IntrospectionCard,
)
from .evaluation import (
    CardOptions as CardOptions,
)
from .card import (
    make_card as make_card,
)
from .atlas_result import (
    AtlasResult as AtlasResult,
)
from .atlas_run import (
    run_atlas as run_atlas,
)
from .self_report import (
    SelfReport as SelfReport,
)
from .result import (
    IntrospectionResult as IntrospectionResult,
)
from .pipeline import (
    run_introspection as run_introspection,
)
from .scan_run import (
    run_scan as run_scan,
)
from .panels import (
    atlas_explorer as atlas_explorer,
    introspection_panel as introspection_panel,
)
from .asking import (
    report_panel as report_panel,
)
from .benchmark_result import (
    BenchmarkResult as BenchmarkResult,
)
from .benchmark import (
    run_benchmark as run_benchmark,
)
