"""The contract's rows, written down once more and plainly: text is joined, split again and masked by counting tokens.

Independent of the package: no import from it, its own template text, a tokenizer given as a function.
"""

import re

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IGNORE = -100


def conversation_text(conversations):
    text = SYSTEM + " "
    for message in conversations:
        role, end = ("USER", " ") if message["from"] == "human" else ("ASSISTANT", "</s>")
        text += f"{role}: {message['value']}{end}" if message["value"] else f"{role}:"
    return text


def qa_row(conversations, tokenize, row_length):
    """(input_ids, labels) of one record; `tokenize(text)` gives bos + ids + eos."""
    rounds = []
    for piece in conversation_text(conversations).split("</s>"):
        if piece == "":
            break
        rounds.append(piece)
    ids = [1]
    for piece in rounds:
        ids += tokenize(piece)[1:]
    ids = (ids + [0] * row_length)[:row_length]
    total = sum(token != 0 for token in ids)
    labels = list(ids)
    labels[0] = IGNORE
    position = 1
    for piece in rounds:
        parts = piece.split(" ASSISTANT: ")
        if len(parts) != 2:
            break
        asked = len(tokenize(parts[0] + " ASSISTANT: ")) - 3
        for i in range(position, min(position + asked, row_length)):
            labels[i] = IGNORE
        position += len(tokenize(piece)) - 1
    for i in range(position, row_length):
        labels[i] = IGNORE
    if position < row_length and position != total:
        labels = [IGNORE] * row_length
    return ids, labels


def clean_wiki(text):
    """MindFormers' clean-up over the whole text at once."""
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for old, new in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(old, new)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    text = re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", text)
    text = re.sub(r"\[\s*([^\]]*?)\s*\]", r"[\1]", text)
    text = re.sub(r"{\s*([^}]*?)\s*}", r"{\1}", text)
    text = re.sub(r"\"\s*([^\"]*?)\s*\"", r'"\1"', text)
    text = re.sub(r"'\s*([^']*?)\s*'", r"'\1'", text)
    for count in (4, 3, 2):
        text = text.replace(" ".join("=" * count), "=" * count)
    degree = chr(176)
    for old, new in ((f" {degree} ", degree), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")):
        text = text.replace(old, new)
    return text


def wiki_paragraphs(text):
    return [part for part in clean_wiki(text).split("\n\n") if part and not part.strip().startswith("=")]


def wiki_rows(text, tokenize, row_length, repeat=1):
    ids = [token for part in wiki_paragraphs(text) for token in tokenize(part)] * repeat
    return [ids[at : at + row_length] for at in range(0, len(ids) - row_length + 1, row_length)]
