import json
from itertools import islice
from pathlib import Path
from random import Random

import jinja2
import pytest
from tokenizers import Tokenizer

import trimode_workers
from trimode_lab.training.batches import encode
from trimode_lab.training.tokenizer import (
    ASSISTANT,
    BOS,
    END,
    MASK,
    PAD,
    SPECIAL,
    VOCAB_SIZE,
    save_tokenizer,
    train_tokenizer,
    training_texts,
)
from trimode_tools.tasks import stream
from trimode_workers.model import ModelConfig

TINY = Path(trimode_workers.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


def render(messages: list[dict[str, str]], prompt: bool = True) -> str:
    template = json.loads((TINY / "tokenizer_config.json").read_text())["chat_template"]

    def refuse(message: str) -> None:
        raise ValueError(message)

    compiled = jinja2.Environment().from_string(template)
    return compiled.render(
        messages=messages, add_generation_prompt=prompt, bos_token=SPECIAL[BOS], raise_exception=refuse
    )


def test_everything_printable_survives_a_round_trip(tokenizer: Tokenizer) -> None:
    texts = ["".join(map(chr, range(32, 127))) + "\n", "  two  spaces\n\n", "Zebra42 qxzj"]
    texts += [text for s in islice(stream(Random(3), held_out=True), 100) for text in (s.prompt, s.answer)]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_word_is_cut_the_same_everywhere(tokenizer: Tokenizer) -> None:
    alone = tokenizer.encode("potato").ids
    for before, after in (("a ", " b"), ('{"', '"'), ("=", ","), ("1", "2"), ("\n", "\n")):
        inside = tokenizer.encode(before + "potato" + after).ids
        start = len(tokenizer.encode(before).ids)
        assert inside[start : start + len(alone)] == alone


def test_special_ids_agree_with_the_config(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(name) for name in SPECIAL] == list(range(len(SPECIAL)))
    config = ModelConfig.from_folder(TINY)
    assert (config.bos_token_id, config.eos_token_ids, config.mask_token_id) == (BOS, (END,), MASK)
    assert (config.pad_token_id, config.vocab_size) == (PAD, tokenizer.get_vocab_size())
    assert config.vocab_size == VOCAB_SIZE


def test_the_chat_template_writes_what_the_model_was_trained_on(tokenizer: Tokenizer) -> None:
    sample = next(stream(Random(0), held_out=True))
    text = render([{"role": "user", "content": sample.prompt}])
    assert tokenizer.encode(text).ids == encode(tokenizer, sample).prompt
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert render(turns) == "<bos><system>be brief<user>a<asst>b<end><user>c<asst>"
    assert tokenizer.encode(render(turns)).ids[-1] == ASSISTANT
    with pytest.raises(ValueError, match="role is judge, allowed are system, user, assistant, tool"):
        render([{"role": "judge", "content": "x"}])


def test_an_earlier_turn_has_the_template_form(tokenizer: Tokenizer) -> None:
    earlier, sample = islice(stream(Random(0), held_out=True), 2)
    turns = [
        {"role": "user", "content": earlier.prompt},
        {"role": "assistant", "content": earlier.answer},
        {"role": "user", "content": sample.prompt},
    ]
    assert tokenizer.encode(render(turns)).ids == encode(tokenizer, sample, None, earlier).prompt


def test_the_shipped_tokenizer_is_what_the_recipe_makes(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(training_texts(0, 300)), tmp_path, 4096)
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    shipped = json.loads((TINY / "tokenizer.json").read_text())
    for part in ("pre_tokenizer", "decoder", "added_tokens", "normalizer"):
        assert made[part] == shipped[part]
    assert (tmp_path / "tokenizer_config.json").read_text() == (TINY / "tokenizer_config.json").read_text()
