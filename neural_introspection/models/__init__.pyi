from .identity import (
    ModelInfo as ModelInfo,
    describe as describe,
    model_device as model_device,
    model_hash as model_hash,
    model_name as model_name,
)
from .sites import (
    check_layer as check_layer,
    check_neuron as check_neuron,
    check_sites as check_sites,
    layer_width as layer_width,
)
from .loading import (
    as_bridge as as_bridge,
    load_model as load_model,
    resolve_model as resolve_model,
)
from .weights import (
    named_weights as named_weights,
    with_weights as with_weights,
)
from .tokens import (
    TokenBatch as TokenBatch,
    added_tokens as added_tokens,
    encode as encode,
    encode_texts as encode_texts,
    token_batch as token_batch,
    token_batches as token_batches,
    token_bytes as token_bytes,
    token_strings as token_strings,
    token_text as token_text,
)
from .check import (
    preflight as preflight,
    token_losses as token_losses,
)
from .evaluation import (
    accuracy as accuracy,
    evaluating as evaluating,
    read_logits as read_logits,
)
from .examples import (
    Examples as Examples,
    scores as scores,
)
from .workers import (
    spread as spread,
    spread_pieces as spread_pieces,
)
from .smollm2 import (
    fetch_smollm2 as fetch_smollm2,
)
