from .errors import (
    BadAddress as BadAddress,
    BadData as BadData,
    BadInput as BadInput,
    BadRunFolder as BadRunFolder,
    BadTexts as BadTexts,
    Cancelled as Cancelled,
    MissingExtra as MissingExtra,
    ModelNotFound as ModelNotFound,
    NeuralIntrospectionError as NeuralIntrospectionError,
    expect_error as expect_error,
)
from .extras import (
    require as require,
    triton_first as triton_first,
)
from .addresses import (
    NeuronAddress as NeuronAddress,
    Target as Target,
    check_index as check_index,
    site_layer as site_layer,
    site_name as site_name,
)
from .devices import (
    pick_device as pick_device,
    seed_everything as seed_everything,
)
from .files import (
    atomic_folder as atomic_folder,
    atomic_write as atomic_write,
    full_path as full_path,
    plain as plain,
    read_json as read_json,
    runs_folder as runs_folder,
    shipped as shipped,
    shown_path as shown_path,
    write_json as write_json,
    write_text as write_text,
)
from .tables import (
    load_optimizer_tensors as load_optimizer_tensors,
    optimizer_tensors as optimizer_tensors,
    read_frame as read_frame,
    check_format as check_format,
    read_tensors as read_tensors,
    weight_hash as weight_hash,
    write_frame as write_frame,
    write_tensors as write_tensors,
)
from .config import (
    HELP as HELP,
    Option as Option,
    check_options as check_options,
    parse_integers as parse_integers,
    config_from as config_from,
    make_config as make_config,
    option as option,
    options as options,
    resolve_call as resolve_call,
    to_yaml as to_yaml,
    yaml_values as yaml_values,
)
from .parallel import (
    n_workers as n_workers,
    progress as progress,
    map_parallel as map_parallel,
    defer_interrupt as defer_interrupt,
    watch_progress as watch_progress,
)
from .runs import (
    RunFolder as RunFolder,
    check_run_folder as check_run_folder,
    check_store as check_store,
    checkpointed as checkpointed,
    find_run as find_run,
    is_resumable as is_resumable,
    open_run as open_run,
    versions as versions,
)
from .results import Result as Result
