"""Options: a config written as YAML, or given as the words of a shell, is read as it was."""
from dataclasses import asdict, dataclass
from typing import Literal, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from neural_introspection.antitraining import AntitrainConfig
from neural_introspection.core import BadInput, make_config, option, options, parse_integers, to_yaml, yaml_values
from neural_introspection.analysis.config import AgentConfig
from neural_introspection.introspection.config import AtlasConfig, IntrospectionConfig, ScanConfig
from neural_introspection.toy import ToyConfig
from neural_introspection.tracing.config import TraceConfig


@dataclass
class Everything:
    "An option of each kind."
    name: str = option("a", "A text")
    number: float = option(1., "A number")
    count: int = option(1, "A whole number")
    flag: bool = option(False, "A switch")
    values: tuple[float, ...] = option((1.,), "Numbers")
    maybe: Optional[int] = option(None, "A whole number, or none")
    kind: Literal["red", "green"] = option("red", "One of two")


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=("Cs",)))
whole = st.integers(-10**15, 10**15)
configs = st.builds(Everything, texts, finite, whole, st.booleans(), st.lists(finite, min_size=1).map(tuple),
                    st.none() | whole, st.sampled_from(["red", "green"]))


@given(configs)
@example(Everything(name="null"))
@example(Everything(name="yes: no # comment"))
@example(Everything(name="\x85 \u2028"))
@example(Everything(number=1e22))
@example(Everything(number=1e-07, values=(1e-07, 1e+16)))
def test_yaml_is_read_as_it_was_written(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("yaml")/"config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert make_config(Everything, yaml_values(path)) == config


@given(configs)
def test_words_of_a_shell_are_read_as_the_values(config):
    words = {name: str(value) for name, value in asdict(config).items()}
    words["values"] = " ".join(map(repr, config.values))
    assert make_config(Everything, words) == config


anything = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.text()),
                     st.dictionaries(st.text(), st.integers()))


@given(st.sampled_from([o.name for o in options(Everything)]), anything)
@example("count", 10.5)
@example("count", "1e400")
@example("number", "1/0")
@example("number", 10**400)
@example("values", [])
@example("flag", 2)
def test_a_value_is_taken_or_refused_by_name(name, value):
    try: config = make_config(Everything, {name: value})
    except BadInput as error:
        assert name in str(error)
        return
    assert make_config(Everything, asdict(config)) == config   # what was taken is taken again, unchanged


@given(st.lists(st.integers(), min_size=1))
def test_integers_are_read_as_python_prints_them(numbers):
    assert parse_integers(str(numbers), "layers", "1,2") == tuple(numbers)
    assert parse_integers(",".join(map(str, numbers)), "layers", "1,2") == tuple(numbers)


@given(st.text())
@example("1 2")
@example("1,,2")
@example("٣")
def test_integers_are_read_or_refused_by_name(text):
    try: found = parse_integers(text, "layers", "1,2")
    except BadInput as error: assert "layers" in str(error)
    else: assert [int(part) for part in text.strip(" \t\n\r\f\v,[]()").split(",")] == list(found)


ALL = (AgentConfig, AntitrainConfig, AtlasConfig, IntrospectionConfig, ScanConfig, ToyConfig, TraceConfig)


@pytest.mark.parametrize("config", ALL)
def test_every_default_config_is_read_as_it_was_written(config, tmp_path):
    (tmp_path/"config.yaml").write_text(to_yaml(config()), encoding="utf-8")
    assert make_config(config, yaml_values(tmp_path/"config.yaml")) == config()
