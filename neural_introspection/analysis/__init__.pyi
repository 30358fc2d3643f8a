from .polysemantic import (
    PolysemanticDetector as PolysemanticDetector,
    PolysemanticResult as PolysemanticResult,
    PolysematicDetector as PolysematicDetector,
)
from .token_level import (
    TOKEN_CLASSES as TOKEN_CLASSES,
    neuron_addresses as neuron_addresses,
    token_activations as token_activations,
    token_class as token_class,
    token_contrast as token_contrast,
    token_profiles as token_profiles,
)
from .patterns import (
    ActivationVisualizer as ActivationVisualizer,
    KINDS as KINDS,
)
from .agent import (
    AnalysisResult as AnalysisResult,
    agent_panel as agent_panel,
    claim_cell as claim_cell,
    run_agent as run_agent,
)
from .browser import (
    NeuronBrowser as NeuronBrowser,
)
from .rows import (
    Places as Places,
    layer_rows as layer_rows,
)
from .planted import (
    PlantedNetwork as PlantedNetwork,
)
from .context_groups import (
    held_out_groups as held_out_groups,
    separation as separation,
    two_means as two_means,
)
from .measures import (
    Finding as Finding,
    MEASURES as MEASURES,
)
from .polysemantic_scan import (
    compare_corpora as compare_corpora,
    scan_polysemantic as scan_polysemantic,
)
from .logits import (
    logit_attribution as logit_attribution,
    logit_view as logit_view,
    output_directions as output_directions,
)
from .causes import (
    ablation_effect as ablation_effect,
)
from .firing import (
    firing_threshold as firing_threshold,
    neuron_rates as neuron_rates,
    rate_bounds as rate_bounds,
)
from .correlation import (
    LIMIT as LIMIT,
    correlate as correlate,
    partner_rows as partner_rows,
    varying_neurons as varying_neurons,
)
from .clusters import (
    correlation_clusters as correlation_clusters,
)
from .activation_figures import (
    token_answers as token_answers,
)
from .hypotheses import (
    Hypothesis as Hypothesis,
    check_hypothesis as check_hypothesis,
)
from .states import (
    allowed as allowed,
    first_state as first_state,
    held_out as held_out,
)
from .policies import (
    Endpoint as Endpoint,
    LanguageModelPolicy as LanguageModelPolicy,
    LocalModel as LocalModel,
    NoAnswer as NoAnswer,
)
from .config import (
    AgentConfig as AgentConfig,
)
