from .config import (
    AgentConfig as AgentConfig,
)
from .context_groups import (
    separation as separation,
)
from .polysemantic import (
    PolysemanticDetector as PolysemanticDetector,
)
from .polysemantic_scan import (
    scan_polysemantic as scan_polysemantic,
)
from .token_level import (
    token_activations as token_activations,
    token_profiles as token_profiles,
)
from .logits import (
    logit_view as logit_view,
)
from .correlation import (
    correlate as correlate,
)
from .clusters import (
    correlation_clusters as correlation_clusters,
)
from .patterns import (
    ActivationVisualizer as ActivationVisualizer,
)
from .agent import (
    AnalysisResult as AnalysisResult,
    agent_panel as agent_panel,
    run_agent as run_agent,
)
from .browser import (
    NeuronBrowser as NeuronBrowser,
)
from .hypotheses import (
    Hypothesis as Hypothesis,
    check_hypothesis as check_hypothesis,
)
from .states import (
    held_out as held_out,
)
from .prompt_pairs import (
    PromptPair as PromptPair,
)
from .patching import (
    patch_activations as patch_activations,
)
from .attribution_patching import (
    attribute_patches as attribute_patches,
)
from .path_patching import (
    patch_paths as patch_paths,
)
from .steering import (
    SteeringVector as SteeringVector,
    steer as steer,
    vector_from_texts as vector_from_texts,
)
