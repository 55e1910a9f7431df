"""docs/config.md says what the sections say."""

import dataclasses

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
