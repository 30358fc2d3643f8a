"""Every result keeps the one protocol: sentence, table, HTML without markup of its own, figure, best rows, files."""
import dataclasses
import functools
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
import xarray
from torch import nn

import neural_introspection as ni
from neural_introspection.antitraining.concepts import ForcedConcept
from neural_introspection.antitraining.panel import SMALL, live_reading
from neural_introspection.antitraining.pipeline import open_antitraining
from neural_introspection.antitraining.tunable_activation import ActivationComparison
from neural_introspection.activations import TokenCounts
from neural_introspection.activations.site_tree import SiteTree
from neural_introspection.analysis.attribution_patching import attribute_patches
from neural_introspection.analysis.clusters import correlation_clusters
from neural_introspection.analysis.correlation import correlate
from neural_introspection.analysis.firing import neuron_rates
from neural_introspection.analysis.logits import logit_attribution
from neural_introspection.analysis.neuron_index import layer_index
from neural_introspection.analysis.neuron_page import browse_neuron
from neural_introspection.analysis.patching import patch_activations
from neural_introspection.analysis.path_patching import patch_paths
from neural_introspection.analysis.polysemantic_scan import compare_corpora
from neural_introspection.analysis.token_level import TokenActivations
from neural_introspection.core import BadInput, NeuronAddress, Result
from neural_introspection.data import Corpus
from neural_introspection.experiments import benchmark
from neural_introspection.introspection.concepts import random_concepts
from neural_introspection.introspection.injection import detect_injection
from neural_introspection.introspection.ensembles import Ensemble
from neural_introspection.introspection.few_texts import FewTexts
from neural_introspection.introspection.monitors import ActivationDrift, GradientTracker
from neural_introspection.introspection.neurofeedback import neurofeedback
from neural_introspection.introspection.self_modification import SelfModification
from neural_introspection.introspection.self_report import SelfReport
from neural_introspection.introspection.students import Students
from neural_introspection.models import check_sites, preflight
from neural_introspection.stats import Difference, Score
from neural_introspection.tracing.meta_model import MetaModel, MetaResult
from neural_introspection.tracing.order import HiddenChain, held_out_bits, neuron_states
from traces import KEEP, X, Y, network, train

HOSTILE = "<script>alert(1)</script>"
MLP = "blocks.1.mlp.hook_post"


def all_results(kind=Result):
    "Every subclass in the package, once all modules are imported."
    for module in pkgutil.walk_packages(ni.__path__, "neural_introspection."):
        if not module.name.endswith("__main__"): importlib.import_module(module.name)
    below = lambda of: [one for sub in of.__subclasses__() for one in (sub, *below(sub))]
    found = {one for one in below(kind) if one.__module__.startswith("neural_introspection.")}
    return sorted(found, key=lambda one: one.__name__)


class Material:
    "What several examples are made from, made once."
    def __init__(self, folder): self.folder = folder

    @functools.cached_property
    def model(self): return ni.load_model("pocket", device="cpu")
    @functools.cached_property
    def texts(self): return [*ni.load_texts("python-docs", 39, seed=0).texts, f"A list of {HOSTILE} items."]
    @functools.cached_property
    def rows(self):
        monitor = ni.ActivationMonitor(ni.ModelInterface(self.model)).register_layers([MLP])
        return monitor.capture(self.texts), monitor.mask
    @functools.cached_property
    def index(self): return layer_index(self.model, self.texts, 1, n_permutations=19)
    @functools.cached_property
    def run(self):
        return ni.run_introspection(model="pocket", layer=1, neuron="7", num_samples=120, epochs=2,
                                    output_dir=str(self.folder / "run"), device="cpu")
    @functools.cached_property
    def net(self): return train(network(self.folder / "small.zarr", **KEEP), range(4))
    @functools.cached_property
    def trace(self): return self.net.network_trace
    @functools.cached_property
    def analysis(self): return ni.analyse_trace(self.trace, method="PCA", n_map_permutations=9, n_cluster_permutations=9)
    @functools.cached_property
    def antitraining(self):
        begun, _ = open_antitraining(SMALL, 0)
        begun.train(20)
        begun.measure()
        return begun
    @functools.cached_property
    def reading(self): return live_reading(self.antitraining)


@pytest.fixture(scope="module")
def made(tmp_path_factory): return Material(tmp_path_factory.mktemp("results"))


def _gradients(made):
    layer = nn.Linear(3, 2)
    tracker, optimizer = GradientTracker(dict(layer.named_parameters()), 1), torch.optim.SGD(layer.parameters(), .1)
    with tracker.watch(optimizer):
        layer(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    return tracker


def _drift(made):
    drift = ActivationDrift(made.model, f"{MLP}[7]", made.texts[:8])
    drift.record(0)
    return drift


def _atlas(made):
    r2 = np.random.default_rng(0).beta(1, 6, (2, 8))
    names = dict.fromkeys(("r2", "selectivity", "penalty", "p", "q", "count"), (("layer", "neuron"), r2))
    about = dict(model=dict(name=HOSTILE), layer_type="mlp_out", feature_site="blocks.1.hook_resid_post",
                 token_pos="all", texts=9, groups=9, folds=3, leakage={"0": "downstream", "1": "upstream"})
    names |= dict(null=(("permutation", "sampled"), r2))
    return ni.AtlasResult(xarray.Dataset(names, dict(layer=range(2), neuron=range(8))), about)


def _analysis(made):
    claims = pd.DataFrame(dict(neuron=f"{MLP}[7]", kind="token", statement=f"reads {HOSTILE}", test="rank",
                               value=[.3, .1], p=[.01, .4], q=[.02, .4], n=[40, 40], enough=True, strong=[True, False],
                               words="", by="", about="{}", cell="1 + 1", verdict=["supported", "inconclusive"]))
    visits = pd.DataFrame(dict(state=["scan", "report"], then=["report", ""], why=["", ""], by=["rules", "rules"]))
    return ni.AnalysisResult(claims, visits, (HOSTILE,), dict(config=dict(level=.05), model=dict(name="pocket")))


def _benchmark(made):
    results = benchmark.Results(HOSTILE, dict(what="nothing"), dict(cpu="one"))
    row = benchmark.BenchmarkRow("A1", HOSTILE, "other", .5, .4, .6, .3)
    results.keep("times", pd.DataFrame(dict(ours=[1., 2.], other=[2., 4.])), row)
    return results


def _meta(made):
    names = ["whole trace, logistic", "whole trace, boosting", "weight norm"]
    draw = lambda columns: pd.DataFrame(np.random.default_rng(0).uniform(.4, .9, (4, len(columns))), None, columns)
    return MetaResult(draw(names), draw(range(9)), dict(logistic=_meta_model(made)), (0, 1), (2, 3))


def _meta_model(made):
    from sklearn.linear_model import LogisticRegression
    x = np.random.default_rng(0).normal(size=(20, 2))
    return MetaModel("logistic", ("a", "b"), LogisticRegression().fit(x, x[:, 0] > 0))


def _polysemantic(made, seed=0):
    return ni.scan_polysemantic(made.model, made.texts, layers=[1], per_layer=12, n_permutations=19, seed=seed)


def _certificate(made):
    run = made.antitraining
    some, others = run.examples[torch.arange(200)], run.test[torch.arange(100)]
    return ni.certify(run.model, run.layers[0], some, others, relearn_steps=0)


def _forced(made):
    history = pd.DataFrame(dict(language=[3., 2.], there=[.7, .5], elsewhere=[.1, .2]))
    return ForcedConcept(HOSTILE, MLP, (1, 2), dict(w=torch.ones(2, 2)), (torch.ones(2), torch.tensor(.5)), history)


def _comparison(made):
    names, seeds = np.repeat(["sigmoid", "tunable", "relu"], 3), np.tile(range(3), 3)
    frame = pd.DataFrame(dict(activation=names, seed=seeds, accuracy=.9 + .01 * seeds, loss=.3))
    return ActivationComparison(frame, np.full((3, 4), .5))


def _token_counts(made): return TokenCounts("all", 100., texts=90, skipped=1, cut=2, tokens=1234, sinks=5)


def _site_tree(made):
    frame = pd.DataFrame(dict(site=[MLP, HOSTILE], shape=["text x token x 512", ""]))
    return SiteTree(HOSTILE, frame, dict(input=HOSTILE))


def _chain(made):
    half = np.full((2, 2), .5)
    return HiddenChain(half[0], half, half, half[0], ("quiet", HOSTILE), 1.)


def _held_out(made):
    pytest.importorskip("hmmlearn", reason="needs hmmlearn: install the extra tracing")
    return held_out_bits(neuron_states(made.trace), (1, 2), folds=2, restarts=1)


def _self_report(made):
    score, lead = Score(.5, .4, .6, .7, .7, 100, 20), Difference(.5, .4, .6)
    reports = pd.DataFrame(dict(text=[HOSTILE], group=[0], actual=[1.], reported=[.5], set_to=[2.], reported_set=[2.],
                                said=[HOSTILE]))
    slopes = dict(target=lead, random=lead, difference=lead)
    change = dict(std_ratio=1., r2_current=.5, kl=.1, perplexity_before=9., perplexity_after=10.)
    return SelfReport("introspects", score, dict(mean=score), dict(mean=lead), score, dict(own=score), slopes, .5,
                      change, reports, dict(target=f"{MLP}[7]", model=HOSTILE))


def _model_benchmark(made):
    rows = [dict(model=HOSTILE, untrained=untrained, of=HOSTILE, address=f"{MLP}[{i}]", cell=str(i), task="report",
                 metric="R²", score=.5, lead=.1*i, lead_low=.05, lead_high=.3, verdict="introspects",
                 positive=True, note="")
            for untrained in (False, True) for i in range(3)]
    for row in rows[3:]: row["model"] += ", untrained"
    return ni.BenchmarkResult(pd.DataFrame(rows), dict(suite=HOSTILE, version=1, texts=9, seed=0))


def _neurofeedback(made):
    values = np.arange(len(made.texts), dtype=float)
    return neurofeedback(made.model, made.texts, {HOSTILE: values}, counts=(0, 2), tests=6)


def _injection(made):
    concepts = random_concepts(made.model, 2, 2, made.texts[-4:])
    named = {2: dict(zip((HOSTILE, "b"), concepts.vectors[2].values()))}
    return detect_injection(made.model, dataclasses.replace(concepts, vectors=named), (.5,), n_resamples=20)


def _self_modification(made):
    names = ("r2", "r2_now", "std_ratio", "kl", "perplexity_ratio")
    measured = {name + end: [.5, .6] for name in names for end in ("", "_low", "_high")}
    frame = pd.DataFrame(dict(unfreeze=["all", HOSTILE], target_values="fixed", penalty=[0., 1.], seed=0, **measured,
                              dead_share=0., frozen_r2=.5, shuffled_r2=0., verdict=["collapse", "learned"], why=HOSTILE,
                              collapse=[True, False], rows=9, groups=9, epoch=1))
    return SelfModification(frame, dict(target=f"{MLP}[7]", seeds=1, changes={"all": True, HOSTILE: True}))


def _ensemble(made):
    members = pd.DataFrame(dict(layer=[0, 1], head="ridge", seed=0, leakage="upstream", weight=[0., 1.],
                                chosen=[False, True], val_r2=[.2, .5], test_r2=[.1, .4]))
    lead = dict(lead=[0., -.1, .1], lead_low=[0., -.2, .05], lead_high=[0., 0., .2])
    scores = pd.DataFrame(dict(method=["best member", "mean", "stacked"], r2=[.4, .3, .5], low=.2, high=.6) | lead)
    coverage = pd.DataFrame(dict(texts="held out", method=["conformal", "normalised", "naive"], level=.9,
                                 coverage=[.9, .91, .5], low=.4, high=.95, split_low=.4, split_high=.95, width=1.,
                                 groups=9))
    return Ensemble(members, scores, coverage, dict(target=f"{MLP}[7]", model=HOSTILE))


def _few_texts(made):
    names = np.repeat(["reader", "closed form", "other neuron's weights", "from scratch"], 2)
    frame = pd.DataFrame(dict(neurons="unseen layer", texts=[0, 4] * 4, reader=names, r2=np.arange(8) / 10, low=0.,
                              high=1., median=.5, count=9)).drop(6)   # from scratch there is nothing without a text
    leads = pd.DataFrame(dict(neurons="unseen layer", texts=[0, 4, 4], against=["closed form"] * 2 + ["from scratch"],
                              lead=.2, low=[-.1, .1, .1], high=.3, p=.01))
    return FewTexts(frame, leads, dict(model=dict(name=HOSTILE)))


def _students(made):
    sees = ["table", "tokens", "stream", "control"]
    frame = pd.DataFrame(dict(student=["last token", HOSTILE, "layer 0", "1 x 8, shuffled"], sees=sees, parameters=9,
                              ms=2., one_ms=1., r2=[.4, .3, .5, 0.], low=-.1, high=.6, q25=.1, q75=.5, above_half=.2,
                              one_r2=.5, one_low=.4, one_high=.6))
    by_layer = pd.DataFrame(dict(student=["last token", HOSTILE], layer=[0, 1], r2=.3, leakage="input"))
    about = dict(model=dict(name=HOSTILE), neuron=f"{MLP}[7]", neurons=1024, parameters=100, ms=9., one_ms=8.)
    return Students(frame, by_layer, about)


def _pairs(made):
    names = ("data", "name"), ("key", "path"), ("text", "line")
    return [(f"{HOSTILE} {a} is", f"{HOSTILE} {b} is", a, b) for a, b in names]


SHORT = dict(width=8, train_steps=20, cycles=1, cycle_steps=5, final_steps=5, measure_examples=100, n_draws=1,
             certificate=False)
EXAMPLES = dict(   # of each class, by name
    ActivationComparison=_comparison,
    ActivationDataset=lambda made: ni.ActivationDatasetGenerator(made.model, f"{MLP}[7]").generate(made.texts),
    ActivationDrift=_drift,
    AnalysisResult=_analysis,
    AntitrainResult=lambda made: ni.run_antitrain(**SHORT, output_dir=str(made.folder / "antitrain")),
    AtlasResult=_atlas,
    AttributionResult=lambda made: attribute_patches(made.model, _pairs(made), layers=[1], n_exact=4,
                                                     n_permutations=64),
    BenchmarkResult=_model_benchmark,
    BreadCrumbs=lambda made: ni.bread_crumbs(made.trace, n_paths=3, n_permutations=10),
    Certificate=_certificate,
    Comparison=lambda made: compare_corpora(_polysemantic(made), _polysemantic(made, 1), n_permutations=19),
    Core=lambda made: made.antitraining.layers[0].core,
    Corpus=lambda made: Corpus("mine", (HOSTILE, "b"), (0, 1), dict(source=HOSTILE)),
    Correlation=lambda made: correlate(made.rows[0], MLP, neurons=8, mask=made.rows[1], n_permutations=10),
    CorrelationClusters=lambda made: correlation_clusters(made.rows[0], MLP, 12, None, made.rows[1], splits=1,
                                                                  n_permutations=3),
    Ensemble=_ensemble,
    EpochTrace=lambda made: made.trace.sel(1),
    FewTexts=_few_texts,
    ForcedConcept=_forced,
    GradientTracker=_gradients,
    HeldOut=_held_out,
    HiddenChain=_chain,
    InferenceHistory=lambda made: ni.trace_inference(made.net, X[:40], Y[:40]),
    Information=lambda made: made.reading.information,
    InjectionDetection=_injection,
    InterventionEffect=lambda made: ni.intervene(made.model, made.texts[:6], f"{MLP}[7]", ("zero", "mean"), n_random=3),
    IntrospectionCard=lambda made: made.run.card,
    IntrospectionResult=lambda made: made.run,
    LayerIndex=lambda made: made.index,
    LayerTrace=lambda made: made.trace.sel(1, "output"),
    LiveReading=lambda made: made.reading,
    LogitAttribution=lambda made: logit_attribution(made.model, made.texts[-1], 1, [3, 7]),
    LogitView=lambda made: ni.logit_view(made.model, f"{MLP}[7]", k=3, n_random=9),
    MapStability=lambda made: made.analysis.maps,
    MetaModel=_meta_model,
    MetaResult=_meta,
    NetworkTrace=lambda made: made.trace,
    NeuronClusters=lambda made: made.analysis.clusters,
    NeuronMap=lambda made: made.analysis.maps.maps["real"],
    NeuronPage=lambda made: browse_neuron(made.index, 7, made.texts[-1]),
    NeuronRates=lambda made: neuron_rates(*made.rows),
    NeuronStates=lambda made: neuron_states(made.trace),
    NeuronTable=lambda made: dataclasses.replace(made.analysis.table, notes=(HOSTILE,)),
    NeuronTrace=lambda made: made.trace.sel(1, "output", 3),
    PatchingResult=lambda made: patch_activations(made.model, _pairs(made), "residual", n_permutations=64),
    PathPatching=lambda made: patch_paths(made.model, _pairs(made), "blocks.0.hook_mlp_out", "blocks.2.attn.hook_v",
                                          n_permutations=64),
    PolysemanticResult=_polysemantic,
    Preflight=lambda made: preflight(made.model),
    Results=_benchmark,
    SiteCheck=lambda made: check_sites(made.model),
    ScanResult=lambda made: ni.introspection.NeuronScanner(made.model).scan(made.texts),
    Neurofeedback=_neurofeedback,
    SelfModification=_self_modification,
    SelfReport=_self_report,
    Students=_students,
    TokenActivations=lambda made: TokenActivations(HOSTILE, (HOSTILE, "b"), (NeuronAddress(MLP, 7),), np.eye(2)[:, :1]),
    SiteTree=_site_tree,
    TokenCounts=_token_counts,
    TokenProfile=lambda made: ni.token_profiles(made.model, made.texts, f"{MLP}[108]", n_permutations=19)[0],
    ToyResult=lambda made: ni.run_toy(ni.preset_config("LR1", "smoke", sweep_values=(.01, .03),
                                                       output_dir=str(made.folder / "toy"))),
    TraceAnalysis=lambda made: made.analysis,
    TraceResult=lambda made: ni.run_trace(epochs=2, hidden_size="8", num_samples=200,
                                          output=str(made.folder / "run.zarr")),
    TrainResult=lambda made: made.run.training,
)
OWN_FILES = dict(ActivationDataset="a.parquet", AtlasResult="a.zarr", ScanResult="a.safetensors")   # and own `load`
NOT_SAVED = dict(   # what the message names
    **dict.fromkeys(("AnalysisResult", "AntitrainResult", "IntrospectionResult", "ToyResult", "TraceResult"),
                    "is not saved by itself"),
    **dict.fromkeys(("EpochTrace", "LayerTrace", "NeuronTrace", "InferenceHistory"), "field trace is a NetworkTrace"),
    MetaModel="its field fitted is a LogisticRegression", MetaResult="its field models.logistic.fitted is",
    NeuronPage="its field index is a LayerIndex")
RECORDERS = ("ActivationDrift", "GradientTracker", "LayerIndex", "NetworkTrace")   # their `save` is for other readers


@pytest.fixture(scope="module", params=all_results(), ids=lambda kind: kind.__name__)
def example(request, made):
    "One example of each class; a class without one fails here."
    found = EXAMPLES[request.param.__name__](made)
    assert type(found) is request.param
    return found


def test_no_example_is_left_over():
    assert set(EXAMPLES) == {kind.__name__ for kind in all_results()}


def test_the_sentence(example):
    words = example.summary()
    assert words == words.strip() and "\n" not in words and words.endswith((".", "!", "?")) and " " in words
    assert repr(example) == words and example.meta == dict(result=type(example).__name__, format=example._format)


def test_the_table(example): assert isinstance(example.to_frame(), pd.DataFrame)


def test_the_html_shows_the_sentence_and_no_markup_of_texts(example):
    import html
    page = example._repr_html_()
    assert html.escape(example.summary()) in page
    assert "<script" not in page and "alert(1)</" not in page
    assert "<script" not in example.to_markdown().replace(example.summary(), "")


def test_the_best_rows(example):
    if not callable(getattr(example, "top", None)): return
    frame = example.top(2)
    assert len(frame) <= 2 * (frame.side.nunique() if "side" in frame else 1)


def test_the_figure(example):
    if hasattr(example, "plot"): assert isinstance(example.plot(), go.Figure)


def test_saved_and_loaded(example, tmp_path):
    kind, path = type(example), tmp_path / OWN_FILES.get(type(example).__name__, "folder")
    if kind.__name__ in RECORDERS: return
    if kind.__name__ in NOT_SAVED:
        with pytest.raises(BadInput, match=NOT_SAVED[kind.__name__]): example.save(path)
        assert not path.exists()
        return
    back = kind.load(example.save(path))
    pd.testing.assert_frame_equal(back.to_frame(), example.to_frame())
    assert type(back) is kind and back.summary() == example.summary() and back._repr_html_() == example._repr_html_()
    assert not [p for p in Path(tmp_path).rglob("*") if p.suffix in (".pkl", ".pt", ".pickle")]
