"""The glossary: every link into it leads somewhere, every term is in its index and said in a few sentences."""

import re

from conftest import git

from foalkit import ROOT

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = dict(re.findall(r'<a id="([a-z0-9-]+)"></a>(\*\*.+?)(?=\n\n|\Z)', GLOSSARY, re.S))


def test_every_link_into_the_glossary_leads_to_a_term():
    files = git("ls-files", "*.ipynb", "*.md", "*.py", "*.jinja").split()
    linked = set()
    for name in files:
        linked |= set(re.findall(r"glossary\.md#([\w-]+)", (ROOT / name).read_text(encoding="utf-8")))
    assert len(linked) > 15 and linked <= set(TERMS), linked - set(TERMS)


def test_every_term_has_one_anchor_and_stands_in_the_index_in_order():
    anchors = re.findall(r'<a id="([^"]+)">', GLOSSARY)
    assert len(anchors) == len(set(anchors)) == len(TERMS) > 60
    index = next(part for part in GLOSSARY.split("\n\n") if part.startswith("[adapter]"))
    named = re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", index)
    assert {anchor for _, anchor in named} == set(anchors)
    words = [re.sub(r"\W", "", word).casefold() for word, _ in named]
    assert words == sorted(words)
    inside = set(re.findall(r"\(#([\w-]+)\)", GLOSSARY))
    headings = {
        re.sub(r"[^\w -]", "", h.casefold()).replace(" ", "-") for h in re.findall(r"^## (.+)$", GLOSSARY, re.M)
    }
    assert inside <= set(anchors) | headings


def test_a_term_is_said_in_one_to_three_sentences():
    for anchor, text in TERMS.items():
        said = " ".join(text.split()).split("**", 2)[2]  # after the term itself
        sentences = re.findall(r"[.!?](?= [A-Z]|$)", said)
        assert 1 <= len(sentences) <= 3 and 40 < len(said) < 350 and said.endswith("."), (anchor, len(said), sentences)


def test_the_terms_that_notebooks_and_report_need_are_there():
    wanted = "utterance session fold speaker wa ua honest published random-split peeking chance floor padding-mask "
    wanted += "hard-negative temperature query avel mem cross-entropy logits held-out validation seed interval "
    wanted += "known-ceiling holm ledger variant stream attention encoder features head manifest plain-fusion"
    assert set(wanted.split()) <= set(TERMS)
