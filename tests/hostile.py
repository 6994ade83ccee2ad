"""Names that would run, leave a folder or break a page where they are not quoted."""

import pytest

NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</table></pre><h1>x</h1>",
    "&lt;b&gt; & &amp;",
    "javascript:alert(1)",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "{x} {{7*7}} {% x %}",
    "%s %(x)s %d",
    r"_ & % $ # ~ ^ \ { }",
    r"$\frac{$",
    r"\input{secret} \end{tabular}",
    "[2em] x",
    "*",
    "a|b||c",
    "../../x",
    "/etc/passwd",
    "-rf",
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    'a, "b", c',
    "'",
    "O'Neil",
    "fröhlich 喜 😀",
    "x" * 300,
]


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Tests of such names start in an empty folder, where a command in a name would leave its trace."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list(tmp_path.rglob("pwned*")) and not list((tmp_path / "here").iterdir())
