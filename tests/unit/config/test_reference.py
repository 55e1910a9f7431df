"""docs/config.md says what the sections say."""

import dataclasses
import re

from mindformers_codellama.config.dialect import MODEL_KEYS
from mindformers_codellama.config.fields import field_types
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.reference import TARGET, field_texts, render, section_of, sections
from mindformers_codellama.config.refused import REFUSED, lookup_name
from mindformers_codellama.config.sections import LlamaSettings


def test_the_page_is_what_would_be_written():
    assert TARGET.read_text(encoding="utf-8") == render(), "run: python -m mindformers_codellama.config.reference --write"


def test_every_key_of_every_section_has_a_meaning():
    for name, section in sections():
        texts = field_texts(section)
        assert set(texts) == {field.name for field in dataclasses.fields(section)}, name
        assert all(len(text) > 8 for text in texts.values()), name


def test_every_refused_key_exists_and_is_marked_on_the_page():
    known = {f"{name}.{key}" if name else key for name, section in sections() for key in field_types(section)}
    assert set(REFUSED) <= {lookup_name((key,)) for key in known}
    assert render().count("**refused**") == len(REFUSED) + 1, "each once, and once in the introduction"


def test_the_table_of_words_reaches_every_field_of_the_model():
    assert set(MODEL_KEYS.values()) == {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(MODEL_KEYS) <= {field.name for field in dataclasses.fields(LlamaSettings)}


def test_a_section_is_found_inside_an_optional_annotation():
    assert section_of(LlamaSettings | None) is LlamaSettings
    assert section_of(int) is None


WITHOUT_READER = re.compile(
    r"no effect|without effect|without meaning|matters with several ranks|is the one value we have|companion of|only a name"
    r"|both values are right|old (switch|name)|all three names|both names mean|overwritten by|has one: predict|nothing to gather",
    re.IGNORECASE,
)
"""What the meaning of a key says when nothing outside `config` needs to look at it."""


def test_every_key_that_promises_something_is_read_by_somebody():
    """A loose search for the name, but a key that is promised and nowhere read turns it red."""
    package = TARGET.parents[1] / "mindformers_codellama"
    readers = [path for path in package.rglob("*.py") if path.name not in ("explain.py", "reference.py") and "sections" not in path.name]
    text = "\n".join(path.read_text(encoding="utf-8") for path in readers if path.name not in ("refused.py", "overrides.py"))
    promised = {
        (name, key)
        for name, section in sections()
        for key, meaning in field_texts(section).items()
        if not WITHOUT_READER.search(meaning) and not name.startswith(("parallel", "moe_config"))
        if section_of(field_types(section)[key]) is None
    }
    unread = {(name, key) for name, key in promised if not re.search(rf'\.{key}\b|"{key}"', text)}
    assert unread == set()
