"""Texts: what a file holds is what is read, whatever its format; nothing is lost or changed without being counted."""
import csv
import io
import json

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from neural_introspection.core import BadTexts
from neural_introspection.data import load_texts

characters = st.characters(exclude_categories=("Cs",))
texts = st.lists(st.text(characters), min_size=1, max_size=6)
ODD = ["NA", "null", "nan", "None", "007", "1e5", "True", '"quoted"', "a,b", "#", "a\tb", "\u2028x\x85y", "\ufeff", "'",
       "\\n"]


def written(texts, suffix):
    "A file's bytes with these texts in the column `text`, as other programs write them."
    if suffix == ".jsonl": return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()
    if suffix == ".parquet": return pd.DataFrame({"text": texts}).to_parquet()
    with io.StringIO(newline="") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerow(["text"])
        rows.writerows([t] for t in texts)
        return file.getvalue().encode()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@given(texts)
@example(ODD)
@example(["2020-01-01", "12345678901234567890"])
@example(["a\r\nb", "c\rd", "e\nf"])
@example(["nul\0nul"])
@example([" "])
def test_a_table_is_read_as_it_was_written(tmp_path_factory, suffix, texts):
    path = tmp_path_factory.mktemp("table")/f"texts{suffix}"
    path.write_bytes(written(texts, suffix))
    kept = [t.strip() for t in texts if t.strip()]
    try: corpus = load_texts(path)
    except BadTexts as error:
        assert kept == [] or "cannot be read" in str(error)
        return
    assert list(corpus.texts) == kept
    assert corpus.about["skipped_empty"] == len(texts) - len(kept)
    assert corpus.about["repeated"] == len(kept) - len(set(kept))


@given(st.lists(st.text(characters.filter(lambda c: c not in "\r\n")), min_size=1, max_size=6))
@example(ODD)
@example(["\x0b", "a\x0cb", "\x1c"])   # ends of lines for str.splitlines, and not for an editor
def test_a_text_file_is_read_line_by_line(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines")/"texts.txt"
    path.write_bytes("\n".join(lines).encode())
    kept = [line.strip() for line in lines if line.strip()]
    if lines[0].startswith("\ufeff"):   # the mark that some editors begin a file with
        kept = [line.strip() for line in (lines[0][1:], *lines[1:]) if line.strip()]
    try: corpus = load_texts(path)
    except BadTexts:
        assert kept == []
        return
    assert list(corpus.texts) == kept


@given(st.binary(max_size=60))
@example(b"\xff\xfea\x00")
@example(b"text\n\xff")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".txt"])
def test_any_file_is_read_or_refused_in_a_sentence(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("any")/f"texts{suffix}"
    path.write_bytes(content)
    try: corpus = load_texts(path)
    except BadTexts as error: assert str(error).endswith(".")
    else: assert all(text.strip() == text != "" for text in corpus.texts)


@given(st.lists(st.one_of(st.text(), st.none(), st.integers()), max_size=5))
@example(["fine", "lone \ud800 surrogate"])
def test_a_list_is_kept_as_it_is_or_refused(given_texts):
    try: corpus = load_texts(given_texts)
    except BadTexts as error:
        assert str(error).endswith(".")
        return
    assert list(corpus.texts) == given_texts
