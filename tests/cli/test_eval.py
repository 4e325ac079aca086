"""`trimode eval`: figures by hand, the tiny model for real, an endpoint, wrong input."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from trimode_api.errors import InvalidInput
from trimode_cli.main import main
from trimode_local.errors import BadInput
from trimode_tools.eval.command import DIFFUSION_GRID, POINTS, parse_points
from trimode_tools.eval.metrics import Answer, Run, Score, cost_per_million, score, wilson
from trimode_tools.eval.questions import Question, read, suite
from trimode_tools.eval.show import HEADINGS, cells, draw, markdown
from trimode_tools.points import pin


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


class TestFigures:
    @pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (7, 10), (291, 300), (1, 1)])
    def test_the_interval_is_wilsons(self, right: int, total: int) -> None:
        oracle = scipy.stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert wilson(right, total) == pytest.approx((oracle.low, oracle.high), abs=1e-6)

    def test_cost(self) -> None:
        assert cost_per_million(3.6, 1000) == pytest.approx(1.0)

    def test_a_point_by_hand(self) -> None:
        answers = [
            Answer("a", tokens=11, produced=12, cycles=3, first_s=0.1, last_s=0.6),
            Answer("b", tokens=1, produced=1, cycles=1, first_s=0.3, last_s=0.3),
            Answer("", tokens=0, produced=1, cycles=1, first_s=None, last_s=0.0),
        ]
        reference = Run("AR", [answers[0], Answer("c", 1, 1, 1, 0.0, 0.0), answers[2]], 1.0, 1)
        found = score(Run("S8", answers, 2.0, 10), [True, False, True], ["x", "x", "y"], reference, price=7.2)
        assert found == Score(
            point="S8",
            questions=3,
            right=2,
            interval=wilson(2, 3),
            same_as_ar=pytest.approx(2 / 3),
            tokens_per_forward=pytest.approx(14 / 10),
            acceptance_length=pytest.approx(14 / 5),
            ttft_s=pytest.approx(0.2),
            tpot_s=pytest.approx(0.5 / 10),
            tokens_per_second=pytest.approx(6.0),
            cost=pytest.approx(7.2 / (6 * 3600) * 1e6),
            tasks={"x": (1, 2), "y": (1, 1)},
        )

    def test_what_is_not_known_is_a_dash(self) -> None:
        found = score(Run("D8@0.9", [Answer("", 0, 0, 0, None, 0.0)], 1.0, None), [False], ["x"], None, None)
        row = cells(found, priced=True)
        assert [heading for heading, cell in zip((*HEADINGS, "cost"), row, strict=True) if cell == "-"] == [
            "as AR",
            "tok/fwd",
            "tok/cycle",
            "TTFT",
            "TPOT",
            "cost",
        ]

    def test_markdown_has_a_row_for_each(self) -> None:
        scores = [
            score(Run(p, [Answer("a", 1, 1, 1, 0.1, 0.1)], 1.0, 1), [True], ["x"], None, 1.0) for p in ("AR", "S8")
        ]
        lines = markdown(scores).splitlines()
        assert len(lines) == 4
        assert len({line.count("|") for line in lines}) == 1


class TestQuestions:
    @pytest.mark.parametrize(
        ("match", "answer", "text", "right"),
        [
            ("exact", "4", " 4\n", True),
            ("exact", "4", "4.", False),
            ("contains", "Paris", "It is Paris.", True),
            ("contains", "Paris", "It is Rome.", False),
            ("number", "1,234", "so 7 times 3 makes 1234", True),
            ("number", "4", "4 or 5", False),
            ("number", "4", "none", False),
            ("number", "-2.50", "x = -2.5", True),
        ],
    )
    def test_marking(self, match: Any, answer: str, text: str, right: bool) -> None:
        assert Question(prompt="?", answer=answer, match=match).right(text) is right

    def test_one_of_several_answers(self) -> None:
        assert Question(prompt="?", answer=("yes", "Yes")).right("Yes")

    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "q.jsonl"
        file.write_text(
            '{"prompt": "2+2?", "answer": "4", "task": "sums"}\n\n'
            '{"messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "?"}], "answer": "x"}\n'
        )
        first, second = read(str(file))
        assert (first.turns, first.task) == (({"role": "user", "content": "2+2?"},), "sums")
        assert [turn["role"] for turn in second.turns] == ["system", "user"]

    def test_all_wrong_lines_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "q.jsonl"
        file.write_text('{"prompt": "a"}\n{"prompt": "a", "answer": "b"}\n{"answer": "b"}\nnot json\n')
        with pytest.raises(InvalidInput) as caught:
            read(str(file))
        words = str(caught.value)
        assert all(part in words for part in ("line 1.answer", "line 3", "either prompt or messages", "line 4"))
        assert "line 2" not in words

    def test_a_file_without_questions_or_none_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "empty.jsonl").write_text("\n")
        with pytest.raises(BadInput, match="holds no question"):
            read(str(tmp_path / "empty.jsonl"))
        with pytest.raises(BadInput, match="No such file"):
            read(str(tmp_path / "none.jsonl"))

    def test_the_suite_is_the_held_out_one(self) -> None:
        from trimode_tools.tasks import is_held_out

        asked = suite(2)
        assert len({question.task for question in asked}) == 12
        assert all(is_held_out(question.prompt or "") for question in asked)


class TestPoints:
    def test_points_are_read(self) -> None:
        assert parse_points("AR, S8,D32@0.90,AR") == ("AR", "S8", "D32@0.9")
        with pytest.raises(BadInput, match="--points: 'X' is not an operating point"):
            parse_points("AR,X")

    def test_the_grid_covers_thresholds_and_lengths(self) -> None:
        assert parse_points(",".join(POINTS)) == POINTS
        assert len(DIFFUSION_GRID) == 9

    def test_a_request_is_pinned(self) -> None:
        assert pin("AR") == {"mode": "AR"}
        assert pin("S16") == {"mode": "SelfSpeculation", "blockLength": 16}
        assert pin("D8@0.9") == {"mode": "Diffusion", "blockLength": 8, "threshold": 0.9}


def test_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(
        capsys,
        "eval",
        *("--out", str(tmp_path / "new"), "--samples", "1", "--points", "AR,S8,D8@0.9,D32@0.5"),
        *("--concurrency", "4", "--price-per-hour", "2"),
    )
    assert status == 0, err
    found = json.loads((tmp_path / "new" / "eval.json").read_text())
    points = {point["point"]: point for point in found["points"]}
    assert list(points) == ["AR", "S8", "D8@0.9", "D32@0.5"]
    assert {point["questions"] for point in points.values()} == {12}
    assert points["S8"]["sameAsAR"] == 1.0
    assert points["S8"]["right"] == points["AR"]["right"] > 6
    assert points["AR"]["tokensPerForward"] == points["AR"]["acceptanceLength"] == 1.0
    assert points["S8"]["acceptanceLength"] == pytest.approx(2 * points["S8"]["tokensPerForward"])
    assert points["D8@0.9"]["tokensPerForward"] < points["D8@0.9"]["acceptanceLength"] <= 8.0
    assert all(point["costPerMillionTokens"] > 0 for point in points.values())
    assert sum(task["questions"] for task in points["AR"]["tasks"].values()) == 12
    assert (tmp_path / "new" / "eval.png").read_bytes().startswith(b"\x89PNG")
    assert "| AR |" in (tmp_path / "new" / "eval.md").read_text()
    assert "tiny://: 12 questions, 4 at a time" in out


def test_a_single_point_has_a_picture_too(tmp_path: Path) -> None:
    answers = [Answer("a", 1, 1, 1, 0.1, 0.1)]
    draw([score(Run("S8", answers, 1.0, 1), [True], ["x"], None, None)], "title", "below", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


class Fleet(BaseHTTPRequestHandler):
    """An endpoint that answers `4` to everything, in two chunks."""

    bodies: list[dict[str, Any]]

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "fake"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        parts: list[dict[str, Any]] = [
            {"choices": [{"delta": {"content": ""}}]},
            {"choices": [{"delta": {"content": "4"}}]},
            {
                "choices": [{"delta": {}, "finish_reason": "stop"}],
                "usage": {"completion_tokens": 3},
                "trimode": {"cycles": {"S8": 2}, "tokens": {"S8": 3}},
            },
        ]
        self._send(b"".join(b"data: %b\n\n" % json.dumps(part).encode() for part in parts) + b"data: [DONE]\n\n")

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Fleet.bodies = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Fleet)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_an_endpoint(server: ThreadingHTTPServer) -> None:
    from trimode_local.client import Endpoint
    from trimode_tools.eval.ask import Plan, ask_endpoint

    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}")
    told: list[tuple[int, int]] = []
    asked = [Question(prompt=f"{n}?", answer="4") for n in range(3)]
    runs = ask_endpoint(endpoint, asked, Plan(("AR", "S8", "D8@0.9"), 64, 2), lambda *done: told.append(done))
    endpoint.close()
    assert [run.point for run in runs] == ["AR", "S8", "D8@0.9"]
    assert [run.forwards for run in runs] == [6, 12, None]
    assert {answer.text for run in runs for answer in run.answers} == {"4"}
    assert {(a.tokens, a.produced, a.cycles) for run in runs for a in run.answers} == {(3, 4, 2)}
    assert told[-1] == (9, 9)
    assert sorted(str(body["trimode"]) for body in Fleet.bodies) == sorted(
        str(pin(p)) for p in ("AR", "S8", "D8@0.9") for _ in range(3)
    )
    assert all(body["temperature"] == 0 and body["max_tokens"] == 64 for body in Fleet.bodies)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:9", "--model", "hf://a/b"], "--url goes neither with --model"),
        (["--model", "s3://x"], "--model: model s3://x: allowed are hf://"),
        (["--points", "S7"], "block length 7 is not one of"),
        (["--prompts", "/no/such.jsonl"], "No such file"),
        (["--url", "http://127.0.0.1:9"], "Is it up?"),
        (["--out", "/dev/null/x"], "--out /dev/null/x"),
        (["--samples", "1", "--max-tokens", "100000"], "the model has"),
        (["--draft-adapter", "lora"], "there is no draft adapter 'lora'"),
    ],
)
def test_wrong_input_is_named(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = arguments if "--out" in arguments else [*arguments, "--out", str(tmp_path)]
    status, _, err = run(capsys, "eval", *given)
    assert status == 2
    assert words in " ".join(err.split())
