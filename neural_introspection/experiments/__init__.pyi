from .documents import (
    encode_documents as encode_documents,
    python_documents as python_documents,
    split_documents as split_documents,
)
from .pocket import (
    PocketRecipe as PocketRecipe,
    heldout_windows as heldout_windows,
    make_model as make_model,
    token_nats as token_nats,
)
from .benchmark import (
    Results as Results,
    Row as Row,
    forget_files as forget_files,
    in_fresh_process as in_fresh_process,
    in_turn as in_turn,
    is_smoke as is_smoke,
    peak_of as peak_of,
    ratio_row as ratio_row,
    rounds as rounds,
    seconds as seconds,
    table as table,
    text_windows as text_windows,
    this_machine as this_machine,
)
