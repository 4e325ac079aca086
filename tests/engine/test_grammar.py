"""Answers in a response format: valid JSON in every mode; greedy ones equal, sampled ones drawn as they should be."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer, TokenizerWrapper
from scipy.stats import chisquare
from tokenizers import Tokenizer

import trimode_workers
from trimode_workers.engine import constrained_commit
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Adjustments, Configure, Finish, Grammar, GrammarForm, Sampling, Submit
from trimode_workers.errors import GrammarError, RequestRefused
from trimode_workers.grammar.compiled import Bytes, compiled, problem
from trimode_workers.grammar.compiler import REMEMBERED, Compiler, load_vocabulary
from trimode_workers.model.loading import load_decoder

TINY = Path(trimode_workers.__file__).parent / "tiny"
POINTS = ["AR", "S4", "S8", "S16", "S32", "S16@0.9", "Q4"]
END, SIZE = 2, 512

PERSON = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "moods": {"type": "array", "items": {"enum": ["calm", "merry"]}, "maxItems": 3},
    },
    "required": ["city", "age", "moods"],
    "additionalProperties": False,
}
PROMPTS = [
    "write as json: city=paris age=4",
    "write as json: age=7 city=rome mood=calm",
    'write as pairs: {"city": "riga"}',
    "hello",
    "sort the numbers: 5 3 9",
    "reverse the words: red apple",
]


class Tiny:
    """The model that ships, its tokenizer, and a compiler for it."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self.decoder = load_decoder(TINY)[0]
        self.tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))

    def prompt(self, words: str) -> list[int]:
        return list(self.tokenizer.encode(f"<bos><user>{words}<asst>", add_special_tokens=False).ids)

    def text(self, tokens: list[int]) -> str:
        return "".join(self.tokenizer.id_to_token(token) for token in tokens)

    def engine(self, points: list[str], chooser: Any = None, **more: Any) -> Engine:
        options = {"max_running_requests": 8, "max_context_tokens": 512, "check_invariants": True, **more}
        configure = Configure(points=points, fallback=points[0])
        return Engine(self.decoder, EngineSettings(**options), configure, chooser=chooser, grammars=self.compiler)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    compiler = Compiler(load_vocabulary(TINY, SIZE, [END]), END)
    yield Tiny(compiler)
    compiler.close()


def grammar(schema: Any, **more: Any) -> Grammar:
    return Grammar(json.dumps(schema), **more)


def requests(tiny: Tiny, **more: Any) -> list[Submit]:
    """Every other one is free."""
    found = []
    for index, words in enumerate(PROMPTS):
        prompt = tiny.prompt(words)
        found.append(Submit(f"bound-{index}", prompt, 120, grammar=grammar(PERSON), **more))
        found.append(Submit(f"free-{index}", prompt, 40, **more))
    return found


def run(engine: Engine, submits: list[Submit], tools: Any) -> Any:
    for submit in submits:
        engine.submit(submit)
    return tools.drain(engine)


@pytest.fixture(scope="module")
def plain(tiny: Tiny, tools: Any) -> dict[str, list[int]]:
    """The greedy answers in AR."""
    return run(tiny.engine(["AR"]), requests(tiny), tools).tokens  # type: ignore[no-any-return]


def test_answers_equal_a_straightforward_reference(tiny: Tiny, plain: dict[str, list[int]], tools: Any) -> None:
    """Without cache or batch; the library alone says what is allowed."""
    reference = tools.Reference(tiny.decoder)
    for index, words in enumerate(PROMPTS[:4]):
        matcher = compiled(grammar(PERSON), load_vocabulary(TINY, SIZE, [END]))
        tokens = tiny.prompt(words)
        start = len(tokens)
        while not matcher.is_stopped():
            logits = reference.logits(tokens)[-1]
            if not matcher.validate_tokens([int(logits.argmax())]):
                allowed = torch.tensor([byte > 0 for byte in matcher.compute_logit_bias()])
                logits = logits.masked_fill(~allowed, -torch.inf)
            tokens.append(int(logits.argmax()))
            assert matcher.consume_token(tokens[-1])
        assert plain[f"bound-{index}"] == tokens[start:]


@pytest.mark.parametrize("point", [*POINTS[1:], "switching", "preempted", "diffusion"])
def test_greedy_answers_are_those_of_plain_decoding(
    point: str, tiny: Tiny, plain: dict[str, list[int]], tools: Any
) -> None:
    rng = random.Random(3)
    more: dict[str, Any] = {}
    points, chooser = [point], None
    if point in ("switching", "preempted"):
        points = POINTS if point == "switching" else POINTS[:2]
        chooser = lambda batch, allowed: rng.choice(allowed)  # noqa: E731
    if point == "preempted":
        more = {"capacity_tokens": 128, "max_context_tokens": 128}
    if point == "diffusion":
        points = ["D16@0.9"]
    engine = tiny.engine(points, chooser, **more)
    submits = requests(tiny, lossy_ok=point == "diffusion")
    if point == "diffusion":
        submits = [submit for submit in submits if submit.grammar is not None]
    outcome = run(engine, submits, tools)
    for submit in submits:
        assert outcome.tokens[submit.request_id] == plain[submit.request_id]
        if submit.grammar is not None:
            assert outcome.last[submit.request_id].finish is Finish.STOP
            jsonschema.validate(json.loads(tiny.text(plain[submit.request_id])), PERSON)
    if point == "preempted":
        assert engine.stats().preemptions_total > 0
    if point == "diffusion":
        assert {name for event in outcome.last.values() for name in event.cycles} == {"AR"}


@pytest.mark.parametrize("point", POINTS)
def test_an_answer_may_end_where_more_might_follow(point: str, tiny: Tiny, tools: Any) -> None:
    """Any text, so the answers are the free ones; drafts go on behind their ends."""
    anything = Grammar(r"(.|\n)*", form=GrammarForm.REGEX)
    submits = [Submit(f"free-{i}", tiny.prompt(words), 120) for i, words in enumerate(PROMPTS)]
    submits += [Submit(f"bound-{i}", tiny.prompt(words), 120, grammar=anything) for i, words in enumerate(PROMPTS)]
    outcome = run(tiny.engine([point]), submits, tools)
    assert any(last.finish is Finish.STOP for last in outcome.last.values())
    for index in range(len(PROMPTS)):
        assert outcome.last[f"bound-{index}"].finish is outcome.last[f"free-{index}"].finish
        assert outcome.tokens[f"bound-{index}"] == outcome.tokens[f"free-{index}"]


@pytest.mark.parametrize("point", ["AR", "S4", "S16"])
def test_a_model_that_follows_the_schema_by_itself_is_not_slowed_down(point: str, tiny: Tiny, tools: Any) -> None:
    """The same cycles as without a grammar: nothing is drawn anew."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["city", "age"],
        "additionalProperties": False,
    }
    prompt = tiny.prompt(PROMPTS[0])
    submits = [Submit("free", prompt, 60), Submit("bound", prompt, 60, grammar=grammar(schema))]
    alone = [run(tiny.engine([point]), [submit], tools) for submit in submits]
    free, bound = alone[0], alone[1]
    assert json.loads(tiny.text(bound.tokens["bound"])) == {"city": "paris", "age": 4}
    assert bound.tokens["bound"] == free.tokens["free"]
    # A complete object needs no cycle to find its end.
    assert 0 <= free.last["free"].cycles[point] - bound.last["bound"].cycles[point] <= 1


@pytest.mark.parametrize("point", ["AR", "S8"])
def test_an_answer_goes_on_elsewhere_from_any_token(
    point: str, tiny: Tiny, plain: dict[str, list[int]], tools: Any
) -> None:
    """Preemption keeps the grammar's state; another replica makes it anew from what is emitted."""
    prompt, answer = tiny.prompt(PROMPTS[1]), plain["bound-1"]
    submits = [
        Submit(str(cut), prompt + answer[:cut], 120 - cut, grammar=grammar(PERSON), emitted=cut)
        for cut in range(len(answer) + 1)
    ]
    outcome = run(tiny.engine([point]), submits, tools)
    for cut in range(len(answer) + 1):
        assert answer[:cut] + outcome.tokens[str(cut)] == answer
        assert outcome.last[str(cut)].finish is Finish.STOP
    foreign = Submit("foreign", prompt + tiny.prompt("no"), 20, grammar=grammar(PERSON), emitted=2)
    event = run(tiny.engine([point]), [foreign], tools).last["foreign"]
    assert (event.finish, event.error) == (
        Finish.ERROR, "response_format: the answer so far does not follow the schema",
    )  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_cut_is_a_length_and_an_exact_fit_is_an_end(
    point: str, tiny: Tiny, plain: dict[str, list[int]], tools: Any
) -> None:
    prompt, answer = tiny.prompt(PROMPTS[1]), plain["bound-1"]
    submits = [Submit(str(room), prompt, room, grammar=grammar(PERSON)) for room in (1, len(answer) - 1, len(answer))]
    outcome = run(tiny.engine([point]), submits, tools)
    for room in (1, len(answer) - 1, len(answer)):
        assert outcome.tokens[str(room)] == answer[:room]
        assert outcome.last[str(room)].finish is (Finish.STOP if room == len(answer) else Finish.LENGTH)


@pytest.mark.parametrize("point", ["AR", "S8"])
def test_sampled_answers_are_valid_and_repeatable(point: str, tiny: Tiny, tools: Any) -> None:
    submits = [
        Submit(f"{seed}", tiny.prompt(words), 150, Sampling(1.2, 0.5 + 0.5 * (seed % 2), seed), grammar=grammar(PERSON))
        for seed, words in enumerate(PROMPTS * 2)
    ]
    outcome = run(tiny.engine([point]), submits, tools)
    for submit in submits:
        assert outcome.last[submit.request_id].finish is Finish.STOP
        jsonschema.validate(json.loads(tiny.text(outcome.tokens[submit.request_id])), PERSON)
    assert len({tuple(tokens) for tokens in outcome.tokens.values()}) > len(PROMPTS)
    again = run(tiny.engine([point], max_running_requests=3), list(reversed(submits)), tools)
    assert again.tokens == outcome.tokens


LETTERS = [b"", b"<end>", b"[", b"]", b",", b"1", b"2", b"3", b"12", b"x"]
"""Tokens 0 (the mask) to 9 of a model that is asked for a list of numbers."""
NUMBERS = {"type": "array", "items": {"enum": [1, 2, 12]}, "minItems": 1, "maxItems": 2}
ANSWERS = ["1", "2", "12"]


class Letters(Bytes):
    eos_token_id = 1
    special_token_ids = (0, 1)
    tokens = LETTERS

    def __call__(self, text: bytes | str) -> list[int]:
        raw = text if isinstance(text, bytes) else text.encode()
        return [LETTERS.index(bytes([byte])) for byte in raw if bytes([byte]) in LETTERS]


def spellings() -> set[tuple[int, ...]]:
    """All answers in tokens."""
    texts = [f"[{','.join(items)}]" for count in (1, 2) for items in product(ANSWERS, repeat=count)]
    found: set[tuple[int, ...]] = set()

    def spell(rest: bytes, tokens: tuple[int, ...]) -> None:
        if not rest:
            found.add(tokens)
        for token in range(2, len(LETTERS)):
            if rest.startswith(LETTERS[token]):
                spell(rest[len(LETTERS[token]) :], (*tokens, token))

    for text in texts:
        spell(text.encode(), ())
    return found


@pytest.mark.parametrize(("point", "top_p"), [("AR", 1.0), ("S4", 1.0), ("S8", 1.0), ("Q4", 1.0), ("S4", 0.7)])
def test_sampled_answers_are_distributed_as_the_model_says_of_what_is_allowed(
    point: str, top_p: float, tools: Any
) -> None:
    """Whole answers of thousands of requests against the product of the model's own probabilities, renormalised."""
    decoder = tools.build_decoder(3, vocabulary=len(LETTERS), spread=0.7)
    compiler = Compiler(LLTokenizer(TokenizerWrapper(Letters())), 1)
    prompt, count = [6, 9, 4, 7], 2500
    engine = Engine(
        decoder,
        EngineSettings(200, 32, check_invariants=True),
        Configure(points=[point], fallback=point),
        grammars=compiler,
    )
    for seed in range(count):
        engine.submit(Submit(str(seed), prompt, 16, Sampling(1.3, top_p, seed), grammar=grammar(NUMBERS)))
    outcome = tools.drain(engine)
    compiler.close()
    assert {event.finish for event in outcome.last.values()} == {Finish.STOP}
    if point != "AR":
        cycles, tokens = (
            sum(sum(getattr(e, name).values()) for e in outcome.last.values()) for name in ("cycles", "emitted")
        )
        assert tokens > 1.05 * cycles, "no draft is ever kept"
    expected = chances(tools.Reference(decoder), Submit("", prompt, 16, Sampling(1.3, top_p)))
    assert sum(expected.values()) == pytest.approx(1)
    got = Counter(tuple(tokens) for tokens in outcome.tokens.values())
    assert set(got) <= set(expected), "an answer that cannot be"
    cells = [answer for answer, p in expected.items() if p * count >= 5]
    observed = [got[answer] for answer in cells]
    wanted = [expected[answer] * count for answer in cells]
    if (rest := count - sum(wanted)) > 1:
        observed.append(count - sum(observed))
        wanted.append(rest)
    assert chisquare(observed, [w * sum(observed) / sum(wanted) for w in wanted]).pvalue > 1e-4


def chances(reference: Any, request: Submit) -> dict[tuple[int, ...], float]:
    """The probability of every answer: each step the model's choice among the tokens that some answer goes on with."""
    answers = spellings()
    steps: dict[tuple[int, ...], dict[int, float]] = {}
    for start in {answer[:size] for answer in answers for size in range(len(answer))}:
        allowed = {
            answer[len(start)] for answer in answers if answer[: len(start)] == start and len(answer) > len(start)
        }
        logits = reference.logits([*request.tokens, *start])[-1]
        p = reference.probabilities(logits, request).double()
        mass = {token: float(p[token]) for token in allowed}
        if not sum(mass.values()):  # top-p has left nothing of it
            only = torch.full_like(logits, -torch.inf)
            only[list(allowed)] = logits[list(allowed)]
            p = reference.probabilities(only, request).double()
            mass = {token: float(p[token]) for token in allowed}
        steps[start] = {token: m / sum(mass.values()) for token, m in mass.items()}
    found = {}
    for answer in answers:
        p = 1.0
        for size, token in enumerate(answer):
            p *= steps[answer[:size]][token]
        found[answer] = p
    return {answer: p for answer, p in found.items() if p > 0}


names = st.text("abcdefgh", min_size=1, max_size=6)
leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-50, 50), st.integers(0, 500)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
    st.builds(lambda words: {"enum": words}, st.lists(names, min_size=1, max_size=3, unique=True)),
    st.builds(lambda word: {"const": word}, names),
    st.just({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}),
)  # fmt: skip


def _object(properties: dict[str, Any], wanted: int) -> dict[str, Any]:
    required = list(properties)[:wanted]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.integers(0, 3)),
        st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 2)),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas, point=st.sampled_from(POINTS), temperature=st.sampled_from([0.0, 1.0]))
def test_any_schema_is_followed(tiny: Tiny, tools: Any, schema: Any, point: str, temperature: float) -> None:
    """All of these have answers of bounded length."""
    assert problem(grammar(schema)) == ""
    submits = [
        Submit(str(seed), tiny.prompt(words), 400, Sampling(temperature, 1.0, seed), grammar=grammar(schema))
        for seed, words in enumerate(PROMPTS[:3])
    ]
    outcome = run(tiny.engine([point]), submits, tools)
    for submit in submits:
        event, text = outcome.last[submit.request_id], tiny.text(outcome.tokens[submit.request_id])
        assert event.finish is Finish.STOP, (event, text)
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("point", ["AR", "S8", "Q4"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_memory_that_runs_out_while_tokens_are_drawn_again_changes_no_answer(
    point: str, temperature: float, tiny: Tiny, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the grammars have taken the tokens that were allowed; the cycle is run again all the same."""
    asked = requests(tiny, sampling=Sampling(temperature, 0.9, 5))
    expected = run(tiny.engine([point]), asked, tools)
    again = constrained_commit._again

    def tight(logits: torch.Tensor, *args: Any) -> list[int]:
        if logits.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return again(logits, *args)

    monkeypatch.setattr(constrained_commit, "_again", tight)
    engine = tiny.engine([point])
    outcome = run(engine, asked, tools)
    assert engine.stats().shortages_total > 5
    assert {e.finish for e in outcome.last.values()} == {e.finish for e in expected.last.values()}
    for name, tokens in outcome.tokens.items():
        if name.startswith("bound") and outcome.last[name].finish is Finish.STOP:
            jsonschema.validate(json.loads(tiny.text(tokens)), PERSON)
        if temperature == 0.0 or point != "Q4":  # a quadratic draft that is lost costs a cycle, and moves the draws
            assert tokens == expected.tokens[name], name


def test_a_schema_that_only_the_model_cannot_spell_ends_in_an_error(tiny: Tiny, tools: Any) -> None:
    assert problem(grammar({"const": "caf\u00e9"})) == ""
    submits = [
        Submit("accent", tiny.prompt("hello"), 50, grammar=grammar({"const": "caf\u00e9"})),
        Submit("free", tiny.prompt("hello"), 20),
    ]
    for point in ("AR", "S8"):
        outcome = run(tiny.engine([point]), submits, tools)
        assert outcome.last["accent"].finish is Finish.ERROR
        assert "vocabulary cannot spell" in outcome.last["accent"].error
        assert outcome.last["free"].finish is Finish.LENGTH


def test_of_several_texts_that_the_model_cannot_spell_it_says_so_in_plain_words(tiny: Tiny, tools: Any) -> None:
    """The library finds this by itself, and calls it NoExtensionBias."""
    submits = [Submit("accent", tiny.prompt("hello"), 50, grammar=grammar({"enum": ["\u00e9", "\u00fc"]}))]
    event = run(tiny.engine(["AR"]), submits, tools).last["accent"]
    assert event.finish is Finish.ERROR
    assert event.error == "response_format: the model's vocabulary cannot spell what the schema asks for"


def test_a_grammar_that_cannot_be_compiled_ends_its_request_only(tiny: Tiny, tools: Any) -> None:
    submits = [
        Submit("bad", tiny.prompt("hello"), 20, grammar=grammar({"type": "nothing"})),
        Submit("free", tiny.prompt("hello"), 20),
    ]
    outcome = run(tiny.engine(["AR"]), submits, tools)
    assert outcome.last["bad"].error == "response_format: Invalid type: nothing"
    assert outcome.last["free"].finish is Finish.LENGTH


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled(tiny: Tiny, tools: Any) -> None:
    wide = {"type": "object", "properties": {f"field{i}": {"type": "string"} for i in range(300)}}
    engine = tiny.engine(["AR"])
    engine.submit(Submit("gone", tiny.prompt("hello"), 20, grammar=grammar(wide)))
    engine.cancel("gone")
    outcome = tools.drain(engine)
    assert (outcome.last["gone"].finish, outcome.cycles) == (Finish.CANCELLED, 1)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ignore_eos": True}, "invalid_ignore_eos"),
        ({"pin": "D16@0.9", "lossy_ok": True}, "order_needed"),
    ],
)
def test_what_contradicts_a_grammar_is_refused_at_the_door(change: dict[str, Any], code: str, tiny: Tiny) -> None:
    engine = tiny.engine(["AR", "D16@0.9"])
    with pytest.raises(RequestRefused) as refused:
        engine.submit(Submit("a", [1, 2], 5, grammar=grammar(PERSON), **change))
    assert refused.value.code == code


def test_an_engine_without_a_compiler_refuses_grammars(decoder: Any, tools: Any) -> None:
    engine = tools.build_engine(decoder)
    with pytest.raises(RequestRefused, match="follows no grammar"):
        engine.submit(Submit("a", [1, 2], 5, grammar=grammar(PERSON)))
    assert engine.idle


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "uniqueItems": True, "not": {}}, 'keywords that cannot be enforced: "'),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength (5) is greater than maxLength (2)"),
        ({"$ref": "https://example.com/a.json"}, "is not present"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, ""),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "multipleOf": 999_999_937}, "fuel"),
        ({"anyOf": []}, ""),
    ],
)
def test_a_schema_that_cannot_be_followed_is_explained_on_a_line(schema: Any, words: str) -> None:
    found = problem(grammar(schema))
    assert found
    assert words in found
    assert "\n" not in found
    assert len(found) <= 303


def test_what_cannot_be_enforced_is_left_out_where_that_is_allowed(tiny: Tiny, tools: Any) -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    assert problem(grammar(schema))
    assert problem(grammar(schema, lenient=True)) == ""
    submit = Submit("a", tiny.prompt("hello"), 40, grammar=grammar(schema, lenient=True))
    outcome = run(tiny.engine(["S8"]), [submit], tools)
    assert json.loads(tiny.text(outcome.tokens["a"])) == [1, 1]


def test_a_vocabulary_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(tokenizer | {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}})
    )
    for folder, ends, words in [
        (tmp_path, [END], "decoder"),
        (TINY, [], "end-of-sequence"),
        (tmp_path / "none", [END], "tokenizer.json"),
    ]:
        with pytest.raises(GrammarError, match=words):
            load_vocabulary(folder, SIZE, ends)


def test_a_byte_level_tokenizer_and_a_padded_vocabulary(tmp_path: Path, byte_level: Callable[[], Tokenizer]) -> None:
    """As published models have them: bytes spelt in printable characters, more ids than tokens."""
    tokenizer = byte_level()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_vocabulary(tmp_path, tokenizer.get_vocab_size() + 40, [0])
    compiler = Compiler(vocabulary, 0)
    matcher = compiler.matcher(grammar({"const": "caf\u00e9"})).result()
    ids = tokenizer.encode('"caf\u00e9"', add_special_tokens=False).ids
    assert matcher.accept(ids) == len(ids)
    assert matcher.complete
    assert matcher.accept([tokenizer.get_vocab_size() + 3]) == 0
    assert matcher.failure == ""
    compiler.close()


@pytest.fixture
def byte_level() -> Callable[[], Tokenizer]:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    from trimode_workers.text.detokenize import byte_alphabet

    def make() -> Tokenizer:
        vocabulary = {text: id for id, text in enumerate(["<end>", *byte_alphabet()])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
        return tokenizer

    return make


def test_grammars_are_compiled_once() -> None:
    class Counting(Letters):
        """Asked for the spelling of `[` by whoever compiles a list."""

        asked = 0

        def __call__(self, text: bytes | str) -> list[int]:
            self.asked += 1
            return super().__call__(text)

    letters = Counting()
    compiler = Compiler(LLTokenizer(TokenizerWrapper(letters)), 1)
    before = letters.asked
    first = compiler.matcher(grammar(NUMBERS)).result()
    once = letters.asked
    second = compiler.matcher(grammar(NUMBERS)).result()
    assert before < once == letters.asked
    assert first.accept([2, 5]) == 2
    assert second.accept([5]) == 0  # their places are their own
    for n in range(REMEMBERED):
        compiler.matcher(grammar({**NUMBERS, "title": str(n)})).result()
    before = letters.asked
    compiler.matcher(grammar(NUMBERS)).result()
    assert letters.asked > before, "it should have been forgotten for newer ones"
    compiler.close()


FORMS = {
    r"(mon|tues)day [0-9]{2}": Grammar(r"(mon|tues)day [0-9]{2}", form=GrammarForm.REGEX),
    "calm|merry|very calm": Grammar('["calm","merry","very calm"]', form=GrammarForm.CHOICE),
    "[0-9]( [+] [0-9]){1,3}": Grammar(
        'root ::= d " + " d (" + " d (" + " d)?)?\nd ::= [0-9]', form=GrammarForm.GRAMMAR
    ),
}


def test_every_form_holds_with_everything_else_on(tiny: Tiny, tools: Any) -> None:
    """Penalties, biases and logprobs beside a form: greedy answers are AR's, and follow it."""
    wanted = [None, Adjustments(repetition=1.2, frequency=0.3), Adjustments(bias={7: 3.0, 90: -5.0}, presence=0.5)]
    forms = [*FORMS.items(), (None, None)]
    submits, patterns = [], {}
    for index, (words, (pattern, form), adjustments) in enumerate(product(PROMPTS, forms, wanted)):
        patterns[str(index)] = pattern
        submits.append(
            Submit(
                str(index), tiny.prompt(words), 40, grammar=form, adjustments=adjustments, logprobs=index % 2 or None
            )
        )
    expected = run(tiny.engine(["AR"], max_running_requests=24), submits, tools)
    for name, pattern in patterns.items():
        if pattern is not None:
            assert re.fullmatch(pattern, tiny.text(expected.tokens[name])), tiny.text(expected.tokens[name])
            assert expected.last[name].finish is Finish.STOP
    for point in ("S8", "S16", "S32"):
        assert run(tiny.engine([point], max_running_requests=24), submits, tools).tokens == expected.tokens
