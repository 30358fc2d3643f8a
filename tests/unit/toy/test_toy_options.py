"""Toy models' options and files, where nothing is trained: the published command line, bad sweeps, what is refused."""
import pytest
import torch
from neural_introspection import cli
from neural_introspection.core import BadData
from neural_introspection.toy import ToyResult, preset_config
from shell import is_one_sentence



def refused(argv, capsys, words):
    assert cli.main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert out == "", err
    assert err.startswith("error: "), err
    assert is_one_sentence(err.strip()), err
    assert words in err, err


def test_what_is_left_out_is_as_published(tmp_path, capsys):
    assert cli.main(["toy", "--print-config"]) == 0
    text = capsys.readouterr().out
    published = dict(N=512, m=64, k=1024, eps=.015625, log2_batch_size=7, learning_rate=.03, log2_training_steps=12, sample_kind="equal", task="autoencoder", decay=0., initial_bias=0., nonlinearity="ReLU", reg=0., output_dir="./",
                     sweep_var="null", sweep_values="null", file_name="null")
    for name, value in published.items(): assert f"\n{name}: {value}\n" in text, name


@pytest.mark.parametrize("argv, words", [
    ("--preset B9", "LR1, LR2"), ("--scale desk --preset B1", "smoke, laptop"), ("--sweep_var k", "--sweep-values are empty"), ("--sweep_var k --sweep_values 0 4", "k is 0"), ("--sweep_var eps --sweep_values 0.5 1.5", "eps is 1.5"),
    ("--sweep_var eps --sweep_values 0", "above 0"), ("--sweep_values 1 2", "no --sweep-var"), ("--k 0", "k is 0"), ("--m 600", "at most N"), ("--decay 40", "turn the biases"), ("--device tpu", "device"), ("--sweep_var colour --sweep_values 1", "one of N, m, k, initial_bias"), ("--sweep_values", "are empty"), ("--preset LR1 --sweep_var k", "give --sweep-values"), ("--nonlinearity relu", "ReLU, GeLU, SoLU"),
    ("--sweep_var k --sweep_values many", "must be numbers"), ("--learning_rate inf", "must be finite"), ("--seed 1e23", "seed is"), ("--N 65536 --log2_batch_size 20", "lower stack"), ("--sweep_var reg --sweep_values 0.1 0.1", "twice"), ("--scale smoke", "a scale is that of a preset"), ("--file_name " + "x" * 300, "cannot be a folder here"), ("--output_dir ~nobody-of-this-name", "a home folder that is there")])
def test_bad_sweeps_end_in_one_sentence(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(f"toy {argv}", capsys, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text, words", [
    ("preset: LR1\nscale:\n", "scale is empty"), ("preset: LR1\nname: x\n", "option 'name' is unknown"), ("1: 2\n", "option 1 is unknown"), ("preset: [LR1]\n", "must be one of"), ("sweep_values: many\n", "must be numbers")])
def test_bad_yaml_ends_in_one_sentence(text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    refused("toy --config x.yaml", capsys, words)
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]


def test_print_config_is_read_back_however_long(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = " ".join(f"{i / 10_000:g}" for i in range(1, 151))
    assert cli.main(f"toy --sweep_var learning_rate --sweep_values {values} --print-config".split()) == 0
    text = capsys.readouterr().out
    (tmp_path / "long.yaml").write_text(text)
    assert cli.main("toy --config long.yaml --print-config".split()) == 0
    assert capsys.readouterr().out == text
    assert text.count("0.0") >= 150


def test_lamb_is_that_of_torch_optimizer():
    "The package that the published programs use, on one run."
    theirs = pytest.importorskip("torch_optimizer", reason="torch_optimizer is not installed").Lamb
    from neural_introspection.toy.optimizers import Lamb
    draw = torch.Generator().manual_seed(0)
    mine, grad = torch.randn(1, 40, 30, generator=draw), torch.zeros(1, 40, 30)
    p = torch.nn.Parameter(mine[0].clone())
    ours, published = Lamb([mine], [grad]), theirs([p], lr=.02)
    for _ in range(40):
        grad.copy_(torch.randn(1, 40, 30, generator=draw))
        p.grad = grad[0].clone()
        ours.step(torch.tensor([.02]))
        published.step()
    assert torch.allclose(mine[0], p, atol=1e-5)


def test_a_published_file_and_an_other_format_are_refused_by_name(tmp_path):
    with pytest.raises(BadData, match="pickle"): ToyResult.load(tmp_path / "lr1.pt")
    (tmp_path / "manifest.json").write_text('{"format": 2, "config": {"sweep_var": "k"}}')
    with pytest.raises(BadData, match="format is 2"): ToyResult.load(tmp_path)


def test_a_form_keeps_the_values_to_the_last_digit():
    from neural_introspection.display.forms import form
    config = preset_config("E1")
    shown = form(config)
    assert shown.config() == config
    assert shown.set(seeds=2).config().sweep_values == config.sweep_values
