"""What the analysis agent refuses and writes, without a model."""
import pytest
from neural_introspection.analysis import AgentConfig, agent
from neural_introspection.analysis.agent import claim_cell
from neural_introspection.analysis.policies import LanguageModelPolicy
from neural_introspection.analysis.states import allowed, first_state

pytest.importorskip("langgraph", reason="langgraph is missing")


def test_code_is_made_of_literals():
    claim = dict(kind="token", neuron="blocks.1.mlp.hook_post[1]", about=dict(tokens=["'); import os; os.system('x') #", "\n\"\"\""]), seed=0, reserve=False)
    import ast
    tree = ast.parse(claim_cell(AgentConfig(model="x'y"), claim))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert len(tree.body) == 4


def test_a_speaker_that_breaks_does_not_break_the_analysis():
    def broken(messages, tokens=60): raise RuntimeError("out of memory")
    state = first_state(AgentConfig()) | dict(claims=[dict(evidence=dict(enough=True, strong=True, p=.01))], proposed=[{}], queue=["a"])
    assert LanguageModelPolicy(broken).choose(state, allowed(state, "test"))[1] == "rules"
    assert "out of memory" in state["notes"][0]


def test_links_in_words_stay_words():
    shown = agent._plain_markdown("see https://evil.example/x, www.evil.example or a@evil.example")
    assert "://" not in shown
    assert "www." not in shown
    assert "@" not in shown
