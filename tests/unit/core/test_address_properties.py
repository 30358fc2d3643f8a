"""Addresses: what one prints, `parse` reads; any other text is refused in a sentence."""
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from neural_introspection.core import BadAddress, NeuronAddress, Target, site_layer
from neural_introspection.core.addresses import LAYER_TYPES

names = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1)
sites = st.one_of(names, st.lists(names, min_size=2, max_size=4).map(".".join))
neurons = st.integers(0, 10**9)


@given(sites, neurons)
@example("blocks.0.mlp.hook_post[3]", 5)   # a site with an index of its own
def test_an_address_is_read_as_it_prints(site, neuron):
    address = NeuronAddress(site, neuron)
    assert NeuronAddress.parse(str(address)) == address
    assert Target.of(address) == Target(site, (neuron,))


@given(sites, st.one_of(st.none(), st.lists(neurons, min_size=1, max_size=5, unique=True).map(tuple)))
def test_a_target_is_read_as_it_prints(site, chosen):
    target = Target(site, chosen)
    assert Target.of(str(target)) == target
    assert len(target) == len(target.columns) == max(1, len(target.addresses))


@given(st.sampled_from(sorted(LAYER_TYPES)), st.integers(0, 999), neurons)
def test_layer_and_type_are_those_it_was_made_of(layer_type, layer, neuron):
    address = NeuronAddress.of(layer_type, layer, neuron)
    assert (address.layer_type, address.layer) == (layer_type, layer)


@given(st.text())
@example("blocks.٣.mlp.hook_post[٣]")   # digits that int() reads, and nobody writes
@example("blocks.0.mlp.hook_post[-1]")
def test_a_text_is_an_address_or_refused(text):
    try: address = NeuronAddress.parse(text)
    except BadAddress as error:
        assert repr(text) in str(error)
        return
    assert str(address) == text.strip()


@given(st.text())
@example("x[1,1]")
@example("x[01]")
def test_a_text_is_a_target_or_refused(text):
    try: target = Target.of(text)
    except BadAddress: return
    assert Target.of(str(target)) == target


@given(st.text())
def test_the_layer_is_a_number_that_is_written_there(site):
    layer = site_layer(site)
    assert layer is None or re.match(rf"blocks\.0*{layer}\.", site)


@pytest.mark.parametrize("neurons", [(), (1, 1)])
def test_a_target_has_each_neuron_once(neurons):
    with pytest.raises(BadAddress, match="each once"): Target("x", neurons)
