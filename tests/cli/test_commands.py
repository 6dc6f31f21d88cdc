"""The command line as users type it: real processes, a real broker, signals, and every kind of bad input."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from murmur.cli.main import main
from tests.brokers.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
APP = str(Path(__file__).with_name("agents_app.py"))
MURMUR = (sys.executable, "-m", "murmur.cli.main")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MURMUR_")}
    return {**clean, "PYTHONPATH": str(ROOT), "STARTS": str(tmp_path / "starts")}


@pytest.fixture
def murmur(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MURMUR, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return call


@contextlib.contextmanager
def running(tmp_path: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*MURMUR, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(holds: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def starts(tmp_path: Path) -> Counter[str]:
    path = tmp_path / "starts"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def test_run_prints_the_output_as_json(murmur: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = murmur("run", "echo", "hello", "--app", APP)
    assert (done.returncode, done.stdout) == (0, '"HELLO"\n')
    assert murmur("run", "napper", "0.01", "--app", APP).stdout == "0.01\n"


def test_agents_are_listed(murmur: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "echo: str -> str    Say it again, louder." in murmur("agents", "--app", APP).stdout
    lines = [json.loads(line) for line in murmur("agents", "--app", APP, "--json").stdout.splitlines()]
    assert [(line["name"], line["input"]) for line in lines] == [("echo", "str"), ("napper", "float")]
    assert "echo" in murmur("agents", "--all-from", str(Path(APP).parent)).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "ecko", "x", "--app", APP), 2, "E201 no agent 'ecko'; known, nearest first: echo, napper"),
        (
            ("run", "napper", "soon", "--app", APP),
            1,
            "E203 input of napper does not fit float: $ expected float, got 'soon'",
        ),
        (("run", "echo", "x", "--app", "no_such_module"), 2, "no module 'no_such_module'"),
        (("run", "echo", "x", "--app", "missing.py"), 2, "missing.py: no such file"),
        (("run", "echo", "x", "--app", f"{APP}", "--wrong"), 2, "No such option '--wrong'"),
        (("run", "echo", "x", "--app", "json:JSONDecoder"), 2, "JSONDecoder is no actor class"),
        (("worker", "start", "--app", APP), 2, "name a broker"),
        (
            ("worker", "start", "--app", APP, "--broker", "reds://h"),
            2,
            "unknown scheme 'reds'; known, nearest first: redis://",
        ),
        (("worker", "start", "--app", APP, "--broker", "redis://h:x"), 2, "'x' is not a port"),
        (
            ("worker", "start", "--app", APP, "--broker", "memory://", "--concurrency", "0"),
            2,
            "concurrency must be a whole",
        ),
        (("worker", "start", "--app", APP, "--broker", "memory://", "--agents", ","), 2, "no agents"),
        (("worker", "start", "--app", APP, "--broker", "memory://", "--processes", "-1"), 2, "processes must be a"),
        (("run", "echo", "x", "--broker", "redis://:pass%40word@127.0.0.1:1"), 2, "E111 no answer from redis://:***@"),
        (("worker", "drain", "w", "--wait", "-1", "--broker", "memory://"), 2, "-1.0 is not in the range x>=0"),
        (("gather", "echo", "--tasks", "none.jsonl", "--out", "o"), 2, "'none.jsonl' does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_a_code(
    murmur: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = murmur(*arguments)
    assert says in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "pass@word" not in done.stderr
    assert "pass%40word" not in done.stderr


@pytest.mark.parametrize("app", ["broken.py", "broken"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import json\n1 / 0", "ZeroDivisionError: "),
        ("def :", "SyntaxError: "),
        ("import no_such_module", "ModuleNotFoundError: "),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_breaks_is_told_with_its_traceback_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, app: str, code: str, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (tmp_path / "broken.py").write_text(f"{code}\n")
    with pytest.raises(SystemExit) as left:
        main(["worker", "start", "--app", app, "--broker", "memory://"])
    told = capsys.readouterr().err
    assert left.value.code == 3
    assert told.count("Traceback") == 1
    assert error in told


def test_tasks_may_come_through_a_pipe(murmur: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = subprocess.Popen(["sh", "-c", 'printf \'"a"\n"b"\n\' > pipe'], cwd=tmp_path)
    done = murmur("gather", "echo", "--tasks", "pipe", "--out", "out.jsonl", "--app", APP)
    assert writing.wait() == 0
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["output"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(answers) == ["A", "B"]


def test_a_line_that_is_no_task_is_named_before_anything_runs(
    murmur: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for text, says in (
        ('"a"\n5\n', "line 2 of tasks.jsonl: input of echo does not fit str: $ expected str, got 5"),
        ('"a"\n\n"b\n', "line 3 of tasks.jsonl: is no task"),
        ("\n", "holds no tasks"),
    ):
        (tmp_path / "tasks.jsonl").write_text(text)
        done = murmur("gather", "echo", "--tasks", "tasks.jsonl", "--out", "out.jsonl", "--app", APP)
        assert done.returncode == 2
        assert says in done.stderr
    assert not starts(tmp_path)


def test_settings_come_from_file_environment_and_flags(
    murmur: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "murmur.toml").write_text(f'app = ["{APP}"]\nbroker = "redis://:geheim@h:1"\nprefetch = 7\n')
    environment["MURMUR_PREFETCH"] = "9"
    shown = murmur("config", "show", "--origin").stdout
    assert "broker = redis://:***@h:1    (murmur.toml)" in shown
    assert "prefetch = 9    (environment)" in shown
    assert "echo: str -> str" in murmur("agents").stdout
    (tmp_path / "murmur.toml").write_text("prefech = 7\n")
    bad = murmur("agents")
    assert bad.returncode == 2
    assert "prefech in murmur.toml must be one of" in bad.stderr


def test_a_killed_gather_is_resumed_and_runs_nothing_twice(
    murmur: Callable[..., subprocess.CompletedProcess[str]],
    redis_server: RedisServer,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    (tmp_path / "tasks.jsonl").write_text("0.05\n" * 60)
    where = ("--broker", redis_server.url, "--app", APP)
    gather = ("gather", "napper", "--tasks", "tasks.jsonl", "--out", "out.jsonl", "--batch-id", "naps", *where)
    with running(tmp_path, environment, "worker", "start", *where, "--concurrency", "4", "--prefetch", "4") as worker:
        with running(tmp_path, environment, *gather, "--max-concurrency", "8") as publisher:
            until(lambda: len(starts(tmp_path)) >= 12)
            publisher.kill()
        done = murmur(*gather)
        assert done.returncode == 0, done.stderr
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)
        assert worker.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["task_id"] for line in lines) == sorted(f"naps.{n}" for n in range(60))
    assert all(line["success"] for line in lines)
    assert set(starts(tmp_path).values()) == {1}


def test_ctrl_c_once_finishes_what_runs_and_twice_cancels(
    redis_server: RedisServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    where = ("--broker", redis_server.url, "--app", APP)
    (tmp_path / "tasks.jsonl").write_text("0.6\n" * 50)
    gather = ("gather", "napper", "--tasks", "tasks.jsonl", "--out", "out.jsonl", *where, "--max-concurrency", "5")
    with running(tmp_path, environment, "worker", "start", *where):
        with running(tmp_path, environment, *gather) as once:
            until(lambda: len(starts(tmp_path)) >= 5)
            once.send_signal(signal.SIGINT)
            _, told = once.communicate(timeout=100)
        assert once.returncode == 1
        assert "no more tasks are published" in told
        answered = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert 5 <= len(answered) < 20
        assert all(line["success"] for line in answered)

        (tmp_path / "tasks.jsonl").write_text("60\n" * 5)
        before = len(starts(tmp_path))
        with running(tmp_path, environment, *gather) as twice:
            until(lambda: len(starts(tmp_path)) >= before + 5)
            twice.send_signal(signal.SIGINT)
            time.sleep(0.3)  # two presses, not one
            twice.send_signal(signal.SIGINT)
            twice.communicate(timeout=100)
        assert twice.returncode != 0


def test_a_worker_shows_where_it_listens_and_hides_the_password(
    start_redis: Callable[..., RedisServer], tmp_path: Path, environment: dict[str, str]
) -> None:
    server = start_redis(password="ge/h@im")
    with running(tmp_path, environment, "worker", "start", "--app", APP, "--broker", server.url) as worker:
        assert worker.stderr is not None
        banner = [worker.stderr.readline() for _ in range(11)]
        worker.send_signal(signal.SIGTERM)
        rest = worker.communicate(timeout=100)[1]
    text = "".join(banner) + rest
    assert "echo: echo.tasks -> echo.results" in text
    assert ":***@" in text
    assert "ge/h@im" not in text
    assert "ge%2Fh%40im" not in text


def test_a_wrong_password_is_told_at_once(
    start_redis: Callable[..., RedisServer], murmur: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    server = start_redis(password="right")
    wrong = server.url.replace("right", "wrong-one")
    done = murmur("run", "echo", "x", "--app", APP, "--broker", wrong)
    assert done.returncode == 2
    assert "E112" in done.stderr
    assert "wrong-one" not in done.stderr
