"""Keras models where the page doesn't show it: odd outputs, several listeners, shared layers, half precision, training, saving."""
import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import contextlib

import numpy as np
import pytest
import torch
from neural_introspection.activations import ActivationMonitor, ModelInterface, capture, edit, hooks
from neural_introspection.activations.capturing import site_names
from neural_introspection.activations.keras_backend import neuron_axis
from neural_introspection.activations.statistics import layer_statistics
from neural_introspection.core import BadAddress, BadInput
from shell import is_one_sentence

keras = pytest.importorskip("keras", reason="needs Keras with TensorFlow: install the extra tensorflow")
pytest.importorskip("tensorflow", reason="needs TensorFlow: install the extra tensorflow")
X = np.random.default_rng(0).standard_normal((12, 6)).astype("float32")


def mlp(**options):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="relu", name="hidden", **options), keras.layers.Dense(3, name="output", **options)])


def left(model):
    "What listening left on the model's layers."
    return [name for layer in model._flatten_layers() for name in ("call", "_ni_listeners") if name in vars(layer)]


class Gives(keras.Model):
    "Its inner layer puts out whatever is asked for."
    def __init__(self, make):
        super().__init__()
        class Inner(keras.layers.Layer):
            def call(self, x): return make(2 * x)
        self.inner = Inner(name="inner")
    def call(self, x): return self.inner(x)


@pytest.mark.parametrize("make", [lambda x: (x, 0 * x), lambda x: [x], lambda x: dict(a=None, b=x), lambda x: dict(a=[x, x])])
def test_outputs_of_any_structure(make):
    model = Gives(make)
    before = keras.tree.flatten(model(X))
    with capture(model, ["inner"]) as acts: after = model(X)
    assert np.array_equal(acts["inner"], 2 * X)
    assert all(a is b is None or np.array_equal(a, b) for a, b in zip(before, keras.tree.flatten(after)))
    with edit(model, {"inner": lambda a: a + 1}): changed = model(X)
    kept = [t for t in keras.tree.flatten(changed) if t is not None]
    assert np.array_equal(kept[0], 2 * X + 1)
    assert type(changed) is type(model(X))
    assert left(model) == []


@dataclasses.dataclass
class Output:
    hidden: object
    label: str = "of a dataclass"


def test_an_output_that_is_a_dataclass():
    model = Gives(lambda x: Output(x))
    with capture(model, ["inner"]) as acts: after = model(X)
    assert np.array_equal(acts["inner"], 2 * X)
    assert np.array_equal(after.hidden, 2 * X)
    with edit(model, {"inner": lambda a: a + 1}): changed = model(X)
    assert isinstance(changed, Output)
    assert np.array_equal(changed.hidden, 2 * X + 1)
    assert changed.label == "of a dataclass"
    assert left(model) == []


def test_several_listeners_end_in_any_order():
    model, seen = mlp(), []
    plain = model(X).numpy()
    first, second = (hooks(model, {"hidden": lambda a, n=n: seen.append(n)}) for n in "ab")
    first.__enter__(), second.__enter__()
    model(X)
    first.__exit__(None, None, None)
    model(X)
    second.__exit__(None, None, None)
    assert np.array_equal(model(X), plain)
    assert seen == ["a", "b", "b"]
    assert left(model) == []


def test_a_layer_used_twice_and_one_within_another():
    shared, entry = keras.layers.Dense(6, name="shared"), keras.Input((6,))
    inner = keras.Model(entry, shared(entry), name="inner")
    model, seen = keras.Model(entry, shared(inner(shared(entry)))), []
    assert {"shared", "inner", "inner.shared"} <= set(site_names(model))
    with hooks(model, {"shared": lambda a: seen.append(a)}, every_call=True): model(X)
    assert len(seen) == 3
    with capture(model, ["shared:2", "inner"]) as acts: out = model(X)
    assert torch.equal(acts["shared:2"], torch.as_tensor(np.array(out)))
    with pytest.raises(BadInput, match="shared:0 or shared:1"), capture(model, ["shared"]): model(X)
    assert left(model) == []


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_bfloat16", "float64"])
def test_precision(policy):
    model = mlp(dtype=policy)
    with capture(model, ["hidden"]) as acts, edit(model, {"hidden": lambda a: a * 0}): out = model(X)
    assert acts["hidden"].dtype == dict(float16=torch.float16, float64=torch.float64).get(policy, torch.bfloat16)
    assert not np.any(keras.ops.convert_to_numpy(keras.ops.cast(out, "float32")))
    assert out.dtype == model(X).dtype
    stats = layer_statistics(ModelInterface(model), ["hidden"], [X[:5], X[5:]])["hidden"]
    assert stats.count.tolist() == [12] * 4
    assert float(stats.nonfinite.sum()) == 0


def test_training_and_saving_go_on_as_ever(tmp_path):
    def trained(listen):
        model = mlp()
        model.compile("adam", "mse")
        with capture(model, ["hidden"]) if listen else contextlib.nullcontext(): model.fit(X, X[:, :3], epochs=2, batch_size=4, verbose=0, shuffle=False)
        return model
    listened, plain = trained(True), trained(False)
    for a, b in zip(listened.get_weights(), plain.get_weights()): assert np.array_equal(a, b)
    with capture(listened, ["hidden"]): listened(X)
    listened.save(tmp_path / "model.keras")
    assert np.array_equal(keras.models.load_model(tmp_path / "model.keras")(X), plain(X))


def test_nothing_flows_in_compiled_code():
    model = mlp()
    for _ in range(2):   # compiled within the block, and before it
        with capture(model, ["hidden"]) as acts: model.predict(X, verbose=0)
        with pytest.raises(BadInput, match="nothing flowed") as caught: acts["hidden"]
        assert is_one_sentence(str(caught.value))


def test_a_missing_layer_names_the_nearest():
    with pytest.raises(BadAddress, match="did you mean hidden") as caught: ActivationMonitor(ModelInterface(mlp())).register_layers(["hiden"])
    assert is_one_sentence(str(caught.value))


def test_an_error_of_the_model_or_a_listener_leaves_nothing():
    model = mlp()
    with pytest.raises(ValueError), capture(model, ["hidden"]): model(X[:, :5])
    def fail(a): raise KeyError("mine")
    with pytest.raises(KeyError), hooks(model, {"output": fail}): model(X)
    assert left(model) == []


def test_several_inputs_by_position_and_by_name():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    model = keras.Model([a, b], keras.layers.Dense(3, name="out")(keras.layers.Subtract(name="less")([a, b])))
    for inputs in ((X, X[::-1].copy()), dict(a=torch.tensor(X), b=X[::-1].copy())):
        assert np.array_equal(ModelInterface(model).activations(["less"], inputs)["less"], X - X[::-1])


def test_what_follows_a_convolution_has_its_axis_of_channels():
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((3, 8, 8)), layers.Conv2D(5, 3, data_format="channels_first", name="conv"),
        layers.Activation("relu", name="relu"), layers.BatchNormalization(axis=1, name="norm"),
        layers.Dropout(.1, name="drop"), layers.Dense(6, name="dense"), layers.Flatten(), layers.Dense(2, name="output")])
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("float32")
    names = ["conv", "relu", "norm", "drop", "dense", "output"]
    stats = layer_statistics(ModelInterface(model), names, [x])
    assert {name: len(stats[name].mean) for name in names} == dict(conv=5, relu=5, norm=5, drop=5, dense=6, output=2)
    with capture(model, ["relu"]) as acts: model(x)
    torch.testing.assert_close(stats["relu"].mean.float(), acts["relu"].mean((0, 2, 3)))


def test_the_axis_of_channels_in_a_graph_with_branches():
    layers, first = keras.layers, dict(data_format="channels_first")
    x = keras.Input((4, 8, 8))
    normed = layers.BatchNormalization(axis=1, name="norm")(x)
    one, other = (layers.Conv2D(4, 1, name=name, **first)(normed) for name in ("one", "other"))
    added = layers.Add(name="added")([one, other])
    relu = layers.ReLU(name="relu")(added)
    moved = layers.Permute((2, 3, 1), name="moved")(layers.Conv2D(8, 1, name="wide", **first)(relu))
    after = layers.Activation("tanh", name="after")(moved)
    model = keras.Model(x, after)
    axes = {name: neuron_axis(model.get_layer(name), 4) for name in ("norm", "added", "relu", "moved", "after", "wide")}
    assert axes == dict(norm=1, added=1, relu=1, moved=-1, after=-1, wide=1)
