from . import (
    activations as activations,
    analysis as analysis,
    antitraining as antitraining,
    core as core,
    data as data,
    display as display,
    introspection as introspection,
    models as models,
    stats as stats,
    toy as toy,
    tracing as tracing,
)
from .core import (
    BadInput as BadInput,
    NeuralIntrospectionError as NeuralIntrospectionError,
    NeuronAddress as NeuronAddress,
    Target as Target,
    seed_everything as seed_everything,
)
from .stats import (
    mean_interval as mean_interval,
    permutation_p as permutation_p,
    adjust_fdr as adjust_fdr,
)
from .models import (
    Examples as Examples,
    describe as describe,
    encode as encode,
    load_model as load_model,
)
from .activations import (
    ActivationMonitor as ActivationMonitor,
    ModelInterface as ModelInterface,
    NeuronStats as NeuronStats,
    capture as capture,
    edit as edit,
    hooks as hooks,
    intervene as intervene,
    read_activations as read_activations,
    sites as sites,
)
from .data import (
    load_classification as load_classification,
    load_texts as load_texts,
)
from .introspection import (
    ActivationDataset as ActivationDataset,
    ActivationDatasetGenerator as ActivationDatasetGenerator,
    ActivationPredictor as ActivationPredictor,
    AtlasConfig as AtlasConfig,
    AtlasResult as AtlasResult,
    BenchmarkConfig as BenchmarkConfig,
    BenchmarkResult as BenchmarkResult,
    IntrospectionCard as IntrospectionCard,
    IntrospectionConfig as IntrospectionConfig,
    IntrospectionResult as IntrospectionResult,
    PredictorTrainer as PredictorTrainer,
    ScanConfig as ScanConfig,
    ScanResult as ScanResult,
    SelfReport as SelfReport,
    Unfreezing as Unfreezing,
    atlas_explorer as atlas_explorer,
    introspection_panel as introspection_panel,
    CardOptions as CardOptions,
    make_card as make_card,
    report_panel as report_panel,
    run_atlas as run_atlas,
    run_benchmark as run_benchmark,
    run_introspection as run_introspection,
    run_scan as run_scan,
)
from .tracing import (
    NetworkTrace as NetworkTrace,
    TraceConfig as TraceConfig,
    TraceExplorer as TraceExplorer,
    TraceResult as TraceResult,
    TraceableNN as TraceableNN,
    analyse_trace as analyse_trace,
    bread_crumbs as bread_crumbs,
    run_trace as run_trace,
    trace_inference as trace_inference,
    trace_panel as trace_panel,
)
from .analysis import (
    PromptPair as PromptPair,
    SteeringVector as SteeringVector,
    attribute_patches as attribute_patches,
    patch_activations as patch_activations,
    patch_paths as patch_paths,
    steer as steer,
    ActivationVisualizer as ActivationVisualizer,
    AgentConfig as AgentConfig,
    AnalysisResult as AnalysisResult,
    NeuronBrowser as NeuronBrowser,
    PolysemanticDetector as PolysemanticDetector,
    agent_panel as agent_panel,
    logit_view as logit_view,
    run_agent as run_agent,
    scan_polysemantic as scan_polysemantic,
    token_profiles as token_profiles,
)
from .antitraining import (
    AntitrainConfig as AntitrainConfig,
    AntitrainPanel as AntitrainPanel,
    AntitrainResult as AntitrainResult,
    AntitrainSettings as AntitrainSettings,
    Antitraining as Antitraining,
    antitrain_panel as antitrain_panel,
    certify as certify,
    core_set as core_set,
    information_content as information_content,
    run_antitrain as run_antitrain,
)
from .toy import (
    ToyConfig as ToyConfig,
    ToyResult as ToyResult,
    ToyTraining as ToyTraining,
    preset_config as preset_config,
    run_toy as run_toy,
    toy_explorer as toy_explorer,
)

__version__: str
