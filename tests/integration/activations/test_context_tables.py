"""A neuron's contexts are the same tokens with the same activations and words, whichever page shows them."""
import pytest

from neural_introspection import edit, load_model, load_texts, token_profiles
from neural_introspection.activations.contexts import context_words, top_contexts
from neural_introspection.analysis.neuron_index import layer_index
from neural_introspection.analysis.neuron_page import browse_neuron
from neural_introspection.analysis.polysemantic_scan import scan_polysemantic
from neural_introspection.introspection import NeuronScanner

LAYER, NEURON, K = 1, 300, 32
ADDRESS = f"blocks.{LAYER}.mlp.hook_post[{NEURON}]"
COLUMNS = ["kind", "activation", "quantile", "text", "position", "token", "snippet"]
LONG = "a text that is longer than the context of this model " * 40


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def texts(): return [*load_texts("python-docs", 50, seed=0).texts, LONG]


def scanned(model, texts):
    stats = NeuronScanner(model, token_pos="all", layers=[LAYER], top_k=K).scan(texts).stats[LAYER]
    return context_words(top_contexts(stats, NEURON), model, texts)


def of_senses(model, texts):
    return scan_polysemantic(model, texts, neurons={LAYER: [NEURON]}, n_permutations=19).contexts(ADDRESS)


READERS = dict(
    scan=scanned,
    profile=lambda model, texts: token_profiles(model, texts, ADDRESS, n_permutations=9, k=K)[0].contexts,
    polysemantic=of_senses,
    page=lambda model, texts: browse_neuron(layer_index(model, texts, LAYER, n_permutations=19), NEURON,
                                            texts[0]).contexts,
)


def sink(x):
    "Every text's third token becomes a thousand times as long (BOS is the first column)."
    x = x.clone()
    x[:, 3] *= 1000
    return x


@pytest.fixture(scope="module", params=[None, 0], ids=["no sinks", "sinks"])
def found(request, model, texts):
    "By reader: the contexts, the strongest first."
    plant = {} if request.param is None else {f"blocks.{request.param}.hook_resid_pre": sink}
    with edit(model, plant): tables = {name: read(model, texts) for name, read in READERS.items()}
    return {name: t.sort_values("activation", ascending=False, kind="stable") for name, t in tables.items()}


def test_one_set_of_columns(found):
    for name, table in found.items(): assert [c for c in table.columns if c != "sense"] == COLUMNS, name


@pytest.mark.parametrize("name", [name for name in READERS if name != "scan"])
def test_the_same_top_contexts(found, name):
    top, scan = (found[n][found[n].kind == "top"].reset_index(drop=True) for n in (name, "scan"))
    assert len(top) >= K // 2   # senses leave out what is not above the mean
    scan = scan.head(len(top))
    for column in ("text", "position", "token", "snippet"): assert top[column].tolist() == scan[column].tolist()
    assert top.activation.tolist() == pytest.approx(scan.activation.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["polysemantic", "page"])
def test_the_same_random_contexts(found, name):
    random, profile = (found[n][found[n].kind == "random"].reset_index(drop=True) for n in (name, "profile"))
    for column in ("text", "position", "token", "snippet"): assert random[column].tolist() == profile[column].tolist()
    assert random.activation.tolist() == pytest.approx(profile.activation.tolist(), abs=1e-5)
    assert random["quantile"].tolist() == pytest.approx(profile["quantile"].tolist())


def test_a_text_cut_to_the_context_goes_on(model, texts):
    "The last token that the model reads is not shown as the end of the text."
    stats = NeuronScanner(model, token_pos="last", layers=[LAYER], top_k=len(texts)).scan(texts).stats[LAYER]
    table = context_words(top_contexts(stats, NEURON), model, texts)
    assert table[table.snippet.str.endswith("…")].text.tolist() == [texts.index(LONG)]
