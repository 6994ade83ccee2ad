"""What a notebook's first cell makes of a kernel: what the system refuses later is one line there too."""

import errno
import sys
import types

from conftest import refused

from foalkit import UserError, notebook


def test_a_full_disk_is_one_line_in_a_kernel(monkeypatch):
    said, handlers = [], {}
    shell = types.SimpleNamespace(
        user_ns={},
        set_custom_exc=lambda kinds, handler: handlers.update(dict.fromkeys(kinds, handler)),
        showtraceback=said.append,
    )
    monkeypatch.setattr(notebook, "_shell", lambda: shell)
    monkeypatch.setattr(notebook.records, "claim", lambda p: None)
    notebook.start(params="demo")
    handlers[OSError](shell, OSError, OSError(errno.ENOSPC, "No space left on device", "/a/file"), None, tb_offset=1)
    ((kind, shown, trace),) = said
    assert kind is UserError and trace is None
    assert str(shown).startswith("/a/file: No space left on device; free some space")


def test_an_8_bit_locale_is_refused_where_the_projects_folder_has_other_letters(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook.records, "claim", lambda p: None)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    monkeypatch.setattr(notebook, "ROOT", tmp_path / "plain")
    notebook.start(params="demo")
    monkeypatch.setattr(notebook, "ROOT", tmp_path / "\u00fc")
    assert "export PYTHONUTF8=1" in refused(lambda: notebook.start(params="demo"))
