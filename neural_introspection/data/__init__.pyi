from .texts import (
    Corpus as Corpus,
    group_texts as group_texts,
    leaked_share as leaked_share,
    load_texts as load_texts,
    python_docs as python_docs,
    split_groups as split_groups,
    synthetic_texts as synthetic_texts,
)
from .classification import (
    ClassificationData as ClassificationData,
    DATA_SETS as DATA_SETS,
    epoch_batches as epoch_batches,
    load_classification as load_classification,
    whole_numbers as whole_numbers,
)
