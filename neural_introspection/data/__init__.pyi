from .names import (
    DATA_SETS as DATA_SETS,
)
from .corpus import (
    Corpus as Corpus,
)
from .loading import (
    load_texts as load_texts,
)
from .groups import (
    group_texts as group_texts,
)
from .splits import (
    leaked_share as leaked_share,
    split_groups as split_groups,
)
from .classification import (
    ClassificationData as ClassificationData,
    load_classification as load_classification,
)
