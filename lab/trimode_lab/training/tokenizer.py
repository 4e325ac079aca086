"""The tiny model's tokenizer: a small BPE whose cuts never depend on the neighbours of a word.

Digits, capitals, white space and punctuation are tokens of their own; only runs of lower-case letters are
merged. The same word is then the same tokens everywhere, which is what lets a small model learn to copy.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import BpeTrainer

from trimode_tools.tasks import stream

PAD, BOS, END, MASK, USER, ASSISTANT, SYSTEM, UNKNOWN = range(8)
SPECIAL = ("<pad>", "<bos>", "<end>", "<mask>", "<user>", "<asst>", "<system>", "<unk>")
VOCAB_SIZE = 512
_PRINTABLE = "\n" + "".join(chr(code) for code in range(32, 127))

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}"
    "{{ '<system>' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n' }}{% endif %}"
    "{{ 'tools:' }}"
    "{% for tool in tools %}"
    "{% set function = tool['function'] %}"
    "{{ '\\n' + function['name'] + '(' }}"
    "{% for name, kind in ((function['parameters'] or {})['properties'] or {}).items() %}"
    "{{ name }}{% if kind['type'] is string and kind['type'] != 'string' %}{{ ' ' + kind['type'] }}{% endif %}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}"
    "{% endfor %}"
    "{{ '): ' + (function['description'] or '') }}"
    "{% endfor %}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<user>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<asst>' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>{\"name\": ' + (call['function']['name'] | tojson) + ', \"arguments\": ' }}"
    "{{ (call['function']['arguments'] | tojson) + '}</tool_call>' }}"
    "{% endfor %}"
    "{{ '<end>' }}"
    "{% elif message['role'] == 'tool' %}{{ '<user>result: ' + message['content'] }}"
    "{% elif message['role'] == 'system' %}"
    "{% if not (tools and loop.first) %}{{ '<system>' + message['content'] }}{% endif %}"
    "{% else %}{{ raise_exception('role is ' + message['role'] + ', allowed are system, user, assistant, tool') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<asst>' }}{% endif %}"
)
"""Tools as signatures, calls as Hermes writes them: a prompt of three tools then takes about 100 tokens, not 400."""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn VOCAB_SIZE tokens from texts; every printable ASCII character has a token of its own."""
    tokenizer = Tokenizer(BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = Split(Regex("[a-z]+|[^a-z]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(_PRINTABLE),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_texts(seed: int, samples: int) -> Iterator[str]:
    """Prompts and answers of the training side of the suite."""
    for sample in islice(stream(Random(seed), held_out=False), samples):
        yield sample.prompt
        yield sample.answer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (special tokens, chat template) as Hugging Face does."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": SPECIAL[BOS],
        "eos_token": SPECIAL[END],
        "pad_token": SPECIAL[PAD],
        "mask_token": SPECIAL[MASK],
        "unk_token": SPECIAL[UNKNOWN],
        "additional_special_tokens": [SPECIAL[i] for i in (USER, ASSISTANT, SYSTEM)],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
