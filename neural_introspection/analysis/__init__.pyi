from .rows import (
    layer_rows as layer_rows,
)
from .config import (
    AgentConfig as AgentConfig,
)
from .context_groups import (
    held_out_groups as held_out_groups,
    separation as separation,
    two_means as two_means,
)
from .polysemantic import (
    PolysemanticDetector as PolysemanticDetector,
    PolysematicDetector as PolysematicDetector,
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
from .causes import (
    ablation_effect as ablation_effect,
)
from .firing import (
    neuron_rates as neuron_rates,
)
from .correlation import (
    correlate as correlate,
    partner_rows as partner_rows,
    varying_neurons as varying_neurons,
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
